"""Files that earlier releases wrote are read for ever, and the bytes of version 1 do not change."""

import hashlib
import re
from pathlib import Path

import numpy as np
import plain_reader
import pytest
from crafting import header_of

from deepcompress.coding.dtypes import DType
from deepcompress.coding.encoder import alias, encode_coded, encode_plain
from deepcompress.coding.layouts.dense import Dense, Streams
from deepcompress.coding.layouts.exact import Planes, Raw
from deepcompress.coding.layouts.references import Alias
from deepcompress.coding.layouts.relative import Literal, Relative
from deepcompress.coding.streams import Coder
from deepcompress.container.writer import pack

ROOT = Path(__file__).parent.parent.parent
GOLDEN = ROOT / "tests" / "golden" / "v1-small.dc"
BOOK = np.array([-1.5, -0.25, 0.25, 2.0], dtype="<f4")


def placed(shape, dtype, values):
    """A tensor of zeros but for `values`: position in the flattened tensor -> value."""
    out = np.zeros(shape, dtype=dtype)
    for position, value in values.items():
        out.reshape(-1)[position] = value
    return out


CONV = placed((4, 3, 3, 3), "<f4", {5: 2, 7: -1.5, 8: 0.25, 30: 0.25, 31: -0.25, 77: 2, 106: 0.25})
FC = np.array([BOOK[i * i % 4] if i % 5 else 0 for i in range(120)], dtype="<f4").reshape(10, 12)
LONG = placed((16, 16), "<f4", {4 * i + i % 2: -1.5 if i % 8 == 3 else 0.25 for i in range(64)})
LITERAL = placed((7, 9), "<f2", {1: 1.5, 40: -0.125, 62: 65504})
ONES = np.ones((2, 40), dtype="<f8")
TENSORS = {
    "conv.weight": (CONV, DType.FLOAT32, encode_coded(CONV, DType.FLOAT32, BOOK)),
    "conv.bias": (b := np.array([0.5] * 11 + [-1], "<f4"), DType.FLOAT32, encode_plain(b, DType.FLOAT32)),
    "fc.weight": (FC, DType.FLOAT32, encode_coded(FC, DType.FLOAT32, BOOK, target=0)),
    "fc.tied": (FC, DType.FLOAT32, alias(FC.shape, DType.FLOAT32, 2)),
    "long.weight": (LONG, DType.FLOAT32, encode_coded(LONG, DType.FLOAT32, BOOK, target=0)),
    "literal.weight": (LITERAL, DType.FLOAT16, encode_coded(LITERAL, DType.FLOAT16, None)),
    "fixed.weight": (LONG, DType.FLOAT32, encode_coded(LONG, DType.FLOAT32, BOOK, "fixed")),
    "full.weight": (b := np.tile(BOOK, 40), DType.FLOAT32, encode_coded(b, DType.FLOAT32, BOOK, target=0)),
    "ones": (ONES, DType.FLOAT64, encode_coded(ONES, DType.FLOAT64, ONES[0, :1])),
    "pruned": (z := np.zeros((30, 30), "<u2"), DType.BFLOAT16, encode_coded(z, DType.BFLOAT16, None)),
    "bfloat16": (b := np.array([0x3F80, 0x8000, 0x7FC1], "<u2"), DType.BFLOAT16, encode_plain(b, DType.BFLOAT16)),
    "int8": (b := np.array([[-128, 127]], "|i1"), DType.INT8, encode_plain(b, DType.INT8)),
    "uint8": (b := np.array([255, 0], "|u1"), DType.UINT8, encode_plain(b, DType.UINT8)),
    "int16": (b := np.array([-2, 3], "<i2"), DType.INT16, encode_plain(b, DType.INT16)),
    "int32": (b := np.array([-2, 3], "<i4"), DType.INT32, encode_plain(b, DType.INT32)),
    "int64": (b := np.array(1234567890123, "<i8"), DType.INT64, encode_plain(b, DType.INT64)),
    "bool": (b := np.array([True, False, True]), DType.BOOL, encode_plain(b, DType.BOOL)),
    "größe": (b := np.zeros((0, 3), "<f4"), DType.FLOAT32, encode_plain(b, DType.FLOAT32)),
}


def test_the_golden_file_is_what_the_writer_makes():
    made = pack([(name, encoded) for name, (_, _, encoded) in TENSORS.items()], "golden", "digits")
    assert made == GOLDEN.read_bytes(), "the bytes of format version 1 changed: that needs a new version"


@pytest.mark.parametrize("name", TENSORS)
def test_the_golden_file_is_read_bit_for_bit(load, name):
    values, dtype, _ = TENSORS[name]
    assert values.dtype == dtype.storage
    loaded = load(GOLDEN.read_bytes())
    assert list(loaded) == list(TENSORS)
    assert loaded[name] == (values.tobytes(), values.shape, dtype)


def test_the_plain_reader_reads_the_golden_file():
    values, facts = plain_reader.read(GOLDEN.read_bytes())
    assert values == {name: (int(dtype), array.shape, array.tobytes()) for name, (array, dtype, _) in TENSORS.items()}
    assert (facts.network, facts.data) == ("golden", "digits")


def test_the_golden_file_has_everything_that_the_format_has():
    header = header_of(GOLDEN.read_bytes())
    infos = [entry.info for entry in header.entries]
    assert {type(info.layout) for info in infos} == {Raw, Planes, Dense, Relative, Literal, Alias}
    assert {info.dtype for info in infos} == set(list(DType)[:10])
    coded = [info.layout for info in infos if isinstance(info.layout, Streams)]
    offsets = [layout.offsets for layout in coded if isinstance(layout, Relative)]
    assert {layout.stream_coder for layout in coded} == set(Coder)
    assert {facts.stream_coder for facts in offsets} == set(Coder) - {Coder.LITERAL}
    assert {layout.target for layout in coded} == {None, 0}
    assert any(facts.fillers for facts in offsets)


def test_the_bytes_of_lanes_do_not_change_either():
    # Values 1 to 5 of geometrically falling number, in an order that a linear congruence gives.
    draws = np.arange(140_000, dtype=np.uint64) * 2_654_435_761 % (1 << 32)
    values = np.select([draws < 1 << bits for bits in (28, 29, 30, 31)], [5.0, 4.0, 3.0, 2.0], 1.0).astype("<f4")
    encoded = encode_coded(values, DType.FLOAT32, np.array([1, 2, 3, 4, 5], dtype="<f4"))
    assert isinstance(encoded.info.layout, Dense)
    assert encoded.info.layout.stream_coder is Coder.HUFFMAN
    digest = hashlib.sha256(pack([("w", encoded)])).hexdigest()
    assert digest == "c5c1a007d50fee1b42d6c319ad97fc1f9f0c0c8faf24727df61ac06a24a001ac"


def test_the_plain_reader_reads_the_example_of_the_documentation():
    text = (ROOT / "docs" / "format.md").read_text(encoding="utf-8")
    dump = "".join(re.findall(r"^[0-9a-f]{4}  ([0-9a-f ]+)$", text.split("\n### ")[0], re.MULTILINE))
    values, facts = plain_reader.read(bytes.fromhex(dump))
    assert (facts.network, facts.data, list(values)) == ("", "digits", ["fc.weight", "fc.bias", "steps"])
    weight = np.frombuffer(values["fc.weight"][2], dtype="<f4")
    assert (values["fc.weight"][:2], np.count_nonzero(weight)) == ((0, (16, 16)), 64)
    assert set(weight.tolist()) == {0, -1, 0.25, 0.5}
    assert values["fc.bias"] == (0, (16,), np.array([0.5] * 15 + [-1], dtype="<f4").tobytes())
    assert values["steps"] == (8, (), (3).to_bytes(8, "little"))
