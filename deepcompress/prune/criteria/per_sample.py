"""The gradient of the loss for each sample alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.func import grad, vmap

from deepcompress.networks.inputs import count_samples, each_tensor, rows
from deepcompress.prune.criteria.base import Evidence, samples
from deepcompress.prune.criteria.gradients import Tensors, evaluating, gradients, loss

CHUNK = 32  # most samples whose gradients are there at once
ELEMENTS = 1 << 23  # most numbers in them, where one sample has not more


def per_sample_gradients(evidence: Evidence) -> Iterator[Tensors]:
    """Gradients of the loss of single samples, in evaluation mode; those of pruned weights are zero.

    At most `CHUNK` samples at a time, fewer where they are more than `ELEMENTS` numbers: by `torch.func.vmap`, or by
    batches of one where an operation of the network does not take part in that.

    Yields:
        for each weight one tensor (samples, *shape).

    Raises:
        RecipeError: there is no training data.
    """
    together = True
    with evaluating(evidence) as weights:
        size = max(1, min(CHUNK, ELEMENTS // max(sum(weight.numel() for weight in weights.values()), 1)))
        for x, y in samples(evidence):
            for start in range(0, count_samples(y), size):
                part = rows(x, start, start + size), rows(y, start, start + size)
                found = _together(evidence, weights, *part) if together else None
                together = found is not None
                found = found or _one_by_one(evidence, weights, *part)
                yield {name: value * evidence.masks.keep[name] for name, value in found.items()}


def _together(evidence: Evidence, weights: Tensors, x: Any, y: Any) -> Tensors | None:
    """None where vmap fails: it meets all of the user's forward, so that may happen in any way."""

    def single(weights: Tensors, x: Any, y: Any) -> torch.Tensor:
        return loss(evidence, weights, *(each_tensor(part, lambda tensor: tensor[None]) for part in (x, y)))

    fixed = {name: weight.detach() for name, weight in weights.items()}
    try:  # no_grad is for what surrounds `grad`: biases must not remember the way
        with torch.no_grad():
            found: Tensors = vmap(grad(single), in_dims=(None, 0, 0), randomness="different")(fixed, x, y)
    except Exception:
        return None
    return found


def _one_by_one(evidence: Evidence, weights: Tensors, x: Any, y: Any) -> Tensors:
    found = [
        gradients(loss(evidence, weights, rows(x, i, i + 1), rows(y, i, i + 1)), weights)
        for i in range(count_samples(y))
    ]
    return {name: torch.stack([single[name] for single in found]) for name in weights}
