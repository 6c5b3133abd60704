"""Memory for compiled loops over lanes that nothing else points to, so that the compiler does several lanes at a time.

A loop that reads a table and writes an array is done number by number, because the table might be part of the array.
Numbers on the stack of the function are known to be apart from all that it is given.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from deepcompress.coding.rans.shape import MAX_LANES


def _make(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    # Some more, so that arrays are not a power of two apart: of those a processor takes one for another.
    size = ir.Constant(ir.IntType(64), MAX_LANES + 16)
    return cgutils.alloca_once(builder, ir.IntType(32), size=size)  # type: ignore[no-untyped-call]


def _signed(typing_context: Any) -> Any:
    return types.CPointer(types.int32)(), _make  # type: ignore[no-untyped-call]


def _unsigned(typing_context: Any) -> Any:
    return types.CPointer(types.uint32)(), _make  # type: ignore[no-untyped-call]


#: Where `MAX_LANES` numbers of int32 are, with anything in them: for `carray`, in the function that asks.
signed: Any = intrinsic(_signed)
#: The same, of uint32.
unsigned: Any = intrinsic(_unsigned)
