"""Elements given the ones before, and symbols given the ones before: exact, and the same with and without numba."""

import math

import numpy as np
import pytest

from deepcompress.coding.adaptive.codec import Scan
from deepcompress.coding.bits import Reader
from deepcompress.errors import FormatError
from deepcompress.updates import changes, coder
from deepcompress.updates.differences import Differences, ordered, shift_of, unordered

LOOPS = ["compiled", "plain"]


@pytest.fixture(params=LOOPS)
def loops(request, monkeypatch):
    if request.param == "plain":
        monkeypatch.setattr(coder.lanes, "kernels", lambda: None)
    return request.param


def arrays(width):
    """Pairs of new and old elements: all others, none, a few, no elements, and the ends of the range."""
    kind, rng = np.dtype(f"<u{width}"), np.random.default_rng(width)
    old = rng.integers(0, 256, 300 * width, dtype=np.uint8).view(kind)
    few = old.copy()
    few[rng.integers(0, 300, 20)] += kind.type(1)
    ends = [0, 2 ** (8 * width) - 1, 2 ** (8 * width - 1), 2 ** (8 * width - 1) - 1]
    yield rng.integers(0, 256, 300 * width, dtype=np.uint8).view(kind), old
    yield old, old
    yield few, old
    yield np.zeros(0, kind), np.zeros(0, kind)
    yield np.array(ends, kind), np.array(ends[1:] + ends[:1], kind)


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_differences_come_back_and_learn_the_same(loops, width):
    encoder, decoder = Differences(width, 1), Differences(width, 1)
    for new, old in arrays(width):
        raw = encoder.copy().encode(new, old)
        assert encoder.encode(new, old) == raw
        reader = Reader(raw, "differences")
        found = decoder.decode(reader, old)
        reader.end()
        assert found.dtype == new.dtype
        assert np.array_equal(found, new)
    assert decoder.changed == sum(int(np.count_nonzero(new != old)) for new, old in arrays(width))


def test_both_loops_write_the_same_bytes(monkeypatch):
    compiled = [Differences(width, 1).encode(new, old) for width in (1, 2, 4, 8) for new, old in arrays(width)]
    monkeypatch.setattr(coder.lanes, "kernels", lambda: None)
    assert compiled == [Differences(width, 1).encode(new, old) for width in (1, 2, 4, 8) for new, old in arrays(width)]


def test_a_shift_leaves_out_the_bits_that_no_difference_has():
    rng = np.random.default_rng(0)
    old = rng.standard_normal(500).astype("<f4").view("<u4")
    new = unordered(ordered(old, 32) + (rng.integers(-20, 20, 500) << 16), np.dtype("<u4"))
    assert shift_of(new, old) == 16
    assert shift_of(old, old) == 0
    shifted, whole = Differences(4, 1).encode(new, old, 16), Differences(4, 1).encode(new, old)
    assert len(shifted) < len(whole) / 3
    assert np.array_equal(Differences(4, 1).decode(Reader(shifted, "x"), old, 16), new)


def test_floats_that_move_by_one_unit_cost_as_much_as_their_positions():
    rng = np.random.default_rng(0)
    old = (rng.standard_normal(100_000).astype("<f4").view("<u4") >> 16).astype("<u2")
    new = old.copy()
    new[rng.choice(100_000, 1000, replace=False)] += np.uint16(1)
    bits = (math.lgamma(100_001) - math.lgamma(1001) - math.lgamma(99_001)) / math.log(2)
    size = 8 * len(Differences(2, 100_000).encode(new, old))
    assert bits < size < 1.2 * (bits + 1000)


@pytest.mark.parametrize("width", [2, 8])
def test_damaged_differences_are_refused(width):
    new, old = next(arrays(width))
    raw = Differences(width, 1).encode(new, old)
    for bad in (raw[:-1], raw + b"\0", raw[:3] + b"\xff" + raw[4:-1], b"", b"\x05\x01\x00" + raw):
        with pytest.raises(FormatError):
            reader = Reader(bad, "differences")
            Differences(width, 1).decode(reader, old)
            reader.end()


SHAPES = [
    ((20, 1, 5, 5), 32, 0.1, Scan()),
    ((30, 64), 5, 0.02, Scan(side=4)),
    ((7,), 1, 0.5, Scan()),
    ((), 3, 1, Scan()),
    ((0, 4), 3, 1, Scan()),
    ((10, 30), 300, 0.5, Scan()),
    ((50, 60), 32, 0, Scan()),
    ((30, 40), 2, 1, Scan()),
]


def symbols(shape, entries, share):
    rng = np.random.default_rng(entries)
    size = math.prod(shape)
    old = (rng.integers(1, entries + 1, size) * (rng.random(size) < 0.3)).astype(np.int16)
    other = (rng.integers(1, entries + 1, size) * (rng.random(size) < 0.5)).astype(np.int16)
    return np.where(rng.random(size) < share, other, old).astype(np.int16), old


@pytest.mark.parametrize(("shape", "entries", "share", "scan"), SHAPES)
def test_changed_symbols_come_back(loops, shape, entries, share, scan):
    new, old = symbols(shape, entries, share)
    raw = changes.encode(new, old, shape, scan, entries)
    assert bool(raw) == bool((new != old).any() and (len(new) > 1))
    reader = Reader(raw, "changes")
    found = changes.decode(reader, old, shape, scan, entries, changes.count(new, old))
    reader.end()
    assert np.array_equal(found, new)


def test_both_loops_write_the_same_changes(monkeypatch):
    def coded():
        return [changes.encode(*symbols(*case[:3]), case[0], case[3], case[1]) for case in SHAPES]

    compiled = coded()
    monkeypatch.setattr(coder.lanes, "kernels", lambda: None)
    assert compiled == coded()


def test_several_blocks_of_changes(monkeypatch):
    monkeypatch.setattr(changes, "BLOCK", 1000)
    new, old = symbols((60, 50), 9, 0.1)
    raw = changes.encode(new, old, (60, 50), Scan(), 9)
    reader = Reader(raw, "changes")
    assert np.array_equal(changes.decode(reader, old, (60, 50), Scan(), 9, changes.count(new, old)), new)
    reader.end()


@pytest.mark.parametrize("changed", [(3000, 0, 0), (0, 3000, 0), (0, 500, 500), (1, 1), (1 << 62, 0, 0)])
def test_more_changes_than_there_are_elements_are_refused(changed):
    _, old = symbols((60, 50), 9, 0.1)
    with pytest.raises(FormatError, match="weights change"):
        changes.decode(Reader(b"\1\2\3", "changes"), old, (60, 50), Scan(), 9, changed)
