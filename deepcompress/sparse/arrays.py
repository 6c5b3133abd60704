"""What the loops over a matrix in compressed form (`kernels`, `plain`) take together, by name."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


class Parts(NamedTuple):
    """The groups of a matrix, or its single weights, row by row of the first panel, then of the second and so on.

    Attributes:
        columns: from the first of the panel: of a group four, the first in the lowest 16 bits, uint64; of a single
            weight its own, uint16.
        values: the index of each one's value in the codebook, uint8 or uint16.
        ends: how many there are before each row of each panel, and in all, uint32.
    """

    columns: Array
    values: Array
    ends: Array
