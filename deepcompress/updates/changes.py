"""Symbols of a shared, sparse tensor given the ones before: docs/update-format.md, section 5."""

from __future__ import annotations

from typing import Any

import numpy as np

from deepcompress.coding.adaptive import codec, model
from deepcompress.coding.adaptive.codec import Scan
from deepcompress.coding.bits import Reader, varint
from deepcompress.errors import FormatError
from deepcompress.updates import changes_loop as loop
from deepcompress.updates.coder import coder_for

Array = np.ndarray[Any, np.dtype[Any]]

BLOCK = 1 << 16  # elements that are coded at once
_MOST = 24  # decisions of an element, at most


def count(new: Array, old: Array) -> tuple[int, int, int]:
    """How many weights came back, fell, and became another entry."""
    back = int(np.count_nonzero((old == 0) & (new != 0)))
    fell = int(np.count_nonzero((old != 0) & (new == 0)))
    return back, fell, int(np.count_nonzero(new != old)) - back - fell


def encode(new: Array, old: Array, shape: tuple[int, ...], scan: Scan, entries: int) -> bytes:
    """The bytes of a tensor.

    Args:
        new, old: symbols, flat, int16: 0 for zero, else the index in the sorted new codebook plus 1; as many of each.
        shape: of the tensor.
        scan: what its planes are.
        entries: of the new codebook.
    """
    changed = count(new, old)
    if not any(changed):
        return b""
    state = _State(old, shape, scan, entries, changed)
    blocks = [state.encode(new, start) for start in range(0, len(new), BLOCK)]
    if len(blocks) > 1:
        blocks = [varint(len(block)) + block for block in blocks]
    return b"".join(blocks)


def decode(
    reader: Reader, old: Array, shape: tuple[int, ...], scan: Scan, entries: int, changed: tuple[int, ...]
) -> Array:
    """The inverse: new symbols, given how many have changed (`count`).

    Raises:
        FormatError: these are not the bytes of any such tensor.
    """
    weights = int(np.count_nonzero(old))
    if len(changed) != 3 or changed[0] > len(old) - weights or changed[1] + changed[2] > weights:
        raise FormatError(f"{changed} weights change, of {weights} among {len(old)} elements")
    new = old.copy()
    if not any(changed):
        return new
    if (changed[0] and not entries) or (changed[2] and entries < 2):
        raise FormatError(f"weights come back or become other entries, of which there are {entries}")
    state = _State(old, shape, scan, entries, (changed[0], changed[1], changed[2]))
    for start in range(0, len(old), BLOCK):
        length = reader.varint("length of a block", len(reader)) if len(old) > BLOCK else len(reader)
        state.decode(new, start, reader.take(length, "block"))
    return new


class _State:
    """The model's memory while one tensor is coded."""

    def __init__(
        self, old: Array, shape: tuple[int, ...], scan: Scan, entries: int, changed: tuple[int, int, int]
    ) -> None:
        rows, columns, plane, width = codec.matrix(shape, scan)
        self._coder = coder = coder_for(len(old))
        self._old = coder.numbers(old, np.int16)
        lines = (min(rows, model.MASK + 1), min(columns, model.MASK + 1), min(plane, model.MASK + 1))
        self._facts = loop.Facts(
            len(old), rows, columns, plane, width, entries, False, coder.numbers(_filled(old, rows, columns)),
            _starts(lines, entries), *coder.tables,
        )  # fmt: skip
        slots = self._facts.starts.end
        self._memory = loop.Memory(
            coder.filled(slots, 0),
            coder.filled(slots, 0),
            (coder.numbers(loop.WEIGHTS), coder.numbers(loop.WEIGHTS), coder.numbers(loop.WEIGHTS)),
            coder.numbers([1 << 16]),
            coder.numbers([0] * loop.INPUTS),
            coder.numbers([0] * loop.INPUTS),
        )
        at = [0] * loop.AT
        weights = int(np.count_nonzero(old))
        at[loop.LEFT : loop.LEFT + 3] = changed
        at[loop.REST : loop.REST + 3] = len(old) - weights, weights, weights
        self._at = coder.numbers(at)

    def encode(self, new: Array, start: int) -> bytes:
        """The bytes of one block."""
        stop = min(start + BLOCK, self._facts.size)
        self._at[model.MADE] = 0
        decisions = self._coder.room(_MOST * (stop - start))
        self._run(self._coder.numbers(new, np.int16), start, stop, False, decisions, self._coder.nothing())
        return self._coder.bytes_of(decisions, self._at)

    def decode(self, new: Array, start: int, block: memoryview) -> None:
        """Put the symbols of one block into `new`."""
        stop = min(start + BLOCK, self._facts.size)
        found = new if self._coder.is_compiled else new.tolist()
        self._run(found, start, stop, True, self._coder.room(0), self._coder.start(block, self._at))
        self._coder.finish(block, self._at)
        new[start:stop] = found[start:stop]

    def _run(self, new: Any, start: int, stop: int, decoding: bool, decisions: Any, payload: Any) -> None:
        tape = model.Tape(self._at, decisions, payload)
        facts = self._facts._replace(decoding=decoding)
        self._coder.loops.code_changes(self._old, new, start, stop, facts, self._memory, tape)


def _starts(lines: tuple[int, int, int], entries: int) -> loop.Starts:
    """Where the tables begin in the slots of a kind, how many there are of a kind, and where the others begin."""
    sizes = [*lines, loop.BESIDE, entries + 1, loop.FILLED, loop.GAPS]
    ends = [sum(sizes[: index + 1]) for index in range(len(sizes))]
    up = 3 * ends[-1]
    far = up + entries + 1
    tree = far + 2 * loop.NEAR
    return loop.Starts._make([*ends, up, far, tree, tree + entries + 1])


def _filled(old: Array, rows: int, columns: int) -> Array:
    """Of each row, and then of each column: how many weights it had beside the mean, in five classes."""
    weights = old.reshape(rows, columns) != 0
    total = max(int(weights.sum()), 1)
    found = [4 * weights.sum(axis=axis, dtype=np.int64) * lines // total for axis, lines in ((1, rows), (0, columns))]
    return np.searchsorted([1, 3, 5, 8], np.concatenate(found), side="right")
