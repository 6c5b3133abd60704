"""Layouts of tensors that have no section, because their values are those of an earlier tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from deepcompress.coding.bits import Reader, varint
from deepcompress.coding.tensors import Encoding, Layout, TensorInfo, TensorType

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Reference(Layout):
    """What both share: `source` is the number of the earlier tensor."""

    source: int

    @property
    def target(self) -> int:
        """The earlier tensor."""
        return self.source

    @property
    def coder(self) -> str:
        """What stands before the name of the earlier tensor."""
        return "same as"

    def parts(self, tensor: TensorType) -> dict[str, int]:
        """None."""
        return {}

    def refers(self, tensor: TensorType, target: TensorInfo) -> bool:
        """The earlier tensor is of the same type, and no alias."""
        return target.encoding is not Encoding.ALIAS and (target.shape, target.dtype) == (tensor.shape, tensor.dtype)

    def pack(self, version: int) -> bytes:
        """The number of the earlier tensor."""
        return varint(self.source)

    @classmethod
    def read(cls, reader: Reader, tensor: TensorType, version: int, flags: int) -> Reference:
        """Any number."""
        return cls(reader.varint("alias"))

    def decode(self, tensor: TensorType, section: memoryview, codebook: Array | None, workers: int) -> Array:
        """Never: a reader decodes the earlier tensor."""
        raise AssertionError("a reference has no section")


@dataclass(frozen=True)
class Alias(Reference):
    """The tensor is the earlier one: their memory is one (tied weights)."""

    number, since, encoding, relation = 3, 1, Encoding.ALIAS, "is an alias"


@dataclass(frozen=True)
class Copy(Reference):
    """The tensor equals the earlier one."""

    number, since, encoding, relation = 7, 3, Encoding.COPY, "is a copy"

    @property
    def coder(self) -> str:
        """What stands before the name of the earlier tensor."""
        return "copy of"

    def refers(self, tensor: TensorType, target: TensorInfo) -> bool:
        """It is not a copy itself, either."""
        return target.encoding is not Encoding.COPY and super().refers(tensor, target)
