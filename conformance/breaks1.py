"""Files that break sections 1 to 6, one rule each: name -> (section, bytes). All other checksums are right."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from craft import (
    ADAPTIVE,
    ALIAS,
    BOOL,
    CODED,
    CONSTANT,
    F16,
    F32,
    FEW,
    FIXED,
    HUFFMAN,
    I8,
    LITERAL,
    NONE,
    PLANES,
    RAW,
    SAME,
    U8,
    File,
    Tensor,
    alias,
    bits,
    coded,
    crc,
    entries,
    planes,
    raw,
    spread,
    stream,
    text,
    varint,
)

Broken = dict[str, tuple[int, bytes]]

#: One character of each range that a name may not hold, and both ends of the longer ones.
FORBIDDEN = [
    "0000",
    "0007",
    "000A",
    "001B",
    "001F",
    "007F",
    "0085",
    "009F",
    "00A0",
    "00AD",
    "0600",
    "0605",
    "061C",
    "06DD",
    "070F",
    "0890",
    "0891",
    "08E2",
    "1680",
    "180E",
    "2000",
    "200F",
    "2028",
    "202E",
    "202F",
    "205F",
    "2066",
    "206F",
    "3000",
    "E000",
    "F8FF",
    "FDD0",
    "FDEF",
    "FEFF",
    "FFF0",
    "FFF9",
    "FFFB",
    "FFFE",
    "FFFF",
    "110BD",
    "110CD",
    "13430",
    "1343F",
    "1BCA0",
    "1BCA3",
    "1D173",
    "1D17A",
    "E0000",
    "E0001",
    "E007F",
    "E00FF",
    "E01F0",
    "F0000",
    "10FFFF",
]
NOT_UTF8 = {
    "a-byte-that-is-none": b"a\xff",
    "a-character-cut-short": b"a\xe5\xb1",
    "an-overlong-form": b"a\xc0\xaf",
    "a-surrogate": b"a\xed\xa0\x80",
    "a-number-too-large": b"a\xf4\x90\x80\x80",
}

W = raw("w", [1.0, 2.0])
BYTES = raw("b", [1, 2, 3], U8)


def file(*tensors: Tensor, **more: Any) -> bytes:
    """A file of version 1."""
    return File(tensors, 1, **more).to_bytes()


def around(header: bytes, sections: bytes = b"", start: bytes = b"\x89DC\x01", length: bytes | None = None) -> bytes:
    """A file with this header, as bytes."""
    head = start + (varint(len(header)) if length is None else length) + header
    body = head + crc(head) + sections
    return body + crc(body)


def flipped(data: bytes, at: int, seal: bool) -> bytes:
    """One bit of a file changed; the checksum of the file made right again if it is to `seal`."""
    out = bytearray(data)
    out[at] ^= 1
    return bytes(out[:-4]) + crc(bytes(out[:-4])) if seal else bytes(out)


def files() -> Broken:
    """Every case by its name."""
    return (
        starts()
        | headers()
        | tensors()
        | records()
        | coded_facts()
        | coded_streams()
        | tables()
        | lanes()
        | byte_planes()
    )


def starts() -> Broken:
    """Section 1."""
    good = File([W, BYTES], 1, network="net")
    data, header = good.to_bytes(), good.header()
    span = 5 + len(header) + 4
    found = {
        "nothing": b"",
        "one-byte": b"\x89",
        "only-the-magic": b"\x89DC",
        "only-the-start": data[:5],
        "another-kind-of-file": b"PK\x03\x04" + data[4:],
        "magic-with-another-case": data.replace(b"\x89DC", b"\x89dc", 1),
        "magic-of-png": b"\x89PNG" + data[4:],
        "header-length-too-large": around(header, length=varint((1 << 26) + 1)),
        "header-length-beyond-the-file": around(header, length=varint(len(header) + 100)),
        "header-length-huge": around(header, length=varint((1 << 63) - 1)),
        "header-length-of-10-bytes": around(header, length=b"\xff" * 9 + b"\x01"),
        "header-length-of-10-bytes-for-a-small-number": around(header, length=b"\x80" * 9 + b"\x00"),
        "header-length-not-shortest": around(header, W.section, length=bytes([len(header) | 128, 0])),
        "header-length-one-too-small": around(header[:-1], W.section),
        "header-without-a-byte": around(b""),
        "header-checksum-wrong": flipped(data, span - 1, True),
        "header-changed-without-its-checksum": flipped(data, 8, True),
        "section-changed-without-its-checksum": flipped(data, span, True),
        "last-section-changed-without-its-checksum": flipped(data, len(data) - 5, True),
        "file-checksum-wrong": flipped(data, len(data) - 1, False),
        "file-checksum-missing": data[:-4],
        "file-checksum-cut": data[:-1],
        "section-cut": data[: span + 3] + crc(data[: span + 3]),
        "a-byte-behind-the-file": data + b"\0",
        "a-byte-behind-the-sections": data[:-4] + b"\0" + crc(data[:-4] + b"\0"),
        "a-byte-before-the-sections": data[:span] + b"\0" + data[span:-4] + crc(data[:span] + b"\0" + data[span:-4]),
    }
    found |= {f"version-{n}": around(header, W.section, b"\x89DC" + bytes([n])) for n in (0, 17, 129, 255)}
    return {f"s01-{name}": (1, data) for name, data in found.items()}


def headers() -> Broken:
    """Section 2."""
    found = {
        "network-too-long": file(W, network="n" * 256),
        "data-too-long": file(W, data="n" * 256),
        "network-longer-than-the-header": around(b"\x7fabc"),
        "extension-required": file(W, extensions=[(1, "newer", b"x")]),
        "extension-required-behind-an-optional-one": file(W, extensions=[(0, "new", b""), (1, "newer", b"")]),
        "extension-with-flag-2": file(W, extensions=[(2, "new", b"")]),
        "extension-with-flag-128": file(W, extensions=[(128, "new", b"")]),
        "extension-name-too-long": file(W, extensions=[(0, "n" * 256, b"")]),
        "extension-name-unprintable": file(W, extensions=[(0, "a\x1b", b"")]),
        "extension-name-not-utf8": file(W, extensions=[(0, b"a\xff", b"")]),
        "extension-longer-than-the-header": around(b"\0\0\1\0\1a\x7f\0"),
        "extension-length-huge": around(b"\0\0\1\0\1a" + varint((1 << 63) - 1) + b"\0"),
        "extensions-256": file(W, extensions=[(0, "", b"")] * 256),
        "tensors-2-18-and-one": file(W, count=(1 << 18) + 1),
        "tensors-fewer-than-announced": file(W, count=2),
        "tensors-more-than-announced": file(W, BYTES, count=1),
        "tensors-announced-huge": file(count=(1 << 63) - 1),
        "tensors-not-announced": around(b"\0\0\0"),
        "bytes-behind-the-last-tensor": file(W, tail=b"\0"),
        "a-varint-not-shortest": around(b"\x80\0\0\0\0"),
    }
    for code in FORBIDDEN:
        found[f"network-with-{code}"] = file(W, network=f"a{chr(int(code, 16))}b")
    found["data-with-202E"] = file(W, data="\u202etsinm")
    for name, label in NOT_UTF8.items():
        found[f"network-with-{name}"], found[f"data-with-{name}"] = file(W, network=label), file(W, data=label)
    return {f"s02-{name}": (2, data) for name, data in found.items()}


def tensors() -> Broken:
    """Section 3: names."""

    def named(*names: str | bytes, shared: tuple[int | None, ...] = ()) -> bytes:
        return file(*(raw(name, [1], U8) for name in names), shared=shared)

    found = {
        "name-empty": named(""),
        "name-of-513-bytes": named("x" * 513),
        "name-of-513-bytes-by-sharing": named("x" * 512, "x" * 513),
        "name-twice": named("w", "w"),
        "name-twice-not-in-a-row": named("a", "b", "a"),
        "name-unprintable": named("a\x1b[2J"),
        "name-with-a-line-break": named("a\nb"),
        "name-with-a-direction": named("\u202egpj.w"),
        "name-shares-less-than-it-could": named("good", "goad", shared=(0, 1)),
        "name-shares-nothing-though-it-could": named("fc1", "fc2", shared=(0, 0)),
        "name-shares-more-than-there-is": file(
            raw("ab", [1], U8), replace(raw("abc", [1], U8), name=b"abc"), shared=(0, 3)
        ),
        "first-name-shares-something": around(b"\0\0\0\1\1\1a" + bytes([U8, 0]) + crc(b"\7"), b"\7"),
    }
    found |= {f"name-with-{name}": named(label) for name, label in NOT_UTF8.items()}
    found["name-cut-in-a-character"] = named("é", b"\xc3")
    return {f"s03-{name}": (3, data) for name, data in found.items()}


def records() -> Broken:
    """Section 3: dtypes, encodings, shapes, aliases."""

    def shaped(*shape: int) -> bytes:
        return file(Tensor("w", U8, shape, RAW))

    def aliased(number: int, dtype: int = F32, shape: tuple[int, ...] = (2,)) -> bytes:
        return file(W, Tensor("tied", dtype, shape, ALIAS, varint(number)))

    found = {f"dtype-{n}": file(Tensor("w", n, (2,), RAW, section=bytes(8))) for n in range(10, 16)}
    found |= {f"encoding-{n}": file(Tensor("w", U8, (2,), n, section=b"\1")) for n in (SAME, ADAPTIVE, 6, 15)}
    found |= {
        "dimensions-9": file(raw("w", np.ones((1,) * 9, "u1"), U8)),
        "dimensions-huge": around(b"\0\0\0\1\0\1a" + bytes([U8]) + varint(1 << 62)),
        "dimension-above-2-40": shaped(0, (1 << 40) + 1),
        "dimension-huge": shaped((1 << 63) - 1),
        "elements-above-2-40": shaped(1 << 21, 1 << 20),
        "elements-above-2-40-beside-a-0": shaped(0, 1 << 20, 1 << 21),
        "elements-overflow-64-bits": shaped(1 << 32, 1 << 32),
        "raw-section-too-short": file(Tensor("w", F32, (2,), RAW, section=bytes(7))),
        "raw-section-too-long": file(Tensor("w", F32, (2,), RAW, section=bytes(9))),
        "raw-bool-of-2": file(Tensor("w", BOOL, (3,), RAW, section=b"\0\1\2")),
        "raw-bool-of-255": file(Tensor("w", BOOL, (3,), RAW, section=b"\xff\1\0")),
        "alias-of-itself": aliased(1),
        "alias-of-a-later-tensor": file(Tensor("tied", F32, (2,), ALIAS, varint(1)), W),
        "alias-of-a-tensor-that-is-not-there": aliased(7),
        "alias-huge": aliased((1 << 63) - 1),
        "alias-of-an-alias": file(W, alias("a", W, 0), alias("b", W, 1)),
        "alias-of-another-dtype": aliased(0, I8),
        "alias-of-another-shape": aliased(0, F32, (1, 2)),
        "alias-of-another-size": aliased(0, F32, (3,)),
        "tensor-cut": around(b"\0\0\0\1\0\1a"),
        "section-checksum-missing": around(b"\0\0\0\1\0\1a" + bytes([U8, 1, 1]), b"\7"),
    }
    return {f"s03-{name}": (3, data) for name, data in found.items()}


def lied(
    shape: tuple[int, ...] = (16,),
    k: int = 2,
    owner: int = 0,
    n: int = 1,
    b: int = 2,
    coders: tuple[int, int] = (FIXED, FIXED),
    book: bytes | None = None,
    tables: bytes = b"",
    offsets: bytes | None = None,
    weights: bytes | None = None,
    fillers: int = 0,
    dtype: int = F32,
    name: str = "w",
) -> Tensor:
    """A coded tensor of version 1 whose facts are what is said: one weight in the first of 16 places unless told."""
    book = (bits([0.5, 1], F32).tobytes() if not owner else b"") if book is None else book
    offsets = (b"\0" if b else b"") if offsets is None else offsets
    weights = b"\0" if weights is None else weights
    fields = varint(k) + varint(owner) + varint(n) + bytes([b, coders[0] << 4 | coders[1]])
    fields += varint(len(tables)) + varint(len(weights)) + (varint(fillers) + varint(len(offsets)) if b else b"")
    return Tensor(name, dtype, shape, CODED, fields, book + tables + offsets + weights)


def coded_facts() -> Broken:
    """Section 4: what the header says."""
    book, thick = entries(FEW), spread((9, 9), FEW, 2)
    first = coded("first", thick, book)
    shared = coded("second", thick, book.of(0))
    half = coded("half", spread((40,), [1, 2], 2, "<f2"), entries([1, 2], F16), 2, dtype=F16)
    found = {
        "k-4097": file(lied(k=4097)),
        "k-huge": file(lied(k=(1 << 63) - 1)),
        "n-above-the-elements": file(lied(n=17)),
        "n-huge": file(lied(n=(1 << 63) - 1)),
        "b-13": file(lied(b=13)),
        "b-255": file(lied(b=255)),
        "fillers-above-the-elements": file(lied(fillers=17)),
        "fillers-that-leave-no-place": file(lied(fillers=6)),
        "fillers-huge": file(lied(fillers=(1 << 63) - 1)),
        "of-integers": file(lied(dtype=U8, book=b"\1\2", shape=(64,))),
        "of-booleans": file(lied(dtype=BOOL, book=b"\1\2", shape=(64,))),
        "owner-is-the-tensor-itself": file(lied(owner=1)),
        "owner-is-a-later-tensor": file(replace(lied(owner=2), name="a"), first),
        "owner-is-raw": file(BYTES, lied(owner=1)),
        "owner-is-planes": file(planes("p", np.ones(40, "<f4")), lied(owner=1)),
        "owner-shares-its-codebook": file(first, shared, coded("third", thick, book.of(1))),
        "owner-is-an-alias": file(first, alias("tied", first, 0), coded("third", thick, book.of(1))),
        "owner-of-another-size": file(first, lied(owner=1, k=4)),
        "owner-of-another-dtype": file(half, lied(owner=1, k=2)),
        "length-of-weights-huge": file(lied(weights=bytes(99))),
        "section-longer-than-raw": file(lied(shape=(2,))),
        "lengths-whose-sum-overflows": file(_overflowing()),
        "offset-coder-literal": file(lied(coders=(LITERAL, FIXED))),
        "offset-coder-5": file(lied(coders=(5, FIXED))),
        "offset-coder-without-offsets": file(lied(b=0, n=0, coders=(FIXED, FIXED), weights=bytes(4))),
        "weight-coder-5": file(lied(coders=(FIXED, 5))),
        "weight-coder-15": file(lied(coders=(FIXED, 15))),
        "literal-without-offsets": file(lied(k=0, b=0, n=16, book=b"", coders=(NONE, LITERAL), weights=b"\1" * 64)),
        "literal-with-a-codebook": file(lied(coders=(FIXED, LITERAL), weights=b"\1" * 4)),
    }
    return {f"s04-{name}": (4, data) for name, data in found.items()}


def _overflowing() -> Tensor:
    fields = varint(2) + varint(0) + varint(1) + bytes([2, FIXED << 4 | FIXED])
    fields += varint((1 << 63) - 1) * 2 + varint(0) + varint(11)
    return Tensor("w", F32, (16,), CODED, fields, bytes(18))


def coded_streams() -> Broken:
    """Section 4: what the streams say."""
    literal: dict[str, Any] = {"k": 0, "book": b"", "coders": (FIXED, LITERAL)}
    full = (NONE, FIXED)  # without offsets: 16 symbols of 2 bits
    found = {
        "codebook-with-a-value-twice": file(lied(book=bits([1, 1], F32).tobytes())),
        "codebook-with-a-zero": file(lied(book=bits([0, 1], F32).tobytes())),
        "codebook-with-a-nan-twice": file(lied(book=bits([np.nan, np.nan], F32).tobytes())),
        "codebook-with-a-zero-that-nothing-uses": file(lied(weights=b"\x80", book=bits([0, 1], F32).tobytes())),
        "codebook-with-a-zero-and-no-weights": file(
            lied(n=0, coders=(NONE, NONE), offsets=b"", weights=b"", book=bits([0, 1], F32).tobytes())
        ),
        "literal-zero": file(lied(**literal, n=2, weights=bytes(4) + b"\1" * 4)),
        "literal-too-short": file(lied(**literal, n=2, weights=b"\1" * 7)),
        "literal-too-long": file(lied(**literal, n=1, weights=b"\1" * 5)),
        "literal-with-a-table": file(lied(**literal, n=1, tables=b"\0", weights=b"\1" * 4)),
        "last-offset-is-a-filler": file(lied(fillers=1, offsets=b"\x30")),
        "no-weights-but-a-filler": file(lied(n=0, fillers=1, coders=(FIXED, NONE), offsets=b"\xc0", weights=b"")),
        "fillers-more-than-announced": file(lied(n=2, offsets=b"\xc0", weights=b"\0")),
        "fillers-fewer-than-announced": file(lied(n=1, fillers=1, offsets=b"\0", weights=b"\0")),
        "offsets-lead-beyond-the-end": file(
            lied(shape=(6,), n=3, offsets=b"\xa8", book=b"", k=0, weights=b"\1" * 12, coders=(FIXED, LITERAL))
        ),
        "fillers-lead-beyond-the-end": file(
            lied(
                shape=(8,), n=3, fillers=1, offsets=b"\xea", book=b"", k=0, weights=b"\1" * 12, coders=(FIXED, LITERAL)
            )
        ),
        "weights-fewer-than-announced": file(lied(b=0, n=2, coders=full, weights=b"\x40" + bytes(3))),
        "weights-more-than-announced": file(lied(b=0, n=1, coders=full, weights=b"\x50" + bytes(3))),
        "weights-none-but-announced": file(lied(b=0, n=16, coders=full, weights=bytes(4))),
        "weights-announced-none": file(lied(b=0, n=0, coders=full, weights=b"\x40" + bytes(3))),
        "index-beyond-the-codebook": file(lied(k=3, book=bits([1, 2, 3], F32).tobytes(), weights=b"\xc0")),
        "index-beyond-the-codebook-without-offsets": file(lied(b=0, n=1, coders=full, weights=b"\xc0" + bytes(3))),
        "index-without-a-codebook": file(lied(k=0, book=b"")),
        "constant-index-without-a-codebook": file(
            lied(k=0, book=b"", coders=(FIXED, CONSTANT), tables=b"\0", weights=b"")
        ),
        "table-where-there-is-none": file(lied(tables=b"\0")),
        "table-missing": file(lied(coders=(CONSTANT, FIXED), offsets=b"")),
        "byte-behind-the-tables": file(lied(coders=(CONSTANT, FIXED), tables=b"\0\0", offsets=b"")),
    }
    return {f"s04-{name}": (4, data) for name, data in found.items()}


def tables() -> Broken:
    """Section 5: coders and code lengths, of the weights of a tensor without offsets."""
    table, payload = stream(np.resize([0, 1, 2, 1], 15), 3, HUFFMAN)  # 23 bits
    padded = payload[:-1] + bytes([payload[-1] | 1])

    def of(coder: int, tables: bytes = b"", weights: bytes = b"", n: int = 12, k: int = 2) -> bytes:
        book = bits(np.arange(1, k + 1), F32).tobytes()
        return file(lied((64,), k, n=4 * n, b=0, coders=(NONE, coder), tables=tables, weights=weights, book=book))

    four = stream(np.resize([0, 1, 2, 1], 64), 3, HUFFMAN)[1]
    found = {
        "no-coder-for-some-symbols": of(NONE),
        "constant-with-bytes": of(CONSTANT, b"\1", b"\0", n=16),
        "constant-beyond-the-alphabet": of(CONSTANT, b"\3", n=16),
        "constant-not-shortest": of(CONSTANT, b"\x81\0", n=16),
        "constant-without-a-symbol": of(CONSTANT, n=16),
        "fixed-too-short": of(FIXED, weights=b"\x55" * 15, n=16),
        "fixed-too-long": of(FIXED, weights=b"\x55" * 16 + b"\0", n=16),
        "fixed-padding": file(lied(n=1, weights=b"\x01")),
        "fixed-padding-of-offsets": file(lied(n=1, offsets=b"\x01")),
        "huffman-without-a-table": of(HUFFMAN, b"", four),
        "huffman-table-cut": of(HUFFMAN, table[:1], four),
        "huffman-no-lengths": of(HUFFMAN, b"\0", four),
        "huffman-more-lengths-than-symbols": of(HUFFMAN, *_code([2, 2, 2, 2], four)),
        "huffman-number-of-lengths-huge": of(HUFFMAN, varint(1 << 40), four),
        "huffman-last-length-0": of(HUFFMAN, *_code([1, 1, 0], four)),
        "huffman-one-symbol": of(HUFFMAN, *_code([1], four)),
        "huffman-only-zeros": of(HUFFMAN, *_code([0, 0, 0], four)),
        "huffman-underfull": of(HUFFMAN, *_code([2, 2, 2], four)),
        "huffman-overfull": of(HUFFMAN, *_code([1, 1, 1], four)),
        "huffman-length-16": of(HUFFMAN, b"\3" + _packed("111 1111 10 0"), four),
        "huffman-length-minus-1": of(HUFFMAN, b"\3" + _packed("110 10 10"), four),
        "huffman-length-not-shortest": of(HUFFMAN, b"\3" + _packed("111 0010 110 111 0010"), four),
        "huffman-same-length-not-shortest": of(HUFFMAN, b"\3" + _packed("111 0010 111 0010 110"), four),
        "huffman-padding-of-the-table": of(HUFFMAN, table[:-1] + bytes([table[-1] | 1]), four),
        "huffman-byte-behind-the-table": of(HUFFMAN, table + b"\0", four),
        "huffman-stream-too-short": of(HUFFMAN, table, four[:-1]),
        "huffman-stream-empty": of(HUFFMAN, table, b""),
        "huffman-stream-too-long": of(HUFFMAN, table, four + b"\0"),
        "huffman-stream-without-symbols": file(
            lied(n=0, coders=(NONE, HUFFMAN), offsets=b"", tables=_code([1, 1], b"")[0])
        ),
        "huffman-padding": file(lied((15,), n=11, b=0, coders=(NONE, HUFFMAN), tables=table, weights=padded)),
    }
    return {f"s05-{name}": (5, data) for name, data in found.items()}


def _packed(pattern: str) -> bytes:
    pattern = pattern.replace(" ", "")
    return int(pattern.ljust(-(-len(pattern) // 8) * 8, "0"), 2).to_bytes(-(-len(pattern) // 8), "big")


def _code(lengths: list[int], payload: bytes) -> tuple[bytes, bytes]:
    """The table of these lengths, whether they make a code or not, and the payload."""
    return _table(lengths), payload


def _table(lengths: list[int]) -> bytes:
    pattern, previous = "", 0
    for length in lengths:
        pattern += {0: "0", 1: "10", -1: "110"}.get(length - previous, f"111{length:04b}")
        previous = length
    return varint(len(lengths)) + _packed(pattern)


def lanes() -> Broken:
    """Section 5: lanes, of a byte plane of 2^17 symbols, two bits each in 64 lanes of 512 bytes but for the last."""
    symbols = np.arange(1 << 17) % 64 // 16
    symbols[63::64] = np.resize([3, 3, 3, 3, 3], 2048)
    table, payload = stream(symbols, 4, HUFFMAN)
    sizes, body = payload[:128], payload[128:]

    def of(payload: bytes) -> bytes:
        section = bytes([HUFFMAN]) + text(table + payload)
        return file(Tensor("x", U8, (1 << 17,), PLANES, varint(len(section)), section))

    shifted = (511).to_bytes(2, "little") + (513).to_bytes(2, "little") + sizes[4:]
    found = {
        "lanes-one-byte-missing": of(payload[:-1]),
        "lanes-one-byte-more": of(payload + b"\0"),
        "lanes-lengths-cut": of(payload[:100]),
        "lanes-lengths-too-long": of((513).to_bytes(2, "little") + sizes[2:] + body),
        "lanes-lengths-shifted": of(shifted + body),
        "lanes-none": of(body),
        "lanes-last-longer-than-its-symbols": of(sizes[:-2] + (513).to_bytes(2, "little") + body + b"\0"),
    }
    return {f"s05-{name}": (5, data) for name, data in found.items()}


def byte_planes() -> Broken:
    """Section 6."""

    def of(section: bytes, dtype: int = F16, shape: tuple[int, ...] = (16,), length: int | None = None) -> bytes:
        fields = varint(len(section) if length is None else length)
        return file(Tensor("w", dtype, shape, PLANES, fields, section))

    one, other = b"\1\1\0", b"\2" + text(bytes(range(16)))
    found = {
        "plane-missing": of(one),
        "no-planes": of(b""),
        "byte-behind-the-planes": of(one + one + b"\0"),
        "plane-longer-than-the-section": of(one + b"\2\x20" + bytes(16)),
        "plane-length-huge": of(one + b"\2" + varint((1 << 63) - 1) + bytes(9)),
        "plane-length-not-shortest": of(one + b"\1\x81\0\0"),
        "plane-too-short": of(one + b"\2" + text(bytes(15))),
        "plane-too-long": of(one + b"\2" + text(bytes(17))),
        "plane-constant-with-bytes": of(one + b"\1\2\0\0"),
        "plane-constant-of-256": of(one + b"\1\2\x80\2"),
        "plane-without-a-coder": of(one + b"\0\0"),
        "plane-literal": of(one + b"\4" + text(bytes(16))),
        "plane-coder-5": of(one + b"\5\1\0"),
        "section-longer-than-raw": of(other + other),
        "section-length-huge": of(one + one, length=(1 << 63) - 1),
        "of-an-empty-tensor": of(b"\0\0\0\0", shape=(0,)),
        "of-an-empty-tensor-without-bytes": of(b"", shape=(0,)),
        "bool-of-2": of(b"\1\1\2", BOOL),
    }
    return {f"s06-{name}": (6, data) for name, data in found.items()}
