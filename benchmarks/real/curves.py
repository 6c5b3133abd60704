"""Points of size and metric, the line through those of one way, bytes at equal metric, and a picture."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from sklearn.isotonic import IsotonicRegression

_WIDE = 5  # largest over smallest size, from which on an axis is marked at 1, 2 and 5
NAMED = ("barely", "small", "moderate")  # losses, see `networks.Real`


@dataclass(frozen=True)
class Point:
    """One network, stored in one way.

    Attributes:
        way, setting: how.
        size: bytes.
        metrics: of the network that came out again; the first decides.
        seconds: of the processor, to store it. Of our default that is the whole command, imports included.
        megabytes: peak memory (10^6 bytes) of the command; None where it had no process of its own.
    """

    way: str
    setting: str
    size: int
    metrics: dict[str, float]
    seconds: float
    megabytes: float | None = None

    @property
    def metric(self) -> float:
        """The metric that decides."""
        return next(iter(self.metrics.values()))


@dataclass(frozen=True)
class Curves:
    """All points of one network, with what it is dense.

    Attributes:
        name: of the network.
        dense: its metrics.
        given, float32: bytes of its file, and of its float tensors.
        losses: of the first metric, see `NAMED`.
        points: in the order in which they were measured.
    """

    name: str
    dense: dict[str, float]
    given: int
    float32: int
    losses: tuple[float, ...]
    points: list[Point]

    def of(self, way: str) -> list[Point]:
        """The points of one way."""
        return [point for point in self.points if point.way == way]

    def loss(self, point: Point) -> float:
        """What `point` lost of the first metric; below 0 if it gained."""
        return next(iter(self.dense.values())) - point.metric

    def size_at(self, way: str, loss: float) -> tuple[float, bool] | None:
        """Bytes of a way at a loss, from the line through its points, and whether it may be fewer.

        None if no point is as good.

        The line falls as sizes grow: where measured losses do not, they are taken together (isotonic regression).
        Where all points are better it is the smallest of them: coarser ones were not measured.
        """
        points = sorted(self.of(way), key=lambda point: point.size)
        if len(points) < 2:
            return None
        sizes = np.log([point.size for point in points])
        losses = IsotonicRegression(increasing=False).fit_transform(sizes, [self.loss(point) for point in points])
        losses = losses.round(9)  # a mean of losses is no longer exactly what is allowed
        if losses[-1] > loss:
            return None
        first = int(np.flatnonzero(losses <= loss)[0])
        if first == 0:
            return math.exp(sizes[0]), bool(losses[0] < loss)
        part = (losses[first - 1] - loss) / (losses[first - 1] - losses[first])
        return math.exp(sizes[first - 1] + part * (sizes[first] - sizes[first - 1])), False

    def save(self, path: Path) -> None:
        """Write all of it as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Curves:
        """What `save` wrote."""
        found = json.loads(path.read_text())
        points = [Point(**point) for point in found.pop("points")]
        return cls(**{**found, "losses": tuple(found["losses"])}, points=points)


def table(curves: Curves, ours: Sequence[str], theirs: Sequence[str]) -> list[list[str]]:
    """A row for each loss: bytes of each way, and each of `ours` over each of `theirs`."""
    rows = []
    for name, loss in zip(NAMED, curves.losses, strict=True):
        sizes = {way: curves.size_at(way, loss) for way in (*ours, *theirs)}
        ratios = [_ratio(sizes[own], sizes[other]) for own in ours for other in theirs]
        rows.append([curves.name, f"{name}, {loss:g}", *(_bytes(size) for size in sizes.values()), *ratios])
    return rows


def _bytes(size: tuple[float, bool] | None) -> str:
    return "–" if size is None else f"{'≤ ' if size[1] else ''}{size[0]:,.0f}"


def _ratio(first: tuple[float, bool] | None, second: tuple[float, bool] | None) -> str:
    """Nothing can be said where the second may be smaller, and an upper bound where the first may be."""
    if first is None or second is None or second[1]:
        return "–"
    return f"{'≤ ' if first[1] else ''}{first[0] / second[0]:.2f}×"


def draw(all_curves: Sequence[Curves], path: Path, looks: Mapping[str, str]) -> None:
    """A panel for each network: the metric over the size, a line for each way of `looks` (ways and their colors)."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    columns = min(len(all_curves), 3)
    lines = -(-len(all_curves) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(4.6 * columns, 3.4 * lines), squeeze=False)
    for panel, curves in zip(axes.flat, all_curves, strict=False):
        dense, name = next(iter(curves.dense.values())), next(iter(curves.dense))
        panel.axhline(dense, color="0.6", linewidth=0.8)
        worst, shown = 2.5 * curves.losses[-1], []
        for way, color in looks.items():
            points = sorted(curves.of(way), key=lambda point: point.size)
            sizes = [point.size / 1000 for point in points]
            panel.plot(sizes, [point.metric for point in points], "o-", color=color, label=way, markersize=3.5)
            shown += [size for size, point in zip(sizes, points, strict=True) if curves.loss(point) < worst]
        panel.set(title=curves.name, xlabel="KB", ylabel=name, xscale="log", ylim=(dense - worst, dense + worst / 12))
        panel.set_xlim(min(shown) / 1.2, max(shown) * 1.1)
        wide = max(shown) > _WIDE * min(shown)
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if wide else MaxNLocator(4))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.xaxis.set_major_formatter("{x:,.0f}")
    for panel in axes.flat[len(all_curves) :]:
        panel.set_axis_off()
    axes.flat[0].legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
