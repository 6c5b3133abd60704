"""Valid files of layout 8 (sections 17 to 19), one property each: `files()` gives them by the name that says which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import craft
import numpy as np
from cases3 import v3
from craft import (
    BF16,
    CHECKED,
    CONSTANT,
    DEFLATED,
    DTYPES,
    E4M3,
    E4M3Z,
    E5M2,
    E5M2Z,
    F16,
    F32,
    F64,
    FIXED,
    HUFFMAN,
    File,
    adaptive,
    alias,
    coded,
    copy,
    entries,
    grid,
    halves,
    raw,
    spread,
)
from ranks import GAPS, LONGEST, TOKENS, Model, Neighbour, multiples, ranked

FIVE = entries([0.5, -1, 2, -3, 0.25])  # 2 of them negative: ranks from -2 to 3
LEFT, ABOVE = Neighbour(0, 1, 8, 12), Neighbour(1, 0, 8, 12)
SOME = [(3 * n + n // 4) % 5 for n in range(200)]  # classes


def drawn(shape: tuple[int, ...], low: int, high: int, every: int = 1) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Numbers from `low` to `high` at about one of `every` places, and 0 elsewhere."""
    draws = np.arange(np.prod(shape, dtype=int), dtype=np.uint64) * 2_654_435_761 % (1 << 32) >> np.uint64(7)
    numbers = (draws // np.uint64(every) % np.uint64(high - low + 1)).astype(np.int64) + low
    return np.where(draws % np.uint64(every) == 0, numbers, 0).reshape(shape)


def smooth(shape: tuple[int, ...], most: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Numbers that are near to those on their left."""
    return np.cumsum(drawn(shape, -most // 20, most // 20), -1).clip(-most, most)


def files() -> dict[str, File]:
    """Every case by its name."""
    made = books() | shapes() | contexts() | tables() | lanes() | gaps() | scales()
    return made | {"v3-example-of-section-20": example()}


def example() -> File:
    """The file of section 20, which is there byte by byte."""
    ranks = np.zeros((4, 8), int)
    ranks[[0, 0, 0, 1, 1, 2, 2, 3, 3], [2, 3, 6, 2, 5, 1, 2, 0, 6]] = [1, 1, 2, 1, -1, 1, 1, -1, 1]
    numbers = np.zeros((4, 16), int)
    numbers[[0, 2, 2, 3], [5, 1, 2, 9]] = [3, -20, 1, -1]
    near = Model(
        lanes=(0, 1),
        neighbours=(Neighbour(0, 1, 16, 8),),
        own=4,
        tables=2,
        contexts=[0] * 24 + [1] * 104,
        levels=[[13, 7, 7, 0, 1], [9, 9, 9, 0, 5]],
    )
    w = ranked("w", ranks, halves([-1, 0.5, 1]), near)
    return v3(w, multiples("m", numbers, 0.25, [0, 0, 4, 0], Model(GAPS, tables=2)))


def books() -> dict[str, File]:
    """Section 17: the ranks of each kind of codebook."""

    def one(book: craft.Book, dtype: int = F32) -> File:
        negative = sum(int(entry) >> (8 * book.entries.dtype.itemsize - 1) for entry in book.entries)
        ranks = drawn((30, 20), -negative, len(book.entries) - negative)
        return v3(ranked("w", ranks, book, dtype=dtype))

    odd = entries([-0.0, -1, 5, 0.25, -7, np.nan, 2, -np.inf])
    ranks, few = drawn((20, 15), -2, 3), drawn((20, 15), -2, 3, 9)
    values = np.array([-3, -1, 0, 0.25, 0.5, 2], "<f4")[ranks + 2]
    thin = np.where(few == 0, np.float32(0), np.array([-3, -1, 0, 0.25, 0.5, 2], "<f4")[few + 2])
    return {
        "v3-ranks-book-entries": one(FIVE),
        "v3-ranks-book-with-nan-and-minus-zero": one(odd),
        "v3-ranks-book-halves": one(halves([-1.5, 0.5, 7.375, 65504, 6e-8, -0.0])),
        "v3-ranks-book-grid-float32": one(grid(0.1, [-3, -2, -1, 1, 2, 3])),
        "v3-ranks-book-grid-float16": one(grid(0.25, [-4, -1, 2], 3)),
        "v3-ranks-book-grid-bfloat16": one(grid(2.0**-40, [-4, -1, 2], 4)),
        "v3-ranks-book-only-negative": one(entries([-1, -2, -3])),
        "v3-ranks-book-only-positive": one(entries([3, 2, 1])),
        "v3-ranks-book-of-400": v3(ranked("w", drawn((40, 30), -150, 250), entries([*range(-150, 0), *range(1, 251)]))),
        "v3-ranks-of-float16": one(entries([0.5, -1, 3], F16), F16),
        "v3-ranks-of-bfloat16": one(entries([0x3F80, 0xBF80], BF16), BF16),
        "v3-ranks-of-float64": one(entries([0.5, -1, 3], F64), F64),
        **{
            f"v3-ranks-of-{DTYPES[dtype]}": one(entries([0x80, 0x38, 0xB8, 0x7E], dtype), dtype)
            for dtype in (E4M3, E5M2, E4M3Z, E5M2Z)
        },
        "v3-ranks-no-weights": v3(
            ranked("of none", np.zeros((8, 9), int), entries([])),
            ranked("of five", np.zeros((8, 9), int), FIVE),
            ranked("gaps", np.zeros((8, 9), int), FIVE, Model(GAPS)),
        ),
        "v3-ranks-some-entries-unused": v3(ranked("w", drawn((20, 20), 0, 1), FIVE)),
        "v3-ranks-book-of-layout-2": v3(
            coded("a", thin, FIVE, 2, version=3), ranked("b", ranks, FIVE.of(0)), ranked("c", few, FIVE.of(0))
        ),
        "v3-ranks-book-of-layout-5": v3(adaptive("a", values, FIVE), ranked("b", ranks, FIVE.of(0))),
        "v3-ranks-book-of-layout-8": v3(
            raw("first", [1.0]), ranked("a", ranks, FIVE), ranked("b", few, FIVE.of(1), Model(GAPS))
        ),
        "v3-ranks-book-for-layouts-2-and-5": v3(
            ranked("a", ranks, FIVE), coded("b", thin, FIVE.of(0), 2, version=3), adaptive("c", values, FIVE.of(0))
        ),
    }


def shapes() -> dict[str, File]:
    """Section 18: the matrix of any shape, and classes of its rows, planes and places."""

    def one(shape: tuple[int, ...], model: Model, every: int = 1) -> File:
        return v3(ranked("w", drawn(shape, -2, 3, every), FIVE, model))

    wide = {"rows": SOME[:6], "planes": SOME[9:14], "places": SOME[20:32], "tables": 6}
    w = ranked("w", drawn((12, 9), -2, 3), FIVE)
    return {
        "v3-ranks-rank-1": one((90,), Model()),
        "v3-ranks-rank-1-classes-of-places": one((90,), Model(places=SOME[:90], tables=3)),
        "v3-ranks-rank-1-many": one((5000,), Model(lanes=(0, 4)), 3),
        "v3-ranks-rank-2": one((12, 9), Model(rows=SOME[:12], places=SOME[5:14], tables=4)),
        "v3-ranks-rank-2-class-of-the-one-plane": one((12, 9), Model(planes=[7], places=SOME[:9], tables=4)),
        "v3-ranks-rank-3": one((6, 5, 12), Model(**wide)),
        "v3-ranks-rank-4": one((6, 5, 3, 4), Model(**wide)),
        "v3-ranks-rank-5": one((6, 5, 3, 2, 2), Model(**wide)),
        "v3-ranks-one-row": one((1, 90), Model(rows=[3], tables=4)),
        "v3-ranks-one-column": one((90, 1), Model(rows=SOME[:90], tables=4)),
        "v3-ranks-one-place": one((9, 10, 1, 1), Model(planes=SOME[:10], places=[1], tables=4)),
        "v3-ranks-classes-of-rows": one((12, 9), Model(rows=SOME[:12], tables=4)),
        "v3-ranks-classes-of-planes": one((4, 9, 4), Model(planes=SOME[:9], tables=4)),
        "v3-ranks-classes-of-places": one((4, 9, 4), Model(places=SOME[:4], tables=4)),
        "v3-ranks-classes-that-are-0": one((4, 9, 4), Model(rows=[0] * 4, planes=[0] * 9, places=[0] * 4)),
        "v3-ranks-classes-up-to-63": one((4, 9, 4), Model(base=-100, rows=[63, 0, 40, 20], places=[63, 1, 50, 41])),
        "v3-ranks-classes-of-many-rows": v3(
            ranked("w", np.eye(1, 131_072, 77_777, dtype=int).T, FIVE, Model(GAPS, rows=np.arange(131_072) * 7 % 11))
        ),
        "v3-ranks-checksums": v3(w, copy("copy", w, 0), alias("tied", w, 0), flags=CHECKED),
        "v3-ranks-deflated-header": v3(w, copy("copy", w, 0), flags=DEFLATED),
    }


def contexts() -> dict[str, File]:
    """Section 18: scales, and neighbours."""
    ranks = drawn((30, 20), -2, 3)

    def near(*neighbours: Neighbour, **more: Any) -> File:
        numbers = smooth((24, 25), 90)
        numbers[::5] = -numbers[::5]
        return v3(multiples("w", numbers, 0.01, [0] * 24, Model(neighbours=neighbours, tables=8, **more)))

    corner = Neighbour(1, 1, -8, 4)
    return {
        "v3-ranks-base-lowest": v3(ranked("w", ranks, FIVE, Model(base=-256, tables=32))),
        "v3-ranks-base-highest": v3(ranked("w", ranks, FIVE, Model(base=256, tables=32))),
        "v3-ranks-scales-below-0-and-above-31": v3(
            ranked("w", ranks, FIVE, Model(base=-20, rows=[15, 35] * 15, places=[0, 30] * 10, tables=32))
        ),
        "v3-ranks-scales-all-32": v3(ranked("w", ranks, FIVE, Model(rows=range(30), places=[0, 3] * 10, tables=32))),
        "v3-neighbours-1-left": near(LEFT),
        "v3-neighbours-1-above": near(ABOVE),
        "v3-neighbours-2": near(LEFT, ABOVE),
        "v3-neighbours-3": near(LEFT, ABOVE, corner),
        "v3-neighbours-4": near(LEFT, ABOVE, corner, Neighbour(0, 2, 3, 0)),
        "v3-neighbours-twice-the-same": near(LEFT, LEFT),
        "v3-neighbours-far": near(Neighbour(24, 0, 9, 9), Neighbour(3, 25, 9, 9), Neighbour(23, 24, 9, 9)),
        "v3-neighbours-without-aim": near(Neighbour(0, 1, 0, 12), Neighbour(1, 0, 0, 12)),
        "v3-neighbours-without-size": near(Neighbour(0, 1, 9, 0)),
        "v3-neighbours-largest-parts": near(Neighbour(0, 1, 127, 255), Neighbour(1, 0, -128, 255), own=255),
        "v3-neighbours-own-0": near(LEFT, own=0),
        "v3-neighbours-nothing-expected": near(Neighbour(0, 1, 0, 0), own=0),
        "v3-neighbours-with-classes": near(LEFT, ABOVE, base=2, rows=SOME[:24], places=SOME[:25]),
        "v3-neighbours-in-lanes": near(LEFT, ABOVE, lanes=(2, 1)),
        "v3-neighbours-in-streams": near(LEFT, ABOVE, stream_rows=7),
        "v3-neighbours-in-the-plane-before": v3(
            ranked("w", drawn((9, 8, 3, 3), -2, 3), FIVE, Model(neighbours=(Neighbour(0, 9, 40, 40), ABOVE), tables=16))
        ),
        "v3-neighbours-of-large-numbers": v3(
            multiples(
                "w",
                drawn((20, 30), -LONGEST, LONGEST, 2),
                1e-3,
                [0] * 20,
                Model(neighbours=tuple(Neighbour(y, 2, -128, 255) for y in range(4)), own=255, base=31, tables=8),
            )
        ),
    }


def tables() -> dict[str, File]:
    """Section 18: levels and frequencies."""
    ranks, wide = drawn((30, 20), -2, 3), drawn((30, 60), -LONGEST, LONGEST)
    wide[:, :31] = np.arange(-15, 16)
    rows = Model(rows=range(30), tables=64, contexts=[(5 * n + 1) % 64 for n in range(32)])
    every = np.array([_of_token(which) for which in range(TOKENS)] * 5).reshape(35, 17)
    return {
        "v3-tables-64": v3(ranked("w", ranks, FIVE, rows)),
        "v3-tables-64-of-128-contexts": v3(
            ranked("w", ranks, FIVE, Model(neighbours=(LEFT, ABOVE), tables=64, contexts=[*range(64)] * 2))
        ),
        "v3-tables-some-unused": v3(ranked("w", ranks, FIVE, Model(base=9, tables=3, contexts=[1] * 32))),
        "v3-tokens-1": v3(ranked("w", np.zeros((9, 9), int), FIVE)),
        "v3-tokens-2": v3(ranked("w", -drawn((30, 20), 0, 1), FIVE)),
        "v3-tokens-119": v3(multiples("w", every, 0.5, [0] * 35)),
        "v3-tokens-119-of-which-few-occur": v3(ranked("w", ranks, FIVE, Model(tokens=TOKENS))),
        "v3-tokens-119-at-one-level": v3(multiples("w", every, 0.5, [0] * 35, Model(levels=[[1] * TOKENS]))),
        "v3-tokens-119-beside-one-that-has-nearly-all": v3(
            multiples("w", every[:, :3], 0.5, [0] * 35, Model(levels=[[49] + [1] * (TOKENS - 1)]))
        ),
        "v3-levels-highest": v3(ranked("w", ranks, FIVE, Model(levels=[[49, 48, 47, 46, 45, 44, 43]]))),
        "v3-levels-that-wrap": v3(
            ranked(
                "w", ranks, FIVE, Model(rows=[16 * (n % 2) for n in range(30)], levels=[[49] * 7, [1] * 7], tables=2)
            )
        ),
        "v3-levels-one-token": v3(ranked("w", np.full((9, 9), -2), FIVE, Model(levels=[[0, 0, 0, 7]]))),
        "v3-extra-bits": v3(multiples("w", wide, 1e-3, [0] * 30, Model(tables=2))),
        **{
            f"v3-planes-of-the-model-{name}": v3(
                ranked("w", ranks, FIVE, Model(levels=[[9] * 7] * 4, tables=4, coders=(coder, coder)))
            )
            for name, coder in (("fixed", FIXED), ("huffman", HUFFMAN))
        },
        "v3-planes-of-the-model-constant": v3(
            ranked("w", ranks, FIVE, Model(levels=[[9] * 7], coders=(CONSTANT, CONSTANT)))
        ),
    }


def _of_token(which: int) -> int:
    """The smallest number of a token, and some above it."""
    kind = (which + 1) // 2
    size = kind if kind < 16 else ((4 + kind % 4) << (kind - 8) // 4) + kind % 5
    return -size if which % 2 else size


def lanes() -> dict[str, File]:
    """Section 19: lanes and streams."""

    def one(shape: tuple[int, ...], d: int, a: int, mode: int = 0, rows: int = 0, dtype: int = F32) -> File:
        book = FIVE if dtype == F32 else entries([0.5, -1, 2, -3, 0.25], F64)
        ranks = drawn(shape, -2, 3, 6 if mode else 1)
        model = Model(mode, rows, (d, a), rows=SOME[: shape[0]] if len(shape) > 1 else None, tables=3)
        return v3(ranked("w", ranks, book, model, dtype))

    return {
        "v3-lanes-2-down": one((30, 20), 1, 0),
        "v3-lanes-2-across": one((30, 20), 0, 1),
        "v3-lanes-4-down-8-across": one((30, 20), 2, 3),
        "v3-lanes-uneven": one((29, 19), 2, 2),
        "v3-lanes-256-down": one((70, 12), 8, 0, dtype=F64),
        "v3-lanes-256-across": one((12, 70), 0, 8, dtype=F64),
        "v3-lanes-16-down-16-across": one((40, 40), 4, 4),
        "v3-lanes-some-empty-down": one((5, 40), 3, 0),
        "v3-lanes-some-empty-across": one((40, 5), 0, 3),
        "v3-lanes-most-empty": one((2, 50), 6, 0),
        "v3-lanes-of-gaps": one((30, 20), 2, 2, GAPS),
        "v3-lanes-of-gaps-uneven-and-empty": one((29, 19), 5, 2, GAPS),
        "v3-streams-2": one((30, 20), 0, 0, rows=15),
        "v3-streams-last-shorter": one((30, 20), 1, 1, rows=13),
        "v3-streams-of-1-row": one((30, 20), 0, 0, rows=1),
        "v3-streams-of-1-row-and-more-lanes": one((9, 90), 1, 1, rows=1),
        "v3-streams-of-gaps": one((30, 20), 1, 0, GAPS, rows=7),
    }


def gaps() -> dict[str, File]:
    """Sections 18 and 19: gaps."""

    def one(shape: tuple[int, ...], at: Sequence[int], model: Model | None = None) -> File:
        ranks = np.zeros(shape, int)
        ranks.reshape(-1)[list(at)] = [(-2, 3, 1, -1, 2)[n % 5] for n in range(len(at))]
        return v3(ranked("w", ranks, FIVE, model or Model(GAPS)))

    def drawn_with(shape: tuple[int, ...], model: Model) -> File:
        return v3(ranked("w", drawn(shape, -2, 3, 9), FIVE, model))

    wide = multiples("w", drawn((20, 30), -LONGEST, LONGEST, 7), 1e-3, [0] * 20, Model(GAPS))
    everywhere = {"rows": SOME[:30], "planes": SOME[4:9], "places": SOME[11:15]}
    return {
        "v3-gaps": drawn_with((30, 20), Model(GAPS)),
        "v3-gaps-weight-at-both-ends": one((90,), [0, 89]),
        "v3-gaps-all-weights": v3(ranked("w", drawn((12, 9), 1, 3), FIVE, Model(GAPS))),
        "v3-gaps-none-at-all": one((90,), []),
        "v3-gaps-32767-and-a-weight": one((40_000,), [LONGEST]),
        "v3-gaps-32767-after-a-weight": one((40_000,), [3, 4 + LONGEST, 39_999]),
        "v3-gaps-32767-twice": one((70_000,), [2 * LONGEST, 2 * LONGEST + 1]),
        "v3-gaps-32767-to-the-end": one((LONGEST + 5,), [4]),
        "v3-gaps-32767-twice-to-the-end": one((2 * LONGEST,), []),
        "v3-gaps-32766": one((40_000,), [LONGEST - 1]),
        "v3-gaps-of-every-class": one((70_000,), np.cumsum([_of_token(2 * n) + 1 for n in range(52)])),
        "v3-gaps-over-rows": one((9, 30), [40, 41, 200]),
        "v3-gaps-with-classes": drawn_with((30, 20), Model(GAPS, rows=SOME[:30], base=-1, tables=8)),
        "v3-gaps-through-columns-by-class": drawn_with((30, 20), Model(GAPS, places=SOME[:20], tables=8)),
        "v3-gaps-through-planes-and-places-by-class": drawn_with((30, 5, 4), Model(GAPS, **everywhere, tables=8)),
        "v3-gaps-through-columns-by-class-beyond-31": drawn_with(
            (30, 20), Model(GAPS, places=[40 + n % 3 for n in range(20)], tables=8)
        ),
        "v3-gaps-lanes-across-by-class": drawn_with((30, 5, 4), Model(GAPS, 0, (1, 2), **everywhere, tables=8)),
        "v3-gaps-lanes-that-end-at-other-times": one((8, 60), [3, 4, 5, 6, 7, 130, 400], Model(GAPS, lanes=(3, 0))),
        "v3-gaps-streams-of-lanes-by-class": drawn_with((30, 20), Model(GAPS, 7, (1, 1), places=SOME[:20], tables=8)),
        "v3-gaps-weights-with-extra-bits": v3(wide),
        "v3-gaps-tables-64": drawn_with((30, 20), Model(GAPS, tables=64, rows=SOME[:30])),
    }


def scales() -> dict[str, File]:
    """Section 17: multiples."""
    numbers, far = drawn((24, 20), -9, 9), drawn((24, 20), -LONGEST, LONGEST)

    def one(scale: float, exponents: Sequence[int], of: Any = numbers, **more: Any) -> File:
        return v3(multiples("w", of, scale, exponents, **more))

    return {
        "v3-multiples": one(0.01, [0] * 24),
        "v3-multiples-exponents": one(0.01, range(24)),
        "v3-multiples-exponents-fixed": one(0.01, SOME[:24], coder=FIXED),
        "v3-multiples-exponents-huffman": one(0.01, SOME[:24], coder=HUFFMAN),
        "v3-multiples-exponents-constant": one(0.01, [7] * 24, coder=CONSTANT),
        "v3-multiples-exponents-to-255": one(1e-9, range(71, 256, 8)[:24]),
        "v3-multiples-of-the-smallest-scale": one(2.0**-126, range(24)),
        "v3-multiples-to-the-largest-number": one(float(np.finfo("<f4").max / 9), [0] * 24),
        "v3-multiples-rounded": one(float(np.float32(1 / 3)), SOME[:24], far),
        "v3-multiples-ties-to-even": one(float(np.float32(1 + 2**-23)), [0, 4] * 12, far),
        "v3-multiples-ends-beyond-the-numbers": one(0.01, [0] * 24, ends=(-LONGEST, LONGEST)),
        "v3-multiples-only-positive": one(0.01, [0] * 24, drawn((24, 20), 3, 7)),
        "v3-multiples-only-negative": one(0.01, [0] * 24, drawn((24, 20), -7, -3)),
        "v3-multiples-of-one-number": one(0.01, range(24), np.full((24, 20), -5)),
        "v3-multiples-all-zero": one(0.01, [0] * 24, np.zeros((24, 20), int)),
        "v3-multiples-rank-4": one(0.01, SOME[:24], drawn((24, 5, 2, 2), -9, 9), model=Model(planes=SOME[:5])),
        "v3-multiples-gaps": one(0.01, SOME[:24], drawn((24, 20), -9, 9, 8), model=Model(GAPS)),
        "v3-multiples-beside-ranks": v3(
            multiples("a", numbers, 0.01, [0] * 24),
            ranked("b", drawn((20, 15), -2, 3), FIVE),
            coded("c", spread((9, 9), [0.5, -1], 2), entries([0.5, -1]), version=3),
        ),
    }
