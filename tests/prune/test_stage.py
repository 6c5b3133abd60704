"""Pruning with retraining: zeros that stay zeros, penalties, dropout, and what is reported."""

from __future__ import annotations

import math
import re

import pytest
import torch
from listener import Listener
from samples import Mlp, evidence_of
from torch import nn

from deepcompress.prune import stage
from deepcompress.prune.dropout import preceded_dropouts, rescaled_dropout
from deepcompress.prune.masks import Masks
from deepcompress.prune.stage import (
    PruningHooks,
    make_optimizer,
    prune,
    prune_and_retrain,
)
from deepcompress.recipe import LayerRule, Recipe
from deepcompress.training.progress import Progress
from deepcompress.training.retraining import Run


def weights_of(model):
    return {name: parameter for name, parameter in model.named_parameters() if parameter.ndim > 1}


class CheckedHooks(PruningHooks):
    """Asserts after every optimizer step that what the masks say is gone is exactly zero, and counts the steps."""

    steps_seen = 0
    moved = 0

    def after_step(self):
        pruned = {name: self.weights[name].detach()[~mask] for name, mask in self.masks.keep.items()}
        type(self).moved += sum(int((value != 0).sum()) for value in pruned.values())
        super().after_step()
        for name, mask in self.masks.keep.items():
            assert self.weights[name].detach()[~mask].count_nonzero() == 0
        type(self).steps_seen += 1


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("penalty", ["l2", "l1", "none"])
def test_pruned_weights_are_zero_after_every_step(mlp, flat_train, optimizer, penalty, monkeypatch):
    monkeypatch.setattr(stage, "PruningHooks", CheckedHooks)
    monkeypatch.setattr(CheckedHooks, "steps_seen", 0)
    monkeypatch.setattr(CheckedHooks, "moved", 0)
    recipe = Recipe(prune=0.8, optimizer=optimizer, epochs=5, iterations=3, lr=0.02)
    recipe = recipe.changed(penalty=penalty, penalty_weight=0.05)
    weights = weights_of(mlp)
    masks = prune_and_retrain(Run(mlp, weights, flat_train, recipe))
    assert CheckedHooks.steps_seen == 5 * len(flat_train)
    assert CheckedHooks.moved > 0  # the optimizer did move pruned weights, so the masks had something to do
    total = sum(mask.numel() for mask in masks.keep.values())
    assert masks.sparsity >= round(0.8 * total) / total
    for name, mask in masks.keep.items():
        assert weights[name].detach()[~mask].count_nonzero() == 0


def test_sparsity_rises_by_the_schedule(mlp, flat_train):
    watch = Listener()
    recipe = Recipe(prune=0.6, schedule="linear", iterations=3, epochs=6, distribution="uniform")
    masks = prune_and_retrain(Run(mlp, weights_of(mlp), flat_train, recipe, flat_train, watch))
    assert [result.epoch for result in watch.results if result.note] == [1, 2, 3]
    shares = [float(re.search(r"([\d.]+) %", result.note)[1]) for result in watch.results if result.note]
    assert shares == pytest.approx([20, 40, 60], abs=3)  # dead neurons may take a little more
    assert masks.sparsity == pytest.approx(shares[-1] / 100, abs=6e-4)
    assert all(result.val_error is not None and result.stage == "prune" for result in watch.results)


def test_retraining_recovers(flat_train, flat_test):
    torch.manual_seed(0)
    model = Mlp()
    recipe = Recipe(prune=0.8, epochs=12, lr=0.05, iterations=2)
    watch = Listener()
    prune_and_retrain(Run(model, weights_of(model), flat_train, recipe, flat_test, watch))
    assert watch.results[-1].val_error < 10  # of four classes


def test_no_epochs_is_pruning_alone(mlp, flat_train):
    weights = weights_of(mlp)
    before = {name: value.detach().clone() for name, value in mlp.named_parameters()}
    masks = prune_and_retrain(Run(mlp, weights, flat_train, Recipe(prune=0.5, epochs=0)))
    for name, value in mlp.named_parameters():
        expected = before[name] * masks.keep[name] if name in masks.keep else before[name]
        assert torch.equal(value.detach(), expected)


def test_prune_in_one_step():
    weights = {"a": torch.tensor([[3.0, -1.0, 2.0, 4.0]])}
    masks = prune(evidence_of(weights, Recipe(prune=0.5)))
    assert weights["a"].tolist() == [[3, 0, 0, 4]]
    assert masks.keep["a"].tolist() == [[True, False, False, True]]


def test_the_floor_is_reported():
    watch = Listener()
    weights = {"tiny": torch.full((1, 3), 0.1), "a": torch.ones(10, 10)}
    prune(evidence_of(weights, Recipe(prune=0.3, scope="global")), watch=watch)
    assert watch.lines == ["tiny would have been emptied: it keeps its one most salient weight"]


def test_dead_neurons_are_reported_and_a_path_through_needed_layers_stays():
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    weights = weights_of(net)
    with torch.no_grad():
        weights["0.weight"].copy_(torch.tensor([[9.0, 9.0], [0.1, 0.1]]))
        weights["1.weight"].copy_(torch.tensor([[9.0, 8.0], [9.0, 0.1]]))
    watch = Listener()
    hooks = PruningHooks(evidence_of(weights, Recipe(prune=3 / 8, distribution="std", epochs=1), net), watch)
    hooks.before_epoch(0)
    assert watch.lines == ["1 connections of neurons without input or output were removed"]
    assert weights["1.weight"].tolist() == [[9, 0], [9, 0]]
    with torch.no_grad():  # neuron 0 would lose its outputs, neuron 1 its inputs
        weights["0.weight"].copy_(torch.tensor([[9.0, 9.0], [0.1, 0.1]]))
        weights["1.weight"].copy_(torch.tensor([[0.1, 9.0], [0.2, 9.0]]))
    PruningHooks(evidence_of(weights, Recipe(prune=0.5, distribution="std", epochs=1), net), watch).before_epoch(0)
    assert watch.lines[1:] == [
        "0.weight, 1.weight would have been cut off: one path of weights through them stays",
        "2 connections of neurons without input or output were removed",
    ]
    assert (weights["0.weight"] != 0).tolist() == [[True, True], [False, False]]
    assert (weights["1.weight"] != 0).tolist() == [[False, False], [True, False]]


def test_l1_adds_the_sign_to_the_gradient():
    net = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[2.0, -3.0, 0.0]]))
    for penalty, expected in (("l1", [[1.5, 0.5, 1.0]]), ("l2", [[1.0, 1.0, 1.0]]), ("none", [[1.0, 1.0, 1.0]])):
        hooks = PruningHooks(
            evidence_of({"weight": net.weight}, Recipe().changed(penalty=penalty, penalty_weight=0.5), net), Progress()
        )
        net.weight.grad = torch.ones(1, 3)
        hooks.after_backward()
        assert net.weight.grad.tolist() == expected


def test_a_frozen_layer_has_no_gradient_to_add_to():
    net = nn.Linear(3, 1)
    net.weight.requires_grad_(False)
    PruningHooks(evidence_of({"weight": net.weight}, Recipe(penalty="l1"), net), Progress()).after_backward()
    assert net.weight.grad is None


@pytest.mark.parametrize(("optimizer", "kind"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam)])
def test_the_l2_penalty_is_the_optimizers_weight_decay(mlp, optimizer, kind):
    for penalty, decay in (("l2", 0.25), ("l1", 0), ("none", 0)):
        recipe = Recipe(optimizer=optimizer, lr=0.125).changed(penalty=penalty, penalty_weight=0.25)
        made = make_optimizer(mlp, recipe)
        assert type(made) is kind
        assert [group["weight_decay"] for group in made.param_groups] == [decay]
        assert [group["lr"] for group in made.param_groups] == [0.125]
        assert len(made.param_groups[0]["params"]) == 6


def test_dropout_formula():
    assert rescaled_dropout(0.5, 1.0) == 0.5
    assert rescaled_dropout(0.5, 0.25) == 0.25
    assert rescaled_dropout(0.4, 0.1) == 0.4 * math.sqrt(0.1)


def test_dropout_belongs_to_the_layer_before_it():
    net = nn.Sequential(nn.Dropout(0.1), nn.Linear(3, 3), nn.Dropout(0.2), nn.Linear(3, 3), nn.ReLU(), nn.Dropout(0.3))
    found = preceded_dropouts(net, weights_of(net))
    assert [(rate, name) for _, rate, name in found] == [(0.2, "1.weight"), (0.3, "3.weight")]
    assert found[0][0] is net[2]


def test_dropout_is_rescaled_while_retraining(mlp, flat_train):
    recipe = Recipe(prune=0.5, epochs=2, iterations=2, layers=(LayerRule("fc1", prune=0.75),))
    masks = prune_and_retrain(Run(mlp, weights_of(mlp), flat_train, recipe))
    assert mlp.drop.p == 0.4 * math.sqrt(masks.density("fc1.weight"))
    assert mlp.drop.p <= 0.2 < 0.4


def test_masks_before_the_first_epoch_keep_everything(mlp):
    hooks = PruningHooks(evidence_of(weights_of(mlp), Recipe(epochs=3), mlp), Progress())
    assert isinstance(hooks.masks, Masks)
    assert hooks.masks.sparsity == 0
    assert hooks.before_epoch(2) == ""
    assert hooks.masks.sparsity == 0
