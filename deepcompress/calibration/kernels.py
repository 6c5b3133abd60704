"""The inner loop of error feedback, compiled."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

Array = np.ndarray[Any, np.dtype[Any]]


@njit(cache=True)
def round_block(left: Array, upper: Array, prices: Array, bits: Array, reach: int) -> tuple[Array, Array]:
    """Whole numbers (float32) for some columns of scaled weights, and what each leaves to the columns after these.

    Args:
        left: (rows, columns), float32; changed in place.
        upper: (columns, columns), the Cholesky factor of the inverse of H for these.
        prices: of a bit, for each column.
        bits: of each whole number from -reach to reach.
        reach: the largest whole number.
    """
    rows, columns = left.shape
    found, errors = np.zeros((rows, columns), np.float32), np.zeros((rows, columns), np.float32)
    for row in range(rows):
        for column in range(columns):
            value, price = left[row, column], prices[column]
            near = min(max(np.rint(value), np.float32(-reach)), np.float32(reach))
            best, cost = near, (value - near) ** 2 + price * bits[int(near) + reach]
            for other in (near - np.sign(near), np.float32(0)):
                here = (value - other) ** 2 + price * bits[int(other) + reach]
                if here < cost:
                    best, cost = other, here
            error = (value - best) / upper[column, column]
            found[row, column], errors[row, column] = best, error
            for after in range(column, columns):
                left[row, after] -= error * upper[column, after]
    return found, errors
