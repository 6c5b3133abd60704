"""Networks that compute weights from other tensors: studies prune and name the weights, and leave the network alone."""

from __future__ import annotations

import pytest
import torch
from samples import Mlp, blobs
from torch.nn.utils import parametrizations, prune

from deepcompress.recipe import Recipe
from deepcompress.studies import compare, search, sensitivity, sweep
from deepcompress.studies.points import Point
from deepcompress.training.data import DataSet

QUICK = Recipe(prune=0.5, bits=4, epochs=1, iterations=1, finetune_epochs=0, batch_size=64)


WEIGHTS = {"fc1.weight", "fc2.weight", "fc3.weight"}


def normed():
    torch.manual_seed(0)
    network = Mlp()
    parametrizations.weight_norm(network.fc1)
    prune.identity(network.fc3, "weight")
    return network, DataSet("blobs", *blobs(128, 1), *blobs(64, 2), *blobs(64, 3))


@pytest.fixture
def model():
    """The network and its data; afterwards the network is as it was."""
    network, data = normed()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    yield network, data
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_sensitivity(model):
    network, data = model
    rows = sensitivity.sensitivity(network, data.val_loader(), [0.5])
    assert {row.layer for row in rows} == WEIGHTS


def test_compare(model):
    network, data = model
    assert compare.ranking_layer(network, QUICK) == "fc3.weight"
    rows = list(compare.compare(network, data, ["magnitude"], [0.5], Recipe(epochs=0)))
    assert [row.failure for row in rows] == ["", ""]
    assert rows[1].sparsity == pytest.approx(0.5, abs=0.01)


def test_sweep(model, tmp_path):
    network, data = model
    [outcome] = sweep.sweep(network, data, [Point("one", QUICK)], tmp_path)
    assert (outcome.failure, outcome.kept) == ("", pytest.approx(0.5, abs=0.01))


def test_search(model, tmp_path):
    network, data = model
    recipe = Recipe(epochs=1, finetune_epochs=1)  # a search decides itself how much is pruned
    found = search.search(network, data, recipe, 100, tmp_path, trials=1)
    assert found.best is not None
    assert search.deliver(found, network, data, tmp_path / "x.dc").accuracy_after is not None
