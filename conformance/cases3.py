"""Valid files of version 3, one property each: `files()` gives them by the name that says which."""

from __future__ import annotations

from typing import Any

import numpy as np
from craft import (
    CHECKED,
    DEFLATED,
    DTYPES,
    E4M3,
    E4M3Z,
    E5M2,
    E5M2Z,
    F32,
    F64,
    FEW,
    HUFFMAN,
    LITERAL,
    SIZES,
    STORES,
    U8,
    File,
    Tensor,
    adaptive,
    alias,
    coded,
    copy,
    entries,
    grid,
    planes,
    raw,
    rows,
    same,
    spread,
)


def v3(*tensors: Tensor, **more: Any) -> File:
    """A file of version 3."""
    return File(tensors, 3, **more)


def files() -> dict[str, File]:
    """Every case by its name."""
    return headers() | dtypes() | layouts()


def headers() -> dict[str, File]:
    """Section 13: names, and numbers in bytes of their own."""
    many = [raw(f"model.layers.{n}.{part}", [n], U8) for n in range(20) for part in ("weight", "weight_scale", "bias")]
    wide = raw("ids", [1, 40_000], DTYPES.index("uint16"))
    return {
        "v3-no-tensors": v3(),
        "v3-names-that-share-their-start": v3(*many, network="net", data="digits"),
        "v3-names-whole-in-a-deflated-header": v3(*many, flags=DEFLATED),
        "v3-names-odd": v3(*(raw(name, [7], U8) for name in ("é", "è", "x" * 512, "x" * 511, "a b", "\u0378"))),
        "v3-checksums": v3(*many, wide, copy("again", wide, 60), flags=CHECKED),
        "v3-deflated-with-checksums": v3(wide, copy("again", wide, 0), flags=DEFLATED | CHECKED),
        "v3-extensions-optional": v3(wide, extensions=[(0, "new", b"later"), (0, "", b"")]),
        "v3-dtypes-below-and-above-15": v3(*(raw(f"t{n}", [0, 1], n) for n in (13, 14, 15, 16, 21))),
    }


def dtypes() -> dict[str, File]:
    """Section 13: every dtype in the plain layouts, and those that have weights in layouts 2 and 5."""
    rng = np.random.default_rng(3)
    out = {}
    for dtype, name in enumerate(DTYPES):
        if dtype >= 10:
            values = rng.integers(0, 256, 6 * SIZES[dtype], np.uint8).view(STORES[dtype]).reshape(2, 3)
            tensors = raw("raw", values, dtype), planes("planes", np.ones(400), dtype), same("same", 1, (5,), dtype)
            out[f"v3-{name}"] = v3(*tensors, flags=DEFLATED)
    for dtype in (E4M3, E5M2, E4M3Z, E5M2Z):
        book = entries([0x80, 0x38, 0xB8, 0x7E], dtype)
        thin, thick = spread((40, 30), book.entries, 9, "|u1"), spread((20, 30), book.entries, 2, "|u1")
        out[f"v3-weights-of-{DTYPES[dtype]}"] = v3(
            coded("coded", thin, book, 3, dtype=dtype, version=3),
            adaptive("adaptive", thick, book.of(0), dtype=dtype),
            coded("literal", thin, entries([], dtype), 3, (HUFFMAN, LITERAL), dtype, 3),
        )
    return out


def layouts() -> dict[str, File]:
    """Sections 13 and 14: rows, copies, and the layouts of version 2."""
    halves = np.arange(1, 33, dtype="<f4").reshape(4, 8)
    embed = np.concatenate([np.full((3, 8), 0.5, "<f4"), halves, np.full((2, 8), -1, "<f4")])
    wide = np.random.default_rng(4).normal(size=(40, 6)).astype("<f4")
    wide[::3] = wide[::3, :1]
    mixed = rows("rows", embed, [0, 0, 0, 3, 1, 3, 1, 0, 0])
    book = grid(0.25, [-4, -1, 2], 3)
    weight = spread((20, 9), book.entries.view("<f4"), 3)
    first = adaptive("first", weight, book)
    return {
        "v3-rows": v3(mixed),
        "v3-rows-all-constant": v3(rows("w", np.repeat(halves[:, :1], 50, 1), [0] * 4)),
        "v3-rows-none-constant": v3(rows("w", wide.repeat(9, 1), [1] * 40)),
        "v3-rows-of-all-kinds": v3(rows("w", np.arange(1600).reshape(16, 100) // 100, list(range(16)))),
        "v3-rows-of-one-element": v3(rows("w", np.arange(64).reshape(64, 1) % 2, [0] * 64, F64)),
        "v3-rows-of-rank-4": v3(rows("w", np.ones((5, 4, 3, 9)), [0, 7, 0, 0, 15])),
        "v3-rows-of-bytes": v3(rows("w", np.arange(400).reshape(4, 100) % 4, [2, 2, 4, 2], U8)),
        "v3-rows-many": v3(rows("w", wide.repeat(5, 1), [0 if n % 3 == 0 else 1 for n in range(40)])),
        "v3-copy": v3(mixed, copy("equal", mixed, 0), raw("w", [1.0]), copy("w2", raw("w", [1.0]), 2)),
        "v3-alias-of-a-copy": v3(mixed, copy("equal", mixed, 0), alias("tied", mixed, 1), alias("first", mixed, 0)),
        "v3-copy-of-an-adaptive-tensor": v3(
            first, copy("second", first, 0), coded("third", weight, book.of(0), 2, version=3)
        ),
        "v3-layouts-of-version-2": v3(
            first,
            same("bias", 0.5, (9,)),
            planes("p", np.float32([0.5] * 60)),
            coded("c", spread((9, 9), FEW, 2), entries(FEW), version=3),
            raw("r", [1.0]),
            raw("scalar", 7, F32),
        ),
    }
