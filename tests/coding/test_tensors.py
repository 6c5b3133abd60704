import math
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcompress.coding import offsets, streams
from deepcompress.coding.dtypes import DType
from deepcompress.coding.encoder import CODERS, alias, encode_coded, encode_plain
from deepcompress.coding.forms import MAX_CODEBOOK, SharedCodebook, StoredCodebook
from deepcompress.coding.layouts import LAYOUTS
from deepcompress.coding.layouts.adaptive import Adaptive
from deepcompress.coding.layouts.coded import decode_codebook, decode_survivors
from deepcompress.coding.layouts.dense import Dense
from deepcompress.coding.layouts.exact import Planes, Raw
from deepcompress.coding.layouts.references import Alias
from deepcompress.coding.layouts.relative import Literal, Offsets, Relative
from deepcompress.coding.lookup import look_up
from deepcompress.coding.streams import Coder, coder_of
from deepcompress.coding.tensors import EncodedTensor, Encoding, TensorInfo, decode
from deepcompress.errors import FormatError

FLOATS = [dtype for dtype in DType if dtype.is_float]
WIDE = [dtype for dtype in FLOATS if dtype.storage.itemsize > 1]  # for codebooks of more than 255 entries
WORDS = [dtype for dtype in DType if dtype.storage.itemsize <= 8]  # whose bits are an integer of numpy's
FIBONACCI = [1, 1]
while len(FIBONACCI) < 22:
    FIBONACCI.append(FIBONACCI[-1] + FIBONACCI[-2])

shapes = st.lists(st.integers(0, 6), max_size=4).map(tuple)


def decoded(encoded, codebook=None):
    return decode(encoded.info, memoryview(encoded.section), codebook)


def assert_same(values, result, dtype):
    """Equal shape, type and bits: NaN is equal to itself here, and -0.0 is not 0.0."""
    assert (result.shape, result.dtype) == (values.shape, dtype.storage)
    assert result.tobytes() == values.tobytes()


def of_bits(bits, shape, dtype):
    return np.array(bits, dtype=dtype.bits).view(dtype.storage).reshape(shape)


def shared_tensor(shape, density, entries, dtype=DType.FLOAT32, seed=0, used=None):
    """A tensor of zeros and of the first `used` of `entries` distinct random codebook values, and the codebook."""
    rng = np.random.default_rng(seed)
    codebook = rng.permutation(np.unique(rng.integers(1, (1 << 8 * dtype.bits.itemsize) - 1, 2 * entries, np.uint64)))
    codebook = codebook[:entries].astype(dtype.bits)
    size = math.prod(shape)
    values = codebook[rng.integers(0, used or entries, size)] if entries else np.zeros(size, dtype=dtype.bits)
    values[rng.random(size) >= density] = 0
    return values.view(dtype.storage).reshape(shape), codebook.view(dtype.storage)


def with_fields(encoded, offsets=(), **changes):
    """The facts of a tensor with other fields in its layout."""
    layout = encoded.info.layout
    return replace(encoded.info, layout=replace(layout, offsets=replace(layout.offsets, **dict(offsets)), **changes))


def test_the_numbers_in_the_file():
    assert [(dtype.name, dtype.value, dtype.storage.itemsize) for dtype in DType] == [
        ("FLOAT32", 0, 4),
        ("FLOAT16", 1, 2),
        ("BFLOAT16", 2, 2),
        ("FLOAT64", 3, 8),
        ("INT8", 4, 1),
        ("UINT8", 5, 1),
        ("INT16", 6, 2),
        ("INT32", 7, 4),
        ("INT64", 8, 8),
        ("BOOL", 9, 1),
        ("FLOAT8_E4M3FN", 10, 1),
        ("FLOAT8_E5M2", 11, 1),
        ("FLOAT8_E4M3FNUZ", 12, 1),
        ("FLOAT8_E5M2FNUZ", 13, 1),
        ("FLOAT8_E8M0FNU", 14, 1),
        ("FLOAT4_E2M1FN_X2", 15, 1),
        ("UINT16", 16, 2),
        ("UINT32", 17, 4),
        ("UINT64", 18, 8),
        ("COMPLEX32", 19, 4),
        ("COMPLEX64", 20, 8),
        ("COMPLEX128", 21, 16),
    ]
    assert {number: (layout.__name__, layout.since) for number, layout in LAYOUTS.items()} == {
        0: ("Raw", 1),
        1: ("Planes", 1),
        2: ("Relative", 1),
        3: ("Alias", 1),
        4: ("Constant", 2),
        5: ("Adaptive", 2),
        6: ("Rows", 3),
        7: ("Copy", 3),
        8: ("Ranked", 3),
    }
    assert FLOATS == [0, 1, 2, 3, 10, 11, 12, 13]
    assert [dtype.negative_zero for dtype in FLOATS] == [1 << 31, 1 << 15, 1 << 15, 1 << 63, 128, 128, None, None]


# Plain tensors ---------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.data(), st.sampled_from(WORDS), shapes)
def test_plain_tensors_of_any_bits_round_trip(data, dtype, shape):
    size = math.prod(shape)
    largest = 1 if dtype is DType.BOOL else (1 << 8 * dtype.bits.itemsize) - 1
    some = data.draw(st.lists(st.integers(0, largest), min_size=1, max_size=4))
    values = of_bits(data.draw(st.lists(st.sampled_from(some), min_size=size, max_size=size)), shape, dtype)
    encoded = encode_plain(values, dtype)
    assert_same(values, decoded(encoded), dtype)
    assert len(encoded.section) == encoded.info.section <= values.nbytes
    assert encoded.info.encoding in (Encoding.RAW, Encoding.PLANES)


@pytest.mark.parametrize("size", [4, 1000])  # raw, and byte planes
def test_nan_payloads_and_signed_zeros_of_plain_tensors(size):
    bits = [0x7FC00000, 0x7F800001, 0xFFC12345, 0x80000000, 0x00000000, 0x00000001, 0xFF800000]
    values = of_bits([bits[i % 7] for i in range(size)], (size,), DType.FLOAT32)
    encoded = encode_plain(values, DType.FLOAT32)
    assert encoded.info.encoding is (Encoding.RAW if size == 4 else Encoding.PLANES)
    assert_same(values, decoded(encoded), DType.FLOAT32)


def test_raw_bytes_are_little_endian_and_row_major():
    values = np.array([[1, 2], [3, -1]], dtype=">i4").T
    encoded = encode_plain(values, DType.INT32)
    assert encoded.info == TensorInfo((2, 2), DType.INT32, Raw())
    assert encoded.section.hex() == "01000000" + "03000000" + "02000000" + "ffffffff"
    assert decoded(encoded).tolist() == [[1, 3], [2, -1]]


def test_planes_by_hand():
    values = np.full(20, 0.5, dtype=np.float32)  # 3f000000
    encoded = encode_plain(values, DType.FLOAT32)
    assert encoded.info == TensorInfo((20,), DType.FLOAT32, Planes(12))
    assert encoded.section.hex() == "010100" * 3 + "01013f"
    assert_same(values, decoded(encoded), DType.FLOAT32)


def test_planes_of_each_coder():
    values = np.zeros(800, dtype="<u2")
    values[::100] = 5  # a plane that Huffman makes smaller, and a constant one
    encoded = encode_plain(values, DType.BFLOAT16)
    assert encoded.info.encoding is Encoding.PLANES
    assert encoded.section[0] == Coder.HUFFMAN
    assert encoded.section[-3:].hex() == "010100"
    assert_same(values, decoded(encoded), DType.BFLOAT16)


def test_plain_planes_are_not_taken_when_they_are_as_large_as_raw():
    assert encode_plain(np.array([3], dtype=np.int64), DType.INT64).info.encoding is Encoding.RAW
    assert encode_plain(np.zeros(3, dtype=np.uint8), DType.UINT8).info.encoding is Encoding.RAW
    assert encode_plain(np.zeros(4, dtype=np.uint8), DType.UINT8).info.encoding is Encoding.PLANES


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (1, 1, 1, 1)])
@pytest.mark.parametrize("dtype", DType)
def test_scalars_and_empty_tensors(dtype, shape):
    values = np.ones(shape, dtype=dtype.storage)
    encoded = encode_plain(values, dtype)
    assert len(encoded.section) == encoded.info.nbytes == values.nbytes
    assert_same(values, decoded(encoded), dtype)
    if dtype.is_float:
        assert_same(values, decoded(encode_coded(values, dtype, values.reshape(-1)[:1])), dtype)
        assert_same(values, decoded(encode_coded(values, dtype, None)), dtype)


def test_booleans_are_zero_or_one():
    section = bytes([0, 1, 2])
    info = TensorInfo((3,), DType.BOOL, Raw())
    with pytest.raises(FormatError, match="a boolean is stored as 2"):
        decode(info, memoryview(section))
    planes = encode_plain(np.full(20, 2, dtype=np.uint8), DType.UINT8)
    with pytest.raises(FormatError, match="a boolean is stored as 2"):
        decoded(EncodedTensor(replace(planes.info, dtype=DType.BOOL), planes.section))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("", "coder needs 1 bytes"),
        ("0101000101", "plane needs 1 bytes, but only 0"),
        ("0100", "constant symbol needs 1 bytes"),
        ("01020000", "a CONSTANT stream has 1 bytes"),
        ("010100010100" + "00", "1 unexpected bytes"),
        ("010100" + "010200", "plane needs 2 bytes, but only 1"),
        ("010100" + "0000", "a stream of 20 symbols is marked NONE"),
        ("010100" + "0400", "a stream of 20 symbols is marked LITERAL"),
        ("010100" + "0500", "coder 5 is unknown; known are 0 to 4"),
        ("010100" + "0201ff", "20 symbols of 8 bits do not make 1 bytes"),
        ("010100" + "030203e4", "Huffman table needs 1 bytes"),
    ],
)
def test_damaged_planes_are_refused(section, message):
    section = bytes.fromhex(section)
    info = TensorInfo((20,), DType.FLOAT16, Planes(len(section)))
    with pytest.raises(FormatError, match=message):
        decode(info, memoryview(section))


def test_coder_of():
    assert [coder_of(number) for number in range(5)] == list(Coder)
    with pytest.raises(FormatError, match="coder 15 is unknown"):
        coder_of(15)


def test_alias():
    values = np.zeros((2, 3), dtype=np.float16)
    encoded = alias(values.shape, DType.FLOAT16, 7)
    assert encoded.info == TensorInfo((2, 3), DType.FLOAT16, Alias(7))
    assert (encoded.section, encoded.info.section, encoded.info.nbytes) == (b"", 0, 12)


# Coded tensors ---------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    shapes,
    st.sampled_from(FLOATS),
    st.sampled_from([0.0, 0.05, 0.5, 0.95, 1.0]),
    st.integers(0, 12),
    st.sampled_from(CODERS),
    st.integers(0, 99),
)
def test_coded_tensors_round_trip(shape, dtype, density, entries, coder, seed):
    values, codebook = shared_tensor(shape, density, entries, dtype, seed)
    for book in (codebook, None):
        encoded = encode_coded(values, dtype, book, coder)
        assert_same(values, decoded(encoded), dtype)
        assert len(encoded.section) == encoded.info.section <= values.nbytes


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("allow_huffman", [True, False])
@pytest.mark.parametrize(
    ("density", "entries"), [(0.0, 2), (0.01, 4), (0.08, 32), (0.1, 256), (0.4, 1), (0.6, 16), (1.0, 1), (1.0, 16)]
)
def test_large_coded_tensors(dtype, allow_huffman, density, entries):
    values, codebook = shared_tensor((8, 5, 10, 10), density, entries, dtype)
    encoded = encode_coded(values, dtype, codebook, "huffman" if allow_huffman else "fixed")
    info = encoded.info
    assert_same(values, decoded(encoded), dtype)
    assert info.encoding is Encoding.CODED
    assert info.nonzeros == np.count_nonzero(values.view(dtype.bits))
    assert info.section == len(encoded.section) < values.nbytes
    assert info.codebook == entries * dtype.storage.itemsize
    if not allow_huffman:
        assert "huffman" not in info.layout.coder


@pytest.mark.parametrize("density", [0.0, 0.01, 0.3])
@pytest.mark.parametrize("dtype", WIDE)
def test_literal_weights(dtype, density):
    values, _ = shared_tensor((40, 50), density, 500, dtype)
    encoded = encode_coded(values, dtype, None)
    info = encoded.info
    assert_same(values, decoded(encoded), dtype)
    assert (info.encoding, info.layout.codebook) == (Encoding.CODED, StoredCodebook())
    assert type(info.layout) is (Literal if density else Relative)
    survivors = values[values.view(dtype.bits) != 0]
    assert encoded.section[len(encoded.section) - info.layout.length :] == survivors.tobytes()


def test_literal_negative_zeros_and_nans_survive():
    values = of_bits([0, 0x80000000, 0, 0x7FC00001, 0, 0, 0, 0, 0xFFFFFFFF, *[0] * 60], (69,), DType.FLOAT32)
    encoded = encode_coded(values, DType.FLOAT32, None)
    assert (encoded.info.encoding, encoded.info.nonzeros) == (Encoding.CODED, 3)
    assert_same(values, decoded(encoded), DType.FLOAT32)


def test_a_codebook_may_hold_nan_and_negative_zero():
    codebook = of_bits([0x80000000, 0x7FC00001, 0x3F800000], (3,), DType.FLOAT32)
    values = np.tile(codebook, 100).reshape(30, 10)
    encoded = encode_coded(values, DType.FLOAT32, codebook)
    assert (encoded.info.encoding, encoded.info.nonzeros) == (Encoding.CODED, 300)
    assert_same(values, decoded(encoded), DType.FLOAT32)


def test_a_sparse_section_by_hand():
    values = np.zeros(32, dtype=np.float32)
    values[[6, 13, 27]] = [3.0, 0.5, 3.0]  # 6, 6 and 13 zeros: offsets 6, 6, filler, 6
    encoded = encode_coded(values, DType.FLOAT32, np.array([0.5, 3.0], dtype=np.float32), "fixed")
    layout = Relative(
        StoredCodebook(count=2),
        nonzeros=3,
        tables=0,
        stream_coder=Coder.FIXED,
        length=1,
        offsets=Offsets(bits=3, fillers=1, stream_coder=Coder.FIXED, length=2),
    )
    assert encoded.info == TensorInfo((32,), DType.FLOAT32, layout)
    assert layout.parts(encoded.info) == {"codebooks": 8, "tables": 0, "offsets": 2, "weights": 1}
    assert encoded.section.hex() == "0000003f" + "00004040" + f"{0b1101101111100000:04x}" + f"{0b10100000:02x}"


def test_a_dense_section_by_hand():
    values = np.array([0, 1, 0, 2, 1, 1, 2, 0, 1, 2], dtype=np.float32)
    encoded = encode_coded(values, DType.FLOAT32, np.array([1, 2], dtype=np.float32))
    layout = Dense(StoredCodebook(count=2), nonzeros=7, tables=0, stream_coder=Coder.FIXED, length=3)
    assert encoded.info == TensorInfo((10,), DType.FLOAT32, layout)
    assert layout.parts(encoded.info) == {"codebooks": 8, "tables": 0, "weights": 3}
    bits = "00 01 00 10 01 01 10 00 01 10 0000".replace(" ", "")
    assert encoded.section[8:] == int(bits, 2).to_bytes(3, "big")


@pytest.mark.parametrize("allow_huffman", [True, False])
@pytest.mark.parametrize("density", [0.002, 0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9, 0.99, 1.0])
def test_the_smaller_layout_is_taken(density, allow_huffman):
    values, codebook = shared_tensor((60, 70), density, 8)
    info = encode_coded(values, DType.FLOAT32, codebook, "huffman" if allow_huffman else "fixed").info
    flat = values.reshape(-1).view(np.uint32)
    symbols = np.zeros(flat.size, dtype=np.uint16)
    for number, entry in enumerate(codebook.view(np.uint32).tolist()):
        symbols[flat == entry] = number + 1
    positions = np.flatnonzero(flat)
    gap = offsets.gaps(positions)
    dense = streams.encode(symbols, 9, allow_huffman).size
    sparse = min(
        streams.encode(offsets.to_symbols(gap, bits), 1 << bits, allow_huffman).size for bits in range(1, 13)
    ) + (streams.encode(symbols[positions] - 1, 8, allow_huffman).size if len(positions) else 0)
    assert isinstance(info.layout, Relative) == (sparse < dense)
    assert info.section - info.codebook == min(dense, sparse)
    if density <= 0.1:
        assert isinstance(info.layout, Relative)
    if 0.7 <= density < 1 and allow_huffman:
        assert isinstance(info.layout, Dense)


@settings(deadline=None)
@given(st.data(), st.sampled_from(FLOATS), st.integers(0, 40))
def test_no_tensor_is_ever_larger_than_raw(data, dtype, size):
    bits = data.draw(st.lists(st.integers(0, 255 << 8 * (dtype.storage.itemsize > 1)), min_size=size, max_size=size))
    values = of_bits(bits, (size,), dtype)
    distinct = np.unique(values.view(dtype.bits))
    for codebook in (None, distinct[distinct != 0].view(dtype.storage)):
        encoded = encode_coded(values, dtype, codebook)
        assert len(encoded.section) == encoded.info.section <= values.nbytes
        assert_same(values, decoded(encoded), dtype)


def test_more_centroids_than_weights_fall_back_to_plain():
    codebook = np.arange(1, 257, dtype=np.float32)
    values = np.zeros(20, dtype=np.float32)
    values[3] = 7
    encoded = encode_coded(values, DType.FLOAT32, codebook)
    assert encoded.info.encoding is Encoding.PLANES
    assert_same(values, decoded(encoded), DType.FLOAT32)


def test_everything_pruned():
    values = np.zeros((300, 784), dtype=np.float32)
    literal = encode_coded(values, DType.FLOAT32, None)
    assert (len(literal.section), literal.info.encoding, literal.info.nonzeros) == (0, Encoding.CODED, 0)
    assert_same(values, decoded(literal), DType.FLOAT32)
    shared = encode_coded(values, DType.FLOAT32, np.array([1, 2], dtype=np.float32))
    assert len(shared.section) <= 12  # 8 are the codebook, or constant planes
    assert_same(values, decoded(shared), DType.FLOAT32)


def test_an_empty_codebook():
    empty = np.zeros(0, dtype=np.float32)
    values = np.zeros(50, dtype=np.float32)
    encoded = encode_coded(values, DType.FLOAT32, empty)
    assert (encoded.info.encoding, encoded.section) == (Encoding.CODED, b"")
    assert_same(values, decoded(encoded), DType.FLOAT32)
    with pytest.raises(ValueError, match="a surviving weight is not in the codebook"):
        encode_coded(np.ones(3, dtype=np.float32), DType.FLOAT32, empty)


def test_a_constant_tensor():
    values = np.full((100, 100), 0.25, dtype=np.float32)
    encoded = encode_coded(values, DType.FLOAT32, np.array([0.25, 0.5], dtype=np.float32))
    assert encoded.section.hex() == "0000803e" + "0000003f" + "01"
    assert isinstance(encoded.info.layout, Dense)
    assert encoded.info.layout.stream_coder is Coder.CONSTANT
    assert_same(values, decoded(encoded), DType.FLOAT32)


def test_fewer_distinct_values_than_the_codebook_has():
    values, codebook = shared_tensor((50, 50), 0.3, 32, used=3)
    encoded = encode_coded(values, DType.FLOAT32, codebook)
    assert encoded.info.layout.codebook.count == 32
    assert_same(values, decoded(encoded), DType.FLOAT32)
    assert np.array_equal(decode_codebook(encoded.info, memoryview(encoded.section)), codebook.view(np.uint32))


@pytest.mark.parametrize("density", [0.5, 1.0])
def test_the_largest_codebook(density):
    values, codebook = shared_tensor((100, 200), density, MAX_CODEBOOK)
    encoded = encode_coded(values, DType.FLOAT32, codebook)
    assert (encoded.info.encoding, encoded.info.codebook) == (Encoding.CODED, 4 * 4096)
    assert_same(values, decoded(encoded), DType.FLOAT32)


def test_the_largest_symbol_of_the_format_in_lanes():
    codebook = np.arange(1, MAX_CODEBOOK + 1, dtype=np.float32)
    values = np.full(1 << 17, float(MAX_CODEBOOK), dtype=np.float32)
    values[: 3 * MAX_CODEBOOK : 3] = codebook
    values[1] = 0
    encoded = encode_coded(values, DType.FLOAT32, codebook)
    layout = encoded.info.layout
    assert isinstance(layout, Dense)
    assert (layout.stream_coder, layout.alphabet) == (Coder.HUFFMAN, 4097)
    assert_same(values, decoded(encoded), DType.FLOAT32)


def test_the_deepest_tree():
    codebook = np.arange(1, len(FIBONACCI) + 1, dtype=np.float32)
    values = np.random.default_rng(0).permutation(np.repeat(codebook, FIBONACCI))
    encoded = encode_coded(values, DType.FLOAT32, codebook)
    assert isinstance(encoded.info.layout, Dense)
    assert encoded.info.layout.stream_coder is Coder.HUFFMAN
    assert_same(values, decoded(encoded), DType.FLOAT32)


def test_long_gaps_need_fillers():
    values = np.zeros(100_000, dtype=np.float32)
    values[[0, 9_000, 99_999]] = 1
    for coder in CODERS:
        encoded = encode_coded(values, DType.FLOAT32, np.ones(1, dtype=np.float32), coder)
        layout = encoded.info.layout
        assert isinstance(layout, Adaptive) or layout.offsets.fillers > 0
        assert_same(values, decoded(encoded), DType.FLOAT32)


def test_a_codebook_that_an_earlier_tensor_stores():
    values, codebook = shared_tensor((40, 40), 0.2, 16)
    own = encode_coded(values, DType.FLOAT32, codebook)
    shared = encode_coded(values, DType.FLOAT32, codebook, target=3)
    assert (shared.info.codebook, shared.info.layout.codebook) == (0, SharedCodebook(owner=3, count=16))
    assert own.section == codebook.tobytes() + shared.section
    assert_same(values, decoded(shared, codebook.view(np.uint32)), DType.FLOAT32)


@pytest.mark.parametrize("missing", [0.3, -1.0, 9.0])
def test_a_weight_that_is_not_in_the_codebook(missing):
    values = np.array([0, 0.5, missing], dtype=np.float32)
    with pytest.raises(ValueError, match="a surviving weight is not in the codebook"):
        encode_coded(values, DType.FLOAT32, np.array([0.5, 0.25], dtype=np.float32))


def test_the_same_tensor_gives_the_same_bytes_and_is_not_changed():
    values, codebook = shared_tensor((60, 60), 0.2, 16)
    before = values.tobytes()
    first = encode_coded(values, DType.FLOAT32, codebook)
    assert encode_coded(values.copy(order="F"), DType.FLOAT32, codebook) == first
    assert encode_coded(values.astype(">f4"), DType.FLOAT32, codebook.astype(">f4")) == first
    assert values.tobytes() == before


def test_the_result_can_be_written_to_and_owns_its_memory():
    values, codebook = shared_tensor((20, 20), 0.3, 4)
    for encoded in (encode_plain(values, DType.FLOAT32), encode_coded(values, DType.FLOAT32, codebook)):
        result = decoded(encoded)
        assert result.flags.writeable
        result += 1
        assert_same(values, decoded(encoded), DType.FLOAT32)


# Damaged sections ------------------------------------------------------------------------------------------


@pytest.fixture
def sparse():
    values = np.zeros(32, dtype=np.float32)
    values[[6, 13, 27]] = [3.0, 0.5, 3.0]
    return encode_coded(values, DType.FLOAT32, np.array([0.5, 3.0], dtype=np.float32), "fixed")


@pytest.mark.parametrize("codebook", [[0.5, 0.5], [0.0, 0.5], [0.5, 0.0]])
def test_codebooks_are_distinct_and_without_zero(sparse, codebook):
    section = np.array(codebook, dtype=np.float32).tobytes() + sparse.section[8:]
    with pytest.raises(FormatError, match="a codebook holds a value twice, or a zero"):
        decode(sparse.info, memoryview(section))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nonzeros": 2, "offsets": {"fillers": 2}}, "padding of a fixed-width stream is not zero"),
        ({"nonzeros": 4, "offsets": {"fillers": 0}}, "offsets place 3 weights, but 4 were announced"),
        ({"offsets": {"fillers": 3}}, "6 symbols of 3 bits do not make 2 bytes"),
        ({"offsets": {"stream_coder": Coder.NONE, "length": 0}, "length": 3}, "4 symbols is marked NONE"),
        ({"stream_coder": Coder.NONE}, "a NONE stream has 1 bytes"),
        ({"tables": 1, "offsets": {"length": 1}}, "do not make 1 bytes"),
    ],
)
def test_facts_that_do_not_fit_the_section_are_refused(sparse, changes, message):
    with pytest.raises(FormatError, match=message):
        decode(with_fields(sparse, **changes), memoryview(sparse.section))


def test_a_layout_that_does_not_fit_the_section_is_refused(sparse):
    literal = replace(sparse.info, layout=Literal(*vars(sparse.info.layout).values()))
    for wrong, message in ((literal, "3 literal weights do not make 1"), (replace(sparse.info, shape=(15,)), "beyond")):
        with pytest.raises(FormatError, match=message):
            decode(wrong, memoryview(sparse.section))


def test_bytes_left_in_the_tables_are_refused(sparse):
    section = sparse.section[:8] + b"\0" + sparse.section[8:]
    with pytest.raises(FormatError, match="tables: 1 unexpected bytes at its end"):
        decode(with_fields(sparse, tables=1), memoryview(section))


def test_literal_zeros_are_refused():
    values = np.zeros(100, dtype=np.float32)
    values[[3, 50]] = 1
    encoded = encode_coded(values, DType.FLOAT32, None)
    damaged = encoded.section[:-4] + bytes(4)
    with pytest.raises(FormatError, match="a literal weight is zero"):
        decode(encoded.info, memoryview(damaged))


def test_a_dense_layout_must_have_as_many_weights_as_it_says():
    values = np.array([0, 1, 0, 2, 1, 1, 2, 0, 1, 2], dtype=np.float32)
    encoded = encode_coded(values, DType.FLOAT32, np.array([1, 2], dtype=np.float32))
    with pytest.raises(FormatError, match="7 weights are not zero, but 6 were announced"):
        decode(replace(encoded.info, layout=replace(encoded.info.layout, nonzeros=6)), memoryview(encoded.section))


# Memory ----------------------------------------------------------------------------------------------------


def peak_of_decoding(encoded):
    tracemalloc.start()
    try:
        decoded(encoded)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "encoded",
    [
        encode_coded(np.full(1 << 22, 1, np.float32), DType.FLOAT32, np.ones(1, np.float32)),
        encode_coded(np.full(1 << 22, 1, np.float16), DType.FLOAT16, np.ones(1, np.float16)),
        encode_plain(np.full(1 << 22, 1, np.float32), DType.FLOAT32),
        encode_plain(np.full(1 << 22, 1, np.uint8), DType.UINT8),
        encode_coded(np.zeros(1 << 22, np.float32), DType.FLOAT32, np.ones(1, np.float32)),
    ],
    ids=["dense", "dense fp16", "planes", "planes uint8", "pruned"],
)
def test_decoding_takes_little_more_than_the_result(monkeypatch, encoded):
    # A few bytes may rightly describe a large constant tensor: what they cost must stay near what they claim.
    monkeypatch.setattr(offsets, "CHUNK", 1 << 16)
    assert len(encoded.section) < 100
    assert peak_of_decoding(encoded) < 2.1 * encoded.info.nbytes + (2 << 20)


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("density", [0.05, 0.6])
def test_survivors_are_the_weights_by_position_and_index(coder, density):
    rng = np.random.default_rng(0)
    book = np.float32([0.5, -1, 3, -0.0625])
    values = np.where(rng.random((30, 40)) < density, book[rng.integers(0, 4, (30, 40))], np.float32(0))
    encoded = encode_coded(values, DType.FLOAT32, book, coder)
    assert encoded.info.is_shared
    found = decode_survivors(encoded.info, memoryview(encoded.section))
    assert found.positions.tolist() == np.flatnonzero(values).tolist()
    assert set(found.codebook.view(np.float32).tolist()) == set(book.tolist())
    assert np.array_equal(found.codebook[found.indices].view(np.float32), values[values != 0])
    elsewhere = decode_codebook(encoded.info, memoryview(encoded.section))
    again = decode_survivors(encoded.info, memoryview(encoded.section), elsewhere)
    assert np.array_equal(again.indices, found.indices)


def test_plain_and_literal_tensors_have_no_survivors():
    assert not encode_plain(np.ones((3, 3), dtype=np.float32), DType.FLOAT32).info.is_shared
    literal = np.zeros(99, dtype=np.float32)
    literal[9] = 0.1
    literal = encode_coded(literal, DType.FLOAT32, None).info
    assert isinstance(literal.layout, Literal)
    assert not literal.is_shared


def test_look_up_across_chunks(monkeypatch):
    monkeypatch.setattr(offsets, "CHUNK", 7)
    entries = np.array([3, 5, 9], dtype=np.uint16)
    symbols = np.random.default_rng(0).integers(0, 3, 50).astype(np.uint8)
    assert look_up(entries, symbols).tolist() == [[3, 5, 9][symbol] for symbol in symbols.tolist()]
