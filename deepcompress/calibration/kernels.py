"""The inner loop of error feedback, compiled."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

Array = np.ndarray[Any, np.dtype[Any]]


@njit(cache=True)
def round_block(left: Array, upper: Array, most: int) -> tuple[Array, Array]:
    """Whole numbers (float32) for some columns of scaled weights, and what each leaves to the columns after these.

    Args:
        left: (rows, columns), float32; changed in place.
        upper: (columns, columns), the Cholesky factor of the inverse of H for these.
        most: the largest magnitude of a number.
    """
    rows, columns = left.shape
    found, errors = np.zeros((rows, columns), np.float32), np.zeros((rows, columns), np.float32)
    for row in range(rows):
        for column in range(columns):
            value = left[row, column]
            near = min(max(np.rint(value), np.float32(-most)), np.float32(most))
            error = (value - near) / upper[column, column]
            found[row, column], errors[row, column] = near, error
            for after in range(column, columns):
                left[row, after] -= error * upper[column, after]
    return found, errors
