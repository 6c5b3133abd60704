"""Opening .dc files: the header at once, tensors when they are asked for."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, BinaryIO, TypeVar

import numpy as np

from deepcompress.coding import tensors
from deepcompress.coding.dtypes import DType
from deepcompress.coding.layouts.coded import decode_codebook, decode_survivors
from deepcompress.coding.tensors import Encoding, Survivors, TensorInfo
from deepcompress.container.entries import CRC_BYTES, UNCHECKED, Entry, Header
from deepcompress.container.format import header_span, is_checked, unpack_header
from deepcompress.errors import FormatError

Array = np.ndarray[Any, np.dtype[Any]]
T = TypeVar("T")

_CHUNK = 1 << 20


def default_max_bytes(file_bytes: int) -> int:
    """How many bytes of tensors a file may claim unless told otherwise: 1024 times its own, at least 256 MiB."""
    return max(256 << 20, 1024 * file_bytes)


class ModelFile:
    """A .dc file, open for reading; use it as a context manager.

    Opening reads and checks the header only. `read` decodes one tensor, `check` verifies the whole file. Threads may
    share it.

    A small file of version 2 has one checksum: it is verified when it is opened, and then held in memory.

    Sections are read, not mapped into memory: when somebody truncates a mapped file, the next look at its pages
    ends the process with SIGBUS, where a read comes back short and is an error like any other. And a map would save
    little: each byte of a section is looked at twice, and a section is small against the tensor that it becomes.

    Attributes:
        path: of the file, or ``<bytes>``; errors begin with it.
        header: names, facts and checksums.
        file_bytes: size of the file.
    """

    def __init__(self, source: str | Path | bytes, max_bytes: int | None = None) -> None:
        """Open `source`.

        Args:
            source: the path of the file, or its content.
            max_bytes: how many bytes a tensor that is read may take, instead of `default_max_bytes`.

        Raises:
            FormatError: it does not exist, cannot be read, or its header is not valid.
        """
        self.path = Path("<bytes>" if isinstance(source, bytes) else source)
        self._stream: BinaryIO = BytesIO(source) if isinstance(source, bytes) else self._open()
        try:
            self.file_bytes = self._stream.seek(0, os.SEEK_END)
            self._stream.seek(0)
            start = self._stream.read(16)
            span = header_span(start, self.file_bytes)
            if not is_checked(start):
                self._hold()
            self._stream.seek(0)
            self.header: Header = unpack_header(self._stream.read(span), self.file_bytes)
        except FormatError as error:
            self._stream.close()
            raise FormatError(f"{self.path}: {error}") from None
        self._by_name = {entry.name: entry for entry in self.header.entries}
        self._numbers = {entry.name: number for number, entry in enumerate(self.header.entries)}
        self._codebooks: dict[int, Array] = {}
        self._max_bytes = default_max_bytes(self.file_bytes) if max_bytes is None else max_bytes
        self._position = Lock()  # held from going to a section until it is read

    def _open(self) -> BinaryIO:
        try:
            if not self.path.exists():
                raise FormatError(f"{self.path}: no such file")
            if not self.path.is_file():
                raise FormatError(f"{self.path}: not a regular file")
            return open(self.path, "rb")
        except OSError as error:
            raise FormatError(f"{self.path}: cannot be read ({error.strerror})") from None

    def _hold(self) -> None:
        """Take a small file into memory and verify it whole: its parts have no checksums of their own."""
        with self._stream as stream:
            stream.seek(0)
            self._stream = BytesIO(stream.read(UNCHECKED))
        self.check_crc()

    def __enter__(self) -> ModelFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; only the header can be looked at from then on."""
        self._stream.close()

    def __iter__(self) -> Iterator[str]:
        """Names of the tensors, in the order of the file."""
        return iter(self._by_name)

    def __contains__(self, name: object) -> bool:
        """Whether there is a tensor of that name."""
        return name in self._by_name

    def entry(self, name: str) -> Entry:
        """The facts of one tensor.

        Raises:
            KeyError: there is no tensor of that name.
        """
        return self._by_name[name]

    def number(self, name: str) -> int:
        """The place of a tensor in the file, from 0, by which others refer to it.

        Raises:
            KeyError: there is no tensor of that name.
        """
        return self._numbers[name]

    def resolved(self, entry: Entry) -> Entry:
        """The entry whose memory this tensor has: itself, or the one that it is an alias of (tied weights)."""
        return self.header.entries[_target(entry)] if entry.info.encoding is Encoding.ALIAS else entry

    def stored(self, entry: Entry) -> Entry:
        """The entry that stores this tensor's values: that of its memory, or the one that it is a copy of."""
        entry = self.resolved(entry)
        return self.header.entries[_target(entry)] if entry.info.encoding is Encoding.COPY else entry

    def read(self, name: str, workers: int = 1) -> tuple[Array, DType]:
        """Decode one tensor: its values in the dtype's storage type (bfloat16 as its 16 bits), and the dtype.

        Args:
            name: of the tensor.
            workers: threads that share the work, if it is a large tensor.

        Raises:
            KeyError: there is no tensor of that name.
            FormatError: its section is damaged, or it is larger than allowed (see `check`).
        """
        entry = self.stored(self.entry(name))
        return self._decoded(name, entry, tensors.decode, workers), entry.info.dtype

    def read_survivors(self, name: str, workers: int = 1) -> tuple[Survivors, DType]:
        """The weights of one tensor that are not zero, by position and index, and the dtype of its codebook.

        For whoever computes with the compressed form: the dense tensor is never made.

        Args:
            name: of the tensor, whose `stored` entry holds shared weights (``info.is_shared``).
            workers: as in `read`.

        Raises:
            KeyError: there is no tensor of that name.
            FormatError: as `read`.
        """
        entry = self.stored(self.entry(name))
        return self._decoded(name, entry, decode_survivors, workers), entry.info.dtype

    def _decoded(
        self, name: str, entry: Entry, decode: Callable[[TensorInfo, memoryview, Array | None, int], T], workers: int
    ) -> T:
        try:
            if entry.info.nbytes > self._max_bytes:
                raise FormatError(f"it would take {entry.info.nbytes} bytes, more than the {self._max_bytes} allowed")
            codebook = None
            if entry.info.target is not None:
                codebook = self._codebook(entry.info.target)
            return decode(entry.info, self._section(entry), codebook, workers)
        except FormatError as error:
            raise FormatError(f"{self.path}: tensor {name}: {error}") from None

    def codebook(self, number: int) -> tuple[Array, DType]:
        """The shared values that tensor number `number` stores, in the storage type of its dtype, and the dtype.

        Raises:
            FormatError: its section is damaged.
        """
        entry = self.header.entries[number]
        try:
            return self._codebook(number).view(entry.info.dtype.storage), entry.info.dtype
        except FormatError as error:
            raise FormatError(f"{self.path}: tensor {entry.name}: {error}") from None

    def _codebook(self, index: int) -> Array:
        """The codebook that tensor number `index` stores, kept, so that sharing it costs no reader a second look."""
        if index not in self._codebooks:
            owner = self.header.entries[index]
            self._codebooks[index] = decode_codebook(owner.info, self._section(owner)).copy()
        return self._codebooks[index]

    def header_bytes(self) -> bytes:
        """The bytes of the file before its first section."""
        with self._position:
            self._stream.seek(0)
            return self._stream.read(self.header.size)

    def section(self, entry: Entry) -> bytes:
        """The bytes of a tensor as they are stored.

        Raises:
            FormatError: they are damaged.
        """
        try:
            return bytes(self._section(entry))
        except FormatError as error:
            raise FormatError(f"{self.path}: tensor {entry.name}: {error}") from None

    def _section(self, entry: Entry) -> memoryview:
        with self._position:
            self._stream.seek(entry.start)
            section = self._stream.read(entry.info.section)
        damaged = self.header.checked and zlib.crc32(section) != entry.crc
        if len(section) != entry.info.section or damaged:
            raise FormatError("the checksum of its section does not match: the file is damaged")
        return memoryview(section)

    def check(self, max_bytes: int | None = None) -> None:
        """Verify the checksum of the whole file, and that its tensors take at most `max_bytes` when decoded.

        Args:
            max_bytes: instead of `default_max_bytes`; holds for `read` from then on.

        Raises:
            FormatError: the file is damaged, or its tensors are larger than allowed.
        """
        claimed = sum(entry.info.nbytes for entry in self.header.entries)
        self._max_bytes = default_max_bytes(self.file_bytes) if max_bytes is None else max_bytes
        if claimed > self._max_bytes:
            raise FormatError(
                f"{self.path}: its tensors would take {claimed} bytes, more than the {self._max_bytes} allowed; "
                "if you trust the file, raise max_bytes (--max-bytes)"
            )
        self.check_crc()

    def check_crc(self) -> None:
        """Verify the checksum of the whole file.

        Raises:
            FormatError: the file is damaged.
        """
        self._stream.seek(0)
        crc, left = 0, self.file_bytes - CRC_BYTES
        while left:
            chunk = self._stream.read(min(left, _CHUNK))
            if not chunk:
                raise FormatError(f"{self.path}: the file became shorter while it was read")
            crc, left = zlib.crc32(chunk, crc), left - len(chunk)
        if self._stream.read() != crc.to_bytes(CRC_BYTES, "little"):
            raise FormatError(f"{self.path}: the file's checksum does not match: it is damaged")


def _target(entry: Entry) -> int:
    assert entry.info.target is not None
    return entry.info.target
