"""What a header says, whichever version of the format it is written in, and the checks that hold for both."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from deepcompress.coding.bits import Reader, varint
from deepcompress.coding.dtypes import DType
from deepcompress.coding.layouts import LAYOUTS
from deepcompress.coding.tensors import TensorInfo, TensorType
from deepcompress.errors import FormatError

MAGIC = b"\x89DC"
UPDATE_MAGIC = b"\x89DP"  # of an update, which is often given in place of a file
VERSIONS = (1, 2, 3)
UNCHECKED = 1 << 16  # bytes of a file that is verified whole, and has no other checksums
CRC_BYTES = 4
MAX_HEADER = 1 << 26
MAX_TENSORS = 1 << 18
MAX_NAME = 512
MAX_LABEL = 255
MAX_DIMENSIONS = 8
MAX_ELEMENTS = 1 << 40

#: Characters that no name may hold (docs/format.md, section 2): controls, separators, formats, private use. They are
#: listed, because what Python calls printable grows with the Unicode tables of its version.
_UNPRINTABLE = re.compile(
    r"[\x00-\x1f\x7f-\xa0\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u1680\u180e\u2000-\u200f"
    r"\u2028-\u202f\u205f-\u206f\u3000\ud800-\uf8ff\ufdd0-\ufdef\ufeff\ufff0-\ufffb\ufffe\uffff"
    r"\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    r"\U000e0000-\U000e00ff\U000e01f0-\U0010ffff]"
)


@dataclass(frozen=True)
class Extension:
    """Something a later writer added. A reader that does not know a required one must refuse the file."""

    name: str
    data: bytes
    required: bool = False


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: fully qualified name, facts, checksum of its section, and where the section starts."""

    name: str
    info: TensorInfo
    crc: int = 0
    start: int = 0


@dataclass(frozen=True)
class Header:
    """Everything about a file but the sections; `size` counts magic, version, lengths, header and its checksum.

    `checked`: the header and each section have checksums of their own; without, the file is verified whole.
    """

    network: str
    data: str
    entries: tuple[Entry, ...]
    extensions: tuple[Extension, ...] = ()
    size: int = 0
    version: int = 1
    checked: bool = True

    @property
    def file_size(self) -> int:
        """Bytes that the file must have: header, sections, and the file's checksum."""
        return self.size + sum(entry.info.section for entry in self.entries) + CRC_BYTES


def crc_bytes(*spans: bytes | memoryview) -> bytes:
    """CRC-32 (as in zlib and PNG) of the spans one after the other, little-endian."""
    crc = 0
    for span in spans:
        crc = zlib.crc32(span, crc)
    return crc.to_bytes(CRC_BYTES, "little")


# Checks ----------------------------------------------------------------------------------------------------


def is_printable(text: str) -> bool:
    """Whether a file may hold `text` as a name: the same with every version of Python."""
    return not _UNPRINTABLE.search(text)


def check_printable(text: str, field: str) -> None:
    """Raise a FormatError if `text` could write more than letters to a terminal."""
    if not is_printable(text):
        raise FormatError(f"header: {field} {text!a} holds characters that cannot be printed")


def checked_name(raw: bytes, names: Collection[str]) -> str:
    """A tensor's name, which is none of `names` so far."""
    name = raw.decode("utf-8", errors="replace")
    if name in names or not name or name.encode("utf-8") != raw:
        raise FormatError(f"header: tensor name {name!a} is empty, not UTF-8, or there twice")
    check_printable(name, "tensor name")
    return name


def read_fields(
    reader: Reader,
    name: str,
    earlier: Sequence[Entry],
    dtype: DType,
    dimensions: int,
    number: int,
    flags: int = 0,
    version: int = 1,
) -> TensorInfo:
    """The dimensions of a tensor, so many, and the fields of its layout, which this version has; checked."""
    layout = LAYOUTS[number]
    try:
        tensor = TensorType(_read_shape(reader, dimensions), dtype)
        if flags and not layout.has_flags:
            raise FormatError(f"flags {flags}, which mean nothing here")
        info = TensorInfo(tensor.shape, dtype, layout.read(reader, tensor, version, flags))
        info.layout.check(tensor)
        _check_target(info, earlier)
    except FormatError as error:
        raise FormatError(f"tensor {name}: {error}") from None
    return info


def _read_shape(reader: Reader, dimensions: int) -> tuple[int, ...]:
    """So many dimensions; of an empty tensor, too, the others are bounded, for numpy multiplies them."""
    if dimensions > MAX_DIMENSIONS:
        raise FormatError(f"{dimensions} dimensions; at most {MAX_DIMENSIONS} are allowed")
    shape = tuple(reader.varint("dimension", limit=MAX_ELEMENTS) for _ in range(dimensions))
    if math.prod(dimension or 1 for dimension in shape) > MAX_ELEMENTS:
        raise FormatError(f"a shape of {shape}; at most {MAX_ELEMENTS} elements are allowed")
    return shape


def _check_target(info: TensorInfo, earlier: Sequence[Entry]) -> None:
    """The tensor that this one refers to is there, and one that it may refer to."""
    if info.target is None:
        return
    what = f"it {info.layout.relation} of"
    if info.target >= len(earlier):
        raise FormatError(f"{what} tensor {info.target}, which does not come before it")
    if not info.layout.refers(info, earlier[info.target].info):
        raise FormatError(f"{what} {earlier[info.target].name}, which is not its like")


def pack_fields(info: TensorInfo, version: int) -> bytes:
    """The inverse of `read_fields`: the dimensions, and the fields of the layout."""
    return b"".join(map(varint, info.shape)) + info.layout.pack(version)
