"""What pruning does in every step of retraining, whoever decides on the masks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from deepcompress.prune.dropout import preceded_dropouts, rescaled_dropout
from deepcompress.prune.masks import Masks
from deepcompress.prune.penalty import Penalty
from deepcompress.prune.shadow import Shadow
from deepcompress.recipe import Recipe
from deepcompress.training.loop import Hooks


class MaskHooks(Hooks):
    """Keeps pruned weights at zero through every optimizer step; they learn on unseen where the recipe regrows them."""

    def __init__(self, model: nn.Module, weights: Mapping[str, torch.Tensor], recipe: Recipe) -> None:
        self.weights, self.recipe = weights, recipe
        self.masks = Masks.full(weights)
        self.dropouts = preceded_dropouts(model, weights)
        self.penalty = Penalty(weights, recipe)
        self.shadow = Shadow(weights) if recipe.regrow else None

    def take(self, masks: Masks) -> None:
        """Prune to `masks`, and keep to them."""
        self.masks = masks
        self.masks.apply(self.weights)
        self.penalty.price(self.masks)
        for dropout, rate, name in self.dropouts:
            dropout.p = rescaled_dropout(rate, self.masks.density(name))

    def after_backward(self) -> None:
        """Add the gradient of the penalty; L2 is the optimizer's weight decay."""
        if self.shadow is not None:
            self.shadow.restore()
        self.penalty.add()

    def after_step(self) -> None:
        """Momentum, Adam's moments and weight decay may have moved pruned weights: back to zero."""
        if self.shadow is not None:
            self.shadow.take()
        self.masks.apply(self.weights)
