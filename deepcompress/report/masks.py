"""Masks and scores as pictures: where weights are kept, and what they were thought to be worth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deepcompress.report.page import GREY, PALETTE, Array, grid_of, legend, log_ticks, name_axes, page, plain, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Most rows and columns of a panel: about its pixels in print.
MOST_CELLS = (200, 400)
BINS = 60
MOST_KERNELS = 24  # of a convolution, how many columns of kernels are told apart by lines

_SMALLEST = float(np.finfo(np.float32).tiny)  # the score of a weight that is there and worth nothing


@dataclass(frozen=True)
class MaskPicture:
    """The mask of one layer: its name, and a boolean array of its shape."""

    name: str
    keep: Array


@dataclass(frozen=True)
class ScorePicture:
    """The scores of one layer: its name, the scores, and which weights were kept, if that is known (same shape)."""

    name: str
    scores: Array
    keep: Array | None = None


# Masks -----------------------------------------------------------------------------------------------------


def draw_masks(layers: Sequence[MaskPicture], path: str | Path, *, title: str = "", columns: int = 2) -> None:
    """A map of each layer, outputs downwards and inputs to the right: white is pruned, dark is kept.

    Where a layer has more rows or columns than there is room, a cell stands for a block of weights, and is as dark as
    the block is dense; a bar says how dense that is.
    """
    rows = math.ceil(len(layers) / columns)
    with page(path, (6.4, 2.1 * rows + 0.5), title) as figure:
        charts = grid_of(figure, len(layers), columns)
        for axes, layer in zip(charts, layers, strict=True):
            _map(figure, axes, layer)
        name_axes(figure, charts, columns, "Input", "Output")


def _map(figure: Figure, axes: Axes, layer: MaskPicture) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    matrix = layer.keep.reshape(len(layer.keep), -1)
    cells = 100 * block_density(matrix, MOST_CELLS)
    whole = cells.shape == matrix.shape
    colors = LinearSegmentedColormap.from_list("kept", ["white", PALETTE[0], "#00233a"])
    most = 100.0 if whole else max(float(cells.max()), 1e-9)
    rows, columns = matrix.shape
    image = axes.imshow(cells, colors, vmin=0, vmax=most, aspect="auto", interpolation="nearest",
                        extent=(0, columns, rows, 0))  # fmt: skip
    axes.grid(visible=False)
    axes.spines[["top", "right"]].set_visible(True)
    kernel = math.prod(layer.keep.shape[2:])
    if kernel > 1 and layer.keep.shape[1] <= MOST_KERNELS:
        axes.vlines(kernel * np.arange(1, layer.keep.shape[1]), 0, rows, color=GREY, linewidth=0.4)
    if not whole:
        figure.colorbar(image, ax=axes, pad=0.02, aspect=16, label="kept (%)")
    axes.set_title(f"{plain(short(layer.name, 34))}\n{_mask_facts(layer.keep, matrix)}", loc="left", fontsize=8)


def block_density(matrix: Array, most: tuple[int, int]) -> Array:
    """The fraction of True in blocks of a boolean matrix, of which there are no more than `most` rows and columns."""
    heights, widths = (max(1, math.ceil(size / limit)) for size, limit in zip(matrix.shape, most, strict=True))
    tops, lefts = np.arange(0, matrix.shape[0], heights), np.arange(0, matrix.shape[1], widths)
    counts = np.add.reduceat(np.add.reduceat(matrix, lefts, axis=1, dtype=np.int64), tops, axis=0)
    sizes = np.outer(np.diff([*tops, matrix.shape[0]]), np.diff([*lefts, matrix.shape[1]]))
    density: Array = counts / sizes
    return density


def _mask_facts(keep: Array, matrix: Array) -> str:
    counts = {"rows": int((~matrix.any(1)).sum()), "columns": int((~matrix.any(0)).sum())}
    empty = " and ".join(f"{count:,} {what}" for what, count in counts.items() if count) or "no row or column"
    return f"{'×'.join(map(str, keep.shape))}, {100 * keep.mean():.3g} % kept\n{empty} empty"


# Scores ----------------------------------------------------------------------------------------------------


def draw_scores(layers: Sequence[ScorePicture], path: str | Path, *, title: str = "", columns: int = 2) -> None:
    """The distribution of each layer's scores, on one logarithmic axis for all, of pruned and of kept weights.

    Scores of 0, those of weights that were pruned before, are counted in the headings.
    """
    rows = math.ceil(len(layers) / columns)
    with page(path, (6.4, 1.75 * rows + 0.8), title) as figure:
        charts = grid_of(figure, len(layers), columns)
        bins = _bins([layer.scores for layer in layers])
        for axes, layer in zip(charts, layers, strict=True):
            _histogram(axes, layer, bins)
        name_axes(figure, charts, columns, "Score", "Number of weights")
        legend(figure, charts)


def _bins(scores: Sequence[Array]) -> Array:
    """Edges for all layers: from the lowest thousandth of what is above zero to the highest."""
    above = np.concatenate([np.empty(0), *(values[values > _SMALLEST].ravel() for values in scores)])
    if not len(above):
        return np.geomspace(0.1, 10, BINS + 1)
    low, high = float(np.quantile(above, 0.001)), float(above.max())
    return np.geomspace(low, max(high, 1.001 * low), BINS + 1)


def _histogram(axes: Axes, layer: ScorePicture, bins: Array) -> None:
    there = layer.scores > 0
    parts = [(there, "weights", "#bdbdbd")]
    if layer.keep is not None:
        parts = [(there & ~layer.keep, "pruned", "#bdbdbd"), (there & layer.keep, "kept", PALETTE[0])]
    base = np.zeros(BINS)
    for chosen, label, color in parts:
        values = np.clip(layer.scores[chosen], bins[0], bins[-1])
        counts = np.histogram(values, bins)[0]
        axes.stairs(base + counts, bins, baseline=base, fill=True, color=color, label=label)
        base = base + counts
    axes.set_xscale("log")
    axes.set_xlim(bins[0], bins[-1])
    axes.set_ylim(0, max(1.08 * base.max(), 1))
    log_ticks(axes.xaxis)
    gone = int((~there).sum())
    facts = "×".join(map(str, layer.scores.shape)) + (f", {gone:,} of score 0" if gone else "")
    axes.set_title(f"{plain(short(layer.name, 34))}\n{facts}", loc="left", fontsize=8)
