"""Retraining that ends early: when, and what it never changes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from deepcompress.errors import RecipeError
from deepcompress.prune import early
from deepcompress.prune.stage import prune_and_retrain
from deepcompress.recipe import Recipe
from deepcompress.training.evaluation import Evaluation, evaluate
from deepcompress.training.progress import Progress
from deepcompress.training.retraining import Run
from deepcompress.training.tasks import find

EARLY = {"epochs": 5, "iterations": 2, "early_stop": True}


class Notes(Progress):
    """Keeps what it is told."""

    def __init__(self):
        self.messages, self.epochs = [], []

    def message(self, text):
        self.messages.append(text)

    def epoch(self, result):
        self.epochs.append((result.epoch, result.epochs))


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(early, "STEPS", 1)


def retrained(model, recipe, train, val):
    watch = Notes()
    weights = {name: parameter for name, parameter in model.named_parameters() if parameter.ndim > 1}
    masks = prune_and_retrain(Run(model, weights, train, recipe, val, watch))
    return watch, masks


def test_it_ends_where_the_network_is_as_good_again(mlp, flat_train, flat_test):
    untrained = evaluate(mlp, flat_test)
    watch, masks = retrained(mlp, Recipe(prune=0.5, lr=0.05, **EARLY), flat_train, flat_test)
    assert watch.epochs == [(1, 2), (2, 2)]  # 40 % of 5
    assert masks.sparsity == pytest.approx(0.5, abs=0.01)
    now = evaluate(mlp, flat_test)
    assert watch.messages == [
        f"after 2 of 5 epochs the validation loss is {now.loss:.4f} (dense: {untrained.loss:.4f}), and error "
        f"{now.error:.2f} % (dense: {untrained.error:.2f} %): retraining ends"
    ]


def test_it_goes_on_where_the_network_is_worse(dense, flat_train, flat_test):
    watch, masks = retrained(dense, Recipe(prune=0.97, **EARLY), flat_train, flat_test)
    assert watch.epochs == [(1, 2), (2, 2), (1, 3), (2, 3), (3, 3)]
    assert 0.97 <= masks.sparsity < 1  # dead neurons go, too
    assert [text.endswith("retraining goes on") for text in watch.messages if text.startswith("after")] == [True]
    assert sum(int(p.count_nonzero()) for p in dense.parameters() if p.ndim > 1) <= sum(map(masks.kept, masks.keep))


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
    assert len(retrained(mlp, recipe, flat_train, None)[0].epochs) == 5
    monkeypatch.setattr(early, "STEPS", 2 * len(flat_train) + 1)
    watch, _ = retrained(mlp, recipe, flat_train, flat_test)
    assert watch.epochs[0] == (1, 5)
    assert watch.messages == []


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
     {"reload": True}, {"schedule": "gap"}, {"retrain": False}],
)  # fmt: skip
def test_it_is_refused_where_something_else_decides(others):
    with pytest.raises(RecipeError, match=r"^early_stop is for retraining whose length nothing else decides"):
        Recipe(early_stop=True, **others)
    assert not Recipe(early_stop=False, **others).early_stop
