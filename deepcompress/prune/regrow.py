"""Prune and regrow while training: how many weights there are stays, and which ones is learned.

A method moves some weights to other places of the network. Those that it removes become zero, and those that it grows
begin at zero, with nothing left in the optimizer of what was at their place before. Randomness is torch's, drawn on the
CPU, so that a seed gives the same network on every device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import nn

from deepcompress.prune.hooks import MaskHooks
from deepcompress.prune.masks import Masks
from deepcompress.recipe import Recipe
from deepcompress.training.progress import Progress

Weights = Mapping[str, torch.Tensor]

#: The part of the training epochs after which no weight is moved any more, so that the last ones can learn.
REGROWING_PART = 0.85


class Regrowth:
    """A method, which `every` so many batches may say where weights are from then on."""

    every = 1
    changing: ClassVar[tuple[str, ...]] = ()

    def __init__(self, weights: Weights, recipe: Recipe, steps: int) -> None:
        """`steps`: batches of an epoch."""
        self.weights, self.recipe = weights, recipe

    def move(self, masks: Masks, rate: float) -> Masks:
        """New masks with as many weights; `rate` is the learning rate of the step just made.

        Weights that were not there before, and that the new masks keep, are zero.
        """
        raise NotImplementedError


class SparseEvolution(Regrowth):
    """SET: each layer loses its smallest weights after every epoch, and gets as many at random places.

    Of the positive weights of a layer the fraction `regrow_fraction` (zeta, 0.3 in the paper) nearest to zero goes,
    and of the negative ones as well. A place that just became free may be drawn again. Mocanu et al. 2018, algorithm 1;
    there a new weight is drawn at random. Here, as in the authors' Keras code with masks, it begins at zero, and takes
    its first value from its gradient.
    """

    changing = ()

    def __init__(self, weights: Weights, recipe: Recipe, steps: int) -> None:
        super().__init__(weights, recipe, steps)
        self.every = recipe.regrow_every or steps
        self.fraction = 0.3 if recipe.regrow_fraction is None else recipe.regrow_fraction

    @torch.no_grad()
    def move(self, masks: Masks, rate: float) -> Masks:
        """As in the class."""
        return Masks({name: self._evolve(self.weights[name], keep) for name, keep in masks.keep.items()})

    def _evolve(self, weight: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        left, lost = keep, 0
        for side in (keep & (weight >= 0), keep & (weight < 0)):
            count = int(self.fraction * int(side.sum()))
            left, lost = left & ~_smallest(weight, side, count), lost + count
        weight.masked_fill_(~left, 0.0)
        return grown(left, lost)


class DeepRewiring(Regrowth):
    """Deep R: a weight that would change its sign is removed, and another connection of its layer begins at zero.

    Every connection has a sign for good: that of its weight where there is one at the first move, else a random one. A
    weight is sign * theta, and after each optimizer step ``theta -= rate * alpha``, ``theta += sqrt(2 * rate * T) *
    noise``, the noise standard normal, alpha `deepr_alpha` and T `deepr_temperature`. Where theta is below zero the
    connection goes dormant, and a random dormant one of the layer becomes active with theta = 0. Bellec et al. 2018,
    algorithm 1, with the constraint on every layer as in their code; there the optimizer is plain gradient descent.
    """

    changing = ("signs",)

    def __init__(self, weights: Weights, recipe: Recipe, steps: int) -> None:
        super().__init__(weights, recipe, steps)
        self.signs: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def move(self, masks: Masks, rate: float) -> Masks:
        """As in the class."""
        for name in masks.keep if not self.signs else ():
            self.signs[name] = _signs(self.weights[name])
        return Masks({name: self._rewire(name, keep, rate) for name, keep in masks.keep.items()})

    def _rewire(self, name: str, keep: torch.Tensor, rate: float) -> torch.Tensor:
        weight, sign = self.weights[name], self.signs[name][keep]
        theta = weight[keep] * sign - rate * self.recipe.deepr_alpha
        noise = self._noise(rate)
        if noise:
            theta += noise * torch.randn(len(theta)).to(theta)
        weight[keep] = sign * theta.clamp_min(0.0)
        crossed = torch.zeros_like(keep)
        crossed[keep] = theta < 0
        lost = int(crossed.sum())
        return grown(keep & ~crossed, lost) if lost else keep

    def _noise(self, rate: float) -> float:
        """Deviation of the noise; at the default temperature, rate * alpha^2 / 2, it is the L1 term's step."""
        temperature = self.recipe.deepr_temperature
        return rate * self.recipe.deepr_alpha if temperature is None else math.sqrt(2 * rate * temperature)


class Reparameterization(Regrowth):
    """DSR: one threshold removes weights of all layers, and layers get new ones in proportion to what they have left.

    `regrow_fraction` of all weights is to go at once. Where fewer than 90 % of that many went the threshold doubles,
    where more than 110 % did it halves. Mostafa and Wang 2019, algorithm 1. A layer keeps its largest weight; one that
    has a fraction of its own gets as many as it lost.
    """

    changing = ("threshold",)
    tolerance = 0.1

    def __init__(self, weights: Weights, recipe: Recipe, steps: int) -> None:
        super().__init__(weights, recipe, steps)
        self.every = recipe.regrow_every or 100
        self.fraction = 0.05 if recipe.regrow_fraction is None else recipe.regrow_fraction
        self.threshold = 1e-3

    @torch.no_grad()
    def move(self, masks: Masks, rate: float) -> Masks:
        """As in the class."""
        left = {name: self._above(self.weights[name], keep) for name, keep in masks.keep.items()}
        lost = {name: masks.kept(name) - int(mask.sum()) for name, mask in left.items()}
        self._adapt(sum(lost.values()), self.fraction * sum(map(masks.kept, masks.keep)))
        for name, mask in left.items():
            self.weights[name].masked_fill_(~mask, 0.0)
        shared = [name for name in left if self.recipe.prune_of(name) is None]
        counts = [int(left[name].sum()) for name in shared]
        room = [left[name].numel() - count for name, count in zip(shared, counts, strict=True)]
        gains = lost | dict(zip(shared, allot(counts, room, sum(lost[name] for name in shared)), strict=True))
        return Masks({name: grown(mask, gains[name]) for name, mask in left.items()})

    def _above(self, weight: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        size = weight.abs().masked_fill(~keep, -1.0)
        above = keep & (size >= self.threshold)
        if not bool(above.any()):
            above[torch.unravel_index(size.argmax(), size.shape)] = bool(keep.any())
        return above

    def _adapt(self, found: int, wanted: float) -> None:
        if found > (1 + self.tolerance) * wanted:
            self.threshold /= 2
        elif found < (1 - self.tolerance) * wanted:
            self.threshold *= 2


METHODS: dict[str, Callable[[Weights, Recipe, int], Regrowth]] = {
    "set": SparseEvolution,
    "deepr": DeepRewiring,
    "dsr": Reparameterization,
}


class RegrowingHooks(MaskHooks):
    """Has the recipe's method move weights, once `settled`: from then on their number stays.

    Attributes:
        regrowth: the method; None where the recipe has none that keeps the number.
        moved: weights that were moved so far.
    """

    changing: ClassVar[tuple[str, ...]] = ("regrowth", "batch", "moved", "settled")

    def __init__(self, model: nn.Module, weights: Weights, recipe: Recipe, steps: int) -> None:
        """`steps`: batches of an epoch."""
        super().__init__(model, weights, recipe)
        self.regrowth = METHODS[recipe.regrow](weights, recipe, steps) if recipe.keeps_count else None
        self.last = int(REGROWING_PART * recipe.epochs * steps)
        self.per_epoch, self.batch, self.moved = steps, 0, 0
        self.settled = False

    def settle(self, epoch: int, watch: Progress) -> None:
        """From `epoch` on the number of weights stays."""
        self.settled = True
        if (
            self.regrowth is not None
            and self.last // self.regrowth.every <= epoch * self.per_epoch // self.regrowth.every
        ):
            watch.message(f"regrow {self.recipe.regrow!r} has no time to move any weight: train for more epochs")

    def regrown(self) -> str:
        """A note on how many weights were moved so far."""
        return f"{self.moved} weights regrown" if self.moved else ""

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Keep the optimizer, which has to forget weights that are moved."""
        self.optimizer = optimizer

    def after_step(self) -> None:
        """Move weights if it is time."""
        super().after_step()
        self.batch += 1
        if self.regrowth is None or not self.settled or self.batch > self.last or self.batch % self.regrowth.every:
            return
        masks = self.regrowth.move(self.masks, self.optimizer.param_groups[0]["lr"])
        for name, mask in masks.keep.items():
            new = mask & (self.weights[name] == 0)
            forget(self.optimizer, self.weights[name], new)
            self.moved += int((mask & ~self.masks.keep[name]).sum())
        self.take(masks)


def grown(mask: torch.Tensor, count: int) -> torch.Tensor:
    """A mask that keeps what `mask` keeps, and `count` more at random, each place as likely as any."""
    flat = mask.flatten().clone()
    free = (~flat).nonzero().flatten()
    flat[free[torch.randperm(len(free))[:count].to(free.device)]] = True
    return flat.reshape(mask.shape)


def allot(parts: Sequence[int], room: Sequence[int], total: int) -> list[int]:
    """Whole numbers in proportion to `parts` (1 or above), none larger than its `room`, with the sum `total`.

    What one has no room for the others share in the same proportion; what rounding leaves goes to the largest.
    """
    assert total <= sum(room)
    given = [0] * len(parts)
    while left := total - sum(given):
        hungry = [at for at in range(len(parts)) if given[at] < room[at]]
        scale = left / sum(parts[at] for at in hungry)
        shares = {at: min(int(scale * parts[at]), room[at] - given[at]) for at in hungry}
        if not any(shares.values()):
            shares = dict.fromkeys(sorted(hungry, key=lambda at: -parts[at])[:left], 1)
        for at, share in shares.items():
            given[at] += share
    return given


@torch.no_grad()
def forget(optimizer: torch.optim.Optimizer, weight: torch.Tensor, where: torch.Tensor) -> None:
    """Set what `optimizer` remembers of the elements of `weight` for which `where` is True to zero, in place.

    Momentum goes on gathering gradients of weights that are pruned; they must not come back with it.
    """
    for value in optimizer.state.get(weight, {}).values():
        if isinstance(value, torch.Tensor) and value.shape == weight.shape:
            value.masked_fill_(where, 0.0)


def _smallest(weight: torch.Tensor, among: torch.Tensor, count: int) -> torch.Tensor:
    """Where the `count` of smallest magnitude are; of equal ones the first."""
    places = among.flatten().nonzero().flatten()
    order = weight.flatten()[places].abs().sort(stable=True).indices[:count]
    found = torch.zeros(among.numel(), dtype=torch.bool, device=among.device)
    found[places[order]] = True
    return found.reshape(among.shape)


def _signs(weight: torch.Tensor) -> torch.Tensor:
    """The sign of each weight, and a random one for those that are zero: 1 and -1, like `weight`."""
    drawn = torch.randint(0, 2, weight.shape).to(weight) * 2 - 1
    return torch.where(weight == 0, drawn, weight.sign())
