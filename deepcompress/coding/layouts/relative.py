"""Layout 2 (docs/format.md, section 4) with offsets from weight to weight, shared or not; and how it is planned."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from deepcompress.coding import codebooks, lanes, offsets, streams
from deepcompress.coding.bits import Reader, varint
from deepcompress.coding.forms import SharedCodebook, StoredCodebook
from deepcompress.coding.layouts.coded import read_coded
from deepcompress.coding.layouts.dense import Dense, Streams
from deepcompress.coding.offsets import MAX_BITS
from deepcompress.coding.streams import Coder, Stream, coder_of
from deepcompress.coding.survey import Survey, bits_of, indices_of, walk
from deepcompress.coding.tensors import EncodedTensor, Survivors, TensorInfo, TensorType
from deepcompress.errors import FormatError

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Offsets:
    """What the header says of a stream of offsets: their width in bits, fillers, coder, and bytes of the payload."""

    bits: int
    fillers: int
    stream_coder: Coder
    length: int


@dataclass(frozen=True)
class Relative(Streams):
    """Offsets from weight to weight, and an index into the codebook for each weight."""

    offsets: Offsets

    @property
    def coder(self) -> str:
        """That of the weights, and that of the offsets if it is another."""
        mine, of_offsets = self.stream_coder, self.offsets.stream_coder
        return mine.name.lower() + (f"+{of_offsets.name.lower()}" if of_offsets is not mine else "")

    def position_bits(self, tensor: TensorType) -> int:
        """Those of the offsets, fillers among them."""
        return (self.nonzeros + self.offsets.fillers) * self.offsets.bits

    def parts(self, tensor: TensorType) -> dict[str, int]:
        """Codebook, tables, offsets, indices."""
        parts = {"codebooks": self.codebook.length(tensor.itemsize), "tables": self.tables}
        return parts | {"offsets": self.offsets.length, "weights": self.length}

    def pack(self, version: int) -> bytes:
        """With fillers and bytes of the offsets."""
        facts = self.offsets
        fields = super().pack(version) + self.pack_streams(facts.bits, facts.stream_coder)
        return fields + varint(facts.fillers) + varint(facts.length)

    @classmethod
    def read(cls, reader: Reader, tensor: TensorType, version: int, flags: int) -> Streams:
        """What has the number of this layout: `Dense`, `Relative` or `Literal`, as its fields say."""
        codebook, nonzeros = read_coded(reader, tensor, version)
        bits, (first, second) = reader.byte("bits of an offset"), divmod(reader.byte("coders"), 16)
        of_offsets, of_weights = coder_of(first), coder_of(second)
        tables, length = reader.varint("length of the tables"), reader.varint("length of the weights")
        common = codebook, nonzeros, tables, of_weights, length
        if bits:
            fillers = reader.varint("number of fillers", limit=tensor.size)
            facts = Offsets(bits, fillers, of_offsets, reader.varint("length of the offsets"))
            return (Literal if of_weights is Coder.LITERAL else Relative)(*common, facts)
        if of_offsets is not Coder.NONE:
            raise FormatError(f"offsets coded as {of_offsets.name}, but there are none")
        if of_weights is Coder.LITERAL:
            raise FormatError("literal weights need offsets and no codebook")
        return Dense(*common)

    def check(self, tensor: TensorType) -> None:
        """Offsets lead no further than there are elements."""
        super().check(tensor)
        facts = self.offsets
        if facts.bits > MAX_BITS:
            raise FormatError(f"offsets of {facts.bits} bits; at most {MAX_BITS} are allowed")
        if facts.fillers * ((1 << facts.bits) - 1) + self.nonzeros > tensor.size:
            raise FormatError(f"{facts.fillers} fillers and {self.nonzeros} weights exceed its {tensor.size} elements")
        if facts.stream_coder is Coder.LITERAL:
            raise FormatError("offsets coded as LITERAL")

    def _opened(self, tensor: TensorType, section: memoryview, workers: int) -> tuple[Array, Reader, memoryview]:
        """The offset symbols, the tables behind theirs, and the payload of the weights."""
        reader = self.after_codebook(tensor, section)
        tables = Reader(reader.take(self.tables, "tables"), "tables")
        payload = reader.take(self.offsets.length, "offsets")
        weights = reader.take(self.length, "weights")
        table = streams.read_table(self.offsets.stream_coder, tables, 1 << self.offsets.bits)
        symbols = streams.decode(table, payload, self.nonzeros + self.offsets.fillers, workers)
        return symbols, tables, weights

    def _indices(self, tables: Reader, payload: memoryview, workers: int) -> Array:
        table = streams.read_table(self.stream_coder, tables, self.codebook.count)
        tables.end()
        return streams.decode(table, payload, self.nonzeros, workers)

    def decode_bits(self, tensor: TensorType, section: memoryview, codebook: Array, workers: int) -> Array:
        """Each weight to its place."""
        gaps, tables, payload = self._opened(tensor, section, workers)
        indices = self._indices(tables, payload, workers)
        values = np.zeros(tensor.size, dtype=tensor.dtype.bits)
        offsets.scatter(gaps, self.offsets.bits, indices, values, codebook, workers)
        return values

    def survivors(self, tensor: TensorType, section: memoryview, codebook: Array, workers: int) -> Survivors:
        """Positions as the offsets say."""
        gaps, tables, payload = self._opened(tensor, section, workers)
        indices = self._indices(tables, payload, workers)
        positions = offsets.positions(gaps, self.offsets.bits, len(indices), tensor.size)
        return Survivors(positions, indices, codebook)

    @classmethod
    def plan(
        cls,
        found: Survey,
        codebook: StoredCodebook | SharedCodebook,
        allow_huffman: bool = True,
        offset_bits: int | None = None,
    ) -> TensorInfo:
        """From what is counted of a tensor; the best width of offsets unless it is given."""
        facts, tables = _plan_offsets(found, allow_huffman, offset_bits)
        coder, table, length = streams.sizes(found.index_counts, allow_huffman)
        return found.laid_out(cls(codebook, found.nonzeros, tables + table, coder, length, facts))

    def write(self, values: Array, found: Survey, allow_huffman: bool = True) -> EncodedTensor:
        """See `Streams.write`."""
        symbols = self._offset_symbols(bits_of(values, found.dtype))
        return self.joined(
            found, self.head_of(found), symbols, self._weights(values, found, allow_huffman), allow_huffman
        )

    def joined(
        self, tensor: TensorType, head: bytes, symbols: Array, weights: Stream, allow_huffman: bool
    ) -> EncodedTensor:
        """The tensor of these offset symbols and weights, of the width that this layout has; `head` is its codebook."""
        gaps = streams.encode(symbols, 1 << self.offsets.bits, allow_huffman)
        fillers = len(symbols) - self.nonzeros
        layout = replace(
            self,
            tables=len(gaps.table) + len(weights.table),
            stream_coder=weights.coder,
            length=len(weights.payload),
            offsets=replace(self.offsets, fillers=fillers, stream_coder=gaps.coder, length=len(gaps.payload)),
        )
        section = b"".join((head, gaps.table, weights.table, gaps.payload, weights.payload))
        return EncodedTensor(TensorInfo(tensor.shape, tensor.dtype, layout), section)

    def _offset_symbols(self, flat: Array) -> Array:
        symbols = np.empty(self.nonzeros + self.offsets.fillers, dtype=lanes.symbol_type(1 << self.offsets.bits))
        at = 0
        for _, _, gap in walk(flat):
            part = offsets.to_symbols(gap, self.offsets.bits)
            symbols[at : at + len(part)] = part
            at += len(part)
        return symbols

    def _weights(self, values: Array, found: Survey, allow_huffman: bool) -> Stream:
        if found.codebook is None:  # there are no weights
            return Stream(Coder.NONE, b"", b"")
        indices = np.zeros(self.nonzeros, dtype=lanes.symbol_type(self.codebook.count))
        at = 0
        for chunk, positions, _ in walk(bits_of(values, found.dtype)):
            indices[at : at + len(positions)] = indices_of(chunk[positions], found.codebook)
            at += len(positions)
        return streams.encode(indices, self.codebook.count, allow_huffman)


@dataclass(frozen=True)
class Literal(Relative):
    """Offsets from weight to weight, and the weights themselves: a layer that is pruned and not shared."""

    @property
    def is_shared(self) -> bool:
        """No: there is a codebook of no values, so that the fields are those of `Relative`."""
        return False

    @property
    def form(self) -> None:
        """None to speak of."""

    def width_of(self, tensor: TensorType) -> int:
        """Of a weight."""
        return 8 * tensor.itemsize

    def check(self, tensor: TensorType) -> None:
        """No codebook."""
        super().check(tensor)
        if self.codebook.count:
            raise FormatError("literal weights need offsets and no codebook")

    def decode_bits(self, tensor: TensorType, section: memoryview, codebook: Array, workers: int) -> Array:
        """Each weight to its place."""
        gaps, tables, payload = self._opened(tensor, section, workers)
        tables.end()
        if len(payload) != self.nonzeros * tensor.itemsize:
            raise FormatError(f"{self.nonzeros} literal weights do not make {len(payload)} bytes")
        weights = np.frombuffer(payload, dtype=tensor.dtype.bits)
        if not weights.all():
            raise FormatError("a literal weight is zero")
        values = np.zeros(tensor.size, dtype=tensor.dtype.bits)
        offsets.scatter(gaps, self.offsets.bits, weights, values, None, workers)
        return values

    def _weights(self, values: Array, found: Survey, allow_huffman: bool) -> Stream:
        flat = bits_of(values, found.dtype)
        return Stream(Coder.LITERAL, b"", flat[flat != 0].tobytes())


def plan_literal(found: Survey, allow_huffman: bool = True, offset_bits: int | None = None) -> TensorInfo:
    """As offsets and the surviving values themselves; without any, as indices into nothing."""
    facts, tables = _plan_offsets(found, allow_huffman, offset_bits)
    if not found.nonzeros:
        return found.laid_out(Relative(StoredCodebook(), 0, tables, Coder.NONE, 0, facts))
    length = found.nonzeros * found.itemsize
    return found.laid_out(Literal(StoredCodebook(), found.nonzeros, tables, Coder.LITERAL, length, facts))


def plan_shared(
    found: Survey,
    allow_huffman: bool = True,
    target: int | None = None,
    offset_bits: int | None = None,
    compact: bool = False,
) -> TensorInfo:
    """As codebook indices, with offsets or with a symbol for zero, whichever is smaller.

    `target` is the earlier tensor of the file that already stores this codebook; `offset_bits` asks for offsets of
    that width; `compact` allows every form of the codebook.
    """
    assert found.codebook is not None
    codebook, _ = codebooks.stored(found.codebook, target, compact)
    sparse = Relative.plan(found, codebook, allow_huffman, offset_bits)
    if offset_bits is not None:
        return sparse
    dense = Dense.plan(found, codebook, allow_huffman)
    return dense if dense.section <= sparse.section else sparse


def _plan_offsets(found: Survey, allow_huffman: bool, width: int | None) -> tuple[Offsets, int]:
    """The facts of the offsets, and the bytes of their table."""
    width = width or offsets.best_width(found.gaps, found.gap_counts, allow_huffman)[0]
    counts = offsets.symbol_counts(found.gaps, found.gap_counts, width)
    coder, table, length = streams.sizes(counts, allow_huffman)
    return Offsets(width, int(counts[-1]), coder, length), table
