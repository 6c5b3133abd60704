"""Files that break sections 17 to 19, one rule each: name -> (section, bytes). All checksums are right."""

from __future__ import annotations

from typing import Any

import numpy as np
from breaks1 import Broken
from breaks3 import file
from cases_ranks import FIVE, drawn
from craft import (
    ADAPTIVE,
    CODED,
    DTYPES,
    F16,
    F32,
    F64,
    HUFFMAN,
    Tensor,
    alias,
    coded,
    copy,
    entries,
    plane,
    raw,
    spread,
    varint,
)
from ranks import (
    GAPS,
    LONGEST,
    RANKED,
    Model,
    Neighbour,
    Step,
    Wrong,
    coded_numbers,
    multiples,
    ranked,
)

SHAPE = (12, 20)
RANKS, NUMBERS, FEW = drawn(SHAPE, -2, 3), drawn(SHAPE, -9, 9), drawn(SHAPE, -2, 3, 9)
NEAR = Model(neighbours=(Neighbour(0, 1, 8, 12), Neighbour(1, 0, 8, 12)))
HUGE = varint((1 << 63) - 1)


def one(model: Model | None = None, numbers: Any = RANKS, **wrong: bytes) -> bytes:
    """A file of one tensor of ranks, with parts replaced (`_` in their names for a space)."""
    return file(ranked("w", numbers, FIVE, model, wrong={part.replace("_", " "): b for part, b in wrong.items()}))


def files() -> Broken:
    """Every case by its name."""
    by_section = {
        10: forms(),
        13: {"ranks-with-flags": _flags()},
        17: records() | books() | owners() | scales(),
        18: models() | classes() | neighbours() | tables(),
        19: streams() | gaps(),
    }
    return {f"s{n}-{name}": (n, data) for n, found in by_section.items() for name, data in found.items()}


def _flags() -> bytes:
    w = ranked("w", RANKS, FIVE)
    return file(Tensor("w", F32, SHAPE, RANKED, w.fields, w.section, w.raw, flags=1))


# Section 17 ------------------------------------------------------------------------------------------------


def forms() -> dict[str, bytes]:
    """Section 10: form 5 is for layout 8 only, and nobody shares scales."""
    scaled = multiples("m", NUMBERS, 0.5, [0] * 12)
    stored = multiples("w", NUMBERS, 0.5, [0] * 12).section[:7]
    indices, owner = b"\1\0\2\0\1", varint(0) + varint(8)
    return {
        "form-5-of-layout-2": file(Tensor("w", F32, (9,), CODED, b"\0\5\1\2\7\0\0\1\0\0", stored)),
        "form-5-of-layout-5": file(Tensor("w", F32, (9,), ADAPTIVE, b"\0\5\1\2\7\0\0", stored)),
        "owner-of-layout-2-has-scales": file(scaled, Tensor("w", F32, (9,), CODED, owner + indices, b"\0")),
        "owner-of-layout-5-has-scales": file(scaled, Tensor("w", F32, (9,), ADAPTIVE, owner + b"\0\0")),
    }


def records() -> dict[str, bytes]:
    """Shapes, dtypes and lengths of layout 8."""

    def of(shape: tuple[int, ...], dtype: int = F32) -> bytes:
        w = ranked("w", np.zeros((12, 20), int), entries([]))
        return file(Tensor("w", dtype, shape, RANKED, w.fields, w.section))

    model, payload = coded_numbers(RANKS, SHAPE, Model(), {})
    size, lengths = len(FIVE.stored), (len(model), len(payload))

    def sized(model_length: bytes, stream_length: bytes) -> bytes:
        n = varint(int(np.count_nonzero(RANKS)))
        fields = FIVE.fields(3) + n + model_length + stream_length
        return file(Tensor("w", F32, SHAPE, RANKED, fields, FIVE.stored + model + payload))

    names = ("int8", "uint8", "bool", "int32", "float8_e8m0fnu", "float4_e2m1fn_x2", "uint16", "complex64")
    long = ranked("w", np.zeros((1, 4), int), entries([]))
    assert len(long.section) > 16
    assert size + sum(lengths) < 960
    return {f"ranks-of-{name}": of((12, 20), DTYPES.index(name)) for name in names} | {
        "ranks-of-no-rows": of((0, 20)),
        "ranks-of-no-columns": of((12, 0)),
        "ranks-longer-than-raw": file(Tensor("w", F32, (1, 4), RANKED, long.fields, long.section)),
        "ranks-model-length-huge": sized(HUGE, varint(lengths[1])),
        "ranks-streams-length-huge": sized(varint(lengths[0]), HUGE),
        "ranks-lengths-huge": sized(HUGE, HUGE),
        "ranks-lengths-missing": file(Tensor("w", F32, SHAPE, RANKED, FIVE.fields(3) + b"\0")),
        "ranks-n-above-the-elements": one(n=varint(241)),
        "ranks-n-huge": one(n=HUGE),
        "ranks-n-too-small": one(n=varint(int(np.count_nonzero(RANKS)) - 1)),
        "ranks-n-too-large": one(n=varint(int(np.count_nonzero(RANKS)) + 1)),
        "ranks-n-0-but-weights": one(n=b"\0"),
        "ranks-n-too-large-in-gaps": one(Model(GAPS), FEW, n=varint(int(np.count_nonzero(FEW)) + 1)),
        "ranks-n-too-small-in-gaps": one(Model(GAPS), FEW, n=varint(int(np.count_nonzero(FEW)) - 1)),
    }


def books() -> dict[str, bytes]:
    """Codebooks, and ranks that have no entry."""
    none = np.zeros(SHAPE, int)
    below, above = RANKS.copy(), RANKS.copy()
    below[5, 5], above[5, 5] = -3, 4
    few = FEW.copy()
    few[11, 19] = 4

    def stored(values: Any) -> bytes:
        return file(ranked("w", RANKS, entries(values)))

    return {
        "ranks-form-6": one(codebook=b"\5\6"),
        "ranks-form-7": one(codebook=b"\5\7"),
        "ranks-k-4097": one(codebook=varint(4097) + b"\0"),
        "ranks-codebook-with-a-zero": stored([0.5, -1, 2, -3, 0.0]),
        "ranks-codebook-with-a-value-twice": stored([0.5, -1, 2, -3, 0.5]),
        "ranks-weights-without-a-codebook": file(ranked("w", none, entries([]), wrong={"n": b"\1"})),
        "ranks-below-the-lowest": one(numbers=below),
        "ranks-above-the-highest": one(numbers=above),
        "ranks-above-the-highest-in-gaps": one(Model(GAPS), few),
        "ranks-below-0-of-a-positive-codebook": file(ranked("w", RANKS, entries([1, 2, 3]))),
        "ranks-above-0-of-a-negative-codebook": file(ranked("w", RANKS, entries([-1, -2, -3]))),
    }


def owners() -> dict[str, bytes]:
    """Codebooks of tensors that have none to give."""
    first, half = ranked("first", RANKS, FIVE), entries([0.5, -1, 2, -3, 0.25], F16)
    second, own = ranked("second", RANKS, FIVE.of(0)), ranked("w", RANKS, FIVE)

    def of(number: int, *others: Tensor, size: int = 5) -> bytes:
        codebook = varint(size) + varint(8 + number)
        return file(*others, ranked("w", RANKS, FIVE.of(number), wrong={"codebook": codebook}))

    thin = spread(SHAPE, [-3, -1, 0.25, 0.5, 2], 5)
    return {
        "ranks-owner-is-itself": of(0),
        "ranks-owner-is-later": file(ranked("v", RANKS, FIVE.of(1)), own),
        "ranks-owner-is-not-there": of(7),
        "ranks-owner-number-huge": file(ranked("w", RANKS, FIVE.of(0), wrong={"codebook": b"\5" + HUGE})),
        "ranks-owner-is-raw": of(0, raw("first", thin)),
        "ranks-owner-is-an-alias": of(1, first, alias("tied", first, 0)),
        "ranks-owner-is-a-copy": of(1, first, copy("equal", first, 0)),
        "ranks-owner-shares-its-codebook": of(1, first, second),
        "ranks-owner-of-another-dtype": of(0, ranked("first", RANKS, half, dtype=F16)),
        "ranks-owner-of-another-size": of(0, coded("first", thin[:6], entries([-3, -1, 0.25, 0.5, 2, 9]), version=3)),
        "ranks-owner-has-scales": file(
            multiples("first", NUMBERS, 0.5, [0] * 12),
            ranked("w", np.zeros(SHAPE, int), entries([]), wrong={"codebook": varint(0) + varint(8)}),
        ),
    }


def scales() -> dict[str, bytes]:
    """Form 5."""

    def of(numbers: Any = NUMBERS, scale: float = 0.01, exponents: Any = (3,) * 12, **more: Any) -> bytes:
        return file(multiples("w", numbers, scale, exponents, **more))

    def stored(content: bytes, length: bytes | None = None) -> bytes:
        length = varint(len(content)) if length is None else length
        return of(wrong={"stored": content, "codebook": b"\0\5" + varint(17) + varint(18) + length})

    def ends(low: int, high: int) -> bytes:
        return b"\0\5" + varint(2 * low if low >= 0 else -2 * low - 1) + varint(2 * high) + varint(7)

    start, good = np.float32(0.5).tobytes(), plane(np.full(12, 3), 256)
    largest = float(np.finfo("<f4").max)
    none = np.zeros(SHAPE, int)
    assert stored(start + good) == of(scale=0.5)
    return {
        "scales-of-float64": of(dtype=F64),
        "scales-of-float16": of(dtype=F16),
        "scales-of-rank-1": of(NUMBERS.reshape(-1), exponents=(3,)),
        "scales-with-a-codebook-size": of(wrong={"codebook": b"\1" + ends(-9, 9)[1:]}),
        "scales-lowest-above-highest": of(none, wrong={"codebook": ends(1, 0)}),
        "scales-lowest-beyond": of(wrong={"codebook": ends(-LONGEST - 1, 9)}),
        "scales-highest-beyond": of(wrong={"codebook": ends(-9, LONGEST + 1)}),
        "scales-ends-huge": of(wrong={"codebook": b"\0\5" + HUGE + HUGE + b"\7"}),
        "scales-number-below-the-lowest": of(ends=(-8, 9)),
        "scales-number-above-the-highest": of(ends=(-9, 8)),
        "scales-zero-below-the-lowest": of(ends=(1, 9), numbers=abs(NUMBERS)),
        "scales-number-above-the-highest-in-gaps": of(FEW, ends=(-2, 2), model=Model(GAPS)),
        "scales-without-bytes": stored(b""),
        "scales-cut-in-the-scale": stored(start[:3]),
        "scales-without-exponents": stored(start),
        "scales-exponents-cut": stored(start + good[:-1]),
        "scales-exponents-too-few": stored(start + b"\2\13" + bytes(11)),
        "scales-exponents-too-many": stored(start + b"\2\15" + bytes(13)),
        "scales-exponent-256": stored(start + b"\1\2\x80\2"),
        "scales-exponents-literal": stored(start + b"\4\14" + bytes(12)),
        "scales-exponents-without-a-coder": stored(start + b"\0\0"),
        "scales-byte-behind": stored(start + good + b"\0"),
        "scales-length-huge": stored(start + good, HUGE),
        "scales-scale-0": of(scale=0),
        "scales-scale-minus-0": of(scale=-0.0),
        "scales-scale-negative": of(scale=-0.01),
        "scales-scale-nan": of(scale=np.nan),
        "scales-scale-infinite": of(scale=np.inf),
        "scales-scale-subnormal": of(scale=2.0**-127),
        "scales-product-infinite": of(scale=largest / 8.5, exponents=(0,) * 12),
        "scales-product-infinite-in-one-row": of(scale=2.0**62, exponents=(0,) * 11 + (252,)),
        "scales-product-infinite-of-the-lowest": of(-abs(NUMBERS), largest / 8.5, (0,) * 12, ends=(-9, 1)),
        "scales-product-infinite-of-an-end-that-no-number-has": of(scale=largest / 10, ends=(-9, 900)),
        "scales-step-infinite-though-all-are-0": of(none, largest, (3,) * 12, ends=(0, 0)),
    }


# Section 18 ------------------------------------------------------------------------------------------------


def models() -> dict[str, bytes]:
    """The first fields of a model, and its end."""
    model = coded_numbers(RANKS, SHAPE, Model(), {})[0]

    def cut(length: int) -> bytes:
        w = ranked("w", RANKS, FIVE)
        n = varint(int(np.count_nonzero(RANKS)))
        streams = w.section[len(FIVE.stored) + len(model) :]
        fields = FIVE.fields(3) + n + varint(length) + varint(len(streams))
        return file(Tensor("w", F32, SHAPE, RANKED, fields, FIVE.stored + model[:length] + streams))

    return {
        "model-mode-2": one(mode=b"\2"),
        "model-mode-255": one(mode=b"\xff"),
        "model-no-rows-of-a-stream": one(stream_rows=b"\0"),
        "model-more-rows-of-a-stream": one(stream_rows=varint(13)),
        "model-rows-of-a-stream-huge": one(stream_rows=HUGE),
        "model-rows-of-a-stream-not-shortest": one(stream_rows=b"\x8c\0"),
        "model-lanes-512": one(lanes=b"\x54"),
        "model-lanes-512-down": one(lanes=b"\x90"),
        "model-lanes-512-across": one(lanes=b"\x09"),
        "model-lanes-2-30": one(lanes=b"\xff"),
        "model-base-257": one(base=varint(513)),
        "model-base-huge": one(base=HUGE),
        "model-byte-behind": one(model_end=b"\0"),
        "model-empty": cut(0),
        "model-cut-behind-the-mode": cut(1),
        "model-cut-before-the-tables": cut(9),
        "model-cut-in-the-levels": cut(len(model) - 1),
    }


def classes() -> dict[str, bytes]:
    """Classes of rows, planes and places."""
    found = {}
    for part, count in (("row", 12), ("plane", 1), ("place", 20)):
        wrong = {
            "flag-2": b"\2" + plane(np.zeros(count, int), 64),
            "flag-255": b"\xff",
            "one-is-64": b"\1\1\1\x40",
            "literal": b"\1\4" + varint(count) + bytes(count),
            "without-a-coder": b"\1\0\0",
            "too-few": b"\1\2" + varint(-(-6 * count // 8) - 1) + bytes(-(-6 * count // 8) - 1),
            "too-many": b"\1\2" + varint(-(-6 * count // 8) + 1) + bytes(-(-6 * count // 8) + 1),
            "length-huge": b"\1\2" + HUGE,
        }
        found |= {f"classes-of-{part}s-{name}": one(**{f"{part}_classes": value}) for name, value in wrong.items()}
    return found


def neighbours() -> dict[str, bytes]:
    """Neighbours."""

    def of(*found: bytes, **more: bytes) -> bytes:
        return one(NEAR, neighbours=bytes([len(found)]) + b"".join(found), **more)

    good = b"\0\1\x08\x0c"
    assert of(good, b"\1\0\x08\x0c") == one(NEAR)
    return {
        "neighbours-5": of(*[good] * 5),
        "neighbours-100": one(NEAR, neighbours=b"\x64" + good * 100),
        "neighbours-with-gaps": one(Model(GAPS), FEW, neighbours=b"\1" + good, own=b"\x20"),
        "neighbour-that-is-itself": of(good, b"\0\0\x08\x0c"),
        "neighbour-beyond-the-rows": of(good, varint(13) + b"\0\x08\x0c"),
        "neighbour-beyond-the-columns": of(good, b"\0" + varint(21) + b"\x08\x0c"),
        "neighbour-huge-up": of(good, HUGE + b"\0\x08\x0c"),
        "neighbour-huge-left": of(good, b"\0" + HUGE + b"\x08\x0c"),
        "neighbour-not-shortest": of(good, b"\x81\0\0\x08\x0c"),
    }


def tables() -> dict[str, bytes]:
    """Tables, contexts and levels."""

    def levels(*found: int, **more: Any) -> bytes:
        return one(levels=plane(np.array(found), 64, 2), **more)

    two = Model(tables=2, levels=[[9] * 7] * 2)
    good = [9] * 7
    return {
        "tables-0": one(tables=b"\0"),
        "tables-65": one(tables=b"\x41", levels=plane(np.array(good + [0] * 7 * 64), 64)),
        "tables-255": one(tables=b"\xff", levels=plane(np.array(good + [0] * 7 * 254), 64)),
        "tokens-0": one(tokens=b"\0"),
        "tokens-120": one(tokens=b"\x78", levels=plane(np.array(good + [0] * 113), 64)),
        "contexts-table-that-is-not-there": one(contexts=plane(np.array([1] + [0] * 31), 64)),
        "contexts-all-of-a-table-that-is-not-there": one(contexts=b"\1\1\1"),
        "contexts-last-of-a-table-that-is-not-there": one(two, contexts=plane(np.array([1] * 31 + [2]), 64)),
        "contexts-symbol-64": one(contexts=b"\1\1\x40"),
        "contexts-of-the-width-of-the-tables": one(two, contexts=b"\2\4\0\0\xff\xff"),
        "contexts-128-without-neighbours": one(contexts=plane(np.zeros(128, int), 64, 2)),
        "contexts-32-with-neighbours": one(NEAR, contexts=plane(np.zeros(32, int), 64, 2)),
        "contexts-32-with-gaps": one(Model(GAPS), FEW, contexts=plane(np.zeros(32, int), 64, 2)),
        "contexts-without-a-coder": one(contexts=b"\0\0"),
        "contexts-literal": one(contexts=b"\4\x20" + bytes(32)),
        "level-50": levels(50, *good[1:]),
        "level-63": levels(*good[1:], 63),
        "level-50-by-its-difference": one(two, levels=plane(np.array(good + [0] * 6 + [41]), 64, 2)),
        "level-below-0-by-its-difference": one(two, levels=plane(np.array(good + [0] * 6 + [64 - 10]), 64, 2)),
        "levels-all-0": levels(*[0] * 7),
        "levels-all-0-of-a-table-that-nothing-uses": one(two, levels=plane(np.array(good + [55] * 7), 64, 2)),
        "levels-symbol-64": one(levels=b"\1\1\x40"),
        "levels-too-few": levels(*good[1:]),
        "levels-too-many": levels(*good, *good),
        "levels-padding": one(levels=b"\2\6" + plane(np.array(good), 64, 2)[2:-1] + b"\x7f"),
        "levels-without-a-coder": one(levels=b"\0\0"),
        "levels-huffman-without-a-stream": one(levels=plane(np.array([0] * 6 + [9]), 64, HUFFMAN)[:4]),
        "levels-length-huge": one(levels=b"\2" + HUGE),
    }


# Section 19 ------------------------------------------------------------------------------------------------


def streams() -> dict[str, bytes]:
    """States, words, and the lengths of several streams."""
    payload = coded_numbers(RANKS, SHAPE, Model(), {})[1]
    lanes, parts = Model(lanes=(0, 2)), Model(stream_rows=5)
    across, several = (coded_numbers(RANKS, SHAPE, model, {})[1] for model in (lanes, parts))
    low, idle = (0xFFFF).to_bytes(4, "little"), Model(lanes=(4, 0))
    empty = coded_numbers(RANKS, SHAPE, idle, {})[1]
    at = 4 * 15  # the last of 16 lanes down has none of 12 rows
    assert empty[at : at + 4] == b"\0\0\1\0"
    assert len(payload) % 2 == 0
    return {
        "streams-without-bytes": one(streams=b""),
        "streams-cut-in-the-states": one(lanes, streams=across[:15]),
        "streams-without-words": one(streams=payload[:4]),
        "streams-a-word-missing": one(streams=payload[:-2]),
        "streams-a-word-more": one(streams=payload + b"\0\0"),
        "streams-half-a-word-missing": one(streams=payload[:-1]),
        "streams-half-a-word-more": one(streams=payload + b"\0"),
        "streams-state-below-2-16": one(streams=low + payload[4:]),
        "streams-state-0": one(streams=bytes(4) + payload[4:]),
        "streams-state-of-the-last-lane-0": one(lanes, streams=across[:12] + bytes(4) + across[16:]),
        "streams-state-of-an-empty-lane-too-small": one(idle, streams=empty[:at] + low + empty[at + 4 :]),
        "streams-state-of-an-empty-lane-too-large": one(idle, streams=empty[:at] + b"\1\0\1\0" + empty[at + 4 :]),
        "streams-last-word-changed": one(streams=payload[:-1] + bytes([payload[-1] ^ 1])),
        "streams-one-with-a-length": one(streams=varint(len(payload)) + payload),
        "streams-several-without-lengths": one(parts, streams=payload),
        "streams-one-too-few": one(parts, streams=several[: 1 + several[0] + 1 + several[1 + several[0]]]),
        "streams-one-too-many": one(parts, streams=several + b"\4\0\0\1\0"),
        "streams-length-too-large": one(parts, streams=several[:-10]),
        "streams-length-huge": one(parts, streams=HUGE + several[1:]),
        "streams-length-not-shortest": one(parts, streams=bytes([several[0] | 128, 0]) + several[1:]),
        "streams-length-shifted": one(parts, streams=bytes([several[0] + 2]) + several[1:]),
        "streams-length-0": one(parts, streams=b"\0" + several[1:]),
        "streams-of-fewer-rows": one(parts, stream_rows=varint(6)),
        "streams-lanes-that-are-not-there": one(Model(), lanes=b"\x10"),
    }


def gaps() -> dict[str, bytes]:
    """Gaps and weights that lead somewhere else."""

    def of(*found: tuple[int, int] | tuple[int, int, int], n: int, size: int = 90, lane: int = 0) -> bytes:
        """Each is a context and a token, or (−1, how many extra bits, these)."""
        steps = [Step(lane, None, kind, more[0]) if at < 0 else Step(lane, at, kind) for at, kind, *more in found]
        wrong: Wrong = {"n": varint(n)}
        return file(ranked("w", np.zeros(size, int), FIVE, Model(GAPS, tables=2), wrong=wrong, script=[steps]))

    gap, weight, extra = 0, 32, -1
    far = (gap, 59), (extra, 12, 4095)  # a gap of 32767
    return {
        "gaps-gap-of-token-60": of((gap, 60), (extra, 13, 0), n=0, size=90_000),
        "gaps-gap-of-token-118": of((gap, 118), n=0),
        "gaps-beyond-the-end": of((gap, 3), (weight, 2), (gap, 29), (extra, 1, 1), n=1, size=40),
        "gaps-beyond-the-end-by-extra-bits": of((gap, 24), (extra, 4, 15), (gap, 39), (extra, 7, 127), n=0, size=400),
        "gaps-beyond-the-end-by-1": of((gap, 15), (weight, 2), (gap, 8), n=1, size=23),
        "gaps-beyond-the-end-by-32767": of(*far, *far, n=0, size=40_000),
        "gaps-weight-of-0": of((gap, 3), (weight, 0), (gap, 5), (weight, 2), (gap, 10), n=1, size=20),
        "gaps-end-before-the-end": one(Model(GAPS), FEW, streams=coded_numbers(FEW[:9], (9, 20), Model(GAPS), {})[1]),
    }
