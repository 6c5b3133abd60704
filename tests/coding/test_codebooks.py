"""Codebooks come back bit for bit, in the fewest bytes that a form has for them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepcompress.coding import codebooks
from deepcompress.coding.forms import Form, StoredCodebook
from deepcompress.errors import FormatError

F4 = np.dtype("<u4")


def bits(*values):
    return np.array(values, dtype="<f4").view("<u4")


def scaled(scale, *steps):
    return (np.float32(scale) * np.array(steps, dtype="<f4")).view("<u4")


@pytest.mark.parametrize(
    ("entries", "form", "size"),
    [
        (bits(), Form.ENTRIES, 0),
        (bits(0.1), Form.ENTRIES, 4),
        (bits(0.5), Form.HALVES, 2),
        (bits(0.1, 0.5234567, 0.7), Form.ENTRIES, 12),
        (bits(-1, 0.25, 0.5), Form.GRID_HALF, 3),
        (scaled(0.1, -2, -1, 1, 2), Form.GRID, 4),
        (scaled(0.1, -5, -2, 3, 4), Form.GRID, 6),
        (scaled(1.5 * 2.0**-30, -2, -1, 1, 2), Form.GRID_BFLOAT, 2),
        (scaled(0.25, *range(-8, 0), *range(1, 9)), Form.GRID_HALF, 2),
        (bits(0.5, 0.25), Form.HALVES, 4),  # a grid's entries ascend
        (bits(np.nan, 1), Form.ENTRIES, 8),
        (bits(-0.0, 1), Form.HALVES, 4),
        (bits(1e-45, 1), Form.ENTRIES, 8),
    ],
)
def test_the_shortest_form(entries, form, size):
    facts, raw = codebooks.pack(entries, compact=True)
    assert (facts.form, len(raw), facts.length(4)) == (form, size, size)
    assert codebooks.unpack(facts, memoryview(raw), F4).tobytes() == entries.tobytes()
    facts, raw = codebooks.pack(entries, compact=False)
    assert (facts.form, raw) == (Form.ENTRIES, entries.tobytes())


@given(
    st.floats(2.0**-100, 2.0**100, width=32), st.sets(st.integers(-200, 200).filter(bool), min_size=3), st.booleans()
)
def test_any_grid_comes_back(scale, steps, full):
    low = min(steps)
    steps = sorted(steps) if not full else [step for step in range(low, max(steps) + 1) if step]
    entries = scaled(scale, *steps)
    facts, raw = codebooks.pack(entries, compact=True)
    assert codebooks.unpack(facts, memoryview(raw), F4).tobytes() == entries.tobytes()
    if full and min(map(abs, steps)) == 1 and len(steps) > 3:
        assert facts.form.is_grid


@given(st.lists(st.integers(1, 2**32 - 1), max_size=20, unique=True))
def test_any_bit_patterns_come_back(entries):
    entries = np.array(entries, dtype="<u4")
    facts, raw = codebooks.pack(entries, compact=True)
    assert codebooks.unpack(facts, memoryview(raw), F4).tobytes() == entries.tobytes()
    assert len(raw) == facts.length(4) <= entries.nbytes


def test_entries_are_sorted_by_sign_and_magnitude():
    entries = bits(2, -0.5, 0.25, -3, np.inf, -0.0)
    assert entries[codebooks.order(entries)].view("<f4").tolist() == [-3, -0.5, -0.0, 0.25, 2, np.inf]
    assert codebooks.negatives(entries) == 3


@pytest.mark.parametrize(
    ("facts", "raw"),
    [
        (StoredCodebook(Form.ENTRIES, 2), bits(1, 1).tobytes()),
        (StoredCodebook(Form.ENTRIES, 2), bits(1, 0).tobytes()),
        (StoredCodebook(Form.HALVES, 1), b"\0\0"),
        (StoredCodebook(Form.GRID_HALF, 2, -1, 1), np.float16(0).tobytes()),
        (StoredCodebook(Form.GRID_HALF, 2, -1, 1), np.float16(-1).tobytes()),
        (StoredCodebook(Form.GRID_HALF, 2, -1, 1), np.float16(np.nan).tobytes()),
        (StoredCodebook(Form.GRID_HALF, 2, -1, 1), np.float16(np.inf).tobytes()),
        (StoredCodebook(Form.GRID, 4, -2, 2), np.float32(3e38).tobytes()),
        (StoredCodebook(Form.GRID_HALF, 2, -2, 2), np.float16(1).tobytes() + b"\xf0"),  # four entries
        (StoredCodebook(Form.GRID_HALF, 2, -2, 2), np.float16(1).tobytes() + b"\xa0"),  # 0 among them
        (StoredCodebook(Form.GRID_HALF, 2, -2, 2), np.float16(1).tobytes() + b"\x89"),  # bits behind the mask
    ],
)
def test_what_is_no_codebook_is_refused(facts, raw):
    assert len(raw) == facts.length(4)
    with pytest.raises(FormatError):
        codebooks.unpack(facts, memoryview(raw), F4)
