"""What pruning does in every step of retraining, whoever decides on the masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import nn

from deepcompress.prune.dropout import preceded_dropouts, rescaled_dropout
from deepcompress.prune.masks import Masks
from deepcompress.prune.penalty import Penalty
from deepcompress.prune.shadow import Shadow
from deepcompress.prune.units import Group, silence_units, silenced
from deepcompress.recipe import Recipe
from deepcompress.training.loop import Hooks


class MaskHooks(Hooks):
    """Keeps pruned weights at zero through every optimizer step; under surgery they learn on unseen."""

    changing: ClassVar[tuple[str, ...]] = ("masks", "penalty", "shadow")

    def __init__(self, model: nn.Module, weights: Mapping[str, torch.Tensor], recipe: Recipe) -> None:
        self.model, self.weights, self.recipe = model, weights, recipe
        self.masks = Masks.full(weights)
        self.groups: Sequence[Group] = ()  # of units that go as a whole
        self.silent: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.dropouts = preceded_dropouts(model, weights)
        self.penalty = Penalty(weights, recipe)
        self.shadow = Shadow(weights) if recipe.regrow == "surgery" else None

    def take(self, masks: Masks) -> None:
        """Prune to `masks`, and keep to them."""
        self.masks = masks
        self.masks.apply(self.weights)
        self.penalty.price(self.masks)
        self.restored()
        silence_units(self.silent)

    def restored(self) -> None:
        """Dropout follows from the masks, and so do the biases and batch norms of units that are gone."""
        self.silent = silenced(self.groups, self.masks, self.model.state_dict(keep_vars=True)) if self.groups else []
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
        silence_units(self.silent)
