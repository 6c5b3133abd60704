"""Criteria for networks that have not been trained yet; trained ones can be judged by them as well.

Both look at the gradient at the weights as they are. Batch norm that has not seen any batch yet has no statistics of
its own: it uses those of the batch, as it would in the first step of training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from deepcompress.networks.inputs import each_tensor
from deepcompress.prune.criteria.base import Evidence, Scores, criterion
from deepcompress.prune.criteria.gradients import Tensors, gradients, loss, over_samples, zeros

TEMPERATURE = 200.0  # of GraSP: outputs are divided by it, so that no class is sure at the start


@criterion("snip")
def snip(evidence: Evidence) -> Scores:
    """|g·w| over its sum: how much the loss minds the connection, at initialization (Lee, Ajanthan and Torr 2019).

    It is the size of dL/dc at c = 1 where each weight is c·w (section 4, equations 4 to 6). g is the gradient of the
    mean loss over the samples. The order is that of `taylor1`, but for batch norm that is new.
    """
    slope = _over_samples(evidence, lambda weights, x, y: gradients(loss(evidence, weights, x, y), weights))
    minds = {name: (slope[name] * weight.detach().float()).abs() for name, weight in evidence.weights.items()}
    total = sum(float(value.sum()) for value in minds.values())
    return {name: value / (total or 1.0) for name, value in minds.items()}


@criterion("grasp")
def grasp(evidence: Evidence) -> Scores:
    """θ·Hg: how much of the gradient's flow would be lost with the weight (Wang, Zhang and Grosse 2020, GraSP).

    Without the weight, |g|² changes by about twice ``S = -θ·Hg`` (section 4, equation 8). The paper removes the weights
    of the highest S: without them the gradient grows, or shrinks least. Here higher is more worth keeping, so the score
    is -S, of any sign. g and the Hessian H are of the mean loss over the samples, outputs being divided by
    `TEMPERATURE`, as the paper's code does with logits. Two passes, the second of them differentiated twice.
    """

    def softened(output: Any, x: Any, y: Any) -> torch.Tensor:
        return evidence.objective(each_tensor(output, lambda tensor: tensor / TEMPERATURE), x, y)

    soft = replace(evidence, objective=softened)
    slope = _over_samples(soft, lambda weights, x, y: gradients(loss(soft, weights, x, y), weights))

    def curved(weights: Tensors, x: Any, y: Any) -> Tensors:
        own = gradients(loss(soft, weights, x, y), weights, create_graph=True)
        along = torch.stack([(own[name] * slope[name].to(own[name].dtype)).sum() for name in weights]).sum()
        if not along.requires_grad:  # the loss is linear in the weights
            return zeros(evidence)
        return gradients(along, weights)

    product = _over_samples(soft, curved)
    return {name: product[name] * weight.detach().float() for name, weight in evidence.weights.items()}


def _over_samples(evidence: Evidence, of: Callable[[Tensors, Any, Any], Tensors]) -> Tensors:
    """As `over_samples`, but for batch norm that is new; arguments and what is raised as there."""

    def afresh(weights: Tensors, x: Any, y: Any) -> Tensors:
        with _first_statistics(evidence.model):
            return of(weights, x, y)

    return over_samples(evidence, afresh)


@contextmanager
def _first_statistics(model: nn.Module) -> Iterator[None]:
    """Meanwhile batch norm that has seen no batch uses each batch's own statistics, and learns nothing from them."""
    fresh = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.num_batches_tracked is not None
             and not m.num_batches_tracked and m.momentum != 0]  # fmt: skip
    kept = [{name: value.clone() for name, value in module.named_buffers()} for module in fresh]
    for module in fresh:
        module.train()
    try:
        yield
    finally:
        for module, buffers in zip(fresh, kept, strict=True):
            for name, value in buffers.items():
                getattr(module, name).copy_(value)
