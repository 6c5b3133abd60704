"""Weights as whole numbers times a step for each row: rounding after training, without data.

How much an error in a weight changes what a network computes is unknown without data. What is known is the size of the
weights: a row whose weights are all twice as large mostly meets inputs half as large, or is divided again by what
follows. So the step of a row is a part of the size of its weights. In one row, too, large inputs mostly meet small
weights, which a few large ones must not drown: what counts is the geometric mean over the inputs. Entropy coding makes
fine steps cheap: a uniform grid with an ideal code stays within 0.25 bits of the best quantizer there is (Gish and
Pierce 1968).

Inputs are seldom around zero: behind a ReLU all are positive, and neighbouring places of an image are alike. Then the
errors of a row matter most by their sum, which would be thrown away with a nearest number for each weight by itself.
So a few weights, of those that lie almost halfway, take their second nearest number, until errors add up to nothing in
each kernel and in each row (SQuant, Guo et al. 2022).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from deepcompress.coding import scales
from deepcompress.quantize.grid import short

Array = np.ndarray[Any, np.dtype[Any]]

#: From a weight as it lies in the file to (outputs, inputs, …), and back.
Turn = tuple[Callable[[torch.Tensor], torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]

#: The largest whole number; where all rows have one step, both signs of all up to it fit into a codebook.
LARGEST, LARGEST_SHARED = 32767, 2040
SMALLEST = 2.0**-120  # step
#: A row is rounded no finer than one whose weights are this part of the tensor's: what training never used is smaller.
QUIETEST = 1e-3
_EXACT = 2.0**24  # up to here, float32 has all whole numbers
_AT_ONCE = 1 << 20  # weights that are evened out, for the memory that it takes
_GROWTH = 0.3  # of steps with the number of weights of a layer: between none and the Frobenius norm's 0.5


@dataclass(frozen=True)
class RowGrid:
    """Whole numbers (int32, in the shape of the tensor) and a step (float32) for each index of dimension 0.

    `dtype` is that of the tensor in the file.
    """

    integers: torch.Tensor
    steps: torch.Tensor
    dtype: torch.dtype = torch.float32

    def values(self) -> torch.Tensor:
        """The weights that they stand for."""
        return (self.integers * self.steps.reshape(-1, *[1] * (self.integers.ndim - 1))).to(self.dtype)


def row_sizes(weight: torch.Tensor) -> torch.Tensor:
    """Root mean square of the weights of each row that are not zero (float32, rows), none below `QUIETEST`."""
    rows = weight.detach().reshape(len(weight), -1).float().cpu()
    largest = rows.abs().amax().clamp_min(torch.finfo(torch.float32).tiny)
    squares = (rows / largest).square()
    kept = (rows != 0).sum(1)
    sizes = (squares.sum(1) / kept.clamp_min(1)).sqrt()
    overall = (squares.sum() / kept.sum().clamp_min(1)).sqrt()
    return torch.maximum(sizes, QUIETEST * overall) * largest


def typical_sizes(weight: torch.Tensor) -> torch.Tensor:
    """How large the weights of each row are for a typical input (float32, rows), at most as `row_sizes`.

    That is the geometric mean over the inputs, in units of what it is for normally distributed weights. An input is an
    index of dimension 1: all places of a kernel meet the same, so of these it is the root mean square. Zeros do not
    count.
    """
    sizes = row_sizes(weight)
    parts = weight.detach().float().cpu().reshape(len(weight), weight.shape[1], -1)
    kept = (parts != 0).sum(2)
    met = kept > 0
    squares = (parts / sizes[:, None, None]).square_().sum(2) / kept.clamp_min(1)
    logs = squares.clamp_min(QUIETEST**2).log().masked_fill(~met, 0.0)
    places = torch.tensor(parts.shape[2] / 2)
    normal = torch.digamma(places) - places.log()  # the mean of the logarithm, for a mean square of so many
    return sizes * ((logs.sum(1) / met.sum(1).clamp_min(1) - normal) / 2).exp().clamp_max(1.0)


def storable(weight: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    """`steps` as files have them, each large enough for the largest weight of its row.

    For float32 the smallest of them times powers of two, by quarter octaves. A file has one for the whole tensor where
    its type is another: their geometric mean, a bfloat16.
    """
    rows = weight.detach().reshape(len(weight), -1).float().cpu()
    largest = rows.abs().amax(1)
    if weight.dtype is not torch.float32:
        wanted = max(2.0 ** float(steps.double().log2().mean()), float(largest.max()) / LARGEST_SHARED)
        return torch.full_like(steps, short(wanted))
    wide = torch.maximum(steps.cpu(), 1.1 * largest / LARGEST).clamp(SMALLEST, torch.finfo(torch.float32).max / 4)
    return torch.from_numpy(scales.steps(*scales.fit(wide.numpy())))


def nearest(weight: torch.Tensor, steps: torch.Tensor) -> RowGrid:
    """Each weight as the nearest multiple of its row's step, none beyond what the type of `weight` can hold."""
    rows = weight.detach().reshape(len(weight), -1).float().cpu()
    most = torch.floor(torch.finfo(weight.dtype).max / steps.double()).clamp_max(_EXACT).float()[:, None]
    found = (rows / steps[:, None]).round_()
    torch.maximum(torch.minimum(found, most, out=found), -most, out=found)
    return RowGrid(found.to(torch.int32).reshape(weight.shape), steps, weight.dtype)


def evened(weight: torch.Tensor, grid: RowGrid, turn: Turn | None = None) -> RowGrid:
    """The numbers that are `nearest` to `weight`, but for those that make the sum of errors at most half a step.

    That is of each kernel (all but the first two dimensions), and then of each row, for which those kernels are changed
    that it costs least. No number changes by more than 1 for each of the two, and none where the weight is zero.

    Args:
        weight: (outputs, inputs, …), or anything that `turn` makes that of.
        grid: what is `nearest` to it.
        turn: how the weight is turned, where its rows are no outputs.
    """
    if turn is None:
        return replace(grid, integers=_settled(weight, grid.integers, grid.steps))
    there, back = turn
    exact = weight.detach().float().cpu() / grid.steps.reshape(-1, *[1] * (weight.ndim - 1))
    exact = there(exact)
    return replace(grid, integers=back(_settled(exact, there(grid.integers), torch.ones(len(exact)))).contiguous())


def _settled(weight: torch.Tensor, integers: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    """As `evened`, of a weight whose rows are outputs."""
    places = weight[0, 0].numel()
    kernels = weight.detach().reshape(len(weight), -1, places).float().cpu()
    found, most = integers.reshape(kernels.shape).float(), int(integers.abs().max())
    some = max(_AT_ONCE // kernels[0].numel(), 1)
    for start in range(0, len(kernels), some):
        part = slice(start, start + some)
        error = found[part] - kernels[part] / steps[part, None, None]
        inside = _changes(error.flatten(0, 1)).reshape(error.shape)
        error -= inside
        across = _changes(error.sum(2))[..., None]  # of one place in each of some kernels: that which lies furthest off
        place = (error * across).argmax(2, keepdim=True)
        found[part] -= inside.scatter_add_(2, place, across)
    return found.clamp(-most, most).to(torch.int32).reshape(weight.shape)


def _changes(error: torch.Tensor) -> torch.Tensor:
    """What to take from numbers (rows, n), -1, 0 or 1, so that their errors add up to at most a half in each row.

    Those of the largest errors are changed.
    """
    count = error.shape[1]
    if count == 1:
        return torch.zeros_like(error)
    excess = error.sum(1, keepdim=True).round()
    order = error.argsort(stable=True, dim=1)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(count).expand_as(order))
    return (rank >= count - excess).float() - (rank < -excess).float()


def by_size(weight: torch.Tensor, step: float, turn: Turn | None = None) -> RowGrid:
    """Each weight as a multiple of a `step` that is in typical sizes of its row, one of the two nearest to it.

    `turn` is as in `evened`.
    """
    return evened(weight, nearest(weight, storable(weight, step * typical_sizes(weight))), turn)


def entropy(integers: Array) -> float:
    """Bits of an ideal code for whole numbers that are drawn independently, all together."""
    counts = np.unique(integers, return_counts=True)[1]
    return float((counts * -np.log2(counts / max(len(integers.reshape(-1)), 1))).sum())


def relative_error(weight: torch.Tensor, rounded: torch.Tensor) -> float:
    """The norm of what rounding changed, as a part of the norm of the weights; 0 where all of them are zero."""
    norm = float(weight.detach().double().norm())
    return float((rounded.double() - weight.detach().double()).norm()) / norm if norm else 0.0


def coarseness(sizes: dict[str, int]) -> dict[str, float]:
    """How much coarser than on average the steps of each layer are, from the number of its weights.

    If the relative error of each layer mattered alike, bytes would be fewest where steps grow with the square root of
    the number of weights, as an error in a larger layer is bought back with fewer bits elsewhere. That holds for small
    errors only: a smaller exponent leaves large layers, such as embeddings, alive.
    """
    total = sum(sizes.values())
    mean = sum(count * np.log(count) for count in sizes.values()) / total if total else 0.0
    return {name: float(np.exp(_GROWTH * (np.log(count) - mean))) for name, count in sizes.items()}
