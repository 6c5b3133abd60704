"""Criteria that learn which weights matter: each weight is multiplied by a factor, and a penalty pulls at the factors.

The weights themselves stay fixed. All factors start at 1, and those that the loss does not defend fall. The idea is
Mozer and Smolensky's (1989), whose factors ("attentional strengths") belong to units and who take the loss's
derivative by them; here, as in methods since, they are trained. The score is the factor's absolute value alone, not
times the weight's: it says what became of the weight, whatever its scale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from deepcompress.prune.criteria.base import Evidence, Scores, criterion, samples
from deepcompress.prune.criteria.gradients import Tensors, evaluating, gradients, loss

STEPS = 200  # of Adam, a batch each
RATE = 0.01  # so a factor that nothing defends comes from 1 to 0 in a hundred steps
PULL = 0.1  # of the penalty on a factor of 1, in root mean squares of the loss's gradient by one factor

Batch = tuple[Any, Any]


@criterion("l1-factor")
def l1_factor(evidence: Evidence) -> Scores:
    """|factor| under an L1 penalty, whose pull is the same however small the factor. Cost as in `_trained`."""
    return _trained(evidence, torch.sign)


@criterion("l2-factor")
def l2_factor(evidence: Evidence) -> Scores:
    """|factor| under an L2 penalty, whose pull is in proportion to the factor. Cost as in `_trained`."""
    return _trained(evidence, lambda factor: factor)


def _trained(evidence: Evidence, pull: Callable[[torch.Tensor], torch.Tensor]) -> Scores:
    """The absolute factors after `STEPS` steps over the samples, in evaluation mode, with the gradient `pull`.

    All gradients are in units of the root mean square of the loss's by the factors at the start, over all batches, so
    that the penalty means the same for every network. A forward and a backward pass over a batch for each step, and
    five float32 for each weight: the factor, its gradient, two moments, and the product with the weight.
    """
    batches = list(samples(evidence))
    factors = {
        name: torch.ones_like(weight, dtype=torch.float32, requires_grad=True)
        for name, weight in evidence.weights.items()
    }
    optimizer = torch.optim.Adam(list(factors.values()), lr=RATE)
    with evaluating(evidence) as weights:
        unit = _unit(_slopes(evidence, weights, factors, batch) for batch in batches)
        for step in range(STEPS):
            for name, slope in _slopes(evidence, weights, factors, batches[step % len(batches)]).items():
                factors[name].grad = slope / unit + PULL * pull(factors[name].detach())
            optimizer.step()
    return {name: factor.detach().abs() for name, factor in factors.items()}


def _slopes(evidence: Evidence, weights: Tensors, factors: Tensors, batch: Batch) -> Tensors:
    """The gradient of a batch's loss by each factor."""
    product = {name: (weight.detach() * factors[name]).to(weight.dtype) for name, weight in weights.items()}
    return gradients(loss(evidence, product, *batch), factors)


def _unit(slopes: Iterable[Tensors]) -> float:
    """The root mean square of gradients; 1 where all are zero, and nothing but the penalty pulls."""
    total = count = 0.0
    for slope in slopes:
        total += sum(float(part.double().square().sum()) for part in slope.values())
        count += sum(part.numel() for part in slope.values())
    return (total / count) ** 0.5 if total > 0 else 1.0
