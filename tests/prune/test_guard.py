"""Guarded pruning: a layer that must not be pruned goes back, exactly, and the others go on."""

from __future__ import annotations

import pytest
import torch
from listener import Listener
from samples import Mlp, batches, evidence_of
from torch import nn

from deepcompress.compression.pipeline import compress
from deepcompress.compression.tensors_only import compress_state
from deepcompress.errors import RecipeError
from deepcompress.prune import guard
from deepcompress.prune.guard import prune_guarded
from deepcompress.prune.masks import cut
from deepcompress.prune.stage import prune
from deepcompress.recipe import Recipe
from deepcompress.training.evaluation import evaluate
from deepcompress.training.retraining import Run


class TwoLayers(nn.Module):
    """Says whether x1 + x2 > 0: needs all of `needed`, and nothing of `idle`, which only sees zeros."""

    def __init__(self):
        super().__init__()
        self.needed = nn.Linear(2, 2, bias=False)
        self.idle = nn.Linear(4, 2, bias=False)
        with torch.no_grad():
            self.needed.weight.copy_(torch.tensor([[-1.0, -1.01], [1.0, 1.01]]))
            self.idle.weight.copy_(torch.arange(1.0, 9.0).reshape(2, 4))

    def forward(self, x):
        return 10 * self.needed(x) + self.idle(torch.zeros(len(x), 4))


def weights_of(model):
    return {name: parameter for name, parameter in model.named_parameters() if parameter.ndim > 1}


@pytest.fixture
def signs():
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    return [(x, (x.sum(1) > 0).long())]


HALF = Recipe(prune=0.5, distribution="uniform", max_drop=5.0)


def test_the_costly_layer_rolls_back_and_the_other_goes_on(signs):
    model, watch = TwoLayers(), Listener()
    before = model.needed.weight.detach().clone()
    masks, held = prune_guarded(Run(model, weights_of(model), None, HALF, signs, watch))
    assert held == ["needed.weight"]
    assert masks.keep["needed.weight"].all()
    assert torch.equal(model.needed.weight, before)
    assert masks.keep["idle.weight"].tolist() == [[False] * 4, [True] * 4]
    assert model.idle.weight.tolist() == [[0, 0, 0, 0], [5, 6, 7, 8]]
    untraced, message = watch.lines
    assert "torch.fx cannot trace the network TwoLayers" in untraced
    assert "rolled back" in message
    assert "needed.weight (100.0 % kept)" in message


def test_enough_room_changes_nothing(signs):
    model, other = TwoLayers(), TwoLayers()
    masks, held = prune_guarded(Run(model, weights_of(model), None, Recipe(**{**vars(HALF), "max_drop": 100.0}), signs))
    plain = prune(evidence_of(weights_of(other), HALF))
    assert held == []
    for name, mask in plain.keep.items():
        assert torch.equal(mask, masks.keep[name])
        assert torch.equal(model.state_dict()[name], other.state_dict()[name])


def test_where_every_layer_costs_all_are_as_they_were(signs):
    model = nn.Sequential(TwoLayers().needed)
    before = model[0].weight.detach().clone()
    masks, held = prune_guarded(Run(model, weights_of(model), None, HALF, signs))
    assert held == ["0.weight"]
    assert masks.sparsity == 0
    assert torch.equal(model[0].weight, before)


def test_iterations_go_back_to_the_one_before(dense, flat_train, flat_test):
    """With retraining: whatever is asked, the network ends within the budget, and pruned weights are zero."""
    start = evaluate(dense, flat_test).accuracy
    recipe = Recipe(
        prune=0.93, distribution="uniform", schedule="linear", iterations=3, epochs=4, lr=0.01, max_drop=2.0
    )
    watch = Listener()
    weights = weights_of(dense)
    masks, held = prune_guarded(Run(dense, weights, flat_train, recipe, flat_test, watch))
    assert evaluate(dense, flat_test).accuracy >= start - 2.0
    assert held
    assert len(set(held)) == len(held)
    for name, mask in masks.keep.items():
        assert weights[name].detach()[~mask].count_nonzero() == 0
        if name in held:  # a third of the way, or two, or not at all
            assert masks.density(name) > 0.08
    assert 0 < masks.sparsity < 0.93


def test_held_layers_are_not_made_up_for(signs):
    model = TwoLayers()
    masks, _ = prune_guarded(Run(model, weights_of(model), None, HALF, signs))
    asked = cut(weights_of(TwoLayers()), HALF).masks
    assert torch.equal(masks.keep["idle.weight"], asked.keep["idle.weight"])


def test_the_result_says_which_layers_were_held(flat_train, flat_test, dense, tmp_path):
    recipe = Recipe(
        prune=0.93, distribution="uniform", epochs=1, iterations=1, lr=0.001, finetune_epochs=0, max_drop=0.0
    )
    result = compress(dense, flat_train, flat_test, recipe, tmp_path / "m.dc")
    assert result.held
    assert result.recipe["max_drop"] == 0.0
    assert Recipe.from_dict(result.recipe) == recipe
    assert all(result.kept[name] > 0.08 for name in result.held)


def test_what_it_needs(dense, flat_train, flat_test, tmp_path):
    with pytest.raises(RecipeError, match="validation data"):
        compress(dense, flat_train, None, Recipe(max_drop=1.0), tmp_path / "m.dc")
    with pytest.raises(RecipeError, match="max_drop needs the network and data"):
        compress_state(Mlp().state_dict(), Recipe(max_drop=1.0), tmp_path / "m.dc")
    with pytest.raises(RecipeError, match="regrow"):
        Recipe(max_drop=1.0, regrow="surgery")
    assert not list(tmp_path.iterdir())


def test_it_is_repeatable(flat_test):
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        model = Mlp()
        recipe = Recipe(prune=0.9, epochs=3, iterations=2, max_drop=0.5)
        prune_guarded(Run(model, weights_of(model), batches(256, seed=1), recipe, flat_test))
        found.append(model.state_dict())
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


# From the dense weights at every level ---------------------------------------------------------------------------

LEVELS = Recipe(prune=0.9, schedule="linear", iterations=3, epochs=6, distribution="uniform", reload=True, lr=0.05)


def test_every_level_prunes_the_dense_weights_bit_for_bit(dense, flat_train, flat_test, monkeypatch):
    before = {name: value.clone() for name, value in dense.state_dict().items()}
    seen = []

    def look(self, epochs):
        seen.append((epochs, self.state(), self.hooks.masks))
        retrain(self, epochs)

    retrain = guard.Guard.retrain
    monkeypatch.setattr(guard.Guard, "retrain", look)
    watch = Listener()
    prune_guarded(Run(dense, weights_of(dense), flat_train, LEVELS, flat_test, watch))
    assert [epochs for epochs, _, _ in seen] == [2, 2, 2]
    for (_, state, masks), sparsity in zip(seen, (0.3, 0.6, 0.9), strict=True):
        assert sparsity <= masks.sparsity + 0.001 <= sparsity + 0.08  # and dead neurons
        for name, value in before.items():
            keep = masks.keep.get(name, torch.ones_like(value, dtype=torch.bool))
            assert torch.equal(state[name], value * keep)
    assert [text.split(":")[0] for text in watch.lines if text.startswith("level")] == [
        f"level {number} of 3, from the dense weights" for number in (1, 2, 3)
    ]


def test_a_level_is_what_one_cut_would_be(flat_train, flat_test):
    """The last level, with its epochs, is the same as pruning in one step."""
    found = []
    for recipe in (LEVELS, Recipe(**{**vars(LEVELS), "schedule": "one-shot", "epochs": 2})):
        torch.manual_seed(0)
        model = Mlp().eval()
        model.drop.p = 0.0
        prune_guarded(Run(model, weights_of(model), flat_train, recipe, flat_test))
        found.append(model.state_dict())
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_a_level_that_costs_too_much_goes_back_to_the_one_before(signs):
    """The first half of idle goes at no cost; half of needed costs, and is rolled back."""
    model, recipe = TwoLayers(), Recipe(**{**vars(HALF), "reload": True})
    before = model.needed.weight.detach().clone()
    masks, held = prune_guarded(Run(model, weights_of(model), None, recipe, signs))
    assert held == ["needed.weight"]
    assert torch.equal(model.needed.weight, before)
    assert model.idle.weight.tolist() == [[0, 0, 0, 0], [5, 6, 7, 8]]
    assert masks.sparsity == pytest.approx(4 / 12)


def test_levels_need_no_budget(dense, flat_train, tmp_path):
    result = compress(dense, flat_train, None, Recipe(**{**vars(LEVELS), "epochs": 3}), tmp_path / "m.dc")
    assert result.held == []
    assert max(result.kept.values()) < 0.15
    with pytest.raises(RecipeError, match="reload prunes the dense weights"):
        Recipe(reload=True, regrow="surgery")
    with pytest.raises(RecipeError, match="reload prunes the dense weights"):
        Recipe(reload=True, target_size=1000)
