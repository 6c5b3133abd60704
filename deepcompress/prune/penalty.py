"""Penalties that pull weights towards zero while a network is retrained."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from deepcompress.prune.costs import keeping_bits
from deepcompress.prune.masks import Masks
from deepcompress.recipe import Recipe

Weights = Mapping[str, torch.Tensor]


class Penalty:
    """What retraining adds to the gradients of weights, beside the optimizer's weight decay (``l2``).

    ``l1`` pulls every weight towards zero with the same force. ``rate`` decays each by what it costs in the file:
    `penalty_weight` * bits / mean bits * weight, so that lonely weights fade and crowded rows and columns live. It is
    a rate term in the loss (Oktay et al. 2020, equation 2), its weight on each squared weight held until the next cut.
    """

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
        if self.kind not in ("l1", "rate"):
            return
        for name, weight in self.weights.items():
            if weight.grad is not None:
                pull = weight.sign() if self.kind == "l1" else weight * self.costs.get(name, 1.0)
                weight.grad.add_(pull, alpha=self.weight)
