"""Saliency and the scales that make layers comparable, each against its definition written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepcompress.prune.scores import CRITERIA, DISTRIBUTIONS, lamp, per_deviation, uniform, unscaled
from deepcompress.recipe import CHOICES

saliencies = st.lists(st.floats(0, 100, width=32), min_size=1, max_size=30).map(lambda v: np.array(v, np.float32))


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
    np.testing.assert_allclose(lamp(saliency), lamp_reference(saliency), rtol=1e-9)


def test_lamp_by_hand():
    # Squares 1, 4, 9: 9/9, 4/13, 1/14.
    np.testing.assert_allclose(lamp(np.array([2.0, 1.0, 3.0])), [4 / 13, 1 / 14, 1.0])


@given(saliencies)
def test_lamp_keeps_the_order_and_gives_the_largest_weight_1(saliency):
    scores = lamp(saliency)
    order = np.argsort(saliency, kind="stable")
    assert (np.diff(scores[order]) >= 0).all()
    assert scores[order[-1]] == (1.0 if saliency.max() > 0 else 0.0)
    assert ((scores >= 0) & (scores <= 1)).all()


@given(saliencies, st.floats(0.01, 100))
def test_lamp_does_not_depend_on_the_scale_of_a_layer(saliency, factor):
    np.testing.assert_allclose(lamp(saliency.astype(float) * factor), lamp(saliency.astype(float)), rtol=1e-9)


def test_lamp_does_not_underflow():
    np.testing.assert_allclose(lamp(np.array([1e-30, 2e-30], np.float32)), [1 / 5, 1.0], rtol=1e-6)


def test_uniform_is_the_rank_as_a_fraction_ties_by_position():
    np.testing.assert_array_equal(uniform(np.array([5.0, 1.0, 5.0, 0.0])), np.array([2.5, 1.5, 3.5, 0.5]) / 4)


@given(saliencies, st.integers(0, 30))
def test_one_threshold_on_uniform_removes_the_same_fraction_of_any_layer(saliency, tenths):
    removed = (uniform(saliency) < tenths / 30).sum()
    assert abs(removed - tenths / 30 * len(saliency)) <= 0.5 + 1e-9


def test_deviation_is_the_root_mean_square():
    np.testing.assert_allclose(per_deviation(np.array([3.0, 4.0, 0.0, 0.0], np.float32)), [1.2, 1.6, 0, 0])
    np.testing.assert_array_equal(per_deviation(np.zeros(3, np.float32)), np.zeros(3))


def test_global_is_the_saliency_itself():
    values = np.array([0.5, 0.25], np.float32)
    np.testing.assert_array_equal(unscaled(values), values)


def test_magnitude():
    assert torch.equal(CRITERIA["magnitude"](torch.tensor([-2.0, 0.0, 1.0])), torch.tensor([2.0, 0.0, 1.0]))


@pytest.mark.parametrize(("field", "table"), [("criterion", CRITERIA), ("distribution", DISTRIBUTIONS)])
def test_every_choice_of_the_recipe_exists(field, table):
    assert set(CHOICES[field]) <= set(table)
