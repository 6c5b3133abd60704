"""Training a network that is sparse from the start."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from samples import SIDE, blobs, conv_net
from torch import nn

from deepcompress.errors import NetworkError, RecipeError
from deepcompress.prune import sparse
from deepcompress.prune.masks import Masks
from deepcompress.prune.sparse import choice_of, erdos_renyi, random_masks, train_sparse
from deepcompress.recipe import LayerRule, Recipe
from deepcompress.training.data import DataSet
from deepcompress.training.dense import DenseSettings
from deepcompress.training.evaluation import evaluate

SETTINGS = DenseSettings(epochs=8, batch_size=32, lr=0.05)


def data():
    parts = [blobs(n, seed, (1, SIDE, SIDE)) for n, seed in ((300, 1), (50, 2), (100, 3))]
    return DataSet("blobs", *(tensor for part in parts for tensor in part))


def weights(model):
    return {name: value for name, value in model.named_parameters() if value.ndim > 1}


def trained(recipe, criterion=None, settings=SETTINGS, model=None):
    torch.manual_seed(0)
    model = model or conv_net()
    return model, train_sparse(model, data(), settings, recipe, criterion, torch.device("cpu"))


def left(model):
    return sum(int(weight.count_nonzero()) for weight in weights(model).values())


def test_it_learns_under_the_masks_of_the_start():
    torch.manual_seed(0)
    before = conv_net()
    model, masks = trained(Recipe(prune=0.7), "magnitude")
    total = sum(weight.numel() for weight in weights(model).values())
    assert left(model) == total - round(0.7 * total) == sum(map(masks.kept, masks.keep))
    for name, weight in weights(before).items():  # lamp scales each layer by one number: the order in it is magnitude's
        size = weight.detach().abs()
        assert size[masks.keep[name]].min() > size[~masks.keep[name]].max()
    assert evaluate(model, data().test_loader()).error < 10


@pytest.mark.parametrize("method", ["set", "deepr", "dsr"])
def test_regrowth_keeps_the_number(method):
    own = {"deepr_alpha": 0.01} if method == "deepr" else {"regrow_every": 5}
    recipe = Recipe(prune=0.6, regrow=method, **own)
    model, masks = trained(recipe)
    total = sum(weight.numel() for weight in weights(model).values())
    assert sum(map(masks.kept, masks.keep)) == total - round(0.6 * total)
    torch.manual_seed(SETTINGS.seed)
    first = random_masks(weights(model), recipe)
    assert any(not torch.equal(first.keep[name], mask) for name, mask in masks.keep.items())
    for name, weight in weights(model).items():
        assert weight.detach()[~masks.keep[name]].count_nonzero() == 0
    assert evaluate(model, data().test_loader()).error < 25


@pytest.mark.parametrize("settings", [{"regrow": "set"}, {"regrow": "deepr"}, {"penalty": "l1"}])
def test_the_seed_decides(settings):
    recipe, short = Recipe(prune=0.5, **settings), replace(SETTINGS, epochs=2)
    first, again, other = (
        trained(recipe, "magnitude" if "penalty" in settings else None, replace(short, seed=seed))[0].state_dict()
        for seed in (0, 0, 1)
    )
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["0.weight"], other["0.weight"])


def test_penalties_are_for_dense_networks_too():
    plain, penalized = (
        trained(Recipe(prune=0.0).changed(penalty=kind, penalty_weight=0.02))[0] for kind in ("none", "exponential")
    )
    size = [
        sum(float(weight.detach().abs().sum()) for weight in weights(model).values()) for model in (plain, penalized)
    ]
    assert size[1] < 0.8 * size[0]


def test_who_chooses():
    assert choice_of(Recipe(prune=0.5), None) == "snip"
    assert choice_of(Recipe(prune=0.5, regrow="set"), None) == "erdos-renyi"
    assert choice_of(Recipe(prune=0.5, regrow="set"), "magnitude") == "magnitude"
    assert choice_of(Recipe(prune=0.0, penalty="l1"), None) == "none"
    assert choice_of(Recipe(prune=0.0, layers=(LayerRule("a", prune=0.5),)), None) == "snip"


# Densities ----------------------------------------------------------------------------------------------------


def shapes(**sizes):
    return {name: torch.zeros(size) for name, size in sizes.items()}


def test_erdos_renyi_by_hand():
    """400 of 2000 weights; one of each layer is sure, the other 398 by the sums of dimensions, 50 and 100 and 20."""
    counts = erdos_renyi(shapes(a=(20, 30), b=(20, 65), c=(10, 10)), Recipe(prune=0.8))
    assert sum(counts.values()) == 400
    epsilon = 397 / (50 + 85 + 20)
    assert counts["a"] == pytest.approx(1 + 50 * epsilon, abs=1)
    assert counts["b"] == pytest.approx(1 + 85 * epsilon, abs=1)
    assert counts["c"] == pytest.approx(1 + 20 * epsilon, abs=1)


def test_erdos_renyi_fills_small_layers_and_counts_kernels():
    counts = erdos_renyi(shapes(a=(100, 100), b=(2, 3), c=(4, 4, 3, 3)), Recipe(prune=0.9))
    assert sum(counts.values()) == 10_150 - round(0.9 * 10_150)
    assert counts["b"] == 6
    assert counts["c"] == pytest.approx(1 + (counts["a"] - 1) * 14 / 200, abs=1)


def test_own_fractions_come_first():
    recipe = Recipe(prune=0.5, layers=(LayerRule("a", prune=0.9),))
    assert erdos_renyi(shapes(a=(10, 10), b=(10, 10)), recipe) == {"a": 10, "b": 90}
    only = Recipe(prune=0.5, layers=(LayerRule("a", prune=0.9),))
    assert erdos_renyi(shapes(a=(10, 10)), only) == {"a": 10}


@pytest.mark.parametrize(
    "recipe", [Recipe(prune=0.999), Recipe(prune=0.2, layers=(LayerRule("a", prune=0.9),)),
               Recipe(prune=0.9, layers=(LayerRule("a", prune=0.0),))]
)  # fmt: skip
def test_what_cannot_be_met_is_refused(recipe):
    with pytest.raises(RecipeError, match="prune is"):
        erdos_renyi(shapes(a=(10, 10), b=(10, 10)), recipe)


def test_random_masks_have_those_counts():
    tensors = shapes(a=(20, 30), b=(20, 65))
    counts = erdos_renyi(tensors, Recipe(prune=0.7))
    torch.manual_seed(3)
    masks = random_masks(tensors, Recipe(prune=0.7))
    assert {name: masks.kept(name) for name in tensors} == counts
    assert isinstance(masks, Masks)


# Bad input ----------------------------------------------------------------------------------------------------


def test_bad_input_is_refused():
    with pytest.raises(RecipeError, match="surgery"):
        trained(Recipe(prune=0.5, regrow="surgery"))
    with pytest.raises(RecipeError, match="matches no layer"):
        trained(Recipe(prune=0.5, layers=(LayerRule("nothing", prune=0.5),)), "magnitude")
    with pytest.raises(RecipeError, match="which removes all"):
        trained(Recipe(prune=1 - 1e-9), "magnitude")
    with pytest.raises(NetworkError, match="nothing to prune"):
        trained(Recipe(prune=0.5), "magnitude", model=nn.Sequential(nn.Flatten(), nn.BatchNorm1d(SIDE * SIDE)))


def test_what_a_rule_keeps_is_not_pruned():
    model, masks = trained(
        Recipe(prune=0.5, layers=(LayerRule("0", keep=True),)), "magnitude", replace(SETTINGS, epochs=1)
    )
    assert "0.weight" not in masks.keep
    assert model[0].weight.count_nonzero() == model[0].weight.numel()


def test_the_criterion_looks_at_training_data_without_augmentation(monkeypatch):
    seen = []
    original = sparse.next_masks
    monkeypatch.setattr(
        sparse, "next_masks", lambda evidence, *rest: seen.append(evidence) or original(evidence, *rest)
    )
    trained(Recipe(prune=0.5), "magnitude", replace(SETTINGS, epochs=1, shift=2, flip=True))
    assert (seen[0].batches.shift, seen[0].batches.flip, len(seen[0].batches)) == (0, False, 10)
    assert seen[0].recipe.criterion == "magnitude"
