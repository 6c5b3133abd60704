"""Where the tensors of a checkpoint lie in its file, without reading them, and without torch."""

from __future__ import annotations

import json
import struct
import zipfile
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, BinaryIO

from deepcompress.container.entries import MAGIC as MODEL_MAGIC
from deepcompress.errors import UpdateError
from deepcompress.updates.container import open_file

_ZIP = b"PK\x03\x04"
_LOCAL = 30  # bytes of a zip record's local header before its name
_MAX_HEADER = 100_000_000  # of a safetensors file, as its own library has it
_WIDTHS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
}


class FileKind(Enum):
    """Files that updates are made of."""

    MODEL = "a .dc file"
    SAFETENSORS = "a .safetensors file"
    ARCHIVE = "a zip archive, such as torch.save writes"


@dataclass(frozen=True)
class Cut:
    """A tensor: its name, where its bytes are, and those of an element, or 0 if that is not known."""

    name: str
    start: int
    length: int
    width: int

    @property
    def end(self) -> int:
        """Where its bytes end."""
        return self.start + self.length


def kind_of(path: Path) -> FileKind:
    """What kind of file it is, by its first bytes.

    Raises:
        UpdateError: it is none that updates are made of, or cannot be read.
    """
    try:
        with open_file(path) as stream:
            start = stream.read(16)
        size = path.stat().st_size
    except OSError as error:
        raise UpdateError(f"{path}: cannot be read ({error.strerror or error})") from None
    if start.startswith(MODEL_MAGIC):
        return FileKind.MODEL
    if start.startswith(_ZIP):
        return FileKind.ARCHIVE
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= min(size - 8, _MAX_HEADER):
        return FileKind.SAFETENSORS
    kinds = ", ".join(kind.value for kind in FileKind)
    raise UpdateError(f"{path}: updates are made of {kinds}; this file is none of them")


def cuts_of(path: Path, kind: FileKind) -> list[Cut]:
    """The tensors of a checkpoint in the order of the file; they do not overlap.

    Raises:
        UpdateError: the file is damaged.
    """
    find = _in_safetensors if kind is FileKind.SAFETENSORS else _in_archive
    try:
        with path.open("rb") as stream:
            found = sorted(find(stream), key=lambda cut: (cut.start, cut.length))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, EOFError, zipfile.BadZipFile,
            NotImplementedError, struct.error) as error:  # fmt: skip
        raise UpdateError(f"{path}: not a readable checkpoint, {kind.value} that is damaged ({error})") from None
    except OSError as error:
        raise UpdateError(f"{path}: cannot be read ({error.strerror or error})") from None
    size, last = path.stat().st_size, 0
    for cut in found:
        if cut.length and not last <= cut.start <= cut.end <= size:
            raise UpdateError(
                f"{path}: tensor {cut.name!a} overlaps another one, or the end of the file: it is damaged"
            )
        last = max(last, cut.end)
    return [cut for cut in found if cut.length]


def _in_safetensors(stream: BinaryIO) -> list[Cut]:
    begin = 8 + int.from_bytes(stream.read(8), "little")
    header: dict[str, Any] = json.loads(stream.read(begin - 8))
    found = []
    for name, facts in header.items():
        if name != "__metadata__":
            start, end = map(int, facts["data_offsets"])
            found.append(Cut(name, begin + start, end - start, _WIDTHS.get(facts["dtype"], 1)))
    return found


def _in_archive(stream: BinaryIO) -> list[Cut]:
    found = []
    for record in zipfile.ZipFile(stream).infolist():
        if record.compress_type != zipfile.ZIP_STORED or record.file_size != record.compress_size:
            continue
        stream.seek(record.header_offset)
        local = stream.read(_LOCAL)
        name, extra = struct.unpack("<HH", local[26:30])
        start = record.header_offset + _LOCAL + name + extra
        found.append(Cut(record.filename.partition("/")[2] or record.filename, start, record.file_size, 0))
    return found
