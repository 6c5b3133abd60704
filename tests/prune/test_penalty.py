"""The biases of Hanson and Pratt: hand calculations, and the gradients that autograd finds."""

from __future__ import annotations

import math

import pytest
import torch

from deepcompress.prune.penalty import Penalty
from deepcompress.prune.stage import make_optimizer
from deepcompress.recipe import Recipe


def pulled(kind, weight, factor=1.0):
    """The gradient that the penalty adds to one of zero."""
    weight = torch.nn.Parameter(weight)
    weight.grad = torch.zeros_like(weight)
    Penalty({"a": weight}, Recipe(penalty=kind, penalty_weight=factor)).add()
    return weight.grad


@pytest.mark.parametrize(
    ("kind", "weak", "strong"),
    [("hyperbolic", 1 / 1.5**2, 1 / 2.5**2), ("exponential", math.exp(-0.5), math.exp(-1.5))],
)
def test_weak_units_are_pulled_harder(kind, weak, strong):
    """Strengths 1 and 3: in units of their mean, 0.5 and 1.5."""
    found = pulled(kind, torch.tensor([[0.25, -0.75, 0.0], [1.0, 1.0, -1.0]]), factor=2.0)
    expected = torch.tensor([[weak, -weak, 0.0], [strong, strong, -strong]])
    assert torch.allclose(found, 2 * expected)


BIASES = {
    "hyperbolic": lambda strength, gain: strength / (1 + gain * strength),
    "exponential": lambda strength, gain: (1 - torch.exp(-gain * strength)) / gain,
}


@pytest.mark.parametrize("shape", [(5, 7), (4, 3, 2, 2)])
@pytest.mark.parametrize("kind", BIASES)
def test_the_pull_is_the_gradient_of_the_bias(kind, shape):
    torch.manual_seed(0)
    weight = torch.randn(shape, requires_grad=True)
    strength = weight.abs().flatten(1).sum(dim=1)
    BIASES[kind](strength, 1 / strength.mean().detach()).sum().backward()
    assert torch.allclose(pulled(kind, weight.detach(), 0.1), 0.1 * weight.grad, atol=1e-7)


@pytest.mark.parametrize("kind", BIASES)
def test_scale_and_empty_layers_do_not_matter(kind):
    weight = torch.tensor([[0.5, -1.0], [2.0, 0.0]])
    assert torch.allclose(pulled(kind, weight), pulled(kind, 1000 * weight))
    assert pulled(kind, torch.zeros(2, 2)).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("kind", BIASES)
def test_no_weight_decay_beside_it(kind):
    made = make_optimizer(torch.nn.Linear(2, 2), Recipe(penalty=kind, penalty_weight=0.5))
    assert [group["weight_decay"] for group in made.param_groups] == [0]
