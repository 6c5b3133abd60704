"""Binary, ternary and other few values, trained with latent weights behind all of them, from the first epoch on.

The network computes with shared values, and zero where a weight is pruned; the gradient passes straight through to the
latent weights (BinaryConnect: Courbariaux, Bengio and David 2015, algorithm 1). The values learn as well, as in trained
ternary quantization (Zhu et al. 2017, section 3). Each layer keeps its number of zeros, those of the smallest latent
weights: the second way that Zhu et al. choose a threshold. In `latent` a weight that is pruned stays so; here not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch

from deepcompress.layers import Layer
from deepcompress.prune.masks import Masks, keep_mask, share_out
from deepcompress.prune.scores import profile
from deepcompress.prune.stage import make_optimizer
from deepcompress.quantize.latent import LatentHooks, Weights
from deepcompress.quantize.sharing import Codebook, Member, share
from deepcompress.training.retraining import Run, retrain


class StraightThroughHooks(LatentHooks):
    """As `LatentHooks`, with latent weights of pruned weights, too: they may return, and others go in their place.

    Attributes:
        dense: latent weights of all layers, of their shapes.
        losses: how many weights each layer has at zero.
    """

    changing: ClassVar[tuple[str, ...]] = ("dense",)

    def __init__(self, codebooks: Sequence[Codebook], weights: Weights, losses: Mapping[str, int]) -> None:
        """`weights` as they are before sharing: those are the first latent weights."""
        self.dense = {name: weight.detach().clone() for name, weight in weights.items()}
        self.losses = losses
        super().__init__(codebooks, weights, largest(self.dense, losses))
        self._choose()

    def after_backward(self) -> None:
        """Sum the gradients of shared values, and bring all latent weights back for the step."""
        super().after_backward()
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(self.dense[name])

    @torch.no_grad()
    def after_step(self) -> None:
        """Take the latent weights as the step left them, and choose anew what is zero, and who has which value."""
        self.dense = {name: weight.detach().clone() for name, weight in self.weights.items()}
        self._choose()

    @torch.no_grad()
    def _choose(self) -> None:
        self.masks = largest(self.dense, self.losses)
        self.masks.apply(self.weights)
        self.latents = []
        for at, book in enumerate(self.codebooks):
            places = [self.masks.keep[member.name].reshape(-1).nonzero().reshape(-1) for member in book.members]
            members = tuple(
                Member(member.name, place, torch.zeros_like(place))
                for member, place in zip(book.members, places, strict=True)
            )
            self.codebooks[at] = replace(book, members=members)
            self.latents.append([self.dense[member.name].reshape(-1)[member.positions] for member in members])
        self._assign()


def largest(weights: Weights, losses: Mapping[str, int]) -> Masks:
    """Masks that take from each layer so many weights, the smallest."""
    return Masks({name: keep_mask(weight, losses[name]) for name, weight in weights.items()})


def train_straight_through(run: Run, layers: Sequence[Layer]) -> tuple[Masks, list[Codebook]]:
    """Train `run.model` for `recipe.epochs` with shared values, in place; what is kept in the end, and the values.

    There must be training data.

    Raises:
        RecipeError: as `share_out`.
    """
    recipe, weights = run.recipe, run.weights
    losses, _ = share_out({name: profile(weight) for name, weight in weights.items()}, recipe)
    shared = {name: weight.detach().clone() for name, weight in weights.items()}
    largest(shared, losses).apply(shared)
    hooks = StraightThroughHooks(share(shared, list(layers), recipe), weights, losses)
    optimizer = make_optimizer(run.model, recipe)
    values: dict[str, Any] = {"params": [book.parameter for book in hooks.codebooks], "weight_decay": 0.0}
    if hooks.codebooks:
        optimizer.add_param_group(values)
    retrain(run, optimizer, recipe.epochs, "latent", hooks)
    return hooks.masks, hooks.codebooks
