"""Writing a checkpoint from the one before it and the pieces of an update."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import BinaryIO

import numpy as np

from deepcompress.coding import planes
from deepcompress.coding.bits import Reader
from deepcompress.errors import FormatError
from deepcompress.updates.container import WINDOW, UpdateFile
from deepcompress.updates.differences import Coders
from deepcompress.updates.pieces import (
    SEGMENT,
    Piece,
    PieceOp,
    Pieces,
    bytes_at,
    known_bytes,
    segments,
)


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
    packer, coders = Pieces(), Coders(left)
    while len(reader):
        piece = packer.read(reader, old_bytes)
        if piece.length > left:
            raise FormatError("the pieces of the new file are longer than it")
        left -= piece.length
        _apply(piece, old, update, write, coders)
    if left:
        raise FormatError(f"{left} bytes of the new file are in no piece")
    update.end()


def _apply(piece: Piece, old: BinaryIO, update: UpdateFile, write: Callable[[bytes], object], coders: Coders) -> None:
    if piece.op is PieceOp.COPY:
        for part in segments(old, piece.base, piece.length):
            write(part)
    elif piece.op is PieceOp.TOLD:
        update.copy(piece.length, write, "a piece")
    elif piece.op is PieceOp.DEFLATED:
        _inflate(piece, old, update, write)
    else:
        reader = Reader(update.take(piece.bytes, "a piece"), "piece")
        if piece.op is PieceOp.PLANES:
            _decode_planes(piece, reader, write)
        else:
            _decode_differences(piece, reader, old, write, coders)
        reader.end()


def _inflate(piece: Piece, old: BinaryIO, update: UpdateFile, write: Callable[[bytes], object]) -> None:
    if piece.known > WINDOW:
        raise FormatError(f"a piece refers to {piece.known} old bytes; at most {WINDOW} are allowed")
    window = bytes_at(old, piece.base, piece.known)
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


def _decode_planes(piece: Piece, reader: Reader, write: Callable[[bytes], object]) -> None:
    for at in range(0, piece.length, SEGMENT):
        count = min(SEGMENT, piece.length - at) // piece.width
        write(planes.decode(reader, count, piece.width).tobytes())


def _decode_differences(
    piece: Piece, reader: Reader, old: BinaryIO, write: Callable[[bytes], object], coders: Coders
) -> None:
    coder = coders.of(piece.width)
    before = coder.changed
    for at in range(0, piece.length, SEGMENT):
        known = known_bytes(old, piece.base, piece.known, at, min(SEGMENT, piece.length - at))
        write(coder.decode(reader, np.frombuffer(known, f"<u{piece.width}"), piece.shift).tobytes())
    if coder.changed - before != piece.changed:
        raise FormatError(f"tensor {piece.name!a}: the number of elements that changed is not the one announced")
