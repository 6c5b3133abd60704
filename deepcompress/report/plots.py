"""Results as pictures for papers. Those of a compressed file are made here, and all others in `charts`.

Every function writes one PNG file, the same bytes for the same data, and raises OutputError where it cannot be
written. Texts that are passed in are shown as they are, never as formulas. What the pictures have in common is in
`page`.
"""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deepcompress.coding.dtypes import DType
from deepcompress.coding.layouts.relative import Literal
from deepcompress.container.breakdown import PARTS, Breakdown
from deepcompress.container.reader import ModelFile
from deepcompress.report.charts import Curve, draw_curves, draw_front, draw_panels, draw_sensitivity
from deepcompress.report.page import (
    PALETTE,
    Array,
    grid_of,
    legend,
    limits,
    log_ticks,
    name_axes,
    page,
    plain,
    short,
    shorts,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "Curve", "WeightPicture", "draw_bytes", "draw_curves", "draw_front", "draw_image", "draw_panels",
    "draw_sensitivity", "draw_weights", "stride", "weight_picture",
]  # fmt: skip

BINS = 100
MOST_BARS = 20
MOST_WEIGHTS = 1 << 22  # of a layer whose histogram is drawn from all of them
_CHUNK = 1 << 20

#: Colour and hatch of each section of a file, in the order in which bars stack.
_SECTIONS = {
    "weights": (PALETTE[0], ""),
    "offsets": (PALETTE[4], "////"),
    "codebooks": (PALETTE[2], "...."),
    "tables": (PALETTE[1], "xxxx"),
    "biases": (PALETTE[5], "\\\\\\\\"),
    "header": ("#8c8c8c", "----"),
    "checksum": ("#000000", ""),
}


# Weights ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WeightPicture:
    """The weights of one layer before and after.

    Attributes:
        name, shape: of the tensor.
        values: surviving weights after compression, flat.
        codebook: the shared values, flat; None where weights are not shared.
        counts: how many weights have each shared value.
        before: the dense weights, flat.
        every: `values` and `before` hold one of this many weights.
    """

    name: str
    shape: tuple[int, ...]
    values: Array
    codebook: Array | None = None
    counts: Array | None = None
    before: Array | None = None
    every: int = 1

    @property
    def kept(self) -> float:
        """The fraction of weights that survived."""
        survivors = self.every * len(self.values) if self.counts is None else int(self.counts.sum())
        return min(1.0, survivors / max(1, math.prod(self.shape)))


def stride(size: int) -> int:
    """Of a layer of `size` weights, one of how many a histogram is drawn from."""
    return max(1, math.ceil(size / MOST_WEIGHTS))


def weight_picture(file: ModelFile, name: str, before: Array | None = None) -> WeightPicture:
    """The picture of a CODED tensor of a file. Numbers of shared values are exact for any size.

    Args:
        file: open.
        name: of the tensor.
        before: its dense weights, every `stride`-th of them.

    Raises:
        FormatError: the tensor's section is damaged, or it is larger than allowed.
    """
    values, dtype = file.read(name)
    info = file.entry(name).info
    bits = values.reshape(-1).view(dtype.bits)
    survivors = bits[bits != 0]
    every = stride(info.size)
    sample = _as_numbers(np.ascontiguousarray(survivors[::every]), dtype)  # a view would keep all of them in memory
    if isinstance(info.layout, Literal):
        return WeightPicture(name, info.shape, sample, before=before, every=every)
    book, counts = _shared(survivors)
    return WeightPicture(name, info.shape, sample, _as_numbers(book, dtype), counts, before, every)


def _shared(survivors: Array) -> tuple[Array, Array]:
    """Each bit pattern that occurs, and how often."""
    found: Counter[int] = Counter()
    for start in range(0, len(survivors), _CHUNK):
        patterns, counts = np.unique(survivors[start : start + _CHUNK], return_counts=True)
        found.update(dict(zip(patterns.tolist(), counts.tolist(), strict=True)))
    return np.array(list(found), dtype=survivors.dtype), np.array(list(found.values()), dtype=np.int64)


def _as_numbers(bits: Array, dtype: DType) -> Array:
    if dtype is DType.BFLOAT16:
        return (bits.astype(np.uint32) << 16).view(np.float32)
    if dtype.storage.itemsize == 1:  # float8
        from deepcompress.reading.arrays import to_torch

        numbers: Array = to_torch(bits, dtype).float().numpy()
        return numbers
    return bits.view(dtype.storage)


def draw_weights(layers: Sequence[WeightPicture], path: str | Path, *, title: str = "", columns: int = 2) -> None:
    """The distribution of each layer's weights: dense as a filled histogram, shared values as pins where they are.

    Weights that are not shared are an outlined histogram. Heights are numbers of weights, in `BINS` equal bins or with
    that shared value.
    """
    rows = math.ceil(len(layers) / columns)
    with page(path, (5.5, 1.65 * rows + 0.7), title) as figure:
        _weights(figure, layers, columns)


def _weights(figure: Figure, layers: Sequence[WeightPicture], columns: int) -> None:
    charts = grid_of(figure, len(layers), columns)
    for axes, layer in zip(charts, layers, strict=True):
        _layer(axes, layer)
    name_axes(figure, charts, columns, "Value of the weight", "Number of weights")
    legend(figure, charts)


def _layer(axes: Axes, layer: WeightPicture) -> None:
    before, after, shared = (_as_float32(part) for part in (layer.before, layer.values, layer.codebook))
    bins = np.histogram_bin_edges([], BINS, limits(*(part[np.isfinite(part)] for part in (before, after, shared))))
    dense, survivors = (layer.every * np.histogram(part, bins)[0] for part in (before, after))
    if layer.before is not None:
        axes.stairs(dense, bins, fill=True, color="#bdbdbd", label="dense weights")
    if layer.counts is None:
        axes.stairs(survivors, bins, color=PALETTE[0], label="surviving weights")
    else:
        fine = min(1, 50 / max(1, len(shared)))  # many pins are thin ones
        axes.vlines(shared, 0.1, layer.counts, color=PALETTE[0], linewidth=max(0.3, 0.9 * fine))
        axes.plot(shared, layer.counts, "o", color=PALETTE[0], markersize=max(1.2, 3 * fine), label="shared values")
    heights = survivors if layer.counts is None else layer.counts
    axes.set_ylim(0.7, max(1.6 * limits(dense, heights)[1], 11))  # over a decade, ticks are whole numbers
    axes.set_yscale("log")
    log_ticks(axes.yaxis)
    axes.set_title(f"{plain(short(layer.name, 30))}\n{_facts(layer)}", loc="left", fontsize=8)


def _facts(layer: WeightPicture) -> str:
    shape = "×".join(map(str, layer.shape)) or "scalar"
    facts = [shape, f"kept {100 * layer.kept:.1f} %", "not shared"]
    if layer.codebook is not None:
        facts[2] = f"{len(layer.codebook):,} value{'s' if len(layer.codebook) != 1 else ''}"
    if layer.every > 1 and (layer.before is not None or layer.codebook is None):
        facts.append(f"histogram of 1 in {layer.every:,}")
    return textwrap.fill(", ".join(fact.replace(" ", "\N{NO-BREAK SPACE}") for fact in facts), 34)


def _as_float32(values: Array | None) -> Array:
    """The values as float32: what is beyond it becomes infinite, and has no place on an axis."""
    with np.errstate(over="ignore"):
        return np.empty(0, np.float32) if values is None else values.astype(np.float32)


# Bytes -----------------------------------------------------------------------------------------------------


def draw_bytes(breakdown: Breakdown, path: str | Path, *, title: str = "") -> None:
    """Where the bytes of a file are: the whole by section, and its `MOST_BARS` largest tensors by part."""
    bars = min(sum(layer.bytes > 0 for layer in breakdown.layers), MOST_BARS + 1)
    with page(path, (5.5, 0.19 * bars + 2.1), title) as figure:
        _bytes(figure, breakdown)


def _bytes(figure: Figure, breakdown: Breakdown) -> None:
    rows = _rows(breakdown)
    whole, tensors = figure.subplots(2, 1, height_ratios=[1.3, len(rows) + 0.3])
    total = breakdown.file_bytes
    _bars(whole, [("whole file", breakdown.sections)])
    _bars(tensors, rows)
    tensors.set_xlabel("Size (KB)")
    labels = [f"{section} {100 * breakdown.sections[section] / total:.1f} %" for section in _SECTIONS]
    figure.legend(whole.containers, labels, loc="outside lower center", ncols=4, handlelength=1.6, columnspacing=1.4)


def _rows(breakdown: Breakdown) -> list[tuple[str, dict[str, int]]]:
    """Name and bytes by part of the largest tensors, in the order of the file, and of all others together."""
    stored = [layer for layer in breakdown.layers if layer.bytes]
    largest = sorted(stored, key=lambda layer: -layer.bytes)[:MOST_BARS]
    chosen = [layer for layer in stored if layer in largest]
    rows = [(name, layer.parts) for name, layer in zip(shorts([one.name for one in chosen]), chosen, strict=True)]
    others = [layer for layer in stored if layer not in largest]
    if others:
        parts = {part: sum(layer.parts.get(part, 0) for layer in others) for part in PARTS}
        rows.append((f"{len(others):,} others", parts))
    return rows


def _bars(axes: Axes, rows: Sequence[tuple[str, Mapping[str, int]]]) -> None:
    places = np.arange(len(rows))
    left = np.zeros(len(rows))
    for section, (color, hatch) in _SECTIONS.items():
        width = np.array([parts.get(section, 0) for _, parts in rows]) / 1000
        axes.barh(places, width, 0.72, left, color=color, hatch=hatch, edgecolor="white", linewidth=0)
        left += width
    for place, end in zip(places, left, strict=True):
        size = f"{end:,.2f}" if end < 100 else f"{end:,.0f}"
        axes.annotate(size, (end, place), (3, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(places, [plain(name) for name, _ in rows])
    axes.set_ylim(max(len(rows), 1) - 0.5, -0.5)
    axes.set_xlim(0, 1.12 * max(left, default=1.0))
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")


# Images ----------------------------------------------------------------------------------------------------


def draw_image(values: Array, path: str | Path, *, label: str, title: str = "") -> None:
    """A heat map of `values` [rows, columns] with a colour bar called `label`.

    Such as the number of connections of each input pixel.
    """
    with page(path, (3.6, 3.0), title) as figure:
        _image(figure, values, label)


def _image(figure: Figure, values: Array, label: str) -> None:
    axes = figure.add_subplot(xlabel="Column", ylabel="Row")
    axes.grid(visible=False)
    low, high = limits(values[np.isfinite(values)])
    shown = values if values.size else np.full((1, 1), np.nan)
    heat = axes.imshow(shown, "cividis", vmin=low, vmax=high, interpolation="nearest")
    figure.colorbar(heat, ax=axes, label=plain(label))
