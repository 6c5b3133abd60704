"""The inner loops of updates, compiled by numba; their slow twins are the functions of the two loops themselves."""

from __future__ import annotations

from numba import njit
from numba.extending import register_jitable

from deepcompress.coding import kernels as _compiled  # registers what both loops call of the adaptive model
from deepcompress.coding.uncounted import UNCOUNTED
from deepcompress.updates import changes_loop, differences_loop

for _part in (
    changes_loop.code_whether, changes_loop.find_tables, changes_loop.predict, changes_loop.code_move,
    changes_loop.code_value, changes_loop.plain, differences_loop.learn_one, differences_loop.pass_bits,
    differences_loop.code_one, differences_loop.code_length, differences_loop.code_bits,
):  # fmt: skip
    register_jitable(**UNCOUNTED)(_part)

give_decisions = _compiled.give_decisions
encode_flags = njit(cache=True, nogil=True, **UNCOUNTED)(differences_loop.encode_flags)
decode_flags = njit(cache=True, nogil=True, **UNCOUNTED)(differences_loop.decode_flags)
code_values = njit(cache=True, nogil=True, **UNCOUNTED)(differences_loop.code_values)
code_changes = njit(cache=True, nogil=True, **UNCOUNTED)(changes_loop.code_changes)
