"""Pruning to a size: every weight is worth what it saves in loss, against the bits that it takes in the file.

A weight in a row and a column where many survive costs few bits, a lonely one many, and the coder of the file knows
rows and columns too. So the cut ranks weights by loss per bit (a Lagrangian with one multiplier for the whole
network, as in Choi, El-Khamy and Lee 2017, section 5): layers get the sparsity that suits them, and whole rows and
columns fall away by themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import nn

from deepcompress.errors import DivergedError
from deepcompress.prune.costs import VALUE_BITS, keeping_bits, total_bits
from deepcompress.prune.hooks import MaskHooks
from deepcompress.prune.masks import Masks
from deepcompress.prune.schedule import PRUNING_PART, SCHEDULES
from deepcompress.recipe import Recipe

Weights = Mapping[str, torch.Tensor]
Refine = Callable[[Masks], Masks]

CUTS = 80
LOOK_EVERY = 10  # batches
FIRST_VALUE_BITS = 8.0
FLOOR = 0.1  # of the density of the whole network, which each layer keeps

_STEPS = 16  # of bisection
_RANGE = 80.0  # natural logarithms between the least and the greatest saliency that are told apart


@torch.no_grad()
def cut_to_bits(
    weights: Weights,
    masks: Masks,
    curvature: Mapping[str, float],
    bits: float,
    value_bits: Mapping[str, float] | float = VALUE_BITS,
    regrow: bool = False,
) -> Masks:
    """The masks that keep the most loss within `bits`; a weight that `masks` dropped stays dropped.

    The saliency of a weight is ``curvature * w^2 / 2`` (Optimal Brain Damage, LeCun, Denker and Solla 1990, equation 5,
    with one curvature for each layer). One threshold of saliency per bit cuts through all layers. Of weights that
    matter together, such as the taps of a long filter, each matters little by itself: so every layer keeps its most
    salient weight, and `FLOOR` of the density that the network has.

    Args:
        weights: pruned so far.
        masks: the masks until now, by which the costs are judged.
        curvature: for each layer, the second derivative of the loss by a weight, on average; any common unit. Where
            none is known (there was no gradient yet), it is guessed (`Curvature.of_scale`).
        bits: to stay within.
        value_bits: bits of a weight's value, for all layers or each.
        regrow: whether weights that `masks` dropped may come back.

    Raises:
        DivergedError: training has come to weights that are not finite.
    """
    curvature = curvature if any(curvature.values()) else Curvature.of_scale(weights).mean
    price = dict.fromkeys(masks.keep, value_bits) if isinstance(value_bits, float) else value_bits
    worth = {}
    for name, mask in masks.keep.items():
        saliency = weights[name].detach().contiguous().float().square() * (curvature[name] / 2)
        worth[name] = saliency / keeping_bits(mask, price[name])
        if not regrow:
            worth[name].masked_fill_(~mask, -1.0)
    floors = {name: float(layer.max()) for name, layer in worth.items()}
    for name in worth:
        if not bool(torch.isfinite(weights[name]).all()):
            raise DivergedError(f"{name}: its weights are no longer finite; lower the learning rate")

    def above(threshold: float) -> Masks:
        kept = Masks({name: layer >= max(min(threshold, floors[name]), 0.0) for name, layer in worth.items()})
        return with_floors(kept, worth)

    kept = above(0.0)
    if total_bits(kept, price) <= bits or not max(floors.values()):
        return kept
    low, high = math.log(max(floors.values())) - _RANGE, math.log(max(floors.values()))
    kept = above(math.exp(high))
    for _ in range(_STEPS):
        middle = (low + high) / 2
        candidate = above(math.exp(middle))
        if total_bits(candidate, price) > bits:
            low = middle
        else:
            high, kept = middle, candidate
    return kept


def with_floors(masks: Masks, worth: Weights) -> Masks:
    """`masks` in which no layer has less than `FLOOR` of the density of all: it keeps its best weights.

    Weights that are worth less than 0 stay away.
    """
    density, raised = FLOOR * (1 - masks.sparsity), {}
    for name, mask in masks.keep.items():
        least = math.ceil(density * mask.numel())
        if masks.kept(name) >= least:  # of nearly all layers, most of the time
            continue
        least = min(least, int((worth[name] >= 0).sum()))
        if masks.kept(name) < least:
            flat = worth[name].reshape(-1)
            raised[name] = worth[name] >= flat.kthvalue(len(flat) - least + 1).values
    return Masks({**masks.keep, **raised}) if raised else masks


class Curvature:
    """How sharply the loss bends along a weight of each layer: the mean square of the gradients of its weights.

    That is the empirical Fisher information up to a factor that all layers share, averaged over the last hundred or so
    of the batches that were looked at.
    """

    changing = ("mean", "seen")

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.mean = dict.fromkeys(weights, 0.0)
        self.seen = 0

    @classmethod
    def of_scale(cls, weights: Weights) -> Curvature:
        """A guess without data: weights of every layer matter by how large they are within their layer."""
        guess = cls(weights)
        guess.mean = {
            name: 1 / max(float(weight.detach().float().square().mean()), 1e-30) for name, weight in weights.items()
        }
        return guess

    @torch.no_grad()
    def look(self, masks: Masks) -> None:
        """Take in the gradients that are there now, of the weights that `masks` keep."""
        self.seen += 1
        share = max(1 / self.seen, 0.01)
        for name, mask in masks.keep.items():
            gradient = self.weights[name].grad
            if gradient is not None:
                found = float((gradient.square() * mask).sum(dtype=torch.float64)) / max(masks.kept(name), 1)
                self.mean[name] += share * (found - self.mean[name])


class BudgetHooks(MaskHooks):
    """Prunes a little at a time, until what is left fits.

    The budget falls from what the dense network would take to what is asked over the first `PRUNING_PART` of the
    epochs, on a logarithmic scale and as the recipe's schedule says. So does the price of a value: positions alone cost
    most at a density of one half, and a network would jump there.
    """

    changing = ("curvature", "step")

    def __init__(
        self, model: nn.Module, weights: Weights, recipe: Recipe, bits: float, steps: int, refine: Refine
    ) -> None:
        """`steps`: batches of an epoch. `refine` has a word on all new masks, and may drop more."""
        super().__init__(model, weights, recipe)
        self.bits, self.refine = bits, refine
        self.first = max(total_bits(self.masks, FIRST_VALUE_BITS), bits)
        self.curvature = Curvature(weights)
        self.last = max(int(PRUNING_PART * recipe.epochs * steps), 1)
        self.every = max(1, self.last // CUTS)
        self.step = 0

    def before_epoch(self, epoch: int) -> str:
        """The note for the epoch's report: how far pruning has come."""
        return f"{total_bits(self.masks) / 8000:.1f} KB expected, {100 * self.masks.sparsity:.1f} % pruned"

    def after_backward(self) -> None:
        """Look at every few batches' gradients, beside the rest."""
        if self.step % LOOK_EVERY == 0:
            self.curvature.look(self.masks)
        super().after_backward()

    def after_step(self) -> None:
        """Prune if it is time."""
        super().after_step()
        self.step += 1
        if self.step <= self.last and (self.step % self.every == 0 or self.step == self.last):
            self._cut()

    def _cut(self) -> None:
        if self.shadow is not None:
            self.shadow.restore()
        left = 1 - SCHEDULES[self.recipe.schedule](self.step / self.last)
        bits = self.bits * (self.first / self.bits) ** left
        price = VALUE_BITS * (FIRST_VALUE_BITS / VALUE_BITS) ** left
        masks = cut_to_bits(self.weights, self.masks, self.curvature.mean, bits, price, self.shadow is not None)
        self.take(self.refine(masks))
