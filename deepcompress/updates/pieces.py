"""Updates of checkpoints: pieces of a file given pieces of another, docs/update-format.md, section 7.

Only who makes an update knows what a checkpoint is. Who applies it sees bytes, so that a file of any container comes
back bit for bit.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from deepcompress.coding import planes
from deepcompress.coding.bits import Reader, varint
from deepcompress.errors import FormatError
from deepcompress.updates.container import Names, UpdateFile
from deepcompress.updates.cuts import Cut, FileKind, cuts_of
from deepcompress.updates.differences import BLOCK, WIDTHS, Differences, common_bits, shift_in

Array = np.ndarray[Any, np.dtype[Any]]

SEGMENT = 16 * BLOCK  # bytes of a file that are looked at at once
_WINDOW = 1 << 15  # bytes that deflate can refer to
_SAMPLE = 1 << 19  # bytes that are tried
_MAX_NAME = 1 << 12


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
            step = piece.base - self._next
            out += varint(2 * step if step >= 0 else -2 * step - 1)
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
            name = self._names.read(reader, _MAX_NAME).decode("utf-8", errors="replace")
        if op in (PieceOp.COPY, PieceOp.DEFLATED, PieceOp.DIFFERENCES):
            step = reader.varint("old bytes")
            base = self._next + (-(step + 1 >> 1) if step & 1 else step >> 1)
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


class _Coders:
    """The coders of differences by width: what one tensor teaches serves the next."""

    def __init__(self) -> None:
        self._found: dict[int, Differences] = {}

    def of(self, width: int, elements: int) -> Differences:
        return self._found.setdefault(width, Differences(width, elements))

    def keep(self, coder: Differences) -> None:
        self._found[coder.width.itemsize] = coder


# Making --------------------------------------------------------------------------------------------------------


def make(old: Path, new: Path, kinds: tuple[FileKind, FileKind], payload: BinaryIO) -> bytes:
    """The facts of the update from one checkpoint to the other; payloads are written to `payload`.

    Raises:
        UpdateError: a file is damaged.
    """
    with old.open("rb") as before, new.open("rb") as after:
        size = new.stat().st_size
        maker = _Maker(before, after, payload)
        plan = _plan(cuts_of(old, kinds[0]), cuts_of(new, kinds[1]), old.stat().st_size, size)
        out, packer = [varint(size)], Pieces()
        for piece in _merged(maker.told(*part) for part in plan):
            out.append(packer.pack(piece))
        return b"".join(out)


def _plan(old: list[Cut], new: list[Cut], old_size: int, new_size: int) -> Iterator[tuple[Cut, Cut]]:
    """Every piece of the new file and what it is told by: tensors by those of their names, what is between by the same.

    A tensor of a name that is new is told by one of its size whose name is gone, if there is one.
    """
    by_name = {cut.name: (cut, number) for number, cut in enumerate(old)}
    gone = [(cut, number) for number, cut in enumerate(old) if cut.name not in {one.name for one in new}]
    at, last = 0, 0
    for cut in new:
        base, number = by_name.get(cut.name, (None, -1))
        if base is None:
            found = [pair for pair in gone if (pair[0].length, pair[0].width) == (cut.length, cut.width)][:1]
            for pair in found:
                gone.remove(pair)
                base, number = pair
        between = (old[number - 1].end if number > 0 else 0, base.start) if base else (last, last)
        if cut.start > at:
            yield Cut("", at, cut.start - at, 1), Cut("", between[0], between[1] - between[0], 1)
        yield cut, base or Cut("", last, 0, cut.width)
        at, last = cut.end, base.end if base else last
    if new_size > at:
        last = old[-1].end if old else 0
        yield Cut("", at, new_size - at, 1), Cut("", last, old_size - last, 1)


def _merged(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """Copies that follow each other in both files as one."""
    run: Piece | None = None
    for piece in pieces:
        if piece.op is PieceOp.COPY:
            if run is not None and run.base + run.length == piece.base:
                run = Piece(PieceOp.COPY, run.length + piece.length, base=run.base, known=run.length + piece.length)
                continue
            if run is not None:
                yield run
            run = piece
            continue
        if run is not None:
            yield run
            run = None
        yield piece
    if run is not None:
        yield run


class _Maker:
    """Finds for each piece what tells it in the fewest bytes."""

    def __init__(self, old: BinaryIO, new: BinaryIO, payload: BinaryIO) -> None:
        self._old, self._new, self._payload = old, new, payload
        self._coders = _Coders()

    def told(self, cut: Cut, base: Cut) -> Piece:
        """The piece at `cut`, told by the old bytes at `base`; its payload is written."""
        name = cut.name if len(cut.name.encode("utf-8", errors="surrogateescape")) <= _MAX_NAME else ""
        if self._is_same(cut, base):
            return Piece(PieceOp.COPY, cut.length, base=base.start, known=cut.length)
        if not cut.name:
            return self._deflated(cut, base, name)
        width = self._width(cut, base)
        known = min(base.length, cut.length) // width * width
        known = known if base.width == cut.width else 0
        start = self._payload.tell()
        coder = self._coders.of(width, cut.length).copy()
        if known and self._gains(cut, base, known, width):
            piece = self._differences(cut, Cut(name, base.start, known, width), coder)
        else:
            piece = self._planes(cut, name, width)
        if piece.bytes >= cut.length or self._is_text(cut, base, piece):
            self._payload.seek(start)
            self._payload.truncate()
            return self._deflated(cut, base, name)
        if piece.op is PieceOp.DIFFERENCES:
            self._coders.keep(coder)
        return piece

    def _is_text(self, cut: Cut, base: Cut, piece: Piece) -> bool:
        """Whether it is rather deflated, as a pickle is and no tensor."""
        if cut.length > _WINDOW:
            return False
        window = _bytes_at(self._old, base.start, min(base.length, _WINDOW))
        stream = zlib.compressobj(9, wbits=-15, zdict=window) if window else zlib.compressobj(9, wbits=-15)
        return len(stream.compress(_bytes_at(self._new, cut.start, cut.length)) + stream.flush()) < piece.bytes

    def _is_same(self, cut: Cut, base: Cut) -> bool:
        if cut.length != base.length:
            return False
        pairs = zip(
            _segments(self._new, cut.start, cut.length), _segments(self._old, base.start, cut.length), strict=True
        )
        return all(new == old for new, old in pairs)

    def _stored(self, cut: Cut, name: str) -> Piece:
        for part in _segments(self._new, cut.start, cut.length):
            self._payload.write(part)
        return Piece(PieceOp.TOLD, cut.length, name)

    def _deflated(self, cut: Cut, base: Cut, name: str) -> Piece:
        """What is between tensors: headers, pickles, and tables of contents."""
        known = min(base.length, _WINDOW)
        start = base.start + base.length - known
        window = _bytes_at(self._old, start, known)
        stream = zlib.compressobj(9, wbits=-15, zdict=window) if known else zlib.compressobj(9, wbits=-15)
        before = self._payload.tell()
        for part in _segments(self._new, cut.start, cut.length):
            self._payload.write(stream.compress(part))
        self._payload.write(stream.flush())
        size = self._payload.tell() - before
        if size < cut.length:
            return Piece(PieceOp.DEFLATED, cut.length, name, start, known, bytes=size)
        self._payload.seek(before)
        self._payload.truncate()
        return self._stored(cut, name)

    def _width(self, cut: Cut, base: Cut) -> int:
        """Bytes of an element, found by trying where the file does not say."""
        if cut.width:
            return cut.width if cut.length % cut.width == 0 else 1
        length = min(cut.length, base.length or cut.length, _SAMPLE)
        widths = [width for width in WIDTHS if cut.length % width == 0]
        sample = _bytes_at(self._new, cut.start, length // 8 * 8)
        other = _bytes_at(self._old, base.start, len(sample)) if base.length else bytes(len(sample))

        def tried(width: int) -> int:
            kind = f"<u{width}"
            return len(Differences(width, length).encode(np.frombuffer(sample, kind), np.frombuffer(other, kind)))

        return min(widths, key=tried)

    def _gains(self, cut: Cut, base: Cut, known: int, width: int) -> bool:
        """Whether differences are smaller than byte planes, by a sample from the middle."""
        length = min(known, _SAMPLE) // width * width
        at = (known - length) // 2 // width * width
        new, old = _bytes_at(self._new, cut.start + at, length), _bytes_at(self._old, base.start + at, length)
        kind = f"<u{width}"
        coded = self._coders.of(width, cut.length).copy().encode(np.frombuffer(new, kind), np.frombuffer(old, kind))
        return len(coded) <= len(planes.encode(np.frombuffer(new, np.uint8).reshape(-1, width)))

    def _differences(self, cut: Cut, base: Cut, coder: Differences) -> Piece:
        width, kind = base.width, f"<u{base.width}"
        used = 0
        for new, old in self._pairs(cut, base):
            used |= common_bits(np.frombuffer(new, kind), np.frombuffer(old, kind))
            if used & 1:
                break
        changed, size = 0, 0
        for new, old in self._pairs(cut, base):
            elements, others = np.frombuffer(new, kind), np.frombuffer(old, kind)
            changed += int(np.count_nonzero(elements != others))
            size += self._payload.write(coder.encode(elements, others, shift_in(used)))
        return Piece(
            PieceOp.DIFFERENCES, cut.length, base.name, base.start, base.length, width, shift_in(used), changed, size
        )

    def _pairs(self, cut: Cut, base: Cut) -> Iterator[tuple[bytes, bytes]]:
        """Segments of a piece, and as many old bytes of each."""
        at = 0
        for new in _segments(self._new, cut.start, cut.length):
            yield new, _known_bytes(self._old, base.start, base.length, at, len(new))
            at += len(new)

    def _planes(self, cut: Cut, name: str, width: int) -> Piece:
        size = 0
        for part in _segments(self._new, cut.start, cut.length):
            size += self._payload.write(planes.encode(np.frombuffer(part, np.uint8).reshape(-1, width)))
        return Piece(PieceOp.PLANES, cut.length, name, width=width, bytes=size)


def _segments(stream: BinaryIO, start: int, length: int) -> Iterator[bytes]:
    for at in range(0, length, SEGMENT):
        yield _bytes_at(stream, start + at, min(SEGMENT, length - at))


def _bytes_at(stream: BinaryIO, start: int, length: int) -> bytes:
    stream.seek(start)
    found = stream.read(length)
    if len(found) != length:
        raise FormatError("the old file became shorter while it was read")
    return found


def _known_bytes(old: BinaryIO, start: int, known: int, at: int, length: int) -> bytes:
    """Old bytes from `at` on, and zeros where there are none."""
    there = max(0, min(length, known - at))
    return (_bytes_at(old, start + at, there) if there else b"").ljust(length, b"\0")


# Applying ------------------------------------------------------------------------------------------------------


def apply(old: BinaryIO, old_bytes: int, update: UpdateFile, write: Callable[[bytes], object], max_bytes: int) -> None:
    """Write the new file, piece by piece.

    Raises:
        FormatError: the update is damaged, or the new file would take more than `max_bytes`.
    """
    reader = Reader(update.facts, "facts of the update")
    left = reader.varint("length of the new file")
    if left > max_bytes:
        raise FormatError(
            f"the new file would take {left} bytes, more than the {max_bytes} allowed; "
            "if you trust the update, raise max_bytes (--max-bytes)"
        )
    packer, coders = Pieces(), _Coders()
    while len(reader):
        piece = packer.read(reader, old_bytes)
        if piece.length > left:
            raise FormatError("the pieces of the new file are longer than it")
        left -= piece.length
        _apply(piece, old, update, write, coders)
    if left:
        raise FormatError(f"{left} bytes of the new file are in no piece")
    update.end()


def _apply(piece: Piece, old: BinaryIO, update: UpdateFile, write: Callable[[bytes], object], coders: _Coders) -> None:
    if piece.op is PieceOp.COPY:
        for part in _segments(old, piece.base, piece.length):
            write(part)
    elif piece.op is PieceOp.TOLD:
        update.copy(piece.length, write, "a piece")
    elif piece.op is PieceOp.DEFLATED:
        _inflate(piece, old, update, write)
    else:
        reader = Reader(update.take(piece.bytes, "a piece"), "piece")
        decode = _decode_planes if piece.op is PieceOp.PLANES else _decode_differences
        decode(piece, reader, old, write, coders)
        reader.end()


def _inflate(piece: Piece, old: BinaryIO, update: UpdateFile, write: Callable[[bytes], object]) -> None:
    if piece.known > _WINDOW:
        raise FormatError(f"a piece refers to {piece.known} old bytes; at most {_WINDOW} are allowed")
    window = _bytes_at(old, piece.base, piece.known)
    stream = zlib.decompressobj(-15, zdict=window) if window else zlib.decompressobj(-15)
    packed, left = update.take(piece.bytes, "a piece"), piece.length
    try:
        while left and not stream.eof:
            part = stream.decompress(packed, min(left, SEGMENT))
            packed, left = stream.unconsumed_tail, left - len(part)
            write(part)
            if not part and not packed:
                break
        rest = b"" if stream.eof else stream.decompress(packed, 1)
    except zlib.error:
        raise FormatError("a piece cannot be inflated") from None
    if left or rest or not stream.eof or stream.unused_data or stream.unconsumed_tail:
        raise FormatError("a piece does not have the length that is announced")


def _decode_planes(
    piece: Piece, reader: Reader, _old: BinaryIO, write: Callable[[bytes], object], _coders: _Coders
) -> None:
    for at in range(0, piece.length, SEGMENT):
        count = min(SEGMENT, piece.length - at) // piece.width
        write(planes.decode(reader, count, piece.width).tobytes())


def _decode_differences(
    piece: Piece, reader: Reader, old: BinaryIO, write: Callable[[bytes], object], coders: _Coders
) -> None:
    coder = coders.of(piece.width, piece.length)
    before = coder.changed
    for at in range(0, piece.length, SEGMENT):
        known = _known_bytes(old, piece.base, piece.known, at, min(SEGMENT, piece.length - at))
        write(coder.decode(reader, np.frombuffer(known, f"<u{piece.width}"), piece.shift).tobytes())
    if coder.changed - before != piece.changed:
        raise FormatError(f"tensor {piece.name!a}: the number of elements that changed is not the one announced")
