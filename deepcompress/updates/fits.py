"""The model of a tensor of layout 8, given that of an old one: docs/update-format.md, section 4."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from deepcompress.coding.bits import Reader
from deepcompress.coding.rans import model
from deepcompress.coding.rans.model import Model
from deepcompress.coding.rans.shape import matrix_of
from deepcompress.coding.tensors import TensorType
from deepcompress.errors import FormatError
from deepcompress.updates.differences import Coders

Array = np.ndarray[Any, np.dtype[Any]]

_SYMBOLS = 64  # of a plane: classes, tables, and levels are below this


def tell(raw: bytes, info: TensorType, old: bytes, before: TensorType, coders: Coders) -> bytes | None:
    """The bytes by which a model is told by an old one, each with the tensor that it is of; None if it cannot be."""
    found, known = _parsed(raw, info), _parsed(old, before)
    if model.pack(found) != raw:
        return None  # an encoder has written its planes otherwise
    told = coders.encode(_joined(_planes(found)), _expected(known, found))
    return model.pack(found, plane=lambda symbols, alphabet: b"") + told


def read(told: bytes, info: TensorType, old: bytes, before: TensorType, coders: Coders) -> bytes:
    """The inverse.

    Raises:
        FormatError: these are not such bytes.
    """
    reader = Reader(told, "model")
    blank = model.unpack(reader, matrix_of(info.shape), plane=lambda reader, count, alphabet: np.zeros(count, np.uint8))
    symbols = coders.of(1).decode(reader, _expected(_parsed(old, before), blank))
    reader.end()
    if symbols.max() >= _SYMBOLS:
        raise FormatError(f"symbol {symbols.max()} in a plane of a rANS model; {_SYMBOLS - 1} is the last")
    return model.pack(_filled(blank, symbols))


def _parsed(raw: bytes, info: TensorType) -> Model:
    return model.parse(memoryview(raw), matrix_of(info.shape))


def _planes(found: Model) -> list[Array | None]:
    return [*found.axes, found.contexts, found.levels]


def _joined(parts: list[Array | None]) -> Array:
    return np.concatenate([part.reshape(-1) for part in parts if part is not None])


def _expected(old: Model, like: Model) -> Array:
    """The old symbols at the places of those of another model; 0 where there are none."""
    found: list[Array | None] = []
    for have, want in zip(_planes(old), _planes(like), strict=True):
        if want is None:
            continue
        part = np.zeros_like(want)
        if have is not None:
            common = tuple(slice(min(sizes)) for sizes in zip(have.shape, want.shape, strict=True))
            part[common] = have[common]
        found.append(part)
    return _joined(found)


def _filled(blank: Model, symbols: Array) -> Model:
    """The model with these symbols in its planes."""
    found: list[Array | None] = []
    for part in _planes(blank):
        if part is None:
            found.append(None)
            continue
        found.append(symbols[: part.size].reshape(part.shape))
        symbols = symbols[part.size :]
    by_row, by_plane, by_place, contexts, levels = found
    assert contexts is not None and levels is not None
    return replace(blank, axes=(by_row, by_plane, by_place), contexts=contexts, levels=levels)
