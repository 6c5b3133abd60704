"""The cut: exactly which weights go, layer by layer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepcompress.errors import PruneError, RecipeError
from deepcompress.prune.masks import Masks, check_alive, cut
from deepcompress.recipe import LayerRule, Recipe


def layers(**sizes):
    generator = torch.Generator().manual_seed(7)
    return {name: torch.randn(*size, generator=generator) for name, size in sizes.items()}


def removed(masks):
    return {name: int((~mask).sum()) for name, mask in masks.keep.items()}


@given(
    st.floats(0, 0.98, exclude_min=True),  # where nothing is pruned, these settings are refused
    st.sampled_from([{"distribution": name} for name in ("lamp", "uniform", "std")] + [{"scope": "global"}]),
    st.floats(0, 1),
)
def test_a_cut_removes_exactly_the_fraction(prune, settings, progress):
    weights = layers(a=(20, 30), b=(15, 7), c=(4, 4, 3, 3))
    recipe = Recipe(prune=prune, **settings)
    decision = cut(weights, recipe, progress)
    # A floored layer keeps one weight that the cut had taken.
    assert sum(removed(decision.masks).values()) == round(prune * progress * 849) - len(decision.floored)
    for name, mask in decision.masks.keep.items():
        assert mask.shape == weights[name].shape
        assert mask.any()


@pytest.mark.parametrize("distribution", ["lamp", "uniform", "std"])
def test_the_smallest_of_each_layer_go(distribution):
    weights = layers(a=(20, 30), b=(15, 7))
    masks = cut(weights, Recipe(prune=0.7, distribution=distribution)).masks
    for name, mask in masks.keep.items():
        assert weights[name].abs()[~mask].max() <= weights[name].abs()[mask].min()


def test_ties_go_by_position():
    masks = cut({"a": torch.ones(2, 5)}, Recipe(prune=0.4, distribution="std")).masks
    assert masks.keep["a"].flatten().tolist() == [False] * 4 + [True] * 6


def test_zeros_go_first_whatever_the_scale():
    weights = {"a": torch.tensor([[0.0, 5.0, -0.0, 1.0]]), "b": torch.tensor([[1e-9, 0.0, 1.0, 2.0]])}
    for distribution in ("lamp", "std"):
        masks = cut(weights, Recipe(prune=3 / 8, distribution=distribution)).masks
        assert masks.keep["a"].tolist() == [[False, True, False, True]]
        assert masks.keep["b"].tolist() == [[True, False, True, True]]


def test_uniform_takes_the_same_fraction_of_every_layer():
    weights = layers(a=(20, 30), b=(10, 20), c=(10, 10))
    assert removed(cut(weights, Recipe(prune=0.9, distribution="uniform")).masks) == {"a": 540, "b": 180, "c": 90}


def test_global_is_one_threshold():
    weights = layers(a=(20, 30), b=(15, 7))
    weights["b"] *= 3
    masks = cut(weights, Recipe(prune=0.5, scope="global")).masks
    magnitudes = torch.cat([w.abs().flatten() for w in weights.values()])
    threshold = magnitudes.sort().values[round(0.5 * 705)]
    for name, mask in masks.keep.items():
        assert torch.equal(mask, weights[name].abs() >= threshold)
    assert masks.density("b") > masks.density("a")


def test_lamp_spares_a_small_layer():
    weights = layers(first=(10, 10), middle=(100, 100), last=(4, 10))
    masks = cut(weights, Recipe(prune=0.95)).masks
    assert masks.density("middle") < 0.05 < masks.density("first") < masks.density("last")


def test_lamp_empties_no_layer_down_to_one_weight_each():
    weights = layers(a=(30, 30), b=(5, 5), c=(2, 2))
    total = 900 + 25 + 4
    decision = cut(weights, Recipe(prune=(total - 3) / total))
    assert removed(decision.masks) == {"a": 899, "b": 24, "c": 3}
    assert decision.floored == ()
    for name, mask in decision.masks.keep.items():
        assert mask.flatten()[weights[name].abs().argmax()]


def test_quality_is_the_threshold_in_root_mean_squares():
    weights = layers(a=(20, 30), b=(15, 7))
    weights["b"] *= 10
    masks = cut(weights, Recipe(distribution="std", quality=0.8)).masks
    for name, mask in masks.keep.items():
        assert torch.equal(mask, weights[name].abs() >= 0.8 * weights[name].square().mean().sqrt())
    halfway = cut(weights, Recipe(distribution="std", quality=0.8), progress=0.5).masks
    assert torch.equal(halfway.keep["b"], weights["b"].abs() >= 0.4 * weights["b"].square().mean().sqrt())


def test_quality_over_the_network_is_in_root_mean_squares_of_all_weights_together():
    weights = layers(a=(20, 30), b=(15, 7))
    weights["b"] *= 10
    together = torch.cat([w.flatten() for w in weights.values()]).double().square().mean().sqrt()
    by_recipe = cut(weights, Recipe(distribution="std", quality=0.3, scope="global")).masks
    by_criterion = cut(weights, Recipe(distribution="std", quality=0.3), scope="global").masks
    for name, mask in by_recipe.keep.items():
        assert torch.equal(mask, weights[name].abs() >= 0.3 * together)
        assert torch.equal(mask, by_criterion.keep[name])
    assert by_recipe.density("b") > 0.8 > 0.3 > by_recipe.density("a") > 0
    halfway = cut(weights, Recipe(distribution="std", quality=0.3, scope="global"), progress=0.5).masks
    assert torch.equal(halfway.keep["a"], weights["a"].abs() >= 0.15 * together)


def test_layers_with_fractions_of_their_own_and_the_total_is_still_met():
    weights = layers(a=(20, 30), b=(15, 7), c=(10, 10))
    recipe = Recipe(prune=0.6, layers=(LayerRule("a", prune=0.75), LayerRule("b", prune=0)))
    assert removed(cut(weights, recipe).masks) == {"a": 450, "b": 0, "c": round(0.6 * 805) - 450}
    with pytest.raises(RecipeError, match=r"lose only 450 of 805 weights and the others have 100"):
        cut(weights, Recipe(prune=0.8, layers=(LayerRule("[ab]", prune=0), LayerRule("a", prune=0.75))))


def test_own_fractions_that_exceed_the_total_leave_the_others_alone():
    weights = layers(a=(20, 30), b=(10, 10))
    recipe = Recipe(prune=0.1, layers=(LayerRule("a", prune=0.5),))
    assert removed(cut(weights, recipe).masks) == {"a": 300, "b": 0}


def test_own_fractions_follow_the_schedule_too():
    weights = layers(a=(20, 30))
    recipe = Recipe(layers=(LayerRule("a", prune=0.5),))
    assert removed(cut(weights, recipe, progress=0.5).masks) == {"a": 150}


def test_a_fraction_that_leaves_nothing_is_refused():
    with pytest.raises(RecipeError, match=r"prune is 0.99, which removes all 10 weights"):
        cut(layers(a=(2, 5)), Recipe(prune=0.99))


def test_the_floor_keeps_the_most_salient_weight_and_says_so():
    weights = {"a": torch.tensor([[0.01, -0.03, 0.02]]), "b": torch.full((10, 10), 5.0)}
    decision = cut(weights, Recipe(prune=0.5, scope="global"))
    assert decision.floored == ("a",)
    assert decision.masks.keep["a"].tolist() == [[False, True, False]]
    own = cut(weights, Recipe(prune=0, layers=(LayerRule("a", prune=0.9),)))
    assert own.floored == ("a",)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(dtype):
    weights = {"a": torch.arange(1, 11).reshape(2, 5).to(dtype)}
    assert removed(cut(weights, Recipe(prune=0.3)).masks) == {"a": 3}


def test_cut_changes_nothing():
    weights = layers(a=(20, 30))
    before = weights["a"].clone()
    cut(weights, Recipe(prune=0.9))
    assert torch.equal(weights["a"], before)


def test_apply_leaves_plus_zero_and_touches_nothing_else():
    weights = {"a": torch.tensor([[-1.0, 2.0], [torch.inf, -3.0]])}
    Masks({"a": torch.tensor([[False, True], [False, True]])}).apply(weights)
    assert (
        weights["a"].numpy().view(np.uint32).tolist()
        == torch.tensor([[0.0, 2.0], [0.0, -3.0]]).numpy().view(np.uint32).tolist()
    )


def test_counts():
    masks = Masks({"a": torch.tensor([True, False, True, True]), "b": torch.tensor([False, False, False, True])})
    assert (masks.kept("a"), masks.density("a"), masks.kept("b"), masks.sparsity) == (3, 0.75, 1, 0.5)
    assert Masks.full({"a": torch.zeros(3)}).sparsity == 0


def test_masks_are_boolean():
    with pytest.raises(ValueError, match=r"mask of a is torch.float32"):
        Masks({"a": torch.ones(3)})


def test_check_alive():
    check_alive(Masks({"a": torch.tensor([True])}))
    with pytest.raises(PruneError, match=r"layer b would lose its last weight"):
        check_alive(Masks({"a": torch.tensor([True]), "b": torch.tensor([False, False])}))
