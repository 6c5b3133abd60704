"""What all pictures share: the page, the palette, plain text, axes, and labels that keep out of each other's way.

Sizes are those in print, in inches, and no letter is smaller than 8 points there. Colours are those of Okabe and Ito
(2008), which colour-blind people tell apart; marks, dashes and hatches tell the same in grey. Nothing here touches
pyplot, and a user's matplotlibrc changes nothing.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepcompress.files import write_atomic
from deepcompress.report.names import labels, shorten

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

Array = np.ndarray[Any, np.dtype[Any]]

DPI = 200
#: Blue, vermilion, green, purple, orange, sky, black, yellow: the light ones last.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
#: One fewer than colours, so that 56 lines are all different.
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#595959"

_STYLE: dict[Any, Any] = {
    "font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9, "figure.labelsize": 9, "figure.titlesize": 10,
    "xtick.labelsize": 8, "ytick.labelsize": 8, "legend.fontsize": 8,
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    "axes.grid": True, "grid.color": "#e0e0e0", "grid.linewidth": 0.5,
    "axes.formatter.useoffset": False, "axes.formatter.limits": (-4, 6), "axes.formatter.use_mathtext": True,
    "lines.linewidth": 1.4, "lines.markersize": 4.5, "hatch.linewidth": 0.8,
    "legend.edgecolor": "none", "legend.framealpha": 0.9, "legend.handlelength": 2.4,
}  # fmt: skip

#: Where a label may go: directions, and distances from its point in points.
_DIRECTIONS = ((1, 1), (1, -1), (-1, 1), (-1, -1), (0, 1), (0, -1), (1, 0), (-1, 0))
_DISTANCES = (5, 11, 19, 29, 41, 55, 71)


@contextmanager
def page(path: str | Path, size: tuple[float, float], title: str = "") -> Iterator[Figure]:
    """An empty figure of `size` inches; what is drawn on it becomes the PNG file `path`, the same bytes each time.

    Raises:
        OutputError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with _style():
        figure = Figure(size, dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        if title:
            lines = textwrap.wrap(title, round(12 * size[0]))  # of 10 points, 12 characters and more are an inch
            figure.suptitle("\n".join(map(plain, lines)))
        yield figure
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})  # it would name the version
    write_atomic(path, buffer.getvalue())


@contextmanager
def _style() -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


# Text ------------------------------------------------------------------------------------------------------


def plain(text: str) -> str:
    """`text` so that matplotlib shows it as it is: no formulas, and no characters that it cannot draw."""
    shown = _drawable(text).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown  # legends leave out what starts with _


def short(name: str, most: int = 32) -> str:
    """A name from a file, as it can be drawn, of at most `most` characters: see `names.shorten`."""
    return shorten(_drawable(name), most)


def shorts(names: Sequence[str], most: int = 32) -> list[str]:
    """As `short`, of several names that stay apart."""
    return labels([_drawable(name) for name in names], most)


def _drawable(text: str) -> str:
    """`text` with escapes for what the font has not, and for what is no character to be seen."""
    return "".join(map(_drawable_character, text))


@cache
def _drawable_character(character: str) -> str:
    if character.isprintable() and ord(character) in _glyphs():
        return character
    return character.encode("unicode_escape").decode()


@cache
def _glyphs() -> frozenset[int]:
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


# Axes ------------------------------------------------------------------------------------------------------


def grid_of(figure: Figure, count: int, columns: int) -> list[Axes]:
    """Places for `count` charts, `columns` in a row."""
    columns = max(1, min(columns, count))
    rows = max(1, math.ceil(count / columns))
    places = list(figure.subplots(rows, columns, squeeze=False).flat)
    for place in places[count:]:
        place.remove()
    return places[:count]


def name_axes(figure: Figure, charts: Sequence[Axes], columns: int, xlabel: str, ylabel: str) -> None:
    """What the axes show, below the lowest chart of each column and left of each row."""
    for index, axes in enumerate(charts):
        if index + columns >= len(charts):
            axes.set_xlabel(plain(xlabel))
        if index % columns == 0:
            axes.set_ylabel(plain(ylabel))
    figure.align_labels()


def log_ticks(axis: Axis) -> None:
    """Plain numbers along a logarithmic axis, enough of them also where it is short; call it when all is drawn."""
    from matplotlib.ticker import AutoLocator, FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    decades = math.log10(high / low)
    axis.set_major_locator(AutoLocator() if decades < 1 else LogLocator(subs=(1, 2, 5) if decades < 2 else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _number(value)))
    axis.set_minor_formatter(NullFormatter())


def _number(value: float) -> str:
    if 1e-4 < value < 1e6:
        return f"{value:,.6g}"
    mantissa, exponent = f"{value:.0e}".split("e")
    times = "" if mantissa == "1" else rf"{mantissa}\times "
    return f"${times}10^{{{int(exponent)}}}$"


def limits(*samples: Array) -> tuple[float, float]:
    """Least and greatest of all values, (0, 1) if there are none."""
    present = [sample for sample in samples if len(sample)]
    if not present:
        return 0.0, 1.0
    return min(float(sample.min()) for sample in present), max(float(sample.max()) for sample in present)


# Legends and labels ----------------------------------------------------------------------------------------


def legend(figure: Figure, charts: Sequence[Axes], most_inside: int = 6) -> None:
    """One legend for all charts: inside of a single one where it covers no line, else beside it; below several."""
    entries: dict[str, Artist] = {}
    for axes in charts:
        found, names = axes.get_legend_handles_labels()
        entries |= dict(zip(names, found, strict=True))
    if not entries:
        return
    if len(charts) == 1 and len(entries) <= most_inside:
        inside = charts[0].legend(list(entries.values()), list(entries))
        figure.draw_without_rendering()
        if not _covered(inside.get_window_extent().padded(2), _drawn(charts[0])):
            return
        inside.remove()
    beside = [("outside right upper", 1, 0.4)] if len(charts) == 1 else []
    _legend_outside(figure, entries, [*beside, *(("outside lower center", columns, 1.0) for columns in (4, 3, 2, 1))])


def _legend_outside(figure: Figure, entries: dict[str, Artist], choices: list[tuple[Any, int, float]]) -> None:
    """The first of (place, columns, most of the figure's width) that the legend fits into, or the last."""
    for place, columns, most in choices:
        found = figure.legend(list(entries.values()), list(entries), loc=place, ncols=columns)
        if found.get_window_extent().width <= most * figure.bbox.width or (place, columns, most) == choices[-1]:
            return
        found.remove()


def label_points(figure: Figure, axes: Axes, labels: Sequence[tuple[str, float, float]]) -> None:
    """Write (label, x, y) beside their points, clear of the lines, the legend and each other.

    Call it last: from here on the layout stands. A label that finds no room is left out.
    """
    if not labels:
        return
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    inside = axes.get_legend()
    taken = [] if inside is None else [inside.get_window_extent()]
    drawn = _drawn(axes)
    for label, x, y in labels:
        _label_point(axes, label, (x, y), taken, drawn)


def _label_point(axes: Axes, label: str, point: tuple[float, float], taken: list[Bbox], drawn: Array) -> None:
    """Put one label where it costs least, and its box into `taken`."""
    from matplotlib.patheffects import withStroke
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

    pixels = DPI / 72
    anchor = axes.transData.transform(point)
    note = axes.annotate(
        plain(label), point, (0, 0), textcoords="offset points", ha="center", va="center", fontsize=8,
        path_effects=[withStroke(linewidth=2, foreground="white")],
        arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3},
    )  # fmt: skip
    extent = Text.get_window_extent(note)
    half = np.array([extent.width, extent.height]) / 2
    frame = axes.get_window_extent()
    best: tuple[float, int, Array, Bbox] | None = None
    for distance in _DISTANCES:
        for direction in _DIRECTIONS:
            shift = np.array(direction) * (half + distance * pixels / math.hypot(*direction))
            box = Bbox([anchor + shift - half, anchor + shift + half])
            if any(box.overlaps(other) for other in taken) or not _within(box, frame):
                continue
            cost = distance + 5.0 * _covered(box, drawn)
            if best is None or cost < best[0]:
                best = (cost, distance, shift, box)
    if best is None:
        note.remove()
        return
    _, distance, shift, box = best
    note.set_position(tuple(shift / pixels))
    if note.arrow_patch is not None:
        note.arrow_patch.set_visible(distance > _DISTANCES[1])
    taken.append(box)


def _within(box: Bbox, frame: Bbox) -> bool:
    return bool(box.x0 >= frame.x0 and box.x1 <= frame.x1 and box.y0 >= frame.y0 and box.y1 <= frame.y1)


def _covered(box: Bbox, drawn: Array) -> int:
    inside = (drawn[:, 0] > box.x0) & (drawn[:, 0] < box.x1) & (drawn[:, 1] > box.y0) & (drawn[:, 1] < box.y1)
    return int(np.count_nonzero(inside))


def _drawn(axes: Axes) -> Array:
    """Points along every line of a chart, and around all its marks, in pixels, [n, 2]."""
    points = [np.empty((0, 2))]
    for line in axes.lines:
        ends = line.get_transform().transform(np.column_stack(line.get_data()))
        steps = np.linspace(0, 1, 48 if line.get_linestyle() != "None" else 1)[:, None, None]
        radius = line.get_markersize() / 2 * DPI / 72 if line.get_marker() != "None" else 0
        around = [ends + radius * np.array(direction) for direction in _DIRECTIONS]
        points += [(ends[:-1] * (1 - steps) + ends[1:] * steps).reshape(-1, 2), *around]
    return np.concatenate(points)
