"""The criterion that predicts nothing: the loss is measured without each weight."""

from __future__ import annotations

from typing import Any

import torch

from deepcompress.networks.inputs import count_samples
from deepcompress.prune.criteria.base import Evidence, Scores, criterion, samples
from deepcompress.prune.criteria.gradients import evaluating, loss, mean_gradient

Batch = tuple[Any, Any]

#: Most measurements for a layer, each a forward pass over the samples. A layer of no more weights is measured exactly,
#: one weight at a time; of a larger one, groups of weights.
BUDGET = 1024


@criterion("empirical")
def empirical(evidence: Evidence) -> Scores:
    """The rise of the mean loss over the samples when a weight alone becomes zero; negative where it falls.

    In a layer of more than `BUDGET` weights those are sorted by |g·w| (see `taylor1`) and cut into `BUDGET` groups of
    the same size. A group is removed as one, and each of its weights gets an equal share of the rise: so weights are
    told apart as far as groups are. Weights that are pruned already are not measured.

    At most `BUDGET` forward passes over the samples for each layer, the dearest of all criteria; with fewer
    `score_samples` it is cheaper. Memory for a changed copy of one layer, and for the gradients where a layer is large.
    """
    batches = list(samples(evidence))
    large = any(mask.sum() > BUDGET for mask in evidence.masks.keep.values())
    slope = mean_gradient(evidence) if large else evidence.weights
    with evaluating(evidence), torch.no_grad():
        before = _mean_loss(evidence, {}, batches)
        return {
            name: _rises(evidence, name, _order(weight, slope[name], evidence.masks.keep[name]), before, batches)
            for name, weight in evidence.weights.items()
        }


def _order(weight: torch.Tensor, slope: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Positions (in the flat layer) of the weights that are there, by |g·w|."""
    alive = keep.flatten().nonzero().flatten()
    return alive[(weight.flatten() * slope.flatten())[alive].abs().argsort(stable=True)]


def _rises(evidence: Evidence, name: str, order: torch.Tensor, before: float, batches: list[Batch]) -> torch.Tensor:
    """The score of each weight of a layer, measured in groups along `order`."""
    weight = evidence.weights[name].detach()
    scores = torch.zeros(weight.numel(), device=weight.device)
    for group in order.tensor_split(min(BUDGET, max(len(order), 1))):
        without = weight.clone(memory_format=torch.contiguous_format)
        without.view(-1)[group] = 0.0
        rise = _mean_loss(evidence, {name: without}, batches) - before
        scores[group] = rise / max(len(group), 1)
    return scores.view(weight.shape)


def _mean_loss(evidence: Evidence, weights: dict[str, torch.Tensor], batches: list[Batch]) -> float:
    """Over all samples, with `weights` in place of the network's own."""
    total = sum(float(loss(evidence, weights, x, y)) * count_samples(y) for x, y in batches)
    return total / sum(count_samples(y) for _, y in batches)
