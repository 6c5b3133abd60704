"""What the facts of an update say of one tensor of the new file: docs/update-format.md, section 3."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from deepcompress.coding.bits import Reader, unzigzag, varint, zigzag
from deepcompress.coding.forms import Form, RowScales, SharedCodebook, StoredCodebook, read_fields
from deepcompress.coding.tensors import TensorInfo
from deepcompress.container import version3
from deepcompress.container.entries import MAX_NAME, MAX_TENSORS, Entry, is_printable
from deepcompress.errors import FormatError
from deepcompress.updates.container import Names

_MAX_SHIFT = 63
_MAX_MULTIPLE = 1 << 20
_MAX_LAYOUT = 1 << 10
_VERSION = 3  # of headers, whose words an update has for layouts and codebooks


class Op(IntEnum):
    """What a tensor is made of; the numbers are part of the format."""

    SAME = 0  # this old tensor, and so many after it, under their names
    RENAMED = 1  # an old tensor under another name
    STORED = 2  # a section as it is in a .dc file
    SHARED = 3  # symbols given those of an old tensor
    EXACT = 4  # elements given those of an old tensor
    NUMBERS = 5  # symbols given those of an old tensor, and the model that codes them in the new file


#: The last way of each version of updates.
LAST = {1: Op.EXACT, 2: Op.NUMBERS}


class BookOp(IntEnum):
    """Where the codebook, or the scales, of a tensor come from that is SHARED or NUMBERS."""

    SAME = 0  # the old tensor's section
    TOLD = 1  # the payload
    MOVED = 2  # the old entries, and differences in the payload
    OWNER = 3  # an earlier tensor, which the layout names
    SCALED = 4  # of NUMBERS: the scale in the payload, and the old exponents with differences


class ModelOp(IntEnum):
    """Where the model of NUMBERS comes from."""

    TOLD = 0  # the payload
    MOVED = 1  # that of the old tensor, and differences in the payload


@dataclass(frozen=True)
class Book:
    """What is told of a codebook, or of the scales of rows.

    Attributes:
        op: where it comes from.
        stored: what a header says of one that is TOLD, or of scales that are SCALED, without their length.
        shift: all differences of one that has MOVED are multiples of two to this.
        bytes: of the payload.
    """

    op: BookOp
    stored: StoredCodebook | RowScales | None = None
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
        book: codebook or scales of a tensor that is SHARED or NUMBERS.
        changed: of these, how many weights came back, fell, and became another entry; of an EXACT one, how many
            elements are others.
        shift: all differences of an EXACT tensor are multiples of two to this.
        model: where that of NUMBERS comes from, and its bytes in the payload.
        bytes: of its payload, without the codebook and the model.
    """

    op: Op
    name: str = ""
    base: int | None = None
    count: int = 1
    info: TensorInfo | None = None
    book: Book = field(default_factory=lambda: Book(BookOp.SAME))
    changed: tuple[int, ...] = ()
    shift: int = 0
    model: tuple[ModelOp, int] = (ModelOp.TOLD, 0)
    bytes: int = 0


class Records:
    """Packs records one after the other; what they have in common with those before is not said again.

    Attributes:
        version: the first version of updates that has all of them.
    """

    def __init__(self) -> None:
        self.version = min(LAST)
        self._names = Names()
        self._next = 0  # old tensor that is expected

    def pack(self, record: Record) -> bytes:
        """The bytes of the next record."""
        self.version = max(self.version, next(version for version in LAST if record.op <= LAST[version]))
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
        if record.op in (Op.SAME, Op.RENAMED):
            return out
        out += _pack_info(record.info)
        out += varint(record.shift) if record.op is Op.EXACT else _pack_book(record.book)
        out += b"".join(map(varint, record.changed)) + varint(record.bytes)
        if record.op is Op.NUMBERS:
            out += bytes([record.model[0]]) + varint(record.model[1])
        return out


class RecordReader:
    """The inverse of `Records`. Bases are numbers below `old`; without the old file, layouts are passed over."""

    def __init__(self, reader: Reader, version: int, old: int | None = None) -> None:
        self._last = LAST[version]
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
        if number > self._last:
            raise FormatError(f"a tensor is made in the way {number}, which is unknown; known are 0 to {self._last}")
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
        is_exact = op is Op.EXACT
        book = Book(BookOp.SAME) if is_exact else self._read_book(name, op is Op.NUMBERS)
        shift = reader.varint("shift", _MAX_SHIFT) if is_exact else 0
        changed = tuple(reader.varint("number of changes") for _ in range(1 if is_exact else 3))
        length = reader.varint("length of a payload")
        model = self._read_model(name) if op is Op.NUMBERS else (ModelOp.TOLD, 0)
        return Record(op, name, base, 1, info, book, changed, shift, model, length)

    def _read_model(self, name: str) -> tuple[ModelOp, int]:
        number = self._reader.byte("model")
        if number > max(ModelOp):
            raise FormatError(f"tensor {name}: its model is made in the way {number}, which is unknown")
        return ModelOp(number), self._reader.varint("length of the model")

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

    def _read_book(self, name: str, may_scale: bool) -> Book:
        reader = self._reader
        number = reader.byte("codebook")
        if number > (BookOp.SCALED if may_scale else BookOp.OWNER):
            raise FormatError(f"tensor {name}: its codebook is made in the way {number}, which is unknown")
        op = BookOp(number)
        if op is BookOp.MOVED:
            return Book(op, shift=reader.varint("shift", _MAX_SHIFT), bytes=reader.varint("length of a codebook"))
        if op is BookOp.SCALED:
            low, high = (unzigzag(reader.varint("multiple of a scale", _MAX_MULTIPLE)) for _ in range(2))
            return Book(op, RowScales(low, high, 0), bytes=reader.varint("length of the scales"))
        if op is not BookOp.TOLD:
            return Book(op)
        try:
            stored = read_fields(reader, _VERSION, Form.ROWS if may_scale else Form.GRID_BFLOAT)
        except FormatError as error:
            raise FormatError(f"tensor {name}: {error}") from None
        if isinstance(stored, SharedCodebook):
            raise FormatError(f"tensor {name}: a codebook is told as that of another tensor")
        told = stored.length if isinstance(stored, RowScales) else reader.varint("length of a codebook")
        return Book(op, stored, bytes=told)


def _pack_info(info: TensorInfo | None) -> bytes:
    raw = b"" if info is None else version3.pack_info(info)
    return varint(len(raw)) + raw


def _pack_book(book: Book) -> bytes:
    out = bytes([book.op])
    if book.op is BookOp.MOVED:
        return out + varint(book.shift) + varint(book.bytes)
    if isinstance(book.stored, StoredCodebook):
        return out + book.stored.pack(_VERSION) + varint(book.bytes)
    if book.stored is None:
        return out
    if book.op is BookOp.TOLD:
        return out + book.stored.pack()
    return out + varint(zigzag(book.stored.low)) + varint(zigzag(book.stored.high)) + varint(book.bytes)
