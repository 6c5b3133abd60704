"""Vectors on a grid: the nearest multiples, few of them, and scales that keep their sign."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deepcompress.quantize.grid import short
from deepcompress.quantize.vectors import is_statistic, is_vector, share_vectors, vector_values

values = st.floats(-100, 100, width=32).filter(lambda value: value == 0 or abs(value) > 1e-30)


@settings(max_examples=30)
@example([0.5, -8.0], 1)  # the one value goes to the side of the largest
@given(st.lists(values, min_size=1, max_size=50), st.sampled_from([1, 2, 3, 8]))
def test_any_vector(elements, bits):
    vector = torch.tensor(elements)
    state = {"b": vector.clone()}
    books = share_vectors(state, ["b"], bits)
    found = state["b"]
    if not vector.any():
        assert books == []
        assert torch.equal(found, vector)
        return
    (book,) = books
    assert book.levels == 2**bits
    assert len(torch.unique(found)) <= 2**bits
    step = book.step.detach()
    assert short(float(step)) == float(step)
    multiples = found / step
    torch.testing.assert_close(multiples, multiples.round(), rtol=0, atol=1e-5)
    if (vector > 0).all() or (vector < 0).all():
        assert torch.equal(found.sign(), vector.sign())
    assert not found[vector == 0].any()
    # Each took the nearest of the values that the vector has now.
    nearest = (vector[:, None].double() - torch.unique(found)[None].double()).abs().min(dim=1).values
    torch.testing.assert_close((vector.double() - found.double()).abs(), nearest, rtol=0, atol=1e-4)


def test_many_bits_change_next_to_nothing():
    torch.manual_seed(0)
    vector = torch.randn(300)
    state = {"b": vector.clone()}
    share_vectors(state, ["b"], 12)
    torch.testing.assert_close(state["b"], vector, rtol=0, atol=2e-3)


def test_error_falls_with_bits():
    torch.manual_seed(0)
    vector, errors = torch.randn(300), []
    for bits in range(1, 9):
        state = {"b": vector.clone()}
        share_vectors(state, ["b"], bits)
        errors.append(float((state["b"] - vector).square().sum()))
    assert all(after < before / 2 for before, after in pairwise(errors))


def test_ones_stay_ones():
    state = {"scale": torch.ones(16)}
    (book,) = share_vectors(state, ["scale"], 2)
    assert state["scale"].tolist() == [1] * 16
    assert book.centroids.tolist() == [1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(dtype):
    torch.manual_seed(0)
    vector = torch.randn(64).to(dtype)
    state = {"b": vector.clone()}
    share_vectors(state, ["b"], 4)
    assert state["b"].dtype is dtype
    assert 8 <= len(torch.unique(state["b"])) <= 16
    torch.testing.assert_close(state["b"], vector, rtol=0, atol=0.3)


def test_small_scales_do_not_vanish():
    vector = torch.tensor([1e-4, 1.0, 3.0])
    shared, _, choice = vector_values(vector, 2)
    assert (choice >= 0).all()
    assert (shared.centroids > 0).all()
    shared, _, choice = vector_values(-vector, 2)
    assert (choice >= 0).all()
    assert (shared.centroids < 0).all()
    assert vector_values(torch.tensor([1e-4, 1.0, -3.0]), 2)[2].tolist()[0] == -1


def test_what_is_a_vector():
    assert is_vector(torch.ones(3))
    assert not any(map(is_vector, (torch.ones(()), torch.ones(2, 2), torch.arange(3), torch.ones(0))))
    assert is_statistic("net.bn1.running_var")
    assert is_statistic("running_mean")
    assert not is_statistic("running_mean.bias")


def test_members_are_the_elements_that_are_not_zero():
    state = {"b": torch.tensor([0.0, 1.0, -0.01, -1.0])}
    (book,) = share_vectors(state, ["b"], 2)
    assert state["b"].tolist() == [0, 1, 0, -1]
    assert book.members[0].positions.tolist() == [1, 3]
    assert np.array_equal(book.centroids[book.members[0].assignment].tolist(), [1, -1])


def test_a_scale_that_multiplies_nothing_does_not_widen_the_grid():
    """A channel without input has a scale hundreds of times that of others, and a variance of 0."""
    scale, variance = torch.tensor([1.0, 2.0, 3.0, 316.0]), torch.tensor([1.0, 0.5, 2.0, 0.0])
    shared, _, choice = vector_values(scale, 4, variance)
    found = shared.centroids[choice]
    assert found[:3].tolist() == pytest.approx([1, 2, 3], rel=0.01)
    assert found[3] == found[2]
    state = {"scale": scale.clone()}
    share_vectors(state, ["scale"], 4, variance)
    assert state["scale"].tolist() == found.tolist()


def test_errors_count_by_importance():
    vector = torch.tensor([1.0, 1.45, 2.0, 2.4])
    matters = torch.tensor([0.01, 9.0, 0.01, 0.01])
    errors = [(_rounded(vector, importance) - vector).abs()[1] for importance in (None, matters)]
    assert errors[1] < 0.01 < 0.1 < errors[0]


def test_importance_of_nothing_is_that_of_all():
    vector = torch.tensor([1.0, 1.45, 2.0, 300.0])
    assert torch.equal(_rounded(vector, torch.zeros(4)), _rounded(vector, None))


def _rounded(vector, importance):
    state = {"b": vector.clone()}
    share_vectors(state, ["b"], 1, importance)
    return state["b"]
