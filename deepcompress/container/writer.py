"""Encoded tensors to a .dc file: in memory, or tensor by tensor onto the disk."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from deepcompress.coding.encoder import WORTH
from deepcompress.coding.layouts.coded import Coded
from deepcompress.coding.layouts.references import Copy
from deepcompress.coding.tensors import EncodedTensor, TensorInfo
from deepcompress.container.entries import CRC_BYTES, Entry, Extension, Header
from deepcompress.container.format import pack_header, unpack_header
from deepcompress.files import write_atomic


def pack(
    tensors: Iterable[tuple[str, EncodedTensor]],
    network: str = "",
    data: str = "",
    extensions: Sequence[Extension] = (),
) -> bytes:
    """A whole file in memory. The same tensors in the same order give the same bytes.

    Args:
        tensors: fully qualified name and encoded tensor; an alias or shared codebook refers to an earlier one.
        network: name of the network, for readers that know it; empty if there is none.
        data: name of the data set that the network was trained for; empty if there is none.
        extensions: what else the header says (`container.extensions`).

    Raises:
        FormatError: the file could not be read back, because a name or a shape is beyond the limits of the format.
    """
    target = BytesIO()
    _write(target, BytesIO(), tensors, network, data, extensions)
    return target.getvalue()


def save(
    path: str | Path,
    tensors: Iterable[tuple[str, EncodedTensor]],
    network: str = "",
    data: str = "",
    extensions: Sequence[Extension] = (),
) -> None:
    """Write a file to `path`, with only one of `tensors` in memory at a time.

    Sections wait in a temporary file until the last is encoded, because the header comes first. Whoever opens `path`
    finds the old file or the new one, whole. Arguments as in `pack`.

    Raises:
        FormatError: as `pack`.
        OutputError: the file cannot be written; `path` is as it was.
    """

    def write(temporary: Path) -> None:
        with temporary.open("wb") as target, tempfile.TemporaryFile(dir=temporary.parent) as spool:
            _write(target, spool, tensors, network, data, extensions)

    write_atomic(path, write)


def planned_size(
    tensors: Iterable[tuple[str, TensorInfo]],
    network: str = "",
    data: str = "",
    extensions: Sequence[Extension] = (),
) -> int:
    """Bytes of the file that tensors with these facts would make."""
    header = Header(network, data, tuple(Entry(name, info) for name, info in tensors), tuple(extensions))
    return len(pack_header(header)) + sum(entry.info.section for entry in header.entries) + CRC_BYTES


def _write(
    target: BinaryIO,
    spool: BinaryIO,
    tensors: Iterable[tuple[str, EncodedTensor]],
    network: str,
    data: str,
    extensions: Sequence[Extension],
) -> None:
    entries = []
    repeats = _Repeats()
    for name, tensor in tensors:
        encoded = repeats.without(tensor)
        entries.append(Entry(name, encoded.info, zlib.crc32(encoded.section)))
        spool.write(encoded.section)
    header = pack_header(Header(network, data, tuple(entries), tuple(extensions)))
    sections = spool.tell()
    unpack_header(header, len(header) + sections + CRC_BYTES)
    checked = _Checksum(target)
    checked.write(header)
    spool.seek(0)
    shutil.copyfileobj(spool, checked, 1 << 20)
    target.write(checked.crc.to_bytes(CRC_BYTES, "little"))


class _Repeats:
    """Finds tensors whose section is in the file already: they become copies, which are tensors of their own."""

    def __init__(self) -> None:
        self._first: dict[tuple[TensorInfo, bytes], int] = {}
        self._moved: dict[int, int] = {}  # copies, and the tensors that have their codebooks
        self._count = 0

    def without(self, tensor: EncodedTensor) -> EncodedTensor:
        """The tensor, without its section if that is there."""
        number, info = self._count, tensor.info
        self._count += 1
        if isinstance(info.layout, Coded) and info.target in self._moved:
            tensor = replace(tensor, info=replace(info, layout=info.layout.moved(self._moved[info.target])))
        if len(tensor.section) < WORTH:
            return tensor
        first = self._first.setdefault((tensor.info, hashlib.sha256(tensor.section).digest()), number)
        if first == number:
            return tensor
        self._moved[number] = first
        return EncodedTensor(TensorInfo(info.shape, info.dtype, Copy(first)), b"")


class _Checksum:
    """Passes writes on and keeps their CRC."""

    def __init__(self, target: BinaryIO) -> None:
        self.target, self.crc = target, 0

    def write(self, data: bytes) -> int:
        self.crc = zlib.crc32(data, self.crc)
        return self.target.write(data)
