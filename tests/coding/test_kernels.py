"""Compiled kernels against their slow twins: the same bytes, the same symbols, the same refusals."""

import numpy as np
import pytest

from deepcompress.coding import huffman, lanes, lookup, offsets, streams
from deepcompress.coding.adaptive import model
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


@pytest.mark.parametrize("count", [1 << 17, (1 << 17) + 1, 300_000])
@pytest.mark.parametrize("alphabet", [1, 2, 32, 256, 257, 4097])
def test_counts(count, alphabet):
    symbols = drawn(count, alphabet)
    expected = np.bincount(symbols, minlength=alphabet)
    every_other = np.repeat(symbols, 2)[::2]  # not contiguous
    for found in (streams.count(symbols, alphabet), streams.count(every_other, alphabet)):
        assert found.dtype == np.int64
        assert np.array_equal(found, expected)
    assert np.array_equal(streams.count_in_chunks(symbols, alphabet), expected)
    assert np.array_equal(streams.count(symbols.astype(np.int64), alphabet), expected)  # by numpy


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


@pytest.mark.parametrize("workers", [2, 3, 8, 1000])
@pytest.mark.parametrize("alphabet", [32, 257])
def test_any_number_of_threads_decodes_the_same(workers, alphabet, monkeypatch):
    monkeypatch.setattr(lanes, "_LANES_PER_THREAD", 16)
    symbols = drawn(300_001, alphabet)
    lengths = huffman.code_lengths(np.bincount(symbols, minlength=alphabet).tolist())
    payload = memoryview(lanes.pack(symbols, lengths))
    assert lanes.lane_count(len(symbols)) == 128  # and the last row is short: 8 parts, or as many as there are threads
    assert np.array_equal(lanes.unpack(payload, len(symbols), lengths, workers), symbols)
    for at in (300, len(payload) // 2, len(payload) - 300):
        damaged = bytearray(payload)
        damaged[at] ^= 0xFF
        outcomes = [outcome(lanes.unpack, memoryview(damaged), len(symbols), lengths, n) for n in (1, workers)]
        assert outcomes[0] == outcomes[1]


def outcome(decode, *arguments):
    """The bytes that `decode` gives, or the message of its refusal."""
    try:
        return decode(*arguments).tobytes()
    except FormatError as error:
        return str(error)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 63, 4096, 5001, (1 << 17) - 1])
@pytest.mark.parametrize("alphabet", [2, 32, 257])
def test_one_plain_stream(count, alphabet):
    rng = np.random.default_rng(count)
    counts = np.bincount(drawn(count + alphabet, alphabet), minlength=alphabet)
    lengths = huffman.code_lengths(counts.tolist())
    symbols = rng.choice(alphabet, count, p=counts / counts.sum())
    lane = lanes.encode_lane(symbols, lengths)
    for data in (lane, lane + b"\0", lane[:-1] + bytes([lane[-1] ^ 1]), lane[:-1], lane[:-2], rng.bytes(len(lane))):
        outcomes = [outcome(decode, memoryview(data), count, lengths) for decode in DECODERS if 8 * len(data) >= count]
        assert len(set(outcomes)) <= 1
    assert np.array_equal(lanes._decode_row(memoryview(lane), count, lengths), symbols)


DECODERS = (lanes.decode_lane, lanes._decode_row)


def test_short_streams_use_the_kernels_only_once_they_are_there(monkeypatch):
    assert lanes.kernels() is not None
    assert lanes.kernels_for(1 << 12) is lanes.kernels()
    assert lanes.kernels_for((1 << 12) - 1) is None
    monkeypatch.setattr(lanes, "_KERNELS", "not.imported.yet")
    assert lanes.kernels_for((1 << 17) - 1) is None
    assert lanes.kernels_for(1 << 17) is lanes.kernels()


@pytest.mark.parametrize("bits", [1, 3, 8, 9])
@pytest.mark.parametrize("workers", [1, 2, 3, 50])
def test_scatter(bits, workers, monkeypatch):
    monkeypatch.setattr(offsets, "PER_THREAD", 1 << 10)
    rng = np.random.default_rng(bits)
    positions = np.flatnonzero(rng.random(400_000) < (0.4 if bits < 9 else 0.01))
    symbols = offsets.to_symbols(offsets.gaps(positions), bits)
    filler, entries = (1 << bits) - 1, np.arange(7, 39, dtype=np.uint32)
    compiled = lanes.kernels()
    measured = [measure(symbols, filler) for measure in (compiled.measure, offsets.measure)]
    assert measured == [(len(positions), int(positions[-1]) + 1)] * 2
    indices = rng.integers(0, len(entries), len(positions)).astype(np.uint8)
    for survivors, book in ((np.arange(1, len(positions) + 1, dtype=np.uint32), None), (indices, entries)):
        expected = np.zeros(400_000, dtype=np.uint32)
        expected[positions] = survivors if book is None else entries[survivors]
        for place in (compiled.scatter, offsets.scatter_in_chunks):
            values = np.zeros(400_000, dtype=np.uint32)
            place(symbols, filler, survivors, book, values)
            assert np.array_equal(values, expected)
        values = np.zeros(400_000, dtype=np.uint32)
        offsets.scatter(symbols, bits, survivors, values, book, workers)
        assert np.array_equal(values, expected)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("kernels", [True, False])
def test_scatter_writes_nothing_unless_all_fits(workers, kernels, monkeypatch):
    if not kernels:
        monkeypatch.setattr(lanes, "kernels", lambda: None)
    positions = np.flatnonzero(np.random.default_rng(0).random(400_000) < 0.4)
    symbols = offsets.to_symbols(offsets.gaps(positions), 3)
    assert len(symbols) >= lanes.LANES_FROM
    survivors = np.arange(1, len(positions) + 2, dtype=np.uint32)
    for size, count, message in (
        (int(positions[-1]), len(positions), "beyond the tensor's"),
        (400_000, len(positions) - 1, "were announced"),
        (400_000, len(positions) + 1, "were announced"),
    ):
        values = np.zeros(size, dtype=np.uint32)
        with pytest.raises(FormatError, match=message):
            offsets.scatter(symbols, 3, survivors[:count], values, None, workers)
        assert not values.any()


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.uint64])
def test_look_up(workers, dtype, monkeypatch):
    monkeypatch.setattr(offsets, "PER_THREAD", 1 << 10)
    rng = np.random.default_rng(workers)
    entries = rng.integers(0, 1 << 16, 257).astype(dtype)
    symbols = rng.integers(0, 257, 150_001).astype(np.uint16)
    slow = np.empty(len(symbols), dtype=dtype)
    lookup.look_up_in_chunks(entries, symbols, slow)
    fast = lookup.look_up(entries, symbols, workers)
    assert fast.dtype == slow.dtype
    assert np.array_equal(fast, slow)
    assert np.array_equal(slow, entries[symbols])


def test_decisions_are_the_same_bytes():
    """Likely, unlikely and even ones, also at both ends of what a probability can be."""
    rng = np.random.default_rng(0)
    chances = np.concatenate([rng.integers(1, 65536, 20_000), np.repeat([1, 2, 32768, 65534, 65535], 2_000)])
    bits = np.concatenate([rng.random(25_000) < chances[:25_000] / 65536, np.arange(5_000) % 2 == 0])
    decisions = (chances << 1 | bits).astype(np.int32)
    out, slow = np.zeros(2 * len(decisions) + 4, np.uint8), bytearray(2 * len(decisions) + 4)
    begin = lanes.kernels().give_decisions(decisions, len(decisions), out)
    assert begin == model.give(decisions.tolist(), len(decisions), slow)
    assert bytes(out) == bytes(slow)


def test_a_quotient_is_the_upper_bits_of_a_product():
    divisors = lanes.kernels()._divisors()
    for width in [*range(1, 65536, 97), 2, 3, 32767, 32768, 65534, 65535]:
        factor, top = int(divisors[width]), width << 16
        for number in (0, width - 1, width, top // 2 - 1, top - width - 1, top - width, top - 1):
            assert number * factor < 1 << 64
            assert number * factor >> 48 == number // width
