"""Writing a .dc file from the one before it and what an update tells of its tensors."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import numpy as np

from deepcompress.coding import codebooks
from deepcompress.coding.bits import Reader
from deepcompress.coding.forms import RowScales, StoredCodebook
from deepcompress.coding.layouts.coded import Coded, decode_codebook
from deepcompress.coding.layouts.ranked import Multiples, Ranked, Ranks
from deepcompress.coding.tensors import EncodedTensor, TensorInfo
from deepcompress.container import deflate
from deepcompress.container.entries import CRC_BYTES, Entry, Header
from deepcompress.container.format import pack_header
from deepcompress.container.reader import ModelFile
from deepcompress.errors import FormatError
from deepcompress.updates import changes, fits, sections
from deepcompress.updates.container import WINDOW, UpdateFile
from deepcompress.updates.content import Content, content_of, expected
from deepcompress.updates.differences import WIDTHS
from deepcompress.updates.models import Tools, book_type, read_head, scan_of, with_book, with_scales
from deepcompress.updates.numbers import read_scales, steps_of
from deepcompress.updates.records import Book, BookOp, ModelOp, Op, Record, RecordReader
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
    header = b""
    if head.header[0]:
        packed = update.take(head.header[1], "header")
        header = deflate.expand(packed, head.header[0], "header of the new file", old.header_bytes()[-WINDOW:])
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
        for record in RecordReader(reader, self.update.version, len(entries)).read(self.made):
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
        info = stored.info if record.info is None else record.info
        if info.nbytes > self.max_bytes:
            self._claim(info)
        if record.op is Op.SHARED:
            return sections.shared_section(*self._shared(record, base, stored, info))
        if record.op is Op.NUMBERS:
            return self._numbers(record, base, stored, info)
        return self._exact(record, base, info)

    def _shared(self, record: Record, base: Entry, stored: Entry, info: TensorInfo) -> tuple[TensorInfo, Shared]:
        if not (stored.info.is_shared and info.is_shared) or stored.info.size != info.size:
            raise FormatError(f"it cannot be told by the weights of {base.name}")
        before = content_of(self.old, stored)
        info = with_book(info, record.book, before)
        raw, codebook = self._book(record.book, info, before)
        symbols = self._symbols(record, info, expected(before, codebook), len(codebook))
        return info, Shared(symbols, codebook, raw)

    def _symbols(self, record: Record, info: TensorInfo, old: Array, entries: int) -> Array:
        reader = Reader(self.update.take(record.bytes, "changes"), "changes")
        symbols = changes.decode(reader, old, info.shape, scan_of(info), entries, record.changed)
        reader.end()
        return symbols

    def _numbers(self, record: Record, base: Entry, stored: Entry, info: TensorInfo) -> EncodedTensor:
        if isinstance(info.layout, Ranks):
            info, content = self._shared(record, base, stored, info)
            symbols, head, negative = content.symbols, content.raw, codebooks.negatives(content.codebook)
        elif isinstance(info.layout, Multiples) and info.size == base.info.size:
            info, head = self._scales(record.book, stored, info)
            steps = steps_of(info, head)
            symbols = self._symbols(record, info, steps.symbols(self._tools.floats(base)), steps.entries)
            negative = -steps.low
        else:
            raise FormatError(f"it cannot be told by the numbers of {base.name}")
        return sections.numbers_section(info, symbols, negative, head, self._model(record, stored, info))

    def _model(self, record: Record, stored: Entry, info: TensorInfo) -> bytes:
        """The bytes of the model of a tensor of layout 8."""
        op, length = record.model
        told = self.update.take(length, "model")
        if op is ModelOp.TOLD:
            return told
        if not isinstance(stored.info.layout, Ranked):
            raise FormatError("its model is told by that of a tensor that has none")
        old = stored.info.layout.model_in(self.old.section(stored))
        return fits.read(told, info, old, stored.info, self._tools.coders)

    def _scales(self, book: Book, stored: Entry, info: TensorInfo) -> tuple[TensorInfo, bytes]:
        """The facts with their scales, and the bytes that are stored of these."""
        if book.op is BookOp.TOLD and isinstance(book.stored, RowScales):
            return with_scales(info, book.stored), self.update.take(book.bytes, "scales")
        if book.op not in (BookOp.SAME, BookOp.SCALED) or not isinstance(stored.info.layout, Multiples):
            raise FormatError("its scales are told as a codebook, or by a tensor that has none")
        before = stored.info.layout.scales
        raw = self.old.section(stored)[: before.length]
        if book.op is BookOp.SAME:
            return with_scales(info, before), raw
        assert isinstance(book.stored, RowScales)
        told = self.update.take(book.bytes, "scales")
        raw = read_scales(told, raw, (info.shape[0], stored.info.shape[0]), self._tools.coders)
        return with_scales(info, replace(book.stored, length=len(raw))), raw

    def _book(self, book: Book, info: TensorInfo, before: Content) -> tuple[bytes, Array]:
        """The bytes that are stored of a codebook, and its values as bit patterns."""
        assert isinstance(info.layout, Coded)
        stored = info.layout.codebook
        if book.op is BookOp.OWNER:
            if info.target is None or info.target not in self._books:
                raise FormatError("its codebook is that of no earlier tensor")
            if not info.layout.refers(info, self.made[info.target].info):
                raise FormatError("its codebook is that of a tensor which is not its like")
            return b"", self._books[info.target]
        assert isinstance(stored, StoredCodebook)
        if book.op is BookOp.SAME:
            raw = before.raw
        elif book.op is BookOp.TOLD:
            stored.check(info.dtype)
            raw = self.update.take(book.bytes, "codebook")
            if len(raw) != stored.length(info.itemsize):
                raise FormatError(f"{len(raw)} bytes are no codebook of {stored.count} values")
        else:
            old = np.frombuffer(before.raw, dtype=book_type(before))
            reader = Reader(self.update.take(book.bytes, "codebook"), "codebook")
            raw = self._tools.coders.of(old.itemsize).decode(reader, old, book.shift).tobytes()
            reader.end()
        if info.dtype is not before.dtype and book.op is not BookOp.TOLD:
            raise FormatError("its codebook is that of another dtype")
        return raw, codebooks.unpack(stored, memoryview(raw), info.dtype.bits)

    def _exact(self, record: Record, base: Entry, info: TensorInfo) -> EncodedTensor:
        old = self._tools.elements(base)
        width = min(info.itemsize, max(WIDTHS))
        if not sections.is_exact(info) or old.itemsize != width or old.nbytes != info.nbytes:
            raise FormatError(f"it cannot be told by the elements of {base.name}")
        coder = self._tools.coders.of(width)
        reader = Reader(self.update.take(record.bytes, "differences"), "differences")
        before = coder.changed
        new = coder.decode(reader, old, record.shift)
        reader.end()
        if (coder.changed - before,) != record.changed:
            raise FormatError("the number of elements that changed is not the one that is announced")
        return sections.exact_section(info, new.view(info.dtype.storage).reshape(info.shape))
