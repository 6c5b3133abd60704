"""Errors against sparsity, size, or anything else: curves, panels of curves, sensitivity, and the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepcompress.report.page import (
    GREY,
    MARKERS,
    PALETTE,
    Array,
    grid_of,
    label_points,
    legend,
    limits,
    log_ticks,
    name_axes,
    page,
    plain,
    shorts,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Limits = tuple[float | None, float | None] | None

MOST_CURVES = 8  # layers of a sensitivity chart that are told apart by colour

#: The look of a single run's mark.
_OPEN: dict[str, Any] = {"markersize": 3.5, "markerfacecolor": "white", "markeredgewidth": 0.8}

#: What the vertical axis is called, if nobody says otherwise.
ERROR = "Validation error (%)"


# Curves ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """One line of a chart: its label, and its points in order of x.

    Attributes:
        label: what the legend calls it; curves of one label look the same in all panels.
        x, y: the points; NaN, and what is not positive on a logarithmic axis, interrupts the line.
        low, high: the spread of y (such as over seeds), drawn as a band, or as ticks at the points.
        dashed: whether the line is.
        color: index into the palette; None: the next one.
        beneath: whether it is a broad pale line under the others, such as what is best of them.
        ticks: whether the spread is drawn as ticks: bands of many lines hide each other.
        runs: (x, y) of the single runs that the points are means of, such as of each seed, drawn as small open marks.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    dashed: bool = False
    color: int | None = None
    beneath: bool = False
    ticks: bool = False
    runs: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True)
class _Frame:
    """What the panels of a picture of curves share."""

    xlabel: str
    ylabel: str
    xlog: bool = False
    ylog: bool = False
    xpercent: bool = False
    reference: tuple[str, float] | None = None
    ylim: Limits = None
    xlim: Limits = None
    points: Sequence[tuple[str, float, float]] = ()
    xsparsity: bool = False

    @property
    def scale(self) -> int:
        """What x is multiplied by to be shown."""
        return 100 if self.xpercent else 1


def draw_curves(
    curves: Sequence[Curve],
    path: str | Path,
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
    xlog: bool = False,
    ylog: bool = False,
    xpercent: bool = False,
    reference: tuple[str, float] | None = None,
    ylim: Limits = None,
    xlim: Limits = None,
    points: Sequence[tuple[str, float, float]] = (),
    size: tuple[float, float] = (5.0, 3.4),
) -> None:
    """Lines in one chart.

    Args:
        curves: the lines.
        path: the PNG file.
        xlabel, ylabel: what the axes show, with the unit.
        title: above the chart.
        xlog, ylog: logarithmic axes.
        xpercent: x are fractions, shown in percent.
        reference: label and y of a horizontal line, such as the dense network's.
        ylim, xlim: ends of the axes (None: as the data has it), in the data's units.
        points: (label, x, y) of single marks, such as published results, labelled where they are.
        size: in print, in inches.
    """
    frame = _Frame(xlabel, ylabel, xlog, ylog, xpercent, reference, ylim, xlim, points)
    with page(path, size, title) as figure:
        _panels(figure, [("", curves)], frame, 1)


def draw_panels(
    panels: Sequence[tuple[str, Sequence[Curve]]],
    path: str | Path,
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
    xlog: bool = False,
    ylog: bool = False,
    xpercent: bool = False,
    reference: tuple[str, float] | None = None,
    ylim: Limits = None,
    xlim: Limits = None,
    points: Sequence[tuple[str, float, float]] = (),
    size: tuple[float, float] | None = None,
    columns: int = 2,
    xsparsity: bool = False,
) -> None:
    """Several charts, (heading, curves) each, with one legend; their axes have the same labels, not the same ends.

    The other arguments are those of `draw_curves`, and hold for every panel; `columns` panels stand in a row. With
    `xsparsity`, x are fractions that were removed, on an axis in which halving what is left is one step.
    """
    frame = _Frame(xlabel, ylabel, xlog, ylog, xpercent or xsparsity, reference, ylim, xlim, points, xsparsity)
    rows = math.ceil(len(panels) / columns)
    with page(path, size or (5.5, 2.1 * rows + 0.6), title) as figure:
        _panels(figure, panels, frame, columns)


def _panels(figure: Figure, panels: Sequence[tuple[str, Sequence[Curve]]], frame: _Frame, columns: int) -> None:
    labels = list(dict.fromkeys(curve.label for _, curves in panels for curve in curves if not curve.beneath))
    charts = grid_of(figure, len(panels), columns)
    for axes, (heading, curves) in zip(charts, panels, strict=True):
        axes.set_title(plain(heading))
        for curve in curves:
            x, y = _placed(curve.x, frame.xlog) * frame.scale, _placed(curve.y, frame.ylog)
            if curve.beneath:
                (broad,) = axes.plot(x, y, color="#d9d9d9", linewidth=7, zorder=1, label=plain(curve.label))
                broad.set_solid_capstyle("round")
                continue
            number = labels.index(curve.label) if curve.color is None else curve.color
            _curve(axes, curve, x, y, number)
            for at, error in curve.runs:
                axes.plot([frame.scale * at], [error], "o", color=PALETTE[number % len(PALETTE)], **_OPEN)
        _finish(axes, frame)
    xlabel = frame.xlabel if "%" in frame.xlabel or not frame.xpercent else f"{frame.xlabel} (%)"
    name_axes(figure, charts, columns, xlabel, frame.ylabel)
    legend(figure, charts)
    for axes in charts:
        label_points(figure, axes, [(label, frame.scale * x, y) for label, x, y in frame.points])


def _placed(values: Sequence[float], log: bool) -> Array:
    """The values, with NaN where they have no place on the axis."""
    numbers = np.asarray(values, dtype=float)
    return np.where(numbers > 0, numbers, np.nan) if log else numbers


def _curve(axes: Axes, curve: Curve, x: Array, y: Array, number: int) -> None:
    color = PALETTE[number % len(PALETTE)]
    axes.plot(
        x, y, "--" if curve.dashed else "-", color=color, label=plain(curve.label),
        marker=MARKERS[number % len(MARKERS)], markerfacecolor="white" if curve.dashed else color,
        markevery=max(1, math.ceil(len(curve.x) / 15)),
    )  # fmt: skip
    if curve.low is not None and curve.high is not None and curve.ticks:
        axes.vlines(x, curve.low, curve.high, color=color, linewidth=1.0, alpha=0.7)
    elif curve.low is not None and curve.high is not None:
        axes.fill_between(x, curve.low, curve.high, color=color, alpha=0.2, linewidth=0)


def _finish(axes: Axes, frame: _Frame) -> None:
    """Reference, single marks, scales and ends of a chart whose curves are drawn."""
    if frame.reference is not None:
        label, error = frame.reference
        axes.axhline(error, color=GREY, linestyle=(0, (6, 3)), linewidth=1, label=plain(label))
    for _, x, y in frame.points:
        axes.plot([frame.scale * x], [y], "*", color="black", markersize=8)
    axes.set_xscale("log" if frame.xlog else "linear")
    if frame.xsparsity:
        _sparsity_axis(axes)
    axes.set_yscale("log" if frame.ylog else "linear")
    if frame.xlim is not None:
        axes.set_xlim(*(None if end is None else frame.scale * end for end in frame.xlim))
    if frame.ylim is not None:
        axes.set_ylim(*frame.ylim)
    for axis, log in ((axes.xaxis, frame.xlog), (axes.yaxis, frame.ylog)):
        if log:
            log_ticks(axis)


def _sparsity_axis(axes: Axes) -> None:
    """An axis of percentages below 100 that shows how many times fewer weights are left."""
    low, high = axes.get_xlim()
    high = min(high, 100 - 0.9 * (100 - max(float(np.nanmax(line.get_xdata())) for line in axes.lines)))
    axes.set_xscale("function", functions=(lambda x: -np.log(np.maximum(100 - x, 1e-9)), lambda y: 100 - np.exp(-y)))
    axes.set_xlim(max(low, 0), high)
    marks = [mark for mark in (0, 50, 80, 90, 95, 98, 99, 99.5, 99.8, 99.9) if max(low, 0) <= mark <= high]
    axes.set_xticks(marks, [f"{mark:g}" for mark in marks])
    axes.minorticks_off()


# Sensitivity -----------------------------------------------------------------------------------------------


def draw_sensitivity(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    reference: float,
    path: str | Path,
    *,
    title: str = "",
    ylabel: str = ERROR,
) -> None:
    """How the network's error rises when one layer alone is pruned.

    Few layers have a colour and a mark each. Of more than `MOST_CURVES`, the colour is the place in the network, and
    the five of the highest mean error are marked and named.

    Args:
        curves: (fraction of the layer's weights removed, validation error in percent) by the layer's name.
        reference: validation error of the dense network in percent.
        path: the PNG file.
        title: above the chart.
        ylabel: what the error is.
    """
    with page(path, (5.5, 3.6), title) as figure:
        _sensitivity(figure, curves, reference, ylabel)


def _sensitivity(
    figure: Figure, curves: Mapping[str, Sequence[tuple[float, float]]], reference: float, ylabel: str = ERROR
) -> None:
    lines = [
        Curve(name, [x for x, _ in sorted(points)], [y for _, y in sorted(points)], color=index)
        for index, (name, points) in enumerate(zip(shorts(list(curves)), curves.values(), strict=True))
    ]
    frame = _Frame("Sparsity of the layer (%)", plain(ylabel), xpercent=True, reference=("dense", reference))
    if len(lines) <= MOST_CURVES:
        return _panels(figure, [("", lines)], frame, 1)
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    axes = figure.add_subplot(xlabel=frame.xlabel, ylabel=frame.ylabel)
    scale, colors = Normalize(1, len(lines)), colormaps["viridis"]
    ranked = sorted(range(len(lines)), key=lambda index: -float(np.mean(lines[index].y or [0])))
    for rank, index in enumerate(ranked):
        named = rank < 5
        axes.plot(
            frame.scale * np.asarray(lines[index].x), lines[index].y, zorder=3 if named else 2,
            color=colors(scale(index + 1)), linewidth=1.4 if named else 0.8,
            marker=MARKERS[rank] if named else "", markeredgecolor="black", markeredgewidth=0.5,
            label=f"{index + 1}: {plain(lines[index].label)}" if named else None,
        )  # fmt: skip
    _finish(axes, frame)
    figure.colorbar(ScalarMappable(scale, colors), ax=axes, label="Number of the layer, from the input", pad=0.02)
    return legend(figure, [axes])


# The Pareto front ------------------------------------------------------------------------------------------


def draw_front(
    points: Sequence[tuple[float, float, str]],
    front: Sequence[int],
    path: str | Path,
    *,
    reference: float | None = None,
    title: str = "",
    ylabel: str = ERROR,
) -> None:
    """Size against error of many compressions, and the best ones as a step line.

    Args:
        points: (bytes of the file, error in percent, label); those on the front are labelled where there is room.
        front: indices of the points that no other one beats in both.
        path: the PNG file.
        reference: error of the dense network.
        title: above the chart.
        ylabel: what the error is.
    """
    with page(path, (5.5, 3.6), title) as figure:
        _front(figure, points, front, reference, ylabel)


def _front(
    figure: Figure,
    points: Sequence[tuple[float, float, str]],
    front: Sequence[int],
    reference: float | None,
    ylabel: str,
) -> None:
    axes = figure.add_subplot(xlabel="File size (KB)", ylabel=plain(ylabel))
    best = sorted((points[index][0] / 1000, points[index][1], points[index][2]) for index in front)
    x, y = np.array([point[0] for point in best]), np.array([point[1] for point in best])
    sizes = np.array([size / 1000 for size, _, _ in points])
    axes.plot(sizes, [error for _, error, _ in points], "o", color="#a6a6a6", markersize=3.5, label="all settings")
    # From one point to the next larger file, the smaller one is still the best there is.
    axes.plot(x.repeat(2)[1:], y.repeat(2)[:-1], color=PALETTE[0], label="_")
    axes.plot(x, y, "D", color=PALETTE[0], markersize=6, label="Pareto front")
    _finish(axes, _Frame("", "", xlog=_spans(sizes), reference=None if reference is None else ("dense", reference)))
    axes.margins(0.08, 0.12)
    legend(figure, [axes])
    label_points(figure, axes, [(label, size, error) for size, error, label in best])


def _spans(sizes: Array) -> bool:
    """Whether the sizes span more than a factor of ten."""
    low, high = limits(sizes)
    return 0 < 10 * low < high
