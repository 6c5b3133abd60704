"""A matrix in compressed form: what it holds, and products with it."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from deepcompress.coding.encoder import encode_coded, encode_plain
from deepcompress.coding.tensors import DType
from deepcompress.sparse import matrix as module
from deepcompress.sparse.matrix import PANEL, SparseMatrix, kernels, may_pay


def random_matrix(rows, columns, density, values, seed=0):
    """Dense, and compressed; row 1 is empty where there is one, and so is the last."""
    rng = np.random.default_rng(seed)
    codebook = np.linspace(-1, 1, values, dtype=np.float32) + np.float32(0.01)
    kept = rng.random((rows, columns)) < density
    kept[[1, -1] if rows > 2 else []] = False
    indices = rng.integers(0, values, (rows, columns))[kept]
    dense = np.zeros((rows, columns), dtype=np.float32)
    dense[kept] = codebook[indices]
    return dense, SparseMatrix.build((rows, columns), np.flatnonzero(kept), indices, codebook)


@pytest.fixture
def without_numba(monkeypatch):
    monkeypatch.setattr(module, "kernels", lambda: None)


def test_by_hand():
    """Two rows of six columns: the first has five weights of value 0 and one of value 1, the second one of value 1."""
    found = SparseMatrix.build((2, 6), np.array([0, 1, 2, 3, 4, 5, 9]), [0, 0, 1, 0, 0, 0, 1], np.float32([0.5, -2]))
    assert found.groups.columns.tolist() == [0 | 1 << 16 | 3 << 32 | 4 << 48]
    assert found.groups.values.tolist() == [0]
    assert found.groups.ends.tolist() == [0, 1, 1]
    assert found.rest.columns.tolist() == [5, 2, 3]
    assert found.rest.values.tolist() == [0, 1, 1]
    assert found.rest.ends.tolist() == [0, 2, 3]
    assert found.dense().tolist() == [[0.5, 0.5, -2, 0.5, 0.5, 0.5], [0, 0, 0, -2, 0, 0]]
    assert (found.weights, found.work) == (7, 4 + 2 * 3)
    assert found.nbytes == 2 * 4 + 8 + 1 + 3 * 4 + 3 * 2 + 3 + 3 * 4
    x = np.float32([[1, 2, 4, 8, 16, 32]])
    assert found.times_rows(x).tolist() == [[0.5 * 59 - 8, -16]]
    assert found.times_columns(x.T).tolist() == [[0.5 * 59 - 8], [-16]]


SHAPES = [(1, 1), (1, 9), (7, 1), (5, 64), (40, 300), (3, PANEL), (3, PANEL + 1), (4, 70_000)]


@pytest.mark.parametrize("values", [1, 2, 32, 256, 257])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_dense_matrix_comes_back_and_products_are_its(shape, values):
    rng = np.random.default_rng(1)
    for density in (0, 0.1, 1):
        dense, found = random_matrix(*shape, density, values)
        assert np.array_equal(found.dense(), dense)
        assert found.weights == np.count_nonzero(dense)
        assert found.groups.values.dtype == (np.uint8 if values <= 256 else np.uint16)
        for vectors in (0, 1, 3, 16):
            x = rng.normal(size=(vectors, shape[1])).astype(np.float32)
            expected = x.astype(np.float64) @ dense.T.astype(np.float64)
            scale = 1e-5 * np.maximum(np.abs(x) @ np.abs(dense).T, 1e-30)
            assert (np.abs(found.times_rows(x) - expected) <= scale).all()
            assert (np.abs(found.times_columns(np.ascontiguousarray(x.T)).T - expected) <= scale).all()


@pytest.mark.parametrize("panel", [1000, 64])
@pytest.mark.parametrize("values", [3, 40])
def test_kernels_and_their_slow_twins_give_the_same_bits(values, panel, monkeypatch):
    assert kernels() is not None
    rng = np.random.default_rng(2)
    few, many = rng.normal(size=(3, 200)).astype(np.float32), rng.normal(size=(200, 11)).astype(np.float32)
    monkeypatch.setattr(module, "PANEL", panel)
    _, fast = random_matrix(30, 200, 0.3, values)
    assert fast.width == min(200, -(-200 // -(-200 // panel)))
    rows, columns = fast.times_rows(few), fast.times_columns(many)
    monkeypatch.setattr(module, "kernels", lambda: None)
    _, slow = random_matrix(30, 200, 0.3, values)
    assert all(
        np.array_equal(a, b) for a, b in zip((*fast.groups, *fast.rest), (*slow.groups, *slow.rest), strict=True)
    )
    assert np.array_equal(slow.times_rows(few), rows)
    assert np.array_equal(slow.times_columns(many), columns)
    assert len(fast.groups.values) > 0 and len(fast.rest.values) > 0


def test_any_number_of_threads_gives_the_same_bits(monkeypatch):
    monkeypatch.setattr(module, "_PER_THREAD", 100)
    _, found = random_matrix(50, 200, 0.2, 8)
    x = np.random.default_rng(3).normal(size=(3, 200)).astype(np.float32)
    for workers in (2, 3, 100):
        assert np.array_equal(found.times_rows(x, workers), found.times_rows(x))
        assert np.array_equal(found.times_columns(x.T.copy(), workers), found.times_columns(x.T.copy()))


def test_panels_by_hand(monkeypatch):
    """Five columns in panels of three: the second panel's columns are counted from its first."""
    monkeypatch.setattr(module, "PANEL", 3)
    found = SparseMatrix.build((2, 5), np.array([0, 2, 3, 6, 9]), [0, 0, 1, 1, 0], np.float32([1, 10]))
    assert found.width == 3
    assert found.rest.ends.tolist() == [0, 2, 3, 4, 5]
    assert found.rest.columns.tolist() == [0, 2, 1, 0, 1]
    assert found.dense().tolist() == [[1, 0, 1, 10, 0], [0, 10, 0, 0, 1]]
    assert found.times_rows(np.float32([[1, 2, 3, 4, 5]])).tolist() == [[44, 25]]


def test_a_product_can_go_where_it_is_wanted():
    _, found = random_matrix(4, 6, 0.5, 3)
    x, out = np.ones((6, 8), dtype=np.float32), np.full((2, 4, 8), 7, dtype=np.float32)
    assert found.times_columns(x, out=out[1]) is not None
    assert np.array_equal(out[1], found.times_columns(x))
    assert (out[0] == 7).all()


def test_a_weight_takes_two_and_a_quarter_to_three_bytes():
    for density, values, most in ((0.09, 32, 2.5), (0.09, 256, 3.0)):
        _, found = random_matrix(64, 4096, density, values)
        assert 2.25 < (found.nbytes - found.codebook.nbytes - 8 * 65) / found.weights < most


def test_copies_share_it():
    _, found = random_matrix(4, 6, 0.5, 3)
    assert copy.deepcopy(found) is found


def test_what_pays():
    """A single weight counts as two in a group: 15 % of the elements in all."""
    _, found = random_matrix(100, 1000, 0.1, 4)
    assert found.pays
    assert not random_matrix(100, 1000, 0.2, 4)[1].pays
    _, spread = random_matrix(100, 1000, 0.1, 1000)  # few weights of the same value in a row
    assert spread.weights < 10_100 and not spread.pays
    assert spread.work > 15_000 > found.work


def coded(density, shape=(100, 300), dtype=DType.FLOAT32):
    rng = np.random.default_rng(0)
    book = np.float32([-1, 1, 2]).astype(dtype.storage)
    values = np.where(rng.random(shape) < density, book[rng.integers(0, 3, shape)], 0).astype(dtype.storage)
    return encode_coded(values, dtype, book).info


def test_what_may_pay(monkeypatch):
    assert may_pay(coded(0.1))
    assert may_pay(coded(0.1, dtype=DType.FLOAT16))
    assert may_pay(coded(0.1, (100, 300, 1, 1)))
    assert not may_pay(coded(0.2))
    assert not may_pay(
        encode_plain(np.random.default_rng(0).normal(size=(100, 300)).astype(np.float32), DType.FLOAT32).info
    )
    assert not may_pay(encode_plain(np.zeros((), dtype=np.float32), DType.FLOAT32).info)
    monkeypatch.setattr(module, "kernels", lambda: None)
    assert not may_pay(coded(0.1))


def test_without_numba_it_is_slow_and_right(without_numba):
    dense, found = random_matrix(9, 20, 0.4, 3)
    x = np.random.default_rng(4).normal(size=(2, 20)).astype(np.float32)
    assert np.array_equal(found.dense(), dense)
    assert np.allclose(found.times_rows(x), x @ dense.T, rtol=1e-5, atol=1e-6)
