"""Steps that two bytes hold, whole multiples, and the step of the least distortion, against slow ways to find them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from deepcompress.quantize.grid import fit_step, least_squares, multiples_of, short, sides

RNG = np.random.default_rng(0)
BIG = float(np.finfo(np.float32).max)


@given(st.floats(1e-36, 1e36))
@example(1.0)
@example(1.00390625)  # just between two: the even one
@example(1.01171875)
def test_short_is_the_nearest_bfloat16(step):
    assert short(step) == float(torch.tensor(step, dtype=torch.float32).to(torch.bfloat16))


@pytest.mark.parametrize("step", [0.0, 1e-300, 1e-45, 3e38, 3.4e38, 1e300, math.inf])
def test_short_is_neither_zero_nor_infinite(step):
    found = short(step)
    assert 0 < found < math.inf
    assert found == float(torch.tensor(found).to(torch.bfloat16))


def test_multiples_of_a_short_step_are_float32_without_rounding():
    step = short(0.0123)
    multiples = np.arange(-4096, 4097)
    np.testing.assert_array_equal(np.float32(step) * multiples.astype(np.float32), step * multiples.astype(np.float64))


@given(
    st.lists(st.floats(-50, 50).filter(bool), min_size=1, max_size=30),
    st.floats(0.1, 20),
    st.integers(0, 6),
    st.integers(0, 6),
    st.booleans(),
)
def test_multiples_are_the_nearest_there_are(values, step, below, above, zero):
    allowed = [j for j in range(-below, above + 1) if zero or j]
    if not allowed:
        return
    values = np.array(values)
    found = multiples_of(values, step, below, above, zero)
    assert set(found.tolist()) <= set(allowed)
    nearest = np.abs(values[:, None] - step * np.array(allowed)).min(axis=1)
    np.testing.assert_allclose(np.abs(values - step * found), nearest, rtol=0, atol=1e-9)


def test_sides_by_hand():
    assert sides(np.array([-2.0, 3.0]), 1.0, 8, BIG) == (2, 3)
    assert sides(np.array([-20.0, 60.0]), 1.0, 8, BIG) == (2, 6)
    assert sides(np.array([1.0, 3.0]), 1.0, 8, BIG) == (0, 3)
    assert sides(np.array([-3.0, -1.0]), 1.0, 2, BIG) == (2, 0)
    assert sides(np.array([-0.1, 3.0]), 1.0, 2, BIG) == (1, 1)  # a side with values has a multiple
    assert sum(sides(np.array([-2.0, 3.0]), 1.0, 1, BIG)) == 1
    assert sides(np.array([-2.0, 3.0]), 1.0, 8, 2.5) == (2, 2)


@pytest.mark.parametrize("k", [2, 3, 5, 16])
@pytest.mark.parametrize("weighted", [False, True])
def test_no_step_is_much_better_than_the_one_that_is_found(k, weighted):
    samples = np.sort(RNG.normal(size=300))
    samples = samples[np.abs(samples) > 0.4]
    counts = RNG.exponential(size=len(samples)) if weighted else np.ones(len(samples))

    def distortion(step, below, above):
        return (counts * np.square(samples - step * multiples_of(samples, step, below, above))).sum()

    step, below, above = fit_step(samples, counts, k, BIG)
    assert short(step) == step
    assert below + above <= k
    best = min(distortion(s, *sides(samples, s, k, BIG)) for s in np.geomspace(0.2 / k, 4, 2000))
    assert distortion(step, below, above) <= 1.05 * best


@pytest.mark.parametrize("value", [0.5, -3.0, 1e-30, 3e38])
def test_a_constant_is_one_step(value):
    value = math.copysign(short(abs(value)), value)
    step, below, above = fit_step(np.array([value]), np.ones(1), 8, BIG)
    assert (step, below, above) == (abs(value), int(value < 0), int(value > 0))


def test_ternary():
    samples = np.array([-1.2, -1.0, -0.8, 0.9, 1.1])
    step, below, above = fit_step(samples, np.ones(5), 2, BIG)
    assert (below, above) == (1, 1)
    assert step == short(1.0)


def test_no_multiple_is_larger_than_the_dtype_allows():
    samples = np.array([-65504.0, 30000.0, 65504.0])
    step, below, above = fit_step(samples, np.ones(3), 4, 65504.0)
    assert step * max(below, above) <= 65504


def test_values_may_become_zero_where_that_is_asked_for():
    samples = np.array([0.01, 1.0, 2.0])
    step, below, above = fit_step(samples, np.ones(3), 3, BIG, zero=True)
    assert multiples_of(samples, step, below, above, zero=True).tolist() == [0, 1, 2]
    assert (multiples_of(samples, step, below, above) != 0).all()


def test_a_penalty_on_many_multiples_makes_the_step_coarser():
    samples = np.sort(RNG.normal(size=500))

    def penalty(samples, counts, multiples):
        return 3.0 * len(np.unique(multiples))

    counts = np.ones(500)
    assert fit_step(samples, counts, 32, BIG, penalty)[0] > 1.5 * fit_step(samples, counts, 32, BIG)[0]


def test_least_squares_by_hand():
    assert least_squares(np.array([1.0, 5.0]), np.ones(2), np.array([1, 2])) == 11 / 5
    assert least_squares(np.array([1.0, 5.0]), np.array([5.0, 0.0]), np.array([1, 2])) == 1
    assert least_squares(np.array([1.0]), np.ones(1), np.array([0])) == 0
    assert least_squares(np.array([-1.0]), np.ones(1), np.array([1])) == 0
