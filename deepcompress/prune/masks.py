"""Masks: which weights of each layer are kept, decided by one cut through all layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from deepcompress.errors import PruneError, RecipeError
from deepcompress.prune.scores import CRITERIA, DISTRIBUTIONS
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

    @torch.no_grad()
    def apply(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Set the pruned weights to exactly +0, in place."""
        for name, mask in self.keep.items():
            weights[name].masked_fill_(~mask, 0.0)

    def kept(self, name: str) -> int:
        """Surviving weights of a layer."""
        return int(self.keep[name].sum())

    def density(self, name: str) -> float:
        """Surviving fraction of a layer."""
        return self.kept(name) / self.keep[name].numel()

    @property
    def sparsity(self) -> float:
        """Removed fraction over all layers."""
        total = sum(mask.numel() for mask in self.keep.values())
        return 1 - sum(map(self.kept, self.keep)) / total


@dataclass(frozen=True)
class Cut:
    """The outcome of one cut: the masks, and the layers that would have been emptied and keep one weight instead."""

    masks: Masks
    floored: tuple[str, ...]


@torch.no_grad()
def cut(weights: Mapping[str, torch.Tensor], recipe: Recipe, progress: float = 1.0) -> Cut:
    """Decide which weights stay, `progress` (0..1) of the way to the recipe's sparsity.

    Layers with a fraction of their own lose just that; the others share what is left of the total.
    Weights that are zero already are always the first to go. Ties are broken by position.

    Raises:
        RecipeError: the layers' own fractions leave more than the others can make up for.
    """
    saliency = {
        name: CRITERIA[recipe.criterion](weight).float().flatten().cpu().numpy() for name, weight in weights.items()
    }
    own = {name: fraction for name in weights if (fraction := recipe.prune_of(name)) is not None}
    keep = {
        name: _drop_lowest(saliency[name], round(fraction * progress * saliency[name].size))
        for name, fraction in own.items()
    }
    shared = [name for name in weights if name not in own]
    if shared:
        scale = DISTRIBUTIONS["global" if recipe.scope == "global" else recipe.distribution]
        scores = np.concatenate([scale(saliency[name]) for name in shared])
        if recipe.quality is not None:
            kept = scores >= recipe.quality * progress
        else:
            kept = _drop_lowest(scores, _share(recipe, progress, saliency, keep, len(scores)))
        ends = np.cumsum([saliency[name].size for name in shared])[:-1]
        keep.update(zip(shared, np.split(kept, ends), strict=True))
    floored = tuple(name for name in weights if not keep[name].any())
    for name in floored:
        keep[name][int(np.argmax(saliency[name]))] = True
    masks = {
        name: torch.from_numpy(keep[name]).to(weight.device).reshape(weight.shape) for name, weight in weights.items()
    }
    return Cut(Masks(masks), floored)


def _share(recipe: Recipe, progress: float, saliency: dict[str, Array], own: dict[str, Array], available: int) -> int:
    """How many weights the layers without a fraction of their own must lose together."""
    total = sum(values.size for values in saliency.values())
    removed = sum(int((~mask).sum()) for mask in own.values())
    wanted = round(recipe.prune * progress * total) - removed
    if wanted >= available and not own:
        raise RecipeError(f"prune is {recipe.prune}: none of the {total} weights would be left; prune less")
    if wanted >= available:
        raise RecipeError(
            f"prune is {recipe.prune}, but the layers with fractions of their own lose only {removed} of {total} "
            f"weights and the others have {available}: lower prune, or raise those fractions"
        )
    return max(wanted, 0)


def _drop_lowest(scores: Array, count: int) -> Array:
    """A mask that is False for the `count` lowest scores; of equal ones the first go."""
    keep = np.ones(len(scores), dtype=bool)
    if count <= 0:
        return keep
    threshold = np.partition(scores, count - 1)[count - 1]
    keep[scores < threshold] = False
    ties = np.flatnonzero(scores == threshold)
    keep[ties[: count - int((~keep).sum())]] = False
    return keep


def check_alive(masks: Masks) -> None:
    """Refuse masks that leave a layer without any weight.

    Raises:
        PruneError: naming the layer.
    """
    for name in masks.keep:
        if masks.kept(name) == 0:
            raise PruneError(
                f"layer {name} would lose its last weight: prune less, or set a fraction for it with --layer"
            )
