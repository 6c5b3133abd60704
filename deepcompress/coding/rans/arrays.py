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
    """The class of each row (with the base), and of each column.

    For a decoder both are int32, and less the lowest that there is of each: their sum is the number of a table. With
    gaps, columns are in the order in which it goes through them.
    """

    of_rows: Array
    of_columns: Array


class Expectation(NamedTuple):
    """What says what to expect of an element.

    Attributes:
        near: rows, columns, aim, size of each neighbour; shape (neighbours, 4).
        scales, scale_classes: see `model`; the latter are uint8. For a decoder the scale of each sum of `Classes`.
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
        starts: where the slots of a table begin, uint32: of each context with neighbours, and otherwise of each sum of
            `Classes`; with gaps two, for a gap and for a weight.
        steps: the shortest gap of each token << 4 | its extra bits, uint32; too long a gap for other tokens.
        bases, extra: the integer of smallest magnitude of each token, and its extra bits.
    """

    slots: Array
    starts: Array
    steps: Array
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


class Meaning(NamedTuple):
    """What integers stand for.

    Attributes:
        lowest: the integer that ``values[0]`` is for.
        values: of all integers that are allowed.
        by_token: the value of the smallest magnitude of each token.
        refused: 1 for the tokens of which that is not allowed, or is 0, uint8.
    """

    lowest: int
    values: Array
    by_token: Array
    refused: Array
