"""Saliency and the scales that make layers comparable, each against its definition written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepcompress.prune import scores
from deepcompress.prune.masks import share_out
from deepcompress.prune.scores import (
    DISTRIBUTIONS,
    lamp,
    lowest,
    per_deviation,
    profile,
    uniform,
    unscaled,
)
from deepcompress.recipe import CHOICES, Recipe

saliencies = st.lists(st.floats(0, 100, width=32), min_size=1, max_size=30).map(lambda v: np.array(v, np.float32))


def scored(scale, saliency):
    """The scale applied to weights in any order: sorted, one level each, and back in their places."""
    order = np.argsort(saliency, kind="stable")
    scores = np.empty(len(saliency))
    scores[order] = scale(saliency[order], np.ones(len(saliency), dtype=np.int64))
    return scores


def lamp_reference(saliency):
    """Equation 5 of Lee et al. 2021, term by term; of equal weights the later one counts as the larger."""
    squares = [float(value) ** 2 for value in saliency]
    scores = []
    for i, own in enumerate(squares):
        others = [s for j, s in enumerate(squares) if s > own or (s == own and j >= i)]
        scores.append(own / sum(others) if sum(others) else 0.0)
    return np.array(scores)


@given(saliencies)
def test_lamp_is_equation_5(saliency):
    np.testing.assert_allclose(scored(lamp, saliency), lamp_reference(saliency), rtol=1e-9)


def test_lamp_by_hand():
    # Squares 1, 4, 9: 9/9, 4/13, 1/14.
    np.testing.assert_allclose(scored(lamp, np.array([2.0, 1.0, 3.0])), [4 / 13, 1 / 14, 1.0])


@given(saliencies)
def test_lamp_keeps_the_order_and_gives_the_largest_weight_1(saliency):
    scores = scored(lamp, saliency)
    order = np.argsort(saliency, kind="stable")
    assert (np.diff(scores[order]) >= 0).all()
    assert scores[order[-1]] == (1.0 if saliency.max() > 0 else 0.0)
    assert ((scores >= 0) & (scores <= 1)).all()


@given(saliencies, st.floats(0.01, 100))
def test_lamp_does_not_depend_on_the_scale_of_a_layer(saliency, factor):
    np.testing.assert_allclose(
        scored(lamp, saliency.astype(float) * factor), scored(lamp, saliency.astype(float)), rtol=1e-9
    )


def test_lamp_does_not_underflow():
    np.testing.assert_allclose(scored(lamp, np.array([1e-30, 2e-30], np.float32)), [1 / 5, 1.0], rtol=1e-6)


def test_uniform_is_the_rank_as_a_fraction_ties_by_position():
    np.testing.assert_array_equal(scored(uniform, np.array([5.0, 1.0, 5.0, 0.0])), np.array([2.5, 1.5, 3.5, 0.5]) / 4)


@given(saliencies, st.integers(0, 30))
def test_one_threshold_on_uniform_removes_the_same_fraction_of_any_layer(saliency, tenths):
    removed = (scored(uniform, saliency) < tenths / 30).sum()
    assert abs(removed - tenths / 30 * len(saliency)) <= 0.5 + 1e-9


def test_deviation_is_the_root_mean_square():
    np.testing.assert_allclose(scored(per_deviation, np.array([3.0, 4.0, 0.0, 0.0], np.float32)), [1.2, 1.6, 0, 0])
    np.testing.assert_array_equal(scored(per_deviation, np.zeros(3, np.float32)), np.zeros(3))


def test_global_is_the_saliency_itself():
    values = np.array([0.5, 0.25], np.float32)
    np.testing.assert_array_equal(scored(unscaled, values), values)


def test_every_choice_of_the_recipe_exists():
    assert set(CHOICES["distribution"]) - {"amc"} <= set(DISTRIBUTIONS)  # whose fractions are found by trials


def drawn(n, dtype=torch.float32, seed=0):
    """Weights with ties, zeros of both signs, and a wide range."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(n, generator=generator) ** 3
    weight[::7] = 0.25
    weight[1::11] = 0.0
    weight[2::13] = -0.0
    return weight.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("chunk", [7, 1000, 1 << 20])
def test_lowest_is_where_sorting_would_cut(monkeypatch, dtype, chunk):
    monkeypatch.setattr(scores, "_CHUNK", chunk)
    weight = drawn(2000, dtype)
    ordered = np.sort(weight.abs().float().numpy())
    for count in (1, 2, 180, 181, 500, 1000, 1999, 2000):
        level, ties = lowest(weight, count)
        assert level == ordered[count - 1]
        assert (ordered < level).sum() + ties == count


def test_profile_of_a_large_layer_has_few_levels_and_all_weights(monkeypatch):
    weight = drawn(60_000)
    exact = profile(weight)
    assert np.array_equal(exact.levels, np.sort(weight.abs().numpy()))
    assert exact.counts.tolist() == [1] * 60_000
    monkeypatch.setattr(scores, "EXACT_UP_TO", 1000)
    coarse = profile(weight)
    assert coarse.weights == exact.weights == 60_000
    assert len(coarse.levels) < 10_000
    assert (np.diff(coarse.levels) > 0).all()
    # A level is the least of the saliencies that it stands for, and they are at most 0.2 % above it.
    stands_for = np.repeat(coarse.levels, coarse.counts)
    assert (stands_for <= exact.levels).all()
    assert (exact.levels <= stands_for * (1 + 2**-9)).all()


@pytest.mark.parametrize("distribution", sorted(set(DISTRIBUTIONS) - {"global"}))
def test_levels_give_each_layer_nearly_the_share_that_all_saliencies_give(monkeypatch, distribution):
    layers = {"a": torch.randn(40_000), "b": torch.randn(9_000) * 0.1, "c": torch.randn(500)}
    recipe = Recipe(prune=0.8, distribution=distribution)
    exact, _ = share_out({name: profile(weight) for name, weight in layers.items()}, recipe)
    monkeypatch.setattr(scores, "EXACT_UP_TO", 1000)
    coarse, _ = share_out({name: profile(weight) for name, weight in layers.items()}, recipe)
    assert sum(coarse.values()) == sum(exact.values()) == round(0.8 * 49_500)
    for name, weight in layers.items():
        assert abs(coarse[name] - exact[name]) <= 0.005 * weight.numel()
