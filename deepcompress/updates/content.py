"""What a tensor of an open .dc file holds, apart from how it is stored, and what is expected of it in another file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from deepcompress.coding import codebooks
from deepcompress.coding.tensors import TensorInfo
from deepcompress.container.entries import Entry
from deepcompress.container.reader import ModelFile
from deepcompress.updates.differences import ordered

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Content:
    """The weights of a tensor that shares them.

    Attributes:
        symbols: flat, int16: 0 for zero, else the index in the sorted codebook plus 1.
        entries: of the codebook in the order of the file, bit patterns.
        raw: bytes of the codebook as they are stored, by this tensor or the one that owns it.
        owner: facts of that one.
    """

    symbols: Array
    entries: Array
    raw: bytes
    owner: TensorInfo


def content_of(file: ModelFile, entry: Entry) -> Content:
    """The content of a tensor that stores shared weights.

    Raises:
        FormatError: its section is damaged.
    """
    found, _ = file.read_survivors(entry.name)
    owner = entry if entry.info.target is None else file.header.entries[entry.info.target]
    entries = file.codebook(file.number(owner.name))[0].view(owner.info.dtype.bits)
    order = codebooks.order(entries)
    ranks = np.empty(len(entries), dtype=np.int16)
    ranks[order] = np.arange(1, len(entries) + 1)
    symbols = np.zeros(entry.info.size, dtype=np.int16)
    if entry.info.is_mixed:  # whose entries are sorted
        ranks = np.arange(1, len(entries) + 1, dtype=np.int16)
    symbols[found.positions] = ranks[found.indices] if len(found.indices) else 0
    return Content(symbols, entries, file.section(owner)[: owner.info.codebook], owner.info)


def expected(old: Content, entries: Array) -> Array:
    """The symbols of `old` in the terms of another codebook (bit patterns): each entry is that of its rank if there are
    as many, and else the nearest one, in the order of floats; of two that are equally near, the lower.
    """
    count = len(old.entries)
    if len(entries) == count or not len(entries):
        return old.symbols if len(entries) else np.zeros_like(old.symbols)
    bits = 8 * entries.itemsize
    before = np.sort(ordered(old.entries, 8 * old.entries.itemsize)).astype(np.float64)
    after = np.sort(ordered(entries, bits)).astype(np.float64)
    nearest = np.abs(before[:, None] - after[None, :]).argmin(axis=1)
    ranks = np.concatenate(([0], nearest + 1)).astype(np.int16)
    found: Array = ranks[old.symbols]
    return found
