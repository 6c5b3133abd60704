"""Pruning to a size: what goes, what stays, and that it fits."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from samples import Mlp

from deepcompress.errors import DivergedError
from deepcompress.prune.budget import FLOOR, BudgetHooks, Curvature, cut_to_bits
from deepcompress.prune.costs import keeping_bits, total_bits
from deepcompress.prune.masks import Masks
from deepcompress.prune.penalty import Penalty
from deepcompress.prune.shadow import Shadow
from deepcompress.recipe import Recipe


def layers(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {"a": torch.randn(30, 40, generator=generator), "b": torch.randn(8, 4, 3, 3, generator=generator)}


ALIKE = {"a": 1.0, "b": 1.0}


@given(st.floats(30, 20_000), st.integers(0, 5))
def test_what_is_left_fits_and_is_no_more_than_before(bits, seed):
    weights = layers(seed)
    before = cut_to_bits(weights, Masks.full(weights), ALIKE, 2 * bits)
    after = cut_to_bits(weights, before, ALIKE, bits)
    for name, mask in after.keep.items():
        assert not (mask & ~before.keep[name]).any()
        assert mask.any()
    assert total_bits(after) <= bits or all(after.kept(name) == 1 for name in weights)


def test_more_bits_never_keep_fewer_weights():
    weights = layers()
    kept = [cut_to_bits(weights, Masks.full(weights), ALIKE, bits).sparsity for bits in (50, 200, 500, 1000, 1500)]
    assert kept == sorted(kept, reverse=True)


@pytest.mark.parametrize("bits", [300, 1500, 4000])
def test_no_layer_is_the_first_to_go_as_a_whole(bits):
    """Weights of one layer seem to matter next to nothing, as the taps of a long filter do, one by one."""
    weights = layers()
    for name in weights:
        found = cut_to_bits(weights, Masks.full(weights), {**ALIKE, name: 1e-12}, bits)
        assert total_bits(found) <= bits
        assert found.density(name) >= 0.9 * FLOOR * (1 - found.sparsity)  # the floor is of the density before it


def test_without_any_gradient_the_sizes_of_weights_decide():
    weights = layers()
    found = cut_to_bits(weights, Masks.full(weights), dict.fromkeys(weights, 0.0), 1000)
    guessed = cut_to_bits(weights, Masks.full(weights), Curvature.of_scale(weights).mean, 1000)
    assert found.sparsity > 0.5
    assert all(torch.equal(found.keep[name], guessed.keep[name]) for name in weights)


def test_weights_that_are_no_longer_numbers_say_so():
    weights = layers()
    weights["b"][3, 2] = float("nan")
    with pytest.raises(DivergedError, match="b: its weights are no longer finite"):
        cut_to_bits(weights, Masks.full(weights), ALIKE, 1000)


def test_of_weights_that_cost_the_same_the_largest_stay():
    weights = {"a": torch.randn(16, 16, generator=torch.Generator().manual_seed(3))}
    mask = cut_to_bits(weights, Masks.full(weights), {"a": 1.0}, 300).keep["a"]
    assert weights["a"].abs()[mask].min() > weights["a"].abs()[~mask].max()


def test_a_weight_in_a_crowd_outlives_a_lonely_one_of_its_size():
    keep = torch.zeros(20, 50, dtype=torch.bool)
    keep[3] = True
    keep[10, 7] = True
    weights = {"a": torch.where(keep, 1.0, 0.0)}
    bits = total_bits(Masks({"a": keep})) - 1
    mask = cut_to_bits(weights, Masks({"a": keep}), {"a": 1.0}, bits).keep["a"]
    assert mask[3].all()
    assert not mask[10, 7]


def test_the_layer_with_the_sharper_loss_keeps_more():
    weights = {"a": layers()["a"], "b": layers()["a"].clone()}
    masks = cut_to_bits(weights, Masks.full(weights), {"a": 4.0, "b": 1.0}, 1500)
    assert masks.kept("a") > 2 * masks.kept("b")


def test_only_regrowth_brings_weights_back():
    weights = {"a": torch.tensor([[3.0, 2.0, 1.0, 0.5]])}
    masks = Masks({"a": torch.tensor([[False, True, True, True]])})
    assert not cut_to_bits(weights, masks, {"a": 1.0}, 1e6).keep["a"][0, 0]
    assert cut_to_bits(weights, masks, {"a": 1.0}, 1e6, regrow=True).keep["a"][0, 0]


def test_all_zero_weights_are_no_error():
    weights = {"a": torch.zeros(5, 5)}
    assert cut_to_bits(weights, Masks.full(weights), {"a": 1.0}, 1.0).keep["a"].any()


def test_curvature_is_the_mean_square_gradient_of_kept_weights():
    weight = torch.nn.Parameter(torch.ones(2, 2))
    curvature = Curvature({"a": weight})
    weight.grad = torch.tensor([[1.0, 2.0], [3.0, 100.0]])
    curvature.look(Masks({"a": torch.tensor([[True, True], [True, False]])}))
    assert curvature.mean["a"] == pytest.approx(14 / 3)
    weight.grad = torch.zeros(2, 2)
    curvature.look(Masks.full({"a": weight}))
    assert curvature.mean["a"] == pytest.approx(7 / 3)


def run(recipe, steps=20, seed=0):
    torch.manual_seed(seed)
    model = Mlp()
    weights = {name: value for name, value in model.named_parameters() if value.ndim > 1}
    hooks = BudgetHooks(model, weights, recipe, 300.0, steps, lambda masks: masks)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=0.1)
    seen = []
    for _ in range(recipe.epochs * steps):
        model.zero_grad()
        sum((weight * torch.randn_like(weight)).sum() for weight in model.parameters()).backward()
        hooks.after_backward()
        optimizer.step()
        hooks.after_step()
        seen.append(hooks.masks)
    return hooks, weights, seen


def test_zeros_stay_zero_through_adam_and_decay_and_the_end_fits():
    hooks, weights, seen = run(Recipe(epochs=2, target_size=100))
    for name, weight in weights.items():
        assert torch.equal(weight != 0, hooks.masks.keep[name])
        for before, after in itertools.pairwise(seen):
            assert not (after.keep[name] & ~before.keep[name]).any()
    assert total_bits(hooks.masks) <= 300
    assert total_bits(seen[len(seen) // 6]) > 300


def test_with_regrowth_the_network_is_pruned_and_its_shadow_is_not():
    hooks, weights, seen = run(Recipe(epochs=2, target_size=100, regrow="surgery"))
    for name, weight in weights.items():
        assert torch.equal(weight != 0, hooks.masks.keep[name])
        assert (hooks.shadow.dense[name] != 0).all()
    pairs = list(itertools.pairwise(seen))
    assert any((after.keep[name] & ~before.keep[name]).any() for before, after in pairs for name in weights)


def test_a_shadow_gives_back_what_it_took():
    weights = {"a": torch.nn.Parameter(torch.randn(3, 3))}
    shadow, before = Shadow(weights), weights["a"].detach().clone()
    with torch.no_grad():
        weights["a"].zero_()
    shadow.restore()
    assert torch.equal(weights["a"], before)


@pytest.mark.parametrize(("kind", "expected"), [("l1", 0.1), ("none", 0.0), ("l2", 0.0), ("rate", 0.2)])
def test_penalties_add_their_gradient(kind, expected):
    weight = torch.nn.Parameter(torch.full((2, 2), 2.0))
    weight.grad = torch.zeros(2, 2)
    Penalty({"a": weight}, Recipe().changed(penalty=kind, penalty_weight=0.1)).add()
    assert weight.grad.flatten().tolist() == pytest.approx([expected] * 4)


def test_the_rate_penalty_pulls_lonely_weights_hardest():
    mask = torch.zeros(20, 50, dtype=torch.bool)
    mask[3] = True
    mask[10, 7] = True
    weight = torch.nn.Parameter(torch.ones(20, 50))
    weight.grad = torch.zeros(20, 50)
    penalty = Penalty({"a": weight}, Recipe(penalty="rate", penalty_weight=1.0))
    penalty.price(Masks({"a": mask}))
    penalty.add()
    bits = keeping_bits(mask)
    assert weight.grad[mask].mean().item() == pytest.approx(1.0, rel=1e-5)
    assert (weight.grad[10, 7] / weight.grad[3, 0]).item() == pytest.approx((bits[10, 7] / bits[3, 0]).item(), rel=1e-5)
