"""The adaptive coder: what goes in comes out, compiled or not, and in fewer bytes than its statistics would take."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcompress.coding import codebooks, lanes
from deepcompress.coding.adaptive import codec, model, tables
from deepcompress.coding.adaptive.codec import BLOCK, Alphabet, Scan
from deepcompress.container.reader import ModelFile
from deepcompress.errors import FormatError

RESULTS = Path(__file__).parents[3] / "results"
SHAPES = [
    (),
    (0,),
    (1,),
    (7,),
    (3000,),
    (40, 30),
    (1, 50),
    (50, 1),
    (6, 36),
    (5, 4, 3, 3),
    (4, 0, 3, 3),
    (3, 2, 2, 3, 2),
]


def drawn(shape, density, book, seed=0):
    """Symbols of a tensor, flat."""
    rng = np.random.default_rng(seed)
    symbols = rng.integers(1, book.count + 1, math.prod(shape)) if book.count else np.zeros(math.prod(shape))
    return np.where(rng.random(math.prod(shape)) < density, symbols, 0).astype(np.int16)


def back(payload, symbols, shape, book, scan):
    return codec.decode(memoryview(payload), shape, book, int(np.count_nonzero(symbols)), scan)


@pytest.fixture
def plain(monkeypatch):
    """As it is where numba cannot be had."""
    monkeypatch.setattr(lanes, "kernels", lambda: None)


def test_squash_and_stretch_are_the_rounded_functions():
    logits = np.arange(-tables.LIMIT, tables.LIMIT + 1)
    exact = np.clip(np.round(65536 / (1 + np.exp(-logits / 256))), 1, 65535)
    assert np.array_equal(tables.squash_table(), exact)
    chances = np.arange(1, 65536)
    exact = np.clip(np.round(256 * np.log(chances / (65536 - chances))), -tables.LIMIT, tables.LIMIT)
    assert np.array_equal(tables.stretch_table()[1:], exact)
    assert tables.stretch_table()[0] == -tables.LIMIT
    assert tables.reciprocal_table()[1:4].tolist() == [65536, 32768, 21845]


@pytest.mark.parametrize(
    "book", [Alphabet(0, 0), Alphabet(1, 0), Alphabet(3, 1), Alphabet(16, 16), Alphabet(4096, 2000)]
)
@pytest.mark.parametrize("density", [0, 0.1, 1])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_round_trip(shape, density, book):
    symbols = drawn(shape, density, book)
    for scan in codec.scans(shape):
        payload = codec.encode(symbols, shape, book, scan)
        assert np.array_equal(back(payload, symbols, shape, book, scan), symbols)
        if not symbols.any() or (symbols == 1).all():
            assert payload == b""


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 9), max_size=5).map(tuple),
    st.floats(0, 1),
    st.integers(0, 40).flatmap(lambda k: st.tuples(st.just(k), st.integers(0, k))),
    st.integers(0, 99),
)
def test_compiled_and_plain_bytes_are_the_same(shape, density, entries, seed):
    book = Alphabet(*entries)
    symbols = drawn(shape, density, book, seed)
    for scan in codec.scans(shape):
        with pytest.MonkeyPatch.context() as without:
            without.setattr(lanes, "kernels", lambda: None)
            slow = codec.encode(symbols, shape, book, scan)
            assert np.array_equal(back(slow, symbols, shape, book, scan), symbols)
        with pytest.MonkeyPatch.context() as always:
            always.setattr(codec, "_KERNELS_FROM", 0)
            assert codec.encode(symbols, shape, book, scan) == slow
            assert np.array_equal(back(slow, symbols, shape, book, scan), symbols)


def test_a_tensor_of_several_blocks():
    shape, book = (3, BLOCK // 2), Alphabet(4, 2)
    symbols = drawn(shape, 0.001, book)
    payload = codec.encode(symbols, shape, book, Scan())
    assert np.array_equal(back(payload, symbols, shape, book, Scan()), symbols)
    with pytest.raises(FormatError):
        back(payload + b"\0", symbols, shape, book, Scan())
    with pytest.raises(FormatError):
        back(payload[:-1], symbols, shape, book, Scan())


def test_the_same_bytes_each_time():
    shape, book = (60, 49), Alphabet(6, 3)
    symbols = drawn(shape, 0.1, book)
    assert codec.smallest(symbols, shape, book) == codec.smallest(symbols.copy(), shape, book)


def test_the_scan_that_is_smallest_is_taken():
    book, shape = Alphabet(1, 0), (100, 144)
    symbols = np.zeros(shape, dtype=np.int16)
    symbols.reshape(-1, 12, 12)[:, 4:8, 4:8] = np.random.default_rng(0).random((100, 4, 4)) < 0.6
    symbols = symbols.reshape(-1)
    scan, payload = codec.smallest(symbols, shape, book)
    sizes = {each: len(codec.encode(symbols, shape, book, each)) for each in codec.scans(shape)}
    assert len(payload) == min(sizes.values()) == sizes[scan]
    assert {each.side for each in sizes} == {0, 4, 6, 12}


def test_which_scans_are_tried():
    assert codec.scans((9,)) == codec.scans((1, 16)) == [Scan()]
    assert codec.scans((3, 2, 3, 3)) == [Scan(), Scan(by_column=True)]
    assert [scan.side for scan in codec.scans((9, 784))] == [0, 0, 4, 4, 7, 7, 28, 28]
    assert codec.scans((1 << 11, 1 << 10)) == [Scan()]
    assert codec.fits((9, 784), Scan(side=14))
    assert not codec.fits((9, 784), Scan(side=5))
    assert not codec.fits((9, 0), Scan(side=2))


def test_random_positions_cost_what_they_must_and_little_more():
    """Of nothing but chance there is nothing to learn: the model may cost some percent more than the entropy."""
    shape, book = (300, 784), Alphabet(8, 4)
    for density, most in ((0.005, 1.03), (0.05, 1.02), (0.5, 1.02)):
        symbols = drawn(shape, density, book)
        counts = np.bincount(symbols)
        entropy = -(counts * np.log2(counts / len(symbols))).sum() / 8
        assert entropy * 0.99 < len(codec.encode(symbols, shape, book, Scan())) < entropy * most


def order_0(values):
    counts = np.unique(values, return_counts=True)[1]
    return -(counts * np.log2(counts / counts.sum())).sum() / 8


@pytest.mark.parametrize(
    ("name", "saved"),
    [("lenet-300-100-han2016-seed0", 0.13), ("lenet5-han2016-seed0", 0.035), ("resnet20-distilled-bits2", 0.065)],
)
def test_trained_networks_take_less_than_the_entropy_of_their_gaps_and_indices(name, saved):
    entropy = size = 0
    with ModelFile(RESULTS / f"{name}.dc") as file:
        for entry in file.header.entries:
            if not entry.info.is_shared:
                continue
            values, dtype = file.read(entry.name)
            bits = values.reshape(-1).view(dtype.bits)
            entries = np.unique(bits[bits != 0])
            entries = entries[codebooks.order(entries)]
            symbols = np.zeros(len(bits), dtype=np.int16)
            for number, one in enumerate(entries):
                symbols[bits == one] = number + 1
            positions = np.flatnonzero(bits)
            entropy += order_0(np.diff(positions, prepend=-1)) + order_0(bits[positions])
            book = Alphabet(len(entries), codebooks.negatives(entries))
            size += len(codec.smallest(symbols, entry.info.shape, book)[1])
    assert size < (1 - saved) * entropy


# Damage ----------------------------------------------------------------------------------------------------


def outcome(payload, symbols, shape, book, scan):
    try:
        return back(payload, symbols, shape, book, scan)
    except FormatError:
        return None


def test_a_stream_that_was_cut_or_changed_is_never_taken_for_the_old_one():
    """Much of it is refused; the rest is the one stream of another tensor, which only a checksum can tell."""
    shape, book, scan = (40, 50), Alphabet(6, 3), Scan()
    symbols = drawn(shape, 0.1, book)
    payload = codec.encode(symbols, shape, book, scan)
    cut = [payload[:end] for end in range(len(payload))]
    longer = [payload + b"\0", b"\0" + payload, payload + b"\x07"]
    flipped = [bytearray(payload) for _ in range(8 * len(payload))]
    for bit, changed in enumerate(flipped):
        changed[bit >> 3] ^= 1 << (bit & 7)
    assert all(outcome(changed, symbols, shape, book, scan) is None for changed in longer)
    for changed in (*cut, *map(bytes, flipped)):
        found = outcome(changed, symbols, shape, book, scan)
        if found is not None:
            assert np.count_nonzero(found) == np.count_nonzero(symbols)
            assert codec.encode(found, shape, book, scan) == changed


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 60), st.integers(0, 6))
def test_any_bytes_are_symbols_or_an_error(payload, weights, entries):
    shape, book = (6, 10), Alphabet(entries, entries // 2)
    if weights and not entries:
        return  # the header's reader refuses that
    try:
        symbols = codec.decode(memoryview(payload), shape, book, weights, Scan())
    except FormatError:
        return
    assert np.count_nonzero(symbols) == weights
    assert symbols.max(initial=0) <= entries
    assert codec.encode(symbols, shape, book, Scan()) == payload  # there is one stream for each tensor


def test_the_models_memory_does_not_grow_with_the_tensor(plain):
    symbols = np.zeros(1 << 17, dtype=np.int16)
    symbols[20_000] = 1
    state = codec._State(symbols, (1, 1 << 17), Alphabet(1, 0), Scan(), 1, decoding=False)
    assert len(state._memory.probabilities) < 3 * (model.MASK + 1) + 1000
    shape = (1, 1 << 17)
    payload = codec.encode(symbols, shape, Alphabet(1, 0), Scan())
    assert np.array_equal(back(payload, symbols, shape, Alphabet(1, 0), Scan()), symbols)
    assert len(payload) < 6
