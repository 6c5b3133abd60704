"""Making the update from one checkpoint to another, piece by piece."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from deepcompress.coding import planes
from deepcompress.coding.bits import varint
from deepcompress.container import deflate
from deepcompress.updates.container import WINDOW
from deepcompress.updates.cuts import Cut, FileKind, cuts_of
from deepcompress.updates.differences import WIDTHS, Coders, Differences, common_bits, shift_in
from deepcompress.updates.pieces import (
    MAX_NAME,
    SEGMENT,
    Piece,
    PieceOp,
    Pieces,
    bytes_at,
    known_bytes,
    segments,
)

_SAMPLE = 1 << 17  # bytes that are tried
_GLANCE = 1 << 16  # bytes that are read at once where few of them mostly decide
_FEW = 0.3  # elements of a tensor that changed, if differences are sure to gain


def make(old: Path, new: Path, kinds: tuple[FileKind, FileKind], payload: BinaryIO) -> bytes:
    """The facts of the update from one checkpoint to the other; payloads are written to `payload`.

    Raises:
        UpdateError: a file is damaged.
    """
    with old.open("rb") as before, new.open("rb") as after:
        size = new.stat().st_size
        maker = _Maker(before, after, payload, Coders(size))
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
    names = {cut.name for cut in new}
    gone = [(cut, number) for number, cut in enumerate(old) if cut.name not in names]
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
        if run is not None and piece.op is PieceOp.COPY and run.base + run.length == piece.base:
            run = replace(run, length=run.length + piece.length, known=run.known + piece.length)
            continue
        if run is not None:
            yield run
        run = piece if piece.op is PieceOp.COPY else None
        if run is None:
            yield piece
    if run is not None:
        yield run


class _Maker:
    """Finds for each piece what tells it in the fewest bytes."""

    def __init__(self, old: BinaryIO, new: BinaryIO, payload: BinaryIO, coders: Coders) -> None:
        self._old, self._new, self._payload, self._coders = old, new, payload, coders

    def told(self, cut: Cut, base: Cut) -> Piece:
        """The piece at `cut`, told by the old bytes at `base`; its payload is written."""
        name = cut.name if len(cut.name.encode("utf-8", errors="surrogateescape")) <= MAX_NAME else ""
        if self._is_same(cut, base):
            return Piece(PieceOp.COPY, cut.length, base=base.start, known=cut.length)
        if not cut.name:
            return self._deflated(cut, base, name)
        width = self._width(cut, base)
        known = min(base.length, cut.length) // width * width
        known = known if base.width == cut.width else 0
        start = self._payload.tell()
        coder = self._coders.of(width).copy()
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
        if cut.length > WINDOW:
            return False
        window = bytes_at(self._old, base.start, min(base.length, WINDOW))
        return len(deflate.by_zlib(bytes_at(self._new, cut.start, cut.length), window)) < piece.bytes

    def _is_same(self, cut: Cut, base: Cut) -> bool:
        if cut.length != base.length:
            return False
        return all(new == old for new, old in self._pairs(cut, base, _GLANCE))

    def _stored(self, cut: Cut, name: str) -> Piece:
        for part in segments(self._new, cut.start, cut.length):
            self._payload.write(part)
        return Piece(PieceOp.TOLD, cut.length, name)

    def _deflated(self, cut: Cut, base: Cut, name: str) -> Piece:
        """What is between tensors: headers, pickles, and tables of contents."""
        known = min(base.length, WINDOW)
        start = base.start + base.length - known
        window = bytes_at(self._old, start, known)
        stream = zlib.compressobj(9, wbits=-15, zdict=window) if known else zlib.compressobj(9, wbits=-15)
        before = self._payload.tell()
        for part in segments(self._new, cut.start, cut.length):
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
        sample = bytes_at(self._new, cut.start, length // 8 * 8)
        other = bytes_at(self._old, base.start, len(sample)) if base.length else bytes(len(sample))

        def tried(width: int) -> int:
            kind = f"<u{width}"
            return len(Differences(width, length).encode(np.frombuffer(sample, kind), np.frombuffer(other, kind)))

        return min(widths, key=tried)

    def _gains(self, cut: Cut, base: Cut, known: int, width: int) -> bool:
        """Whether differences are smaller than byte planes, by a sample from the middle."""
        length = min(known, _SAMPLE) // width * width
        at = (known - length) // 2 // width * width
        new, old = bytes_at(self._new, cut.start + at, length), bytes_at(self._old, base.start + at, length)
        elements, others = np.frombuffer(new, f"<u{width}"), np.frombuffer(old, f"<u{width}")
        if np.count_nonzero(elements != others) < _FEW * len(elements):
            return True
        coded = self._coders.of(width).copy().encode(elements, others)
        return len(coded) <= len(planes.encode(np.frombuffer(new, np.uint8).reshape(-1, width)))

    def _differences(self, cut: Cut, base: Cut, coder: Differences) -> Piece:
        width, kind = base.width, f"<u{base.width}"
        used = 0
        for new, old in self._pairs(cut, base, _GLANCE):
            used |= common_bits(np.frombuffer(new, kind), np.frombuffer(old, kind))
            if used & 1:
                break
        before, size = coder.changed, 0
        for new, old in self._pairs(cut, base):
            elements, others = np.frombuffer(new, kind), np.frombuffer(old, kind)
            size += self._payload.write(coder.encode(elements, others, shift_in(used)))
        changed, shift = coder.changed - before, shift_in(used)
        return Piece(PieceOp.DIFFERENCES, cut.length, base.name, base.start, base.length, width, shift, changed, size)

    def _pairs(self, cut: Cut, base: Cut, step: int = SEGMENT) -> Iterator[tuple[bytes, bytes]]:
        """Segments of a piece, and as many old bytes of each."""
        at = 0
        for new in segments(self._new, cut.start, cut.length, step):
            yield new, known_bytes(self._old, base.start, base.length, at, len(new))
            at += len(new)

    def _planes(self, cut: Cut, name: str, width: int) -> Piece:
        size = 0
        for part in segments(self._new, cut.start, cut.length):
            size += self._payload.write(planes.encode(np.frombuffer(part, np.uint8).reshape(-1, width)))
        return Piece(PieceOp.PLANES, cut.length, name, width=width, bytes=size)
