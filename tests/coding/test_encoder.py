"""Offsets of a width that was asked for: that width, the right fillers, and what it costs against the best one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcompress.coding.dtypes import DType
from deepcompress.coding.encoder import CODERS, encode_coded, left_to_mixing, mixed_bytes
from deepcompress.coding.layouts.dense import Dense
from deepcompress.coding.layouts.relative import Relative, plan_literal, plan_shared
from deepcompress.coding.offsets import MAX_BITS
from deepcompress.coding.survey import survey
from deepcompress.coding.tensors import Encoding, decode

BOOK = np.array([0.5, -0.25, 3.0, 1e-3], dtype=np.float32)
WIDTHS = range(1, MAX_BITS + 1)


def sparse(density, book=BOOK, size=40_000):
    """A flat tensor of values of the book, if there is one; the first 300 and the last 500 of them are zero."""
    chance = np.random.default_rng(0)
    values = chance.normal(size=size).astype(np.float32) if book is None else book[chance.integers(0, 4, size)]
    values[chance.random(size) >= density] = 0
    values[:300], values[-500:] = 0, 0
    return values


def fillers(values, width):
    """One for each run of 2^width - 1 zeros before a weight; those after the last weight need none."""
    count = run = 0
    for value in values.tolist():
        run = run + 1 if value == 0 else 0
        if run == (1 << width) - 1:
            count, run = count + 1, 0
    tail = len(values) - 1 - int(np.flatnonzero(values)[-1])
    return count - tail // ((1 << width) - 1)


@pytest.mark.parametrize("width", [1, 4, 5, 12])
@pytest.mark.parametrize("density", [0.02, 0.1])
@pytest.mark.parametrize("coder", ["huffman", "fixed"])
@pytest.mark.parametrize("book", [BOOK, None], ids=["shared", "literal"])
def test_the_width_that_was_asked_for(width, density, coder, book):
    values = sparse(density, book)
    encoded = encode_coded(values, DType.FLOAT32, book, coder, offset_bits=width)
    info = encoded.info
    offsets = info.layout.offsets
    assert (info.encoding, offsets.bits) == (Encoding.CODED, width)
    assert info.nonzeros == np.count_nonzero(values)
    assert offsets.fillers == fillers(values, width)
    assert decode(info, memoryview(encoded.section), None).tobytes() == values.tobytes()
    if coder == "fixed":
        assert offsets.length == -(-(info.nonzeros + offsets.fillers) * width // 8)


@pytest.mark.parametrize("density", [0.02, 0.1, 0.9])
@pytest.mark.parametrize("coder", ["huffman", "fixed"])
@pytest.mark.parametrize("book", [BOOK, None], ids=["shared", "literal"])
def test_no_width_is_smaller_than_the_default(density, coder, book):
    values = sparse(density, book)
    best = encode_coded(values, DType.FLOAT32, book, coder)
    sizes = {
        width: len(encode_coded(values, DType.FLOAT32, book, coder, offset_bits=width).section) for width in WIDTHS
    }
    assert len(best.section) <= min(sizes.values())
    if isinstance(best.info.layout, Relative):
        assert len(best.section) == sizes[best.info.layout.offsets.bits]


def test_a_width_that_was_asked_for_rules_out_a_symbol_for_zero():
    values = sparse(0.9)
    assert isinstance(encode_coded(values, DType.FLOAT32, BOOK).info.layout, Dense)
    for width in (1, 4, 12):
        encoded = encode_coded(values, DType.FLOAT32, BOOK, offset_bits=width)
        assert (encoded.info.encoding, encoded.info.layout.offsets.bits) == (Encoding.CODED, width)
        assert decode(encoded.info, memoryview(encoded.section), None).tobytes() == values.tobytes()


def test_a_tensor_that_is_smaller_without_offsets_at_all_has_none():
    values = np.array([[0.5, 0.0], [3.0, -0.25]], dtype=np.float32)
    for width in WIDTHS:
        assert encode_coded(values, DType.FLOAT32, BOOK, offset_bits=width).info.encoding is Encoding.RAW


@pytest.mark.parametrize("width", [None, 1, 4, 5, 12])
@pytest.mark.parametrize("book", [BOOK, None], ids=["shared", "literal"])
def test_plans_of_fixed_widths_are_what_is_written(width, book):
    values = sparse(0.1, book)
    found = survey(values, DType.FLOAT32, book)
    plan = plan_literal(found, False, width) if book is None else plan_shared(found, False, None, width)
    encoded = encode_coded(values, DType.FLOAT32, book, "fixed", offset_bits=width)
    assert plan == encoded.info
    assert plan.section == len(encoded.section)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 3)), max_size=12),
    st.integers(0, 5000),
    st.integers(1, MAX_BITS),
    st.sampled_from(["huffman", "fixed"]),
)
def test_gaps_of_any_length_round_trip(weights, tail, width, coder):
    values = np.zeros(sum(gap + 1 for gap, _ in weights) + tail, dtype=np.float32)
    at = -1
    for gap, index in weights:
        at += gap + 1
        values[at] = BOOK[index]
    for book in (BOOK, None):
        encoded = encode_coded(values, DType.FLOAT32, book, coder, offset_bits=width)
        info = encoded.info
        assert decode(info, memoryview(encoded.section), None).tobytes() == values.tobytes()
        if info.encoding is Encoding.CODED:
            assert info.layout.offsets.bits == width
            assert info.layout.offsets.fillers == sum(gap // ((1 << width) - 1) for gap, _ in weights)


@pytest.mark.parametrize("shape", [(30, 40), (1200,), (20, 3, 4, 5)])
@pytest.mark.parametrize("density", [0, 0.02, 0.4, 1])
def test_auto_is_the_smallest_of_all(shape, density):
    values = sparse(density, BOOK)[:1200].reshape(shape)
    sizes = {coder: len(encode_coded(values, DType.FLOAT32, BOOK, coder).section) for coder in CODERS}
    assert sizes["auto"] == min(sizes.values())
    assert sizes["ans"] == mixed_bytes(values, DType.FLOAT32, BOOK)
    assert sizes["huffman"] <= sizes["fixed"]


def test_layers_of_little_entropy_are_left_to_mixing():
    assert left_to_mixing(np.array([4096]), 4096)  # so few elements
    even = np.full(3, 1 << 12)  # with the zeros four values, 2 bits each
    assert left_to_mixing(even, 1 << 14)  # 4 KB
    assert not left_to_mixing(even + 1, (1 << 14) + 4)
    assert left_to_mixing(np.array([], dtype=np.int64), 1 << 16)
    assert not left_to_mixing(np.array([], dtype=np.int64), (1 << 16) + 1)
