"""The diagonal of the empirical Fisher matrix, against gradients taken one by one and by hand."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from samples import conv_net
from torch import nn

from deepcompress.errors import DataError
from deepcompress.prune.fisher import DAMPING, diagonal
from deepcompress.training.objective import Classification


def by_hand(model, weights, samples, objective=lambda logits, x, y: F.cross_entropy(logits, y)):
    """Mean squared gradients, as the definition has them."""
    work = copy.deepcopy(model).eval()
    parameters = dict(work.named_parameters())
    total = {name: torch.zeros_like(parameters[name]) for name in weights}
    for x, y in samples:
        gradients = torch.autograd.grad(objective(work(x[None]), x[None], y[None]), [parameters[n] for n in weights])
        for name, gradient in zip(weights, gradients, strict=True):
            total[name] += gradient**2
    return {name: value / len(samples) for name, value in total.items()}


def test_it_is_the_mean_of_squared_gradients_of_single_samples(mlp, flat_train):
    weights = {name: value for name, value in mlp.named_parameters() if value.ndim == 2}
    samples = [(x, y) for batch in flat_train for x, y in zip(*batch, strict=True)]
    for count, batches in ((100, flat_train), (10**6, flat_train)):
        found = diagonal(mlp, weights, batches, samples=count)
        for name, wanted in by_hand(mlp, weights, samples[:count]).items():
            assert found[name].dtype is torch.float32
            torch.testing.assert_close(found[name], wanted + DAMPING * float(wanted.mean()))


def test_the_objective_is_the_one_of_training(mlp, flat_train):
    weights = {"fc1.weight": mlp.fc1.weight}
    smooth = Classification(label_smoothing=0.3)
    samples = list(zip(*flat_train[0], strict=True))
    wanted = by_hand(mlp, weights, samples, smooth)["fc1.weight"]
    found = diagonal(mlp, weights, flat_train[:1], smooth)["fc1.weight"]
    torch.testing.assert_close(found, wanted + DAMPING * float(wanted.mean()))


def test_the_network_stays_as_it_was(image_train):
    torch.manual_seed(0)
    model = conv_net(batch_norm=True)
    model.train()
    before = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    diagonal(model, {"0.weight": model[0].weight}, image_train, samples=5)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_dead_inputs_and_what_is_not_trained_still_count(flat_train):
    model = nn.Linear(12, 4)
    batches = [(torch.cat([x[:, :6], torch.zeros(len(x), 6)], dim=1), y) for x, y in flat_train]
    found = diagonal(model, {"weight": model.weight}, batches)["weight"]
    assert (found > 0).all()
    assert found[:, 6:].max() == found.min()
    frozen = diagonal(model, {"other": torch.ones(2, 3)}, batches)["other"]
    assert torch.equal(frozen, torch.ones(2, 3))


def test_no_samples(mlp):
    with pytest.raises(DataError, match="has none"):
        diagonal(mlp, {"fc1.weight": mlp.fc1.weight}, [])
