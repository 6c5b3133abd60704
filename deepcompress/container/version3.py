"""Tensors in a header of version 3: as in version 2, with more dtypes and layouts, and room for others."""

from __future__ import annotations

from collections.abc import Sequence

from deepcompress.coding.bits import Reader, varint
from deepcompress.coding.dtypes import DType
from deepcompress.coding.layouts import LAYOUTS
from deepcompress.coding.tensors import TensorInfo
from deepcompress.container import version1, version2
from deepcompress.container.entries import CRC_BYTES, MAX_TENSORS, Entry, checked_name, pack_fields, read_fields
from deepcompress.errors import FormatError

_MORE = 15  # in four bits: the number is in a byte of its own


def pack_tensors(entries: Sequence[Entry], checked: bool, front_coded: bool) -> bytes:
    """The number of tensors, their names, and what a header says of each; with their checksums, if `checked`.

    Names that are `front_coded` are told by what each shares with the one before it, as in version 1.
    """
    out = bytearray(varint(len(entries)))
    previous = b""
    for entry in entries:
        name = entry.name.encode("utf-8")
        out += version1.pack_name(name, previous) if front_coded else name + bytes([version2.NAME_END])
        previous = name
    for entry in entries:
        out += pack_info(entry.info)
        if checked and not entry.info.is_reference:
            out += entry.crc.to_bytes(CRC_BYTES, "little")
    return bytes(out)


def pack_info(info: TensorInfo) -> bytes:
    """What a header says of one tensor, without its name and its checksum."""
    kind = _pack_number(len(info.shape), info.dtype) + _pack_number(info.layout.flags, info.layout.number)
    return kind + pack_fields(info, version=3)


def _pack_number(high: int, number: int) -> bytes:
    """Four bits, and a number below 256."""
    return bytes([high << 4 | number]) if number < _MORE else bytes([high << 4 | _MORE, number])


def read_tensors(reader: Reader, start: int, checked: bool, front_coded: bool) -> tuple[Entry, ...]:
    """The inverse; the first section starts at byte `start` of the file."""
    names = _read_names(reader) if front_coded else version2.read_names(reader)
    return version2.read_records(reader, names, start, checked, read_info)


def _read_names(reader: Reader) -> list[str]:
    names: dict[str, None] = {}
    previous = b""
    for _ in range(reader.varint("number of tensors", limit=MAX_TENSORS)):
        previous = version1.read_name(reader, previous)
        names[checked_name(previous, names.keys())] = None
    return list(names)


def read_info(reader: Reader, name: str, earlier: Sequence[Entry]) -> TensorInfo:
    """The inverse of `pack_info`; checked."""
    dimensions, dtype = _read_number(reader, name, "dtype")
    if dtype > max(DType):
        raise FormatError(f"tensor {name}: dtype {dtype} is unknown; known are 0 to {max(DType)}; update deepcompress")
    flags, number = _read_number(reader, name, "layout")
    if number not in LAYOUTS:
        raise FormatError(
            f"tensor {name}: layout {number} is unknown; known are 0 to {max(LAYOUTS)}; update deepcompress"
        )
    return read_fields(reader, name, earlier, DType(dtype), dimensions, number, flags, version=3)


def _read_number(reader: Reader, name: str, field: str) -> tuple[int, int]:
    high, number = divmod(reader.byte(field), 16)
    if number < _MORE:
        return high, number
    number = reader.byte(field)
    if number < _MORE:
        raise FormatError(f"tensor {name}: {field} {number} is not in its shortest form")
    return high, number
