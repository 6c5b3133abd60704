"""Files that break sections 13 and 14, one rule each: name -> (section, bytes). All other checksums are right."""

from __future__ import annotations

from typing import Any

import numpy as np
from breaks1 import Broken, flipped
from craft import (
    ADAPTIVE,
    CHECKED,
    CODED,
    COPY,
    DEFLATED,
    DTYPES,
    F32,
    F64,
    RAW,
    ROWS,
    SAME,
    U8,
    File,
    Tensor,
    alias,
    coded,
    copy,
    crc,
    entries,
    plane,
    raw,
    rows,
    spread,
    text,
    varint,
)

W = raw("w", [1.0, 2.0])
IDS = raw("ids", [1, 2], DTYPES.index("uint16"))


def file(*tensors: Tensor, **more: Any) -> bytes:
    """A file of version 3."""
    return File(tensors, 3, **more).to_bytes()


def files() -> Broken:
    """Every case by its name."""
    return headers() | records() | references() | kinds()


def around(record: bytes, section: bytes) -> bytes:
    """A file of one tensor w with this record."""
    header = b"\0\0\0\1\0\1w" + record
    body = b"\x89DC\3\0" + varint(len(header)) + header + section
    return body + crc(body)


def headers() -> Broken:
    """Section 13: flags and names."""
    data = file(W, IDS)
    large = raw("w", np.arange(65_600) % 251, U8)
    found = {
        "flags-4": data[:4] + b"\4" + data[5:-4] + crc(data[:4] + b"\4" + data[5:-4]),
        "large-without-checksums": file(large),
        "section-checksum-wrong": flipped(file(W, flags=CHECKED), -5, True),
        "extension-required": file(W, extensions=[(1, "newer", b"")]),
        "name-shares-less-than-it-could": file(W, raw("ww", [1.0]), shared=(0, 0)),
        "name-shares-more-than-there-is": file(W, raw("ww", [1.0]), shared=(2,)),
        "names-whole-though-not-deflated": _with_whole_names(),
        "names-shared-though-deflated": _deflated_with_shared_names(),
        "name-twice": file(W, W),
        "name-unprintable": file(raw("a\x1b", [1.0])),
        "inflated-length-0": file(W, flags=DEFLATED, inflated=0),
    }
    return {f"s13-{name}": (13, data) for name, data in found.items()}


def _with_whole_names() -> bytes:
    header = b"\0\0\0\1w\n" + bytes([0x10, RAW, 1])
    body = b"\x89DC\3\0" + varint(len(header)) + header + bytes(4)
    return body + crc(body)


def _deflated_with_shared_names() -> bytes:
    header = b"\0\0\0\1" + b"\0" + text("w") + bytes([0x10, RAW, 1])
    packed = File([], 3, DEFLATED).pack(header)
    body = b"\x89DC\3\1" + varint(len(packed)) + varint(len(header)) + packed + bytes(4)
    return body + crc(body)


def records() -> Broken:
    """Section 13: dtypes and layouts."""
    names = ("float8_e8m0fnu", "float4_e2m1fn_x2", "uint16", "complex64", "uint8")
    found = {f"dtype-{n}": file(Tensor("w", n, (1,), RAW, section=bytes(16))) for n in (22, 23, 255)}
    found |= {f"layout-{n}": file(Tensor("w", U8, (2,), n, section=b"\1\1")) for n in (9, 14, 15, 16, 255)}
    for name in names:
        dtype = DTYPES.index(name)
        found[f"coded-of-{name}"] = file(Tensor("w", dtype, (9,), CODED, b"\0\0\0\0\0\0\0"))
        found[f"adaptive-of-{name}"] = file(Tensor("w", dtype, (9,), ADAPTIVE, b"\0\0\0\0"))
    found |= {
        "dtype-0-in-a-byte-of-its-own": around(bytes([0x1F, 0, RAW, 1]), bytes(4)),
        "dtype-14-in-a-byte-of-its-own": around(bytes([0x1F, 14, RAW, 1]), b"\0"),
        "layout-0-in-a-byte-of-its-own": around(bytes([0x10, 0x0F, 0, 1]), bytes(4)),
        "dtype-missing": around(bytes([0x1F]), b""),
        "flags-of-rows": file(Tensor("w", F32, (1, 9), ROWS, b"\x12", plane([0]) + b"\1\1\0" * 4, flags=1)),
        "flags-of-a-copy": file(W, Tensor("v", F32, (2,), COPY, b"\0", flags=2)),
        "grid-of-float8": file(Tensor("w", DTYPES.index("float8_e5m2"), (99,), CODED, b"\1\2\2\2\1\0\2\0\1", bytes(5))),
        "dimensions-9": file(raw("w", np.ones((1,) * 9, "u1"), U8)),
        "constant-of-1-element": file(Tensor("w", DTYPES.index("uint16"), (1,), SAME, section=bytes(2))),
    }
    return {f"s13-{name}": (13, data) for name, data in found.items()}


def references() -> Broken:
    """Section 13: copies and aliases."""

    def copied(number: int, dtype: int = F32, shape: tuple[int, ...] = (2,)) -> bytes:
        return file(W, Tensor("copy", dtype, shape, COPY, varint(number)))

    again, tied = copy("again", W, 0), alias("tied", W, 0)
    first = coded("first", spread((9, 9), [1, 2], 2), entries([1, 2]), version=3)
    owner = varint(2) + varint(8 + 1) + varint(1) + b"\0\2\0\1"
    found = {
        "copy-of-itself": copied(1),
        "copy-of-a-later-tensor": file(Tensor("copy", F32, (2,), COPY, b"\1"), W),
        "copy-of-a-tensor-that-is-not-there": copied(9),
        "copy-number-huge": copied((1 << 63) - 1),
        "copy-of-another-dtype": copied(0, F64),
        "copy-of-another-shape": copied(0, F32, (2, 1)),
        "copy-of-a-copy": file(W, again, copy("third", W, 1)),
        "copy-of-an-alias": file(W, tied, copy("third", W, 1)),
        "alias-of-an-alias": file(W, tied, alias("third", W, 1)),
        "copy-owns-no-codebook": file(first, copy("second", first, 0), Tensor("w", F32, (4,), CODED, owner, b"\x40")),
    }
    return {f"s13-{name}": (13, data) for name, data in found.items()}


def kinds() -> Broken:
    """Section 14."""

    def of(section: bytes, shape: tuple[int, ...] = (3, 40), dtype: int = U8, length: int | None = None) -> bytes:
        fields = varint(len(section) if length is None else length)
        return file(Tensor("w", dtype, shape, ROWS, fields, section))

    good = rows("w", np.arange(120).reshape(3, 40) // 40, [0, 1, 1], U8)
    assert of(good.section) == file(good)
    some, other = plane([0, 1, 1], 16, 2), b"\1\1\5"
    found = {
        "rows-of-rank-1": of(plane([0] * 40, 16) + b"\1\1\0", (40,)),
        "rows-of-rank-0": of(b"", ()),
        "rows-of-no-elements": of(b"", (0, 40)),
        "rows-of-no-columns": of(b"", (3, 0)),
        "rows-longer-than-raw": of(plane(np.arange(120) % 16, 256, 2) + bytes(9)),
        "rows-length-huge": of(good.section, length=(1 << 63) - 1),
        "rows-kind-16": of(b"\1\1\x10" + other),
        "rows-kinds-cut": of(b"\2\1\0" + other),
        "rows-kinds-padding": of(b"\2\2\x01\x11" + other + other),
        "rows-kinds-without-a-coder": of(b"\0\0" + other),
        "rows-kinds-literal": of(b"\4\3\0\0\0" + other),
        "rows-a-kind-missing": of(some + other),
        "rows-no-kinds": of(b""),
        "rows-byte-behind": of(some + other + other + b"\0"),
        "rows-kind-that-does-not-occur": of(some + other + other + other),
        "rows-constant-rows-in-full": of(plane([0, 0, 0], 16, 2) + plane(np.arange(120) % 16, 16, 2)),
        "rows-plane-too-short": of(some + other + b"\2" + text(bytes(79))),
        "rows-bool-of-2": of(some + b"\1\1\2" + b"\1\1\1", dtype=DTYPES.index("bool")),
    }
    return {f"s14-{name}": (14, data) for name, data in found.items()}
