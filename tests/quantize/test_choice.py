"""Quantizer, weighting and rate together: what a table holds, and which value each weight takes."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcompress.quantize.choice import QUANTIZERS, Demand, choose, price_of, rounded, shared_values
from deepcompress.quantize.grid import short
from deepcompress.quantize.kmeans import assign, cluster, condense
from deepcompress.quantize.rate import Part
from deepcompress.recipe import CHOICES, Recipe

RNG = np.random.default_rng(0)
BIG = float(np.finfo(np.float32).max)
nonzero = st.floats(-100, 100, width=32).filter(lambda value: abs(value) > 1e-30)


def demand(levels, price=0.0, **settings):
    return Demand(Recipe(**settings), levels, BIG, price)


def of(values, shape=None, importance=None):
    values = np.asarray(values, np.float32)
    return Part(shape or (1, len(values)), np.arange(len(values)), values, importance)


def best_partition(values, weights, k):
    """The lowest weighted distortion over all ways to cut sorted values into k runs."""
    order = np.argsort(values)
    values, weights = values[order].astype(np.float64), weights[order]

    def distortion(cuts):
        ends = [0, *cuts, len(values)]
        runs = [slice(a, b) for a, b in pairwise(ends)]
        means = [np.average(values[run], weights=weights[run]) for run in runs]
        return sum((weights[run] * np.square(values[run] - mean)).sum() for run, mean in zip(runs, means, strict=True))

    return min(map(distortion, combinations(range(1, len(values)), k - 1)))


def test_weighted_clusters_are_the_best_of_all():
    values = np.array([-2.1, -2.0, -1.2, 0.9, 1.0, 1.9, 2.0, 2.4], np.float32)
    for seed in range(3):
        weights = np.random.default_rng(seed).uniform(0.5, 2, size=8)
        best = best_partition(values, weights, 3)
        found = []
        for init in CHOICES["init"]:
            centroids = cluster(values, 3, init, seed, weights)
            error = np.square(values - centroids[assign(values, centroids)], dtype=np.float64)
            found.append(float((weights * error).sum()))
        assert min(found) == pytest.approx(best, rel=1e-5)


@settings(max_examples=30)
@given(st.lists(st.tuples(nonzero, st.integers(1, 5)), min_size=1, max_size=20), st.sampled_from([2, 3, 8]))
def test_a_whole_importance_is_as_many_weights(pairs, k):
    values = np.array([value for value, _ in pairs], np.float32)
    counts = np.array([count for _, count in pairs])
    weighted = cluster(values, k, "density", importance=counts.astype(np.float32))
    np.testing.assert_array_equal(weighted, cluster(np.repeat(values, counts), k, "density"))


def test_importance_in_a_histogram():
    values = RNG.normal(size=40_000).astype(np.float32)
    importance = RNG.exponential(size=40_000).astype(np.float32)
    samples, counts = condense(values, importance)
    assert len(samples) < 20_000
    assert counts.sum() == pytest.approx(importance.sum(dtype=np.float64))
    assert (counts * samples).sum() == pytest.approx((values.astype(np.float64) * importance).sum(), rel=1e-6)


def test_the_scale_of_the_importance_does_not_matter():
    values, importance = RNG.normal(size=2000).astype(np.float32), RNG.exponential(size=2000)
    for quantizer in QUANTIZERS:
        small, large = (
            shared_values(values, importance * scale, demand(8, quantizer=quantizer)).centroids
            for scale in (2**-20, 2**20)
        )
        np.testing.assert_allclose(small, large, rtol=1e-5)


def test_every_choice_exists():
    assert {*QUANTIZERS, "rows"} == set(CHOICES["quantizer"])  # rows have steps and no codebook: quantize.rows


@settings(max_examples=40)
@given(
    st.lists(nonzero, min_size=1, max_size=60),
    st.sampled_from([1, 2, 3, 5, 32]),
    st.sampled_from(["uniform", "kmeans"]),
)
def test_shared_values_of_any_values(values, levels, quantizer):
    values = np.array(values, np.float32)
    table = shared_values(values, None, demand(levels, quantizer=quantizer))
    assert table.centroids.dtype == np.float32
    assert 1 <= len(table.centroids) <= levels
    assert (np.diff(table.centroids) > 0).all()
    assert (table.centroids != 0).all()
    assert set(assign(values, table.centroids)) == set(range(len(table.centroids)))
    if quantizer == "uniform":
        assert short(table.step) == table.step
        np.testing.assert_array_equal(table.centroids, np.float32(table.step) * table.multiples.astype(np.float32))


def test_a_grid_of_values_that_lie_on_one():
    step = np.float32(0.0625)
    values = step * RNG.choice([-3, -1, 1, 2], size=500).astype(np.float32)
    table = shared_values(values, None, demand(8, quantizer="uniform"))
    assert (table.step, table.multiples.tolist()) == (step, [-3, -1, 1, 2])


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_no_values(quantizer, rate):
    parts = [of([]), of([])]
    table, choices = choose(parts, demand(4, price_of(rate, parts), quantizer=quantizer, rate=rate))
    assert len(table.centroids) == 0
    assert [choice.shape for choice in choices] == [(0,), (0,)]


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_no_rate_is_the_nearest_value(quantizer):
    parts = [of(RNG.normal(size=300)), of(RNG.normal(size=200))]
    table, choices = choose(parts, demand(8, quantizer=quantizer))
    for part, choice in zip(parts, choices, strict=True):
        distance = np.abs(part.values[:, None] - table.centroids)
        np.testing.assert_array_equal(distance[np.arange(len(choice)), choice], distance.min(axis=1))


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("coder", ["huffman", "fixed"])
def test_a_rate_is_taken_only_where_the_real_coder_gains(quantizer, coder):
    values = RNG.laplace(size=(60, 50)).astype(np.float32)
    positions = np.flatnonzero(np.abs(values) > 0.7)
    parts = [Part((60, 50), positions, values.reshape(-1)[positions])]
    power = np.square(parts[0].values, dtype=np.float64).sum()
    error = {}
    for rate in (0.0, 0.02, 0.3):
        asked = demand(16, price_of(rate, parts), quantizer=quantizer, rate=rate, coder=coder)
        table, (choice,) = choose(parts, asked)
        used = np.unique(choice[choice >= 0])
        assert used.tolist() == list(range(len(table.centroids)))
        if table.multiples is not None:
            np.testing.assert_array_equal(table.centroids, np.float32(table.step) * table.multiples.astype(np.float32))
        error[rate] = np.square(parts[0].values - np.append(table.centroids, 0)[choice]).sum() / power, len(used)
    # At fixed widths a small rate gains nothing, and all weights keep the nearest value.
    assert error[0.0][0] <= error[0.02][0] < error[0.3][0]
    assert error[0.0][1] >= error[0.02][1] > error[0.3][1]
    assert (error[0.0] == error[0.02]) == (coder == "fixed" and quantizer == "kmeans")


@pytest.mark.parametrize("scale", [1e-18, 1.0, 1e15])
def test_one_rate_means_the_same_for_any_scale(scale):
    values = RNG.laplace(size=3000)
    found = []
    for factor in (1.0, scale):
        parts = [of(values * factor, (60, 50))]
        _, (choice,) = choose(parts, demand(16, price_of(0.1, parts), rate=0.1))
        found.append(choice)
    assert (found[0] == found[1]).mean() > 0.999


def test_price_by_hand():
    assert price_of(0.5, [of([1, 3]), of([-1])]) == 0.5 * 11 / 3
    assert price_of(0.5, [of([1, 3], importance=np.array([2.0, 1.0]))]) == 0.5 * 11 / 2
    assert price_of(0.5, [of([])]) == 0


def test_halves_where_they_are_near():
    centroids = np.array([-1.2345, 0.001, 7.7], np.float32)
    found = rounded(centroids, "float16")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, torch.from_numpy(centroids).half().float().numpy())
    assert rounded(centroids, "float32") is centroids


@pytest.mark.parametrize("far", [1e-30, 1e-8, 1e5, 3e38, -1e-7])
def test_no_codebook_loses_a_value_for_halves(far):
    centroids = np.sort(np.array([0.1, far], np.float32))
    np.testing.assert_array_equal(rounded(centroids, "float16"), centroids)


def test_a_dense_tensor_on_a_grid_takes_zeros_where_they_pay():
    values = np.random.default_rng(0).laplace(0, 1, (40, 50)).astype(np.float32)
    part = Part(values.shape, np.arange(values.size), values.reshape(-1))
    rate = 0.01
    table, (choice,) = choose([part], demand(255, price_of(rate, [part]), quantizer="uniform", rate=rate, coder="auto"))
    assert 0.02 < np.mean(choice < 0) < 0.4
    assert table.multiples is not None and 0 not in table.multiples
