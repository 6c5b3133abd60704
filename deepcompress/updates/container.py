"""The file around an update: docs/update-format.md, sections 1 and 2.

An update names both files, says in its facts what each piece of the new file is made of, and holds after that the
payloads of those pieces, in their order.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from enum import IntEnum
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from deepcompress.coding.bits import Reader, varint
from deepcompress.container import deflate, version1
from deepcompress.container.entries import UPDATE_MAGIC as MAGIC
from deepcompress.errors import FormatError, UpdateError

VERSIONS = (1, 2)
OLD_NAME, NEW_NAME = 8, 16  # bytes of a SHA-256 that name a file
MAX_FACTS = 1 << 26
_HEAD = len(MAGIC) + 1 + OLD_NAME + NEW_NAME + 1
WINDOW = 1 << 15  # bytes that deflate can refer to
_CHUNK = 1 << 20
_LARGE = 1 << 16  # bytes of payloads beside which a few bytes of facts are not worth the time that they take


class Kind(IntEnum):
    """What an update is made of; the numbers are part of the format."""

    WHOLE = 0
    TENSORS = 1
    PIECES = 2


def open_file(path: Path) -> BufferedReader:
    """A file, open for reading.

    Raises:
        UpdateError: there is no such file, or it cannot be read.
    """
    try:
        if not path.is_file():
            raise UpdateError(f"{path}: {'not a regular file' if path.exists() else 'no such file'}")
        return path.open("rb")
    except OSError as error:
        raise UpdateError(f"{path}: cannot be read ({error.strerror or error})") from None


def file_hash(path: str | Path) -> bytes:
    """SHA-256 of a file.

    Raises:
        UpdateError: there is no such file, or it cannot be read.
    """
    path = Path(path)
    try:
        with open_file(path) as stream:
            return hashlib.file_digest(stream, "sha256").digest()
    except OSError as error:
        raise UpdateError(f"{path}: cannot be read ({error.strerror or error})") from None


def write_head(target: BinaryIO, old: bytes, new: bytes, kind: Kind, version: int = min(VERSIONS)) -> None:
    """The first bytes of an update of the file with SHA-256 `old` to that with `new`."""
    target.write(MAGIC + bytes([version]) + old[:OLD_NAME] + new[:NEW_NAME] + bytes([kind]))


def write_facts(target: BinaryIO, facts: bytes, payload: int) -> None:
    """Facts of an update of so many bytes of payloads, deflated where that is smaller."""
    packed = deflate.by_zlib(facts, deflate.DICTIONARY)
    if len(facts) <= deflate.LONGEST and payload < _LARGE:
        packed = min(packed, deflate.compress(facts), key=len)
    if len(packed) < len(facts):
        target.write(varint(len(facts)) + varint(len(packed)) + packed)
    else:
        target.write(varint(len(facts)) + varint(0) + facts)


class UpdateFile:
    """An update, open for reading; use it as a context manager.

    Attributes:
        path: of the file; errors begin with it.
        file_bytes: its size.
        version: of the format.
        old, new: what names the two files: the first bytes of their SHA-256.
        kind: what it is made of.
        facts: what it says, as bytes; a whole file has none.
    """

    def __init__(self, path: str | Path) -> None:
        """Open an update, and read all but its payloads.

        Raises:
            UpdateError: there is no such file, or it cannot be read.
            FormatError: it is no update, or damaged.
        """
        self.path = Path(path)
        self._stream = open_file(self.path)
        try:
            self.file_bytes = self._stream.seek(0, os.SEEK_END)
            self._stream.seek(0)
            self._read_head()
        except FormatError as error:
            self._stream.close()
            raise FormatError(f"{self.path}: {error}") from None

    def _read_head(self) -> None:
        head = self._stream.read(_HEAD)
        if not head.startswith(MAGIC):
            raise FormatError("this is not an update: it does not start with 89 44 50")
        if len(head) < _HEAD:
            raise FormatError("the update is cut short")
        reader = Reader(head, "start of the update")
        reader.take(len(MAGIC), "magic")
        self.version = reader.byte("version")
        if self.version not in VERSIONS:
            known = " and ".join(map(str, VERSIONS))
            raise FormatError(f"version {self.version} of updates is not supported (this release reads {known})")
        self.old, self.new = bytes(reader.take(OLD_NAME, "old")), bytes(reader.take(NEW_NAME, "new"))
        if (kind := reader.byte("kind")) > max(Kind):
            raise FormatError(f"kind {kind} is unknown; known are 0 to {max(Kind)}")
        self.kind = Kind(kind)
        self.facts = b"" if self.kind is Kind.WHOLE else self._read_facts()

    def _read_facts(self) -> bytes:
        reader = Reader(self._stream.read(20), "start of the update")
        size = reader.varint("length of the facts", MAX_FACTS)
        packed = reader.varint("length of the deflated facts", MAX_FACTS)
        self._stream.seek(-len(reader), os.SEEK_CUR)
        facts = self.take(packed or size, "facts")
        return deflate.expand(facts, size, "facts") if packed else facts

    def __enter__(self) -> UpdateFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    @property
    def left(self) -> int:
        """Bytes of payloads that were not taken yet."""
        return self.file_bytes - self._stream.tell()

    def take(self, count: int, field: str) -> bytes:
        """The next bytes of the payloads.

        Raises:
            FormatError: there are not so many.
        """
        self._check_left(count, field)
        return self._stream.read(count)

    def skip(self, count: int, field: str) -> None:
        """Pass so many bytes of the payloads.

        Raises:
            FormatError: there are not so many.
        """
        self._check_left(count, field)
        self._stream.seek(count, os.SEEK_CUR)

    def _check_left(self, count: int, field: str) -> None:
        if count > self.left:
            raise FormatError(f"{field} needs {count} bytes, but only {self.left} are left: the update is cut short")

    def copy(self, count: int, target: Callable[[bytes], object], field: str) -> None:
        """Pass the next bytes of the payloads on, in pieces."""
        while count:
            part = self.take(min(count, _CHUNK), field)
            target(part)
            count -= len(part)

    def end(self) -> None:
        """Assert that all payloads were taken.

        Raises:
            FormatError: something is left.
        """
        if self.left:
            raise FormatError(f"{self.left} unexpected bytes at the end of the update")


def copy_all(source: BinaryIO, target: BinaryIO) -> None:
    """All of a spool, from its start."""
    source.seek(0)
    shutil.copyfileobj(source, target, _CHUNK)


# Names ---------------------------------------------------------------------------------------------------------


class Names:
    """Names of pieces, each told by what it has in common with the one before it."""

    def __init__(self) -> None:
        self._previous = b""

    def pack(self, name: str) -> bytes:
        """The bytes of the next name."""
        raw = name.encode("utf-8", errors="surrogateescape")
        packed, self._previous = version1.pack_name(raw, self._previous), raw
        return packed

    def read(self, reader: Reader, longest: int) -> bytes:
        """The next name, which has at most `longest` bytes.

        Raises:
            FormatError: it is not there, or too long.
        """
        shared = reader.varint("shared part of a name", len(self._previous))
        rest = bytes(reader.take(reader.varint("length of a name", longest - shared), "name"))
        if rest and rest[:1] == self._previous[shared : shared + 1]:
            raise FormatError("a name has more in common with the one before it than is told")
        self._previous = self._previous[:shared] + rest
        return self._previous
