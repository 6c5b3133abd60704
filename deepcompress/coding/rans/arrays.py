"""What the loops of the rANS coder (`kernels`, `plain`) take together, by name.

All arrays of integers are int64 unless another type is named.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


class Shape(NamedTuple):
    """Of a stream: its rows and columns, the rows and columns of a lane, and how many lanes stand side by side."""

    rows: int
    columns: int
    height: int
    width: int
    across: int


class Classes(NamedTuple):
    """The class of each row (with the base), and of each column."""

    of_rows: Array
    of_columns: Array


class Expectation(NamedTuple):
    """What says what to expect of an element.

    Attributes:
        near: rows, columns, aim, size of each neighbour; shape (neighbours, 4).
        scales, scale_classes: see `model`; the latter are uint8.
        own: the factor of what the classes expect, one number.
    """

    near: Array
    scales: Array
    scale_classes: Array
    own: Array


class Decoding(NamedTuple):
    """Tables of a decoder.

    Attributes:
        slots: see `frequencies.slots_of`, of one table after the other, uint32.
        starts: of each context, where the slots of its table begin, uint64.
        bases, extra: the integer of smallest magnitude of each token, and its extra bits.
    """

    slots: Array
    starts: Array
    bases: Array
    extra: Array


class Coding(NamedTuple):
    """Tables of an encoder.

    Attributes:
        begins, shares: where the slots of each token begin, and how many it has; shape (tables, tokens).
        contexts: the table of each context, uint8.
        magnitudes: the class of each magnitude, uint8.
        bases, extra: as in `Decoding`.
    """

    begins: Array
    shares: Array
    contexts: Array
    magnitudes: Array
    bases: Array
    extra: Array
