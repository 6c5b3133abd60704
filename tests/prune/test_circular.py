"""Circular pruning: a step of each layer in turn, and what costs too much is rolled back and held."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from listener import Listener
from samples import conv_net
from test_guard import TwoLayers, weights_of

from deepcompress.compression.pipeline import compress
from deepcompress.errors import RecipeError
from deepcompress.prune import guard
from deepcompress.prune.circular import prune_in_turn
from deepcompress.prune.criteria.base import CRITERIA
from deepcompress.recipe import LayerRule, Recipe
from deepcompress.training.evaluation import Evaluation, evaluate
from deepcompress.training.retraining import Run

CIRCULAR = Recipe(schedule="circular", max_drop=5.0, prune=0.7, prune_step=0.25)


@pytest.fixture
def signs():
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    return [(x, (x.sum(1) > 0).long())]


def scripted(monkeypatch, accuracies):
    """Stands in for `evaluate`: accuracies in order, the last one for ever."""
    left = list(accuracies)

    def found(model, batches, task):
        accuracy = left.pop(0) if len(left) > 1 else left[0]
        return Evaluation(accuracy, 100 - accuracy, 1.0, 100, 100 - accuracy)

    monkeypatch.setattr(guard, "evaluate", found)


def test_the_turns_by_hand(monkeypatch, signs):
    """Of 4 and 8 weights, 7 in all shall go (0.6 of 12): 1, 2; 1, 2; then 1 and nothing of the other."""
    scripted(monkeypatch, [90.0])
    model, watch = TwoLayers(), Listener()
    masks, held = prune_in_turn(Run(model, weights_of(model), None, replace(CIRCULAR, prune=0.6), signs, watch))
    assert held == []
    assert (masks.kept("needed.weight"), masks.kept("idle.weight")) == (1, 4)
    untraced, *rounds = watch.lines
    assert "torch.fx cannot trace the network TwoLayers" in untraced
    assert [text.split(",")[0] for text in rounds] == [
        "round 1: 25.00 % pruned", "round 2: 50.00 % pruned", "round 3: 58.33 % pruned",
    ]  # fmt: skip
    for name, weight in weights_of(model).items():
        assert weight.detach()[~masks.keep[name]].count_nonzero() == 0


def test_a_layer_that_costs_too_much_is_held_and_the_others_go_on(monkeypatch, signs):
    scripted(monkeypatch, [90.0, 84.9, 90.0])  # the start; needed; all that follows
    model, watch = TwoLayers(), Listener()
    before = model.needed.weight.detach().clone()
    masks, held = prune_in_turn(Run(model, weights_of(model), None, CIRCULAR, signs, watch))
    assert held == ["needed.weight"]
    assert torch.equal(model.needed.weight, before)
    assert masks.keep["needed.weight"].all()
    assert masks.kept("idle.weight") == 1  # it goes down to its last weight: 7 of 12, of which 8 were asked
    assert watch.lines[1].startswith("error 15.10 %, more than 5 points worse than 10.00 %: rolled back")
    assert "needed.weight (100.0 % kept)" in watch.lines[1]


def test_it_ends_where_all_are_held(monkeypatch, signs):
    scripted(monkeypatch, [90.0, 0.0])
    model = TwoLayers()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    masks, held = prune_in_turn(Run(model, weights_of(model), None, CIRCULAR, signs))
    assert held == ["needed.weight", "idle.weight"]
    assert masks.sparsity == 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_exactly_the_drop_that_is_allowed_passes(monkeypatch, signs):
    scripted(monkeypatch, [90.0, 85.0])
    assert prune_in_turn(Run(model := TwoLayers(), weights_of(model), None, CIRCULAR, signs))[1] == []


def test_a_turn_that_loses_too_much_gets_an_epoch_while_there_are_any(monkeypatch, signs):
    """Of 3 epochs, 1 is for turns and 2 for the end."""
    scripted(monkeypatch, [90.0, 50.0, 90.0, 50.0, 90.0])  # the start; needed, retrained; idle; from there on
    trained = []
    monkeypatch.setattr(guard.Guard, "retrain", lambda self, epochs: trained.append(epochs))
    model, recipe = TwoLayers(), replace(CIRCULAR, epochs=3, prune=0.2)
    masks, held = prune_in_turn(Run(model, weights_of(model), signs, recipe, signs))
    assert trained == [1, 2]
    assert held == ["idle.weight"]
    assert (masks.kept("needed.weight"), masks.kept("idle.weight")) == (2, 8)


def test_an_end_that_loses_too_much_is_rolled_back(monkeypatch, signs):
    scripted(monkeypatch, [90.0] * 4 + [10.0])  # the start, three turns, and the retraining after them
    model, watch = TwoLayers(), Listener()
    recipe = replace(CIRCULAR, epochs=1, prune=0.3, lr=1.0)
    masks, held = prune_in_turn(Run(model, weights_of(model), signs, recipe, signs, watch))
    assert held == []
    assert watch.lines[-1] == "retraining ended at error 90.00 %: rolled back"
    dense = TwoLayers().state_dict()
    assert all(torch.equal(value[masks.keep[name]], dense[name][masks.keep[name]])
               for name, value in model.state_dict().items())  # fmt: skip


def test_layers_with_fractions_of_their_own_lose_no_more(monkeypatch, signs):
    scripted(monkeypatch, [90.0])
    rules = (LayerRule("needed", prune=0.0), LayerRule("idle", prune=0.5))
    model = TwoLayers()
    masks, _ = prune_in_turn(Run(model, weights_of(model), None, replace(CIRCULAR, layers=rules), signs))
    assert (masks.kept("needed.weight"), masks.kept("idle.weight")) == (4, 4)


def test_it_never_ends_below_the_floor(dense, flat_train, flat_test):
    start = evaluate(dense, flat_test).accuracy
    recipe = replace(CIRCULAR, prune=0.97, max_drop=2.0, epochs=4, lr=0.01)
    weights = weights_of(dense)
    masks, held = prune_in_turn(Run(dense, weights, flat_train, recipe, flat_test))
    assert evaluate(dense, flat_test).accuracy >= start - 2.0
    assert held or masks.sparsity >= 0.97 - 0.001
    assert masks.sparsity > 0.5
    assert list(masks.keep) == list(weights)
    for name, mask in masks.keep.items():
        assert weights[name].detach()[~mask].count_nonzero() == 0


def test_from_end_to_end(dense, flat_train, flat_test, tmp_path):
    recipe = replace(CIRCULAR, epochs=2, finetune_epochs=0, lr=0.001)
    result = compress(dense, flat_train, flat_test, recipe, tmp_path / "m.dc")
    kept = sum(result.kept[name] * weight.numel() for name, weight in weights_of(dense).items())
    assert result.held or kept == pytest.approx(0.3 * sum(weight.numel() for weight in weights_of(dense).values()), 0.1)


def test_what_it_needs(dense, flat_train, tmp_path, monkeypatch):
    with pytest.raises(RecipeError, match="set max_drop to the allowed points"):
        Recipe(schedule="circular")
    with pytest.raises(RecipeError, match="validation data"):
        prune_in_turn(Run(dense, weights_of(dense), flat_train, CIRCULAR, None))
    monkeypatch.setitem(CRITERIA, "units", replace(CRITERIA["magnitude"], units="channels"))
    with pytest.raises(RecipeError, match="one layer at a time"):
        prune_in_turn(Run(dense, weights_of(dense), flat_train, replace(CIRCULAR, criterion="units"), flat_train))


def test_a_dead_layer_is_the_end_of_a_turn_and_not_of_the_run(image_test):
    """With single filters left, one more step would cut the network in two."""
    torch.manual_seed(0)
    model = conv_net()
    recipe = replace(CIRCULAR, max_drop=100.0, prune=0.995, prune_step=0.9)
    masks, held = prune_in_turn(Run(model, weights_of(model), None, recipe, image_test))
    assert held == []
    assert all(masks.kept(name) > 0 for name in masks.keep)
