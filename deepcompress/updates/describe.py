"""What an update says of itself, without the old file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deepcompress.coding.bits import Reader
from deepcompress.errors import FormatError
from deepcompress.updates import models
from deepcompress.updates.container import Kind, UpdateFile
from deepcompress.updates.pieces import PieceOp, Pieces
from deepcompress.updates.records import BookOp, Op, Record, RecordReader

_BOOKS = {
    BookOp.SAME: "same",
    BookOp.TOLD: "new",
    BookOp.MOVED: "moved",
    BookOp.OWNER: "shared",
    BookOp.SCALED: "moved",
}


@dataclass(frozen=True)
class Change:
    """What an update says of one tensor, or of a run of tensors or bytes without a name.

    Attributes:
        name: fully qualified; empty where the update names none.
        what: ``unchanged``, ``renamed``, ``new``, ``shared``, ``numbers``, or ``exact`` (of a .dc file: symbols, whole
            numbers, or elements, given the old ones); ``differences``, ``planes``, ``stored``, or ``deflated`` (of a
            checkpoint).
        tensors: how many there are.
        bytes: that the update has of it, apart from its facts.
        back, fell, moved: weights that were zero, that became zero, and that became another entry of the codebook, or
            another number.
        codebook: or the scales of rows: ``same``, ``moved``, ``new``, or ``shared`` with another tensor; empty if there
            is none.
        changed: elements that are others, of an exact tensor.
        length: bytes of a piece of a checkpoint.
    """

    name: str
    what: str
    tensors: int = 1
    bytes: int = 0
    back: int | None = None
    fell: int | None = None
    moved: int | None = None
    codebook: str = ""
    changed: int | None = None
    length: int | None = None


@dataclass(frozen=True)
class Description:
    """What an update says of itself.

    Attributes:
        file, file_bytes: the update.
        old, new: the first bytes of the SHA-256 of the two files, in hexadecimal.
        kind: ``whole``, ``tensors`` (of .dc files) or ``pieces`` (of checkpoints).
        facts_bytes: of what it says, before it is deflated.
        changes: one for each tensor that it names, and for what is between them.
    """

    file: str
    file_bytes: int
    old: str
    new: str
    kind: str
    facts_bytes: int
    changes: tuple[Change, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def describe(path: str | Path) -> Description:
    """What the update at `path` says.

    Raises:
        UpdateError: there is no such file.
        FormatError: it is no update, or damaged.
    """
    with UpdateFile(path) as update:
        try:
            changes = tuple(_changes(update))
            for change in changes:
                update.skip(change.bytes, "a payload")
            if update.kind is Kind.WHOLE:
                update.skip(update.left, "the new file")
            update.end()
        except FormatError as error:
            raise FormatError(f"{path}: {error}") from None
        old, new, kind = update.old.hex(), update.new.hex(), update.kind.name.lower()
        return Description(str(path), update.file_bytes, old, new, kind, len(update.facts), changes)


def _changes(update: UpdateFile) -> Iterator[Change]:
    reader = Reader(update.facts, "facts of the update")
    if update.kind is Kind.TENSORS:
        if header := models.read_head(reader).header[1]:
            yield Change("", "header", 0, header)
        for record in RecordReader(reader, update.version).read([]):
            yield _of_record(record)
    elif update.kind is Kind.PIECES:
        reader.varint("length of the new file")
        packer = Pieces()
        while len(reader):
            piece = packer.read(reader, None)
            what = {PieceOp.COPY: "unchanged", PieceOp.TOLD: "stored"}.get(piece.op, piece.op.name.lower())
            changed = piece.changed if piece.op is PieceOp.DIFFERENCES else None
            yield Change(piece.name, what, int(bool(piece.name)), piece.bytes, changed=changed, length=piece.length)


def _of_record(record: Record) -> Change:
    if record.op is Op.SAME:
        return Change("", "unchanged", record.count)
    if record.op in (Op.SHARED, Op.NUMBERS):
        back, fell, moved = record.changed
        size, book = record.bytes + record.book.bytes + record.model[1], _BOOKS[record.book.op]
        return Change(record.name, record.op.name.lower(), 1, size, back, fell, moved, book)
    if record.op is Op.EXACT:
        return Change(record.name, "exact", 1, record.bytes, changed=record.changed[0])
    return Change(record.name, "renamed" if record.op is Op.RENAMED else "new", 1, record.bytes)
