"""Tuning that leaves a network worse than it was on validation data is undone, and said."""

from __future__ import annotations

import math

import pytest
import torch
from listener import Listener
from samples import Mlp, batches
from torch.utils.data import DataLoader, TensorDataset

import deepcompress as dc
from deepcompress.errors import DivergedError
from deepcompress.networks.copies import copied
from deepcompress.training.evaluation import Evaluation
from deepcompress.training.loop import Hooks, fit
from deepcompress.training.retraining import Run
from deepcompress.training.rollback import is_worse, undone_if_worse
from deepcompress.training.tasks import CLASSIFICATION, TASKS


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    model = Mlp()
    fit(model, batches(256, 1), torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), 3, stage="train")
    return model


def file_of(model, tmp_path, watch=None, **settings):
    recipe = dc.Recipe(**{"prune": 0.5, "bits": 2, "epochs": 0, **settings})
    dc.compress(model, batches(256, 1), batches(128, 2), recipe, tmp_path / "m.dc", watch=watch)
    return (tmp_path / "m.dc").read_bytes()


@pytest.mark.parametrize("rate", [30.0, 1e12], ids=["worse", "diverged"])
def test_tuning_that_makes_it_worse_is_undone(trained, tmp_path, rate):
    listener = Listener()
    found = file_of(trained, tmp_path, listener, finetune_epochs=2, finetune_lr=rate)
    assert found == file_of(trained, tmp_path, finetune_epochs=0)
    assert sum("rolled back" in text for text in listener.lines) == 1


def test_tuning_that_helps_is_not(trained, tmp_path):
    listener = Listener()
    found = file_of(trained, tmp_path, listener, finetune_epochs=2)
    assert found != file_of(trained, tmp_path, finetune_epochs=0)
    assert not [text for text in listener.lines if "rolled back" in text]


@pytest.mark.parametrize("rate", [30.0, 1e12], ids=["worse", "diverged"])
def test_a_size_is_kept_by_what_is_gone_back_to(trained, tmp_path, rate):
    listener = Listener()
    recipe = dc.Recipe(target_size=700, bits=3, epochs=2, finetune_epochs=2, finetune_lr=rate)
    result = dc.compress(trained, batches(256, 1), batches(128, 2), recipe, tmp_path / "m.dc", watch=listener)
    assert result.file_bytes <= 700
    assert result.accuracy_after > 60
    assert sum("rolled back" in text for text in listener.lines) == 1


@pytest.mark.parametrize(
    ("now", "before", "task", "worse"),
    [
        ((1.2, 5.0), (1.0, 5.0), "classification", True),
        ((1.2, 4.0), (1.0, 5.0), "classification", False),  # fewer errors
        ((1.0, 9.0), (1.0, 5.0), "classification", False),
        ((math.nan, 5.0), (1.0, 5.0), "classification", True),
        ((1.2, 60.0), (1.0, 50.0), "segmentation", False),  # a higher mIoU
        ((1.2, 40.0), (1.0, 50.0), "segmentation", True),
    ],
)
def test_what_is_worse(now, before, task, worse):
    facts = [Evaluation(None, None, loss, 10, value) for loss, value in (now, before)]
    assert is_worse(*facts, TASKS[task]) is worse


def run_of(model, val):
    weights = {"fc1.weight": model.fc1.weight}
    return Run(model, weights, batches(64, 1), dc.Recipe(), val, objective=CLASSIFICATION)


def test_measuring_draws_nothing_from_the_training_to_come(trained):
    x, y = zip(*batches(64, 2), strict=True)
    val = DataLoader(TensorDataset(torch.cat(x), torch.cat(y)), batch_size=16, shuffle=True)
    torch.manual_seed(3)
    before, seen = torch.get_rng_state(), []
    model = copied(trained)
    undone_if_worse(run_of(model, val), Hooks(), "x", lambda: seen.append(torch.get_rng_state()))
    assert torch.equal(seen[0], before)
    assert torch.equal(torch.get_rng_state(), before)


class Silent(Hooks):
    """Promises nothing."""


def test_hooks_that_promise_nothing_are_left_alone(trained):
    model = copied(trained)

    def spoil():
        with torch.no_grad():
            model.fc1.weight.zero_()

    undone_if_worse(run_of(model, batches(64, 2)), Silent(), "x", spoil)
    assert not model.fc1.weight.any()

    def diverge():
        raise DivergedError("the loss is nan")

    with pytest.raises(DivergedError):
        undone_if_worse(run_of(model, batches(64, 2)), Silent(), "x", diverge)
