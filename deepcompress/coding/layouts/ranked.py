"""Layout 8, of whole numbers by the rANS coder: ranks in a codebook, or multiples of a step for each row.

docs/format.md has both in section 17, and the coder in sections 18 and 19.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from deepcompress.coding import codebooks, lanes, scales
from deepcompress.coding.bits import Reader, varint
from deepcompress.coding.dtypes import DType
from deepcompress.coding.forms import Form, RowScales, SharedCodebook, StoredCodebook, read_fields
from deepcompress.coding.layouts.coded import Coded, Counted, Sorted, check_count
from deepcompress.coding.rans import codec
from deepcompress.coding.rans.decoder import check_range
from deepcompress.coding.rans.tokens import LARGEST
from deepcompress.coding.streams import fixed_width
from deepcompress.coding.tensors import EncodedTensor, Layout, Survivors, TensorInfo, TensorType
from deepcompress.errors import FormatError

Array = np.ndarray[Any, np.dtype[Any]]

_GAPS_BELOW, _DENSE_ABOVE = 0.35, 0.12  # densities at which zeros may be skipped, and at which they may be coded
_SMALL = 1 << 20  # elements up to which that takes little time at lower densities


@dataclass(frozen=True)
class Numbers:
    """What the header says of coded numbers: bytes of the model, and of the streams."""

    model: int
    streams: int

    def pack(self) -> bytes:
        """Its fields."""
        return varint(self.model) + varint(self.streams)

    def parts_in(self, reader: Reader) -> tuple[memoryview, memoryview]:
        """The bytes of the model, and of the streams."""
        return reader.take(self.model, "model"), reader.take(self.streams, "streams")

    def decode(
        self,
        tensor: TensorType,
        reader: Reader,
        limits: tuple[int, int],
        place: Callable[[int, Array], None],
        workers: int,
    ) -> int:
        """Give the numbers to `place`, part by part, and say how many are not 0; `limits` are allowed."""
        counts: list[int] = []

        def take(start: int, numbers: Array) -> None:
            check_range(numbers, *limits)
            counts.append(int(np.count_nonzero(numbers)))
            place(start, numbers)

        codec.decode(*self.parts_in(reader), tensor.shape, take, workers)
        return sum(counts)


class Ranked(Layout):
    """What both have in common, which is the number of the layout."""

    number, since = 8, 3
    numbers: Numbers

    def model_in(self, section: bytes) -> bytes:
        """The bytes of the model in a section, in which the streams follow it."""
        stop = len(section) - self.numbers.streams
        return section[stop - self.numbers.model : stop]

    @property
    def coder(self) -> str:
        """As the option is called."""
        return "rans"

    @classmethod
    def read(cls, reader: Reader, tensor: TensorType, version: int, flags: int) -> Layout:
        """One of the two, as the form of the codebook says."""
        values = read_fields(reader, version, last=Form.ROWS)
        nonzeros = reader.varint("number of weights", limit=tensor.size)
        numbers = Numbers(reader.varint("length of the model"), reader.varint("length of the streams"))
        if isinstance(values, RowScales):
            return Multiples(values, nonzeros, numbers)
        return Ranks(values, nonzeros, numbers)


@dataclass(frozen=True)
class Ranks(Ranked, Coded):
    """Each number is the rank of a value in the sorted codebook, counted from zero.

    -1 is the largest that has its sign bit set.
    """

    numbers: Numbers

    def parts(self, tensor: TensorType) -> dict[str, int]:
        """Codebook, model, streams."""
        parts = {"codebooks": self.codebook.length(tensor.itemsize), "tables": self.numbers.model}
        return parts | {"weights": self.numbers.streams}

    def pack(self, version: int) -> bytes:
        """Behind the codebook, the numbers."""
        return super().pack(version) + self.numbers.pack()

    def check(self, tensor: TensorType) -> None:
        """There are elements, and a codebook for weights."""
        super().check(tensor)
        if not tensor.size or (self.nonzeros and not self.codebook.count):
            raise FormatError(f"{self.nonzeros} weights of {tensor.size} elements, but no codebook")

    def decode_bits(self, tensor: TensorType, section: memoryview, codebook: Array, workers: int) -> Array:
        """Rank by rank, stream by stream."""
        ordered = codebook[codebooks.order(codebook)]
        negative = codebooks.negatives(ordered)
        around_zero, values = np.insert(ordered, negative, 0), np.zeros(tensor.size, dtype=tensor.dtype.bits)
        parts = self.numbers.parts_in(self.after_codebook(tensor, section))
        found = codec.decode_values(*parts, tensor.shape, -negative, around_zero, values, workers)
        check_count(found, self.nonzeros)
        return values

    def survivors(self, tensor: TensorType, section: memoryview, codebook: Array, workers: int) -> Survivors:
        """Where ranks are not 0."""
        ordered = codebook[codebooks.order(codebook)]
        negative = codebooks.negatives(ordered)
        found: dict[int, tuple[Array, Array]] = {}

        def place(start: int, numbers: Array) -> None:
            places = np.flatnonzero(numbers)
            ranks = numbers[places]
            found[start] = places + start, (ranks + negative - (ranks > 0)).astype(lanes.symbol_type(len(ordered)))

        reader, limits = self.after_codebook(tensor, section), (-negative, len(ordered) - negative)
        check_count(self.numbers.decode(tensor, reader, limits, place, workers), self.nonzeros)
        parts = [found[start] for start in sorted(found)]
        positions, indices = (np.concatenate(column) for column in zip(*parts, strict=True))
        return Survivors(positions, indices, ordered)


@dataclass(frozen=True)
class Multiples(Ranked, Counted):
    """Each number times the step of its row, which `scales` tells."""

    scales: RowScales
    nonzeros: int
    numbers: Numbers

    @property
    def form(self) -> Form:
        """That which stands for the scales."""
        return Form.ROWS

    @property
    def alphabet(self) -> int:
        """How many numbers there may be."""
        return self.scales.high - self.scales.low + 1

    def width_of(self, tensor: TensorType) -> int:
        """Of a number."""
        return fixed_width(self.alphabet)

    def parts(self, tensor: TensorType) -> dict[str, int]:
        """Scales, model, streams."""
        return {"codebooks": self.scales.length, "tables": self.numbers.model, "weights": self.numbers.streams}

    def pack(self, version: int) -> bytes:
        """Scales, numbers of weights, coded numbers."""
        return self.scales.pack() + varint(self.nonzeros) + self.numbers.pack()

    def check(self, tensor: TensorType) -> None:
        """There are rows of float32, and the numbers are not too large."""
        super().check(tensor)
        low, high = self.scales.low, self.scales.high
        if len(tensor.shape) < 2 or not tensor.size or low > high or max(-low, high) > LARGEST:
            raise FormatError(f"integers from {low} to {high} with a scale for each row of {tensor.shape}")
        if tensor.dtype is not DType.FLOAT32:
            raise FormatError(f"a scale for each row of {tensor.dtype.name}")

    def decode(self, tensor: TensorType, section: memoryview, codebook: Array | None, workers: int) -> Array:
        """Number by number, stream by stream."""
        rows, columns = tensor.shape[0], tensor.size // tensor.shape[0]
        low, high = self.scales.low, self.scales.high
        reader = Reader(section, "section")
        steps = self._steps(tensor, reader)
        values = np.empty((rows, columns), dtype=np.float32)

        def place(start: int, numbers: Array) -> None:
            first = start // columns
            part = numbers.reshape(-1, columns)
            values[first : first + len(part)] = scales.values(part, steps[first : first + len(part)])

        check_count(self.numbers.decode(tensor, reader, (low, high), place, workers), self.nonzeros)
        return values.view(tensor.dtype.storage).reshape(tensor.shape)

    def steps_in(self, tensor: TensorType, section: bytes) -> Array:
        """The step of each row (float32) in a section.

        Raises:
            FormatError: there are not so many, or they are too large.
        """
        return self._steps(tensor, Reader(section, "section"))

    def _steps(self, tensor: TensorType, reader: Reader) -> Array:
        largest = max(-self.scales.low, self.scales.high)
        return scales.unpack(reader.take(self.scales.length, "scales"), tensor.shape[0], largest)


def encode(tensor: TensorType, given: Sorted) -> EncodedTensor:
    """A tensor with a codebook, as ranks."""
    return encode_ranks(ranks_of(given.symbols, given.negative), tensor, given.codebook, given.head)


def ranks_of(symbols: Array, negative: int) -> Array:
    """Ranks (int16) of symbols (int16: 0 for zero, else the place of a value plus 1), of which so many are negative."""
    ranks: Array = symbols - np.int16(negative) - (symbols <= negative)
    ranks[symbols == 0] = 0
    return ranks


def encode_ranks(
    ranks: Array, tensor: TensorType, codebook: StoredCodebook | SharedCodebook, head: bytes
) -> EncodedTensor:
    """Ranks (flat, int16) in a codebook, whose bytes in the section are `head`."""
    packed, payload = smallest(ranks, tensor.shape)
    layout = Ranks(codebook, int(np.count_nonzero(ranks)), Numbers(len(packed), len(payload)))
    return EncodedTensor(TensorInfo(tensor.shape, tensor.dtype, layout), head + packed + payload)


def encode_scaled(integers: Array, scale: np.float32, exponents: Array) -> EncodedTensor:
    """A float32 tensor of whole numbers times a step for each row (index of the first dimension).

    What is decoded is ``scales.values(integers, scales.steps(scale, exponents))``, bit for bit; `scales.fit` finds
    scale and exponents.

    Args:
        integers: any type of integers, of two dimensions or more, at most 32767 in magnitude.
        scale: the smallest step there may be, positive and not subnormal.
        exponents: of each row, in quarter octaves, 0 to 255; shape (rows,).

    Raises:
        ValueError: an argument is not as it should be, or a product is too large for float32.
    """
    exponents = np.asarray(exponents)
    if integers.ndim < 2 or exponents.shape != integers.shape[:1] or not np.issubdtype(integers.dtype, np.integer):
        raise ValueError("a scale for each row needs integers of two dimensions or more, and an exponent for each row")
    if not integers.size or np.abs(integers.astype(np.int64)).max() > LARGEST:
        raise ValueError(f"there must be integers, and none of them above {LARGEST} in magnitude")
    if exponents.min() < 0 or exponents.max() > scales.MAX_EXPONENT:
        raise ValueError(f"exponents of rows must be 0 to {scales.MAX_EXPONENT}")
    head = scales.pack(scale, exponents)
    low, high = min(int(integers.min()), 0), max(int(integers.max()), 0)
    scales.unpack(memoryview(head), len(exponents), max(-low, high))
    packed, payload = smallest(integers.astype(np.int16).reshape(-1), integers.shape)
    numbers = Numbers(len(packed), len(payload))
    layout = Multiples(RowScales(low, high, len(head)), int(np.count_nonzero(integers)), numbers)
    return EncodedTensor(TensorInfo(integers.shape, DType.FLOAT32, layout), head + packed + payload)


def encode_by(tensor: TensorInfo, numbers: Array, head: bytes, model: bytes) -> EncodedTensor:
    """Numbers (flat, int16) by the model of these bytes, in the layout of `tensor`; `head` is its codebook or scales.

    Raises:
        FormatError: the model cannot code them, or not in so few bytes as a section may have.
    """
    layout = tensor.layout
    assert isinstance(layout, (Ranks, Multiples))
    payload = codec.encode_by(memoryview(model), numbers, tensor.shape, tensor.nbytes - len(head) - len(model))
    layout = replace(layout, nonzeros=int(np.count_nonzero(numbers)), numbers=Numbers(len(model), len(payload)))
    return EncodedTensor(replace(tensor, layout=layout), head + model + payload)


def smallest(integers: Array, shape: tuple[int, ...]) -> tuple[bytes, bytes]:
    """The model's bytes and the streams of `codec.encode`, in the mode that makes them smaller."""
    density = np.count_nonzero(integers) / len(integers)
    dense = density >= (_DENSE_ABOVE if len(integers) > _SMALL else _DENSE_ABOVE / 4)
    modes = [gaps for gaps, fits in ((False, dense), (True, density < _GAPS_BELOW)) if fits]
    coded = [codec.encode(integers, shape, gaps) for gaps in modes]
    return min(coded, key=lambda parts: len(parts[0]) + len(parts[1]))
