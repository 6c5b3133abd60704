"""What making and applying updates of .dc files have in common: docs/update-format.md, sections 3 to 6."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from deepcompress.coding.adaptive.codec import Scan
from deepcompress.coding.bits import Reader, varint
from deepcompress.coding.dtypes import DType
from deepcompress.coding.forms import Form, RowScales
from deepcompress.coding.layouts.adaptive import Adaptive
from deepcompress.coding.layouts.coded import Coded
from deepcompress.coding.layouts.ranked import Multiples, Numbers
from deepcompress.coding.tensors import TensorInfo
from deepcompress.container.entries import MAX_HEADER, MAX_LABEL, Entry, Extension, Header
from deepcompress.container.reader import ModelFile
from deepcompress.errors import FormatError
from deepcompress.updates.content import Content
from deepcompress.updates.differences import WIDTHS, Coders
from deepcompress.updates.records import Book, BookOp

Array = np.ndarray[Any, np.dtype[Any]]

LABELS, HEADER = 1, 2  # flags: labels are told, and so are the bytes of the header


class Tools:
    """What coding and decoding a file's tensors have in common.

    Attributes:
        coders: of differences; they learn the same both ways, in the same order.
    """

    def __init__(self, old: ModelFile) -> None:
        """Tools for tensors that are told by those of an old file."""
        self._old = old
        self.coders = Coders(sum(entry.info.nbytes for entry in old.header.entries if not entry.info.is_shared))

    def elements(self, entry: Entry) -> Array:
        """The elements of an old tensor, unsigned and flat, of 8 bytes at most."""
        values, dtype = self._old.read(entry.name)
        return elements_of(values, dtype)

    def floats(self, entry: Entry) -> Array:
        """The elements of an old tensor of float32.

        Raises:
            FormatError: it is of another dtype.
        """
        values, dtype = self._old.read(entry.name)
        if dtype is not DType.FLOAT32:
            raise FormatError(f"whole numbers cannot be told by {entry.name}, which is of {dtype.name}")
        return values


def elements_of(values: Array, dtype: DType) -> Array:
    """Elements as unsigned integers, flat; those of 16 bytes as two each."""
    width = min(dtype.storage.itemsize, max(WIDTHS))
    return np.ascontiguousarray(values).reshape(-1).view(f"<u{width}")


def book_type(old: Content) -> str:
    """numpy's type of the elements of a codebook that is no grid, unsigned."""
    return "<u2" if old.stored.form is Form.HALVES else f"<u{old.dtype.storage.itemsize}"


def with_book(info: TensorInfo, book: Book, old: Content) -> TensorInfo:
    """The facts, with the codebook that is told beside them.

    Raises:
        FormatError: what is told are scales.
    """
    assert isinstance(info.layout, Coded)
    if book.op is BookOp.OWNER:
        return info
    stored = book.stored or old.stored
    if isinstance(stored, RowScales):
        raise FormatError("its codebook is told as scales of rows")
    return replace(info, layout=replace(info.layout, codebook=stored))


def with_scales(info: TensorInfo, scales: RowScales) -> TensorInfo:
    """The facts, with these scales; of what is coded, nothing is known yet."""
    return replace(info, layout=Multiples(scales, 0, Numbers(0, 0)))


def scan_of(info: TensorInfo) -> Scan:
    """How a tensor is looked at: as the adaptive model does, if its layout is that one."""
    return info.layout.scan if isinstance(info.layout, Adaptive) else Scan()


def pack_labels(header: Header) -> bytes:
    """Network, data and extensions as `read_head` reads them."""
    texts = [header.network.encode(), header.data.encode()]
    out = b"".join(varint(len(text)) + text for text in texts) + varint(len(header.extensions))
    for extension in header.extensions:
        name = extension.name.encode()
        out += varint(len(name)) + name + varint(len(extension.data)) + extension.data
    return out


@dataclass(frozen=True)
class Head:
    """What the facts begin with: network, data and extensions, if others; bytes of the header, and of its payload."""

    labels: tuple[str, str, tuple[Extension, ...]] | None
    header: tuple[int, int]


def read_head(reader: Reader) -> Head:
    """The beginning of the facts.

    Raises:
        FormatError: it is not as it should be.
    """
    flags = reader.byte("flags")
    if flags > (LABELS | HEADER):
        raise FormatError(f"flags {flags} of the update are unknown")
    labels = _read_labels(reader) if flags & LABELS else None
    if not flags & HEADER:
        return Head(labels, (0, 0))
    size = reader.varint("length of the header", MAX_HEADER)
    if not size:
        raise FormatError("a header of no bytes is told")
    return Head(labels, (size, reader.varint("length of the deflated header")))


def _read_labels(reader: Reader) -> tuple[str, str, tuple[Extension, ...]]:
    network, data = reader.text("network", MAX_LABEL), reader.text("data", MAX_LABEL)
    extensions = []
    for _ in range(reader.varint("number of extensions", MAX_LABEL)):
        name = reader.text("name of an extension", MAX_LABEL)
        extensions.append(Extension(name, bytes(reader.take(reader.varint("length of an extension"), name))))
    return network, data, tuple(extensions)
