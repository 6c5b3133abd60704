"""Retraining that ends early: when, and what it never changes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from listener import Listener
from samples import CLASSES, batches, blobs
from torch import nn

from deepcompress.errors import RecipeError
from deepcompress.prune import early
from deepcompress.prune.stage import prune_and_retrain
from deepcompress.recipe import Recipe
from deepcompress.training.data import TensorLoader
from deepcompress.training.evaluation import Evaluation, evaluate
from deepcompress.training.loop import seed_everything
from deepcompress.training.retraining import Run
from deepcompress.training.tasks import find

EARLY = {"epochs": 5, "iterations": 2, "early_stop": True}


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(early, "STEPS", 1)


def retrained(model, recipe, train, val):
    watch = Listener()
    weights = {name: parameter for name, parameter in model.named_parameters() if parameter.ndim > 1}
    masks = prune_and_retrain(Run(model, weights, train, recipe, val, watch))
    return watch, masks


def test_it_ends_where_the_network_is_as_good_again(mlp, flat_train, flat_test):
    untrained = evaluate(mlp, flat_test)
    watch, masks = retrained(mlp, Recipe(prune=0.5, lr=0.05, **EARLY), flat_train, flat_test)
    assert watch.epochs == [(1, 2), (2, 2)]  # 40 % of 5
    assert masks.sparsity == pytest.approx(0.5, abs=0.01)
    now = evaluate(mlp, flat_test)
    assert watch.lines == [
        f"after 2 epochs the validation loss is {now.loss:.4f} (dense: {untrained.loss:.4f}), and error "
        f"{now.error:.2f} % (dense: {untrained.error:.2f} %): retraining ends"
    ]


def dropping():
    """A network with dropout that has learned nothing yet, and is made worse by pruning nearly everything."""
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(12, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Dropout(0.4), nn.Linear(24, CLASSES))


def shuffled():
    """Loaders that draw."""
    return TensorLoader(*blobs(192, 1), 32, seed=5), batches(96, 2)


class Uncounted:
    """A loader that must be passed over to count its batches, and draws their order from torch's generator."""

    def __iter__(self):
        train = batches(192, 1)
        return (train[place] for place in torch.randperm(len(train)).tolist())


def uncounted():
    return Uncounted(), batches(96, 2)


@pytest.mark.parametrize("make", [shuffled, uncounted])
def test_all_epochs_follow_as_if_nothing_had_been_tried(make, monkeypatch):
    monkeypatch.setattr(early, "measured", lambda run: Evaluation(50.0, 50.0, next(losses), 96, 50.0))
    found = []
    for early_stop in (False, True):
        losses = iter((0.5, 0.6))  # dense, and after the short run
        model, recipe = dropping(), Recipe(prune=0.8, **EARLY | {"early_stop": early_stop})
        seed_everything(0)
        watch, masks = retrained(model, recipe, *make())
        found.append((model, masks, torch.rand(3)))
    assert watch.epochs == [(1, 2), (2, 2), (1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]
    assert [text for text in watch.lines if text.startswith("after")] == [
        "after 2 epochs the validation loss is 0.6000 (dense: 0.5000), and error 50.00 % (dense: 50.00 %): "
        "all 5 epochs follow, from the dense network on"
    ]
    (one, masks, drawn), (other, others, again) = found
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    assert all(torch.equal(mask, others.keep[name]) for name, mask in masks.keep.items())
    assert one[3].p == other[3].p < 0.4
    assert torch.equal(drawn, again)


@pytest.mark.parametrize(
    ("loss", "error", "enough"),
    [(0.3, 5.1, True), (0.2, 4.0, True), (0.3, 5.11, False), (0.301, 4.0, False), (math.nan, 5.0, False)],
)
def test_the_loss_and_the_metric_both_count(mlp, flat_train, flat_test, loss, error, enough, monkeypatch):
    """Of a network that is too sure of itself, pruning lowers the loss while errors rise."""
    monkeypatch.setattr(early, "measured", lambda run: Evaluation(100 - error, error, loss, 1000, error))
    run = Run(mlp, {}, flat_train, Recipe(), flat_test)
    assert early.is_back(run, Evaluation(95.0, 5.0, 0.3, 1000, 5.0)) is enough


def test_a_metric_that_is_better_when_higher(mlp, flat_train, flat_test, monkeypatch):
    run = Run(mlp, {}, flat_train, Recipe(), flat_test, objective=find("segmentation"))
    dense = Evaluation(None, None, 0.3, 10, 60.0)
    monkeypatch.setattr(early, "measured", lambda run: replace(dense, value=59.95))
    assert early.is_back(run, dense)
    monkeypatch.setattr(early, "measured", lambda run: replace(dense, value=59.85))
    assert not early.is_back(run, dense)


def test_runs_with_few_steps_and_runs_without_validation_data_have_all_epochs(mlp, flat_train, flat_test, monkeypatch):
    recipe = Recipe(prune=0.5, **EARLY)
    watch, _ = retrained(mlp, recipe, flat_train, None)
    assert len(watch.epochs) == 5
    said = "early stop: {}; all 5 epochs are trained at once"
    assert watch.lines == [said.format("there is no validation data to check on")]
    monkeypatch.setattr(early, "STEPS", 2 * len(flat_train) + 1)
    watch, _ = retrained(mlp, recipe, flat_train, flat_test)
    assert watch.epochs[0] == (1, 5)
    few = f"40 % of the epochs are {2 * len(flat_train)} steps of the optimizer, fewer than {2 * len(flat_train) + 1}"
    assert watch.lines == [said.format(few)]


def test_nothing_is_said_where_nobody_asked_for_it(mlp, flat_train, flat_test, monkeypatch):
    monkeypatch.setattr(early, "STEPS", 1000)
    for val in (flat_test, None):
        watch, _ = retrained(mlp, Recipe(prune=0.5, iterations=2), flat_train, val)
        assert watch.epochs[0] == (1, 18)
        assert watch.lines == []


def test_given_epochs_are_trained_unless_more_is_said(mlp, flat_train, flat_test):
    assert len(retrained(mlp, Recipe(prune=0.5, epochs=5, lr=0.05), flat_train, flat_test)[0].epochs) == 5


def test_the_default_depends_on_whether_epochs_are_given():
    assert Recipe(prune=0.5).early_stop
    assert not Recipe(prune=0.5, epochs=18).early_stop
    assert Recipe(prune=0.5, epochs=18, early_stop=True).early_stop
    assert not Recipe(prune=0.5, early_stop=False).early_stop


@pytest.mark.parametrize(
    "others",
    [{"target_size": 1000}, {"max_drop": 1.0}, {"method": "lc"}, {"regrow": "set"}, {"rewind": "random"},
     {"reload": True}, {"schedule": "gap"}],
)  # fmt: skip
def test_it_is_refused_where_something_else_decides(others):
    with pytest.raises(RecipeError, match=r"^early_stop is for retraining whose length nothing else decides"):
        Recipe(early_stop=True, **others)
    assert not Recipe(early_stop=False, **others).early_stop


@pytest.mark.parametrize(
    ("others", "why"), [({"retrain": False}, "nothing is retrained"), ({"epochs": 0}, "epochs is 0")]
)
def test_it_is_refused_where_nothing_is_retrained(others, why):
    with pytest.raises(RecipeError, match=f"^early_stop is for retraining, and {why}: leave early_stop out$"):
        Recipe(early_stop=True, **others)
    assert not Recipe(early_stop=False, **others).early_stop
