"""Files that break sections 9 to 11, one rule each: name -> (section, bytes). All other checksums are right."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Any

import numpy as np
from breaks1 import NOT_UTF8, Broken, flipped
from craft import (
    ADAPTIVE,
    ALIAS,
    BF16,
    BOOL,
    BY_COLUMN,
    CHECKED,
    CODED,
    DEFLATED,
    F16,
    F32,
    F64,
    FEW,
    PLANES,
    RAW,
    SAME,
    SQUARES,
    U8,
    File,
    Tensor,
    adaptive,
    alias,
    bits,
    coded,
    crc,
    entries,
    raw,
    same,
    spread,
    varint,
)

from deepcompress.container import deflate

W = raw("w", [1.0, 2.0])
BIAS = same("b", 0.5, (16,))


def file(*tensors: Tensor, **more: Any) -> bytes:
    """A file of version 2."""
    return File(tensors, 2, **more).to_bytes()


def files() -> Broken:
    """Every case by its name."""
    return starts() | deflated() | names() | records() | books() | grids() | facts_of_models() | streams_of_models()


def starts() -> Broken:
    """Section 9: what stands before the header, checksums."""
    short, checked = File([W, BIAS], 2), File([W, BIAS], 2, CHECKED)
    data, long = short.to_bytes(), checked.to_bytes()
    span = 6 + len(checked.header()) + 4
    found: dict[str, bytes] = {f"flags-{n}": data[:4] + bytes([n]) + data[5:-4] for n in (4, 8, 64, 128, 255)}
    found = {name: body + crc(body) for name, body in found.items()}
    large = raw("w", np.arange(65_516) % 251, U8)
    found |= {
        "flags-missing": data[:4],
        "header-length-too-large": _sealed(b"\x89DC\2\0" + varint((1 << 26) + 1) + short.header() + W.section),
        "header-length-not-shortest": _sealed(b"\x89DC\2\0" + bytes([len(short.header()) | 128, 0]) + data[6:-4]),
        "header-length-beyond-the-file": _sealed(b"\x89DC\2\0\x7f" + short.header()),
        "file-checksum-wrong": flipped(data, len(data) - 2, False),
        "file-checksum-missing": data[:-4],
        "changed-without-the-checksum": flipped(data, 12, False),
        "section-changed-without-the-checksum": flipped(data, len(data) - 6, False),
        "cut": _sealed(data[:-5]),
        "a-byte-behind-the-sections": _sealed(data[:-4] + b"\0"),
        "a-byte-behind-the-file": data + b"\0",
        "header-checksum-wrong": flipped(long, span - 1, True),
        "section-checksum-wrong": flipped(long, span, True),
        "last-section-checksum-wrong": flipped(long, len(long) - 5, True),
        "checksummed-file-checksum-wrong": flipped(long, len(long) - 1, False),
        "checksums-announced-but-not-there": _sealed(b"\x89DC\2\2" + data[5:-4]),
        "checksums-there-but-not-announced": _sealed(b"\x89DC\2\0" + long[5:-4]),
        "large-without-checksums": file(large),
        "extension-required": file(W, extensions=[(1, "newer", b"")]),
        "extension-with-flag-2": file(W, extensions=[(2, "new", b"")]),
        "tensors-2-18-and-one": file(W, count=(1 << 18) + 1),
        "tensors-fewer-than-announced": file(W, count=2),
        "tensors-more-than-announced": file(W, BIAS, count=1),
        "bytes-behind-the-last-tensor": file(W, tail=b"\0"),
        "header-without-a-byte": _sealed(b"\x89DC\2\0\0"),
    }
    return {f"s09-{name}": (9, data) for name, data in found.items()}


def _sealed(body: bytes) -> bytes:
    return body + crc(body)


def deflated() -> Broken:
    """Section 9: the deflated header."""
    good = File([W, BIAS], 2, DEFLATED, network="lenet5", data="mnist")
    header = good.header()
    packed = deflate.compress(header)

    def of(packed: bytes, inflated: int | None = None) -> bytes:
        return replace(good, pack=lambda _: packed, inflated=inflated).to_bytes()

    bomb = _squeezed(bytes(1 << 22))
    long = replace(good, extensions=[(0, "e", bytes(5000))], pack=_squeezed)
    found = {
        "inflated-length-0": of(packed, 0),
        "inflated-length-0-and-not-deflated": of(header, 0),
        "inflated-length-one-less": of(packed, len(header) - 1),
        "inflated-length-one-more": of(packed, len(header) + 1),
        "inflated-length-4097": of(packed, 4097),
        "inflated-length-huge": of(packed, (1 << 63) - 1),
        "inflated-length-not-shortest": _sealed(
            b"\x89DC\2\1" + varint(len(packed)) + bytes([len(header) | 128, 0]) + packed + W.section + BIAS.section
        ),
        "inflates-to-more-than-4096": long.to_bytes(),
        "bomb": of(bomb, 4096),
        "stream-cut": of(packed[:-1]),
        "stream-empty": of(b""),
        "byte-behind-the-stream": of(packed + b"\0"),
        "block-of-type-3": of(b"\x07" + packed),
        "not-deflated": of(header),
        "stored-block-with-wrong-lengths": of(b"\1\4\0\xff\xff" + header[:4], 4),
        "reaches-before-the-dictionary": of(_far_back(), 3),
        "with-zlib-header": of(zlib.compress(header)),
        "without-the-dictionary-it-needs": of(_other_dictionary(header)),
    }
    return {f"s09-deflated-{name}": (9, data) for name, data in found.items()}


def _squeezed(data: bytes) -> bytes:
    best = zlib.compressobj(9, wbits=-15)
    return best.compress(data) + best.flush()


def _far_back() -> bytes:
    """One block of fixed codes that copies 3 bytes from 568 bytes before its first one."""
    # last block, fixed codes; length 3 is code 257 (7 bits); distance 568 is code 18, 8 extra bits of 55; end is 256.
    pattern = "1" + "10" + "0000001" + f"{18:05b}" + f"{568 - 513:08b}"[::-1] + "0000000"
    pattern = pattern.ljust(-(-len(pattern) // 8) * 8, "0")
    return bytes(int(pattern[at : at + 8][::-1], 2) for at in range(0, len(pattern), 8))


def _other_dictionary(header: bytes) -> bytes:
    stream = zlib.compressobj(9, wbits=-15, zdict=bytes(2000) + header)
    return stream.compress(header) + stream.flush()


def names() -> Broken:
    """Section 9: the names."""

    def named(*names: str | bytes, count: int | None = None) -> bytes:
        return file(*(raw(name, [1], U8) for name in names), count=count)

    end = b"\0\0\0\1" + b"x" * 512
    found = {
        "name-empty": named(""),
        "name-of-513-bytes": named("x" * 513),
        "name-without-an-end": _sealed(b"\x89DC\2\0" + varint(len(end)) + end),
        "name-twice": named("w", "w"),
        "name-twice-not-in-a-row": named("a", "b", "a"),
        "name-unprintable": named("a\x1b[2J"),
        "name-with-a-line-break": named("a\nb"),
        "name-with-a-direction": named("\u202egpj.w"),
        "names-fewer-than-announced": named("a", "b", count=3),
        "network-unprintable": file(W, network="a\x07"),
        "data-not-utf8": file(W, data=b"\xff"),
    }
    found |= {f"name-with-{name}": named(label) for name, label in NOT_UTF8.items()}
    return {f"s09-{name}": (9, data) for name, data in found.items()}


def records() -> Broken:
    """Section 9: kinds, layouts, flags, shapes."""

    def flagged(layout: int, flags: int) -> bytes:
        fields = {PLANES: b"\6", CODED: b"\0\0\0\0\0\0\0", ALIAS: b"\0"}.get(layout, b"")
        section = {RAW: bytes(16), PLANES: b"\1\1\0\1\1\0", SAME: bytes(4)}.get(layout, b"")
        dtype = F16 if layout == PLANES else F32
        return file(raw("v", np.ones((2, 2))), Tensor("w", dtype, (2, 2), layout, fields, section, flags=flags))

    found = {f"layout-{n}": file(Tensor("w", U8, (2,), n, section=b"\1\1")) for n in (6, 7, 8, 9, 15)}
    found |= {f"dtype-{n}": file(Tensor("w", n, (2,), RAW, section=bytes(8))) for n in range(10, 16)}
    found |= {f"flags-of-layout-{n}": flagged(n, 1) for n in (RAW, PLANES, CODED, ALIAS, SAME)}
    found |= {
        "dimensions-9": file(raw("w", np.ones((1,) * 9, "u1"), U8)),
        "dimensions-15": file(raw("w", np.ones((1,) * 15, "u1"), U8)),
        "dimension-above-2-40": file(Tensor("w", U8, (0, (1 << 40) + 1), RAW)),
        "elements-above-2-40": file(Tensor("w", U8, (1 << 21, 1 << 20), SAME, section=b"\1")),
        "raw-section-too-short": file(Tensor("w", F32, (2,), RAW, section=bytes(7))),
        "raw-bool-of-2": file(Tensor("w", BOOL, (3,), RAW, section=b"\0\1\2")),
        "constant-of-1-element": file(Tensor("w", F32, (1,), SAME, section=bytes(4))),
        "constant-scalar": file(Tensor("w", F32, (), SAME, section=bytes(4))),
        "constant-of-no-elements": file(Tensor("w", F32, (0, 3), SAME, section=bytes(4))),
        "constant-too-short": file(Tensor("w", F32, (4,), SAME, section=bytes(3))),
        "constant-too-long": file(Tensor("w", F32, (4,), SAME, section=bytes(16))),
        "constant-bool-of-2": file(Tensor("w", BOOL, (4,), SAME, section=b"\2")),
        "planes-longer-than-raw": file(Tensor("w", F16, (2,), PLANES, b"\6", b"\1\1\0\1\1\0")),
        "alias-of-itself": file(W, Tensor("tied", F32, (2,), ALIAS, b"\1")),
        "alias-of-an-alias": file(W, alias("a", W, 0), alias("b", W, 1)),
        "alias-of-another-dtype": file(W, Tensor("tied", F64, (2,), ALIAS, b"\0")),
        "alias-of-another-shape": file(W, Tensor("tied", F32, (2, 1), ALIAS, b"\0")),
        "coded-of-integers": file(Tensor("w", U8, (9,), CODED, b"\0\0\0\0\0\0\0")),
        "tensor-cut": _sealed(b"\x89DC\2\0\x07\0\0\0\1w\n\x10"),
    }
    return {f"s09-{name}": (9, data) for name, data in found.items()}


# Sections 10 and 11: a tensor of (4, 4), layout 5, whose one weight is the last element, unless told. ---------------


def model(
    shape: tuple[int, ...] = (4, 4),
    dtype: int = F32,
    flags: int = 0,
    k: int = 2,
    form: int = 2,
    steps: tuple[int, ...] = (1, 2),
    n: int = 1,
    side: int | None = None,
    book: bytes = np.float32(0.5).tobytes(),
    stream: bytes = b"",
    name: str = "w",
) -> Tensor:
    """A tensor of layout 5 whose facts are what is said; by default the grid −0.5, 0.5, and no bytes of a stream."""
    fields = varint(k) + varint(form) + b"".join(map(varint, steps)) + varint(n)
    fields += (b"" if side is None else varint(side)) + varint(len(stream))
    return Tensor(name, dtype, shape, ADAPTIVE, fields, book + stream, flags=flags)


def books() -> Broken:
    """Section 10: sizes, forms, owners."""
    thick, book = spread((9, 9), FEW, 2), entries(FEW)
    first = coded("first", thick, book, version=2)
    second = adaptive("second", thick, book.of(0))
    half = adaptive("half", spread((40,), [1, 2], 2, "<f2"), entries([1, 2], F16), dtype=F16)
    none: dict[str, Any] = {"steps": (), "book": b"", "k": 2}
    plain: dict[str, Any] = {"form": 0, "steps": ()}
    found = {
        "k-4097": file(model(k=4097)),
        "k-huge": file(model(k=(1 << 63) - 1)),
        "form-huge": file(model(**none, form=(1 << 63) - 1)),
        "owner-of-the-first-tensor": file(model(**none, form=8)),
        "owner-is-the-tensor-itself": file(first, model(**none | {"k": 5}, form=9)),
        "owner-is-a-later-tensor": file(model(**none | {"k": 5}, form=9), first),
        "owner-is-raw": file(raw("r", [1], U8), model(**none, form=8)),
        "owner-is-constant": file(BIAS, model(**none, form=8)),
        "owner-shares-its-codebook": file(first, second, model(**none | {"k": 5}, form=9)),
        "owner-is-an-alias": file(first, alias("tied", first, 0), model(**none | {"k": 5}, form=9)),
        "owner-of-another-size": file(first, model(**none | {"k": 4}, form=8)),
        "owner-of-another-dtype": file(half, model(**none, form=8)),
        "owner-and-entries-as-well": file(first, model(form=8, k=5, steps=(), n=2, book=bits([1] * 5, F32).tobytes())),
        "entries-with-a-value-twice": file(model(**plain, book=bits([1, 1], F32).tobytes())),
        "entries-with-a-zero": file(model(**plain, book=bits([0, 1], F32).tobytes())),
        "entries-cut": file(model((8, 8), **plain, book=bytes(range(1, 8)))),
        "halves-with-a-value-twice": file(model(form=1, steps=(), book=b"\0\x3c\0\x3c")),
        "halves-with-a-zero": file(model(form=1, steps=(), book=b"\0\0\0\x3c")),
        "halves-with-infinity": file(model(form=1, steps=(), book=b"\0\x7c\0\x3c")),
        "halves-with-nan": file(model(form=1, steps=(), book=b"\1\x7e\0\x3c")),
        "halves-of-float16": file(model(dtype=F16, form=1, steps=(), book=b"\0\x3c\0\x40")),
        "halves-of-float64": file(model(dtype=F64, form=1, steps=(), book=b"\0\x3c\0\x40")),
    }
    found |= {f"form-{n}": file(model(**none, form=n)) for n in (5, 6, 7)}
    return {f"s10-{name}": (10, data) for name, data in found.items()}


def grids() -> Broken:
    """Section 10: grids and their masks."""

    def scaled(value: float, form: int = 2) -> bytes:
        raw = np.float16(value).tobytes() if form == 3 else np.float32(value).tobytes()
        return file(model(book=raw[2:] if form == 4 else raw, form=form))

    def masked(mask: bytes, k: int = 2, steps: tuple[int, int] = (3, 4)) -> bytes:  # from −2 to 2
        return file(model((5, 5), k=k, steps=steps, book=np.float32(0.5).tobytes() + mask))

    found = {
        "grid-of-bfloat16": file(model((8, 8), BF16)),
        "grid-of-float64": file(model(dtype=F64)),
        "grid-lowest-above-highest": file(model(steps=(2, 1))),
        "grid-lowest-above-highest-both-positive": file(model(k=1, steps=(6, 4))),
        "grid-below-minus-2-15": file(model(steps=(2 * ((1 << 15) + 1) - 1, 2))),
        "grid-above-2-15": file(model(steps=(1, 2 * ((1 << 15) + 1)))),
        "grid-steps-huge": file(model(steps=((1 << 63) - 1, (1 << 63) - 2))),
        "grid-smaller-than-k": file(model(k=3)),
        "grid-of-zero-only": file(model(k=1, steps=(0, 0))),
        "grid-without-entries": file(model(k=0, n=0)),
        "grid-without-entries-and-masked": file(model(k=0, n=0, book=np.float32(0.5).tobytes() + b"\0")),
        "grid-scale-zero": scaled(0),
        "grid-scale-minus-zero": scaled(-0.0),
        "grid-scale-negative": scaled(-0.5),
        "grid-scale-nan": scaled(np.nan),
        "grid-scale-infinite": scaled(np.inf),
        "grid-scale-float16-zero": scaled(0, 3),
        "grid-scale-float16-negative": scaled(-1, 3),
        "grid-scale-float16-infinite": scaled(np.inf, 3),
        "grid-scale-float16-nan": scaled(np.nan, 3),
        "grid-scale-bfloat16-zero": scaled(0, 4),
        "grid-scale-bfloat16-negative": scaled(-1, 4),
        "grid-scale-bfloat16-nan": scaled(np.nan, 4),
        "grid-product-infinite": file(model(steps=(1, 4), k=3, book=np.float32(3e38).tobytes())),
        "mask-with-zero-as-an-entry": masked(b"\x28"),
        "mask-of-fewer-than-k": masked(b"\x08"),
        "mask-of-more-than-k": masked(b"\xd8"),
        "mask-of-none": masked(b"\0"),
        "mask-padding": masked(b"\x84"),
        "mask-padding-counts-for-an-entry": masked(b"\x81"),
        "mask-missing": masked(b""),
        "mask-though-all-are-entries": masked(b"\xd8", k=4),
        "mask-too-long": masked(b"\x88\0"),
    }
    return {f"s10-{name}": (10, data) for name, data in found.items()}


def facts_of_models() -> Broken:
    """Sections 9 and 11: what the header says of layout 5."""
    found = {
        "of-integers": file(model((64,), U8)),
        "of-booleans": file(model((64,), BOOL)),
        "flags-4": file(model(flags=4)),
        "flags-8": file(model(flags=8)),
        "by-column-of-rank-1": file(model((16,), flags=BY_COLUMN)),
        "by-column-of-rank-0": file(model((), k=1, form=0, steps=(), book=bytes([0, 0, 128, 63]), flags=BY_COLUMN)),
        "squares-of-rank-1": file(model((16,), flags=SQUARES, side=2)),
        "squares-of-side-0": file(model(flags=SQUARES, side=0)),
        "squares-of-side-1": file(model(flags=SQUARES, side=1)),
        "squares-that-do-not-fit": file(model(flags=SQUARES, side=3)),
        "squares-larger-than-a-row": file(model(flags=SQUARES, side=4)),
        "squares-above-2-20": file(model(flags=SQUARES, side=(1 << 20) + 1)),
        "squares-side-whose-square-overflows": file(model(flags=SQUARES, side=1 << 32)),
        "squares-of-no-columns": file(model((4, 0), k=0, form=0, steps=(), n=0, book=b"", flags=SQUARES, side=2)),
        "side-without-its-flag": file(model(side=2)),
        "n-above-the-elements": file(model(n=17)),
        "n-huge": file(model(n=(1 << 63) - 1)),
        "n-without-a-codebook": file(model(k=0, form=0, steps=(), book=b"")),
        "section-longer-than-raw": file(model(stream=b"\1" * 61)),
        "stream-length-beyond-the-file": file(
            replace(model(), section=model().section, fields=model().fields[:-1] + b"\5")
        ),
        "stream-length-huge": file(replace(model(), fields=model().fields[:-1] + varint((1 << 63) - 1))),
    }
    return {f"s11-{name}": (11, data) for name, data in found.items()}


def streams_of_models() -> Broken:
    """Section 11: the stream."""
    good = adaptive("w", spread((20, 30), [-0.3, 0.77, 0.9], 4), entries([-0.3, 0.77, 0.9]))
    book, stream = good.section[:12], good.section[12:]

    def of(stream: bytes, n: int = 147) -> bytes:
        return file(model((20, 30), k=3, form=0, steps=(), n=n, book=book, stream=stream))

    n = np.count_nonzero(np.frombuffer(good.raw, "<u4"))
    assert of(stream, n) == file(good)
    no_weights = model((20, 30), k=3, form=0, steps=(), n=0, book=book, stream=b"\1")
    two: dict[str, Any] = {"shape": (2, 300_000), "k": 2, "n": 0}
    found = {
        "stream-starts-with-0": of(b"\0" + stream, n),
        "stream-cut-at-its-end": of(stream[:-1], n),
        "stream-cut-at-its-start": of(stream[1:], n),
        "stream-one-byte-more": of(stream + b"\1", n),
        "stream-many-bytes-more": of(stream + bytes(9), n),
        "stream-of-other-bytes": of(bytes(range(1, 100)), n),
        "stream-flipped": of(stream[:9] + bytes([stream[9] ^ 64]) + stream[10:], n),
        "stream-of-more-weights": of(stream, n + 1),
        "stream-of-fewer-weights": of(stream, n - 1),
        "stream-though-no-weights": file(no_weights),
        "stream-though-all-is-known": file(
            model(k=1, n=16, form=0, steps=(), book=bits([1], F32).tobytes(), stream=b"\1")
        ),
        "stream-of-an-empty-tensor": file(model((0, 4), k=0, n=0, form=0, steps=(), book=b"", stream=b"\1")),
        "blocks-without-lengths": file(model(**two)),
        "blocks-one-length-missing": file(model(**two, stream=b"\0")),
        "blocks-three-instead-of-two": file(model(**two, stream=b"\0\0\0")),
        "block-longer-than-the-stream": file(model(**two, stream=b"\0\5")),
        "block-length-huge": file(model(**two, stream=b"\0" + varint((1 << 63) - 1))),
        "block-length-not-shortest": file(model(**two, stream=b"\0\x80\0")),
        "block-with-bytes-though-no-weights": file(model(**two, stream=b"\0\1\1")),
        "block-starts-with-0": file(model(**two | {"n": 1}, stream=b"\1\0\0")),
        "one-block-with-a-length": of(varint(len(stream)) + stream, n),
    }
    return {f"s11-{name}": (11, data) for name, data in found.items()}
