"""What criteria that look at data share: the loss as a function of the weights, and its derivatives.

The network is never written to. Its weights are handed to it from outside, as leaves of the graph (torch.func's
functional_call), so that frozen parameters and buffers have gradients like any other, tied weights the sum of all their
uses, and `.grad` and `requires_grad` stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.func import functional_call

from deepcompress.errors import NetworkError
from deepcompress.networks.inputs import arguments, count_samples, in_float32
from deepcompress.prune.criteria.base import Evidence, samples

Tensors = dict[str, torch.Tensor]

TWICE = (
    "the criterion needs second derivatives, and the network cannot be differentiated twice: {}; choose a criterion "
    "that needs none, such as taylor1"
)


@contextmanager
def evaluating(evidence: Evidence) -> Iterator[Tensors]:
    """The weights as leaves of a graph, by name, sharing their memory; the network is in evaluation mode meanwhile.

    So dropout passes everything and batch norm uses its running statistics. Afterwards each module has its mode again.
    """
    modes = [(module, module.training) for module in evidence.model.modules()]
    evidence.model.eval()
    try:
        with torch.enable_grad():
            yield {name: weight.detach().requires_grad_() for name, weight in evidence.weights.items()}
    finally:
        for module, training in modes:
            module.training = training


def loss(evidence: Evidence, weights: Mapping[str, torch.Tensor], x: Any, y: Any) -> torch.Tensor:
    """The mean loss of a batch (a scalar), the network having `weights` in place of its own of these names."""
    return evidence.objective(outputs(evidence, weights, x), x, y)


def outputs(evidence: Evidence, weights: Mapping[str, torch.Tensor], x: Any) -> Any:
    """What the network makes of a batch with `weights`, in float32."""
    own = {id(value): name for name, value in evidence.model.named_parameters()}  # as attributes, not in the state_dict
    given = {own.get(id(evidence.weights[name]), name): value for name, value in weights.items()}
    return in_float32(functional_call(evidence.model, given, *arguments(x)))


def gradients(value: torch.Tensor, weights: Tensors, create_graph: bool = False, keep: bool = False) -> Tensors:
    """Of a scalar by each weight; zero where it does not depend on it. `keep` holds the graph for another time.

    Raises:
        NetworkError: with `create_graph`, an operation of the network cannot be differentiated again.
    """
    found = torch.autograd.grad(
        value,
        list(weights.values()),
        create_graph=create_graph,
        retain_graph=keep or create_graph,
        allow_unused=True,
        materialize_grads=True,
    )
    if create_graph:
        _check_twice(found)
    return dict(zip(weights, found, strict=True))


def _check_twice(slopes: Sequence[torch.Tensor]) -> None:
    """Refuse a graph with an end where an operation has no second derivative: autograd would pass by it, with zeros."""
    todo, seen = [slope.grad_fn for slope in slopes], set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() in ("torch::autograd::Error", "torch::autograd::NotImplemented"):
            raise NetworkError(TWICE.format("an operation of its own allows it once"))
        todo += [following for following, _ in node.next_functions]


def mean_gradient(evidence: Evidence) -> Tensors:
    """The gradient of the mean loss over the recipe's `score_samples`, float32 like each weight.

    One forward and one backward pass over the samples; memory for the gradients of one batch beside the sum.

    Raises:
        RecipeError: there is no training data.
        DataError: it has no samples.
    """
    return over_samples(evidence, lambda weights, x, y: gradients(loss(evidence, weights, x, y), weights))


def over_samples(evidence: Evidence, of: Callable[[Tensors, Any, Any], Tensors]) -> Tensors:
    """The mean over the samples of what `of` gives for the weights and a batch (x, y), float32.

    Raises:
        RecipeError: there is no training data.
        DataError: it has no samples.
    """
    totals, count = zeros(evidence), 0
    with evaluating(evidence) as weights:
        for x, y in samples(evidence):
            for name, value in of(weights, x, y).items():
                totals[name].add_(value.float(), alpha=count_samples(y))
            count += count_samples(y)
    return mean(totals, count)


def zeros(evidence: Evidence) -> Tensors:
    """A float32 zero for each weight."""
    return {name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in evidence.weights.items()}


def mean(totals: Tensors, count: int) -> Tensors:
    """Sums over `count` samples as means, in place."""
    return {name: total.div_(count) for name, total in totals.items()}
