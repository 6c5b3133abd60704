import math
from collections import Counter
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from bitarray import bitarray
from bitarray.util import canonical_decode, canonical_huffman, huffman_code
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcompress.coding import huffman
from deepcompress.coding.bits import Reader, varint
from deepcompress.coding.huffman import (
    MAX_LENGTH,
    canonical_tables,
    code_lengths,
    code_words,
    lookup_table,
    pack_lengths,
    unpack_lengths,
)
from deepcompress.errors import FormatError

FIBONACCI = [1, 1]
while len(FIBONACCI) < 30:
    FIBONACCI.append(FIBONACCI[-1] + FIBONACCI[-2])

# A word of 16 bits needs counts that grow like Fibonacci's numbers, to 987 at least: below, the limit never binds.
tables_of_counts = st.lists(st.integers(0, 900), min_size=2, max_size=40).filter(lambda c: sum(map(bool, c)) >= 2)


def cost(counts, lengths):
    return sum(count * length for count, length in zip(counts, lengths, strict=True))


def kraft(lengths):
    return sum(2.0**-length for length in lengths if length)


def best_cost(counts, limit):
    """The least bits of any prefix code, by trying how many leaves each level of the tree has: no package-merge."""
    weights = sorted((count for count in counts if count), reverse=True)

    @cache
    def below(level, nodes, placed):
        left = len(weights) - placed
        if left == 0:
            return 0
        if level == limit:
            return level * sum(weights[placed:]) if nodes >= left else math.inf
        best = math.inf
        for leaves in range(min(nodes, left) + 1):
            here = level * sum(weights[placed : placed + leaves])
            best = min(best, here + below(level + 1, min(2 * (nodes - leaves), len(weights)), placed + leaves))
        return best

    return below(0, 1, 0)


def table_of(lengths):
    """A table as the format writes it, for any lengths: those of no valid code too."""
    bits, previous = "", 0
    for length in lengths:
        bits += {0: "0", 1: "10", -1: "110"}.get(length - previous, f"111{length:04b}")
        previous = length
    return varint(len(lengths)) + bitarray(bits).tobytes()


@pytest.mark.parametrize(
    ("counts", "lengths"),
    [
        ([1, 1], [1, 1]),
        ([1000, 1], [1, 1]),
        ([5, 1, 1, 2], [1, 3, 3, 2]),
        ([0, 7, 0, 3, 0], [0, 1, 0, 1, 0]),
        ([1] * 8, [3] * 8),
        ([8, 4, 2, 1, 1], [1, 2, 3, 4, 4]),
    ],
)
def test_lengths_by_hand(counts, lengths):
    assert code_lengths(counts) == lengths


def test_ties_are_broken_by_the_lowest_symbol():
    # Of equal counts the lowest symbols are merged first, and so get the longer words.
    assert code_lengths([1] * 3) == [2, 2, 1]
    assert code_lengths([1] * 5) == [3, 3, 2, 2, 2]
    assert code_lengths([2, 1, 1, 2]) == code_lengths([2, 1, 1, 2])
    assert sorted(code_lengths([2, 1, 1, 2])) in ([1, 2, 3, 3], [2, 2, 2, 2])


@settings(deadline=None)
@given(tables_of_counts)
def test_cost_equals_huffmans_algorithm(counts):
    words = huffman_code({symbol: count for symbol, count in enumerate(counts) if count})
    assert max(map(len, words.values())) <= MAX_LENGTH
    assert cost(counts, code_lengths(counts)) == sum(counts[symbol] * len(word) for symbol, word in words.items())


@settings(deadline=None)
@given(tables_of_counts)
def test_lengths_are_a_complete_code_that_gives_frequent_symbols_short_words(counts):
    lengths = code_lengths(counts)
    assert kraft(lengths) == 1
    assert [bool(length) for length in lengths] == [bool(count) for count in counts]
    assert max(lengths) <= MAX_LENGTH
    by_count = sorted((count, -length) for count, length in zip(counts, lengths, strict=True) if count)
    for (rarer, longer), (commoner, shorter) in pairwise(by_count):
        assert rarer == commoner or -longer >= -shorter


@settings(deadline=None)
@given(tables_of_counts)
def test_payload_lies_between_the_entropy_and_one_bit_more_a_symbol(counts):
    total = sum(counts)
    entropy = -sum(count * math.log2(count / total) for count in counts if count)
    bits = cost(counts, code_lengths(counts))
    assert entropy - 1e-6 <= bits < entropy + total


@pytest.mark.parametrize("limit", [2, 3, 4])
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_lengths_are_the_best_below_a_limit_that_binds(limit, data):
    counts = data.draw(st.lists(st.integers(1, 1000), min_size=2, max_size=1 << limit))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huffman, "MAX_LENGTH", limit)
        lengths = code_lengths(counts)
    assert max(lengths) <= limit
    assert kraft(lengths) == 1
    assert cost(counts, lengths) == best_cost(counts, limit)


@pytest.mark.parametrize("symbols", [16, 17, 25, 30])
def test_the_deepest_trees_are_cut_at_fifteen_bits_at_the_least_cost(symbols):
    counts = FIBONACCI[:symbols]
    unlimited = huffman_code(dict(enumerate(counts)))
    lengths = code_lengths(counts)
    assert max(map(len, unlimited.values())) == symbols - 1
    assert max(lengths) == min(MAX_LENGTH, symbols - 1)
    assert kraft(lengths) == 1
    assert cost(counts, lengths) == best_cost(counts, MAX_LENGTH)


def test_as_many_symbols_as_the_format_has():
    lengths = code_lengths([1] * 4097)
    assert Counter(lengths) == {12: 4095, 13: 2}
    assert code_lengths([1, 10**12]) == [1, 1]


def test_words_by_hand():
    words = code_words([1, 3, 3, 2, 0])
    assert {symbol: word.to01() for symbol, word in words.items()} == {0: "0", 3: "10", 1: "110", 2: "111"}


@settings(deadline=None)
@given(tables_of_counts)
def test_words_are_in_canonical_order(counts):
    lengths = code_lengths(counts)
    words = code_words(lengths)
    order = sorted(words, key=lambda symbol: (lengths[symbol], symbol))
    assert [len(words[symbol]) for symbol in order] == [lengths[symbol] for symbol in order]
    padded = [words[symbol].to01().ljust(MAX_LENGTH, "0") for symbol in order]
    assert padded == sorted(set(padded))  # ascending and, since lengths ascend too, none is the start of another
    assert set(words[order[0]].to01()) == {"0"}
    assert set(words[order[-1]].to01()) == {"1"}


def test_words_are_those_of_bitarray_where_there_are_no_ties():
    counts = [1, 100, 3, 50, 10, 25, 1000]
    words, count, symbols = canonical_huffman(dict(enumerate(counts)))
    assert code_words(code_lengths(counts)) == words
    assert canonical_tables(code_lengths(counts)) == (count, symbols)


@settings(deadline=None)
@given(tables_of_counts, st.randoms(use_true_random=False))
def test_bitarray_decodes_what_the_words_encode(counts, random):
    lengths = code_lengths(counts)
    used = [symbol for symbol, count in enumerate(counts) if count]
    message = [random.choice(used) for _ in range(50)]
    bits = bitarray()
    bits.encode(code_words(lengths), message)
    assert list(canonical_decode(bits, *canonical_tables(lengths))) == message


@settings(deadline=None, max_examples=40)
@given(tables_of_counts, st.integers(0, 1))
def test_the_lookup_table_finds_every_word(counts, spare):
    lengths = code_lengths(counts)
    width = max(lengths) + spare
    table = lookup_table(lengths, width)
    assert len(table) == 1 << width
    for symbol, word in code_words(lengths).items():
        first = int(word.to01().ljust(width, "0"), 2)
        found = table[first : first + (1 << width - len(word))].astype(np.int64)
        assert set((found >> 4).tolist()) == {symbol}
        assert set((found & 15).tolist()) == {lengths[symbol]}


def test_the_lookup_table_holds_the_largest_symbol():
    lengths = code_lengths([1] * 4097)
    table = lookup_table(lengths, 13).astype(np.int64)
    assert (int(table.max()) >> 4, int(table.max()) & 15) == (4096, 12)


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([1, 1], "02" + "80"),  # '10' '0'
        ([1, 3, 3, 2], "04" + "b9b0"),  # '10' '111 0011' '0' '110'
        ([0, 1, 1, 0, 0], "03" + "40"),  # '0' '10' '0', and the zeros at the end are left away
        ([0, 3, 2, 1, 3], "05" + "73db98"),  # the example of docs/format.md
        ([2, 2, 1], "03" + "e4c0"),
    ],
)
def test_packed_lengths_by_hand(lengths, expected):
    assert pack_lengths(lengths).hex() == expected
    assert unpack_lengths(Reader(bytes.fromhex(expected), "test"), len(lengths)) == lengths


@settings(deadline=None)
@given(tables_of_counts, st.binary(max_size=3))
def test_packed_lengths_round_trip_and_take_no_byte_too_many(counts, rest):
    lengths = code_lengths(counts)
    packed = pack_lengths(lengths)
    assert packed == table_of(lengths[: max(s for s, length in enumerate(lengths) if length) + 1])
    reader = Reader(packed + rest, "test")
    assert unpack_lengths(reader, len(counts)) == lengths
    assert len(reader) == len(rest)


def test_lengths_of_every_size_round_trip():
    lengths = code_lengths(FIBONACCI[:16])
    assert set(lengths) == set(range(1, MAX_LENGTH + 1))
    for table in (lengths, lengths[::-1], lengths[::2] + lengths[1::2]):
        assert unpack_lengths(Reader(pack_lengths(table), "test"), 16) == table


@pytest.mark.parametrize(
    "lengths",
    [
        [],  # no symbols at all
        [1],  # incomplete: one symbol needs no code
        [0, 0],
        [1, 2],  # incomplete
        [2, 2, 2],
        [15] * 3,
        [1, 1, 1],  # over-full
        [1, 1, 15],
        [2, 2, 1, 1],
        [1, 1, 0],  # complete, but the last symbol does not occur
    ],
)
def test_tables_of_no_complete_code_are_refused(lengths):
    with pytest.raises(FormatError, match="not a complete prefix code"):
        unpack_lengths(Reader(table_of(lengths), "test"), 10)


@pytest.mark.parametrize(
    ("bits", "found"),
    [("110", "-1"), ("10" + "110" + "110", "-1"), ("1111111" + "10", "16")],
)
def test_lengths_outside_of_0_to_15_are_refused(bits, found):
    with pytest.raises(FormatError, match=f"code length of {found}; allowed are 0 to 15"):
        unpack_lengths(Reader(varint(4) + bitarray(bits).tobytes() + bytes(4), "test"), 10)


def test_more_lengths_than_symbols_are_refused():
    packed = pack_lengths([1, 2, 2])
    assert unpack_lengths(Reader(packed, "test"), 3) == [1, 2, 2]
    with pytest.raises(FormatError, match="number of code lengths is 3, but at most 2"):
        unpack_lengths(Reader(packed, "test"), 2)


def test_a_table_that_is_cut_off_is_refused_at_every_byte():
    packed = pack_lengths(code_lengths(FIBONACCI))
    for end in range(len(packed)):
        with pytest.raises(FormatError, match="but only 0 are left"):
            unpack_lengths(Reader(packed[:end], "test"), 30)


def test_the_padding_of_a_table_must_be_zero():
    packed = bytearray(pack_lengths([1, 3, 3, 2]))  # 13 bits: 3 are left over
    for bit in range(3):
        damaged = bytes(packed[:-1]) + bytes([packed[-1] | 1 << bit])
        with pytest.raises(FormatError, match="padding"):
            unpack_lengths(Reader(damaged, "test"), 4)


@pytest.mark.parametrize(
    ("bits", "why"),
    [
        ("1110001" + "1110001", "the second length is the first again"),
        ("1110010" + "1110001" + "1110010", "one less, then one more"),
        ("1110001", "one more than the 0 before the first"),
    ],
)
def test_a_length_that_is_near_the_one_before_must_not_be_spelled_out(bits, why):
    used = len(bits) // 7
    table = bytes([used]) + int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")
    with pytest.raises(FormatError, match="shortest form"):
        unpack_lengths(Reader(table, "test"), 8)
