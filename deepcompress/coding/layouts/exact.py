"""Layouts of tensors that are stored exactly: raw, by byte planes, by the kinds of their rows, or as one element."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from deepcompress.coding import planes, streams
from deepcompress.coding.bits import Reader, varint
from deepcompress.coding.dtypes import DType
from deepcompress.coding.survey import ByteCounts, elements_of
from deepcompress.coding.tensors import EncodedTensor, Encoding, Layout, TensorInfo, TensorType
from deepcompress.errors import FormatError

Array = np.ndarray[Any, np.dtype[Any]]


class Exact(Layout):
    """What all of them share: the section is one part. Without more, it is the start of the elements; no fields."""

    @property
    def coder(self) -> str:
        """The word for the layout."""
        return self.encoding.value

    def length_in(self, tensor: TensorType) -> int:
        """Bytes of the section."""
        return tensor.nbytes

    def parts(self, tensor: TensorType) -> dict[str, int]:
        """One part."""
        return {"weights": self.length_in(tensor)}

    def pack(self, version: int) -> bytes:
        """Nothing."""
        return b""

    @classmethod
    def read(cls, reader: Reader, tensor: TensorType, version: int, flags: int) -> Exact:
        """Nothing."""
        return cls()

    def write(self, values: Array, dtype: DType) -> EncodedTensor:
        """A tensor for which this is the layout."""
        info = TensorInfo(values.shape, dtype, self)
        raw = np.ascontiguousarray(values, dtype=dtype.storage).tobytes()
        return EncodedTensor(info, raw[: self.length_in(info)])


@dataclass(frozen=True)
class Raw(Exact):
    """The elements, one after the other."""

    number, since, encoding = 0, 1, Encoding.RAW

    def decode(self, tensor: TensorType, section: memoryview, codebook: Array | None, workers: int) -> Array:
        """A copy of the section."""
        return _from_bytes(tensor, np.frombuffer(section, dtype=np.uint8).copy())


@dataclass(frozen=True)
class Sized(Exact):
    """An exact layout whose section has as many bytes as the header says: `length`."""

    length: int

    def length_in(self, tensor: TensorType) -> int:
        """As the header says."""
        return self.length

    def pack(self, version: int) -> bytes:
        """The length."""
        return varint(self.length)

    @classmethod
    def read(cls, reader: Reader, tensor: TensorType, version: int, flags: int) -> Sized:
        """A length of at most that of the tensor."""
        return cls(reader.varint("length of the section", limit=tensor.nbytes))


@dataclass(frozen=True)
class Planes(Sized):
    """Byte k of every element together, for each k, as a stream of its own."""

    number, since, encoding = 1, 1, Encoding.PLANES

    def decode(self, tensor: TensorType, section: memoryview, codebook: Array | None, workers: int) -> Array:
        """Plane by plane."""
        reader = Reader(section, "byte planes")
        elements = planes.decode(reader, tensor.size, tensor.itemsize)
        reader.end()
        return _from_bytes(tensor, elements.reshape(-1))

    @classmethod
    def plan(cls, found: ByteCounts) -> Planes:
        """From what is counted of a tensor."""
        sizes = [streams.choose(counts)[2] for counts in found.planes]
        return cls(sum(1 + len(varint(size)) + size for size in sizes))

    def write(self, values: Array, dtype: DType) -> EncodedTensor:
        """Any tensor; its bytes have the last word on the length."""
        section = planes.encode(elements_of(values, dtype))
        return EncodedTensor(TensorInfo(values.shape, dtype, Planes(len(section))), section)


@dataclass(frozen=True)
class Constant(Exact):
    """One element, which all are."""

    number, since, encoding = 4, 2, Encoding.CONSTANT

    def length_in(self, tensor: TensorType) -> int:
        """Bytes of an element."""
        return tensor.itemsize

    def check(self, tensor: TensorType) -> None:
        """There is more than one element."""
        if tensor.size < 2:
            raise FormatError(f"{tensor.size} elements stored as a constant")
        super().check(tensor)

    def decode(self, tensor: TensorType, section: memoryview, codebook: Array | None, workers: int) -> Array:
        """The element, again and again."""
        one = _from_bytes(TensorType((1,), tensor.dtype), np.frombuffer(section, dtype=np.uint8).copy())
        return np.tile(one, tensor.size).reshape(tensor.shape)

    @classmethod
    def fits(cls, found: ByteCounts) -> bool:
        """Whether all elements of a tensor are the same, and more than one."""
        return found.size > 1 and bool((np.count_nonzero(found.planes, axis=1) == 1).all())


@dataclass(frozen=True)
class Rows(Sized):
    """The kind of each row, and byte planes for the rows of each kind (see `planes`)."""

    number, since, encoding = 6, 3, Encoding.ROWS

    def check(self, tensor: TensorType) -> None:
        """There are rows."""
        if len(tensor.shape) < 2 or not tensor.size:
            raise FormatError(f"a shape of {tensor.shape} stored by the kinds of its rows")
        super().check(tensor)

    def decode(self, tensor: TensorType, section: memoryview, codebook: Array | None, workers: int) -> Array:
        """Kind by kind."""
        reader, rows = Reader(section, "rows"), tensor.shape[0]
        elements = planes.decode_rows(reader, rows, tensor.size // rows, tensor.itemsize)
        reader.end()
        return _from_bytes(tensor, elements.reshape(-1))

    @classmethod
    def of(cls, values: Array, dtype: DType) -> EncodedTensor | None:
        """A tensor whose rows are of more than one kind; None of another."""
        section = planes.encode_rows(values, dtype)
        if section is None:
            return None
        return EncodedTensor(TensorInfo(values.shape, dtype, cls(len(section))), section)


def _from_bytes(tensor: TensorType, raw: Array) -> Array:
    if tensor.dtype is DType.BOOL and len(raw) and int(raw.max()) > 1:
        raise FormatError(f"a boolean is stored as {int(raw.max())}")
    return raw.view(tensor.dtype.storage).reshape(tensor.shape)


def plan_plain(found: ByteCounts, compact: bool = False) -> TensorInfo:
    """Raw, or byte planes where they are smaller; `compact` knows the one value of a constant tensor, too."""
    if compact and Constant.fits(found):
        return found.laid_out(Constant())
    raw, by_plane = found.laid_out(Raw()), found.laid_out(Planes.plan(found))
    return by_plane if by_plane.section < raw.section else raw


def least_plain(found: ByteCounts) -> int:
    """Bytes that neither raw elements nor byte planes go below."""
    return min(found.nbytes, sum(2 + streams.least(counts) for counts in found.planes))


def write_plain(values: Array, plan: TensorInfo) -> EncodedTensor:
    """As `plan_plain` says; raw where the bytes turn out to be no fewer."""
    assert isinstance(plan.layout, Exact)
    encoded = plan.layout.write(values, plan.dtype)
    if len(encoded.section) < plan.nbytes or isinstance(plan.layout, Raw):
        return encoded
    return Raw().write(values, plan.dtype)
