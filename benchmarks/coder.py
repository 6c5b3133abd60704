"""Encode and decode the streams of pruned, shared layers: ours, and what one would take instead.

Three streams of 10 million symbols: offsets of 4 and of 5 bits between the weights of a layer of which 8 % are kept,
and 5-bit codebook indices. Every figure is the median of several rounds in which each coder runs once; every decoded
stream is compared with what went in. Each coder gets the symbols in the type that it takes, made beforehand (bitarray
a list, constriction int32), and gives a numpy array back. Sizes are over the order-0 entropy; ours has its table in it,
and the lengths of its lanes.
"""

from __future__ import annotations

import argparse
import lzma
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
from bitarray import bitarray
from bitarray.util import canonical_decode, canonical_huffman
from measure import machine, medians, no_kernels

from deepcompress.coding import streams
from deepcompress.coding.adaptive import codec
from deepcompress.coding.bits import Reader
from deepcompress.coding.encoder import encode_coded
from deepcompress.coding.tensors import DType

Array = np.ndarray[Any, np.dtype[Any]]
DENSITY = 0.08


@dataclass(frozen=True)
class Coder:
    """One way to code a stream: symbols to what it stores, that back to symbols, and the bytes of what it stores."""

    encode: Callable[[], Any]
    decode: Callable[[Any], Array]
    size: Callable[[Any], int] = len


def indices(count: int) -> Array:
    """5-bit cluster indices, roughly as Gaussian as those of a trained layer."""
    drawn = np.random.default_rng(0).normal(16, 6, count)
    return np.clip(drawn.round(), 0, 31).astype(np.uint8)


def offsets(count: int, bits: int) -> Array:
    """Zeros between weights that are kept at random, as offset symbols of `bits` bits with fillers."""
    gaps = np.random.default_rng(0).geometric(DENSITY, count) - 1
    filler = (1 << bits) - 1
    ends = np.cumsum(gaps // filler + 1)
    symbols = np.full(ends[-1], filler, dtype=np.uint8)
    symbols[ends - 1] = gaps % filler
    return symbols[:count].copy()


def ours(symbols: Array, alphabet: int) -> Coder:
    """This project's streams, coder chosen by size, with table."""

    def decode(stream: streams.Stream) -> Array:
        table = streams.read_table(stream.coder, Reader(stream.table, "table"), alphabet)
        return streams.decode(table, memoryview(stream.payload), len(symbols))

    return Coder(lambda: streams.encode(symbols, alphabet), decode, lambda stream: stream.size)


def ours_by_numpy(symbols: Array, alphabet: int) -> Coder:
    """The same bytes without compiled kernels: numpy decodes, bitarray encodes."""
    compiled = ours(symbols, alphabet)
    return Coder(no_kernels()(compiled.encode), no_kernels()(compiled.decode), compiled.size)


def plain_bitarray(symbols: Array, alphabet: int) -> Coder:
    """One canonical stream by bitarray's own functions."""
    counts = np.bincount(symbols)
    code, lengths, order = canonical_huffman({s: int(c) for s, c in enumerate(counts) if c})
    listed = symbols.tolist()

    def encode() -> bytes:
        bits = bitarray()
        bits.encode(code, listed)
        return bits.tobytes()

    def decode(payload: bytes) -> Array:
        bits = bitarray()
        bits.frombytes(payload)
        return np.fromiter(canonical_decode(bits, lengths, order), dtype=np.uint8, count=len(symbols))

    return Coder(encode, decode)


def zlib_huffman(symbols: Array, alphabet: int) -> Coder:
    """zlib without matching: Huffman only, on one byte a symbol."""

    def encode() -> bytes:
        coder = zlib.compressobj(9, strategy=zlib.Z_HUFFMAN_ONLY)
        return coder.compress(symbols) + coder.flush()

    return Coder(encode, lambda payload: np.frombuffer(zlib.decompress(payload), dtype=np.uint8))


def zstandard(symbols: Array, alphabet: int) -> Coder:
    """zstandard's fastest level on one byte a symbol."""
    zstd = import_module("zstandard")

    def decode(payload: bytes) -> Array:
        return np.frombuffer(zstd.ZstdDecompressor().decompress(payload), dtype=np.uint8)

    return Coder(lambda: zstd.ZstdCompressor(level=1).compress(symbols), decode)


def constriction_model(symbols: Array, alphabet: int) -> tuple[Any, Array, Any]:
    """constriction's streams, the symbols as it takes them, and the model of their frequencies."""
    stream = import_module("constriction").stream
    counts = np.maximum(np.bincount(symbols, minlength=alphabet), 1)
    return stream, symbols.astype(np.int32), stream.model.Categorical(counts / counts.sum(), perfect=False)


def ans(symbols: Array, alphabet: int) -> Coder:
    """constriction's ANS coder with a static model, which is not stored."""
    stream, wide, model = constriction_model(symbols, alphabet)

    def encode() -> Array:
        coder = stream.stack.AnsCoder()
        coder.encode_reverse(wide, model)
        return coder.get_compressed()

    return Coder(
        encode, lambda words: stream.stack.AnsCoder(words).decode(model, len(wide)), lambda words: words.nbytes
    )


def range_coder(symbols: Array, alphabet: int) -> Coder:
    """constriction's range coder with a static model, which is not stored."""
    stream, wide, model = constriction_model(symbols, alphabet)

    def encode() -> Array:
        coder = stream.queue.RangeEncoder()
        coder.encode(wide, model)
        return coder.get_compressed()

    def decode(words: Array) -> Array:
        return stream.queue.RangeDecoder(words).decode(model, len(wide))

    return Coder(encode, decode, lambda words: words.nbytes)


CODERS: dict[str, Callable[[Array, int], Coder]] = {
    "bitarray": plain_bitarray,
    "deepcompress": ours,
    "  without kernels": ours_by_numpy,
    "zstandard, level 1": zstandard,
    "zlib, Huffman only": zlib_huffman,
    "constriction, ANS": ans,
    "constriction, range": range_coder,
}


def compare(title: str, symbols: Array, bits: int, runs: int) -> None:
    """Print one row a coder."""
    frequencies = np.bincount(symbols)[np.bincount(symbols) > 0] / len(symbols)
    entropy = float(-(frequencies * np.log2(frequencies)).sum())
    print(f"\n{title}: {len(symbols):,} symbols, entropy {entropy:.3f} bits")
    print(f"{'coder':<20}{'over entropy':>14}{'encode M/s':>12}{'÷ bitarray':>12}{'decode M/s':>12}{'÷ bitarray':>12}")
    actions: dict[str, Callable[[], object]] = {}
    sizes: dict[str, int] = {}
    for name, make in CODERS.items():
        try:
            coder = make(symbols, 1 << bits)
        except ImportError as error:
            print(f"{name:<20}  not measured: {error}")
            continue
        stored = coder.encode()
        if not np.array_equal(coder.decode(stored), symbols):
            raise SystemExit(f"{name}: what was decoded is not what was encoded")
        sizes[name] = coder.size(stored)
        actions[f"{name} encodes"] = coder.encode
        actions[f"{name} decodes"] = lambda coder=coder, stored=stored: coder.decode(stored)
    seconds = medians(actions, runs)
    for name, size in sizes.items():
        encoding, decoding = seconds[f"{name} encodes"], seconds[f"{name} decodes"]
        faster = seconds["bitarray encodes"] / encoding, seconds["bitarray decodes"] / decoding
        rate, over = len(symbols) / 1e6, 100 * (8 * size / len(symbols) / entropy - 1)
        row = f"{name:<20}{over:>12.2f} %{rate / encoding:>12.1f}{faster[0]:>11.2f}×"
        print(f"{row}{rate / decoding:>12.1f}{faster[1]:>11.2f}×")


def sparse_layer(rows: int, columns: int, density: float, entries: int) -> Array:
    """Symbols of a layer whose rows and columns are not equally full, as in trained ones: 0, or an index plus 1."""
    rng = np.random.default_rng(0)
    chance = np.outer(rng.gamma(2, 0.5, rows), rng.gamma(1, 1, columns))
    drawn = np.clip(rng.normal(entries / 2, entries / 5, (rows, columns)).round(), 1, entries)
    return np.where(rng.random((rows, columns)) < chance * density, drawn, 0).astype(np.int16)


def positions_and_indices(layer: Array) -> tuple[float, list[tuple[str, int]]]:
    """Order-0 entropy of gaps and indices in bytes, and what general coders make of the two as bytes.

    Gaps are cut at 255 for those, which flatters them a little; and static models are not stored.
    """
    flat = layer.reshape(-1)
    places = np.flatnonzero(flat)
    gaps, kept = np.diff(places, prepend=-1) - 1, flat[places]
    bits = 0.0
    for stream in (gaps, kept):
        counts = np.unique(stream, return_counts=True)[1]
        bits -= float((counts * np.log2(counts / counts.sum())).sum())
    both = np.minimum(gaps, 255).astype(np.uint8).tobytes() + kept.astype(np.uint8).tobytes()
    found = [("lzma, gaps and indices", len(lzma.compress(both, preset=9)))]
    try:
        found.append(
            ("zstandard 19, gaps and indices", len(import_module("zstandard").ZstdCompressor(19).compress(both)))
        )
        _, wide, model = constriction_model(kept.astype(np.uint8), int(kept.max()) + 1)
        _, near, places_model = constriction_model(np.minimum(gaps, 255).astype(np.uint8), 256)
        stack = import_module("constriction").stream.stack.AnsCoder()
        stack.encode_reverse(wide, model)
        stack.encode_reverse(near, places_model)
        found.append(("constriction, two static models", stack.get_compressed().nbytes))
    except ImportError as error:
        found.append((f"not measured: {error}", 0))
    return bits / 8, found


def compare_layers(rows: int, columns: int, density: float, entries: int, runs: int) -> None:
    """Print what a whole layer takes, and how fast the adaptive coder is."""
    layer = sparse_layer(rows, columns, density, entries)
    book = (np.arange(entries) - entries // 2 + 0.5).astype(np.float32)
    values = np.concatenate(([np.float32(0)], book))[layer]
    entropy, others = positions_and_indices(layer)
    symbols, shape = layer.reshape(-1), layer.shape
    known = codec.Alphabet(entries, entries // 2)
    stored = codec.encode(symbols, shape, known, codec.Scan())
    weights = int(np.count_nonzero(symbols))
    decode = partial(codec.decode, memoryview(stored), shape, known, weights, codec.Scan())
    if not np.array_equal(decode(), symbols):
        raise SystemExit("what was decoded is not what was encoded")
    seconds = medians({"encode": lambda: codec.encode(symbols, shape, known, codec.Scan()), "decode": decode}, runs)
    rates = [layer.size / 1e6 / seconds[name] for name in ("encode", "decode")]
    print(f"\n{rows}×{columns}, {weights / layer.size:.1%} kept, {entries} values: {layer.size:,} weights")
    print(f"adaptive: encodes {rates[0]:.1f} M weights/s, decodes {rates[1]:.1f}")
    huffman = encode_coded(values, DType.FLOAT32, book).info
    rows_of = [("order-0 entropy", entropy), ("adaptive", len(stored)), ("Huffman", huffman.section - huffman.codebook)]
    for name, size in rows_of + [(name, float(size)) for name, size in others]:
        print(f"{name:<32}{size:>12,.0f} bytes{100 * (size / entropy - 1):>10.2f} %")


def main() -> None:
    """Print one table a stream."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--symbols", type=int, default=10_000_000)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    print(f"Coders: medians of {options.runs} runs; {machine()}")
    compare("4-bit offsets", offsets(options.symbols, 4), 4, options.runs)
    compare("5-bit offsets", offsets(options.symbols, 5), 5, options.runs)
    compare("5-bit indices", indices(options.symbols), 5, options.runs)
    compare_layers(300, 784, 0.02, 4, options.runs)
    compare_layers(options.symbols // 4000, 4000, 0.08, 16, options.runs)
    compare_layers(options.symbols // 10_000, 1000, 20, 16, options.runs)


if __name__ == "__main__":
    main()
