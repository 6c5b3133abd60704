"""What the facts of an update say of a piece of a checkpoint: docs/update-format.md, section 7.

Only who makes an update knows what a checkpoint is. Who applies it sees bytes, so that a file of any container comes
back bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import BinaryIO

from deepcompress.coding.bits import Reader, unzigzag, varint, zigzag
from deepcompress.errors import FormatError
from deepcompress.updates.container import Names
from deepcompress.updates.differences import BLOCK, WIDTHS

SEGMENT = 16 * BLOCK  # bytes of a file that are looked at at once
MAX_NAME = 1 << 12


class PieceOp(IntEnum):
    """What a piece is made of; the numbers are part of the format."""

    COPY = 0  # bytes of the old file
    TOLD = 1  # the payload
    DEFLATED = 2  # the payload, which may refer to bytes of the old file
    PLANES = 3  # byte planes
    DIFFERENCES = 4  # elements given those of the old file


@dataclass(frozen=True)
class Piece:
    """So many bytes of the new file.

    Attributes:
        op: what they are made of.
        length: how many.
        name: of the tensor, if they are one.
        base: where the old bytes are that they are told by.
        known: how many of those there are; beyond them, old elements are 0.
        width: bytes of an element.
        shift: all differences are multiples of two to this.
        changed: elements that are not the old ones.
        bytes: of the payload.
    """

    op: PieceOp
    length: int
    name: str = ""
    base: int = 0
    known: int = 0
    width: int = 1
    shift: int = 0
    changed: int = 0
    bytes: int = 0


class Pieces:
    """Packs pieces, and reads them: what they have in common with those before is not said again."""

    def __init__(self) -> None:
        self._names = Names()
        self._next = 0

    def pack(self, piece: Piece) -> bytes:
        """The bytes of the next piece."""
        out = bytes([piece.op]) + varint(piece.length)
        if piece.op is not PieceOp.COPY:
            out += self._names.pack(piece.name)
        if piece.op in (PieceOp.COPY, PieceOp.DEFLATED, PieceOp.DIFFERENCES):
            out += varint(zigzag(piece.base - self._next))
            self._next = piece.base + piece.length
        if piece.op in (PieceOp.DEFLATED, PieceOp.DIFFERENCES):
            out += varint(piece.known)
        if piece.op in (PieceOp.PLANES, PieceOp.DIFFERENCES):
            out += bytes([piece.width])
        if piece.op is PieceOp.DIFFERENCES:
            out += varint(piece.shift) + varint(piece.changed)
        return out if piece.op in (PieceOp.COPY, PieceOp.TOLD) else out + varint(piece.bytes)

    def read(self, reader: Reader, old_bytes: int | None) -> Piece:
        """The next piece; its old bytes are among `old_bytes`, if that is known.

        Raises:
            FormatError: it is not as it should be.
        """
        number = reader.byte("what a piece is made of")
        if number > max(PieceOp):
            raise FormatError(f"a piece is made in the way {number}, which is unknown; known are 0 to {max(PieceOp)}")
        op = PieceOp(number)
        length = reader.varint("length of a piece")
        name, base, known, width, shift, changed = "", 0, 0, 1, 0, 0
        if op is not PieceOp.COPY:
            name = self._names.read(reader, MAX_NAME).decode("utf-8", errors="replace")
        if op in (PieceOp.COPY, PieceOp.DEFLATED, PieceOp.DIFFERENCES):
            base = self._next + unzigzag(reader.varint("old bytes"))
            self._next = base + length
        if op in (PieceOp.DEFLATED, PieceOp.DIFFERENCES):
            known = reader.varint("number of old bytes")
        known = length if op is PieceOp.COPY else known
        if op in (PieceOp.PLANES, PieceOp.DIFFERENCES):
            width = reader.byte("bytes of an element")
        if op is PieceOp.DIFFERENCES:
            shift, changed = reader.varint("shift", 63), reader.varint("number of changes")
        size = 0 if op is PieceOp.COPY else length if op is PieceOp.TOLD else reader.varint("length of a payload")
        if width not in WIDTHS or length % width or known % width or base < 0:
            raise FormatError(f"a piece of {length} bytes has elements of {width}, or begins before the old file")
        if old_bytes is not None and base + known > old_bytes:
            raise FormatError(f"a piece refers to byte {base + known} of the old file, which has {old_bytes}")
        return Piece(op, length, name, base, known, width, shift, changed, size)


def segments(stream: BinaryIO, start: int, length: int, step: int = SEGMENT) -> Iterator[bytes]:
    """So many bytes of a file, `step` at a time."""
    for at in range(0, length, step):
        yield bytes_at(stream, start + at, min(step, length - at))


def bytes_at(stream: BinaryIO, start: int, length: int) -> bytes:
    """So many bytes of a file.

    Raises:
        FormatError: there are not so many.
    """
    stream.seek(start)
    found = stream.read(length)
    if len(found) != length:
        raise FormatError("a file became shorter while it was read")
    return found


def known_bytes(old: BinaryIO, start: int, known: int, at: int, length: int) -> bytes:
    """Old bytes from `at` on, and zeros where there are none."""
    there = max(0, min(length, known - at))
    return (bytes_at(old, start + at, there) if there else b"").ljust(length, b"\0")
