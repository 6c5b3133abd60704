"""Tensors in a header of version 1: one after the other, each name by what it shares with the one before it."""

from __future__ import annotations

from collections.abc import Sequence

from deepcompress.coding.bits import Reader, varint
from deepcompress.coding.dtypes import DType
from deepcompress.coding.layouts import LAYOUTS
from deepcompress.coding.tensors import TensorInfo
from deepcompress.container.entries import (
    CRC_BYTES,
    MAX_DIMENSIONS,
    MAX_NAME,
    MAX_TENSORS,
    Entry,
    checked_name,
    pack_fields,
    read_fields,
)
from deepcompress.errors import FormatError


def pack_tensors(entries: Sequence[Entry]) -> bytes:
    """The number of tensors, and what a header says of each."""
    out = bytearray(varint(len(entries)))
    previous = b""
    for entry in entries:
        name = entry.name.encode("utf-8")
        out += pack_name(name, previous) + _pack_info(entry.info)
        if not entry.info.is_reference:
            out += entry.crc.to_bytes(CRC_BYTES, "little")
        previous = name
    return bytes(out)


def pack_name(name: bytes, previous: bytes) -> bytes:
    """How many bytes the name shares with the one before it, and the rest."""
    shared = 0
    while shared < min(len(name), len(previous)) and name[shared] == previous[shared]:
        shared += 1
    return varint(shared) + varint(len(name) - shared) + name[shared:]


def _pack_info(info: TensorInfo) -> bytes:
    return bytes([info.layout.number << 4 | info.dtype]) + varint(len(info.shape)) + pack_fields(info, version=1)


def read_tensors(reader: Reader, start: int, checked: bool = True) -> tuple[Entry, ...]:
    """The inverse; the first section starts at byte `start` of the file; version 1 always has checksums."""
    assert checked
    entries: list[Entry] = []
    names: set[str] = set()
    previous = b""
    for _ in range(reader.varint("number of tensors", limit=MAX_TENSORS)):
        raw = read_name(reader, previous)
        name = checked_name(raw, names)
        info = _read_info(reader, name, entries)
        crc = 0
        if not info.is_reference:
            crc = int.from_bytes(reader.take(CRC_BYTES, "checksum"), "little")
        entries.append(Entry(name, info, crc, start))
        names.add(name)
        start += info.section
        previous = raw
    return tuple(entries)


def read_name(reader: Reader, previous: bytes) -> bytes:
    """The inverse of `pack_name`."""
    shared = reader.varint("shared part of a name", limit=len(previous))
    rest = bytes(reader.take(reader.varint("length of a name", limit=MAX_NAME - shared), "name"))
    if rest and shared < len(previous) and rest[0] == previous[shared]:
        raise FormatError("header: a name is not in its shortest form")
    return previous[:shared] + rest


def _read_info(reader: Reader, name: str, earlier: Sequence[Entry]) -> TensorInfo:
    number, dtype = divmod(reader.byte("kind"), 16)
    if number not in LAYOUTS or LAYOUTS[number].since > 1 or dtype > DType.BOOL:
        raise FormatError(f"tensor {name}: encoding {number} or dtype {dtype} is unknown")
    dimensions = reader.varint("number of dimensions", limit=MAX_DIMENSIONS)
    return read_fields(reader, name, earlier, DType(dtype), dimensions, number)
