"""Encode and decode symbol streams like those of a pruned, shared layer; ours against bitarray alone and zlib.

Every figure is the median of several runs, every decoded stream is compared with what went in, and sizes are
given over the order-0 entropy.
"""

from __future__ import annotations

import argparse
import statistics
import time
import zlib
from collections.abc import Callable

import numpy as np
from bitarray import bitarray
from bitarray.util import canonical_decode, canonical_huffman

from deepcompress.coding import streams
from deepcompress.coding.bits import Reader


def indices(count: int) -> np.ndarray:
    """5-bit cluster indices, roughly as Gaussian as those of a trained layer."""
    drawn = np.random.default_rng(0).normal(16, 6, count)
    return np.clip(drawn.round(), 0, 31).astype(np.uint8)


def ours(symbols: np.ndarray) -> tuple[Callable[[], bytes], Callable[[bytes], np.ndarray]]:
    """This project's streams, coder chosen by size, with table."""
    stream = streams.encode(symbols, 32)

    def decode(payload: bytes) -> np.ndarray:
        table = streams.read_table(stream.coder, Reader(stream.table, "table"), 32)
        return streams.decode(table, memoryview(payload), len(symbols))

    return lambda: streams.encode(symbols, 32).payload, decode


def plain_bitarray(symbols: np.ndarray) -> tuple[Callable[[], bytes], Callable[[bytes], np.ndarray]]:
    """One canonical stream by bitarray's own functions."""
    counts = np.bincount(symbols)
    code, lengths, order = canonical_huffman({s: int(c) for s, c in enumerate(counts) if c})

    def encode() -> bytes:
        bits = bitarray()
        bits.encode(code, symbols.tolist())
        return bits.tobytes()

    def decode(payload: bytes) -> np.ndarray:
        bits = bitarray()
        bits.frombytes(payload)
        return np.fromiter(canonical_decode(bits, lengths, order), dtype=np.uint8, count=len(symbols))

    return encode, decode


def zlib_huffman(symbols: np.ndarray) -> tuple[Callable[[], bytes], Callable[[bytes], np.ndarray]]:
    """zlib without matching: Huffman only, on one byte a symbol."""

    def encode() -> bytes:
        coder = zlib.compressobj(9, strategy=zlib.Z_HUFFMAN_ONLY)
        return coder.compress(symbols.tobytes()) + coder.flush()

    return encode, lambda payload: np.frombuffer(zlib.decompress(payload), dtype=np.uint8)


def median_seconds(run: Callable[[], object], runs: int) -> float:
    """Median wall time of `run`."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    """Print one row a coder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--symbols", type=int, default=10_000_000)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    symbols = indices(options.symbols)
    frequencies = np.bincount(symbols)[np.bincount(symbols) > 0] / len(symbols)
    entropy = float(-(frequencies * np.log2(frequencies)).sum())
    print(f"{len(symbols):,} symbols of 5 bits, entropy {entropy:.3f} bits, median of {options.runs} runs")
    print(f"{'coder':<12}{'over entropy':>14}{'encode M/s':>12}{'decode M/s':>12}{'decode ÷ bitarray':>19}")
    reference = None
    for name, make in (("bitarray", plain_bitarray), ("zlib", zlib_huffman), ("deepcompress", ours)):
        encode, decode = make(symbols)
        payload = encode()
        assert np.array_equal(decode(payload), symbols)
        encoding = median_seconds(encode, options.runs)
        decoding = median_seconds(lambda decode=decode, payload=payload: decode(payload), options.runs)
        reference = reference or decoding
        over = 100 * (8 * len(payload) / len(symbols) / entropy - 1)
        rate = len(symbols) / 1e6
        print(
            f"{name:<12}{over:>12.2f} %{rate / encoding:>12.1f}{rate / decoding:>12.1f}{reference / decoding:>18.2f}×"
        )


if __name__ == "__main__":
    main()
