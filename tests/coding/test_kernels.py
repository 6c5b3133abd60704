"""Compiled kernels against their slow twins: the same bytes, the same symbols, the same refusals."""

import numpy as np
import pytest

from deepcompress.coding import huffman, lanes, offsets
from deepcompress.errors import FormatError

numba = pytest.importorskip("numba", reason="without numba there are no kernels to compare")


def drawn(count, alphabet, seed=0):
    """Symbols that fall off like those of a trained layer, each of the alphabet at least once."""
    rng = np.random.default_rng(seed)
    symbols = np.minimum(rng.geometric(min(0.9, 6 / alphabet), count) - 1, alphabet - 1)
    symbols[:alphabet] = np.arange(alphabet)
    return rng.permutation(symbols).astype(np.uint8 if alphabet <= 256 else np.uint16)


@pytest.mark.parametrize("count", [1 << 17, (1 << 17) + 1, 200_003, (1 << 18) - 1, 300_000])
@pytest.mark.parametrize("alphabet", [2, 32, 256, 257, 4097])
def test_lanes_are_the_same_bytes_and_come_back(count, alphabet):
    symbols = drawn(count, alphabet, seed=count % 7)
    lengths = huffman.code_lengths(np.bincount(symbols, minlength=alphabet).tolist())
    number = lanes.lane_count(count)
    slow = lanes.encode_lanes(symbols, lengths, number)
    assert lanes._encode_rows(symbols, lengths, number) == slow
    for unpack in (lanes._decode_rows, lanes.decode_lanes):
        found = unpack(memoryview(slow), number, count, lengths)
        assert found.dtype == symbols.dtype
        assert np.array_equal(found, symbols)


def test_the_longest_words():
    """Fibonacci counts make the deepest tree: words of 15 bits, four to a window of the kernel."""
    counts = [1, 1]
    while sum(counts) < 1 << 17:
        counts.append(counts[-1] + counts[-2])
    symbols = np.repeat(np.arange(len(counts)), counts).astype(np.uint8)
    symbols = np.random.default_rng(1).permutation(symbols)
    lengths = huffman.code_lengths(counts)
    assert max(lengths) == huffman.MAX_LENGTH
    number = lanes.lane_count(len(symbols))
    payload = lanes._encode_rows(symbols, lengths, number)
    assert payload == lanes.encode_lanes(symbols, lengths, number)
    assert np.array_equal(lanes._decode_rows(memoryview(payload), number, len(symbols), lengths), symbols)


def test_without_numba_the_bytes_are_the_same(monkeypatch):
    symbols = drawn(150_000, 32)
    lengths = huffman.code_lengths(np.bincount(symbols).tolist())
    with_numba = lanes.pack(symbols, lengths)
    monkeypatch.setattr(lanes, "kernels", lambda: None)
    assert lanes.pack(symbols, lengths) == with_numba
    assert np.array_equal(lanes.unpack(memoryview(with_numba), len(symbols), lengths), symbols)


@pytest.mark.parametrize("seed", range(8))
def test_damage_is_refused_by_both_or_read_alike_by_both(seed):
    rng = np.random.default_rng(seed)
    symbols = drawn(1 << 17, 32, seed)
    lengths = huffman.code_lengths(np.bincount(symbols).tolist())
    number = lanes.lane_count(len(symbols))
    damaged = bytearray(lanes.pack(symbols, lengths))
    for place in rng.integers(2 * number, len(damaged), 1 + 20 * (seed % 2)):
        damaged[place] ^= 1 << rng.integers(8)
    outcomes = []
    for unpack in (lanes._decode_rows, lanes.decode_lanes):
        try:
            outcomes.append(unpack(memoryview(damaged), number, len(symbols), lengths).tobytes())
        except FormatError as error:
            outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("bits", [1, 3, 8])
@pytest.mark.parametrize("wrong", ["nothing", "too small", "too few", "too many"])
def test_scatter(bits, wrong):
    rng = np.random.default_rng(bits)
    size = 400_000
    positions = np.flatnonzero(rng.random(size) < 0.4)
    symbols = offsets.to_symbols(offsets.gaps(positions), bits)
    filler = (1 << bits) - 1
    assert len(symbols) >= lanes.LANES_FROM  # long enough that `offsets.scatter` takes the kernel
    survivors = np.arange(1, len(positions) + 1, dtype=np.uint32)
    if wrong == "too few":
        survivors = survivors[:-1]
    if wrong == "too many":
        survivors = np.append(survivors, survivors[-1])
    length = int(positions[-1]) if wrong == "too small" else size
    outcomes = []
    for place in (lanes.kernels().scatter, offsets.scatter_in_chunks):
        values = np.zeros(length, dtype=np.uint32)
        placed, end = place(symbols, filler, survivors, values)
        outcomes.append((placed == len(survivors), end > length))
        if wrong == "nothing":
            assert np.array_equal(np.flatnonzero(values), positions)
            assert np.array_equal(values[positions], survivors)
    assert outcomes[0] == outcomes[1] == (wrong in ("nothing", "too small"), wrong == "too small")
    if wrong != "nothing":
        with pytest.raises(FormatError):
            offsets.scatter(symbols, bits, survivors, np.zeros(length, dtype=np.uint32))
