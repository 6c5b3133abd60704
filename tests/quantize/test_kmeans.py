"""Shared values: invariants on any input, the inits by hand, and the histogram against the exact way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deepcompress.quantize import kmeans
from deepcompress.quantize.kmeans import INITS, assign, cluster, init_density, init_linear, init_random
from deepcompress.recipe import CHOICES

RNG = np.random.default_rng(0)
nonzero = st.floats(-100, 100, width=32).filter(bool)


def brute_force(values, centroids):
    """Distance to the nearest centroid, by the matrix that the real thing never makes."""
    return np.abs(values[:, None].astype(np.float64) - centroids[None].astype(np.float64)).min(axis=1)


def check(values, centroids, k):
    """What holds of every result."""
    assert centroids.dtype == values.dtype
    assert 1 <= len(centroids) <= k
    assert (np.diff(centroids) > 0).all()
    assert (centroids != 0).all()
    index = assign(values, centroids)
    assert set(index) == set(range(len(centroids)))  # none without weights
    own = np.abs(values.astype(np.float64) - centroids[index].astype(np.float64))
    np.testing.assert_array_equal(own, brute_force(values, centroids))
    rounding = 1e-7 * np.abs(values).max()
    assert values.min() - rounding <= centroids[0]
    assert centroids[-1] <= values.max() + rounding


@given(
    st.lists(nonzero, min_size=1, max_size=60).map(lambda v: np.array(v, np.float32)),
    st.sampled_from([2, 4, 8, 32]),
    st.sampled_from(CHOICES["init"]),
)
@example(np.array([-1, -0.5, 0.5, 1], np.float32), 2, "linear")
@example(np.array([-3, -1e-30, 1e-30, 3], np.float32), 2, "density")
@example(np.array([-100, -1, *np.linspace(0.1, 1, 20)], np.float32), 16, "linear")
@example(np.array([-2, -1, 1, 2, 7, 8, 9], np.float32), 4, "random")
@example(np.array([1, 2, 3, 4, 1.5, 1.75, 8e-9, 2.4e-15, 2.5e-44], np.float32), 8, "linear")
def test_centroids_of_any_values(values, k, init):
    check(values, cluster(values, k, init), k)


@pytest.mark.parametrize("init", CHOICES["init"])
def test_a_mean_of_zero_does_not_become_a_centroid(init):
    values = np.array([-0.5, 0.5, 10.0, 10.5], np.float32)  # two clusters: one of them has its mean at 0
    centroids = cluster(values, 2, init)
    check(values, centroids, 2)
    assert centroids.tolist() == [-0.5, 10.25]


@pytest.mark.parametrize("init", CHOICES["init"])
@pytest.mark.parametrize(
    "values",
    [[0.1], [0.1] * 9, [-0.3, 0.1, 0.2, 0.2], [-1e-30, -1.1], [1e-42, 3e38]],
)  # fmt: skip
def test_few_distinct_values_are_kept_bit_for_bit(values, init):
    values = np.array(values, np.float32)
    centroids = cluster(values, 4, init)
    assert centroids.tobytes() == np.unique(values).tobytes()
    assert centroids[assign(values, centroids)].tobytes() == values.tobytes()


def test_exactly_as_many_distinct_values_as_centroids_among_many_weights():
    book = np.sort(RNG.normal(size=32)).astype(np.float32)
    values = RNG.choice(book, size=5000)
    assert cluster(values, 32).tobytes() == book.tobytes()


def test_no_values():
    empty = np.zeros(0, np.float32)
    assert cluster(empty, 4).shape == (0,)
    assert assign(empty, empty).shape == (0,)


@pytest.mark.parametrize("init", CHOICES["init"])
def test_only_negative(init):
    values = -np.abs(RNG.normal(size=500)).astype(np.float32) - np.float32(0.01)
    check(values, cluster(values, 8, init), 8)


@pytest.mark.parametrize("init", CHOICES["init"])
def test_clear_clusters_are_found(init):
    centres = np.array([-4.0, -1.0, 2.0, 5.0])
    values = (centres[:, None] + 0.01 * RNG.normal(size=(4, 200))).astype(np.float32).reshape(-1)
    means = values.reshape(4, 200).astype(np.float64).mean(axis=1)
    # Forgy may start two centroids in one cluster and end in a local optimum: that is what the paper finds, too.
    found = cluster(values, 4, init, seed=3)
    if init == "random":
        check(values, found, 4)
    else:
        np.testing.assert_allclose(found, means, rtol=1e-6)


@pytest.mark.parametrize("init", CHOICES["init"])
def test_same_seed_same_bytes(init):
    values = RNG.normal(size=3000).astype(np.float32)
    assert cluster(values, 16, init, seed=5).tobytes() == cluster(values.copy(), 16, init, seed=5).tobytes()


def test_only_the_random_init_listens_to_the_seed():
    values = RNG.normal(size=3000).astype(np.float32)
    results = {init: {cluster(values, 16, init, seed=s).tobytes() for s in range(3)} for init in CHOICES["init"]}
    assert {init: len(found) for init, found in results.items()} == {"linear": 1, "density": 1, "random": 3}


def test_every_choice_exists():
    assert set(INITS) == set(CHOICES["init"])


def test_linear_by_hand():
    ones = np.ones(6)
    # Spans of 2 and 2 around the gap that pruning left: half of the centroids each.
    both = np.array([-3.0, -2.0, -1.0, 1.0, 2.0, 3.0])
    np.testing.assert_array_equal(init_linear(both, ones, 4, RNG), [-3, -1, 1, 3])
    np.testing.assert_array_equal(init_linear(both, ones, 6, RNG), [-3, -2, -1, 1, 2, 3])
    # Spans of 1 and 3: a quarter below.
    np.testing.assert_array_equal(init_linear(np.array([-2.0, -1.0, 1.0, 4.0]), ones, 4, RNG), [-2, 1, 2.5, 4])
    # A side of a single value still has one centroid, and the other the rest.
    np.testing.assert_array_equal(init_linear(np.array([-1.0, 1.0, 2.0, 3.0]), ones, 4, RNG), [-1, 1, 2, 3])
    np.testing.assert_array_equal(init_linear(np.array([1.0, 4.0]), ones, 4, RNG), [1, 2, 3, 4])


def test_density_by_hand():
    values = np.array([1.0, 2.0, 3.0, 4.0])
    np.testing.assert_array_equal(init_density(values, np.ones(4), 4, RNG), values)
    np.testing.assert_array_equal(init_density(values, np.ones(4), 2, RNG), [1.5, 3.5])
    # Six weights: quantiles 1.5 and 4.5 of them, where the value 1 stands at 1.5 and the value 4 at 5.5.
    np.testing.assert_array_equal(init_density(values, np.array([3.0, 1, 1, 1]), 2, RNG), [1, 3])


def test_random_draws_distinct_values():
    values = np.arange(1.0, 51.0)
    drawn = init_random(values, np.ones(50), 20, np.random.default_rng(1))
    assert len(set(drawn)) == 20
    assert set(drawn) <= set(values)
    assert (np.diff(drawn) > 0).all()
    # By number of weights: a value that nearly all weights have is nearly always among them.
    heavy = np.where(values == 7, 1e6, 1.0)
    assert all(7 in init_random(values, heavy, 2, np.random.default_rng(seed)) for seed in range(20))


@pytest.mark.parametrize("init", ["linear", "density"])
def test_the_histogram_comes_close_to_the_exact_way(init, monkeypatch):
    values = RNG.laplace(size=40_000).astype(np.float32)
    values = values[np.abs(values) > 0.5]
    distinct = len(np.unique(values))
    assert distinct > kmeans.MAX_SAMPLES
    binned = cluster(values, 16, init)
    check(values, binned, 16)
    monkeypatch.setattr(kmeans, "MAX_SAMPLES", distinct)
    exact = cluster(values, 16, init)
    check(values, exact, 16)
    cost = [np.square(values - centroids[assign(values, centroids)]).sum() for centroids in (binned, exact)]
    assert cost[0] == pytest.approx(cost[1], rel=1e-3)


def test_condensing_keeps_number_and_sum():
    values = RNG.normal(size=30_000).astype(np.float32)
    samples, weights = kmeans.condense(values)
    assert len(samples) <= kmeans.MAX_SAMPLES
    assert weights.sum() == len(values)
    assert (weights * samples).sum() == pytest.approx(values.astype(np.float64).sum(), abs=1e-6)
    few = np.array([2, 1, 2, 2], np.float32)
    assert [part.tolist() for part in kmeans.condense(few)] == [[1, 2], [1, 3]]


@pytest.mark.parametrize("scale", [1e-37, 1.0, 3e37])
def test_many_values_of_any_magnitude(scale):
    values = (np.clip(RNG.normal(size=40_000), -4, 4) * scale).astype(np.float32)
    check(values, cluster(values, 8), 8)


def test_more_centroids_never_cost_more():
    values = RNG.normal(size=5000).astype(np.float32)
    cost = [np.square(values - (c := cluster(values, 1 << bits))[assign(values, c)]).sum() for bits in range(1, 9)]
    assert cost == sorted(cost, reverse=True)


def test_assignment_between_two_centroids():
    centroids = np.array([-1.0, 1.0, 4.0], np.float32)
    values = np.array([-9, -1, -0.1, 0.1, 1, 2.4, 2.6, 99], np.float32)
    assert assign(values, centroids).tolist() == [0, 0, 0, 1, 1, 1, 2, 2]
    assert assign(np.array([0, 2.5], np.float32), centroids).tolist() == [1, 2]  # just between: the upper one


def test_centroids_without_weights_are_dropped_and_zero_is_moved():
    values = np.array([1, 2, 10], np.float32)
    assert kmeans._settle(values, np.array([1, 2, 5, 10], np.float32)).tolist() == [1, 2, 10]
    assert kmeans._settle(values, np.array([0, 8], np.float32)).tolist() == [1, 8]
    assert kmeans._settle(values, np.array([0, 1, 8], np.float32)).tolist() == [1, 8]
