"""Factors that are learned: what the loss defends stays up, what it does not falls."""

from __future__ import annotations

import pytest
import torch
from samples import evidence_of
from torch import nn

from deepcompress.prune.criteria import CRITERIA, factors
from deepcompress.prune.criteria.base import Evidence
from deepcompress.prune.masks import Masks
from deepcompress.recipe import Recipe

BOTH = ("l1-factor", "l2-factor")


def regression(scale=1.0):
    """Four inputs, of which the target is the first alone; the others have weights that cancel or see nothing."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 4, generator=generator)
    x[:, 3] = 0  # never any input
    y = scale * x[:, :1]
    model = nn.Linear(4, 1, bias=False)
    model.weight.data = torch.tensor([[1.0, 0.02, -0.2, 1.0]])
    weights = {"weight": model.weight}
    objective = lambda output, x, y: (scale * output - y).square().mean()  # noqa: E731
    return Evidence(model, weights, Masks.full(weights), Recipe(), [(x, y)], objective)


@pytest.mark.parametrize("name", BOTH)
def test_useless_weights_fall_and_the_useful_one_stays(name):
    found = CRITERIA[name].judge(regression())["weight"][0]
    assert found[0] > 0.8
    assert found[1] < 0.3  # magnitude would say so as well
    assert found[2] < 0.3
    assert found[3] < 0.3  # and would not of this one, as large as the useful one


@pytest.mark.parametrize("name", BOTH)
def test_the_scale_of_the_loss_does_not_matter(name):
    first, second = (CRITERIA[name].judge(regression(scale))["weight"] for scale in (1.0, 100.0))
    assert torch.allclose(first, second, atol=1e-2)


def test_by_hand_for_one_step(monkeypatch):
    """Adam's first step is the rate times the sign of the gradient."""
    monkeypatch.setattr(factors, "STEPS", 1)
    found = CRITERIA["l1-factor"].judge(regression())["weight"][0]
    slope = torch.tensor([0.0])  # worked out: 2·mean(x·residual)·w, plus 0.1 root mean squares of it
    evidence = regression()
    ((x, y),) = evidence.batches
    residual = (x @ evidence.weights["weight"].detach().T - y) * 2 / len(x)
    slope = (residual.T @ x * evidence.weights["weight"].detach())[0]
    whole = slope / slope.square().mean().sqrt() + 0.1
    assert torch.allclose(found, 1 - 0.01 * whole.sign(), atol=1e-6)


@pytest.mark.parametrize("name", BOTH)
def test_a_network_that_no_weight_matters_to(name):
    """Nothing but the penalty pulls, at all alike."""
    model = nn.Linear(3, 2)
    weights = {"weight": model.weight}
    evidence = Evidence(
        model, weights, Masks.full(weights), Recipe(), [(torch.zeros(4, 3), torch.zeros(4, dtype=torch.long))]
    )
    found = CRITERIA[name].judge(evidence)["weight"]
    assert found.isfinite().all()
    assert (found == found[0, 0]).all()
    assert found.max() < 0.5


@pytest.mark.parametrize("name", BOTH)
def test_many_batches_are_taken_by_turns(name, dense, flat_train, flat_test):
    """On a trained network: what these factors leave of a layer is better than chance leaves."""
    weights = {"fc2.weight": dense.fc2.weight}
    evidence = evidence_of(weights, Recipe(criterion=name, score_samples=128), dense, flat_train)
    scores = CRITERIA[name].judge(evidence)["fc2.weight"].flatten()
    (x, y), kept = flat_test[0], dense.fc2.weight.data.clone()
    losses = []
    for order in (scores, torch.rand(scores.shape, generator=torch.Generator().manual_seed(0))):
        dense.fc2.weight.data.copy_(kept)
        dense.fc2.weight.data.view(-1)[order.argsort()[: 9 * len(order) // 10]] = 0
        dense.eval()
        losses.append(nn.functional.cross_entropy(dense(x), y).item())
    assert losses[0] < losses[1]
