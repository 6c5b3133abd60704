"""What a tensor of an open .dc file holds, apart from how it is stored, and what is expected of it in another file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from deepcompress.coding import codebooks
from deepcompress.coding.dtypes import DType
from deepcompress.coding.forms import StoredCodebook
from deepcompress.coding.layouts.coded import Coded
from deepcompress.container.entries import Entry
from deepcompress.container.reader import ModelFile
from deepcompress.updates.differences import ordered

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Content:
    """The weights of a tensor that shares them.

    Attributes:
        symbols: flat, int16: 0 for zero, else the index in the sorted codebook plus 1.
        codebook: the values in the order of the file, bit patterns.
        raw: bytes of the codebook as they are stored, by this tensor or the one that owns it.
        stored: what the header says of it there.
        dtype: of the tensor, and of its owner.
    """

    symbols: Array
    codebook: Array
    raw: bytes
    stored: StoredCodebook
    dtype: DType


def content_of(file: ModelFile, entry: Entry) -> Content:
    """The content of a tensor that stores shared weights.

    Raises:
        FormatError: its section is damaged.
    """
    found, _ = file.read_survivors(entry.name)
    owner = entry if entry.info.target is None else file.header.entries[entry.info.target]
    assert isinstance(owner.info.layout, Coded) and isinstance(owner.info.layout.codebook, StoredCodebook)
    codebook = file.codebook(file.number(owner.name))[0].view(owner.info.dtype.bits)
    ranks = np.empty(len(codebook), dtype=np.int16)
    ranks[codebooks.order(found.codebook)] = np.arange(1, len(codebook) + 1)
    symbols = np.zeros(entry.info.size, dtype=np.int16)
    symbols[found.positions] = ranks[found.indices] if len(found.indices) else 0
    raw = file.section(owner)[: owner.info.codebook]
    return Content(symbols, codebook, raw, owner.info.layout.codebook, owner.info.dtype)


def expected(old: Content, codebook: Array) -> Array:
    """The symbols of `old` in the terms of another codebook (bit patterns): each value is that of its rank if there are
    as many, and else the nearest one, in the order of floats; of two that are equally near, the lower.
    """
    count = len(old.codebook)
    if len(codebook) == count or not len(codebook):
        return old.symbols if len(codebook) else np.zeros_like(old.symbols)
    bits = 8 * codebook.itemsize
    before = np.sort(ordered(old.codebook, 8 * old.codebook.itemsize)).astype(np.float64)
    after = np.sort(ordered(codebook, bits)).astype(np.float64)
    nearest = np.abs(before[:, None] - after[None, :]).argmin(axis=1)
    ranks = np.concatenate(([0], nearest + 1)).astype(np.int16)
    found: Array = ranks[old.symbols]
    return found
