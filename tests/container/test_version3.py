"""Format version 3: its golden file, its dtypes and layouts, when it is written, and what its reader refuses."""

import re
from pathlib import Path

import numpy as np
import plain_reader
import pytest
from crafting import crc, text, varint

from deepcompress.coding import planes
from deepcompress.coding.encoder import WORTH, alias, encode_coded, encode_plain
from deepcompress.coding.layouts.exact import Rows
from deepcompress.coding.layouts.references import Copy
from deepcompress.coding.tensors import DType, EncodedTensor, Encoding, TensorInfo
from deepcompress.container.breakdown import inspect
from deepcompress.container.reader import ModelFile
from deepcompress.container.writer import pack
from deepcompress.errors import FormatError

ROOT = Path(__file__).parent.parent.parent
GOLDEN = ROOT / "tests" / "golden" / "v3-small.dc"


def drawn(size, limit):
    """Integers below `limit` that a linear congruence gives."""
    return np.arange(size, dtype=np.uint64) * np.uint64(2_654_435_761) % np.uint64(1 << 32) >> np.uint64(7) & np.uint64(
        limit - 1
    )


def embedding():
    """Rows of four kinds: trained, exactly half precision, exactly bfloat16, constant."""
    rows = ((drawn(80 * 60, 1 << 20).astype("<f8") - (1 << 19)) / 3e7).astype("<f4").reshape(80, 60)
    rows[1::4] = rows[1::4].astype("<f2")
    rows[2::8].view("<u4")[:] &= 0xFFFF0000
    rows[3::4] = rows[3::4, :1]
    return rows


ROWS = embedding()
NOISE = drawn(1300, 256).astype("|u1").reshape(13, 100)
SPARSE = np.where(drawn(900, 8) == 0, np.array([0x38, 0xB8, 0x80], "|u1")[drawn(900, 2).astype(int)], 0).astype("|u1")
BOOK = np.array([0x38, 0xB8], "|u1")
RAW = {
    dtype: drawn(6 * dtype.storage.itemsize, 256).astype("|u1").view(dtype.storage).reshape(2, 3)
    for dtype in list(DType)[10:]
}
TENSORS = {
    **{f"{dtype.name.lower()}": (values, dtype, encode_plain(values, dtype)) for dtype, values in RAW.items()},
    "rows": (ROWS, DType.FLOAT32, encode_plain(ROWS, DType.FLOAT32)),
    "noise": (NOISE, DType.UINT8, encode_plain(NOISE, DType.UINT8)),
    "equal": (NOISE, DType.UINT8, encode_plain(NOISE, DType.UINT8)),
    "tied": (NOISE, DType.UINT8, alias(NOISE.shape, DType.UINT8, 14)),
    "huffman": (SPARSE, DType.FLOAT8_E4M3FN, encode_coded(SPARSE, DType.FLOAT8_E4M3FN, BOOK)),
    "ans": (SPARSE, DType.FLOAT8_E5M2FNUZ, encode_coded(SPARSE, DType.FLOAT8_E5M2FNUZ, BOOK, "ans")),
    "planes": (b := np.full(50, 1 - 2j, "<c16"), DType.COMPLEX128, encode_plain(b, DType.COMPLEX128)),
}  # fmt: skip


def packed(tensors, *labels):
    return pack([(name, encoded) for name, (_, _, encoded) in tensors.items()], *labels)


def content(tensors):
    return {name: (values.tobytes(), values.shape, dtype) for name, (values, dtype, _) in tensors.items()}


def test_the_golden_file_is_what_the_writer_makes():
    assert packed(TENSORS, "golden", "digits") == GOLDEN.read_bytes(), "version 3 changed: that needs a new version"


def test_both_readers_read_the_golden_file(load):
    assert load(GOLDEN.read_bytes()) == content(TENSORS)
    values, facts = plain_reader.read(GOLDEN.read_bytes())
    assert values == {name: (int(dtype), array.shape, array.tobytes()) for name, (array, dtype, _) in TENSORS.items()}
    assert (facts.network, facts.data) == ("golden", "digits")


def test_the_golden_file_has_what_is_new(save):
    with ModelFile(save(GOLDEN.read_bytes())) as file:
        infos = {entry.name: entry.info for entry in file.header.entries}
        assert file.header.version == 3
    assert {info.dtype for info in infos.values()} >= set(list(DType)[10:])
    assert infos["rows"].encoding is Encoding.ROWS
    assert (infos["equal"].encoding, infos["equal"].target) == (Encoding.COPY, 13)
    assert (infos["tied"].encoding, infos["tied"].target) == (Encoding.ALIAS, 14)
    assert infos["huffman"].encoding is infos["ans"].encoding is Encoding.CODED
    assert infos["planes"].encoding is Encoding.PLANES


def test_the_plain_reader_reads_the_example_of_the_documentation(load):
    section = (ROOT / "docs" / "format.md").read_text(encoding="utf-8").split("## 15.")[1].split("## 16.")[0]
    dump = bytes.fromhex("".join(re.findall(r"^[0-9a-f]{4}  ([0-9a-f ]+)$", section, re.MULTILINE)))
    rows = np.repeat(np.array([[0.5], [-1], [0]], "<f4"), 8, axis=1)
    rows[2] = np.arange(1, 9)
    weight, ids = np.array([[0x38, 0xB8], [0x7E, 0]], "|u1"), np.array([1, 40_000], "<u2")
    stored = planes.encode_rows(rows, DType.FLOAT32)
    made_of = {
        "embed": (rows, EncodedTensor(TensorInfo((3, 8), DType.FLOAT32, Rows(len(stored))), stored)),
        "head": (rows, EncodedTensor(TensorInfo((3, 8), DType.FLOAT32, Copy(0)), b"")),
        "w": (weight, encode_plain(weight, DType.FLOAT8_E4M3FN)),
        "ids": (ids, encode_plain(ids, DType.UINT16)),
    }
    tensors = {name: (values, encoded.info.dtype, encoded) for name, (values, encoded) in made_of.items()}
    assert packed(tensors) == dump
    assert len(dump) == 105
    assert load(dump) == content(tensors)
    assert plain_reader.read(dump)[0] == {n: (int(d), v.shape, v.tobytes()) for n, (v, d, _) in tensors.items()}


def test_the_parts_add_up(save):
    found = inspect(save(GOLDEN.read_bytes()))
    assert sum(found.sections.values()) == GOLDEN.stat().st_size
    layers = {layer.name: layer for layer in found.layers}
    assert (layers["equal"].bytes, layers["equal"].coder, layers["tied"].coder) == (0, "copy of noise", "same as equal")
    assert layers["equal"].dense_bytes == NOISE.nbytes  # a tensor of its own
    assert layers["tied"].dense_bytes == 0
    assert (layers["float8_e4m3fn"].dense_bytes, layers["float8_e8m0fnu"].dense_bytes) == (24, 6)


# When it is written ----------------------------------------------------------------------------------------


def version_of(*encoded):
    return pack([(f"layer{number}", tensor) for number, tensor in enumerate(encoded)])[3]


def test_older_versions_are_written_where_they_suffice():
    small = encode_plain(ROWS[:8, :8], DType.FLOAT32)
    assert version_of(small, small, encode_plain(NOISE, DType.UINT8)) == 1
    assert version_of(encode_plain(np.ones((70, 70), "<f4"), DType.FLOAT32, compact=True)) == 2
    assert version_of(encode_plain(NOISE[:1, :3], DType.FLOAT8_E5M2)) == 3


def test_rows_and_copies_must_be_worth_it():
    quarter = ROWS[:16]
    assert encode_plain(quarter, DType.FLOAT32).info.encoding is Encoding.PLANES
    short, long = (encode_plain(NOISE.reshape(-1)[:size], DType.UINT8) for size in (WORTH - 1, WORTH))
    assert version_of(short, short) == 1
    assert version_of(long, long) == 3


@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.FLOAT64, DType.FLOAT16, DType.INT32, DType.COMPLEX64])
def test_rows_of_any_dtype_are_smaller_and_exact(load, dtype):
    rng = np.random.default_rng(0)
    values = (1000 * rng.standard_normal((200, 30))).astype(dtype.storage)
    values[::2] = values[::2, :1]
    encoded = encode_plain(values, dtype)
    assert encoded.info.encoding is Encoding.ROWS
    assert encoded.info.section < 0.62 * values.nbytes
    assert load(pack([("w", encoded)]))["w"] == (values.tobytes(), values.shape, dtype)


def test_rows_of_half_precision_among_others():
    rng = np.random.default_rng(0)
    values = (0.04 * rng.standard_normal((1000, 64))).astype("<f4")
    plain = len(planes.encode(values.view("|u1").reshape(-1, 4)))
    assert planes.encode_rows(values, DType.FLOAT32) is None
    values[::2] = values[::2].astype("<f2")
    spoilt = len(planes.encode(values.view("|u1").reshape(-1, 4)))
    assert len(planes.encode_rows(values, DType.FLOAT32)) < 0.93 * spoilt < plain


def test_a_copy_of_the_owner_of_a_codebook(load):
    """A third tensor that shares the codebook of the second, which becomes a copy of the first, is still right."""
    rng = np.random.default_rng(0)
    book = np.array([-1, 0.5, 2], "<f4")
    first = book[rng.integers(0, 3, (60, 100))]
    third = book[rng.integers(0, 3, (9, 40))]
    tensors = {
        "a": (first, DType.FLOAT32, encode_coded(first, DType.FLOAT32, book)),
        "b": (first, DType.FLOAT32, encode_coded(first, DType.FLOAT32, book)),
        "c": (third, DType.FLOAT32, encode_coded(third, DType.FLOAT32, book, target=1)),
    }
    file = packed(tensors)
    assert list(plain_reader.read(file)[1].tensors.values())[1].layout == Copy.number
    assert load(file) == content(tensors)


def test_long_headers_have_short_names(load):
    tensors = {
        f"model.layers.{layer}.self_attn.{part}_proj.weight_scale": (NOISE[:1, :1], DType.FLOAT8_E8M0FNU, None)
        for layer in range(500)
        for part in ("q", "k", "v")
    }
    tensors = {name: (values, dtype, encode_plain(values, dtype)) for name, (values, dtype, _) in tensors.items()}
    file = packed(tensors)
    assert len(file) < 40 * 1500
    assert load(file) == content(tensors)
    assert list(plain_reader.read(file)[1])[-1] == "model.layers.499.self_attn.v_proj.weight_scale"


# Damage ----------------------------------------------------------------------------------------------------


def test_flips_with_the_checksum_made_right_are_tensors_or_errors(load):
    some = ("float8_e5m2", "uint16", "complex64", "huffman", "planes")
    mixed = encode_coded(SPARSE[:90], DType.FLOAT8_E5M2FNUZ, BOOK, "ans")  # short: it is decoded once a flip
    rows = planes.encode_rows(ROWS[:8, :12], DType.FLOAT32)
    info = TensorInfo((8, 12), DType.FLOAT32, Rows(len(rows)))
    plain = [(name, TENSORS[name][2]) for name in some]
    small = pack([*plain, ("ans", mixed), ("rows", EncodedTensor(info, rows))])[:-4]
    refused = 0
    for bit in range(32, 8 * len(small), 7):
        changed = bytearray(small)
        changed[bit >> 3] ^= 1 << (bit & 7)
        try:
            load(bytes(changed) + crc(changed), max_bytes=1 << 20)
        except FormatError:
            refused += 1
    assert refused > 100


def craft(records, sections=b""):
    """A file of version 3 with these records, its header not deflated; tensors are named by their numbers."""
    names = [b"\0" + text(f"{number}") for number in range(len(records))]
    header = text("") + text("") + b"\0" + varint(len(records)) + b"".join(names) + b"".join(records)
    start = b"\x89DC\x03" + b"\0" + varint(len(header)) + header
    return start + sections + crc(start + sections)


BYTE = b"\x1a\x00\x01"  # one float8_e4m3fn, raw
FLAT_KINDS = b"\x01\x01\x00"  # all rows are constant


def rows(length, shape=b"\x02\x02", dimensions=2, dtype=4):
    return bytes([dimensions << 4 | dtype, 6]) + shape + varint(length)


def test_a_crafted_file_is_read(load):
    found = load(craft([BYTE, b"\x1a\x07\x01\x00"], b"\x38"))
    assert found == {"0": (b"\x38", (1,), DType.FLOAT8_E4M3FN), "1": (b"\x38", (1,), DType.FLOAT8_E4M3FN)}


@pytest.mark.parametrize(
    ("records", "sections", "message"),
    [
        ([b"\x1f\x16\x00\x01"], b"\x00", "tensor 0: dtype 22 is unknown; known are 0 to 21; update"),
        ([b"\x1f\x0e\x00\x01"], b"\x00", "tensor 0: dtype 14 is not in its shortest form"),
        ([b"\x1a\x09\x01"], b"\x00", "tensor 0: layout 9 is unknown; known are 0 to 8; update"),
        ([b"\x1a\x0f\x10\x01"], b"\x00", "tensor 0: layout 16 is unknown"),
        ([b"\x1a\x0f\x07\x01"], b"\x00", "tensor 0: layout 7 is not in its shortest form"),
        ([b"\x1a\x10\x01"], b"\x00", "flags 1"),
        ([b"\x9a\x00" + bytes(9)], b"", "9 dimensions"),
        ([BYTE, b"\x1a\x07\x01\x01"], b"\x00", "a copy of tensor 1, which does not come before it"),
        ([BYTE, b"\x1b\x07\x01\x00"], b"\x00", "a copy of 0, which is not its like"),
        ([BYTE, b"\x1a\x07\x02\x00"], b"\x00", "a copy of 0, which is not its like"),
        ([BYTE, b"\x1a\x03\x01\x00", b"\x1a\x07\x01\x01"], b"\x00", "a copy of 1, which is not its like"),
        ([BYTE, b"\x1a\x07\x01\x00", b"\x1a\x07\x01\x01"], b"\x00", "a copy of 1, which is not its like"),
        ([BYTE, b"\x1a\x03\x01\x00", b"\x1a\x03\x01\x01"], b"\x00", "an alias of 1, which is not its like"),
        ([rows(1, b"\x04", 1)], b"\x00", r"a shape of \(4,\) stored by the kinds of its rows"),
        ([rows(0, b"\x00\x04")], b"", r"a shape of \(0, 4\) stored by the kinds"),
        ([rows(5)], bytes(5), "length of the section is 5, but at most 4"),
        ([b"\x2e\x02\x02\x02" + b"\x01\x00\x01\x00\x01\x00\x00"], bytes(1), "only floating-point tensors are coded"),
    ],
)  # fmt: skip
def test_records_that_contradict_themselves(load, records, sections, message):
    with pytest.raises(FormatError, match=message):
        load(craft(records, sections))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (b"", "coder needs 1 bytes"),
        (FLAT_KINDS, "coder needs 1 bytes"),
        (b"\x01\x01\x10", "constant symbol is 16"),
        (FLAT_KINDS + b"\x01\x01\x07\x00", "1 unexpected bytes at its end"),
        (b"\x02\x03\x00\x00\x00", "do not make 3 bytes"),
        (FLAT_KINDS + b"\x05\x00", "coder 5 is unknown"),
        (FLAT_KINDS + b"\x02\x04" + bytes(4), "2 symbols of 8 bits do not make 4 bytes"),
    ],
)
def test_sections_of_rows_that_are_refused(load, section, message):
    good = FLAT_KINDS + b"\x02\x02\x07\x09"
    assert load(craft([rows(len(good), b"\x02\x08")], good))["0"][0] == b"\x07" * 8 + b"\x09" * 8
    with pytest.raises(FormatError, match=message):
        load(craft([rows(len(section), b"\x02\x08")], section))


def test_rows_that_are_too_many_are_refused_before_they_are_decoded(load):
    huge = bytes([0x24, 6]) + varint(1 << 30) + b"\x01" + varint(6)
    with pytest.raises(FormatError, match=f"would take {1 << 30} bytes"):
        load(craft([huge], FLAT_KINDS + b"\x01\x01\x07"))


def test_booleans_in_rows_are_checked(load):
    good, bad = (FLAT_KINDS + b"\x01\x01" + bytes([value]) for value in (1, 2))
    assert load(craft([rows(6, b"\x02\x08", dtype=9)], good))["0"][0] == b"\x01" * 16
    with pytest.raises(FormatError, match="a boolean is stored as 2"):
        load(craft([rows(6, b"\x02\x08", dtype=9)], bad))


def test_older_readers_refuse_the_new_by_its_version(load):
    """What releases before version 3 look at first: a number that they do not know."""
    assert GOLDEN.read_bytes()[3] == 3
    older = bytearray(GOLDEN.read_bytes())
    older[3] = 2
    with pytest.raises(FormatError):
        load(bytes(older[:-4]) + crc(older[:-4]))
