"""Penalties that pull weights towards zero while a network is retrained."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from deepcompress.prune.costs import keeping_bits
from deepcompress.prune.masks import Masks
from deepcompress.recipe import Recipe

Weights = Mapping[str, torch.Tensor]

#: How much of L1's pull is left on the weights of a unit of strength s, the sum of their magnitudes, by lambda * s
#: (Hanson and Pratt 1988): the derivatives of s / (1 + lambda s) and (1 - exp(-lambda s)) / lambda. Weak units go
#: altogether, strong ones are let be. Here lambda is 1 over the mean strength in the layer, so that neither width nor
#: scale of a layer matters; it is held constant in the derivative.
BIASES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "hyperbolic": lambda strength: 1 / (1 + strength).square(),
    "exponential": lambda strength: torch.exp(-strength),
}


class Penalty:
    """What retraining adds to the gradients of weights, beside the optimizer's weight decay (``l2``).

    ``l1`` pulls every weight towards zero with the same force. ``rate`` decays each by what it costs in the file:
    `penalty_weight` * bits / mean bits * weight, so that lonely weights fade and crowded rows and columns live. It is
    a rate term in the loss (Oktay et al. 2020, equation 2), its weight on each squared weight held until the next cut.
    The others are biases of Hanson and Pratt (1988) on the strength of a unit: see `BIASES`.
    """

    changing = ("costs",)

    def __init__(self, weights: Weights, recipe: Recipe) -> None:
        self.weights, self.kind, self.weight = weights, recipe.penalty, recipe.penalty_weight
        self.costs: dict[str, torch.Tensor] = {}

    def price(self, masks: Masks) -> None:
        """The masks have changed: judge anew what weights cost."""
        if self.kind == "rate":
            bits = {name: keeping_bits(mask) for name, mask in masks.keep.items()}
            mean = sum(float((cost * masks.keep[name]).sum()) for name, cost in bits.items())
            mean /= sum(masks.kept(name) for name in bits)
            self.costs = {name: cost / mean for name, cost in bits.items()}

    @torch.no_grad()
    def add(self) -> None:
        """Add the penalty's gradient to that of the loss."""
        if self.kind in ("l2", "none"):
            return
        for name, weight in self.weights.items():
            if weight.grad is not None:
                weight.grad = weight.grad.to_dense().add_(self._pull(name, weight), alpha=self.weight)

    def _pull(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        if self.kind == "rate":
            return weight * self.costs.get(name, 1.0)
        if self.kind == "l1":
            return weight.sign()
        strength = weight.abs().sum(dim=tuple(range(1, weight.ndim)), keepdim=True)
        gain = 1 / strength.mean().clamp_min(torch.finfo(strength.dtype).tiny)
        return weight.sign() * BIASES[self.kind](gain * strength)
