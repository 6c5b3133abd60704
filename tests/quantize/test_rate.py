"""Entropy-constrained quantization: its cost never rises, and what it assumes is what slow ways find."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcompress.quantize.kmeans import assign, cluster
from deepcompress.quantize.rate import Part, Significance, State, cheapest, constrain, cost, index_lengths, means


def part(seed=0, shape=(40, 30), density=0.3, weighted=False):
    """Weights of a pruned layer whose rows are of different density."""
    rng = np.random.default_rng(seed)
    chance = density * rng.uniform(0.2, 1.8, size=(shape[0], 1))
    positions = np.flatnonzero(rng.uniform(size=(shape[0], int(np.prod(shape[1:])))) < chance)
    values = rng.laplace(size=len(positions)).astype(np.float32)
    values += np.sign(values) * np.float32(0.3)
    return Part(shape, positions, values, rng.exponential(size=len(positions)) + 0.01 if weighted else None)


def searched(parts, price, k=16, refit=means):
    pooled = np.concatenate([one.values for one in parts])
    centroids = cluster(pooled, k).astype(np.float64)
    choices = [assign(one.values, centroids) for one in parts]
    return constrain(parts, centroids, choices, price, refit)


def entropy(choices):
    counts = np.bincount(np.concatenate(choices) + 1)
    counts = counts[counts > 0]
    return float((counts * index_lengths(counts)).sum())


@settings(max_examples=60)
@given(
    st.integers(0, 1000),
    st.sampled_from([(40, 30), (8, 4, 3, 3), (1, 50), (50, 1)]),
    st.floats(1e-4, 10),
    st.booleans(),
    st.sampled_from([1, 2, 7, 16]),
)
def test_the_cost_never_rises(seed, shape, price, weighted, k):
    parts = [part(seed, shape, weighted=weighted), part(seed + 1, shape, weighted=weighted)]
    if not all(len(one.values) for one in parts):
        return
    state, trace = searched(parts, price, k)
    assert all(after <= before * (1 + 1e-9) for before, after in pairwise(trace))
    assert trace[-1] == pytest.approx(cost(parts, state, price))
    assert (state.centroids != 0).all()
    used = np.unique(np.concatenate(state.choices))
    assert used[used >= 0].tolist() == list(range(len(state.centroids)))
    assert all((choice >= 0).any() for choice in state.choices)  # no layer is emptied


def test_without_a_price_each_weight_takes_the_nearest():
    one = part()
    state, _ = searched([one], 0.0)
    np.testing.assert_array_equal(state.choices[0], assign(one.values, state.centroids))


def test_bits_fall_and_the_error_rises_with_the_price():
    one = part(shape=(80, 60))
    found = [searched([one], price)[0] for price in (0.0, 0.01, 0.03, 0.1, 0.3, 1.0)]
    bits = [entropy(state.choices) for state in found]
    # But for what another local optimum is worth.
    assert all(after < 1.05 * before for before, after in pairwise(bits))
    assert bits[-1] < bits[0] / 3
    error = [np.square(one.values - np.append(state.centroids, 0)[state.choices[0]]).sum() for state in found]
    assert error == sorted(error)


def test_a_price_beyond_all_measure_leaves_one_weight():
    one = part()
    state, _ = searched([one], 1e9)
    assert (state.choices[0] >= 0).sum() == 1


def test_what_the_loss_minds_stays_near():
    one = part(shape=(80, 60))
    heavy = np.arange(len(one.values)) % 2 == 0
    weighted = Part(one.shape, one.positions, one.values, np.where(heavy, 10.0, 0.1))
    state, _ = searched([weighted], 0.3)
    error = np.abs(one.values - np.append(state.centroids, 0)[state.choices[0]])
    assert error[heavy].mean() < error[~heavy].mean() / 2
    assert (state.choices[0][heavy] >= 0).mean() > (state.choices[0][~heavy] >= 0).mean()


@given(st.integers(0, 1000))
def test_the_cheapest_is_that_of_the_whole_matrix(seed):
    rng = np.random.default_rng(seed)
    values, counts, zero = rng.normal(size=50), rng.exponential(size=50), rng.normal(size=50)
    centroids, prices = np.sort(rng.normal(size=5)), rng.exponential(size=5)
    table = counts[:, None] * np.square(values[:, None] - centroids) + prices
    table = np.concatenate([counts[:, None] * np.square(values[:, None]) + zero[:, None], table], axis=1)
    np.testing.assert_array_equal(cheapest(values, counts, centroids, prices, zero), table.argmin(axis=1) - 1)


def test_significance_by_hand():
    # 2 x 4 positions, three taken: density 3/8; each line is mixed with one position of that density.
    found = Significance.of((2, 4), np.array([0, 1, 5]))
    assert found.density == 3 / 8
    np.testing.assert_allclose(found.rows, [(2 + 3 / 8) / 5, (1 + 3 / 8) / 5])
    np.testing.assert_allclose(found.columns, [(1 + 3 / 8) / 3, (2 + 3 / 8) / 3, 3 / 8 / 3, 3 / 8 / 3])
    taken = (found.rows[1] * found.columns[1]) / (3 / 8)
    np.testing.assert_allclose(found.bits(np.array([5])), [[-np.log2(taken)], [-np.log2(1 - taken)]])


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (7, 2, 3, 3), (1, 9), (9, 1), (400, 700)])
@pytest.mark.parametrize("density", [0.0, 0.2, 1.0])
def test_all_positions_together(shape, density):
    size = int(np.prod(shape))
    taken = np.flatnonzero(np.random.default_rng(0).uniform(size=size) < density)
    found = Significance.of(shape, taken)
    weight, none = found.bits(np.arange(size))
    is_taken = np.isin(np.arange(size), taken)
    assert found.total(taken) == pytest.approx(np.where(is_taken, weight, none).sum(), rel=1e-9)
    assert np.isfinite(found.total(taken))


def test_a_dense_row_is_cheaper_than_in_a_tensor_of_one_density():
    positions = np.arange(100)  # one full row of ten
    found = Significance.of((10, 100), positions)
    even = 1000 * (0.1 * np.log2(10) + 0.9 * np.log2(1 / 0.9))
    assert found.total(positions) < even / 3


def test_means_by_hand():
    values, counts = np.array([1.0, 2.0, -1.0, 1.0]), np.array([1.0, 3.0, 1.0, 1.0])
    state = State(np.array([5.0, 6.0, 7.0]), np.arange(3), np.zeros(3), (), ())
    # The first two by weight; two that cancel out stay where they were, and so does one without weights.
    assert means(values, counts, np.array([0, 0, 1, 1]), state).tolist() == [1.75, 6.0, 7.0]


def test_lengths_of_indices_are_those_of_the_ideal_code():
    assert index_lengths(np.array([4, 2, 1, 1])).tolist() == [1, 2, 3, 3]
