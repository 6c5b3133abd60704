"""What a weight is worth: its saliency, and how saliencies of different layers compare.

A *criterion* turns a weight tensor into saliencies of the same shape. A *distribution* rescales the
saliencies of one layer so that one threshold over all layers gives each layer its share: pruning is then
always the same global cut, and the strategies differ in the scale alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

Array = np.ndarray[Any, np.dtype[Any]]

CRITERIA: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "magnitude": torch.abs,
}


def lamp(saliency: Array) -> Array:
    """Layer-adaptive magnitude (Lee et al. 2021, equation 5): s^2 over the sum of s^2 of all that are not smaller.

    The largest weight of every layer scores 1, so no layer is ever emptied, and a layer of few weights
    scores high as a whole: the first and the last layer of a network keep more, as they should.

    Args:
        saliency: one-dimensional, not negative.
    """
    order = np.argsort(saliency, kind="stable")
    squares = np.square(saliency[order], dtype=np.float64)
    not_smaller = np.cumsum(squares[::-1])[::-1]
    scores = np.empty_like(squares)
    scores[order] = np.divide(squares, not_smaller, out=np.zeros_like(squares), where=not_smaller > 0)
    return scores


def uniform(saliency: Array) -> Array:
    """The rank within the layer as a fraction: one threshold removes the same fraction of every layer."""
    scores = np.empty(len(saliency), dtype=np.float64)
    scores[np.argsort(saliency, kind="stable")] = (np.arange(len(saliency)) + 0.5) / len(saliency)
    return scores


def per_deviation(saliency: Array) -> Array:
    """Saliency in units of the layer's root mean square: the threshold is Han's quality (Han et al. 2015, section 3).

    The mean of a layer's weights is so near zero that this is its standard deviation.
    """
    deviation = float(np.sqrt(np.mean(np.square(saliency, dtype=np.float64))))
    return saliency.astype(np.float64) / (deviation or 1.0)


def unscaled(saliency: Array) -> Array:
    """The saliency itself: one global threshold."""
    return saliency.astype(np.float64)


DISTRIBUTIONS: dict[str, Callable[[Array], Array]] = {
    "lamp": lamp,
    "uniform": uniform,
    "std": per_deviation,
    "global": unscaled,
}
