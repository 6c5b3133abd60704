"""Symbols of a shared, sparse tensor to bytes and back, by the adaptive model of `model` and binary rANS.

A stream is coded in blocks of `BLOCK` elements, so that an encoder, which codes backwards, need not hold more than the
decisions of one; the model goes on from block to block.
"""

from __future__ import annotations

import math
import sys
from array import array
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from deepcompress.coding import lanes
from deepcompress.coding.adaptive import model, tables
from deepcompress.coding.adaptive.coder import Coder
from deepcompress.coding.bits import Reader, varint

Array = np.ndarray[Any, np.dtype[Any]]

BLOCK = 1 << 19
ALL_SCANS_UP_TO = 1 << 20  # elements; a larger tensor is coded in the plain scan only
_KERNELS_FROM = 1 << 11  # a smaller tensor is coded sooner than numba is imported
_PLAIN = SimpleNamespace(give_decisions=model.give, code_symbols=model.code)


@dataclass(frozen=True)
class Scan:
    """How the tensor is looked at: `by_column` goes down each column first; `side` is that of square planes.

    A tensor is a matrix of shape[0] rows, each of them planes one after the other. Without `side` a plane is
    what the shape says: a kernel of a convolution, or the whole row. With it, each `side` * `side` columns are one, as
    in a layer that sees images or feature maps flattened.
    """

    by_column: bool = False
    side: int = 0


@dataclass(frozen=True)
class Alphabet:
    """A codebook as the model sees it: how many values it has, and how many of them are negative and come first."""

    count: int
    negative: int


def matrix(shape: tuple[int, ...], scan: Scan) -> tuple[int, int, int, int]:
    """Rows, columns, columns of a plane, and columns of a line of a plane."""
    rows, columns = (1, math.prod(shape)) if len(shape) < 2 else (shape[0], math.prod(shape[1:]))
    if scan.side:
        return rows, columns, scan.side * scan.side, scan.side
    if len(shape) > 2:
        return rows, columns, math.prod(shape[2:]), shape[-1]
    return rows, columns, columns, columns


def fits(shape: tuple[int, ...], scan: Scan) -> bool:
    """Whether a tensor of this shape can be cut into planes of this scan."""
    columns = matrix(shape, Scan())[1]
    return not scan.side or (scan.side > 1 and columns > 0 and columns % (scan.side * scan.side) == 0)


def scans(shape: tuple[int, ...]) -> list[Scan]:
    """The scans worth trying for a tensor of this shape, the plain one first."""
    if math.prod(shape) > ALL_SCANS_UP_TO:
        return [Scan()]
    sides = [0]
    if len(shape) == 2 and shape[0] > 1:
        sides += [side for side in (4, 5, 6, 7, 8) if shape[1] > side * side and fits(shape, Scan(side=side))]
        square = math.isqrt(shape[1])
        sides += [square] if square * square == shape[1] and square > 1 else []
    orders = (False, True) if len(shape) > 1 and shape[0] > 1 else (False,)
    return [Scan(by_column, side) for side in sides for by_column in orders]


def smallest(symbols: Array, shape: tuple[int, ...], alphabet: Alphabet) -> tuple[Scan, bytes]:
    """The scan that codes `symbols` in the fewest bytes, the earlier of `scans` where two do, and those bytes."""
    coded = [(scan, encode(symbols, shape, alphabet, scan)) for scan in scans(shape)]
    return min(coded, key=lambda pair: len(pair[1]))


def encode(symbols: Array, shape: tuple[int, ...], alphabet: Alphabet, scan: Scan) -> bytes:
    """Code a tensor.

    Args:
        symbols: flat, int16: 0 for zero, else the index in the sorted codebook plus 1.
        shape: of the tensor.
        alphabet: of the codebook.
        scan: one that fits the shape (`fits`).
    """
    weights = int(np.count_nonzero(symbols))
    state = _State(symbols, shape, alphabet, scan, weights, decoding=False)
    size = len(symbols)
    blocks = [state.encode(start, min(start + BLOCK, size)) for start in range(0, size, BLOCK)]
    if len(blocks) > 1:
        blocks = [varint(len(block)) + block for block in blocks]
    return b"".join(blocks)


def decode(payload: memoryview, shape: tuple[int, ...], alphabet: Alphabet, weights: int, scan: Scan) -> Array:
    """The inverse of `encode`: flat symbols, int16; `weights` of them are not zero.

    Raises:
        FormatError: the payload is not what `encode` makes of any such tensor.
    """
    size = math.prod(shape)
    symbols = np.zeros(size, dtype=np.int16)
    state = _State(symbols, shape, alphabet, scan, weights, decoding=True)
    reader = Reader(payload, "coded weights")
    for start in range(0, size, BLOCK):
        length = reader.varint("length of a block", len(reader)) if size > BLOCK else len(reader)
        state.decode(start, min(start + BLOCK, size), reader.take(length, "block"))
    reader.end()
    return state.symbols()


class _State:
    """The model's memory while one tensor is coded."""

    def __init__(
        self, symbols: Array, shape: tuple[int, ...], alphabet: Alphabet, scan: Scan, weights: int, decoding: bool
    ) -> None:
        size = len(symbols)
        kernels = lanes.kernels() if size >= _KERNELS_FROM or "numba" in sys.modules else None
        self._coder = Coder(kernels or _PLAIN, kernels is not None, "coded weights")
        # Plain Python reads an array of 16 bits as fast as a list, in a quarter of its memory.
        self._symbols: Any = symbols if self._coder.is_compiled else array("h", symbols.tobytes())
        density = min(max((weights << 30) // max(size, 1), 1 << 15), model.ONE - (1 << 15))
        self._facts = self._facts_of(size, matrix(shape, scan), alphabet, scan, density, decoding)
        self._memory = self._fresh_memory(self._facts, density)
        self._at = self._coder.numbers([weights, 0, 0, 0, 0])

    def _facts_of(
        self,
        size: int,
        geometry: tuple[int, int, int, int],
        alphabet: Alphabet,
        scan: Scan,
        density: int,
        decoding: bool,
    ) -> model.Facts:
        rows, columns, plane, width = geometry
        base = int(tables.stretch_table()[density >> 14])
        fresh = min(max((1 << 26) // min(density, model.ONE - density), 2), 2000)
        starts, classes = _starts(rows, columns, plane), self._coder.numbers(_classes(alphabet))
        return model.Facts(
            size, rows, columns, plane, width, scan.by_column, alphabet.count, alphabet.negative, decoding, base, fresh,
            starts, classes, *self._coder.tables,
        )  # fmt: skip

    def _fresh_memory(self, facts: model.Facts, density: int) -> model.Memory:
        slots = facts.starts.tree + facts.values * model.NODE_SLOTS
        numbers, filled = self._coder.numbers, self._coder.filled
        probabilities, counts = filled(slots, 1 << 29), filled(slots, 0)
        for at in range(facts.starts.beside):
            probabilities[at], counts[at] = density, facts.fresh
        lines = min(facts.rows, model.MASK + 1) + min(facts.columns, model.MASK + 1)
        seen = filled(lines * model.FIELDS, 0)
        seen[model.BALANCE :: model.FIELDS] = filled(lines, 4)
        weights = numbers(model.ZERO_WEIGHTS), numbers(model.TREE_WEIGHTS)
        room = numbers([0] * model.ZERO_INPUTS), numbers([0] * model.ZERO_SLOTS)
        return model.Memory(probabilities, counts, seen, *weights, *room)

    def _run(self, start: int, stop: int, decisions: Any, payload: Any) -> None:
        tape = model.Tape(self._at, decisions, payload)
        self._coder.loops.code_symbols(self._symbols, start, stop, self._facts, self._memory, tape)

    def encode(self, start: int, stop: int) -> bytes:
        """The bytes of one block."""
        depth = 1 + max(self._facts.values, 1).bit_length() + 1
        most = (stop - start) + depth * min(int(self._at[model.LEFT]), stop - start)
        decisions = self._coder.room(most)
        self._at[model.MADE] = 0
        self._run(start, stop, decisions, self._coder.nothing())
        return self._coder.bytes_of(decisions, self._at)

    def decode(self, start: int, stop: int, block: memoryview) -> None:
        """The symbols of one block."""
        self._run(start, stop, self._coder.room(0), self._coder.start(block, self._at))
        self._coder.finish(block, self._at)

    def symbols(self) -> Array:
        """All symbols, flat, int16."""
        return np.frombuffer(self._symbols, dtype=np.int16)


def _starts(rows: int, columns: int, plane: int) -> model.Starts:
    """The first slot of each table."""
    sizes = [
        *(min(count, model.MASK + 1) for count in (rows, columns, -(-columns // max(plane, 1)), plane)),
        model.BESIDE_SLOTS, model.BEFORE_SLOTS, model.GAP_SLOTS, model.JOINT_SLOTS,
    ]  # fmt: skip
    return model.Starts(*(sum(sizes[: index + 1]) for index in range(len(sizes))))


def _classes(alphabet: Alphabet) -> list[int]:
    """Of each symbol: 0 for zero, 1 to 3 for the thirds of the negative values by magnitude, 4 to 6 of the others."""
    negative = [1 + 3 * rank // alphabet.negative for rank in range(alphabet.negative - 1, -1, -1)]
    positive = alphabet.count - alphabet.negative
    return [0, *negative, *(4 + 3 * rank // positive for rank in range(positive))]
