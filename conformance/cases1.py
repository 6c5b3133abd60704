"""Valid files of version 1, one property each: `files()` gives them by the name that says which."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import craft
import numpy as np
from craft import (
    BF16,
    BOOL,
    CONSTANT,
    DTYPES,
    F16,
    F32,
    F64,
    FEW,
    FIXED,
    HUFFMAN,
    I8,
    I64,
    LITERAL,
    NONE,
    OLD,
    STORES,
    U8,
    File,
    Tensor,
    alias,
    coded,
    entries,
    of_dtype,
    planes,
    raw,
    spread,
)


def v1(*tensors: Tensor, **more: Any) -> File:
    """A file of version 1."""
    return File(tensors, 1, **more)


def files() -> dict[str, File]:
    """Every case by its name."""
    return headers() | plain() | coded_tensors() | alphabets() | laned()


def headers() -> dict[str, File]:
    """Sections 1 to 3: what a file and its header may be."""
    w, i8 = raw("w", [1.0, 2.0]), raw("i8", [-1, 1], I8)
    odd = ["é", "è", "éa", "é.", "x" * 512, "x" * 511, "a b", "\u0378", "\U0001fae8", "\ufffd", "層.weight"]
    return {
        "v1-no-tensors": v1(),
        "v1-labels": v1(w, network="lenet5", data="mnist"),
        "v1-labels-longest": v1(w, network="n" * 255, data="é" * 127),
        "v1-labels-unicode": v1(w, network="größe 層", data="\u0378\U0001fae8"),
        "v1-extensions-optional": v1(w, extensions=[(0, "new", b"later"), (0, "", b""), (0, "new", bytes(300))]),
        "v1-names-odd": v1(*(raw(name, [7], U8) for name in odd)),
        "v1-names-share-their-start": v1(
            *(replace(i8, name=name) for name in ("fc1.weight", "fc1.bias", "fc1", "f", "g"))
        ),
        "v1-names-many": v1(*(raw(f"layer{n}.weight", [n % 256], U8) for n in range(300))),
        "v1-rank-0": v1(raw("scalar", 3, I64), raw("float", 0.5)),
        "v1-rank-8": v1(raw("w", np.arange(6, dtype=np.uint8).reshape(1, 2, 1, 3, 1, 1, 1, 1), U8)),
        "v1-empty-tensor": v1(raw("a", np.zeros((0, 3))), raw("b", np.zeros((2, 0, 1 << 20), "i1"), I8)),
        "v1-shape-largest": v1(raw("w", np.zeros((0, 1 << 40), "i1"), I8)),
        "v1-alias": v1(w, i8, alias("tied", w, 0), alias("again", w, 0), alias("i8.tied", i8, 1)),
        "v1-file-larger-than-64k": v1(raw("w", np.arange(70_000) % 251, U8)),
    }


def plain() -> dict[str, File]:
    """Sections 3 and 6: every dtype, raw and as byte planes."""
    rng = np.random.default_rng(1)
    out = {}
    for dtype, name in enumerate(DTYPES[:OLD]):
        noise = rng.integers(0, 256, 6 * craft.SIZES[dtype], np.uint8)
        values = (noise & 1 if dtype == BOOL else noise).view(craft.bits([], dtype).dtype).reshape(2, 3)
        values = values.view(STORES[dtype])
        many = np.resize(values, 500)
        out[f"v1-raw-{name}"] = v1(raw("w", values, dtype))
        out[f"v1-planes-{name}"] = v1(planes("w", many, dtype, [HUFFMAN] * craft.SIZES[dtype]))
    specials = np.array([0, 1 << 31, 1, 0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC12345, 0x7F800001], "<u4").view("<f4")
    bias = np.array([0.5] * 15 + [-1], "<f4")
    return out | {
        "v1-raw-nan-inf-and-minus-zero": v1(raw("w", specials)),
        "v1-planes-of-each-coder": v1(planes("w", bias, F32, [CONSTANT, FIXED, HUFFMAN, FIXED])),
        "v1-planes-wide": v1(planes("w", rng.normal(size=700).astype("<f4"))),
    }


def coded_tensors() -> dict[str, File]:
    """Section 4: codebooks, offsets, fillers, literal weights."""
    thin, thick, book = spread((20, 60), FEW, 9), spread((9, 9), FEW, 2), entries(FEW)
    first = coded("first", thin, book, 3)
    out = {f"v1-coded-{DTYPES[dtype]}": v1(of_dtype("w", dtype)) for dtype in (F16, BF16, F64)}
    out |= {f"v1-offsets-of-{b}-bits": v1(coded("w", thin, book, b)) for b in (1, 2, 4, 8, 12)}
    far = np.zeros(1 << 13, "<f4")
    far[[5, 4200, 8191]] = [0.5, 1, 0.5]
    specials = np.array([1 << 31, 0x7FC00000, 0x7FC00001, 0xFFC00000, 1, 0x7F800000], "<u4").view("<f4")
    full, halfway = np.tile(np.array(FEW, "<f4"), 9), np.zeros((6, 9), "<f2")
    halfway.reshape(-1)[[1, 30, 53]] = [1.5, -0.125, 65504]
    return out | {
        "v1-offsets-fixed-width": v1(coded("w", thin, book, 3, (FIXED, FIXED))),
        "v1-offsets-huffman": v1(coded("w", thin, book, 3, (HUFFMAN, HUFFMAN))),
        "v1-offsets-constant": v1(coded("w", np.tile([0, 0, 0.5], 20).astype("<f4"), book, 2, (CONSTANT, CONSTANT))),
        "v1-offsets-first-and-last-element": v1(coded("w", np.eye(5, dtype="<f4"), entries([1]), 2)),
        "v1-fillers-many": v1(coded("w", far, book, 4, (HUFFMAN, FIXED))),
        "v1-fillers-of-one-bit": v1(coded("w", far[:600], book, 1)),
        "v1-fillers-fill-the-tensor": v1(coded("w", np.array([0, 0, 0, 0, 0, 0, 0.5], "<f4"), book, 2)),
        "v1-no-offsets": v1(coded("w", thick, book)),
        "v1-no-offsets-fixed-width": v1(coded("w", thick, book, 0, (NONE, FIXED))),
        "v1-no-offsets-huffman": v1(coded("w", thick, book, 0, (NONE, HUFFMAN))),
        "v1-no-offsets-constant": v1(coded("w", np.full((8, 8), 2, "<f4"), book, 0, (NONE, CONSTANT))),
        "v1-no-offsets-all-weights": v1(coded("w", full, book)),
        "v1-no-weights": v1(coded("w", np.zeros(50, "<f4"), entries([]), 5)),
        "v1-no-weights-no-offsets": v1(coded("w", np.zeros(50, "<f4"), entries([]))),
        "v1-no-weights-but-a-codebook": v1(coded("w", np.zeros(50, "<f4"), book, 5)),
        "v1-no-weights-every-coder": v1(*_empty_streams()),
        "v1-no-elements": v1(
            coded("w", np.zeros((0, 4), "<f4"), entries([]), 1), coded("v", np.zeros(0, "<f4"), entries([]))
        ),
        "v1-codebook-not-sorted": v1(coded("w", thick, entries(FEW[::-1])), coded("v", thin, entries(FEW[::-1]), 4)),
        "v1-codebook-unused-entries": v1(coded("w", thick, entries([*FEW, 7, 8, 9]))),
        "v1-codebook-nan-inf-and-minus-zero": v1(coded("w", np.resize(specials, 60), entries(specials))),
        "v1-codebook-of-4096": v1(coded("w", np.arange(1, 4097, dtype="<f4").repeat(2), entries(np.arange(1, 4097)))),
        "v1-codebook-shared": v1(
            first, raw("between", [1], U8), coded("second", thick, book.of(0)), coded("third", thin, book.of(0), 2)
        ),
        "v1-codebook-shared-by-an-alias": v1(
            first, coded("second", thick, book.of(0)), alias("tied", coded("x", thick, book.of(0)), 1)
        ),
        "v1-literal-float32": v1(
            coded("w", spread((40, 9), [0.1, -2.5, 3e-40], 11), entries([]), 4, (HUFFMAN, LITERAL))
        ),
        "v1-literal-float16": v1(coded("h", halfway, entries([], F16), 5, (FIXED, LITERAL), F16)),
        "v1-literal-float64": v1(
            coded("w", spread((90,), [1e-300, -2.5], 5, "<f8"), entries([], F64), 3, (FIXED, LITERAL), F64)
        ),
        "v1-literal-minus-zero": v1(
            coded("w", np.array([0, -0.0, 0, 0, np.nan, 0, 0], "<f4"), entries([]), 2, (FIXED, LITERAL))
        ),
    }


def _empty_streams() -> list[Tensor]:
    """Tensors without a weight, whose two empty streams have each coder in turn."""
    zeros, book = np.zeros(9, "<f4"), entries([0.5, 1])
    return [
        coded(f"{offset}.{weight}", zeros, book, 2, (offset, weight))
        for offset in (NONE, CONSTANT, FIXED, HUFFMAN)
        for weight in (NONE, CONSTANT, FIXED, HUFFMAN)
    ]


def alphabets() -> dict[str, File]:
    """Section 5: codes of all depths and sizes."""
    counts = [1, 1]
    while len(counts) < 17:
        counts.append(counts[-1] + counts[-2])
    deep = np.repeat(np.arange(1, 18, dtype="<f4"), counts)
    wide = np.minimum(np.arange(1, 1335) // 3 + 1, 300).astype("<f4")
    jumps = np.repeat(np.array([1, 2, 9, 10, 40, 41], "<f4"), [99, 1, 50, 1, 20, 3])
    return {
        "v1-huffman-two-symbols": v1(coded("w", spread((100,), [2], 2), entries([2]), 0, (NONE, HUFFMAN))),
        "v1-huffman-words-of-15-bits": v1(coded("w", deep, entries(range(1, 18)), 0, (NONE, HUFFMAN))),
        "v1-huffman-300-symbols": v1(coded("w", wide, entries(range(1, 301)), 0, (NONE, HUFFMAN))),
        "v1-huffman-lengths-that-jump": v1(coded("w", jumps, entries(range(1, 43)), 0, (NONE, HUFFMAN))),
        "v1-fixed-width-of-1-bit-for-1-symbol": v1(coded("w", np.eye(4, dtype="<f4"), entries([1]), 3, (FIXED, FIXED))),
        "v1-fixed-width-of-10-bits": v1(
            coded("w", np.resize(np.arange(601), 1999).astype("<f4"), entries(range(1, 601)), 0, (NONE, FIXED))
        ),
    }


def laned() -> dict[str, File]:
    """Section 5: where a stream gets lanes, and where not."""

    def symbols(count: int) -> Any:
        return (np.arange(count) ** 2 % 7).astype(np.uint8)

    out = {
        f"v1-lanes-{lanes}-for-{count}": v1(planes("x", symbols(count) & 1, U8, [HUFFMAN]))
        for count, lanes in ((131_071, 1), (131_072, 64), (131_073, 64), (262_143, 64), (262_144, 128))
    }
    thin = np.zeros(400_000, "<f4")
    thin[np.arange(133_000) * 3 + np.arange(133_000) % 2] = 0.5
    return out | {
        "v1-lanes-of-offsets": v1(coded("w", thin, entries([0.5]), 2, (HUFFMAN, CONSTANT))),
        "v1-lanes-uneven": v1(
            planes("x", np.where(np.arange(131_100) % 64 < 9, np.arange(131_100) % 5, 0), U8, [HUFFMAN])
        ),
    }
