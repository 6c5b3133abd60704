"""How saliencies of different layers compare.

What a weight is worth, its saliency, is a criterion's to say (`prune.criteria`). Here it is a tensor whose absolute
values count, so the weights themselves are those of magnitude pruning. A *distribution* rescales the saliencies of one
layer so that one threshold over all layers gives each layer its share: pruning is then always the same global cut, and
the strategies differ in the scale alone. It works on the *profile* of a layer: its levels of saliency in ascending
order and how many weights have each, so that the scores come out ascending.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from deepcompress.recipe import Recipe
from deepcompress.recipe.uses import check_unsearched

Array = np.ndarray[Any, np.dtype[Any]]


def lamp(levels: Array, counts: Array) -> Array:
    """Layer-adaptive magnitude (Lee et al. 2021, equation 5): s^2 over the sum of s^2 of all that are not smaller.

    The largest weight of every layer scores 1, so no layer is ever emptied, and a layer of few weights
    scores high as a whole: the first and the last layer of a network keep more, as they should.
    """
    squares = np.square(levels, dtype=np.float64)
    not_smaller = np.cumsum((squares * counts)[::-1])[::-1]
    scores: Array = np.divide(squares, not_smaller, out=np.zeros_like(squares), where=not_smaller > 0)
    return scores


def uniform(levels: Array, counts: Array) -> Array:
    """The rank within the layer as a fraction: one threshold removes the same fraction of every layer."""
    scores: Array = (np.cumsum(counts) - counts / 2) / counts.sum()
    return scores


def per_deviation(levels: Array, counts: Array) -> Array:
    """Saliency in units of the layer's root mean square: the threshold is Han's quality (Han et al. 2015, section 3).

    The mean of a layer's weights is so near zero that this is its standard deviation.
    """
    deviation = float(np.sqrt((np.square(levels, dtype=np.float64) * counts).sum() / counts.sum()))
    scores: Array = levels.astype(np.float64) / (deviation or 1.0)
    return scores


def unscaled(levels: Array, counts: Array) -> Array:
    """The saliency itself: one global threshold."""
    return levels.astype(np.float64)


DISTRIBUTIONS: dict[str, Callable[[Array, Array], Array]] = {
    "lamp": lamp,
    "uniform": uniform,
    "std": per_deviation,
    "global": unscaled,
}


def scale_of(recipe: Recipe, scope: str) -> Callable[[Array, Array], Array]:
    """The distribution of the recipe; one threshold where it, or else the criterion's `scope`, says so.

    Raises:
        RecipeError: fractions are to be found by trials (`prune.amc`), and none are found.
    """
    if (recipe.scope or scope) == "global":
        return DISTRIBUTIONS["global"]
    check_unsearched(recipe)
    return DISTRIBUTIONS[recipe.distribution]


EXACT_UP_TO = 1 << 16  # weights of a layer up to which every saliency is a level of its own
_KEY_SHIFT = 14  # of a larger one, float32 saliencies that agree but for their last 14 bits (0.2 %) are one level
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Profile:
    """The saliencies of one layer: levels in ascending order (float32), and how many weights have each (int64)."""

    levels: Array
    counts: Array

    @property
    def weights(self) -> int:
        """Number of weights."""
        return int(self.counts.sum())


def profile(saliency: torch.Tensor) -> Profile:
    """The saliencies of a layer, of any shape and floating-point dtype.

    Beside the tensor, memory for one chunk and the levels is taken.
    """
    parts = chunks(saliency)
    if saliency.numel() <= EXACT_UP_TO:
        levels = np.sort(np.concatenate(list(parts)))
        return Profile(levels, np.ones(len(levels), dtype=np.int64))
    counts = np.zeros(1 << (31 - _KEY_SHIFT), dtype=np.int64)
    for part in parts:
        counts += np.bincount(part.view(np.uint32) >> _KEY_SHIFT, minlength=len(counts))
    keys = np.flatnonzero(counts).astype(np.uint32)
    return Profile((keys << _KEY_SHIFT).view(np.float32), counts[keys])


def deviation(layers: Iterable[Profile]) -> float:
    """The root mean square of the saliencies of several layers together; see `per_deviation`."""
    total = weights = 0.0
    for layer in layers:
        total += float((np.square(layer.levels, dtype=np.float64) * layer.counts).sum())
        weights += layer.weights
    return float(np.sqrt(total / weights))


def chunks(saliency: torch.Tensor) -> Iterator[Array]:
    """The saliencies of a layer, flat and in order, as float32 arrays of at most a million."""
    flat = saliency.detach().reshape(-1)
    for start in range(0, len(flat), _CHUNK):
        yield np.abs(flat[start : start + _CHUNK].float().cpu().numpy())


def lowest(saliency: torch.Tensor, count: int) -> tuple[float, int]:
    """Where the `count` lowest saliencies end: all below the level go, and so many of those that equal it.

    By two histograms of the float32 bit patterns (of saliencies, which have no sign, these sort as the numbers do), so
    it is exact and takes no memory for the layer.
    """
    high = np.zeros(1 << 16, dtype=np.int64)
    for part in chunks(saliency):
        high += np.bincount(part.view(np.uint32) >> 16, minlength=len(high))
    top = int(np.searchsorted(high.cumsum(), count))
    left = count - int(high[:top].sum())
    low = np.zeros(1 << 16, dtype=np.int64)
    for part in chunks(saliency):
        bits = part.view(np.uint32)
        low += np.bincount(bits[bits >> 16 == top] & 0xFFFF, minlength=len(low))
    bottom = int(np.searchsorted(low.cumsum(), left))
    level = np.array(top << 16 | bottom, dtype=np.uint32).view(np.float32)
    return float(level), left - int(low[:bottom].sum())
