"""What pruned weights cost in the file, estimated in bits.

A weight in a row and a column where many survive costs few bits, a lonely one many: the coder of the
file knows rows and columns too.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from deepcompress.prune.masks import Masks

#: Bits of a weight's value, as long as values are not shared yet.
VALUE_BITS = 1.75
_PRIOR = 4.0  # weights of the layer's own density that each row and column is thought to have seen before


def survival(mask: torch.Tensor) -> torch.Tensor:
    """How likely each weight of a layer is to be kept, judged by the densities of its row and its column.

    Args:
        mask: bool, any shape; its first dimension are the rows, all others together the columns.

    Returns:
        float32, `mask` flattened to two dimensions; strictly between 0 and 1.
    """
    kept = mask.reshape(len(mask), -1).float()
    return _likely(kept.sum(1), kept.sum(0), kept.mean(), kept.shape)


def _likely(
    in_rows: torch.Tensor, in_columns: torch.Tensor, density: torch.Tensor, shape: tuple[int, ...]
) -> torch.Tensor:
    """How likely a weight is kept for each of some rows (r) and columns (c) of a layer, (r, c).

    `in_rows` and `in_columns` say how many weights these keep, float32.
    """
    rows, columns = shape
    density = density.clamp(min=1 / (rows * columns))
    by_row = (in_rows[:, None] + _PRIOR * density) / (columns + _PRIOR)
    by_column = (in_columns + _PRIOR * density) / (rows + _PRIOR)
    return (by_row * by_column / density).clamp(1e-6, 1 - 1e-3)


def keeping_bits(mask: torch.Tensor, value_bits: float = VALUE_BITS) -> torch.Tensor:
    """What it costs to keep each weight rather than to drop it, in bits; float32, at least `value_bits`.

    To say "here is a weight" takes -log2 p bits and "here is none" -log2 (1 - p), with p from `survival`.
    """
    p = survival(mask)
    return (torch.log2(1 - p) - torch.log2(p)).clamp(min=0.0).add(value_bits).reshape(mask.shape)


def mask_bits(mask: torch.Tensor) -> float:
    """Bits that the positions of a layer's weights take, by `survival`.

    Rows that keep as many weights are alike, and so are columns: places are counted by kinds of both, of which there
    are far fewer.
    """
    kept = mask.reshape(len(mask), -1).float()
    in_rows, row_kind, rows = torch.unique(kept.sum(1), return_inverse=True, return_counts=True)
    in_columns, column_kind, columns = torch.unique(kept.sum(0), return_inverse=True, return_counts=True)
    p = _likely(in_rows, in_columns, kept.mean(), kept.shape)
    by_row = kept.new_zeros(len(rows), kept.shape[1]).index_add_(0, row_kind, kept)
    there = torch.zeros(p.shape[::-1], dtype=torch.float64, device=p.device)
    there = there.index_add_(0, column_kind, by_row.T.double()).T
    places = rows[:, None] * columns
    return -float((there * p.log2() + (places - there) * (1 - p).log2()).sum())


def total_bits(masks: Masks, value_bits: Mapping[str, float] | float = VALUE_BITS) -> float:
    """Bits of all layers: positions and values."""
    return sum(
        mask_bits(mask) + masks.kept(name) * (value_bits if isinstance(value_bits, float) else value_bits[name])
        for name, mask in masks.keep.items()
    )
