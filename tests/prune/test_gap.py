"""Pruning by the generalization gap: only where it is too wide, and never further than asked."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from listener import Listener
from test_guard import TwoLayers, weights_of

from deepcompress.compression.pipeline import compress
from deepcompress.errors import RecipeError
from deepcompress.prune import gap
from deepcompress.prune.criteria.base import Evidence
from deepcompress.prune.gap import GapHooks, prune_by_gap
from deepcompress.prune.masks import Masks
from deepcompress.recipe import Recipe
from deepcompress.training.evaluation import Evaluation
from deepcompress.training.progress import Progress
from deepcompress.training.retraining import Run

BY_GAP = Recipe(schedule="gap", gap=2.0, prune=0.75, prune_step=0.5, distribution="uniform", epochs=4)
TRAIN, VAL = [("train", None)], [("val", None)]


@pytest.fixture
def errors(monkeypatch):
    """Stands in for `evaluate`: (validation error, training error) of each look, filled by the test."""
    pairs, calls = [], []

    def found(model, batches, task):
        calls.append(batches)
        error = pairs[(len(calls) - 1) // 2][0 if batches is VAL else 1]
        return Evaluation(100 - error, error, 1.0, 100, error)

    monkeypatch.setattr(gap, "evaluate", found)
    return pairs


def hooks_of(model, recipe=BY_GAP):
    weights = weights_of(model)
    return GapHooks(Evidence(model, weights, Masks.full(weights), recipe, TRAIN), VAL, Progress())


def test_it_prunes_only_where_the_gap_is_wider_than_the_margin(errors):
    """Of 12 weights: 6 go at a gap of 2.5, none at 2, half of the rest at 3; that is all, whatever comes then."""
    errors += [(3.0, 0.5), (4.0, 2.0), (3.0, 0.0), (50.0, 0.0)]
    model = TwoLayers()
    hooks = hooks_of(model)
    notes, kept = [], []
    for epoch in range(4):
        notes.append(hooks.before_epoch(epoch))
        kept.append(sum(map(hooks.masks.kept, hooks.masks.keep)))
    assert kept == [6, 6, 3, 3]
    assert notes == ["gap 2.50, 50.0 % pruned", "gap 2.00, 50.0 % pruned", "gap 3.00, 75.0 % pruned", "75.0 % pruned"]
    assert (hooks.step, hooks.cuts) == (1.0, 2)
    assert weights_of(model)["idle.weight"].count_nonzero() == 2


def test_the_last_step_is_as_small_as_it_must_be(errors):
    errors += [(9.0, 0.0)] * 3
    hooks = hooks_of(TwoLayers(), replace(BY_GAP, prune=2 / 3))
    steps = []
    for epoch in range(3):
        hooks.before_epoch(epoch)
        steps.append(hooks.step)
    assert steps == [pytest.approx(0.75), 1.0, 1.0]
    assert hooks.masks.sparsity == pytest.approx(2 / 3)


def test_a_gap_that_is_never_wide_prunes_nothing(dense, flat_train, flat_test):
    watch, recipe = Listener(), replace(BY_GAP, gap=100.0, epochs=2)
    masks = prune_by_gap(Run(dense, weights_of(dense), flat_train, recipe, flat_test, watch))
    assert masks.sparsity == 0
    assert watch.lines == [
        "before 0 of 2 epochs the validation error was more than 100 points above the training error: 0.00 % pruned, "
        "of 75 % asked"
    ]


def test_with_real_errors_pruned_weights_are_zero(dense, flat_train, flat_test, tmp_path):
    noisy = [(x, (y + 1) % 4) for x, y in flat_test]  # wrong labels: the gap is as wide as can be
    weights = weights_of(dense)
    masks = prune_by_gap(Run(dense, weights, flat_train, replace(BY_GAP, prune_step=0.3, epochs=5), noisy))
    assert masks.sparsity == pytest.approx(0.75, abs=0.02)
    for name, mask in masks.keep.items():
        assert weights[name].detach()[~mask].count_nonzero() == 0
    result = compress(dense, flat_train, noisy, replace(BY_GAP, finetune_epochs=0), tmp_path / "m.dc")
    assert max(result.kept.values()) < 0.4


def test_what_it_needs(dense, flat_train, flat_test):
    weights = weights_of(dense)
    with pytest.raises(RecipeError, match="needs validation data"):
        prune_by_gap(Run(dense, weights, flat_train, BY_GAP, None))
    for batches, epochs in ((None, 4), (flat_train, 0)):
        with pytest.raises(RecipeError, match="before each epoch of retraining"):
            prune_by_gap(Run(dense, weights, batches, replace(BY_GAP, epochs=epochs), flat_test))
    with pytest.raises(RecipeError, match="retrain is off"):
        replace(BY_GAP, retrain=False)
    with pytest.raises(RecipeError, match="choose one"):
        replace(BY_GAP, max_drop=1.0)


def test_no_prune_at_all(errors):
    errors += [(9.0, 0.0)]
    hooks = hooks_of(TwoLayers(), replace(BY_GAP, prune=0.0))
    assert hooks.before_epoch(0) == "gap 9.00, 0.0 % pruned"
    assert hooks.step == 1.0
    assert torch.equal(hooks.masks.keep["idle.weight"], torch.ones(2, 4, dtype=torch.bool))
