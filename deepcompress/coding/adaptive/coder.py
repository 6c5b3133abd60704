"""What all adaptive loops have in common: compiled arrays or plain lists, and decisions to bytes and back."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np

from deepcompress.coding.adaptive import model, tables
from deepcompress.errors import FormatError


class Coder:
    """The loops to run, and the arrays that suit them: numpy's for the compiled ones, lists for the plain ones.

    Attributes:
        loops: has `give_decisions`, and what else its user calls.
        is_compiled: whether numba compiled them.
        tables: squash, stretch and reciprocals, see `tables`.
    """

    def __init__(self, loops: Any, is_compiled: bool, what: str) -> None:
        """Take these loops; `what` they code is said in errors."""
        self.loops, self.is_compiled, self._what = loops, is_compiled, what
        found = tables.squash_table(), tables.stretch_table(), tables.reciprocal_table()
        self.tables = tuple(map(self.numbers, found))

    def numbers(self, values: Any, kind: type = np.int64) -> Any:
        """Integers that a loop reads and writes."""
        return np.asarray(values, dtype=kind) if self.is_compiled else np.asarray(values).tolist()

    def filled(self, count: int, value: int) -> Any:
        """As `numbers`, `count` times the same, of 32 bits."""
        return np.full(count, value, dtype=np.int32) if self.is_compiled else [value] * count

    def room(self, decisions: int) -> Any:
        """Where a loop puts its decisions."""
        return np.empty(decisions, dtype=np.int32) if self.is_compiled else array("i", bytes(4 * decisions))

    def bytes_of(self, decisions: Any, at: Any) -> bytes:
        """The decisions that a loop has made, coded."""
        made = int(at[model.MADE])
        out: Any = np.empty(2 * made + 4, dtype=np.uint8) if self.is_compiled else bytearray(2 * made + 4)
        begin = self.loops.give_decisions(decisions, made, out)
        return bytes(out[begin:])

    def start(self, coded: memoryview, at: Any) -> Any:
        """Set the state to decode from `coded`; returns what the loop reads.

        Raises:
            FormatError: it is not what `bytes_of` gives.
        """
        if len(coded) and coded[0] == 0:
            raise FormatError(f"{self._what} start with a zero byte")
        head = coded[:4]
        at[model.STATE], at[model.READ] = int.from_bytes(head, "big"), len(head)
        return np.frombuffer(coded, dtype=np.uint8).astype(np.int16) if self.is_compiled else bytes(coded)

    def nothing(self) -> Any:
        """What a loop reads that encodes."""
        return np.empty(0, dtype=np.int16) if self.is_compiled else b""

    def finish(self, coded: memoryview, at: Any) -> None:
        """Assert that a loop has used all of `coded`.

        Raises:
            FormatError: it has not.
        """
        if at[model.STATE] or at[model.READ] != len(coded):
            raise FormatError(f"{self._what} do not end with their last decision: they are damaged")
