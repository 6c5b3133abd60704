"""Scales and shifts of folded batch norms learn behind their grids, while weights stay."""

from __future__ import annotations

import pytest
import torch
from listener import Listener
from samples import batches, conv_net

import deepcompress as dc
from deepcompress.compression.small import finish_small
from deepcompress.compression.writing import contiguous_state
from deepcompress.layers import parameters_in
from deepcompress.networks.copies import copied
from deepcompress.quantize.grid import short
from deepcompress.quantize.vector_tuning import tune_vectors
from deepcompress.training.evaluation import evaluate
from deepcompress.training.loop import fit
from deepcompress.training.retraining import Run

SHAPE = (1, 8, 8)
RECIPE = dc.Recipe(small_bits=2, batch_norm="fold", finetune_epochs=8, finetune_lr=0.1)


@pytest.fixture(scope="module")
def data():
    return batches(256, 1, SHAPE), batches(128, 2, SHAPE)


@pytest.fixture(scope="module")
def trained(data):
    torch.manual_seed(0)
    model = conv_net(batch_norm=True)
    fit(model, data[0], torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), 2, stage="train")
    return model.eval()


def finished(trained, data, recipe, train=True):
    """The network with vectors on grids, what tuning is told, and the codebooks."""
    work = copied(trained).eval()
    state = contiguous_state(work)
    books = finish_small(work, state, recipe)
    run = Run(work, {}, data[0] if train else None, recipe, data[1], Listener())
    return run, books, parameters_in(work, state)


def test_they_stay_on_grids_and_weights_stay(trained, data):
    run, books, parameters = finished(trained, data, RECIPE)
    before = evaluate(run.model, data[1])
    tuned = tune_vectors(run, books, parameters)
    assert evaluate(run.model, data[1]).loss < before.loss
    assert len(tuned) == len(books)
    for name, parameter in parameters.items():
        if parameter.ndim > 1:
            assert torch.equal(parameter, trained.get_parameter(name)), name
    for book in tuned:
        (member,) = book.members
        found, step = parameters[member.name].detach(), float(book.step.detach())
        assert short(step) == step
        assert len(torch.unique(found)) <= 4
        torch.testing.assert_close(found, step * torch.round(found / step), rtol=0, atol=1e-6)
    assert (run.model[1].running_mean == 0).all()
    assert (run.model[1].running_var == 1).all()


@pytest.mark.parametrize("how", ["kept", "no epochs", "no data"])
def test_nothing_happens(trained, data, how):
    changed = {"kept": {"batch_norm": "keep"}, "no epochs": {"finetune_epochs": 0}, "no data": {}}[how]
    recipe = dc.Recipe(**{"small_bits": 2, "batch_norm": "fold", **changed})
    run, books, parameters = finished(trained, data, recipe, train=how != "no data")
    before = {name: parameter.clone() for name, parameter in parameters.items()}
    assert tune_vectors(run, books, parameters) is None
    assert all(torch.equal(parameter, before[name]) for name, parameter in parameters.items())


@pytest.mark.parametrize("amount", [{"prune": 0.3}, {"target_size": 1500}], ids=["fraction", "size"])
def test_the_file_has_them(trained, data, tmp_path, amount):
    recipe = dc.Recipe(**amount, small_bits=2, batch_norm="fold", epochs=1, finetune_epochs=2, quantizer="uniform")
    result = dc.compress(trained, *data, recipe, tmp_path / "m.dc")
    found = dc.load(tmp_path / "m.dc", into=conv_net(batch_norm=True))
    assert evaluate(found, data[1]).accuracy == result.accuracy_after
    for name, value in found.state_dict().items():
        if value.ndim == 1:
            assert len(torch.unique(value)) <= 4, name
    assert result.file_bytes <= amount.get("target_size", result.file_bytes)
