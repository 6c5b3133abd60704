"""Making the update from one .dc file to another, tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import BinaryIO

import numpy as np

from deepcompress.coding.bits import varint
from deepcompress.coding.tensors import EncodedTensor, TensorInfo
from deepcompress.container import deflate
from deepcompress.container.entries import Entry
from deepcompress.container.format import pack_header
from deepcompress.container.reader import ModelFile
from deepcompress.errors import FormatError
from deepcompress.updates import changes, sections
from deepcompress.updates.container import WINDOW
from deepcompress.updates.content import Content, content_of, expected
from deepcompress.updates.differences import shift_of
from deepcompress.updates.models import (
    HEADER,
    LABELS,
    Tools,
    book_type,
    elements_of,
    pack_labels,
    scan_of,
    with_book,
)
from deepcompress.updates.records import Book, BookOp, Op, Record, Records
from deepcompress.updates.sections import Shared


def make(old: ModelFile, new: ModelFile, payload: BinaryIO) -> bytes:
    """The facts of the update from one file to the other; payloads are written to `payload`."""
    before, after = old.header, new.header
    flags, labels = 0, b""
    if (before.network, before.data, before.extensions) != (after.network, after.data, after.extensions):
        flags, labels = LABELS, pack_labels(after)
    if pack_header(after) != (raw := new.header_bytes()):
        flags |= HEADER
        packed = deflate.by_zlib(raw, old.header_bytes()[-WINDOW:])
        labels += varint(len(raw)) + varint(len(packed))
        payload.write(packed)
    maker = _Maker(old, new)
    out, records = [bytes([flags]), labels], Records()
    for record, part in maker.records():
        out.append(records.pack(record))
        payload.write(part)
    return b"".join(out)


class _Maker:
    """Looks at tensor after tensor of the new file, and finds what tells it in the fewest bytes."""

    def __init__(self, old: ModelFile, new: ModelFile) -> None:
        self._tools, self._old, self._new = Tools(old), old, new
        self._bases = _bases(old, new)

    def records(self) -> Iterator[tuple[Record, bytes]]:
        """What is told of all tensors, and their payloads."""
        run: Record | None = None
        for record, payload in map(self._told, self._new.header.entries):
            if run and run.base is not None and record.op is Op.SAME and run.base + run.count == record.base:
                run = replace(run, count=run.count + 1)
                continue
            if run:
                yield run, b""
            run = record if record.op is Op.SAME else None
            if not run:
                yield record, payload
        if run:
            yield run, b""

    def _is_same(self, entry: Entry, base: Entry) -> bool:
        return entry.info == base.info and self._new.section(entry) == self._old.section(base)

    def _told(self, entry: Entry) -> tuple[Record, bytes]:
        base = self._bases.get(entry.name)
        if base is not None and self._is_same(entry, base):
            number = self._old.number(base.name)
            is_renamed = base.name != entry.name
            return Record(Op.RENAMED, entry.name, number) if is_renamed else Record(Op.SAME, base=number), b""
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
        content = Shared(after.symbols, after.codebook, raw)
        for info in (None, entry.info):
            made = with_book(stored.info if info is None else info, book, before)
            if (made.shape, made.dtype) != (entry.info.shape, entry.info.dtype):
                continue
            if _gives(partial(sections.shared_section, made, content), EncodedTensor(entry.info, section)):
                old = expected(before, after.codebook)
                payload = changes.encode(after.symbols, old, entry.info.shape, scan_of(entry.info), len(after.codebook))
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
            made = self._old.stored(base).info if info is None else info
            if not sections.is_exact(made) or (made.shape, made.dtype) != (entry.info.shape, dtype):
                continue
            if _gives(partial(sections.exact_section, made, values), EncodedTensor(entry.info, section)):
                shift = shift_of(new, old)
                coder = self._tools.coders.of(new.itemsize).copy()
                payload = coder.encode(new, old, shift)
                if len(payload) >= len(section):
                    return None
                self._tools.coders.keep(coder)
                changed = (int(np.count_nonzero(new != old)),)
                number = self._old.number(base.name)
                record = Record(Op.EXACT, entry.name, number, 1, info, changed=changed, shift=shift, bytes=len(payload))
                return record, payload
        return None


def _gives(write: Callable[[], EncodedTensor], wanted: EncodedTensor) -> bool:
    """Whether a tensor comes out as it is in the file."""
    try:
        return write() == wanted
    except FormatError:
        return False


def _book(before: Content, after: Content, info: TensorInfo, tools: Tools) -> tuple[Book, bytes]:
    """What is told of a codebook, and its payload."""
    if info.target is not None:
        return Book(BookOp.OWNER), b""
    dtype_stays = before.dtype is after.dtype
    if (before.stored, before.raw) == (after.stored, after.raw) and dtype_stays:
        return Book(BookOp.SAME), b""
    told = Book(BookOp.TOLD, after.stored, bytes=len(after.raw)), after.raw
    if before.stored != after.stored or after.stored.form.is_grid or not dtype_stays:
        return told
    elements, others = (np.frombuffer(raw, dtype=book_type(after)) for raw in (after.raw, before.raw))
    shift = shift_of(elements, others)
    coder = tools.coders.of(elements.itemsize).copy()
    payload = coder.encode(elements, others, shift)
    if len(payload) >= len(after.raw):
        return told
    tools.coders.keep(coder)
    return Book(BookOp.MOVED, shift=shift, bytes=len(payload)), payload


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
