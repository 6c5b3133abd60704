"""Valid files of version 2, one property each: `files()` gives them by the name that says which."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import craft
import numpy as np
from craft import (
    BF16,
    BOOL,
    BY_COLUMN,
    CHECKED,
    DEFLATED,
    DTYPES,
    F16,
    F32,
    F64,
    FEW,
    HUFFMAN,
    I8,
    I64,
    LITERAL,
    OLD,
    SQUARES,
    U8,
    File,
    Tensor,
    adaptive,
    alias,
    coded,
    entries,
    grid,
    halves,
    of_dtype,
    planes,
    raw,
    same,
    spread,
)

from deepcompress.container import deflate


def v2(*tensors: Tensor, **more: Any) -> File:
    """A file of version 2."""
    return File(tensors, 2, **more)


def files() -> dict[str, File]:
    """Every case by its name."""
    return short_headers() | books() | models()


def short_headers() -> dict[str, File]:
    """Section 9: headers of version 2, and the layouts that need no codebook."""
    w, bias = raw("fc1.weight", [1.0, 2.0]), same("fc1.bias", 0.5, (16,))
    named: dict[str, Any] = {"network": "lenet5", "data": "mnist"}
    return {
        "v2-no-tensors": v2(),
        "v2-no-tensors-deflated": v2(flags=DEFLATED),
        "v2-checksums-of-a-small-file": v2(w, bias, alias("tied", w, 0), flags=CHECKED, **named),
        "v2-deflated": v2(w, bias, flags=DEFLATED, **named),
        "v2-deflated-with-checksums": v2(w, bias, flags=DEFLATED | CHECKED, **named),
        "v2-deflated-stored-block": v2(w, bias, flags=DEFLATED, pack=_zlib(0), **named),
        "v2-deflated-dynamic-block": v2(*_many(), flags=DEFLATED, pack=_zlib(9), **named),
        "v2-deflated-several-blocks": v2(*_many(), flags=DEFLATED, pack=_flushed, **named),
        "v2-deflated-padding-of-ones": v2(w, bias, flags=DEFLATED, pack=_padded, network="lenet5", data="digits"),
        "v2-deflated-whole-dictionary": v2(
            *(raw(name, [1], U8) for name in deflate.DICTIONARY.decode("latin-1").splitlines() if _plain(name)),
            flags=DEFLATED,
        ),
        "v2-deflated-4096-bytes": v2(
            w, flags=DEFLATED, extensions=[(0, "e", b"abcdefg" * 500 + bytes(556))], pack=_zlib(9)
        ),
        "v2-extensions-optional": v2(w, extensions=[(0, "new", b"later"), (0, "", b"")]),
        "v2-names-odd": v2(*(raw(name, [7], U8) for name in ("é", "x" * 512, "a b", "\u0378", "層.weight"))),
        "v2-largest-without-checksums": v2(raw("w", np.arange(65_515) % 251, U8)),
        "v2-larger-with-checksums": v2(raw("w", np.arange(65_600) % 251, U8), bias, flags=CHECKED),
        "v2-every-dtype-raw": v2(*(raw(name, [0, 1], dtype) for dtype, name in enumerate(DTYPES[:OLD]))),
        "v2-every-dtype-constant": v2(*(same(name, 1, (2, 3), dtype) for dtype, name in enumerate(DTYPES[:OLD]))),
        "v2-constant-large": v2(same("w", -0.25, (1000, 250)), same("bools", False, (2,), BOOL)),
        "v2-constant-nan": v2(same("w", np.nan, (5,)), same("z", -0.0, (3, 1, 1))),
        "v2-planes": v2(planes("w", np.array([0.5] * 15 + [-1], "<f4"))),
        "v2-alias-of-each-layout": v2(
            w,
            bias,
            planes("p", [1.5] * 9),
            alias("a", w, 0),
            alias("b", bias, 1),
            alias("c", planes("p", [1.5] * 9), 2),
        ),
        "v2-rank-0-and-8": v2(
            raw("s", 3, I64), raw("w", np.ones((1,) * 8), F64), raw("none", np.zeros((0, 1 << 40), "i1"), I8)
        ),
    }


def _plain(name: str) -> bool:
    return name.isprintable() and name != ""


def _many() -> list[Tensor]:
    return [raw(f"block{n}.{part}", [n], U8) for n in range(60) for part in ("weight", "bias", "running_mean")]


def _zlib(level: int) -> Callable[[bytes], bytes]:
    def pack(data: bytes) -> bytes:
        stream = zlib.compressobj(level, wbits=-15, zdict=deflate.DICTIONARY)
        return stream.compress(data) + stream.flush()

    return pack


def _flushed(data: bytes) -> bytes:
    stream = zlib.compressobj(6, wbits=-15, zdict=deflate.DICTIONARY)
    out = b"".join(
        stream.compress(data[at : at + 500]) + stream.flush(zlib.Z_FULL_FLUSH) for at in range(0, len(data), 500)
    )
    return out + stream.flush()


def _padded(data: bytes) -> bytes:
    """Deflate that leaves bits of its last byte unused, which are all 1."""
    packed = bytearray(deflate.compress(data))
    for bit in range(7, -1, -1):
        tried = packed[-1] | 1 << bit
        stream = zlib.decompressobj(-15, zdict=deflate.DICTIONARY)
        try:
            same = stream.decompress(bytes(packed[:-1]) + bytes([tried])) == data and stream.eof
        except zlib.error:
            same = False
        if not same:
            break
        packed[-1] = tried
    assert packed[-1] & 128
    return bytes(packed)


def books() -> dict[str, File]:
    """Section 10: codebooks in each form."""

    def one(book: craft.Book, **more: Any) -> File:
        values = book.entries.view("<f4")
        tensors = (
            coded("w", spread((80,), values, 2), book, 3, version=2),
            coded("v", spread((20,), values, 1), book.of(0), version=2),
        )
        return v2(*tensors, **more)

    own, shared = grid(0.5, [-2, -1, 1, 2]), entries(FEW[::-1])
    wide = grid(1e-3, [-(1 << 15), -5, 7, 1 << 15])
    full, thin = spread((12, 9), FEW, 1), spread((12, 9), FEW, 4)
    return {
        "v2-book-entries": one(entries(FEW)),
        "v2-book-halves": one(halves([-1.5, 0.5, 7.375, 65504, 6e-8, -0.0])),
        "v2-book-grid-float32": one(grid(0.1, [-3, -2, -1, 1, 2, 3])),
        "v2-book-grid-float16": one(grid(0.25, [-4, -1, 2], 3)),
        "v2-book-grid-bfloat16": one(grid(2.0**-40, [-4, -1, 2], 4)),
        "v2-book-grid-only-positive": one(grid(0.1, [3, 4, 5])),
        "v2-book-grid-only-negative": one(grid(0.1, [-9, -7], 2, (-9, -6))),
        "v2-book-grid-from-0": one(grid(0.1, [1, 2], 2, (0, 2))),
        "v2-book-grid-mask-of-ends-that-are-no-entries": one(grid(0.1, [-1, 2], 2, (-3, 4))),
        "v2-book-grid-one-entry": one(grid(3.5, [1])),
        "v2-book-grid-widest": v2(coded("w", spread((2200,), wide.entries.view("<f4"), 3), wide, 3, version=2)),
        "v2-book-grid-subnormal": one(grid(1e-44, [-3, -1, 1, 2])),
        "v2-book-grid-rounds-to-even": one(grid(float(np.float32(1 + 2**-23)), [-3, 3, 5, 7])),
        "v2-book-grid-up-to-the-largest-number": one(grid(float(np.finfo("<f4").max / 3), [-3, -1, 2, 3])),
        "v2-book-of-other-dtypes": v2(*(of_dtype(DTYPES[dtype], dtype) for dtype in (F16, BF16, F64))),
        "v2-book-empty": v2(
            coded("w", np.zeros(9, "<f4"), halves([]), 2, version=2), adaptive("v", np.zeros(9, "<f4"), entries([]))
        ),
        "v2-book-shared-by-layouts-2-and-5": v2(
            coded("a", thin, shared, 2, version=2),
            adaptive("b", full, shared.of(0)),
            coded("c", full, shared.of(0), version=2),
        ),
        "v2-book-shared-by-layouts-5-and-2": v2(
            adaptive("a", full, shared),
            coded("b", thin, shared.of(0), 2, version=2),
            adaptive("c", thin, shared.of(0), BY_COLUMN),
        ),
        "v2-book-shared-from-the-second": v2(
            raw("first", [1], U8),
            adaptive("a", spread((9, 9), [-1, -0.5, 0.5, 1], 3), own),
            adaptive("b", spread((20,), [-1, -0.5, 0.5, 1], 3), own.of(1)),
            flags=DEFLATED | CHECKED,
        ),
        "v2-literal": v2(coded("w", spread((40, 9), [0.1, -2.5], 11), entries([]), 4, (HUFFMAN, LITERAL), version=2)),
    }


def models() -> dict[str, File]:
    """Section 11: the adaptive model in every geometry."""
    signs, odd = entries([-0.3, 0.77, 0.9]), entries([-0.0, -1, 5, 0.25, -7, np.nan, 2])

    def one(
        shape: tuple[int, ...],
        every: int = 4,
        flags: int = 0,
        side: int = 0,
        book: craft.Book = signs,
        dtype: int = F32,
    ) -> File:
        values = spread(shape, book.entries, every, book.entries.dtype.str)
        return v2(
            adaptive(
                "w", values.view("<u2" if dtype == BF16 else ("<f4", "<f2", "", "<f8")[dtype]), book, flags, side, dtype
            )
        )

    last, blocks = np.zeros(524_290, "<f4"), np.zeros((4, 132_000), "<f4")
    last[[5, 524_286, 524_289]] = [0.9, -0.3, 0.77]
    blocks[[0, 1, 1, 3, 3], [9, 3, 77_777, 5, 131_999]] = -0.3
    return {
        "v2-model-rank-0": one((), 1, book=entries([2])),
        "v2-model-rank-1": one((90,), 3),
        "v2-model-rank-2": one((20, 30)),
        "v2-model-rank-2-by-column": one((20, 30), 4, BY_COLUMN),
        "v2-model-rank-3": one((6, 5, 7)),
        "v2-model-rank-4": one((6, 4, 3, 3)),
        "v2-model-rank-4-by-column": one((6, 4, 3, 3), 3, BY_COLUMN),
        "v2-model-rank-5": one((3, 2, 2, 3, 4), 3, BY_COLUMN),
        "v2-model-squares": one((10, 64), 5, SQUARES, 4),
        "v2-model-squares-by-column": one((10, 64), 5, SQUARES | BY_COLUMN, 4),
        "v2-model-squares-of-2": one((9, 20), 3, SQUARES, 2),
        "v2-model-squares-one-plane": one((12, 49), 3, SQUARES, 7),
        "v2-model-squares-of-a-convolution": one((6, 4, 3, 3), 3, SQUARES, 6),
        "v2-model-lines-of-1": one((5, 4, 6, 1), 3),
        "v2-model-one-row": one((1, 80), 3, BY_COLUMN),
        "v2-model-one-column": one((80, 1), 3, BY_COLUMN),
        "v2-model-all-weights": one((12, 9), 1),
        "v2-model-dense": one((30, 40), 2),
        "v2-model-thin": one((100, 120), 80),
        "v2-model-no-weights": v2(adaptive("w", np.zeros((9, 9), "<f4"), signs)),
        "v2-model-one-weight-at-the-end": v2(adaptive("w", np.eye(1, 40, 39, dtype="<f4").reshape(5, 8), entries([1]))),
        "v2-model-no-elements": v2(
            adaptive("w", np.zeros((0, 7), "<f4"), entries([])), adaptive("v", np.zeros((7, 0), "<f4"), entries([]))
        ),
        "v2-model-one-entry": one((20, 20), 3, book=entries([2])),
        "v2-model-only-negative": one((20, 20), 2, book=entries([-1, -2, -3, -4, -5])),
        "v2-model-only-positive": one((20, 20), 2, book=entries([1, 2, 3, 4, 5])),
        "v2-model-book-not-sorted-with-nan-and-minus-zero": one((20, 20), 2, book=odd),
        "v2-model-300-entries": one((60, 30), 2, book=entries(np.arange(-150, 151)[np.arange(-150, 151) != 0])),
        "v2-model-float16": one((20, 20), 3, book=entries([0.5, -1, 3], F16), dtype=F16),
        "v2-model-bfloat16": one((20, 20), 3, book=entries([0x3F80, 0xBF80], BF16), dtype=BF16),
        "v2-model-float64": one((20, 20), 3, book=entries([0.5, -1, 3], F64), dtype=F64),
        "v2-model-gap-before-the-first-weight": v2(adaptive("w", np.eye(1, 3000, 2900, dtype="<f4")[0], entries([1]))),
        "v2-model-2-blocks": v2(adaptive("w", last, signs)),
        "v2-model-2-blocks-no-weights": v2(adaptive("w", np.zeros((2, 300_000), "<f4"), signs)),
        "v2-model-2-blocks-by-column": v2(adaptive("w", blocks, signs, BY_COLUMN), flags=CHECKED),
        "v2-model-columns-beyond-65536": v2(adaptive("w", _far(), signs)),
    }


def _far() -> np.ndarray[Any, np.dtype[Any]]:
    """Weights whose columns agree in their low 16 bits."""
    out = np.zeros((2, 70_000), "<f4")
    out[:, [3, 65_539, 9, 65_545, 40_000]] = [[-0.3, 0.9, -0.3, 0.77, 0.9], [0.77, -0.3, 0.9, 0, -0.3]]
    return out
