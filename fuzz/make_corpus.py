"""Write the seeds of the fuzz target: `python fuzz/make_corpus.py`. Small files that have all that the format has."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from fuzz_reader import ROOT, lanes_in_short_streams

from deepcompress.coding.dtypes import DType
from deepcompress.coding.encoder import alias, encode_coded, encode_plain
from deepcompress.coding.forms import SharedCodebook, StoredCodebook
from deepcompress.coding.layouts.ranked import encode_ranks, encode_scaled
from deepcompress.coding.tensors import EncodedTensor, TensorType
from deepcompress.container.writer import pack

sys.path.insert(0, str(ROOT / "tests" / "container"))
import crafting

CORPUS = Path(__file__).resolve().parent / "corpus"
Named = list[tuple[str, EncodedTensor]]


def sparse(size: int, density: float, values: list[float], dtype: str = "<f4", seed: int = 0) -> np.ndarray:
    """Zeros, and some of `values`, the first ones more often."""
    rng = np.random.default_rng(seed)
    book = np.asarray(values, dtype=dtype)
    out = book[np.minimum(rng.geometric(0.4, size) - 1, len(book) - 1)]
    out[rng.random(size) >= density] = 0
    return out


def coded(values: np.ndarray, dtype: DType, **options: object) -> EncodedTensor:
    """A tensor with the codebook of its own values."""
    bits = np.ascontiguousarray(values).reshape(-1).view(dtype.bits)
    book = np.unique(bits[bits != 0]).view(dtype.storage)
    return encode_coded(values, dtype, book, **options)  # type: ignore[arg-type]


def plain() -> Named:
    """Raw tensors and byte planes of every type of version 1, a scalar, and nothing at all."""
    rng = np.random.default_rng(1)
    out: Named = [("empty", encode_plain(np.zeros((0, 3), dtype=np.int8), DType.INT8))]
    for dtype in list(DType)[:10]:
        noise = rng.integers(0, 256, 6 * dtype.storage.itemsize, np.uint8).view(dtype.bits)
        values = np.eye(1, 2, dtype=bool) if dtype is DType.BOOL else noise.view(dtype.storage).reshape(2, 3)
        out.append((f"{dtype.name.lower()}.raw", encode_plain(values, dtype)))
        out.append((f"{dtype.name.lower()}.planes", encode_plain(np.ones(40, dtype=dtype.storage), dtype)))
    return [*out, ("scalar", encode_plain(np.array(7), DType.INT64))]


def codebooks() -> Named:
    """With and without offsets, fixed width and Huffman, constant streams, a shared codebook, and aliases."""
    few = [0.5, -0.25, 1.0, 2.0, -3.0]
    thin, thick = sparse(1500, 0.1, few), sparse(200, 0.9, few, seed=1)
    shared = sparse(120, 0.2, few, seed=2)
    book = np.asarray(few, dtype=np.float32)
    every = np.zeros(64, dtype=np.float32)
    every[3::4] = 1.5
    return [
        ("thin", encode_coded(thin, DType.FLOAT32, book)),
        ("thick", encode_coded(thick, DType.FLOAT32, book)),
        ("shared", encode_coded(shared, DType.FLOAT32, book, target=0)),
        ("tied", alias(shared.shape, DType.FLOAT32, 2)),
        ("fixed.thin", encode_coded(thin, DType.FLOAT32, book, "fixed")),
        ("fixed.thick", encode_coded(thick, DType.FLOAT32, book, "fixed")),
        ("every", coded(every, DType.FLOAT32)),
        ("same", coded(np.full((8, 8), 2, dtype=np.float32), DType.FLOAT32)),
        ("zeros", encode_coded(np.zeros(50, dtype=np.float32), DType.FLOAT32, book[:0])),
    ]


def types() -> Named:
    """Codebooks and literal weights of the four types that are coded."""
    out: Named = []
    for dtype in list(DType)[:4]:
        values = sparse(150, 0.1, [1, 2, 3, 4], dtype.bits.str, seed=dtype).view(dtype.storage)
        out.append((f"{dtype.name.lower()}.book", coded(values, dtype)))
        noise = np.random.default_rng(dtype).integers(0, 256, values.nbytes, np.uint8).view(dtype.bits)
        values = (noise * (values.view(dtype.bits) > 0)).view(dtype.storage)
        out.append((f"{dtype.name.lower()}.literal", encode_coded(values, dtype, None)))
    return out


def deep() -> Named:
    """A code with words of 15 bits (Fibonacci counts), and an alphabet that takes two bytes a symbol."""
    counts = [1, 1]
    while len(counts) < 16:
        counts.append(counts[-1] + counts[-2])
    fibonacci = np.repeat(np.arange(1, 17, dtype=np.float32), counts)
    wide = np.zeros(4000, dtype=np.float32)
    wide[::3] = np.minimum(np.arange(1, 1335) // 3 + 1, 300)
    far = np.zeros(1 << 14, dtype=np.uint16)
    far[[5, 4000, 12000, 12001]] = 7
    return [
        ("fibonacci", coded(fibonacci, DType.FLOAT32)),
        ("wide", coded(wide, DType.FLOAT32)),
        ("far", coded(far, DType.BFLOAT16)),
    ]


def laned() -> Named:
    """Huffman streams with lanes, where the fuzz target makes even short ones have them."""
    few = [0.5, -0.25, 1.0, 2.0, -3.0, 4.0, 5.0]
    with lanes_in_short_streams():
        return [
            ("thin", coded(sparse(20_000, 0.1, few), DType.FLOAT32)),
            ("thick", coded(sparse(1500, 0.9, few, seed=3), DType.FLOAT32)),
            ("planes", encode_plain(sparse(700, 0.8, few, seed=4), DType.FLOAT32)),
        ]


def adaptive() -> Named:
    """Version 2: the adaptive coder in each scan, every form of a codebook, and constant tensors."""
    grid = (np.float32(0.1) * np.array([-2, -1, 1, 2, 3], dtype=np.float32)).astype(np.float32)
    half = np.array([-1.5, -0.5, 0.5, 1], dtype=np.float32)
    small = (np.array([-1, 1, 2], dtype=np.float32) * np.float32(2.0**-40)).astype(np.float32)
    odd = np.array([-0.3, 0.77, 0.9], dtype=np.float32)
    out: Named = [
        ("grid", encode_coded(sparse(400, 0.1, grid).reshape(10, 40), DType.FLOAT32, grid, "ans")),
        ("half", encode_coded(sparse(450, 0.2, half).reshape(10, 5, 3, 3), DType.FLOAT32, half, "ans")),
        ("small", encode_coded(sparse(640, 0.2, small).reshape(10, 64), DType.FLOAT32, small, "ans")),
        ("odd", encode_coded(sparse(300, 0.2, odd), DType.FLOAT32, odd, "ans")),
        ("shared", encode_coded(sparse(200, 0.9, odd, seed=1).reshape(20, 10), DType.FLOAT32, odd, "ans", target=3)),
        ("tied", alias((20, 10), DType.FLOAT32, 4)),
        ("streams", encode_coded(sparse(1500, 0.3, grid), DType.FLOAT32, grid, "auto", target=0)),
        ("pruned", encode_coded(np.zeros((9, 9), np.float32), DType.FLOAT32, grid, "ans", target=0)),
        ("bias", encode_plain(np.full(40, 0.1, np.float32), DType.FLOAT32, compact=True)),
        ("steps", encode_plain(np.array(7), DType.INT64, compact=True)),
    ]
    for dtype in list(DType)[:4]:
        values = sparse(150, 0.3, [1, 2, 3, 4], dtype.bits.str, seed=dtype).view(dtype.storage)
        out.append((f"{dtype.name.lower()}.book", coded(values, dtype, coder="ans")))
    return out


def exact() -> Named:
    """Version 3: its types, raw, in planes and coded; rows of different kinds; a copy, and a tensor tied to it."""
    rng = np.random.default_rng(2)
    out: Named = []
    for dtype in list(DType)[10:]:
        noise = rng.integers(0, 256, 6 * dtype.storage.itemsize, np.uint8)
        out.append((f"{dtype.name.lower()}.raw", encode_plain(noise.view(dtype.storage).reshape(2, 3), dtype)))
        out.append((f"{dtype.name.lower()}.planes", encode_plain(np.ones(40, dtype=dtype.storage), dtype)))
        if dtype.is_float:
            values = sparse(150, 0.3, [1, 2, 130], "|u1", seed=dtype)
            out.append((f"{dtype.name.lower()}.huffman", coded(values, dtype)))
            out.append((f"{dtype.name.lower()}.ans", coded(values, dtype, coder="ans")))
            out.append((f"{dtype.name.lower()}.literal", encode_coded(values * (values > 129), dtype, None)))
    rows = rng.standard_normal((60, 60)).astype("<f4")
    rows[::3] = rows[::3].astype("<f2")
    rows[1::3] = 0.5
    noise = rng.standard_normal((40, 40)).astype("<f4")
    return [
        *out,
        ("rows", encode_plain(rows, DType.FLOAT32)),
        ("noise", encode_plain(noise, DType.FLOAT32)),
        ("same", encode_plain(noise, DType.FLOAT32)),
        ("tied", alias(noise.shape, DType.FLOAT32, len(out) + 2)),
    ]


def ranked() -> Named:
    """Version 3: ranks and multiples by the rANS coder, dense and with gaps, with extra bits and neighbours.

    The names are those of the dictionary, so that the header is deflated.
    """
    rng = np.random.default_rng(5)
    book = np.array([-0.9, -0.3, 0.1, 0.77], dtype=np.float32)
    smooth = np.cumsum(rng.integers(-3, 4, (12, 20)), axis=1)
    wide = rng.integers(-900, 900, (15, 10)) * (rng.random((15, 10)) < 0.2)
    ranks = np.array([-1, 1, -2, 0, 0, 0, 0, 2], dtype=np.int16)[rng.integers(0, 8, 180)]
    own, shared = TensorType((6, 10, 3), DType.FLOAT32), TensorType((180,), DType.FLOAT32)
    return [
        ("layer1.0.conv1.weight", encode_ranks(ranks, own, StoredCodebook(count=4), book.tobytes())),
        ("fc1.weight", encode_ranks(np.abs(ranks), shared, SharedCodebook(0, 4), b"")),
        ("fc2.weight", encode_scaled(smooth, np.float32(0.01), rng.integers(0, 9, 12))),
        ("fc3.weight", encode_scaled(wide, np.float32(1e-30), rng.integers(0, 200, 15))),
        ("conv1.weight", encode_scaled(np.zeros((3, 40), np.int8), np.float32(1), np.zeros(3, np.uint8))),
    ]


def files() -> dict[str, bytes]:
    """Every seed by its name."""
    return {
        "nothing": pack([], "", ""),
        "plain": pack(plain(), "lenet5", "digits"),
        "codebooks": pack(codebooks(), "", "mnist"),
        "types": pack(types()),
        "deep": pack(deep()),
        "laned": pack(laned()),
        "adaptive": pack(adaptive(), "lenet5", "mnist"),
        "exact": pack(exact()),
        "ranked": pack(ranked(), "lenet5", "mnist"),
        "extensions": crafting.craft(extensions=[(0, "new", b"later"), (0, "empty", b"")], network="net"),
        "required": crafting.craft(extensions=[(1, "newer", b"")]),
    }


def main() -> None:
    """Write them all."""
    CORPUS.mkdir(exist_ok=True)
    for name, data in files().items():
        (CORPUS / f"{name}.dc").write_bytes(data)
        print(f"{name}.dc: {len(data):,} bytes")


if __name__ == "__main__":
    main()
