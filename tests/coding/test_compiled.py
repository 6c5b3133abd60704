"""Compiled loops are there where numba compiles; the twins in numpy do the work where it does not."""

from __future__ import annotations

import sys

import pytest

from deepcompress.coding import lanes
from deepcompress.coding.compiled import loops
from deepcompress.coding.rans import decoder, kernels, plain
from deepcompress.coding.rans.shape import Matrix
from deepcompress.sparse import matrix
from deepcompress.updates import coder

numba = pytest.importorskip("numba", reason="without numba nothing is compiled")


@pytest.fixture
def fresh():
    """Nobody remembers whether there are compiled loops."""
    for found in (lanes.kernels, matrix.kernels):
        found.cache_clear()
    yield
    for found in (lanes.kernels, matrix.kernels):
        found.cache_clear()


def missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)


def told_not_to_compile(monkeypatch):
    monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)


def test_they_are_those_of_the_module():
    assert loops("deepcompress.coding.rans.kernels") is kernels


@pytest.mark.parametrize("how", [missing, told_not_to_compile])
def test_all_coders_do_without(how, fresh, monkeypatch):
    how(monkeypatch)
    assert loops("deepcompress.coding.rans.kernels") is None
    assert lanes.kernels() is None
    assert matrix.kernels() is None
    assert decoder.loops_for(Matrix(1 << 10, 1, 1 << 10), 1 << 10) is plain
    assert not coder.coder_for(1 << 20).is_compiled
