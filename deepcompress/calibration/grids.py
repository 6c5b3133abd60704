"""From statistics to whole numbers and steps: one price of a bit for the whole network decides everything.

Where a row's error costs g d per squared weight (d the geometric mean of what errors of its inputs cost), a uniform
grid of step s costs s^2 g d / 12, and halving s costs a bit. So at one price l of a bit everywhere, the steps that cost
least are s^2 = 12 l / (2 ln 2 g d): rows that the output hardly feels are coarse, down to zero. In files, tensors of
another type than float32 have one step for all rows, for which the mean of g d is best.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch

from deepcompress.calibration.feedback import Curvature, rounded
from deepcompress.calibration.statistics import Lookups, Moments, Slopes, Statistics
from deepcompress.quantize.rows import LARGEST, LARGEST_SHARED, RowGrid, row_sizes, storable

_QUIETEST_ROW = 1e-3  # of the mean of g: no row is taken to matter less


@dataclass
class Calibrated:
    """Weights of a network and what samples told of them, ready to be rounded at any price.

    Attributes:
        weights: by name, in the types that the file has them in.
        statistics: of the parameters of a copy of the network.
        ids: of these parameters, by the names of the weights.
    """

    weights: Mapping[str, torch.Tensor]
    statistics: Statistics
    ids: Mapping[str, int]
    _curvatures: dict[str, list[Curvature]] = field(default_factory=dict)

    def met(self) -> list[str]:
        """Names of the weights that samples told something of."""
        return [name for name in self.weights if self._known(name) is not None]

    def out_of_sight(self) -> list[str]:
        """Names of the weights of which gradients are known, and no products."""
        return [name for name in self.weights if isinstance(self._known(name), Slopes)]

    def price(self, error: float) -> float:
        """What a bit costs where all weights together may change the output by `error`, a part of its variance."""
        count = sum(self.weights[name].numel() for name in self.met())
        return 2 * math.log(2) * error * self.statistics.power / max(count, 1)

    def grids(self, error: float) -> Iterator[tuple[str, RowGrid]]:
        """Each weight that was met, as whole numbers times steps (see `price`)."""
        price = self.price(error)
        for name in self.met():
            found = self._known(name)
            if isinstance(found, Moments):
                yield name, self._products(name, found, price)
            elif found is not None:
                yield name, self._alone(name, self._felt(found, self.weights[name]), price)

    def bias_change(self, name: str, grid: RowGrid) -> torch.Tensor | None:
        """What rounding adds to the mean output of each row (rows); None where no products are known."""
        found = self._known(name)
        if not isinstance(found, Moments):
            return None
        assert found.first is not None
        error = (grid.values().float() - self.weights[name].detach().float().cpu()).reshape(
            found.groups, -1, found.first.shape[1]
        )
        return (error @ (found.first / found.positions).cpu()[:, :, None]).reshape(-1)

    def _known(self, name: str) -> Moments | Lookups | Slopes | None:
        found = self.statistics.of.get(self.ids[name])
        if isinstance(found, Lookups):
            return found if found.positions else None
        return None if isinstance(found, Moments) and found.second is None else found

    def _curvature(self, name: str, found: Moments) -> list[Curvature]:
        if name not in self._curvatures:
            assert found.second is not None
            each = zip(found.second, found.noise().tolist(), strict=True)
            self._curvatures[name] = [Curvature.of(part / self.statistics.samples, noise) for part, noise in each]
        return self._curvatures[name]

    def _felt(self, found: Lookups | Slopes, weight: torch.Tensor) -> torch.Tensor:
        """What an error of a weight costs (rows): that of an embedding by how often the row is looked up."""
        samples = self.statistics.samples
        if isinstance(found, Slopes):
            return (found.rows / samples * len(weight) / weight.numel()).cpu()
        return (found.often() * float(found.gradient.mean()) / samples).cpu()

    def _products(self, name: str, found: Moments, price: float) -> RowGrid:
        weight = self.weights[name].detach().cpu()
        assert found.gradient is not None
        curvatures = self._curvature(name, found)
        groups, parts, rows = found.groups, len(curvatures) // found.groups, len(weight) // found.groups
        levels = torch.tensor([each.level for each in curvatures]).log().reshape(groups, parts).mean(1).exp()
        felt = _none_silent(found.gradient / found.positions).cpu()
        steps = _steps(weight, felt * levels.repeat_interleave(rows), price)
        apart = weight.reshape(groups, rows, parts, -1).transpose(1, 2).flatten(0, 1)
        each = steps.reshape(groups, 1, rows).expand(-1, parts, -1).flatten(0, 1)
        numbers = rounded(apart, each, curvatures, _largest(weight))
        integers = numbers.reshape(groups, parts, rows, -1).transpose(1, 2).reshape(weight.shape)
        return RowGrid(integers.to(torch.int32), steps, weight.dtype)

    def _alone(self, name: str, felt: torch.Tensor, price: float) -> RowGrid:
        """No error is made good by other weights."""
        weight = self.weights[name].detach().cpu()
        steps = _steps(weight, _none_silent(felt), price)
        numbers = rounded(weight.reshape(1, len(weight), -1), steps[None], (), _largest(weight))
        return RowGrid(numbers.reshape(weight.shape).to(torch.int32), steps, weight.dtype)


def _none_silent(felt: torch.Tensor) -> torch.Tensor:
    return felt.clamp_min(max(float(felt.mean()) * _QUIETEST_ROW, 1e-30))


def _largest(weight: torch.Tensor) -> int:
    return LARGEST if weight.dtype is torch.float32 else LARGEST_SHARED


def _steps(weight: torch.Tensor, cost: torch.Tensor, price: float) -> torch.Tensor:
    """Steps of rows whose errors `cost` so much per squared weight; none is coarser than it takes to empty the row."""
    if weight.dtype is not torch.float32:
        cost = cost.mean().expand_as(cost)
    steps = (12 * price / (2 * math.log(2) * cost)).sqrt()
    return storable(weight, torch.minimum(steps, 16 * row_sizes(weight)))
