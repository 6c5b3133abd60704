"""The loops of updates, compiled or plain, for the coder that they share with `coding.adaptive`."""

from __future__ import annotations

import sys
from importlib import import_module
from types import SimpleNamespace

from deepcompress.coding import lanes
from deepcompress.coding.adaptive import model
from deepcompress.coding.adaptive.coder import Coder
from deepcompress.updates import changes_loop, differences_loop

_KERNELS = "deepcompress.updates.kernels"
_KERNELS_FROM = 1 << 12  # fewer elements are coded sooner than numba is imported
_PLAIN = SimpleNamespace(
    give_decisions=model.give,
    code_changes=changes_loop.code_changes,
    encode_flags=differences_loop.encode_flags,
    decode_flags=differences_loop.decode_flags,
    code_values=differences_loop.code_values,
)


def coder_for(elements: int) -> Coder:
    """The coder of so many elements."""
    wanted = elements >= _KERNELS_FROM or "numba" in sys.modules
    is_compiled = wanted and lanes.kernels() is not None
    return Coder(import_module(_KERNELS) if is_compiled else _PLAIN, is_compiled, "coded changes")
