"""Elements given the ones at their places before: docs/update-format.md, section 6.

Nothing is known of the elements but how wide they are. A difference is coded in the context of the upper bits of the
old element: of a float these are its exponent, which says how large a step of the optimizer is in units of its last
place.
"""

from __future__ import annotations

from copy import copy
from typing import Any

import numpy as np

from deepcompress.coding.adaptive import model
from deepcompress.coding.bits import Reader, varint
from deepcompress.errors import FormatError
from deepcompress.updates import differences_loop as loop
from deepcompress.updates.coder import coder_for

Array = np.ndarray[Any, np.dtype[Any]]

WIDTHS = (1, 2, 4, 8)
BLOCK = 1 << 16  # elements that are coded at once
_ALL = (1 << 64) - 1
_MOST = 12  # decisions of an element that changed, at most


class Differences:
    """Codes arrays of elements of one width, one after the other: what it has learned goes on to the next.

    Attributes:
        width: numpy's type of an element.
        changed: how many of the elements so far are not the old ones.
    """

    def __init__(self, width: int, elements: int) -> None:
        """Start to learn.

        Args:
            width: bytes of an element, one of `WIDTHS`.
            elements: how many there will be, about: few are coded without numba.
        """
        self.width, self._bits = np.dtype(f"<u{width}"), 8 * width
        self._depth = self._bits.bit_length() - 1
        self._coder = coder_for(elements)
        counts = np.zeros(loop.SLOTS, dtype=np.int64)
        counts[: loop.CHANGED] = loop.FRESH
        self._slots = loop.Slots(
            self._coder.filled(loop.SLOTS, 1 << 29), self._coder.numbers(counts, np.int32), self._coder.tables[2]
        )
        self._at = self._coder.numbers([0] * loop.AT)
        levels = np.searchsorted(loop.BOUNDS, np.arange(loop.RECENT + 1) << 6, side="right")
        self._levels = self._coder.numbers(levels, np.uint8)
        self._decisions: Any = ()
        self.changed = 0

    def encode(self, new: Array, old: Array, shift: int = 0) -> bytes:
        """The bytes of one array of elements (unsigned, flat) given as many old ones.

        All differences are multiples of 2^shift.
        """
        blocks = []
        for start in range(0, len(new), BLOCK):
            blocks.append(self._encode(new[start : start + BLOCK], old[start : start + BLOCK], shift))
        return b"".join(varint(len(block)) + block for block in blocks)

    def decode(self, reader: Reader, old: Array, shift: int = 0) -> Array:
        """The inverse: as many elements as there are old ones.

        Raises:
            FormatError: these are not such bytes.
        """
        new = np.empty(len(old), dtype=self.width)
        for start in range(0, len(old), BLOCK):
            block = reader.take(reader.varint("length of a block", len(reader)), "block")
            new[start : start + BLOCK] = self._decode(Reader(block, "block"), old[start : start + BLOCK], shift)
        return new

    def copy(self) -> Differences:
        """Another one that has learned the same."""
        other = copy(self)
        probabilities, counts, reciprocals = self._slots
        other._slots, other._at = loop.Slots(copy(probabilities), copy(counts), reciprocals), copy(self._at)
        return other

    def _encode(self, new: Array, old: Array, shift: int) -> bytes:
        flags, contexts = new != old, _contexts(old, self._bits)
        places = np.flatnonzero(flags)
        self.changed += len(places)
        found = ordered(new[places], self._bits) - ordered(old[places], self._bits) >> shift
        coder, at = self._coder, self._start()
        decisions = self._room(len(flags) + _MOST * len(places))
        tape = loop.Tape(False, at, decisions, coder.nothing())
        coder.loops.encode_flags(
            coder.numbers(flags, np.uint8), coder.numbers(contexts, np.uint8), self._levels, self._slots, tape
        )
        raw: Any = bytearray(8 * len(places) + 8)
        raw = np.frombuffer(raw, dtype=np.uint8) if coder.is_compiled else raw
        self._values(found, contexts[places], tape, raw)
        used = int(at[loop.BYTE])
        if at[loop.FILL]:
            raw[used] = int(at[loop.BITS]) << 8 - int(at[loop.FILL]) & 255
            used += 1
        coded = coder.bytes_of(decisions, at)
        return varint(len(coded)) + coded + bytes(raw[:used])

    def _decode(self, reader: Reader, old: Array, shift: int) -> Array:
        coded = reader.take(reader.varint("length of the decisions", len(reader)), "decisions")
        raw = reader.take(len(reader), "bits")
        coder, at = self._coder, self._start()
        contexts = _contexts(old, self._bits)
        flags = coder.numbers(np.zeros(len(old), dtype=np.uint8), np.uint8)
        tape = loop.Tape(True, at, coder.room(0), coder.start(coded, at))
        coder.loops.decode_flags(flags, coder.numbers(contexts, np.uint8), self._levels, self._slots, tape)
        places = np.flatnonzero(np.asarray(flags, dtype=bool))
        bits: Any = np.array(raw, dtype=np.uint8) if coder.is_compiled else bytearray(raw)
        values = self._values(np.zeros(len(places), dtype=np.int64), contexts[places], tape, bits)
        coder.finish(coded, at)
        if at[loop.BYTE] != len(raw) or int(at[loop.BITS]) & (1 << int(at[loop.FILL])) - 1:
            raise FormatError("the bits of differences do not end with the last of them: the update is damaged")
        self.changed += len(places)
        new = old.copy()
        new[places] = unordered(ordered(old[places], self._bits) + (values << shift), self.width)
        return new

    def _start(self) -> Any:
        for index in (model.MADE, loop.BITS, loop.FILL, loop.BYTE):
            self._at[index] = 0
        return self._at

    def _room(self, decisions: int) -> Any:
        """Where loops put decisions: kept, for it takes long to get."""
        if len(self._decisions) < decisions:
            self._decisions = self._coder.room(decisions)
        return self._decisions

    def _values(self, found: Array, contexts: Array, tape: loop.Tape, raw: Any) -> Array:
        values = self._coder.numbers(found)
        self._coder.loops.code_values(
            values, self._coder.numbers(contexts, np.uint8), self._depth, self._slots, tape, raw
        )
        if self._coder.is_compiled:
            return np.asarray(values)
        return np.array([value & _ALL for value in values], dtype=np.uint64).view(np.int64)


class Coders:
    """The coders of differences by width: what one tensor teaches serves the next."""

    def __init__(self, size: int) -> None:
        """Coders of a file that has `size` bytes of tensors: all of it counts, for its first tensor may be small."""
        self._size = size
        self._found: dict[int, Differences] = {}

    def of(self, width: int) -> Differences:
        """That of elements of so many bytes."""
        if width not in self._found:
            self._found[width] = Differences(width, self._size // width)
        return self._found[width]

    def encode(self, new: Array, old: Array, shift: int = 0) -> bytes:
        """As `Differences.encode`, by the coder of their width; copies of these coders do not learn from it."""
        coder = self.of(new.itemsize).copy()
        told = coder.encode(new, old, shift)
        self.keep(coder)
        return told

    def keep(self, coder: Differences) -> None:
        """Go on with what this one has learned."""
        self._found[coder.width.itemsize] = coder

    def copy(self) -> Coders:
        """The same ones, from which it does not matter what is kept in the others."""
        other = Coders(self._size)
        other._found = dict(self._found)
        return other


def shift_of(new: Array, old: Array) -> int:
    """The largest shift that divides all differences of elements (unsigned, flat)."""
    return shift_in(common_bits(new, old))


def shift_in(used: int) -> int:
    """The largest shift that divides numbers of which these bits are used."""
    return (used & -used).bit_length() - 1 if used else 0


def common_bits(new: Array, old: Array) -> int:
    """Bits that some difference of elements has. Only the lowest one counts: where it is bit 0, no more is read."""
    bits, used = 8 * new.itemsize, 0
    for start in range(0, len(new), BLOCK):
        elements, others = new[start : start + BLOCK], old[start : start + BLOCK]
        places = np.flatnonzero(elements != others)
        used |= int(np.bitwise_or.reduce(ordered(elements[places], bits) - ordered(others[places], bits)))
        if used & 1:
            break
    return used


def ordered(elements: Array, bits: int) -> Array:
    """Elements as signed integers in the order of the floats that they may be, int64: −0 is −1."""
    return _turned(elements.view(f"<i{elements.itemsize}").astype(np.int64), bits)


def unordered(numbers: Array, kind: np.dtype[Any]) -> Array:
    """The inverse, of integers that may have left the range: they come back at its other end."""
    signed = f"<i{kind.itemsize}"
    return _turned(numbers.astype(signed).astype(np.int64), 8 * kind.itemsize).astype(signed).view(kind)


def _turned(signed: Array, bits: int) -> Array:
    """Negative integers with all their bits after the sign turned over: a sign and a magnitude becomes a number in its
    order, and the other way round.
    """
    turned: Array = signed ^ (signed >> 63 & (1 << bits - 1) - 1)
    return turned


def _contexts(old: Array, bits: int) -> Array:
    """The upper bits of old elements after the sign."""
    return (old >> max(bits - 9, 0) & (loop.CONTEXTS - 1 if bits > 8 else 127)).astype(np.uint8)
