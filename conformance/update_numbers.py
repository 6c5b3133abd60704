"""Updates of version 2, with the models of tensors of layout 8: valid ones, and records that break a rule.

The models are those of the suite's own encoder, which no release of the package would fit so.
"""

from __future__ import annotations

from typing import Any

import craft
import numpy as np
from cases3 import v3
from cases_ranks import ABOVE, FIVE, LEFT, SOME, drawn, smooth
from craft import File, Tensor, grid, halves, text, varint, zigzag
from ranks import GAPS, LONGEST, Model, Neighbour, coded_numbers, multiples, ranked

Array = np.ndarray[Any, np.dtype[Any]]
NEAR = Model(0, 9, (1, 2), neighbours=(LEFT, ABOVE), own=7, tables=3)
SPARSE = Model(GAPS, 13, (1, 1), base=2, rows=[n % 4 for n in range(30)], tables=2)


def later(numbers: Array, low: int, high: int, every: int = 9) -> Array:
    """Some of them are others: a step up or down, or 0 where they were not, or the other way round."""
    places = np.arange(numbers.size).reshape(numbers.shape)
    step = np.where(places % (2 * every) < every, 1, -1)
    moved = np.where(places % every == 0, np.clip(numbers + step, low, high), numbers)
    return np.where(places % (5 * every) == 3, np.where(numbers == 0, high, 0), moved)


def pairs() -> dict[str, tuple[File, File]]:
    """Old and new files by the name that says what the update must tell."""
    return {f"v2-{name}": files for name, files in (_ranks() | _multiples()).items()} | _others()


def _ranks() -> dict[str, tuple[File, File]]:
    """Those with a codebook."""
    old, sparse = drawn((30, 20), -2, 3, 2), drawn((30, 20), -2, 3, 9)
    new, few = later(old, -2, 3), later(sparse, -2, 3)
    values = np.array([-3, -1, 0, 0.25, 0.5, 2], "<f4")
    moved = craft.entries([0.51, -1.01, 2.02, -3.03, 0.26])
    six = craft.entries([0.5, -1, 2, -3, 0.25, 3])
    return {
        "ranks": _pair(ranked("w", old, FIVE, NEAR), ranked("w", new, FIVE, NEAR)),
        "ranks-another-model": _pair(ranked("w", old, FIVE), ranked("w", new, FIVE, Model(lanes=(2, 1)))),
        "ranks-the-same-by-another-model": _pair(ranked("w", old, FIVE), ranked("w", old, FIVE, NEAR)),
        "ranks-gaps": _pair(ranked("w", sparse, FIVE), ranked("w", few, FIVE, SPARSE)),
        "ranks-of-one-dimension": _pair(ranked("w", old.reshape(-1), FIVE), ranked("w", new.reshape(-1), FIVE)),
        "ranks-of-four-dimensions": _pair(
            ranked("w", old.reshape(5, 4, 6, 5), FIVE),
            ranked("w", new.reshape(5, 4, 6, 5), FIVE, Model(places=SOME[:30], neighbours=(Neighbour(0, 30, -9, 9),))),
        ),
        "ranks-of-another-shape": _pair(ranked("w", old, FIVE), ranked("w", new.reshape(20, 30), FIVE)),
        "ranks-codebook-moved": _pair(ranked("w", old, FIVE), ranked("w", new, moved)),
        "ranks-codebook-larger": _pair(ranked("w", old, FIVE), ranked("w", new, six)),
        "ranks-codebook-of-halves": _pair(
            ranked("w", old, FIVE), ranked("w", new, halves([0.5, -1, 2, -3, 0.25]))
        ),
        "ranks-codebook-on-a-grid": _pair(
            ranked("w", old, FIVE), ranked("w", new, grid(0.25, [-12, -4, 1, 2, 8]))
        ),
        "ranks-codebook-of-another-tensor": _pair(
            ranked("a", old, FIVE), ranked("b", old, FIVE.of(0)), after=(
                ranked("a", new, FIVE), ranked("b", new[::-1], FIVE.of(0))
            )
        ),
        "ranks-from-offsets": _pair(craft.coded("w", values[old + 2], FIVE, 3), ranked("w", new, FIVE, NEAR)),
        "ranks-that-all-fall": _pair(ranked("w", sparse, FIVE), ranked("w", 0 * sparse, FIVE)),
    }  # fmt: skip


def _multiples() -> dict[str, tuple[File, File]]:
    """Those with a step for each row."""
    old = smooth((24, 25), 40)
    new = later(old, -40, 40)
    wide = drawn((20, 30), -16_383, 16_384, 2)
    exponents = [n % 7 for n in range(24)]
    others = [*exponents[:5], 9, *exponents[6:]]
    first = multiples("w", old, 0.01, exponents)
    more = Model(0, 5, (2, 0), base=3, rows=SOME[:24], neighbours=(LEFT,), tables=6)
    above = drawn((24, 25), 3, 9)
    step = np.float32(0.02)
    large = drawn((300, 250), -3, 3, 40)
    return {
        "multiples": _pair(first, multiples("w", new, 0.01, exponents, more)),
        "multiples-of-another-scale": _pair(first, multiples("w", new, 0.0104, exponents)),
        "multiples-of-another-row": _pair(first, multiples("w", new, 0.01, others)),
        "multiples-of-twice-the-scale": _pair(first, multiples("w", (new + 1) // 2, 0.02, exponents, more)),
        "multiples-of-one-scale-for-all": _pair(first, multiples("w", new, 0.01, [0] * 24)),
        "multiples-whose-exponents-are-fixed": _pair(
            first, multiples("w", new, 0.01, exponents, coder=craft.FIXED)
        ),
        "multiples-of-other-limits": _pair(first, multiples("w", new, 0.01, exponents, ends=(-99, 300))),
        "multiples-held-in-narrower-limits": _pair(first, multiples("w", np.clip(new, -9, 20), 0.01, exponents)),
        "multiples-above-0": _pair(
            multiples("w", above, 0.5, [0] * 24),
            multiples("w", np.where(above % 7 < 6, above, 0), 0.5, [0] * 24, ends=(0, 9)),
        ),
        "multiples-of-which-none-is-0": _pair(
            multiples("w", above, 0.5, [0] * 24), multiples("w", np.clip(later(above, 3, 9), 3, 9), 0.5, [0] * 24)
        ),
        "multiples-below-0": _pair(multiples("w", -above, 0.5, [0] * 24), multiples("w", -above - 1, 0.5, [0] * 24)),
        "multiples-of-32767-numbers": _pair(
            multiples("w", wide, 1e-3, [0] * 20), multiples("w", later(wide, -16_383, 16_384), 1e-3, [0] * 20)
        ),
        "multiples-gaps": _pair(
            multiples("w", drawn((30, 20), -9, 9, 7), 0.1, [1] * 30),
            multiples("w", later(drawn((30, 20), -9, 9, 7), -9, 9), 0.1, [1] * 30, SPARSE),
        ),
        "multiples-of-four-dimensions": _pair(
            multiples("w", old.reshape(6, 4, 5, 5), 0.01, range(6)),
            multiples("w", new.reshape(6, 4, 5, 5), 0.01, range(6)),
        ),
        "multiples-of-other-rows": _pair(first, multiples("w", new.reshape(6, 100), 0.01, [3] * 6)),
        "multiples-from-raw-elements": _pair(
            craft.raw("w", (old * step + np.float32(0.003)).astype("<f4")), multiples("w", new, 0.02, [0] * 24)
        ),
        "multiples-from-no-numbers-at-all": _pair(
            craft.raw("w", np.where(old % 5 == 0, np.where(old % 2, np.inf, np.nan), old * step).astype("<f4")),
            multiples("w", new, 0.02, [0] * 24),
        ),
        "multiples-from-ranks": _pair(
            ranked("w", drawn((30, 20), -2, 3, 2), FIVE),
            multiples("w", later(drawn((30, 20), -4, 4, 2), -8, 8), 0.25, [0] * 30),
        ),
        "multiples-in-two-blocks": _pair(
            multiples("w", large, 0.5, [0] * 300), multiples("w", later(large, -3, 3, 50), 0.5, [0] * 300)
        ),
        "multiples-beside-others": (
            v3(craft.raw("a", np.arange(90.0).astype("<f4")), ranked("r", drawn((9, 9), -2, 3), FIVE), first),
            v3(craft.raw("a", np.arange(90.0).astype("<f4") + 1), ranked("r", drawn((9, 9), -2, 3), FIVE),
               multiples("w", new, 0.0104, others)),
        ),
    }  # fmt: skip


def _others() -> dict[str, tuple[File, File]]:
    """Those for which version 1 has all that there is to tell."""
    values, old = np.array([-3, -1, 0, 0.25, 0.5, 2], "<f4"), drawn((30, 20), -2, 3, 2)
    wide = drawn((20, 30), -16_383, 16_384, 2)
    return {
        "ranks-to-adaptive": _pair(ranked("w", old, FIVE), craft.adaptive("w", values[later(old, -2, 3) + 2], FIVE)),
        "multiples-of-too-many-numbers": _pair(
            multiples("w", wide, 1e-3, [0] * 20), multiples("w", -wide, 1e-3, [0] * 20, ends=(-16_384, 16_384))
        ),
    }


def _pair(*before: Tensor, after: tuple[Tensor, ...] = ()) -> tuple[File, File]:
    """One tensor and another, or some and others."""
    return (v3(*before), v3(*after)) if after else (v3(before[0]), v3(before[1]))


# Invalid -------------------------------------------------------------------------------------------------------

NUMBERS = drawn((6, 8), -2, 3)
#: What the old file of all invalid updates has at its end, as its tensors 3 and 4.
M, R = multiples("m", NUMBERS, 0.25, [0, 1, 0, 2, 0, 0]), ranked("r", NUMBERS, FIVE)
FEW = ranked("f", drawn((4, 8), -2, 3), FIVE)
LIKE_M, LIKE_R = (b"\x20\x08\x06\x08" + tensor.fields for tensor in (M, R))
KEPT = b"\x00\x00"  # the old layout, and the old codebook or scales
NOTHING = (0, 0, 0)


def model(numbers: Array = NUMBERS, wrong: dict[str, bytes] | None = None, **said: Any) -> bytes:
    """A model of these numbers; any part can be other bytes."""
    return coded_numbers(numbers, numbers.shape, Model(**said), wrong or {})[0]


def of(
    name: str,
    told: bytes = KEPT,
    payload: bytes = b"",
    found: bytes | None = None,
    changed: tuple[int, int, int] = NOTHING,
    length: int = 0,
    way: int = 0,
) -> tuple[bytes, bytes]:
    """Facts and payloads of a tensor by the old one: layout and codebook, what these have in the payload, the model."""
    found = model() if found is None else found
    base = {"b": 0, "w": 1, "z": 2, "m": 3, "r": 4}[name]
    record = b"\x05\x00" + text(name) + zigzag(base) + told + b"".join(map(varint, changed))
    return b"\x00" + record + varint(length) + bytes([way]) + varint(len(found)), payload + found


def told_in(low: int, high: int, length: int, layout: bytes = b"\x00") -> bytes:
    """The old layout, or another, and scales that are told."""
    return layout + b"\x01\x00\x05" + zigzag(low) + zigzag(high) + varint(length)


def moved_in(low: int, high: int, length: int) -> bytes:
    """The old layout, and scales by the old ones."""
    return b"\x00\x04" + zigzag(low) + zigzag(high) + varint(length)


def broken() -> dict[str, tuple[int, tuple[bytes, bytes]]]:
    """By name: the section of update-format.md that each breaks, and facts and payloads of the update."""
    scales = M.section[: len(M.section) - len(b"".join(coded_numbers(NUMBERS, NUMBERS.shape, Model(), {})))]
    size, one = len(scales), scales[:4]
    few = model(NUMBERS.clip(-1, 1))
    inside = b"\x20\x08\x08\x06" + M.fields  # of 8 rows
    shell = model(wrong={"contexts": b"", "levels": b""}) + b"\x01\x00"
    other = b"\x20\x08\x06\x07" + M.fields  # of 42 elements
    return {
        "op-6": (3, (b"\x00\x06\x00" + text("r") + zigzag(4) + bytes(8), b"")),
        "numbers-of-layout-2": (3, of("w")),
        "numbers-of-layout-0": (3, of("b")),
        "numbers-cut-short": (3, (of("r")[0][:-1], b"")),
        "layout-with-a-byte-behind": (3, of("r", text(LIKE_R + b"\x00") + b"\x00")),
        "model-beyond-the-end": (2, (of("r")[0], model()[:-1])),
        "ranks-by-raw-elements": (4, of("z", text(b"\x20\x08\x08\x08" + R.fields) + b"\x00")),
        "ranks-by-multiples": (4, of("m", text(LIKE_R) + b"\x00")),
        "ranks-with-scales-told": (4, of("r", told_in(-2, 3, size), scales)),
        "ranks-with-scales-moved": (4, of("r", moved_in(-2, 3, 6), one + b"\x01\x00")),
        "ranks-with-a-codebook-told-of-another-length": (4, of("r", b"\x00\x01\x05\x00" + varint(19), bytes(19))),
        "codebook-in-way-5": (4, of("r", b"\x00\x05")),
        "codebook-told-in-form-6": (4, of("r", b"\x00\x01\x00\x06" + zigzag(-2) + zigzag(3) + varint(size), scales)),
        "multiples-by-other-elements": (4, of("m", text(other) + b"\x00")),
        "multiples-by-the-scales-of-none": (4, of("z", text(b"\x20\x08\x08\x08" + M.fields) + b"\x00")),
        "multiples-by-the-scales-of-other-rows": (4, of("m", text(inside) + b"\x00")),
        "multiples-with-a-codebook-told": (4, of("m", b"\x00\x01\x01\x00\x04", b"\x00\x00\x80\x3f")),
        "multiples-with-a-codebook-moved": (4, of("m", b"\x00\x02\x00\x00")),
        "multiples-with-the-codebook-of-another-tensor": (4, of("m", b"\x00\x03")),
        "scales-with-shared-values": (4, of("m", b"\x00\x01\x01\x05" + zigzag(-2) + zigzag(3) + varint(size), scales)),
        "scales-told-beyond-the-end": (2, (of("m", told_in(-2, 3, 99))[0], scales)),
        "scales-of-a-byte-more": (4, of("m", told_in(-2, 3, size + 1), scales + b"\x00")),
        "scales-of-a-scale-that-is-0": (4, of("m", told_in(-2, 3, size), bytes(4) + scales[4:])),
        "scales-too-large": (4, of("m", told_in(-2, 3, size), b"\xff\xff\x7f\x7f" + scales[4:])),
        "lowest-above-highest": (4, of("m", told_in(3, -2, size), scales)),
        "highest-above-32767": (4, of("m", told_in(-2, LONGEST + 1, size), scales)),
        "numbers-too-many": (4, of("m", told_in(-16_384, 16_384, size), scales)),
        "scales-moved-from-other-rows": (4, of("m", text(inside) + moved_in(-2, 3, 6)[1:], one + b"\x01\x00")),
        "scales-moved-without-differences": (6, of("m", moved_in(-2, 3, 4), one)),
        "scales-moved-with-a-byte-behind": (6, of("m", moved_in(-2, 3, 7), one + b"\x01\x00\x00")),
        "scales-moved-cut-short": (4, of("m", moved_in(-2, 3, 3), one[:3])),
        "more-fall-than-there-are": (5, of("r", changed=(0, 49, 0))),
        "changes-without-a-change": (5, of("r", KEPT, b"\x01", length=1)),
        "changes-start-with-0": (5, of("m", KEPT, b"\x00\x01", changed=(0, 1, 0), length=2)),
        "model-in-way-2": (3, of("r", way=2)),
        "model-moved-from-none": (4, of("w", text(b"\x20\x08\x04\x08" + FEW.fields) + b"\x00", way=1, found=shell)),
        "model-moved-without-differences": (6, of("r", way=1, found=shell[:-2])),
        "model-moved-with-a-byte-behind": (6, of("r", way=1, found=shell + b"\x00")),
        "model-moved-that-breaks-a-rule": (4, of("r", way=1, found=b"\x02" + shell[1:])),
        "model-moved-without-a-token": (4, of("r", way=1, found=shell[:-3] + b"\x03\x01\x00")),
        "model-of-no-bytes": (4, of("r", found=b"")),
        "model-with-a-byte-behind": (4, of("r", found=model() + b"\x00")),
        "model-that-breaks-a-rule": (4, of("r", found=model(wrong={"mode": b"\x02"}))),
        "model-without-a-token": (4, of("r", found=few)),
        "model-of-streams-that-are-too-long": (4, of("m", found=model(stream_rows=1, lanes=(4, 4)))),
    }  # fmt: skip
