"""Masks: which weights of each layer are kept, decided by one cut through all layers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from deepcompress.errors import PruneError, RecipeError
from deepcompress.prune.scores import DISTRIBUTIONS, Profile, chunks, deviation, lowest, profile
from deepcompress.recipe import Recipe

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Masks:
    """One boolean tensor for each layer, True where a weight is kept. Never changed in place."""

    keep: Mapping[str, torch.Tensor]

    def __post_init__(self) -> None:
        for name, mask in self.keep.items():
            if mask.dtype is not torch.bool:
                raise ValueError(f"mask of {name} is {mask.dtype}, not bool")

    @classmethod
    def full(cls, weights: Mapping[str, torch.Tensor]) -> Masks:
        """Masks that keep everything."""
        return cls({name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()})

    @classmethod
    def nonzero(cls, weights: Mapping[str, torch.Tensor]) -> Masks:
        """Masks that keep what is not zero, and all of a layer that is zero throughout."""
        return cls({name: (weight != 0) | ~(weight != 0).any() for name, weight in weights.items()})

    @torch.no_grad()
    def apply(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Set the pruned weights to exactly +0, in place."""
        for name, mask in self.keep.items():
            weights[name].masked_fill_(~mask, 0.0)

    @cached_property
    def counts(self) -> Mapping[str, int]:
        """Surviving weights of each layer."""
        return {name: int(mask.count_nonzero()) for name, mask in self.keep.items()}

    def kept(self, name: str) -> int:
        """Surviving weights of a layer."""
        return self.counts[name]

    def density(self, name: str) -> float:
        """Surviving fraction of a layer."""
        return self.kept(name) / self.keep[name].numel()

    @property
    def sparsity(self) -> float:
        """Removed fraction over all layers."""
        total = sum(mask.numel() for mask in self.keep.values())
        return 1 - sum(self.counts.values()) / total


@dataclass(frozen=True)
class Cut:
    """The outcome of one cut: the masks, and the layers that would have been emptied and keep one weight instead."""

    masks: Masks
    floored: tuple[str, ...]


@torch.no_grad()
def cut(saliencies: Mapping[str, torch.Tensor], recipe: Recipe, progress: float = 1.0, scope: str = "layer") -> Cut:
    """Decide which weights stay, `progress` (0..1) of the way to the recipe's sparsity.

    Layers with a fraction of their own lose just that; the others share what is left of the total.
    Weights of saliency 0 are always the first to go. Ties are broken by position.

    Args:
        saliencies: for each layer a tensor of its shape, whose absolute values count.
        recipe: how much goes, and how it is spread over the layers.
        progress: how far on the way.
        scope: where the recipe names none.

    Raises:
        RecipeError: the layers' own fractions leave more than the others can make up for.
    """
    profiles = {name: profile(saliency) for name, saliency in saliencies.items()}
    shares, floored = share_out(profiles, recipe, progress, scope)
    return Cut(Masks({name: keep_mask(saliencies[name], shares[name]) for name in saliencies}), floored)


def share_out(
    profiles: Mapping[str, Profile], recipe: Recipe, progress: float = 1.0, scope: str = "layer"
) -> tuple[dict[str, int], tuple[str, ...]]:
    """How many weights each layer loses, and the layers that would have been emptied and keep one instead.

    Raises:
        RecipeError: as `cut`.
    """
    losses = {}
    for name, layer in profiles.items():
        own = recipe.prune_of(name)
        if own is not None:
            losses[name] = round(own * progress * layer.weights)
    shared = [name for name in profiles if name not in losses]
    if shared:
        scale = DISTRIBUTIONS["global" if (recipe.scope or scope) == "global" else recipe.distribution]
        scores = [scale(profiles[name].levels, profiles[name].counts) for name in shared]
        counts = [profiles[name].counts for name in shared]
        if recipe.quality is not None:
            threshold = recipe.quality * progress
            if (recipe.scope or scope) == "global":
                threshold *= deviation(profiles[name] for name in shared)
            below = [int(size[score < threshold].sum()) for score, size in zip(scores, counts, strict=True)]
        else:
            below = _below_one_threshold(scores, counts, _remaining(recipe, progress, profiles, losses, shared))
        losses.update(zip(shared, below, strict=True))
    floored = tuple(name for name in profiles if losses[name] >= profiles[name].weights)
    losses.update({name: profiles[name].weights - 1 for name in floored})
    return losses, floored


def _below_one_threshold(scores: list[Array], counts: list[Array], total: int) -> list[int]:
    """How many of the `total` lowest-scored weights lie in each layer; of equal scores the earlier layer's go first."""
    order = np.argsort(np.concatenate(scores), kind="stable")
    sizes = np.concatenate(counts)[order]
    before = np.cumsum(sizes) - sizes
    taken = np.zeros_like(sizes)
    taken[order] = np.clip(total - before, 0, sizes)
    ends = np.cumsum([len(score) for score in scores])[:-1]
    return [int(part.sum()) for part in np.split(taken, ends)]


def _remaining(
    recipe: Recipe, progress: float, profiles: Mapping[str, Profile], losses: dict[str, int], shared: list[str]
) -> int:
    """How many weights the layers without a fraction of their own must lose together."""
    total = sum(layer.weights for layer in profiles.values())
    available = sum(profiles[name].weights for name in shared)
    removed = sum(losses.values())
    wanted = round(recipe.prune * progress * total) - removed
    if wanted >= available and not losses:
        raise RecipeError(f"prune is {recipe.prune}, which removes all {total} weights: prune less")
    if wanted >= available:
        raise RecipeError(
            f"prune is {recipe.prune}, but the layers with fractions of their own lose only {removed} of {total} "
            f"weights and the others have {available}: lower prune, or raise those fractions"
        )
    return max(wanted, 0)


def keep_mask(saliency: torch.Tensor, losses: int) -> torch.Tensor:
    """A mask (bool, like `saliency`) that is False for the `losses` lowest; of equal ones the first go."""
    keep = np.concatenate([np.zeros(0, dtype=bool), *_kept(saliency, losses)])
    return torch.from_numpy(keep).reshape(saliency.shape).to(saliency.device)


@torch.no_grad()
def prune_in_place(weight: torch.Tensor, losses: int) -> None:
    """Set the `losses` smallest of `weight`, contiguous, to +0; beside it, memory for one chunk is taken."""
    flat, start = weight.view(-1), 0
    for kept in _kept(weight, losses):
        flat[start : start + len(kept)].masked_fill_(torch.from_numpy(~kept).to(weight.device), 0.0)
        start += len(kept)


def _kept(saliency: torch.Tensor, losses: int) -> Iterator[Array]:
    """For each of the `chunks` of a layer, which of its weights are kept."""
    level, ties = lowest(saliency, losses) if losses else (-1.0, 0)
    for part in chunks(saliency):
        kept = part > level
        equal = np.flatnonzero(part == level)
        kept[equal[ties:]] = True
        ties = max(ties - len(equal), 0)
        yield kept


def check_alive(masks: Masks, empty: Collection[str] = ()) -> None:
    """Refuse masks that leave a layer without any weight, unless it is one of `empty`.

    Raises:
        PruneError: naming the layer.
    """
    for name in masks.keep:
        if name not in empty and masks.kept(name) == 0:
            raise PruneError(
                f"layer {name} would lose its last weight: prune less, or set a fraction for it with --layer"
            )
