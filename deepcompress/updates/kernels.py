"""The inner loops of updates, compiled by numba; their slow twins are the functions of the two loops themselves."""

from __future__ import annotations

from numba import njit
from numba.extending import register_jitable

from deepcompress.coding import kernels as _compiled  # registers what both loops call of the adaptive model
from deepcompress.updates import changes_loop, differences_loop

register_jitable(differences_loop.pass_bits)
for _part in (
    changes_loop.code_whether, changes_loop.predict, changes_loop.code_move, changes_loop.code_entry,
    changes_loop.plain,
):  # fmt: skip
    register_jitable(_part)

give_decisions = _compiled.give_decisions
encode_flags = njit(cache=True, nogil=True)(differences_loop.encode_flags)
decode_flags = njit(cache=True, nogil=True)(differences_loop.decode_flags)
code_values = njit(cache=True, nogil=True)(differences_loop.code_values)
code_changes = njit(cache=True, nogil=True)(changes_loop.code_changes)
