import tracemalloc

import numpy as np
import pytest
from bitarray import bitarray
from bitarray.util import canonical_decode
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcompress.coding import huffman, streams
from deepcompress.coding import lanes as lanes_module
from deepcompress.coding.bits import Reader
from deepcompress.coding.lanes import lane_count
from deepcompress.coding.streams import Code, Coder, choose, encode, fixed_width, read_table
from deepcompress.errors import FormatError

FIBONACCI_COUNTS = [1, 1]
while len(FIBONACCI_COUNTS) < 25:
    FIBONACCI_COUNTS.append(FIBONACCI_COUNTS[-1] + FIBONACCI_COUNTS[-2])


def decoded(stream, alphabet, count):
    reader = Reader(stream.table, "test")
    table = read_table(stream.coder, reader, alphabet)
    reader.end()
    return streams.decode(table, memoryview(stream.payload), count)


def geometric(count, alphabet, seed=0, p=0.3):
    draws = np.random.default_rng(seed).geometric(p, count) - 1
    return np.minimum(draws, alphabet - 1).astype(np.uint16)


def huffman_table(*lengths):
    return Code(Coder.HUFFMAN, len(lengths), lengths=lengths)


def test_the_numbers_of_the_coders_are_part_of_the_format():
    assert {coder.name: coder.value for coder in Coder} == {
        "NONE": 0,
        "CONSTANT": 1,
        "FIXED": 2,
        "HUFFMAN": 3,
        "LITERAL": 4,
    }


@pytest.mark.parametrize(("alphabet", "bits"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (256, 8), (257, 9), (4097, 13)])
def test_fixed_width(alphabet, bits):
    assert fixed_width(alphabet) == bits


def test_the_empty_stream():
    stream = encode(np.zeros(0, dtype=np.uint16), 7)
    assert (stream.coder, stream.table, stream.payload, stream.size) == (Coder.NONE, b"", b"", 0)
    assert decoded(stream, 7, 0).tolist() == []


@pytest.mark.parametrize(("symbol", "table"), [(0, "00"), (6, "06"), (300, "ac02")])
def test_a_stream_of_one_symbol_takes_its_table_only(symbol, table):
    for allow_huffman in (True, False):
        stream = encode(np.full(1000, symbol, dtype=np.uint16), 400, allow_huffman)
        assert (stream.coder, stream.table.hex(), stream.payload) == (Coder.CONSTANT, table, b"")
        assert decoded(stream, 400, 1000).tolist() == [symbol] * 1000


def test_a_fixed_stream_by_hand():
    stream = encode(np.array([0, 1, 2, 3, 4, 3], dtype=np.uint16), 5)
    assert (stream.coder, stream.table) == (Coder.FIXED, b"")
    assert stream.payload == bytes([0b00000101, 0b00111000, 0b11000000])
    assert decoded(stream, 5, 6).tolist() == [0, 1, 2, 3, 4, 3]


def test_a_huffman_stream_by_hand():
    symbols = np.array([0] * 80 + [3] * 8 + [1] * 4 + [2] * 4, dtype=np.uint16)
    stream = encode(symbols, 4)
    assert (stream.coder, stream.table.hex()) == (Coder.HUFFMAN, "04b9b0")
    bits = "0" * 80 + "10" * 8 + "110" * 4 + "111" * 4
    assert stream.payload == bitarray(bits).tobytes()
    assert decoded(stream, 4, 96).tolist() == symbols.tolist()


@settings(deadline=None)
@given(st.data(), st.sampled_from([1, 2, 3, 16, 255, 256, 257, 4097]), st.booleans())
def test_round_trip(data, alphabet, allow_huffman):
    used = data.draw(st.lists(st.integers(0, alphabet - 1), min_size=1, max_size=6))
    symbols = np.array(data.draw(st.lists(st.sampled_from(used), max_size=300)), dtype=np.uint16)
    stream = encode(symbols, alphabet, allow_huffman)
    assert decoded(stream, alphabet, len(symbols)).tolist() == symbols.tolist()
    assert allow_huffman or stream.coder is not Coder.HUFFMAN
    counts = np.bincount(symbols, minlength=alphabet)
    assert choose(counts, allow_huffman)[::2] == (stream.coder, stream.size)
    if stream.coder is not Coder.CONSTANT:  # which is taken always: of one symbol it may be a byte longer than fixed
        assert stream.size <= -(-len(symbols) * fixed_width(alphabet) // 8)


@pytest.mark.parametrize("alphabet", [2, 3, 16, 255, 256, 257, 4096, 4097])
def test_round_trip_of_all_distinct_symbols(alphabet):
    symbols = np.random.default_rng(1).permutation(alphabet).astype(np.uint16)
    for allow_huffman in (True, False):
        stream = encode(symbols, alphabet, allow_huffman)
        assert np.array_equal(decoded(stream, alphabet, alphabet), symbols)


def test_huffman_is_chosen_only_where_it_is_smaller_with_its_table():
    fair = np.arange(1024, dtype=np.uint16) % 16
    assert encode(fair, 16).coder is Coder.FIXED
    skewed = geometric(1024, 16)
    assert encode(skewed, 16).coder is Coder.HUFFMAN
    # Of a few symbols the table costs more than it saves.
    assert encode(skewed[:6], 16).coder is Coder.FIXED


@settings(deadline=None, max_examples=40)
@given(st.integers(100, 3000), st.integers(2, 300), st.floats(0.05, 0.9))
def test_huffman_payload_is_within_a_bit_a_symbol_of_the_entropy(count, alphabet, p):
    symbols = geometric(count, alphabet, seed=count, p=p)
    stream = encode(symbols, alphabet)
    if stream.coder is Coder.HUFFMAN:
        counts = np.bincount(symbols)
        share = counts[counts > 0] / count
        entropy = -count * float((share * np.log2(share)).sum())
        assert entropy <= 8 * len(stream.payload) < entropy + count + 8


@pytest.mark.parametrize(
    ("symbols", "lanes"),
    [
        (0, 1),
        (1, 1),
        ((1 << 17) - 1, 1),
        (1 << 17, 64),
        ((1 << 18) - 1, 64),
        (1 << 18, 128),
        (235_200, 64),
        (100_000_000, 32768),
    ],
)
def test_lane_count(symbols, lanes):
    assert lane_count(symbols) == lanes


def lanes_of(payload, lanes):
    sizes = np.frombuffer(payload[: 2 * lanes], dtype="<u2").tolist()
    at, out = 2 * lanes, []
    for size in sizes:
        out.append(payload[at : at + size])
        at += size
    assert at == len(payload)
    return out


@pytest.mark.parametrize("count", [1 << 17, (1 << 17) + 5, (1 << 18) + 127])
def test_long_streams_are_dealt_round_robin_to_lanes_that_bitarray_reads(count):
    symbols = geometric(count, 32)
    stream = encode(symbols, 32)
    assert stream.coder is Coder.HUFFMAN
    lanes = lane_count(count)
    assert lanes in (64, 128)
    lengths = huffman.unpack_lengths(Reader(stream.table, "test"), 32)
    for number, lane in enumerate(lanes_of(stream.payload, lanes)):
        expected = symbols[number::lanes].tolist()
        bits = bitarray()
        bits.frombytes(lane)
        used = sum(lengths[symbol] for symbol in expected)
        assert 0 <= len(bits) - used < 8
        assert not bits[used:].any()
        assert list(canonical_decode(bits[:used], *huffman.canonical_tables(lengths))) == expected
        assert lanes_module.decode_lane(memoryview(lane), len(expected), lengths).tolist() == expected
    assert np.array_equal(decoded(stream, 32, count), symbols)


def test_one_symbol_less_and_there_are_no_lanes():
    symbols = geometric((1 << 17) - 1, 32)
    stream = encode(symbols, 32)
    lengths = huffman.unpack_lengths(Reader(stream.table, "test"), 32)
    assert len(stream.payload) == -(-sum(lengths[symbol] for symbol in symbols.tolist()) // 8)
    assert np.array_equal(decoded(stream, 32, len(symbols)), symbols)


@pytest.mark.parametrize(
    ("alphabet", "counts"),
    [
        (2, [131_000, 200]),
        (25, FIBONACCI_COUNTS),  # words of 1 to 15 bits
        (256, [600] * 255 + [20]),
        (4097, [2] * 4096 + [140_000]),  # the largest alphabet of the format, and its last symbol
    ],
)
def test_lanes_in_lock_step_equal_lane_by_lane(alphabet, counts):
    symbols = np.random.default_rng(2).permutation(np.repeat(np.arange(alphabet, dtype=np.uint16), counts))
    lengths = huffman.code_lengths(np.bincount(symbols, minlength=alphabet).tolist())
    lanes = lane_count(len(symbols))
    payload = lanes_module.pack(symbols, lengths)
    slow = np.empty(len(symbols), dtype=np.uint16)
    for number, lane in enumerate(lanes_of(payload, lanes)):
        slow[number::lanes] = lanes_module.decode_lane(memoryview(lane), len(slow[number::lanes]), lengths)
    fast = lanes_module.decode_lanes(memoryview(payload), lanes, len(symbols), lengths)
    assert np.array_equal(slow, symbols)
    assert np.array_equal(fast, symbols)


def test_choose_is_nearly_exact_for_lanes():
    for seed in range(3):
        symbols = geometric(1 << 17, 32, seed=seed)
        assert abs(choose(np.bincount(symbols, minlength=32))[2] - encode(symbols, 32).size) <= 32


def test_damaged_lanes_are_refused():
    symbols = geometric(1 << 17, 32)
    stream = encode(symbols, 32)
    table = read_table(stream.coder, Reader(stream.table, "test"), 32)
    sizes = np.frombuffer(stream.payload[:128], dtype="<u2")
    body = stream.payload[128:]

    def refused(sizes, body, message):
        with pytest.raises(FormatError, match=message):
            streams.decode(table, memoryview(np.asarray(sizes, dtype="<u2").tobytes() + body), len(symbols))

    moved = sizes.copy()
    moved[0], moved[1] = moved[0] + 1, moved[1] - 1
    refused(moved, body, "Huffman stream")
    refused(sizes, body + b"\0", "lanes end at byte")
    refused(sizes, body[:-1], "lanes end at byte")
    longer = sizes.copy()
    longer[-1] += 1
    refused(longer, body + b"\0", "Huffman stream")
    used = sum(table.lengths[symbol] for symbol in symbols[63::64].tolist())
    assert used % 8  # the last lane has padding, of which a bit is set here
    refused(sizes, body[:-1] + bytes([body[-1] | 1]), "Huffman stream")


@pytest.mark.parametrize("damage", ["all zeros", "all ones", "random"])
def test_any_bytes_in_lanes_are_decoded_or_refused(damage):
    stream = encode(geometric(1 << 17, 32), 32)
    table = read_table(stream.coder, Reader(stream.table, "test"), 32)
    body = len(stream.payload) - 128
    noise = {
        "all zeros": bytes(body),
        "all ones": b"\xff" * body,
        "random": np.random.default_rng(3).integers(0, 256, body, dtype=np.uint8).tobytes(),
    }[damage]
    with pytest.raises(FormatError, match="Huffman stream"):
        streams.decode(table, memoryview(stream.payload[:128] + noise), 1 << 17)


@pytest.mark.parametrize("count", [0, 16, 21])
def test_a_fixed_stream_of_another_number_of_symbols_is_refused(count):
    payload = memoryview(bytes(5))  # 17 to 20 symbols of 2 bits
    assert streams.decode(Code(Coder.FIXED, 4), payload, 20).tolist() == [0] * 20
    assert streams.decode(Code(Coder.FIXED, 4), payload, 17).tolist() == [0] * 17
    with pytest.raises(FormatError, match=f"{count} symbols of 2 bits do not make 5 bytes"):
        streams.decode(Code(Coder.FIXED, 4), payload, count)


def test_a_symbol_beyond_the_alphabet_is_refused():
    assert streams.decode(Code(Coder.FIXED, 3), memoryview(b"\x80"), 1).tolist() == [2]
    with pytest.raises(FormatError, match="a symbol is 3, but the alphabet has only 3"):
        streams.decode(Code(Coder.FIXED, 3), memoryview(b"\xc0"), 1)
    with pytest.raises(FormatError, match="constant symbol is 3, but at most 2"):
        read_table(Coder.CONSTANT, Reader(b"\x03", "test"), 3)
    with pytest.raises(FormatError, match="but at most -1"):
        read_table(Coder.CONSTANT, Reader(b"\x00", "test"), 0)


def test_padding_must_be_zero():
    assert streams.decode(Code(Coder.FIXED, 4), memoryview(b"\xc0"), 1).tolist() == [3]
    with pytest.raises(FormatError, match="padding of a fixed-width stream is not zero"):
        streams.decode(Code(Coder.FIXED, 4), memoryview(b"\xc1"), 1)
    assert streams.decode(huffman_table(1, 2, 2), memoryview(b"\x80"), 1).tolist() == [1]
    with pytest.raises(FormatError, match="bits after its last symbol"):
        streams.decode(huffman_table(1, 2, 2), memoryview(b"\x81"), 1)
    with pytest.raises(FormatError, match="bits after its last symbol"):
        streams.decode(huffman_table(1, 2, 2), memoryview(b"\x80\x00"), 1)


def test_a_huffman_stream_that_ends_early_is_refused():
    table = huffman_table(1, 2, 2)
    assert streams.decode(table, memoryview(b"\xff"), 4).tolist() == [2, 2, 2, 2]
    with pytest.raises(FormatError, match="ends before its 5 symbols"):
        streams.decode(table, memoryview(b"\xff"), 5)
    with pytest.raises(FormatError, match="1 bytes cannot hold 9 Huffman symbols"):
        streams.decode(table, memoryview(b"\x00"), 9)
    assert streams.decode(table, memoryview(b""), 0).tolist() == []


@pytest.mark.parametrize("coder", [Coder.NONE, Coder.CONSTANT, Coder.LITERAL])
def test_coders_without_a_payload_refuse_one(coder):
    with pytest.raises(FormatError, match=f"a {coder.name} stream has 1 bytes; it must have none"):
        streams.decode(Code(coder, 4), memoryview(b"\x00"), 1)


@pytest.mark.parametrize("coder", [Coder.NONE, Coder.LITERAL])
def test_symbols_need_a_coder(coder):
    with pytest.raises(FormatError, match=f"a stream of 1 symbols is marked {coder.name}"):
        streams.decode(Code(coder, 4), memoryview(b""), 1)


@pytest.mark.parametrize("table", [Code(Coder.FIXED, 4), huffman_table(1, 2, 2)])
@pytest.mark.parametrize("count", [1 << 17, 1 << 30, 1 << 40])
def test_impossible_counts_are_refused_before_anything_is_allocated(table, count):
    tracemalloc.start()
    try:
        with pytest.raises(FormatError):
            streams.decode(table, memoryview(bytes(1000)), count)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("count", [(1 << 16) - 1, 1 << 16, (1 << 16) + 1, (1 << 17) + 5])
@pytest.mark.parametrize("alphabet", [2, 5, 256, 4097])
def test_fixed_width_across_chunks(count, alphabet):
    symbols = np.random.default_rng(count).integers(0, alphabet, count).astype(np.uint16)
    stream = streams.encode(symbols, alphabet, allow_huffman=False)
    width = streams.fixed_width(alphabet)
    assert stream.payload == np.packbits(symbols[:, None] >> np.arange(width)[::-1] & 1).tobytes()
    found = streams.decode(streams.Code(Coder.FIXED, alphabet), memoryview(stream.payload), count)
    assert np.array_equal(found, symbols)
