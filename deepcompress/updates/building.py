"""Writing a .dc file from the one before it and what an update tells of its tensors."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from deepcompress.coding import codebooks
from deepcompress.coding.bits import Reader
from deepcompress.coding.tensors import EncodedTensor, TensorInfo, decode_codebook
from deepcompress.container.entries import CRC_BYTES, Entry, Header
from deepcompress.container.format import pack_header
from deepcompress.container.reader import ModelFile
from deepcompress.errors import FormatError
from deepcompress.updates import changes, sections
from deepcompress.updates.container import UpdateFile
from deepcompress.updates.content import Content, content_of, expected
from deepcompress.updates.differences import WIDTHS
from deepcompress.updates.models import WINDOW, Tools, book_type, read_head, with_book
from deepcompress.updates.records import Book, BookOp, Op, Record, RecordReader
from deepcompress.updates.sections import Shared

Array = np.ndarray[Any, np.dtype[Any]]


def apply(old: ModelFile, update: UpdateFile, target: Any, spool: BinaryIO, max_bytes: int) -> None:
    """Write the new file to `target`; sections wait in `spool`.

    Raises:
        FormatError: the update is damaged, or its tensors would take more than `max_bytes`.
    """
    reader = Reader(update.facts, "facts of the update")
    head = read_head(reader)
    network, data, extensions = head.labels or (old.header.network, old.header.data, old.header.extensions)
    header = _inflated(update.take(head.header[1], "header"), head.header[0], old) if head.header[0] else b""
    builder = _Builder(old, update, max_bytes)
    for encoded in builder.tensors(reader):
        spool.write(encoded.section)
    update.end()
    if not header:
        header = pack_header(Header(network, data, tuple(builder.made), extensions))
    crc = zlib.crc32(header)
    target.write(header)
    spool.seek(0)
    while part := spool.read(1 << 20):
        crc = zlib.crc32(part, crc)
        target.write(part)
    target.write(crc.to_bytes(CRC_BYTES, "little"))


def _inflated(packed: bytes, size: int, old: ModelFile) -> bytes:
    stream = zlib.decompressobj(-15, zdict=old.header_bytes()[-WINDOW:])
    try:
        raw = stream.decompress(packed, size + 1)
    except zlib.error:
        raise FormatError("the header of the new file cannot be inflated") from None
    if len(raw) != size or not stream.eof or stream.unused_data:
        raise FormatError("the header of the new file does not have the length that is announced")
    return raw


@dataclass
class _Builder:
    """Makes tensor after tensor of the new file."""

    old: ModelFile
    update: UpdateFile
    max_bytes: int

    def __post_init__(self) -> None:
        self._tools = Tools(self.old)
        self._books: dict[int, Array] = {}
        self.made: list[Entry] = []
        self._names: set[str] = set()
        self._claimed = 0

    def tensors(self, reader: Reader) -> Iterator[EncodedTensor]:
        """All tensors, as the records say."""
        entries = self.old.header.entries
        for record in RecordReader(reader, len(entries)).read(self.made):
            if record.op is Op.SAME:
                assert record.base is not None
                for entry in entries[record.base : record.base + record.count]:
                    yield self._added(entry.name, EncodedTensor(entry.info, self.old.section(entry)))
                continue
            try:
                yield self._added(record.name, self._made(record))
            except FormatError as error:
                raise FormatError(f"tensor {record.name}: {error}") from None

    def _added(self, name: str, encoded: EncodedTensor) -> EncodedTensor:
        info = encoded.info
        if name in self._names:
            raise FormatError(f"there are two tensors {name}")
        if info.target is not None and info.target >= len(self.made):
            raise FormatError(f"tensor {name} refers to tensor {info.target}, which does not come before it")
        self._claim(info)
        if info.is_shared and info.target is None:
            self._books[len(self.made)] = decode_codebook(info, memoryview(encoded.section)).copy()
        self._names.add(name)
        self.made.append(Entry(name, info, zlib.crc32(encoded.section)))
        return encoded

    def _claim(self, info: TensorInfo) -> None:
        if self._claimed + info.nbytes > self.max_bytes:
            raise FormatError(
                f"the tensors of the new file would take more than the {self.max_bytes} bytes allowed; "
                "if you trust the update, raise max_bytes (--max-bytes)"
            )
        self._claimed += info.nbytes

    def _made(self, record: Record) -> EncodedTensor:
        if record.op is Op.STORED:
            if record.info is None or record.info.section != record.bytes:
                raise FormatError(f"its layout is not that of a section of {record.bytes} bytes")
            return EncodedTensor(record.info, self.update.take(record.bytes, "a section"))
        assert record.base is not None
        base = self.old.header.entries[record.base]
        if record.op is Op.RENAMED:
            return EncodedTensor(base.info, self.old.section(base))
        stored = self.old.stored(base)
        layout = stored.info if record.info is None else record.info
        if layout.nbytes > self.max_bytes:
            self._claim(layout)
        return (self._shared if record.op is Op.SHARED else self._exact)(record, base, stored, layout)

    def _shared(self, record: Record, base: Entry, stored: Entry, layout: TensorInfo) -> EncodedTensor:
        if not (stored.info.is_shared and layout.is_shared) or stored.info.size != layout.size:
            raise FormatError(f"it cannot be told by the weights of {base.name}")
        before = content_of(self.old, stored)
        layout = with_book(layout, record.book, before)
        raw, entries = self._book(record.book, layout, before)
        old = expected(before, entries)
        reader = Reader(self.update.take(record.bytes, "changes"), "changes")
        symbols = changes.decode(reader, old, layout.shape, layout.scan, len(entries), record.changed)
        reader.end()
        return sections.shared_section(layout, Shared(symbols, entries, raw))

    def _book(self, book: Book, layout: TensorInfo, before: Content) -> tuple[bytes, Array]:
        """The bytes that are stored of a codebook, and its entries."""
        if book.op is BookOp.OWNER:
            if layout.target is None or layout.target not in self._books:
                raise FormatError("its codebook is that of no earlier tensor")
            entries = self._books[layout.target]
            owner = self.made[layout.target].info
            if (owner.dtype, owner.codebook_size) != (layout.dtype, layout.codebook_size):
                raise FormatError("its codebook is that of a tensor which is not its like")
            return b"", entries
        if book.op is BookOp.SAME:
            raw = before.raw
        elif book.op is BookOp.TOLD:
            raw = self.update.take(book.bytes, "codebook")
            if len(raw) != layout.book.size(layout.dtype.storage.itemsize):
                raise FormatError(f"{len(raw)} bytes are no codebook of {layout.codebook_size} entries")
        else:
            old = np.frombuffer(before.raw, dtype=book_type(before.owner))
            reader = Reader(self.update.take(book.bytes, "codebook"), "codebook")
            raw = self._tools.differences(old.itemsize).decode(reader, old, book.shift).tobytes()
            reader.end()
        if layout.dtype is not before.owner.dtype and book.op is not BookOp.TOLD:
            raise FormatError("its codebook is that of another dtype")
        return raw, codebooks.unpack(layout.book, memoryview(raw), layout.dtype.bits)

    def _exact(self, record: Record, base: Entry, stored: Entry, layout: TensorInfo) -> EncodedTensor:
        old = self._tools.elements(base)
        width = min(layout.dtype.storage.itemsize, max(WIDTHS))
        if not sections.is_exact(layout) or old.itemsize != width or old.nbytes != layout.nbytes:
            raise FormatError(f"it cannot be told by the elements of {base.name}")
        coder = self._tools.differences(width)
        reader = Reader(self.update.take(record.bytes, "differences"), "differences")
        before = coder.changed
        new = coder.decode(reader, old, record.shift)
        reader.end()
        if (coder.changed - before,) != record.changed:
            raise FormatError("the number of elements that changed is not the one that is announced")
        return sections.exact_section(layout, new.view(layout.dtype.storage).reshape(layout.shape))
