"""Format version 2: its golden file, its short headers, and what its reader refuses."""

import hashlib
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import plain_reader
import pytest
from crafting import crc, text, varint
from hypothesis import given
from hypothesis import strategies as st

from deepcompress.coding.adaptive.codec import Scan
from deepcompress.coding.encoder import alias, encode_coded, encode_plain
from deepcompress.coding.forms import Form
from deepcompress.coding.layouts.adaptive import Adaptive
from deepcompress.coding.tensors import DType, Encoding
from deepcompress.container import deflate
from deepcompress.container.breakdown import inspect
from deepcompress.container.entries import UNCHECKED
from deepcompress.container.reader import ModelFile
from deepcompress.container.writer import pack
from deepcompress.errors import FormatError

GOLDEN = Path(__file__).parent.parent / "golden" / "v2-small.dc"
GRID = np.float32(0.1) * np.array([-3, -2, -1, 1, 2, 3], dtype="<f4")
MASKED = np.float32(2.0**-40) * np.array([-4, -1, 2], dtype="<f4")
HALF = np.array([-1.5, 0.5, 7.375, 1000], dtype="<f4")
ODD = np.array([-0.3, 0.77, 0.9], dtype="<f4")


def spread(shape, book, every):
    """Values of `book` at places that a linear congruence gives, about one of `every`."""
    draws = np.arange(np.prod(shape, dtype=int), dtype=np.uint64) * 2_654_435_761 % (1 << 32) >> np.uint64(8)
    picked = np.asarray(book)[(draws // np.uint64(every) % np.uint64(len(book))).astype(int)]
    return np.where(draws % np.uint64(every) == 0, picked, np.zeros(1, picked.dtype)).reshape(shape)


CONV, WIDE, FLAT = spread((6, 4, 3, 3), GRID, 4), spread((40, 64), MASKED, 9), spread((90,), HALF, 3)
FULL, BF16 = spread((12, 9), ODD, 1), spread((20, 8), np.array([0x3F80, 0xBF80], "<u2"), 5)
TENSORS = {
    "conv.weight": (CONV, DType.FLOAT32, encode_coded(CONV, DType.FLOAT32, GRID, "ans")),
    "conv.bias": (b := np.full(6, 0.1, "<f4"), DType.FLOAT32, encode_plain(b, DType.FLOAT32, compact=True)),
    "wide.weight": (WIDE, DType.FLOAT32, encode_coded(WIDE, DType.FLOAT32, MASKED, "ans")),
    "flat": (FLAT, DType.FLOAT32, encode_coded(FLAT, DType.FLOAT32, HALF, "ans")),
    "full.weight": (FULL, DType.FLOAT32, encode_coded(FULL, DType.FLOAT32, ODD, "ans")),
    "full.tied": (FULL, DType.FLOAT32, alias(FULL.shape, DType.FLOAT32, 4)),
    "second.weight": (b := CONV[::-1].copy(), DType.FLOAT32, encode_coded(b, DType.FLOAT32, GRID, "ans", target=0)),
    "bf16.weight": (BF16, DType.BFLOAT16, encode_coded(BF16, DType.BFLOAT16, np.unique(BF16)[1:], "ans")),
    "streams": (b := spread((300,), GRID, 2), DType.FLOAT32, encode_coded(b, DType.FLOAT32, GRID, "huffman", target=0)),
    "steps": (b := np.array(3, "<i8"), DType.INT64, encode_plain(b, DType.INT64, compact=True)),
}  # fmt: skip


def content(tensors):
    return {name: (values.tobytes(), values.shape, dtype) for name, (values, dtype, _) in tensors.items()}


def packed(tensors, *labels):
    return pack([(name, encoded) for name, (_, _, encoded) in tensors.items()], *labels)


def test_the_golden_file_is_what_the_writer_makes():
    assert packed(TENSORS, "golden", "digits") == GOLDEN.read_bytes(), "version 2 changed: that needs a new version"


def test_both_readers_read_the_golden_file(load):
    assert load(GOLDEN.read_bytes()) == content(TENSORS)
    values, facts = plain_reader.read(GOLDEN.read_bytes())
    expected = {name: (int(dtype), array.shape, array.tobytes()) for name, (array, dtype, _) in TENSORS.items()}
    assert values == expected
    assert (facts.network, facts.data) == ("golden", "digits")


def test_the_golden_file_has_what_is_new():
    infos = [encoded.info for _, _, encoded in TENSORS.values()]
    mixed = [info.layout for info in infos if isinstance(info.layout, Adaptive)]
    assert {layout.form for layout in mixed} >= {Form.ENTRIES, Form.HALVES, Form.GRID, Form.GRID_BFLOAT}
    assert {layout.target for layout in mixed} == {None, 0}
    assert {layout.scan.by_column for layout in mixed} == {False, True}
    assert any(layout.scan.side for layout in mixed)
    assert {info.encoding for info in infos} == {Encoding.CODED, Encoding.CONSTANT, Encoding.ALIAS, Encoding.RAW}


@cache
def large():
    values = spread((1000, 1900), GRID, 6)
    return {"w": (values, DType.FLOAT32, encode_coded(values, DType.FLOAT32, GRID, "ans"))}


def test_a_large_file_has_a_checksum_for_each_section(load, save):
    tensors = large() | {"bias": TENSORS["conv.bias"], "b": TENSORS["flat"]}
    file = packed(tensors)
    assert len(file) > UNCHECKED
    assert file[4] & 2
    assert load(file) == content(tensors)
    digest = hashlib.sha256(file).hexdigest()
    assert digest == "c4f0856b73bec6000f29d92a1fa86fd6350a83d3561b454b22f6d895087249dc"
    broken = bytearray(file)
    broken[-20] ^= 1  # the last section, that of b
    with ModelFile(save(bytes(broken))) as opened:
        opened.read("w")
        with pytest.raises(FormatError, match="checksum of its section"):
            opened.read("b")


def test_the_parts_add_up(save):
    for tensors in (TENSORS, large()):
        file = packed(tensors)
        found = inspect(save(file))
        assert sum(found.sections.values()) == len(file) == found.file_bytes
        assert found.format_version == 2
        for layer in found.layers:
            assert sum(layer.parts.values()) == layer.bytes
    layers = {layer.name: layer for layer in inspect(save(packed(TENSORS))).layers}
    assert (layers["conv.weight"].coder, layers["conv.weight"].book) == ("ans", "grid")
    assert (layers["second.weight"].coder, layers["second.weight"].book) == ("ans", "")
    assert (layers["conv.bias"].kind, layers["conv.bias"].bytes) == ("constant", 4)


def test_the_header_of_a_small_network_takes_few_bytes(save):
    shapes = {"conv1": (20, 1, 5, 5), "conv2": (50, 20, 5, 5), "fc1": (500, 800), "fc2": (10, 500)}
    tensors = []
    for name, shape in shapes.items():
        weight, bias = spread(shape, GRID, 50), spread(shape[:1], GRID, 3)
        tensors.append((f"{name}.weight", encode_coded(weight, DType.FLOAT32, GRID, "ans")))
        tensors.append((f"{name}.bias", encode_coded(bias, DType.FLOAT32, GRID, "ans")))
    sections = inspect(save(pack(tensors, "lenet5", "mnist"))).sections
    assert sections["header"] + sections["checksum"] < 100


def test_version_1_is_written_where_it_suffices():
    plain = {"b": encode_plain(np.ones(5, "<f4"), DType.FLOAT32), "w": encode_coded(CONV, DType.FLOAT32, GRID)}
    assert pack(plain.items())[3] == 1
    assert pack((plain | {"c": TENSORS["conv.bias"][2]}).items())[3] == 2


# Damage ----------------------------------------------------------------------------------------------------


def test_every_truncation_and_every_flipped_bit_is_found(load):
    file = GOLDEN.read_bytes()
    for end in range(len(file)):
        with pytest.raises(FormatError):
            load(file[:end])
    with pytest.raises(FormatError):
        load(file + b"\0")
    for bit in range(8 * len(file)):
        changed = bytearray(file)
        changed[bit >> 3] ^= 1 << (bit & 7)
        with pytest.raises(FormatError):
            ModelFile(bytes(changed))


def test_flips_with_the_checksum_made_right_are_tensors_or_errors(load):
    file = GOLDEN.read_bytes()[:-4]
    refused = 0
    for bit in range(32, 8 * len(file), 7):
        changed = bytearray(file)
        changed[bit >> 3] ^= 1 << (bit & 7)
        try:
            load(bytes(changed) + crc(changed), max_bytes=1 << 20)
        except FormatError:
            refused += 1
    assert refused > 100


def craft(names, records, sections=b"", flags=0, count=None):
    """A file of version 2 with these names and records."""
    header = text("") + text("") + b"\0" + varint(len(names) if count is None else count)
    header += b"".join(name + b"\n" for name in names) + b"".join(records)
    start = b"\x89DC\x02" + bytes([flags]) + varint(len(header)) + header
    return start + sections + crc(start + sections)


def adaptive(shape=(4, 4), dtype=0, flags=0, k=2, form=2, steps=(1, 2), n=1, side=None, length=0):
    record = bytes([len(shape) << 4 | dtype, flags << 4 | 5]) + b"".join(map(varint, shape)) + varint(k) + varint(form)
    record += b"".join(map(varint, steps)) + varint(n) + (b"" if side is None else varint(side))
    return record + varint(length)


SCALE = np.float32(0.5).tobytes()


def test_a_crafted_file_is_read(load):
    # Multiples -1 to 1: the one weight is in the last place, for the stream has no bytes.
    found = load(craft([b"w"], [adaptive()], SCALE))
    assert np.frombuffer(found["w"][0], "<f4").tolist() == [0] * 15 + [-0.5]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (adaptive(dtype=4), "a codebook of INT8 stored as GRID"),
        (adaptive(dtype=1), "a codebook of FLOAT16 stored as GRID"),
        (adaptive(dtype=12), "dtype 12 is unknown"),
        (adaptive(flags=4), "flags 4"),
        (adaptive(shape=(16,), flags=1), "flags 1"),
        (adaptive(flags=2, side=1), "planes of side 1"),
        (adaptive(flags=2, side=3), "does not fit the scan"),
        (adaptive(k=0, n=0), "0 values"),
        (adaptive(k=3), "3 values from -1 to 1"),
        (adaptive(steps=(2, 1)), "2 values from 1 to -1"),
        (adaptive(steps=(1 << 17, 1 << 18)), "times the scale"),
        (adaptive(k=5000), "size of the codebook is 5000"),
        (adaptive(form=5), "codebook form 5 is unknown"),
        (adaptive(form=8), "the codebook of tensor 0, which does not come before it"),
        (adaptive(k=0, form=0, steps=()), "1 weights, but no codebook"),
        (adaptive(n=17), "number of weights is 17"),
        (adaptive(length=100), "larger than the raw 64"),
        (adaptive(length=5), "the header describes a file of"),
        (b"\x90\x00" + bytes(9), "9 dimensions"),
        (b"\x10\x06\x02", "layout 6 or dtype 0 is unknown"),
        (b"\x10\x10\x02", "flags 1"),
        (b"\x10\x04\x01", "1 elements stored as a constant"),
        (b"\x10\x03\x01\x00", "an alias of tensor 0, which does not come before it"),
        (b"\x10\x02\x09\x00\x00\x00\x00\x05\x00\x00", "coder 5 is unknown"),
    ],
)
def test_records_that_contradict_themselves(load, record, message):
    with pytest.raises(FormatError, match=message):
        load(craft([b"w"], [record], SCALE))


@pytest.mark.parametrize("name", [b"", b"a" * 513, b"\xff", b"a\x1b"])
def test_names_that_are_refused(load, name):
    with pytest.raises(FormatError, match="name"):
        load(craft([name], [adaptive()], SCALE))
    with pytest.raises(FormatError, match="there twice"):
        load(craft([b"w", b"w"], [adaptive(), adaptive()], 2 * SCALE))


def test_starts_that_are_refused(load):
    with pytest.raises(FormatError, match="flags 4 of the file are unknown"):
        load(craft([], [], flags=4))
    with pytest.raises(FormatError, match="has no checksums but that of the file"):
        load(craft([b"w"], [b"\x10\x00" + varint(1 << 14)], bytes(1 << 16)))
    with pytest.raises(FormatError, match="number of tensors is 262145"):
        load(craft([], [], count=(1 << 18) + 1))


def deflated(header, packed, inflated=None):
    start = b"\x89DC\x02\x01" + varint(len(packed)) + varint(len(header) if inflated is None else inflated) + packed
    return start + crc(start)


def test_a_header_that_inflates_to_something_else_is_refused(load):
    header = text("") + text("") + b"\0\0"
    packed_header = deflate.compress(header)
    assert load(deflated(header, packed_header)) == {}
    for wrong in (packed_header[:-1], packed_header + b"\0", b"\x07" + packed_header, b""):
        with pytest.raises(FormatError):
            load(deflated(header, wrong))
    for size in (0, len(header) - 1, len(header) + 1, 4096, 4097):
        with pytest.raises(FormatError):
            load(deflated(header, packed_header, size))
    with pytest.raises(FormatError, match="a deflated header of 0 bytes"):
        load(deflated(header, header, 0))  # not deflated at all: earlier releases read it
    bomb = zlib.compress(bytes(1 << 24), 9)[2:-4]
    with pytest.raises(FormatError, match="does not have the length that is announced"):
        load(deflated(header, bomb, 4096))


@given(
    st.binary(max_size=300)
    | st.lists(st.sampled_from([b"conv1.weight\n", b"layer2.0.", b"x", b"\0\0\0"])).map(b"".join)
)
def test_deflate_is_read_by_zlib(data):
    packed_data = deflate.compress(data)
    assert deflate.expand(packed_data, len(data)) == data
    best = zlib.compressobj(9, wbits=-15, zdict=deflate.DICTIONARY, strategy=zlib.Z_FIXED)
    assert len(packed_data) <= len(best.compress(data) + best.flush())


def test_a_small_file_is_held(save):
    path = save(GOLDEN.read_bytes())
    with ModelFile(path) as file:
        path.write_bytes(b"something else")
        assert file.read("flat")[0].tobytes() == FLAT.tobytes()
        file.check()
    assert TENSORS["wide.weight"][2].info.layout.scan != Scan(side=3)
