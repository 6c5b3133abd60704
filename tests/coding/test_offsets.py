import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcompress.coding import offsets, streams
from deepcompress.coding.offsets import MAX_BITS, best_width, gaps, scatter, to_symbols
from deepcompress.errors import FormatError

positions_lists = st.lists(st.integers(0, 400), unique=True, max_size=60).map(sorted)


def placed(symbols, bits, survivors, size):
    values = np.zeros(size, dtype=np.uint32)
    scatter(np.array(symbols, dtype=np.uint16), bits, np.array(survivors, dtype=np.uint32), values)
    return values.tolist()


def test_figure_2_of_the_paper():
    # Weights at 1, 4 and 15, offsets of 3 bits. The paper stores the differences 1, 3, 8 (a filler with a zero
    # weight) and 3. Here a symbol counts the zeros before a weight, and 7 is the filler: 1, 2, 7, 3.
    gap = gaps(np.array([1, 4, 15]))
    assert gap.tolist() == [1, 2, 10]
    symbols = to_symbols(gap, 3)
    assert symbols.tolist() == [1, 2, 7, 3]
    assert placed(symbols, 3, [34, 9, 17], 16) == [0, 34, 0, 0, 9, *[0] * 10, 17]


@pytest.mark.parametrize(
    ("gap", "bits", "symbols"),
    [
        ([], 1, []),
        ([0], 1, [0]),
        ([1], 1, [1, 0]),  # of one bit: 0 is a weight, 1 skips an element
        ([3], 1, [1, 1, 1, 0]),
        ([2], 2, [2]),
        ([3], 2, [3, 0]),  # exactly a filler
        ([7, 0, 15], 2, [3, 3, 1, 0, 3, 3, 3, 3, 3, 0]),
        ([4094], 12, [4094]),
        ([4095], 12, [4095, 0]),
    ],
)
def test_symbols_by_hand(gap, bits, symbols):
    assert to_symbols(np.array(gap, dtype=np.int64), bits).tolist() == symbols


def test_gaps_of_no_and_of_all_weights():
    assert gaps(np.array([], dtype=np.int64)).tolist() == []
    assert gaps(np.arange(5)).tolist() == [0] * 5
    assert gaps(np.array([9])).tolist() == [9]
    assert gaps(np.array([2, 3]), last=-5).tolist() == [6, 0]  # the weight before them lies in an earlier chunk


@settings(deadline=None)
@given(positions_lists, st.integers(1, MAX_BITS), st.integers(0, 20))
def test_round_trip(positions, bits, zeros_after):
    size = (positions[-1] + 1 if positions else 0) + zeros_after
    symbols = to_symbols(gaps(np.array(positions, dtype=np.int64)), bits)
    expected = [0] * size
    for number, position in enumerate(positions):
        expected[position] = number + 1
    assert placed(symbols, bits, range(1, len(positions) + 1), size) == expected


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 64])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_scatter_across_chunks(monkeypatch, chunk, bits):
    rng = np.random.default_rng(chunk)
    positions = np.flatnonzero(rng.random(300) < 0.2)
    symbols = to_symbols(gaps(positions), bits)
    expected = np.zeros(300, dtype=np.uint32)
    expected[positions] = np.arange(1, len(positions) + 1)
    monkeypatch.setattr(offsets, "CHUNK", chunk)
    assert placed(symbols, bits, range(1, len(positions) + 1), 300) == expected.tolist()
    assert offsets.positions(symbols, bits, len(positions), 300).tolist() == positions.tolist()
    with pytest.raises(FormatError, match="beyond the tensor's"):
        placed(symbols, bits, range(1, len(positions) + 1), int(positions[-1]))
    with pytest.raises(FormatError, match="were announced"):
        placed(symbols, bits, range(1, len(positions) + 2), 300)
    with pytest.raises(FormatError, match="were announced"):
        placed(symbols, bits, range(1, len(positions)), 300)


@pytest.mark.parametrize("allow_huffman", [True, False])
@pytest.mark.parametrize("density", [0.0, 0.002, 0.03, 0.08, 0.3, 0.7, 1.0])
def test_best_width_is_the_smallest_stream_that_can_be_written(density, allow_huffman):
    rng = np.random.default_rng(7)
    gap = gaps(np.flatnonzero(rng.random(20_000) < density))
    written = {
        bits: streams.encode(to_symbols(gap, bits), 1 << bits, allow_huffman).size for bits in range(1, MAX_BITS + 1)
    }
    bits, size = best_width(*np.unique(gap, return_counts=True), allow_huffman)
    assert size == written[bits] == min(written.values())
    assert all(written[narrower] > size for narrower in range(1, bits))


@settings(deadline=None, max_examples=15)
@given(positions_lists, st.booleans())
def test_best_width_of_few_weights(positions, allow_huffman):
    gap = gaps(np.array(positions, dtype=np.int64))
    written = [streams.encode(to_symbols(gap, bits), 1 << bits, allow_huffman).size for bits in range(1, MAX_BITS + 1)]
    found = best_width(*np.unique(gap, return_counts=True), allow_huffman)
    assert found == (written.index(min(written)) + 1, min(written))


def test_no_weights():
    assert best_width(*np.unique(np.array([], dtype=np.int64), return_counts=True)) == (1, 0)
    assert placed([], 1, [], 4) == [0] * 4
    assert placed([], 1, [], 0) == []
    assert offsets.positions(np.array([], dtype=np.uint16), 1, 0, 4).tolist() == []


@pytest.mark.parametrize(
    ("symbols", "survivors", "size", "message"),
    [
        ([0, 3], [5, 6], 4, "beyond the tensor's 4"),  # the second weight at 4
        ([7], [], 8, "the last offset is a filler"),
        ([0, 7], [5], 20, "the last offset is a filler"),
        ([0, 0], [5], 4, "2 weights, but 1 were announced"),
        ([0], [5, 6], 4, "1 weights, but 2 were announced"),
        ([], [5], 4, "0 weights, but 1 were announced"),
        ([0], [5], 0, "beyond the tensor's 0"),
    ],
)
def test_offsets_that_do_not_fit_are_refused(symbols, survivors, size, message):
    with pytest.raises(FormatError, match=message):
        placed(symbols, 3, survivors, size)
    with pytest.raises(FormatError, match=message):
        offsets.positions(np.array(symbols, dtype=np.uint16), 3, len(survivors), size)
