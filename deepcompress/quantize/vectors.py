"""Biases, scales and other vectors on a uniform grid each: few bits in place of 32, as they are few but not free."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from deepcompress.layers import WIDE
from deepcompress.quantize.choice import SharedValues, found_grid, grid_values
from deepcompress.quantize.grid import fit_step, multiples_of
from deepcompress.quantize.kmeans import condense
from deepcompress.quantize.rate import Part
from deepcompress.quantize.sharing import Codebook, codebook_of, member_of

Array = np.ndarray[Any, np.dtype[Any]]

#: How torch names the buffers of a normalization, where nothing but the name tells them from parameters. A variance
#: is divided by: it is not rounded.
STATISTICS = ("running_mean", "running_var")


def is_vector(value: torch.Tensor) -> bool:
    """Whether a tensor is one-dimensional, not empty, and all of it are numbers that can be rounded."""
    return value.dtype in WIDE and value.ndim == 1 and value.numel() > 0 and bool(torch.isfinite(value).all())


def is_statistic(name: str) -> bool:
    """Whether a tensor is called as torch calls the running statistics of a normalization."""
    return name.rpartition(".")[2] in STATISTICS


#: Part of the mean power of all elements below which one has no say in how far a grid reaches.
NEGLIGIBLE = 1e-4


def vector_values(
    vector: torch.Tensor, bits: int, importance: torch.Tensor | None = None
) -> tuple[SharedValues, Part, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """The values on a grid that lie nearest to those of `vector`, its non-zero ones, and the index of each (-1: zero).

    At most 2^bits values, zero among them, and the step that least squares finds; values that lie on such a grid
    already stay as they are. A vector whose elements are all above zero, or all below, stays so: such are scales, and
    none of them may vanish. The squared error of an element counts as its `importance` says, None: all alike.
    """
    values = vector.detach().cpu()
    values = values if values.dtype is torch.float64 else values.float()
    positions = np.flatnonzero(values.numpy())
    part = Part(tuple(vector.shape), positions, values.numpy()[positions])
    weights = None if importance is None else importance.detach().double().cpu().numpy()[positions]
    if weights is not None and weights.any():
        part = replace(part, values=drawn_in(part.values, weights))
    else:
        weights = None
    if not len(positions):
        return SharedValues(part.values), part, np.zeros(0, dtype=np.int64)
    distinct = np.unique(part.values)
    grid = found_grid(distinct) if len(distinct) < max(1 << bits, 2) else None
    if grid is not None:
        return grid, part, np.searchsorted(distinct, part.values)
    signs = np.sign(part.values)
    zero = len(positions) < vector.numel() or bool((signs != signs[0]).any())
    samples, counts = condense(part.values, weights)
    limit = float(torch.finfo(vector.dtype).max)
    step, below, above = fit_step(samples, counts, max((1 << bits) - 1, 1), limit, zero=zero)
    found = multiples_of(part.values, step, below, above, zero)
    multiples, index = np.unique(found, return_inverse=True)
    alive = multiples != 0
    renumber = np.where(alive, np.cumsum(alive) - 1, -1)
    return grid_values(step, multiples[alive], part.values.dtype), part, renumber[index]


def drawn_in(values: Array, importance: Array) -> Array:
    """`values`, each no larger than the largest of those that matter: whose power, importance * value^2, is felt.

    The folded scale of a channel that pruning has left without input is hundreds of times that of others, as it was
    divided by a deviation of 0. A grid that reached so far would have no value near the others.
    """
    power = importance * np.square(values, dtype=np.float64)
    most = np.abs(values[power > NEGLIGIBLE * power.mean()]).max()
    drawn: Array = np.clip(values, -most, most)
    return drawn


@torch.no_grad()
def share_vectors(
    state: Mapping[str, torch.Tensor], names: Iterable[str], bits: int, importance: torch.Tensor | None = None
) -> list[Codebook]:
    """Round the vectors called `names`, in place in `state`, to a grid of 2^bits values each.

    `importance` says what the squared error of each of their elements counts; None: all alike.

    Returns:
        A codebook for each that has elements other than zero.
    """
    codebooks = []
    for name in names:
        vector = state[name]
        shared, part, choice = vector_values(vector, bits, importance)
        if not len(shared.centroids):
            continue
        vector.zero_()
        member = member_of(name, part, choice, vector.device)
        codebooks.append(codebook_of(1 << bits, shared, (member,), vector.device))
        codebooks[-1].write(state)
    return codebooks
