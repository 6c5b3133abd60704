"""Layout 5, of weights as one stream by the adaptive model (docs/format.md, section 11)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from deepcompress.coding import codebooks
from deepcompress.coding.adaptive import codec
from deepcompress.coding.adaptive.codec import Alphabet, Scan
from deepcompress.coding.bits import Reader, varint
from deepcompress.coding.layouts.coded import Coded, Sorted, after_zero, dense_survivors, read_coded
from deepcompress.coding.lookup import look_up
from deepcompress.coding.tensors import EncodedTensor, Survivors, TensorInfo, TensorType
from deepcompress.errors import FormatError

Array = np.ndarray[Any, np.dtype[Any]]

_BY_COLUMN, _SIDE = 1, 2  # flags
_LONGEST_SIDE = 1 << 20


@dataclass(frozen=True)
class Adaptive(Coded):
    """A symbol for each element, in the order of a scan, coded with probabilities that learn; `length` bytes."""

    scan: Scan
    length: int
    number, since, has_flags = 5, 2, True

    @property
    def coder(self) -> str:
        """As the option is called."""
        return "ans"

    @property
    def flags(self) -> int:
        """Those of the scan."""
        return (_BY_COLUMN if self.scan.by_column else 0) | (_SIDE if self.scan.side else 0)

    def parts(self, tensor: TensorType) -> dict[str, int]:
        """Codebook and stream."""
        return {"codebooks": self.codebook.length(tensor.itemsize), "weights": self.length}

    def pack(self, version: int) -> bytes:
        """The side of a plane, if there are such, and the length."""
        return super().pack(version) + (varint(self.scan.side) if self.scan.side else b"") + varint(self.length)

    @classmethod
    def read(cls, reader: Reader, tensor: TensorType, version: int, flags: int) -> Adaptive:
        """See `pack`; a tensor of one dimension has but one scan."""
        if flags > (_BY_COLUMN | _SIDE) or (flags and len(tensor.shape) < 2):
            raise FormatError(f"flags {flags}, which mean nothing here")
        codebook, nonzeros = read_coded(reader, tensor, version)
        side = reader.varint("side of a plane", limit=_LONGEST_SIDE) if flags & _SIDE else 0
        if flags & _SIDE and side < 2:
            raise FormatError(f"planes of side {side}")
        scan = Scan(bool(flags & _BY_COLUMN), side)
        return cls(codebook, nonzeros, scan, reader.varint("length of the weights"))

    def check(self, tensor: TensorType) -> None:
        """The shape fits the scan, and weights have a codebook."""
        super().check(tensor)
        if self.nonzeros and not self.codebook.count:
            raise FormatError(f"{self.nonzeros} weights, but no codebook")
        if not codec.fits(tensor.shape, self.scan):
            raise FormatError(f"a shape of {tensor.shape} does not fit the scan {self.scan}")

    def _symbols(self, tensor: TensorType, section: memoryview, codebook: Array) -> tuple[Array, Array]:
        """The symbols of all elements, and the sorted codebook that they are of."""
        ordered = codebook[codebooks.order(codebook)]
        alphabet = Alphabet(len(ordered), codebooks.negatives(ordered))
        payload = self.after_codebook(tensor, section).take(self.length, "weights")
        return codec.decode(payload, tensor.shape, alphabet, self.nonzeros, self.scan), ordered

    def decode_bits(self, tensor: TensorType, section: memoryview, codebook: Array, workers: int) -> Array:
        """Symbol by symbol."""
        symbols, ordered = self._symbols(tensor, section, codebook)
        return look_up(after_zero(ordered), symbols, workers)

    def survivors(self, tensor: TensorType, section: memoryview, codebook: Array, workers: int) -> Survivors:
        """Where symbols are not 0."""
        return dense_survivors(*self._symbols(tensor, section, codebook))


def encode(tensor: TensorType, given: Sorted) -> EncodedTensor:
    """In the scan that makes it smallest."""
    scan, payload = codec.smallest(given.symbols, tensor.shape, Alphabet(given.count, given.negative))
    layout = Adaptive(given.codebook, int(np.count_nonzero(given.symbols)), scan, len(payload))
    return EncodedTensor(TensorInfo(tensor.shape, tensor.dtype, layout), given.head + payload)
