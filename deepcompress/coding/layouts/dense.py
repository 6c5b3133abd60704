"""Layout 2, of weights as streams of symbols (docs/format.md, section 4); here: a symbol for each element."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from deepcompress.coding import codebooks, lanes, streams
from deepcompress.coding.bits import Reader, varint
from deepcompress.coding.forms import Form, SharedCodebook, StoredCodebook
from deepcompress.coding.layouts.coded import Coded, after_zero, check_count, dense_survivors
from deepcompress.coding.lookup import look_up
from deepcompress.coding.streams import Coder
from deepcompress.coding.survey import Survey, bits_of, indices_of, walk
from deepcompress.coding.tensors import EncodedTensor, Survivors, TensorInfo, TensorType

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Streams(Coded):
    """What all of layout 2 share: bytes of all tables, coder of the weight stream, and bytes of its payload."""

    tables: int
    stream_coder: Coder
    length: int
    number, since = 2, 1

    @property
    def coder(self) -> str:
        """That of the weights."""
        return self.stream_coder.name.lower()

    def pack_streams(self, bits: int, of_offsets: Coder) -> bytes:
        """Their fields behind those of the codebook."""
        coders = bytes([bits, of_offsets << 4 | self.stream_coder])
        return coders + varint(self.tables) + varint(self.length)

    def head_of(self, found: Survey) -> bytes:
        """The bytes of the codebook in the section."""
        if found.codebook is None or self.form is None:
            return b""
        return codebooks.pack(found.codebook, compact=self.form is not Form.ENTRIES)[1]

    @abstractmethod
    def write(self, values: Array, found: Survey, allow_huffman: bool = True) -> EncodedTensor:
        """The tensor that this is the plan for; its bytes have the last word on coders and lengths."""


@dataclass(frozen=True)
class Dense(Streams):
    """A symbol for each element: 0 is zero, and i the value i - 1 of the codebook."""

    @property
    def alphabet(self) -> int:
        """One symbol for each value, and one for zero."""
        return self.codebook.count + 1

    def width_of(self, tensor: TensorType) -> int:
        """Of a symbol."""
        return streams.fixed_width(self.alphabet)

    def position_bits(self, tensor: TensorType) -> int:
        """A mask."""
        return tensor.size

    def stream_bits(self, tensor: TensorType) -> int:
        """Each element has its symbol."""
        return tensor.size * self.width_of(tensor)

    def parts(self, tensor: TensorType) -> dict[str, int]:
        """Codebook, table, symbols."""
        return {"codebooks": self.codebook.length(tensor.itemsize), "tables": self.tables, "weights": self.length}

    def pack(self, version: int) -> bytes:
        """No offsets."""
        return super().pack(version) + self.pack_streams(0, Coder.NONE)

    def _symbols(self, tensor: TensorType, section: memoryview, workers: int) -> Array:
        reader = self.after_codebook(tensor, section)
        tables = Reader(reader.take(self.tables, "tables"), "tables")
        payload = reader.take(self.length, "weights")
        table = streams.read_table(self.stream_coder, tables, self.alphabet)
        tables.end()
        symbols = streams.decode(table, payload, tensor.size, workers)
        check_count(int(np.count_nonzero(symbols)), self.nonzeros)
        return symbols

    def decode_bits(self, tensor: TensorType, section: memoryview, codebook: Array, workers: int) -> Array:
        """Symbol by symbol."""
        return look_up(after_zero(codebook), self._symbols(tensor, section, workers), workers)

    def survivors(self, tensor: TensorType, section: memoryview, codebook: Array, workers: int) -> Survivors:
        """Where symbols are not 0."""
        return dense_survivors(self._symbols(tensor, section, workers), codebook)

    @classmethod
    def plan(cls, found: Survey, codebook: StoredCodebook | SharedCodebook, allow_huffman: bool) -> TensorInfo:
        """From what is counted of a tensor."""
        counts = np.concatenate(([found.size - found.nonzeros], found.index_counts))
        coder, table, length = streams.sizes(counts, allow_huffman)
        return found.laid_out(cls(codebook, found.nonzeros, table, coder, length))

    def write(self, values: Array, found: Survey, allow_huffman: bool = True) -> EncodedTensor:
        """See `Streams.write`."""
        assert found.codebook is not None
        symbols = np.zeros(found.size, dtype=lanes.symbol_type(self.alphabet))
        at = 0
        for chunk, positions, _ in walk(bits_of(values, found.dtype)):
            symbols[at + positions] = indices_of(chunk[positions], found.codebook) + 1
            at += len(chunk)
        return self.joined(found, self.head_of(found), symbols, allow_huffman)

    def joined(self, tensor: TensorType, head: bytes, symbols: Array, allow_huffman: bool) -> EncodedTensor:
        """The tensor of these symbols; `head` is its codebook."""
        stream = streams.encode(symbols, self.alphabet, allow_huffman)
        layout = replace(self, tables=len(stream.table), stream_coder=stream.coder, length=len(stream.payload))
        info = TensorInfo(tensor.shape, tensor.dtype, layout)
        return EncodedTensor(info, head + stream.table + stream.payload)
