"""The rANS coder beside the adaptive one, Huffman and NNCodec, on the same integers: bytes, and weights a second.

    python benchmarks/rans.py                           # AlexNet's fully connected shapes, at the paper's densities
    python benchmarks/rans.py FILE.safetensors FILE.dc  # the layers of networks, too

Layers of a checkpoint are rounded to multiples of a part of their root mean square (`--step`): 1/6 is about 4.3 bits a
weight. A .dc file gives the integers that it holds. Each coder gets the same integers, without scales and codebooks.
"--coder rans" is what that option writes: rANS, and the adaptive model for tensors of few bytes where that is smaller.
Seconds are the processor's, on one core; in each round each coder runs once. The figures are medians, and the spread
is the slowest round over the fastest, of decoding. Everything that is decoded is compared with what went in. Only what
a second thread gains is by the clock, too, of the largest layer: the fastest of the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from load import LAYERS
from measure import machine, no_kernels

from deepcompress.checkpoint import load_checkpoint
from deepcompress.coding import offsets, streams, threads
from deepcompress.coding.adaptive import codec as adaptive
from deepcompress.coding.bits import Reader
from deepcompress.coding.encoder import FEW, SMALL, left_to_mixing
from deepcompress.coding.layouts.ranked import smallest
from deepcompress.coding.rans import codec as rans
from deepcompress.layers import is_layer

Array = np.ndarray[Any, np.dtype[Any]]
Stored = Any
REFERENCE = "--coder rans"


@dataclass(frozen=True)
class Coder:
    """One way to code integers of a shape, and the bytes of what it stores."""

    encode: Callable[[Array, tuple[int, ...]], Stored]
    decode: Callable[[Stored, Array, tuple[int, ...]], Array]
    size: Callable[[Stored], int]


@dataclass
class Tally:
    """What one coder took for all layers: bytes, and seconds of each round."""

    size: int = 0
    encoding: list[float] = field(default_factory=list)
    decoding: list[float] = field(default_factory=list)


def chosen_encode(integers: Array, shape: tuple[int, ...]) -> Stored:
    """As `encoder.encode_coded` chooses: a pair by rANS, or three parts by the adaptive model."""
    if left_to_mixing(np.unique(integers[integers != 0], return_counts=True)[1], len(integers)):
        return adaptive_encode(integers, shape)
    packed, payload = smallest(integers, shape)
    if len(integers) <= SMALL and len(packed) + len(payload) <= FEW:
        other = adaptive_encode(integers, shape)
        if len(other[0]) < 0.99 * (len(packed) + len(payload)):
            return other
    return packed, payload


def chosen_decode(stored: Stored, integers: Array, shape: tuple[int, ...]) -> Array:
    """The inverse."""
    return (rans_decode if len(stored) == 2 else adaptive_decode)(stored, integers, shape)


def chosen_size(stored: Stored) -> int:
    """Bytes."""
    return sum(map(len, stored)) if len(stored) == 2 else len(stored[0])


def rans_decode(stored: Stored, integers: Array, shape: tuple[int, ...], workers: int = 1) -> Array:
    """All streams, into one array."""
    out = np.empty(len(integers), dtype=np.int16)

    def take(start: int, part: Array) -> None:
        out[start : start + len(part)] = part

    rans.decode(memoryview(stored[0]), memoryview(stored[1]), shape, take, workers)
    return out


def as_symbols(integers: Array) -> tuple[Array, adaptive.Alphabet, Array]:
    """What the adaptive coder takes: symbols, the codebook of the integers that occur, and that in order."""
    occur = np.unique(integers)
    occur = occur[occur != 0]
    found = np.where(integers == 0, 0, np.searchsorted(occur, integers) + 1).astype(np.int16)
    return found, adaptive.Alphabet(len(occur), int((occur < 0).sum())), np.insert(occur, 0, 0)


def adaptive_encode(integers: Array, shape: tuple[int, ...]) -> Stored:
    """The plain scan."""
    symbols, book, occur = as_symbols(integers)
    return adaptive.encode(symbols, shape, book, adaptive.Scan()), book, occur


def adaptive_decode(stored: Stored, integers: Array, shape: tuple[int, ...]) -> Array:
    """The inverse."""
    payload, book, occur = stored
    weights = int(np.count_nonzero(integers))
    found: Array = occur[adaptive.decode(memoryview(payload), shape, book, weights, adaptive.Scan())]
    return found


def huffman_encode(integers: Array, shape: tuple[int, ...]) -> Stored:
    """Gaps and values, or each integer, whichever is smaller."""
    symbols, _, occur = as_symbols(integers)
    dense = streams.encode(symbols.astype(np.uint16), len(occur))
    gaps = offsets.gaps(np.flatnonzero(symbols))
    width = offsets.best_width(*np.unique(gaps, return_counts=True))[0]
    placed = streams.encode(offsets.to_symbols(gaps, width), 1 << width)
    kept = streams.encode((symbols[symbols != 0] - 1).astype(np.uint16), len(occur))
    apart = placed.size + kept.size < dense.size
    return ((placed, kept, width) if apart else (dense,)), occur


def huffman_decode(stored: Stored, integers: Array, shape: tuple[int, ...]) -> Array:
    """The inverse."""
    parts, occur = stored
    weights = int(np.count_nonzero(integers))
    if len(parts) == 1:
        symbols = _symbols(parts[0], len(occur), len(integers))
        return occur[symbols]  # type: ignore[no-any-return]
    placed, kept, width = parts
    symbols = _symbols(placed, 1 << width, weights + _fillers(integers, width))
    out = np.zeros(len(integers), dtype=np.int16)
    offsets.scatter(symbols, width, _symbols(kept, len(occur), weights), out.view(np.uint16), occur[1:].view(np.uint16))
    return out


def _fillers(integers: Array, width: int) -> int:
    return int((offsets.gaps(np.flatnonzero(integers)) // ((1 << width) - 1)).sum())


def _symbols(stream: streams.Stream, alphabet: int, count: int) -> Array:
    table = streams.read_table(stream.coder, Reader(stream.table, "table"), alphabet)
    return streams.decode(table, memoryview(stream.payload), count)


def nncodec(nnc: Any) -> Coder:
    """NNCodec's entropy coder: integers are stored as they are, without its quantizer."""

    def encode(integers: Array, shape: tuple[int, ...]) -> Stored:
        arrays = {"w": integers.astype(np.int32).reshape(shape)}
        return nnc.compress(arrays, bitstream_path=None, return_bitstream=True)

    def decode(stored: Stored, integers: Array, shape: tuple[int, ...]) -> Array:
        return np.asarray(nnc.decompress(stored)["w"]).reshape(-1).astype(np.int16)

    return Coder(encode, decode, len)


def coders() -> dict[str, Coder]:
    """All that there are on this machine."""
    found = {
        REFERENCE: Coder(chosen_encode, chosen_decode, chosen_size),
        "rANS alone": Coder(smallest, rans_decode, lambda stored: len(stored[0]) + len(stored[1])),
        "adaptive": Coder(adaptive_encode, adaptive_decode, lambda stored: len(stored[0])),
        "Huffman": Coder(huffman_encode, huffman_decode, lambda stored: sum(part.size for part in stored[0][:2])),
    }
    if find_spec("nncodec"):
        found["NNCodec"] = nncodec(import_module("nncodec.nnc"))
    return found


def alexnet() -> Iterator[tuple[str, Array]]:
    """A quarter of AlexNet's fully connected layers: positions by chance, values by a Gaussian."""
    rng = np.random.default_rng(0)
    for name, (rows, columns), density, bits in (layer for layer in LAYERS if len(layer[1]) == 2):
        drawn = np.rint(rng.normal(0, (1 << bits) / 5, (rows // 4, columns))).astype(np.int16)
        drawn = np.clip(drawn, 1 - (1 << bits - 1), 1 << bits - 1)
        yield name, np.where(rng.random(drawn.shape) < density, np.where(drawn == 0, 1, drawn), 0).astype(np.int16)


def rounded(path: Path, step: float) -> Iterator[tuple[str, Array]]:
    """The layers of a checkpoint or a .dc file as integers."""
    if path.suffix == ".dc":
        loaded = import_module("deepcompress").load_state_dict(path)
        for name, value in loaded.items():
            if is_layer(value):
                values = np.unique(value.numpy())
                zero = int(np.searchsorted(values, 0))
                yield name, (np.searchsorted(values, value.numpy()) - zero).astype(np.int16)
        return
    for name, value in load_checkpoint(path).state.items():
        if is_layer(value):
            weight = value.float().numpy()
            size = step * float(np.sqrt(np.mean(np.square(weight, dtype=np.float64)))) or 1.0
            yield name, np.clip(np.rint(weight / size), -32_767, 32_767).astype(np.int16)


def measure(title: str, layers: list[tuple[str, Array]], runs: int) -> None:
    """Print one row a coder, for all layers of a network together."""
    weights = sum(layer.size for _, layer in layers)
    zeros = 1 - sum(int(np.count_nonzero(layer)) for _, layer in layers) / max(weights, 1)
    print(f"\n{title}: {weights:,} weights, {zeros:.1%} zeros")
    tallies = {name: Tally() for name in coders()}
    for turn in range(runs):
        for name, coder in coders().items():
            tally, spent = tallies[name], [0.0, 0.0]
            for _, layer in layers:
                integers = layer.reshape(-1)
                start = time.process_time()
                stored = coder.encode(integers, layer.shape)
                middle = time.process_time()
                found = coder.decode(stored, integers, layer.shape)
                spent[0], spent[1] = spent[0] + middle - start, spent[1] + time.process_time() - middle
                if not np.array_equal(found, integers):
                    raise SystemExit(f"{name}: what was decoded is not what was encoded")
                tally.size += coder.size(stored) if turn == 0 else 0
            tally.encoding.append(spent[0])
            tally.decoding.append(spent[1])
    print(f"{'coder':<14}{'bytes':>12}{'÷ rans':>9}{'encode M/s':>12}{'decode M/s':>12}{'spread':>9}")
    for name, tally in tallies.items():
        rates = [weights / 1e6 / statistics.median(times) for times in (tally.encoding, tally.decoding)]
        ratio, spread = tally.size / tallies[REFERENCE].size, max(tally.decoding) / min(tally.decoding)
        print(f"{name:<14}{tally.size:>12,}{ratio:>9.3f}{rates[0]:>12.1f}{rates[1]:>12.1f}{spread:>8.2f}×")
    print(f"{'without numba':<38}{plain_rate(layers):>18.1f}")
    clock, path = second_thread(layers, runs)
    print(f"two threads, largest layer: {clock:.2f}× by the clock, {path:.2f}× by the longest path", flush=True)


def largest(layers: list[tuple[str, Array]]) -> Array:
    """The largest layer."""
    return max((layer for _, layer in layers), key=lambda layer: layer.size)


def second_thread(layers: list[tuple[str, Array]], runs: int) -> tuple[float, float]:
    """How many times as fast two threads decode the largest layer: by the clock, and by the longest path.

    The path is what the main thread and the busier of the two compute, in processor seconds: the clock's figure where
    two cores are free.
    """
    layer = largest(layers)
    stored = smallest(layer.reshape(-1), layer.shape)
    clock: dict[int, list[float]] = {1: [], 2: []}
    paths: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(3 * runs):
        for workers, found in clock.items():
            with timed_threads() as spent:
                start, mine = time.perf_counter(), time.thread_time()
                rans_decode(stored, layer.reshape(-1), layer.shape, workers)
                found.append(time.perf_counter() - start)
            others = max(spent) if len(spent) > 1 else 0  # the only part is the main thread's
            paths[workers].append(time.thread_time() - mine + others)
    return min(clock[1]) / min(clock[2]), statistics.median(paths[1]) / statistics.median(paths[2])


@contextmanager
def timed_threads() -> Iterator[list[float]]:
    """Processor seconds of each part that `threads.run` gives to a thread."""
    spent: list[float] = []
    run = threads.run

    def timed(work: Callable[[int, int], Any], parts: Any) -> list[Any]:
        def part(start: int, stop: int) -> Any:
            before = time.thread_time()
            found = work(start, stop)
            spent.append(time.thread_time() - before)
            return found

        return run(part, parts)

    threads.run = timed
    try:
        yield spent
    finally:
        threads.run = run


def plain_rate(layers: list[tuple[str, Array]]) -> float:
    """M weights/s that numpy alone decodes, of the largest layer's first million."""
    layer = largest(layers)
    layer = layer[: max(1, 1_000_000 * len(layer) // layer.size)]
    stored = smallest(layer.reshape(-1), layer.shape)
    with no_kernels():
        start = time.process_time()
        rans_decode(stored, layer.reshape(-1), layer.shape)
        return layer.size / 1e6 / (time.process_time() - start)


def main() -> None:
    """Print one table a network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="Checkpoints, or .dc files.")
    parser.add_argument("--step", type=float, default=1 / 6, help="Of integers, in root mean squares of a layer.")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--no-alexnet", action="store_true", help="Only the files.")
    options = parser.parse_args()
    print(f"Medians of {options.runs} runs; {machine()}", flush=True)
    if not options.no_alexnet:
        measure("AlexNet's shapes", list(alexnet()), options.runs)
    if not find_spec("nncodec"):
        print("NNCodec is not installed, and not measured")
    for path in options.files:
        measure(path.name, list(rounded(path, options.step)), options.runs)


if __name__ == "__main__":
    main()
