"""Criteria of whole units: neurons, filters, and residual blocks (`prune.units`).

A unit's score is written into all its rows, so that these are criteria like the others; the cut takes whole units. What
the next layers get is measured where they read it: after batch norm, activation and pooling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from deepcompress.errors import DataError
from deepcompress.networks.copies import copied
from deepcompress.networks.inputs import count_samples, each_tensor, in_float32, predict, tensors_in
from deepcompress.prune.blocks import Block, residual_blocks
from deepcompress.prune.coupling import in_float64
from deepcompress.prune.criteria.base import Evidence, Scores, criterion, samples
from deepcompress.prune.criteria.gradients import evaluating
from deepcompress.prune.units import Group

Observer = Callable[[str, torch.Tensor], None]


@criterion("filters-l1", scope="layer", units="channels")
def filters_l1(evidence: Evidence) -> Scores:
    """The sum of a filter's absolute weights (Li et al. 2017, section 3.1); of coupled filters the mean. No data."""
    norms = {name: weight.detach().flatten(1).abs().sum(dim=1) for name, weight in evidence.weights.items()}
    return spread(evidence, norms)


@criterion("filters-taylor", units="channels")
def filters_taylor(evidence: Evidence) -> Scores:
    """|mean of activation × gradient over a feature map|, averaged over samples (Molchanov et al. 2017, equation 8).

    Divided by the l2 norm of its layer (there section 2.2), so that layers compare. Where several layers read a unit,
    what it is worth to each is added. One forward and one backward pass over the samples.
    """
    totals = [torch.zeros(group.count, dtype=torch.float64) for group in evidence.groups]
    done = 0
    with evaluating(evidence):
        for x, y in samples(evidence):
            size, seen = count_samples(y), Seen()
            with observing(evidence, seen):
                loss = evidence.objective(in_float32(predict(evidence.model, x)), x, y)
            worth = [torch.zeros(size, group.count, dtype=torch.float64) for group in evidence.groups]
            # The loss is the mean of the samples': the gradient of each one's own is that many times as large.
            for name, value, gradient in seen.gradients(loss * size):
                product = _by_column(evidence, name, value.double() * gradient)
                for number, group in _readers(evidence, name):
                    worth[number].add_(_mean_of_units(product, group, name).cpu())
            for total, of_batch in zip(totals, worth, strict=True):
                total.add_(of_batch.abs().sum(dim=0))
            done += size
    means = [total / _counted(evidence, done) for total in totals]
    return spread_units(evidence, [mean / mean.norm().clamp_min(1e-300) for mean in means])


@criterion("inactive", units="channels")
def inactive(evidence: Evidence) -> Scores:
    """How often a unit is not zero: 1 less the average percentage of zeros, APoZ (Hu et al. 2016, section 2.1).

    As the next layers see it, over all samples and positions; after a pooling a window is zero only as a whole. A unit
    that is zero on all samples scores 0.
    """
    nonzero = [torch.zeros(group.count, dtype=torch.float64) for group in evidence.groups]
    read = [0.0] * len(nonzero)

    def count(name: str, value: torch.Tensor) -> None:
        active = _by_column(evidence, name, (value.detach() != 0).double())
        for number, group in _readers(evidence, name):
            nonzero[number].add_(_mean_of_units(active, group, name).sum(dim=0).cpu())
            read[number] += len(active)

    with evaluating(evidence), torch.no_grad(), observing(evidence, count):
        for x, _ in samples(evidence):
            predict(evidence.model, x)
    return spread_units(evidence, [part / _counted(evidence, times) for part, times in zip(nonzero, read, strict=True)])


@criterion("nisp", scope="layer", units="channels")
def nisp(evidence: Evidence) -> Scores:
    """Importance propagated back from the network's outputs, through the absolute weights (Yu et al. 2018, equation 7).

    All outputs count 1; the paper ranks those of the last layer before it by a feature selection of its own. A unit's
    importance is what flows to it along all paths: the derivative of the sum of the outputs of a network that has the
    absolute weights, and no biases, and so small an input that its activations are linear. Batch norm scales. Only the
    shape of one sample is needed.
    """
    probe = _absolute(evidence.model)
    x = each_tensor(
        in_float64(next(samples(evidence))[0]), lambda t: torch.full_like(t[:1], 1e-6 if t.is_floating_point() else 0)
    )
    found, seen = [torch.zeros(group.count, dtype=torch.float64) for group in evidence.groups], Seen()
    with torch.enable_grad(), observing(evidence, seen, probe):
        outputs = [value.sum() for value in tensors_in(predict(probe, x)) if value.is_floating_point()]
    for name, _, gradient in seen.gradients(torch.stack(outputs).sum()):
        flow = _by_column(evidence, name, gradient).sum(dim=(0, 2))
        for number, group in _readers(evidence, name):
            units = group.columns[name]
            found[number].index_add_(0, units[units >= 0], flow[units >= 0])
    return spread_units(evidence, found)


def _absolute(model: nn.Module) -> nn.Module:
    """A copy in float64 with absolute weights and scales and without biases, in evaluation mode."""
    probe = copied(model).cpu().double().eval()
    with torch.no_grad():
        for module in probe.modules():
            scales = isinstance(module, _BatchNorm)
            for name, value in module.named_parameters(recurse=False):
                value.copy_(value.abs() if value.ndim > 1 or (scales and name == "weight") else torch.zeros_like(value))
            if isinstance(module, _BatchNorm) and module.running_mean is not None:
                module.running_mean.zero_()
    return probe.requires_grad_(True)


@criterion("blocks-epsilon", units="blocks")
def blocks_epsilon(evidence: Evidence) -> Scores:
    """The largest response of a residual branch to any sample: the epsilon from which on it is the identity.

    epsilon-ResNet (Yu et al. 2018, section 3) discards the branches of which all responses stay below epsilon, and
    makes that a strict identity. Here the fraction that is to be pruned says how many go, and so the epsilon.
    """
    found = {block.last: (block, 0.0) for block in residual_blocks(evidence.model)}

    def keep(last: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            found[last] = (found[last][0], max(found[last][1], float(output.detach().abs().max())))

        return hook

    handles = [evidence.model.get_submodule(last).register_forward_hook(keep(last)) for last in found]
    try:
        with evaluating(evidence), torch.no_grad():
            for x, _ in samples(evidence):
                predict(evidence.model, x)
    finally:
        for handle in handles:
            handle.remove()
    responses = [_response(group, found) for group in evidence.groups]
    return spread_units(evidence, [torch.tensor([response], dtype=torch.float64) for response in responses])


def _response(group: Group, found: Mapping[str, tuple[Block, float]]) -> float:
    modules = {name.rpartition(".")[0] for name in group.rows}
    return next(response for block, response in found.values() if modules <= set(block.modules))


class Seen:
    """An observer that keeps what it is told, for gradients."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.values: list[torch.Tensor] = []

    def __call__(self, name: str, value: torch.Tensor) -> None:
        """Keep an input of the layer with this weight."""
        self.names.append(name)
        self.values.append(value)

    def gradients(self, value: torch.Tensor) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
        """Names, inputs, and the gradient of a scalar by each."""
        found = torch.autograd.grad(value, self.values, allow_unused=True, materialize_grads=True)
        yield from zip(self.names, (seen.detach() for seen in self.values), found, strict=True)


def spread_units(evidence: Evidence, scores: list[torch.Tensor]) -> Scores:
    """Scores of the units of each group as scores of the rows they are in; rows of no unit score 0."""
    rows = {name: torch.zeros(len(weight), dtype=torch.float64) for name, weight in evidence.weights.items()}
    for group, of_units in zip(evidence.groups, scores, strict=True):
        for name, units in group.rows.items():
            rows[name][units >= 0] = of_units[units[units >= 0]]
    return spread(evidence, rows)


def spread(evidence: Evidence, rows: Mapping[str, torch.Tensor]) -> Scores:
    """One score for each row of each weight tensor as one for each weight."""
    return {
        name: rows[name].to(weight.device).float().reshape(-1, *[1] * (weight.ndim - 1)).expand(weight.shape)
        for name, weight in evidence.weights.items()
    }


@contextmanager
def observing(evidence: Evidence, observe: Observer, model: nn.Module | None = None) -> Iterator[None]:
    """While it lasts, `observe` is told what each layer that reads units gets: its weight's name, and the input.

    The inputs have gradients. `model` is a copy of the network, if it is not that itself.
    """
    model = evidence.model if model is None else model

    def hook_of(name: str) -> Callable[..., tuple[torch.Tensor, ...]]:
        def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            value = inputs[0]
            if torch.is_grad_enabled() and not value.requires_grad:
                value = value.detach().requires_grad_()
            observe(name, value)
            return (value, *inputs[1:])

        return hook

    names = {name for group in evidence.groups for name in group.columns}
    handles = [model.get_submodule(name.rpartition(".")[0]).register_forward_pre_hook(hook_of(name)) for name in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _readers(evidence: Evidence, name: str) -> list[tuple[int, Group]]:
    """The groups, with their numbers, whose units the weight tensor `name` reads."""
    return [(number, group) for number, group in enumerate(evidence.groups) if name in group.columns]


def _by_column(evidence: Evidence, name: str, value: torch.Tensor) -> torch.Tensor:
    """An input of a layer as (samples, columns, positions): channels of a linear layer are last, of others second."""
    if evidence.weights[name].ndim == 2:
        return value.reshape(len(value), -1, value.shape[-1]).transpose(1, 2)
    return value.flatten(2)


def _mean_of_units(value: torch.Tensor, group: Group, name: str) -> torch.Tensor:
    """(samples, columns, positions) to the mean over what each unit has there: (samples, units)."""
    units = group.columns[name].to(value.device)
    mine, means = units >= 0, value.mean(dim=2)
    total = value.new_zeros(len(value), group.count).index_add_(1, units[mine], means[:, mine])
    size = value.new_zeros(group.count).index_add_(0, units[mine], torch.ones_like(units[mine], dtype=value.dtype))
    return total / size.clamp_min(1)


def _counted(evidence: Evidence, count: float) -> float:
    if not count:
        raise DataError(f"criterion {evidence.recipe.criterion} looks at training samples, but the data has none")
    return count
