"""What a file says of a tensor: its type, and the layout of its section (`layouts`), which knows the way back.

Everything works on the tensor's *bits*: values are looked up and compared as unsigned integers of the
same width, so that any dtype, signed zeros and NaN payloads come back as they went in.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

import numpy as np

from deepcompress.coding.bits import Reader
from deepcompress.coding.dtypes import DType
from deepcompress.errors import FormatError

Array = np.ndarray[Any, np.dtype[Any]]


class Encoding(Enum):
    """What kind of layout a tensor has, by the word that `inspect` has for it."""

    RAW = "raw"
    PLANES = "planes"
    CODED = "coded"
    ALIAS = "alias"
    CONSTANT = "constant"
    ROWS = "rows"
    COPY = "copy"


@dataclass(frozen=True)
class TensorType:
    """All that there is to say of a tensor without its values: its dimensions, and the type of its elements."""

    shape: tuple[int, ...]
    dtype: DType

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return self.dtype.storage.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor when it is decoded."""
        return self.size * self.itemsize


class Layout(ABC):
    """How the section of a tensor is laid out. Each layout is a frozen dataclass of what the header says of it.

    A layout is all in one place: its fields in the header (`pack`, `read`, `check`), the parts of its section
    (`parts`), and the section itself (`decode`, and functions that plan and write it). `layouts` lists them.
    """

    #: Of the layout in a header; part of the file format. In version 1 it is called the encoding.
    number: ClassVar[int]
    #: The first version of the format that has it.
    since: ClassVar[int]
    encoding: ClassVar[Encoding]
    #: Whether `flags` may be other than 0.
    has_flags: ClassVar[bool] = False
    #: What it has to do with its `target`, if there is one.
    relation: ClassVar[str] = ""

    @property
    def version(self) -> int:
        """The first version of the format that has all that this layout needs."""
        return self.since

    @property
    def flags(self) -> int:
        """Four bits of the header that say more of the layout."""
        return 0

    @property
    def target(self) -> int | None:
        """The number of the earlier tensor that it refers to."""
        return None

    @property
    def is_shared(self) -> bool:
        """Whether weights are stored as indices into a codebook, so that there are `survivors`."""
        return False

    @property
    @abstractmethod
    def coder(self) -> str:
        """What codes the values, in the words of `inspect`."""

    def survivors_of(self, tensor: TensorType) -> int:
        """Elements that are not zero, as far as the header knows: all of them where they are not counted."""
        return tensor.size

    @abstractmethod
    def parts(self, tensor: TensorType) -> dict[str, int]:
        """The bytes of each part of the section, in their order."""

    def refers(self, tensor: TensorType, target: TensorInfo) -> bool:
        """Whether `target` is a tensor that this layout of `tensor` may refer to."""
        return False

    @abstractmethod
    def pack(self, version: int) -> bytes:
        """Its fields in a header of this version of the format."""

    @classmethod
    def read(cls, reader: Reader, tensor: TensorType, version: int, flags: int) -> Layout:
        """The inverse of `pack`; `check` is still to come. Of layouts that share a number, one reads for all.

        Raises:
            FormatError: a field is above its limit.
        """
        raise AssertionError(f"layout {cls.number} is read by another class")

    def check(self, tensor: TensorType) -> None:
        """What the fields and the tensor must satisfy together, so that decoding stays within ``tensor.nbytes``.

        Raises:
            FormatError: they do not.
        """
        section = sum(self.parts(tensor).values())
        if section > tensor.nbytes:
            raise FormatError(f"a section of {section} bytes is larger than the raw {tensor.nbytes}")

    @abstractmethod
    def decode(self, tensor: TensorType, section: memoryview, codebook: Array | None, workers: int) -> Array:
        """See `decode` below."""


@dataclass(frozen=True)
class TensorInfo(TensorType):
    """What the header of a file says of one tensor."""

    layout: Layout

    @property
    def encoding(self) -> Encoding:
        """What kind of layout it has."""
        return self.layout.encoding

    @property
    def version(self) -> int:
        """The first version of the format that has all that this tensor needs."""
        return max(self.dtype.since, self.layout.version)

    @property
    def section(self) -> int:
        """Bytes of the tensor's section in the file."""
        return sum(self.layout.parts(self).values())

    @property
    def codebook(self) -> int:
        """Bytes of the codebook in its section."""
        return self.layout.parts(self).get("codebooks", 0)

    @property
    def nonzeros(self) -> int:
        """Elements that are not zero; all of them where they are not counted."""
        return self.layout.survivors_of(self)

    @property
    def target(self) -> int | None:
        """The number of the earlier tensor that this one is, or equals, or whose codebook it has."""
        return self.layout.target

    @property
    def is_reference(self) -> bool:
        """Whether the values are those of an earlier tensor, so that there is no section."""
        return self.encoding in (Encoding.ALIAS, Encoding.COPY)

    @property
    def is_shared(self) -> bool:
        """Whether weights are stored as indices into a codebook, so that there is something for `decode_survivors`."""
        return self.layout.is_shared


@dataclass(frozen=True)
class Survivors:
    """The weights of a tensor that are not zero, as a file holds them: no value is looked up.

    Weight number i is ``codebook[indices[i]]``, at element ``positions[i]`` of the flat tensor. Positions ascend,
    int64; indices are small integers; the codebook is of bit patterns.
    """

    positions: Array
    indices: Array
    codebook: Array


@dataclass(frozen=True)
class EncodedTensor:
    """A tensor ready to be written: the facts for the header and the bytes of its section."""

    info: TensorInfo
    section: bytes


def decode(info: TensorInfo, section: memoryview, codebook: Array | None = None, workers: int = 1) -> Array:
    """The tensor in ``info.dtype.storage``, exactly as it was encoded.

    Args:
        info: its facts, already checked against the file (see `container.format`); `info.nbytes` is allocated.
        section: the tensor's section, `info.section` bytes.
        codebook: the shared values, where they are stored with an earlier tensor.
        workers: threads that share the work on a large coded tensor.

    Raises:
        FormatError: the section does not hold exactly this tensor.
    """
    return info.layout.decode(info, section, codebook, workers)
