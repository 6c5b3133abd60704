import re
import unicodedata
import zlib
from pathlib import Path

import numpy as np
import pytest
from crafting import around, craft, crc, header_of, shared_weights, tensor, text, varint
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcompress.coding.dtypes import DType
from deepcompress.coding.encoder import alias, encode_coded, encode_plain
from deepcompress.coding.layouts.exact import Raw
from deepcompress.coding.layouts.references import Alias
from deepcompress.coding.tensors import TensorInfo
from deepcompress.container.entries import Entry, Extension, Header, crc_bytes, is_printable
from deepcompress.container.format import header_span, pack_header, unpack_header
from deepcompress.container.writer import pack
from deepcompress.errors import FormatError

printable = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=12)


def test_crc_is_that_of_zlib_and_png():
    assert crc_bytes(b"123456789") == bytes.fromhex("2639f4cb")
    assert crc_bytes(b"1234", b"", memoryview(b"56789")) == crc_bytes(b"123456789")


def test_the_smallest_file_by_hand():
    data = pack([])
    start = bytes.fromhex("89444301" + "04" + "00000000")
    assert data == start + crc(start) + crc(start + crc(start))
    assert header_of(data) == Header("", "", (), (), size=13)


def test_a_header_by_hand():
    values = np.array([1, 2], dtype=np.int16)
    encoded = encode_plain(values, DType.INT16)
    header = pack([("a.b", encoded), ("a.c", encoded), ("a.d", alias(values.shape, DType.INT16, 1))], "net", "mnist")[
        :-12
    ]
    section = crc(bytes.fromhex("01000200")).hex()
    body = "03" + b"net".hex() + "05" + b"mnist".hex() + "00" + "03"
    body += "0003" + b"a.b".hex() + "06" + "0102" + section
    body += "0201" + b"c".hex() + "06" + "0102" + section
    body += "0201" + b"d".hex() + "36" + "0102" + "01"
    start = bytes.fromhex("89444301" + f"{len(body) // 2:02x}" + body)
    assert header == start + crc(start)


@settings(deadline=None)
@given(st.lists(printable, unique=True, max_size=8), printable, st.booleans())
def test_names_and_labels_round_trip(names, label, required):
    encoded = encode_plain(np.zeros(5, dtype=np.float32), DType.FLOAT32)
    data = pack([(name, encoded) for name in names], network=label, data=label[::-1])
    header = header_of(data)
    assert [entry.name for entry in header.entries] == names
    assert (header.network, header.data, header.version, header.file_size) == (label, label[::-1], 1, len(data))
    assert pack_header(header) == data[: header.size]


def test_names_share_their_start_even_inside_of_a_character():
    encoded = encode_plain(np.zeros(0, dtype=np.float32), DType.FLOAT32)
    names = ["é", "è", "éa", "é.", "x" * 512, "x" * 511]
    data = pack([(name, encoded) for name in names])
    assert [entry.name for entry in header_of(data).entries] == names
    assert b"\x00\x02\xc3\xa9" in data  # é, whole
    assert b"\x01\x01\xa8" in data  # è: one byte of é, and one of its own


def test_starts_and_sizes():
    infos = [
        TensorInfo((3,), DType.FLOAT32, Raw()),
        TensorInfo((3,), DType.FLOAT32, Alias(0)),
        TensorInfo((), DType.INT8, Raw()),
        TensorInfo((0,), DType.INT8, Raw()),
    ]
    entries = tuple(Entry(f"t{i}", info, 0 if info.target == 0 else i + 7) for i, info in enumerate(infos))
    raw = pack_header(Header("", "", entries))
    read = unpack_header(raw, len(raw) + 12 + 1 + 4)
    assert [entry.start - len(raw) for entry in read.entries] == [0, 12, 12, 13]
    assert [entry.crc for entry in read.entries] == [7, 0, 9, 10]
    assert (read.size, read.file_size) == (len(raw), len(raw) + 17)
    for size in (len(raw) + 16, len(raw) + 18):
        with pytest.raises(FormatError, match=f"describes a file of {len(raw) + 17} bytes, but it has {size}"):
            unpack_header(raw, size)


def test_lenet_300_100_needs_at_most_200_bytes_beside_its_sections():
    book = np.linspace(-0.2, 0.2, 32, dtype=np.float32)
    tensors = []
    for number, (rows, columns, density) in enumerate([(300, 784, 0.08), (100, 300, 0.09), (10, 100, 0.26)], start=1):
        weight = shared_weights((rows, columns), density, book, seed=number)
        bias = np.random.default_rng(number).normal(0, 0.1, rows).astype(np.float32)
        tensors.append((f"fc{number}.weight", encode_coded(weight, DType.FLOAT32, book)))
        tensors.append((f"fc{number}.bias", encode_plain(bias, DType.FLOAT32)))
    data = pack(tensors, "lenet-300-100", "mnist")
    sections = sum(len(encoded.section) for _, encoded in tensors)
    assert len(data) - sections <= 200
    assert header_of(data).size + 4 == len(data) - sections


# The start of a file ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [b"", b"\x89", b"\x89D", b"PK\x03\x04", b"\x89PNG\r\n", bytes(16)])
def test_other_files_are_no_dc_files(start):
    with pytest.raises(FormatError, match=r"not a \.dc file: it does not start with 89 44 43"):
        header_span(start, 1000)


@pytest.mark.parametrize("version", [0, 4, 255])
def test_other_versions_are_refused(version):
    with pytest.raises(
        FormatError, match=rf"format version {version} is not supported \(this release reads 1 to 3\); upd"
    ):
        header_span(craft(version=version), 17)


def test_the_span_of_a_header():
    for length, prefix in [(4, 5), (127, 5), (128, 6), (20_000, 7)]:
        start = (b"\x89DC\x01" + varint(length) + bytes(16))[:16]
        assert header_span(start, prefix + length + 8) == prefix + length + 4
        with pytest.raises(FormatError, match="fewer than its header needs: it is cut short"):
            header_span(start, prefix + length + 7)


def test_the_longest_header():
    start = b"\x89DC\x01" + varint(1 << 26)
    assert header_span(start, 1 << 27) == (1 << 26) + 8 + 4
    with pytest.raises(FormatError, match="length of the header is 67108865, but at most 67108864"):
        header_span(b"\x89DC\x01" + varint((1 << 26) + 1), 1 << 27)


def test_the_checksum_comes_before_everything_else():
    data = bytearray(craft(extensions=[(1, "x", b"")]))
    data[5] ^= 1
    with pytest.raises(FormatError, match="the header's checksum does not match"):
        header_of(bytes(data))


# Extensions ------------------------------------------------------------------------------------------------


def test_an_unknown_required_extension_is_refused_by_name():
    data = craft(extensions=[(0, "note", b"hello"), (1, "arithmetic-coder", b"")])
    with pytest.raises(FormatError, match="this file needs the feature 'arithmetic-coder'"):
        header_of(data)


def test_optional_extensions_are_kept_and_ignored():
    values = np.arange(4, dtype=np.float32)
    known = tensor("w", 0, 0, (4,), section=values.tobytes())
    data = craft(known, extensions=[(0, "note", b"hello"), (0, "", b"\x00" * 300)])
    header = header_of(data)
    assert header.extensions == (Extension("note", b"hello"), Extension("", b"\x00" * 300))
    assert header.entries == (
        Entry("w", TensorInfo((4,), DType.FLOAT32, Raw()), zlib.crc32(values.tobytes()), header.size),
    )
    assert pack_header(header) == data[: header.size]


@pytest.mark.parametrize(
    ("extension", "message"),
    [
        (b"\x02\x01x\x00", "extension 'x' has flag 2; allowed are 0 and 1"),
        (b"\x00\x02x\n\x00", "extension 'x.n' holds characters that cannot be printed"),
        (b"\x01\x02x\x1b\x00", "characters that cannot be printed"),
        (b"\x00\x01x\x09", "x needs 9 bytes"),
        (b"\x00\x01\xff\x00", "not valid UTF-8"),
        (b"", "flag of an extension needs 1 bytes"),
    ],
)
def test_damaged_extensions_are_refused(extension, message):
    with pytest.raises(FormatError, match=message):
        header_of(around(b"\0\0\x01" + extension))


def test_too_many_extensions():
    assert len(header_of(craft(extensions=[(0, "", b"")] * 255)).extensions) == 255
    with pytest.raises(FormatError, match="number of extensions is 256, but at most 255"):
        header_of(craft(extensions=[(0, "", b"")] * 256))


# Labels ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", ["a\nb", "\x1b[31m", "\x00", "\u202e", "tab\t", "\x7f"])
def test_labels_are_printable(label):
    for field in ("network", "data"):
        with pytest.raises(FormatError, match=f"header: {field} .* holds characters that cannot be printed"):
            header_of(craft(**{field: label}))


def test_labels_have_a_limit():
    assert header_of(craft(network="x" * 255)).network == "x" * 255
    with pytest.raises(FormatError, match="length of network is 256, but at most 255"):
        header_of(craft(network="x" * 256))
    with pytest.raises(FormatError, match="network is not valid UTF-8"):
        header_of(around(text(b"\xff") + b"\0\0\0"))


# Names ------------------------------------------------------------------------------------------------------


def forbidden_ranges():
    """The ranges of code points in section 2 of the specification."""
    text = (Path(__file__).parent.parent.parent / "docs" / "format.md").read_text(encoding="utf-8")
    table = text.split("These characters (code points")[1].split("\n## ")[0]
    found = re.findall(r"\b([0-9A-F]{4,6})(?:–([0-9A-F]{4,6}))?\b", table)
    return [range(int(first, 16), int(last or first, 16) + 1) for first, last in found]


def test_the_forbidden_characters_are_those_of_the_specification():
    forbidden = {code for span in forbidden_ranges() for code in span}
    assert {code for code in range(0x110000) if not is_printable(chr(code))} == forbidden


def test_what_a_name_may_hold_does_not_depend_on_the_version_of_python():
    # Whatever Unicode 14 has as printable is allowed, and of the rest only what it has not assigned.
    characters = [chr(code) for code in range(0x110000)]
    for character in characters:
        if is_printable(character):
            assert (
                unicodedata.category(character) not in ("Cc", "Cf", "Co", "Cs", "Zl", "Zp") or ord(character) > 0xFFFF
            )
        else:
            assert not character.isprintable()
    assert is_printable("\U0001fae8 \u0378")  # assigned by Unicode 15, and by none so far
