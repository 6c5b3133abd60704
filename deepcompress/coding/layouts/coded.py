"""What all layouts have in common whose weights are indices into a codebook."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np

from deepcompress.coding import codebooks, offsets
from deepcompress.coding.bits import Reader, varint
from deepcompress.coding.forms import Form, RowScales, SharedCodebook, StoredCodebook, read_fields
from deepcompress.coding.streams import fixed_width
from deepcompress.coding.survey import Survey, bits_of, indices_of, walk
from deepcompress.coding.tensors import Encoding, Layout, Survivors, TensorInfo, TensorType
from deepcompress.errors import FormatError

Array = np.ndarray[Any, np.dtype[Any]]


class Counted(Layout):
    """A layout of weights whose number the header says, and which take a fixed width before they are coded."""

    encoding = Encoding.CODED
    nonzeros: int

    def survivors_of(self, tensor: TensorType) -> int:
        """As the header says."""
        return self.nonzeros

    @property
    def form(self) -> Form | None:
        """How the codebook in the section is stored; None if there is none."""
        return None

    @abstractmethod
    def width_of(self, tensor: TensorType) -> int:
        """Bits of a weight before entropy coding: of its index, or of itself."""

    def position_bits(self, tensor: TensorType) -> int:
        """Bits of all positions before entropy coding, at the best width and with as many fillers as can be, or a mask.

        That is where positions and values are one stream: others know better.
        """
        widths = range(1, offsets.MAX_BITS + 1)
        most = ((self.nonzeros + tensor.size // ((1 << bits) - 1)) * bits for bits in widths)
        return min(tensor.size, *most)

    def stream_bits(self, tensor: TensorType) -> int:
        """Bits of all indices and positions before entropy coding."""
        return self.nonzeros * self.width_of(tensor) + self.position_bits(tensor)

    def check(self, tensor: TensorType) -> None:
        """The dtype is that of weights."""
        if not tensor.dtype.is_float:
            raise FormatError(f"only floating-point tensors are coded, not {tensor.dtype.name}")
        super().check(tensor)


@dataclass(frozen=True)
class Coded(Counted):
    """A layout of weights that share values: the codebook, and how many elements are not zero."""

    codebook: StoredCodebook | SharedCodebook
    nonzeros: int
    relation: ClassVar[str] = "has the codebook"

    @property
    def version(self) -> int:
        """Of the layout, and of the codebook's form."""
        return max(self.since, self.codebook.version)

    @property
    def target(self) -> int | None:
        """The earlier tensor that stores the codebook."""
        return self.codebook.owner

    @property
    def form(self) -> Form | None:
        """That of a codebook of its own."""
        return self.codebook.form if isinstance(self.codebook, StoredCodebook) else None

    @property
    def is_shared(self) -> bool:
        """Yes."""
        return True

    def moved(self, owner: int) -> Self:
        """The same, with the codebook of another tensor of the file."""
        return replace(self, codebook=SharedCodebook(owner, self.codebook.count))

    def width_of(self, tensor: TensorType) -> int:
        """Of an index."""
        return fixed_width(self.codebook.count)

    def refers(self, tensor: TensorType, target: TensorInfo) -> bool:
        """The earlier tensor stores a codebook of its own, for the same dtype and with as many values."""
        layout = target.layout
        if not isinstance(layout, Coded) or layout.target is not None:
            return False
        return (target.dtype, layout.codebook.count) == (tensor.dtype, self.codebook.count)

    def pack(self, version: int) -> bytes:
        """The codebook, and the number of weights."""
        return self.codebook.pack(version) + varint(self.nonzeros)

    def check(self, tensor: TensorType) -> None:
        """There can be such a codebook."""
        self.codebook.check(tensor.dtype)
        super().check(tensor)

    def codebook_in(self, tensor: TensorType, section: memoryview) -> Array:
        """The codebook at the start of the section, as bit patterns: distinct, and none of them zero.

        Raises:
            FormatError: the bytes are not such a codebook.
        """
        assert isinstance(self.codebook, StoredCodebook)
        length = self.codebook.length(tensor.itemsize)
        return codebooks.unpack(self.codebook, section[:length], tensor.dtype.bits)

    def after_codebook(self, tensor: TensorType, section: memoryview) -> Reader:
        """A reader of what stands behind the codebook."""
        reader = Reader(section, "section")
        reader.take(self.codebook.length(tensor.itemsize), "codebook")
        return reader

    def decode(self, tensor: TensorType, section: memoryview, codebook: Array | None, workers: int) -> Array:
        """With the codebook that stands in the section, unless it is given."""
        codebook = self.codebook_in(tensor, section) if codebook is None else codebook
        bits = self.decode_bits(tensor, section, codebook, workers)
        return bits.view(tensor.dtype.storage).reshape(tensor.shape)

    @abstractmethod
    def decode_bits(self, tensor: TensorType, section: memoryview, codebook: Array, workers: int) -> Array:
        """The elements as bit patterns, flat."""

    @abstractmethod
    def survivors(self, tensor: TensorType, section: memoryview, codebook: Array, workers: int) -> Survivors:
        """The weights that are not zero; as `decode_bits`, without making the dense tensor."""


def read_coded(reader: Reader, tensor: TensorType, version: int) -> tuple[StoredCodebook | SharedCodebook, int]:
    """The inverse of `Coded.pack`: the codebook, and the number of weights."""
    codebook = read_fields(reader, version)
    assert not isinstance(codebook, RowScales)
    return codebook, reader.varint("number of weights", limit=tensor.size)


def decode_codebook(info: TensorInfo, section: memoryview) -> Array:
    """The codebook at the start of a tensor's section, as bit patterns: distinct, and none of them zero.

    Raises:
        FormatError: the bytes are not such a codebook.
    """
    assert isinstance(info.layout, Coded)
    return info.layout.codebook_in(info, section)


def decode_survivors(
    info: TensorInfo, section: memoryview, codebook: Array | None = None, workers: int = 1
) -> Survivors:
    """The weights that are not zero, by position and index: as `tensors.decode`, without making the dense tensor.

    Only for a tensor that `is_shared`. Beside the result, a tensor without offsets takes one or two bytes an element.

    Raises:
        FormatError: the section does not hold exactly this tensor.
    """
    layout = info.layout
    assert isinstance(layout, Coded) and layout.is_shared
    codebook = layout.codebook_in(info, section) if codebook is None else codebook
    return layout.survivors(info, section, codebook, workers)


# Indices ---------------------------------------------------------------------------------------------------------


def after_zero(codebook: Array) -> Array:
    """The values of symbols of which 0 is zero."""
    return np.concatenate((np.zeros(1, dtype=codebook.dtype), codebook))


def check_count(found: int, announced: int) -> None:
    """Raise a FormatError unless as many weights were found as the header says."""
    if found != announced:
        raise FormatError(f"{found} weights are not zero, but {announced} were announced")


def dense_survivors(symbols: Array, codebook: Array) -> Survivors:
    """From a symbol for each element, of which 0 is zero, and i the value i - 1 of the codebook."""
    positions = np.flatnonzero(symbols)
    return Survivors(positions, symbols[positions] - 1, codebook)


@dataclass(frozen=True)
class Sorted:
    """A tensor as the coders see it that take the codebook sorted, from the most negative value to the most positive.

    Attributes:
        symbols: of each element, flat, int16: 0 for zero, else the index in the sorted codebook plus 1.
        count: values of the codebook.
        negative: how many of them have their sign bit set.
        codebook: what the header says of it.
        head: its bytes in the section.
    """

    symbols: Array
    count: int
    negative: int
    codebook: StoredCodebook | SharedCodebook
    head: bytes


def sort(values: Array, found: Survey, target: int | None) -> Sorted:
    """A tensor with a codebook, which tensor number `target` stores, or the tensor itself in the shortest form."""
    assert found.codebook is not None
    flat = bits_of(values, found.dtype)
    order = codebooks.order(found.codebook)
    symbols = np.zeros(len(flat), dtype=np.int16)
    start = 0
    for chunk, positions, _ in walk(flat):
        symbols[start + positions] = indices_of(chunk[positions], found.codebook[order]) + 1
        start += len(chunk)
    facts, head = codebooks.stored(found.codebook, target, compact=True)
    return Sorted(symbols, len(order), codebooks.negatives(found.codebook), facts, head)
