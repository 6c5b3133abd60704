"""Element types of tensors, by their numbers in the file format, and the numpy types that hold them."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np


class DType(IntEnum):
    """Element types; the numbers are part of the file format."""

    FLOAT32 = 0
    FLOAT16 = 1
    BFLOAT16 = 2
    FLOAT64 = 3
    INT8 = 4
    UINT8 = 5
    INT16 = 6
    INT32 = 7
    INT64 = 8
    BOOL = 9
    FLOAT8_E4M3FN = 10
    FLOAT8_E5M2 = 11
    FLOAT8_E4M3FNUZ = 12
    FLOAT8_E5M2FNUZ = 13
    FLOAT8_E8M0FNU = 14
    FLOAT4_E2M1FN_X2 = 15
    UINT16 = 16
    UINT32 = 17
    UINT64 = 18
    COMPLEX32 = 19
    COMPLEX64 = 20
    COMPLEX128 = 21

    @property
    def since(self) -> int:
        """The first version of the file format that has it."""
        return 1 if self <= DType.BOOL else 3

    @property
    def storage(self) -> np.dtype[Any]:
        """The numpy type that holds one element, little-endian."""
        return np.dtype(_STORAGE[self])

    @property
    def bits(self) -> np.dtype[Any]:
        """The unsigned integer type of the same width; complex128, which is never coded, has none."""
        return np.dtype(f"<u{self.storage.itemsize}")

    @property
    def is_float(self) -> bool:
        """Whether the elements are floating-point numbers that can be weights: of which all bits 0 is zero."""
        return self <= DType.FLOAT64 or DType.FLOAT8_E4M3FN <= self <= DType.FLOAT8_E5M2FNUZ

    @property
    def negative_zero(self) -> int | None:
        """The bit pattern of the other zero, if there is one."""
        if not self.is_float or self in (DType.FLOAT8_E4M3FNUZ, DType.FLOAT8_E5M2FNUZ):  # there it is NaN
            return None
        return 1 << 8 * self.storage.itemsize - 1


#: bfloat16, the smaller ones, and pairs of float16 travel as their bits.
_STORAGE = (
    *("<f4", "<f2", "<u2", "<f8", "|i1", "|u1", "<i2", "<i4", "<i8", "|b1"),
    *("|u1", "|u1", "|u1", "|u1", "|u1", "|u1", "<u2", "<u4", "<u8", "<u4", "<c8", "<c16"),
)
