"""Updates of .dc files, tensor by tensor: docs/update-format.md, sections 3 to 6."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import numpy as np

from deepcompress.coding import codebooks
from deepcompress.coding.bits import Reader, varint
from deepcompress.coding.dtypes import DType
from deepcompress.coding.tensors import EncodedTensor, TensorInfo, decode_codebook
from deepcompress.container.entries import CRC_BYTES, MAX_HEADER, MAX_LABEL, Entry, Extension, Header
from deepcompress.container.format import pack_header
from deepcompress.container.reader import ModelFile
from deepcompress.errors import FormatError
from deepcompress.updates import changes, sections
from deepcompress.updates.container import UpdateFile
from deepcompress.updates.content import Content, content_of, expected
from deepcompress.updates.differences import WIDTHS, Differences, shift_of
from deepcompress.updates.records import Book, BookOp, Op, Record, RecordReader, Records
from deepcompress.updates.sections import Shared

Array = np.ndarray[Any, np.dtype[Any]]

_LABELS, _HEADER = 1, 2  # flags: labels are told, and so are the bytes of the header
_WINDOW = 1 << 15  # bytes that deflate can refer to


class Tools:
    """What coding and decoding a file's tensors have in common: they learn the same, in the same order."""

    def __init__(self, old: ModelFile) -> None:
        self.old = old
        self.entries = old.header.entries
        self._differences: dict[int, Differences] = {}

    def differences(self, width: int) -> Differences:
        """The coder of elements of this width."""
        return self._differences.setdefault(
            width, Differences(width, max((e.info.size for e in self.entries), default=0))
        )

    def keep(self, coder: Differences) -> None:
        """Go on with what this coder has learned."""
        self._differences[coder.width.itemsize] = coder

    def elements(self, entry: Entry) -> Array:
        """The elements of an old tensor, unsigned and flat, of 8 bytes at most."""
        values, dtype = self.old.read(entry.name)
        return elements_of(values, dtype)


def elements_of(values: Array, dtype: DType) -> Array:
    """Elements as unsigned integers, flat; those of 16 bytes as two each."""
    width = min(dtype.storage.itemsize, max(WIDTHS))
    return np.ascontiguousarray(values).reshape(-1).view(f"<u{width}")


# Making --------------------------------------------------------------------------------------------------------


def make(old: ModelFile, new: ModelFile, payload: BinaryIO) -> bytes:
    """The facts of the update from one file to the other; payloads are written to `payload`."""
    before, after = old.header, new.header
    flags, labels = 0, b""
    if (before.network, before.data, before.extensions) != (after.network, after.data, after.extensions):
        flags, labels = _LABELS, _pack_labels(after)
    if pack_header(after) != (raw := new.header_bytes()):
        flags |= _HEADER
        stream = zlib.compressobj(9, wbits=-15, zdict=old.header_bytes()[-_WINDOW:])
        packed = stream.compress(raw) + stream.flush()
        labels += varint(len(raw)) + varint(len(packed))
        payload.write(packed)
    maker = _Maker(old, new)
    out, records = [bytes([flags]), labels], Records()
    for record, part in maker.records():
        out.append(records.pack(record))
        payload.write(part)
    return b"".join(out)


def _pack_labels(header: Header) -> bytes:
    texts = [header.network.encode(), header.data.encode()]
    out = b"".join(varint(len(text)) + text for text in texts) + varint(len(header.extensions))
    for extension in header.extensions:
        name = extension.name.encode()
        out += varint(len(name)) + name + varint(len(extension.data)) + extension.data
    return out


class _Maker:
    """Looks at tensor after tensor of the new file, and finds what tells it in the fewest bytes."""

    def __init__(self, old: ModelFile, new: ModelFile) -> None:
        self._tools, self._old, self._new = Tools(old), old, new
        self._bases = _bases(old, new)

    def records(self) -> Iterator[tuple[Record, bytes]]:
        """What is told of all tensors, and their payloads."""
        run: Record | None = None
        for entry in self._new.header.entries:
            base = self._bases.get(entry.name)
            if base is not None and self._is_same(entry, base):
                old = self._old.number(base.name)
                if base.name != entry.name:
                    if run:
                        yield run, b""
                    run = None
                    yield Record(Op.RENAMED, entry.name, old), b""
                elif run and run.base is not None and run.base + run.count == old:
                    run = replace(run, count=run.count + 1)
                else:
                    if run:
                        yield run, b""
                    run = Record(Op.SAME, base=old)
                continue
            if run:
                yield run, b""
            run = None
            yield self._told(entry, base)
        if run:
            yield run, b""

    def _is_same(self, entry: Entry, base: Entry) -> bool:
        return entry.info == base.info and self._new.section(entry) == self._old.section(base)

    def _told(self, entry: Entry, base: Entry | None) -> tuple[Record, bytes]:
        section = self._new.section(entry)
        best = Record(Op.STORED, entry.name, info=entry.info, bytes=len(section)), section
        if base is None or entry.info.is_reference:
            return best
        if entry.info.is_shared and self._old.stored(base).info.is_shared and entry.info.size == base.info.size:
            found = self._shared(entry, base, section)
        elif sections.is_exact(entry.info):
            found = self._exact(entry, base, section)
        else:
            found = None
        return found if found is not None and len(found[1]) < len(section) else best

    def _shared(self, entry: Entry, base: Entry, section: bytes) -> tuple[Record, bytes] | None:
        stored = self._old.stored(base)
        before, after = content_of(self._old, stored), content_of(self._new, entry)
        book, told = _book(before, after, entry.info, self._tools)
        raw = b"" if book.op is BookOp.OWNER else after.raw
        content = Shared(after.symbols, after.entries, raw)
        for info in (None, entry.info):
            layout = with_book(stored.info if info is None else info, book, before)
            if layout.shape != entry.info.shape or layout.dtype != entry.info.dtype:
                continue
            if sections.shared_section(layout, content) == EncodedTensor(entry.info, section):
                old = expected(before, after.entries)
                payload = changes.encode(after.symbols, old, entry.info.shape, entry.info.scan, len(after.entries))
                changed = changes.count(after.symbols, old)
                number = self._old.number(base.name)
                record = Record(Op.SHARED, entry.name, number, 1, info, book, changed, bytes=len(payload))
                return record, told + payload
        return None

    def _exact(self, entry: Entry, base: Entry, section: bytes) -> tuple[Record, bytes] | None:
        values, dtype = self._new.read(entry.name)
        new, old = elements_of(values, dtype), self._tools.elements(base)
        if old.dtype != new.dtype or len(old) != len(new):
            return None
        for info in (None, entry.info):
            layout = self._old.stored(base).info if info is None else info
            if not sections.is_exact(layout) or (layout.shape, layout.dtype) != (entry.info.shape, dtype):
                continue
            if sections.exact_section(layout, values) == EncodedTensor(entry.info, section):
                shift = shift_of(new, old)
                coder = self._tools.differences(new.itemsize).copy()
                payload = coder.encode(new, old, shift)
                if len(payload) >= len(section):
                    return None
                self._tools.keep(coder)
                changed = (int(np.count_nonzero(new != old)),)
                number = self._old.number(base.name)
                record = Record(Op.EXACT, entry.name, number, 1, info, changed=changed, shift=shift, bytes=len(payload))
                return record, payload
        return None


def _book(before: Content, after: Content, info: TensorInfo, tools: Tools) -> tuple[Book, bytes]:
    """What is told of a codebook, and its payload."""
    if info.target is not None:
        return Book(BookOp.OWNER), b""
    new = after.owner.book
    if (before.owner.book, before.raw) == (new, after.raw) and before.owner.dtype == after.owner.dtype:
        return Book(BookOp.SAME), b""
    told = Book(BookOp.TOLD, new.count, new.form, (new.low, new.high), bytes=len(after.raw)), after.raw
    if before.owner.book != new or new.form.is_grid or before.owner.dtype != after.owner.dtype:
        return told
    elements, others = (np.frombuffer(raw, dtype=_book_type(after.owner)) for raw in (after.raw, before.raw))
    shift = shift_of(elements, others)
    coder = tools.differences(elements.itemsize).copy()
    payload = coder.encode(elements, others, shift)
    if len(payload) >= len(after.raw):
        return told
    tools.keep(coder)
    return Book(BookOp.MOVED, shift=shift, bytes=len(payload)), payload


def _book_type(info: TensorInfo) -> str:
    return "<u2" if info.form is codebooks.Form.HALVES else f"<u{info.dtype.storage.itemsize}"


def with_book(info: TensorInfo, book: Book, old: Content) -> TensorInfo:
    """The layout, with the codebook that is told beside it."""
    if book.op is BookOp.OWNER:
        return info
    if book.op is BookOp.TOLD:
        return replace(info, target=None, codebook_size=book.size, form=book.form, grid=book.grid)
    form, grid = old.owner.form, old.owner.grid
    return replace(info, target=None, codebook_size=old.owner.codebook_size, form=form, grid=grid)


def _bases(old: ModelFile, new: ModelFile) -> dict[str, Entry]:
    """For each new tensor the old one that it is told by: of its name, or else one like it whose name is gone."""
    gone = [entry for entry in old.header.entries if entry.name not in new]
    found = {}
    for entry in new.header.entries:
        if entry.name in old:
            found[entry.name] = old.entry(entry.name)
            continue
        like = [one for one in gone if (one.info.shape, one.info.dtype) == (entry.info.shape, entry.info.dtype)]
        same = [one for one in like if one.info == entry.info and old.section(one) == new.section(entry)]
        if like:
            found[entry.name] = (same or like)[0]
            gone.remove(found[entry.name])
    return found


# Applying ------------------------------------------------------------------------------------------------------


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


@dataclass(frozen=True)
class Head:
    """What the facts begin with: network, data and extensions, if others; bytes of the header, and of its payload."""

    labels: tuple[str, str, tuple[Extension, ...]] | None
    header: tuple[int, int]


def read_head(reader: Reader) -> Head:
    """The beginning of the facts.

    Raises:
        FormatError: it is not as it should be.
    """
    flags = reader.byte("flags")
    if flags > (_LABELS | _HEADER):
        raise FormatError(f"flags {flags} of the update are unknown")
    labels = _read_labels(reader) if flags & _LABELS else None
    if not flags & _HEADER:
        return Head(labels, (0, 0))
    size = reader.varint("length of the header", MAX_HEADER)
    return Head(labels, (size, reader.varint("length of the deflated header")))


def _read_labels(reader: Reader) -> tuple[str, str, tuple[Extension, ...]]:
    network, data = reader.text("network", MAX_LABEL), reader.text("data", MAX_LABEL)
    extensions = []
    for _ in range(reader.varint("number of extensions", MAX_LABEL)):
        name = reader.text("name of an extension", MAX_LABEL)
        extensions.append(Extension(name, bytes(reader.take(reader.varint("length of an extension"), name))))
    return network, data, tuple(extensions)


def _inflated(packed: bytes, size: int, old: ModelFile) -> bytes:
    stream = zlib.decompressobj(-15, zdict=old.header_bytes()[-_WINDOW:])
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
            old = np.frombuffer(before.raw, dtype=_book_type(before.owner))
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
