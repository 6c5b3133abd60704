"""Tensors in a header of version 2: all names, then a short record of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from deepcompress.coding.bits import Reader, varint
from deepcompress.coding.dtypes import DType
from deepcompress.coding.layouts import LAYOUTS
from deepcompress.coding.tensors import TensorInfo
from deepcompress.container.entries import (
    CRC_BYTES,
    MAX_NAME,
    MAX_TENSORS,
    Entry,
    checked_name,
    pack_fields,
    read_fields,
)
from deepcompress.errors import FormatError

NAME_END = 0x0A


def pack_tensors(entries: Sequence[Entry], checked: bool) -> bytes:
    """The number of tensors, their names, and what a header says of each; with their checksums, if `checked`."""
    out = bytearray(varint(len(entries)))
    for entry in entries:
        out += entry.name.encode("utf-8") + bytes([NAME_END])
    for entry in entries:
        out += _pack_info(entry.info)
        if checked and not entry.info.is_reference:
            out += entry.crc.to_bytes(CRC_BYTES, "little")
    return bytes(out)


def _pack_info(info: TensorInfo) -> bytes:
    layout = info.layout
    kind = bytes([len(info.shape) << 4 | info.dtype, layout.flags << 4 | layout.number])
    return kind + pack_fields(info, version=2)


def read_tensors(reader: Reader, start: int, checked: bool) -> tuple[Entry, ...]:
    """The inverse; the first section starts at byte `start` of the file."""
    return read_records(reader, read_names(reader), start, checked, _read_info)


def read_names(reader: Reader) -> list[str]:
    """The number of tensors, and their names."""
    names: dict[str, None] = {}
    for _ in range(reader.varint("number of tensors", limit=MAX_TENSORS)):
        names[checked_name(bytes(reader.line("name", MAX_NAME, NAME_END)), names.keys())] = None
    return list(names)


def read_records(
    reader: Reader,
    names: Iterable[str],
    start: int,
    checked: bool,
    read_info: Callable[[Reader, str, Sequence[Entry]], TensorInfo],
) -> tuple[Entry, ...]:
    """What the header says of each tensor, and the checksum of its section; sections start at byte `start`."""
    entries: list[Entry] = []
    for name in names:
        info = read_info(reader, name, entries)
        crc = 0
        if checked and not info.is_reference:
            crc = int.from_bytes(reader.take(CRC_BYTES, "checksum"), "little")
        entries.append(Entry(name, info, crc, start))
        start += info.section
    return tuple(entries)


def _read_info(reader: Reader, name: str, earlier: Sequence[Entry]) -> TensorInfo:
    (dimensions, dtype), (flags, number) = divmod(reader.byte("kind"), 16), divmod(reader.byte("layout"), 16)
    if dtype > DType.BOOL or number not in LAYOUTS or LAYOUTS[number].since > 2:
        raise FormatError(f"tensor {name}: layout {number} or dtype {dtype} is unknown")
    return read_fields(reader, name, earlier, DType(dtype), dimensions, number, flags, version=2)
