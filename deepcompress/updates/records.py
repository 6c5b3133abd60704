"""What the facts of an update say of one tensor of the new file: docs/update-format.md, section 3."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from deepcompress.coding.bits import Reader, unzigzag, varint, zigzag
from deepcompress.coding.forms import StoredCodebook, read_fields
from deepcompress.coding.tensors import TensorInfo
from deepcompress.container import version3
from deepcompress.container.entries import MAX_NAME, MAX_TENSORS, Entry, is_printable
from deepcompress.errors import FormatError
from deepcompress.updates.container import Names

_MAX_SHIFT = 63
_MAX_LAYOUT = 1 << 10
_VERSION = 3  # of headers, whose words an update has for layouts and codebooks


class Op(IntEnum):
    """What a tensor is made of; the numbers are part of the format."""

    SAME = 0  # this old tensor, and so many after it, under their names
    RENAMED = 1  # an old tensor under another name
    STORED = 2  # a section as it is in a .dc file
    SHARED = 3  # symbols given those of an old tensor
    EXACT = 4  # elements given those of an old tensor


class BookOp(IntEnum):
    """Where the codebook of a SHARED tensor comes from."""

    SAME = 0  # the old tensor's section
    TOLD = 1  # the payload
    MOVED = 2  # the old entries, and differences in the payload
    OWNER = 3  # an earlier tensor, which the layout names


@dataclass(frozen=True)
class Book:
    """What is told of a codebook.

    Attributes:
        op: where it comes from.
        stored: what a header says of one that is TOLD.
        shift: all differences of one that has MOVED are multiples of two to this.
        bytes: of the payload.
    """

    op: BookOp
    stored: StoredCodebook | None = None
    shift: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Record:
    """One tensor of the new file, or a run of them that are SAME.

    Attributes:
        op: what it is made of.
        name: fully qualified; empty for a run.
        base: number of the old tensor; None for one that is STORED.
        count: tensors of a run.
        info: its layout, if that is told and not the old one's.
        book: codebook of a SHARED tensor.
        changed: of a SHARED tensor, how many weights came back, fell, and became another entry; of an EXACT one, how
            many elements are others.
        shift: all differences of an EXACT tensor are multiples of two to this.
        bytes: of its payload, but for the codebook.
    """

    op: Op
    name: str = ""
    base: int | None = None
    count: int = 1
    info: TensorInfo | None = None
    book: Book = field(default_factory=lambda: Book(BookOp.SAME))
    changed: tuple[int, ...] = ()
    shift: int = 0
    bytes: int = 0


class Records:
    """Packs records one after the other; what they have in common with those before is not said again."""

    def __init__(self) -> None:
        self._names = Names()
        self._next = 0  # old tensor that is expected

    def pack(self, record: Record) -> bytes:
        """The bytes of the next record."""
        out = bytes([record.op])
        if record.op is not Op.SAME:
            out += self._names.pack(record.name)
        if record.base is not None:
            out += varint(zigzag(record.base - self._next))
            self._next = record.base + record.count
        if record.op is Op.SAME:
            out += varint(record.count)
        if record.op is Op.STORED:
            return out + _pack_info(record.info) + varint(record.bytes)
        if record.op in (Op.SHARED, Op.EXACT):
            out += _pack_info(record.info)
            out += _pack_book(record.book) if record.op is Op.SHARED else varint(record.shift)
            out += b"".join(map(varint, record.changed)) + varint(record.bytes)
        return out


class RecordReader:
    """The inverse of `Records`. Bases are numbers below `old`; without the old file, layouts are passed over."""

    def __init__(self, reader: Reader, old: int | None = None) -> None:
        self._reader, self._old = reader, MAX_TENSORS if old is None else old
        self._is_known = old is not None
        self._names = Names()
        self._next = 0

    def read(self, earlier: Sequence[Entry]) -> Iterator[Record]:
        """All records. What layouts refer to is looked up in `earlier`, to which the caller adds each tensor."""
        while len(self._reader):
            yield self._read(earlier)

    def _read(self, earlier: Sequence[Entry]) -> Record:
        reader = self._reader
        number = reader.byte("what a tensor is made of")
        if number > max(Op):
            raise FormatError(f"a tensor is made in the way {number}, which is unknown; known are 0 to {max(Op)}")
        op = Op(number)
        name = "" if op is Op.SAME else self._read_name()
        if op is Op.STORED:
            info = self._read_info(name, earlier)
            return Record(op, name, info=info, bytes=reader.varint("length of a section"))
        base = self._read_base()
        if op is Op.SAME:
            count = reader.varint("number of unchanged tensors", self._old - base)
            self._next = base + count
            if not count:
                raise FormatError("a run of no unchanged tensors")
            return Record(op, base=base, count=count)
        self._next = base + 1
        if op is Op.RENAMED:
            return Record(op, name, base)
        info = self._read_info(name, earlier)
        book = self._read_book(name) if op is Op.SHARED else Book(BookOp.SAME)
        shift = reader.varint("shift", _MAX_SHIFT) if op is Op.EXACT else 0
        changed = tuple(reader.varint("number of changes") for _ in range(3 if op is Op.SHARED else 1))
        return Record(op, name, base, 1, info, book, changed, shift, reader.varint("length of a payload"))

    def _read_name(self) -> str:
        raw = self._names.read(self._reader, MAX_NAME)
        name = raw.decode("utf-8", errors="replace")
        if not name or name.encode("utf-8") != raw or not is_printable(name):
            raise FormatError(f"a tensor's name {name!a} is empty, not UTF-8, or cannot be printed")
        return name

    def _read_info(self, name: str, earlier: Sequence[Entry]) -> TensorInfo | None:
        raw = Reader(self._reader.take(self._reader.varint("length of a layout", _MAX_LAYOUT), "layout"), "layout")
        if not len(raw) or not self._is_known:
            return None
        info = version3.read_info(raw, name, earlier)
        raw.end()
        return info

    def _read_base(self) -> int:
        base = self._next + unzigzag(self._reader.varint("old tensor", 2 * MAX_TENSORS))
        if not 0 <= base < self._old:
            raise FormatError(f"it is made of the old tensor {base}, of which there are {self._old}")
        return base

    def _read_book(self, name: str) -> Book:
        reader = self._reader
        number = reader.byte("codebook")
        if number > max(BookOp):
            raise FormatError(f"tensor {name}: its codebook is made in the way {number}, which is unknown")
        op = BookOp(number)
        if op is BookOp.MOVED:
            return Book(op, shift=reader.varint("shift", _MAX_SHIFT), bytes=reader.varint("length of a codebook"))
        if op is not BookOp.TOLD:
            return Book(op)
        try:
            stored = read_fields(reader, _VERSION)
        except FormatError as error:
            raise FormatError(f"tensor {name}: {error}") from None
        if not isinstance(stored, StoredCodebook):
            raise FormatError(f"tensor {name}: a codebook is told as that of another tensor")
        return Book(op, stored, bytes=reader.varint("length of a codebook"))


def _pack_info(info: TensorInfo | None) -> bytes:
    raw = b"" if info is None else version3.pack_info(info)
    return varint(len(raw)) + raw


def _pack_book(book: Book) -> bytes:
    out = bytes([book.op])
    if book.op is BookOp.MOVED:
        return out + varint(book.shift) + varint(book.bytes)
    if book.stored is None:
        return out
    return out + book.stored.pack(_VERSION) + varint(book.bytes)
