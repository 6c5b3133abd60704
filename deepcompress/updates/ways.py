"""What tells a tensor of the new file by one of the old file: a record, and its payload (docs/update-format.md).

A way is None where it tells no such tensor, or not in fewer bytes than the section has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from deepcompress.coding.layouts.ranked import Multiples, Numbers, Ranked, Ranks
from deepcompress.coding.tensors import EncodedTensor, TensorInfo
from deepcompress.container.entries import Entry
from deepcompress.container.reader import ModelFile
from deepcompress.errors import FormatError
from deepcompress.updates import changes, fits, sections
from deepcompress.updates.content import Content, content_of, expected
from deepcompress.updates.differences import shift_of
from deepcompress.updates.models import Tools, book_type, elements_of, scan_of, with_book, with_scales
from deepcompress.updates.numbers import is_told, steps_of, tell_scales
from deepcompress.updates.records import Book, BookOp, ModelOp, Op, Record
from deepcompress.updates.sections import Shared

Array = np.ndarray[Any, np.dtype[Any]]
Told = tuple[Record, bytes]


@dataclass(frozen=True)
class Pair:
    """A tensor of the new file, and the one that it is told by.

    Attributes:
        entry, new: the tensor, and its file.
        section: its bytes.
        base, old: the other one, and its file.
    """

    entry: Entry
    new: ModelFile
    section: bytes
    base: Entry
    old: ModelFile

    @property
    def stored(self) -> Entry:
        """The old tensor that has the section of the base."""
        return self.old.stored(self.base)

    @property
    def number(self) -> int:
        """That of the base."""
        return self.old.number(self.base.name)


def tell(pair: Pair, tools: Tools) -> Told | None:
    """The shortest that is known of a tensor. What `tools` learn on the way stays where it is told."""
    info, known = pair.entry.info, tools.coders
    tools.coders = known.copy()
    if isinstance(info.layout, Multiples):
        found = _multiples(pair, info.layout, tools)
    elif info.is_shared:
        found = (_ranks if isinstance(info.layout, Ranks) else _shared)(pair, tools)
    else:
        found = _exact(pair, tools)
    if found is not None and len(found[1]) < len(pair.section):
        return found
    tools.coders = known
    return None


def _is_shared(pair: Pair) -> bool:
    return pair.stored.info.is_shared and pair.entry.info.size == pair.base.info.size


def _shared(pair: Pair, tools: Tools) -> Told | None:
    if not _is_shared(pair):
        return None
    entry, stored = pair.entry, pair.stored
    before, after = content_of(pair.old, stored), content_of(pair.new, entry)
    book, told = _book(before, after, entry.info, tools)
    raw = b"" if book.op is BookOp.OWNER else after.raw
    content = Shared(after.symbols, after.codebook, raw)
    for info in (None, entry.info):
        made = with_book(stored.info if info is None else info, book, before)
        if (made.shape, made.dtype) != (entry.info.shape, entry.info.dtype):
            continue
        if _gives(partial(sections.shared_section, made, content), EncodedTensor(entry.info, pair.section)):
            old = expected(before, after.codebook)
            payload = changes.encode(after.symbols, old, entry.info.shape, scan_of(entry.info), len(after.codebook))
            changed = changes.count(after.symbols, old)
            record = Record(Op.SHARED, entry.name, pair.number, 1, info, book, changed, bytes=len(payload))
            return record, told + payload
    return None


def _exact(pair: Pair, tools: Tools) -> Told | None:
    if not sections.is_exact(pair.entry.info):
        return None
    entry = pair.entry
    values, dtype = pair.new.read(entry.name)
    new, old = elements_of(values, dtype), tools.elements(pair.base)
    if old.dtype != new.dtype or len(old) != len(new):
        return None
    for info in (None, entry.info):
        made = pair.stored.info if info is None else info
        if not sections.is_exact(made) or (made.shape, made.dtype) != (entry.info.shape, dtype):
            continue
        if _gives(partial(sections.exact_section, made, values), EncodedTensor(entry.info, pair.section)):
            shift = shift_of(new, old)
            payload = tools.coders.encode(new, old, shift)
            changed = (int(np.count_nonzero(new != old)),)
            record = Record(
                Op.EXACT, entry.name, pair.number, 1, info, changed=changed, shift=shift, bytes=len(payload)
            )
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
    learned = tools.coders.copy()
    payload = learned.encode(elements, others, shift)
    if len(payload) >= len(after.raw):
        return told
    tools.coders = learned
    return Book(BookOp.MOVED, shift=shift, bytes=len(payload)), payload


# Layout 8 ------------------------------------------------------------------------------------------------------


def _ranks(pair: Pair, tools: Tools) -> Told | None:
    if not _is_shared(pair):
        return None
    before, after = content_of(pair.old, pair.stored), content_of(pair.new, pair.entry)
    book, told = _book(before, after, pair.entry.info, tools)
    old, entries = expected(before, after.codebook), len(after.codebook)
    made = with_book(pair.stored.info, book, before)
    return _numbers(pair, tools, (book, told), (after.symbols, old, entries), made)


def _multiples(pair: Pair, layout: Multiples, tools: Tools) -> Told | None:
    info, base = pair.entry.info, pair.base.info
    if (base.size, base.dtype) != (info.size, info.dtype) or not is_told(layout.scales):
        return None
    book, told = _scales(pair, layout, tools)
    steps = steps_of(info, pair.section[: layout.scales.length])
    new, old = steps.symbols(pair.new.read(pair.entry.name)[0]), steps.symbols(tools.floats(pair.base))
    made = pair.stored.info
    if isinstance(made.layout, Multiples):
        made = with_scales(made, layout.scales)
    return _numbers(pair, tools, (book, told), (new, old, steps.entries), made)


def _scales(pair: Pair, layout: Multiples, tools: Tools) -> tuple[Book, bytes]:
    """What is told of scales, and its payload."""
    raw, before = pair.section[: layout.scales.length], pair.stored.info.layout
    told = Book(BookOp.TOLD, layout.scales, bytes=len(raw)), raw
    if not isinstance(before, Multiples):
        return told
    old = pair.old.section(pair.stored)[: before.scales.length]
    if (before.scales, old) == (layout.scales, raw):
        return Book(BookOp.SAME), b""
    learned = tools.coders.copy()
    payload = tell_scales(raw, old, (pair.entry.info.shape[0], pair.base.info.shape[0]), learned)
    if payload is None or len(payload) >= len(raw):
        return told
    tools.coders = learned
    return Book(BookOp.SCALED, replace(layout.scales, length=0), bytes=len(payload)), payload


def _numbers(
    pair: Pair, tools: Tools, book: tuple[Book, bytes], symbols: tuple[Array, Array, int], made: TensorInfo
) -> Told:
    """A tensor of layout 8.

    Args:
        pair, tools: as in `tell`.
        book: what is told of the codebook or the scales, and its payload.
        symbols: the new ones, what is expected of them, and how many a symbol can be beside 0.
        made: the layout of the base, with the new codebook or scales.
    """
    info = pair.entry.info
    new, old, entries = symbols
    payload = changes.encode(new, old, info.shape, scan_of(info), entries)
    way, model = _model(pair, tools)
    told = None if _without_lengths(made) == _without_lengths(info) else info
    record = Record(
        Op.NUMBERS, pair.entry.name, pair.number, 1, told, book[0], changes.count(new, old), 0, (way, len(model)),
        len(payload),
    )  # fmt: skip
    return record, book[1] + payload + model


def _model(pair: Pair, tools: Tools) -> tuple[ModelOp, bytes]:
    """What is told of a model, and its payload."""
    info, layout, before = pair.entry.info, pair.entry.info.layout, pair.stored.info.layout
    assert isinstance(layout, Ranked)
    raw = layout.model_in(pair.section)
    if not isinstance(before, Ranked):
        return ModelOp.TOLD, raw
    learned = tools.coders.copy()
    payload = fits.tell(raw, info, before.model_in(pair.old.section(pair.stored)), pair.stored.info, learned)
    if payload is None or len(payload) >= len(raw):
        return ModelOp.TOLD, raw
    tools.coders = learned
    return ModelOp.MOVED, payload


def _without_lengths(info: TensorInfo) -> TensorInfo:
    """The facts of a tensor, without what follows from numbers and model."""
    if not isinstance(info.layout, (Ranks, Multiples)):
        return info
    return replace(info, layout=replace(info.layout, nonzeros=0, numbers=Numbers(0, 0)))
