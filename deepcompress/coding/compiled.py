"""Modules of loops that numba compiles, where it does."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def loops(name: str) -> Any:
    """The module `name`, or None where numba cannot be had, or compiles nothing (``NUMBA_DISABLE_JIT``).

    Interpreted, such loops are far slower than their twins in numpy, and some cannot run.
    """
    try:
        compiles = not import_module("numba").config.DISABLE_JIT
    except ImportError:
        return None
    return import_module(name) if compiles else None
