"""A .dc file to another with the same tensors, bit for bit, and other bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepcompress.coding import codebooks
from deepcompress.coding.dtypes import DType
from deepcompress.coding.encoder import CODERS, COMPACT, encode_coded, encode_plain
from deepcompress.coding.layouts.ranked import Multiples
from deepcompress.coding.layouts.references import Alias
from deepcompress.coding.tensors import EncodedTensor, Encoding
from deepcompress.container import extensions
from deepcompress.container.entries import Entry
from deepcompress.container.reader import ModelFile
from deepcompress.container.writer import save

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Recoded:
    """What became of a file: where it is now, its bytes, and those that it had."""

    file: str
    file_bytes: int
    bytes_before: int

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def recode(
    path: str | Path, out: str | Path | None = None, coder: str = "auto", max_bytes: int | None = None
) -> Recoded:
    """Write the tensors of a .dc file once more, each in the layout that `coder` has for it; values stay as they are.

    Shared values that no weight has any more are left out, and so are optional extensions that this release does not
    know.

    Args:
        path: the file.
        out: where the new file goes, whole or not at all; by default it takes the place of the old one.
        coder: ``huffman``, ``ans``, ``auto`` or ``fixed``, as in `Recipe`.
        max_bytes: as in `load_state_dict`.

    Raises:
        FormatError: the file is missing, damaged, too new, or claims more than `max_bytes`.
        OutputError: `out` cannot be written.
        ValueError: there is no such coder.
    """
    if coder not in CODERS:
        raise ValueError(f"unknown coder {coder!r}; known: {', '.join(CODERS)}")
    target = Path(path if out is None else out)
    with ModelFile(path) as file:
        file.check(max_bytes)
        save(target, _Recoder(file, coder), file.header.network, file.header.data, extensions.known(file.header))
        before = file.file_bytes
    return Recoded(str(target), target.stat().st_size, before)


class _Recoder:
    """The tensors of a file, encoded anew, one after the other."""

    def __init__(self, file: ModelFile, coder: str) -> None:
        self._file, self._coder = file, coder
        self._books = self._used()
        self._owners: dict[str, int] = {}  # for each codebook, the tensor that stores it in the new file

    def _used(self) -> dict[str, Array]:
        """Of each codebook, by the tensor that owns it: the entries that occur, sorted, as bit patterns."""
        books: dict[str, Array] = {}
        for entry in self._file.header.entries:
            if entry.info.is_shared:
                values, dtype = self._file.read(entry.name)
                found = np.unique(values.reshape(-1).view(dtype.bits))
                owner = self._owner(entry)
                found = np.union1d(books[owner], found) if owner in books else found
                books[owner] = found[found != 0]
        return {owner: entries[codebooks.order(entries)] for owner, entries in books.items()}

    def _owner(self, entry: Entry) -> str:
        return entry.name if entry.info.target is None else self._file.header.entries[entry.info.target].name

    def __iter__(self) -> Iterator[tuple[str, EncodedTensor]]:
        for entry in self._file.header.entries:
            yield entry.name, self._encoded(entry)

    def _encoded(self, entry: Entry) -> EncodedTensor:
        info = entry.info
        if isinstance(info.layout, Alias):
            return EncodedTensor(info, b"")
        if isinstance(info.layout, Multiples) and self._coder in COMPACT:
            return EncodedTensor(info, self._file.section(entry))
        values, dtype = self._file.read(entry.name)
        if info.encoding is not Encoding.CODED:
            return encode_plain(values, dtype, self._coder in COMPACT)
        if not info.is_shared:
            return encode_coded(values, dtype, None, self._coder)
        return self._shared(entry, values, dtype)

    def _shared(self, entry: Entry, values: Array, dtype: DType) -> EncodedTensor:
        owner = self._owner(entry)
        book = self._books[owner].view(dtype.storage)
        encoded = encode_coded(values, dtype, book, self._coder, self._owners.get(owner))
        if encoded.info.codebook:
            self._owners[owner] = self._file.number(entry.name)
        return encoded
