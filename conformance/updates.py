"""Write the updates of the suite: `python conformance/updates.py`. It needs the package.

`diff` makes the valid ones, whatever their size is beside that of the new file. They are kept as they are: a later
release may make others, but must apply these.
"""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import craft
import numpy as np
import update_numbers
from craft import (
    BF16,
    BY_COLUMN,
    DEFLATED,
    F16,
    F32,
    F64,
    FIXED,
    HUFFMAN,
    I64,
    LITERAL,
    SQUARES,
    U8,
    File,
    Tensor,
    text,
    varint,
    zigzag,
)
from update_numbers import KEPT

from deepcompress.container import deflate
from deepcompress.container.reader import ModelFile
from deepcompress.updates import telling
from deepcompress.updates.container import Kind, write_facts, write_head

HERE = Path(__file__).resolve().parent / "updates"
SEVEN = (-1.5, -0.75, -0.25, 0.25, 0.5, 1.0, 1.75)
Array = np.ndarray[Any, np.dtype[Any]]


# Valid -----------------------------------------------------------------------------------------------------


def weights(shape: tuple[int, ...], book: Sequence[float], seed: int, density: float = 0.3) -> tuple[Array, Array]:
    """Shared weights, and the same with some that fell, came back or moved, both by a book in falling frequency."""
    rng, size = np.random.default_rng(seed), int(np.prod(shape, dtype=int))
    old = np.where(rng.random(size) < density, rng.integers(0, len(book), size) + 1, 0)
    new = np.where(rng.random(size) < 0.1, np.clip(old + rng.integers(-1, 2, size), 0, len(book)), old)
    values = np.array([0, *book], "<f4")
    return values[old].reshape(shape), values[new].reshape(shape)


def moved(values: Sequence[float]) -> list[float]:
    """A codebook after some training."""
    return [float(np.float32(value * 1.01 + 0.001)) for value in values]


def pair(make: Any, *shapes: tuple[int, ...], book: Sequence[float] = SEVEN, **more: Any) -> tuple[File, File]:
    """Two files of such tensors: `make` gives one of a name, values and a codebook."""
    files = []
    for is_new in (0, 1):
        tensors = [
            make(f"layer{number}.weight", weights(shape, book, number, **more)[is_new], craft.entries(list(book)))
            for number, shape in enumerate(shapes)
        ]
        files.append(tensors)
    return File(files[0]), File(files[1])


def by_offsets(name: str, values: Any, book: craft.Book) -> Tensor:
    """Version 1, as `compress` writes it."""
    return craft.coded(name, values, book, 3)


def v2(files: tuple[File, File], **more: Any) -> tuple[File, File]:
    """Files of version 2."""
    old, new = files
    return File(old.tensors, 2, DEFLATED, **more), File(new.tensors, 2, DEFLATED, **more)


def exact(dtype: int, shape: tuple[int, ...], make: Any, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A tensor of any numbers, and one a step of training later."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=shape)
    later = values + 1e-3 * rng.normal(size=shape) * (rng.random(shape) < 0.7)
    if dtype == BF16:
        old, new = ((each.astype("<f4").view("<u4") >> 16).astype("<u2") for each in (values, later))
    elif dtype in (F32, F16, F64):
        old, new = (each.astype(craft.STORES[dtype]) for each in (values, later))
    else:
        old, new = ((40 * np.abs(each)).astype(craft.STORES[dtype]) for each in (values, later))
    return make("w", old, dtype), make("w", new, dtype)


def cases() -> dict[str, tuple[File, File]]:
    """Old and new files by the name that says what the update must tell."""
    shared = pair(by_offsets, (24, 40), (6, 24))
    named = File(shared[1].tensors, network="lenet5", data="mnist", extensions=[(0, "note", b"of 1 byte and more")])
    small, large = weights((16, 30), SEVEN, 1)[0], weights((16, 30), SEVEN, 1)[1]
    more = sorted((*SEVEN, -2.0, -0.5, 0.1, 0.75, 2.5))
    finer = np.where((large != 0) & (np.arange(480).reshape(16, 30) % 7 == 0), np.float32(0.75), large)
    book, later = craft.entries(list(SEVEN)), craft.entries(moved(SEVEN))
    later_of = dict(zip((0.0, *SEVEN), (0.0, *moved(SEVEN)), strict=True))
    values_later = np.array([later_of[float(value)] for value in large.flat], "<f4").reshape(large.shape)
    adaptive = craft.adaptive
    return {
        "offsets": shared,
        "offsets-back": shared[::-1],
        "offsets-fixed": pair(lambda n, v, b: craft.coded(n, v, b, 3, (FIXED, FIXED)), (24, 40)),
        "offsets-wide": pair(lambda n, v, b: craft.coded(n, v, b, 9), (40, 60), density=0.02),
        "dense": pair(craft.coded, (24, 40), density=0.8),
        "dense-fixed": pair(lambda n, v, b: craft.coded(n, v, b, 0, (0, FIXED)), (12, 24)),
        "dense-huffman-in-lanes": pair(craft.coded, (360, 370), density=0.05),
        "one-dimension": pair(by_offsets, (300,)),
        "four-dimensions": pair(by_offsets, (6, 5, 3, 3)),
        "two-blocks": pair(by_offsets, (260, 260), density=0.03),
        "nothing-left": (File([by_offsets("w", small, book)]), File([by_offsets("w", np.zeros_like(small), book)])),
        "all-come-back": (
            File([by_offsets("w", np.zeros_like(small), book)]),
            File([by_offsets("w", np.full((16, 30), np.float32(0.5)), book)]),
        ),
        "codebook-moved": (File([by_offsets("w", small, book)]), File([by_offsets("w", values_later, later)])),
        "codebook-larger": (
            File([by_offsets("w", small, book)]),
            File([by_offsets("w", finer, craft.entries(more))]),
        ),
        "codebook-smaller": (
            File([by_offsets("w", finer, craft.entries(more))]),
            File([by_offsets("w", small, book)]),
        ),
        "codebook-of-halves": v2(
            (
                File([craft.coded("w", small, craft.halves(SEVEN), 3, version=2)]),
                File([craft.coded("w", large, craft.halves(SEVEN), 3, version=2)]),
            )
        ),
        "codebook-on-another-grid": v2(
            (
                File([craft.coded("w", small, craft.grid(0.25, [-6, -3, -1, 1, 2, 4, 7]), 3, version=2)]),
                File([craft.coded("w", 2 * large, craft.grid(0.5, [-6, -3, -1, 1, 2, 4, 7], 3), 3, version=2)]),
            )
        ),
        "codebook-of-another-tensor": (
            File([by_offsets("a", small, book), by_offsets("b", small, book.of(0))]),
            File([by_offsets("a", large, book), by_offsets("b", large[::-1], book.of(0))]),
        ),
        "adaptive": v2(pair(adaptive, (24, 40), (6, 24))),
        "adaptive-by-column": v2(pair(lambda n, v, b: adaptive(n, v, b, BY_COLUMN), (24, 40))),
        "adaptive-squares": v2(pair(lambda n, v, b: adaptive(n, v, b, BY_COLUMN | SQUARES, 5), (8, 50))),
        "adaptive-three-dimensions": v2(pair(adaptive, (6, 5, 12))),
        "adaptive-float16": v2((_halves(small), _halves(large))),
        "adaptive-to-offsets": (File([adaptive("w", small, book)], 2), File([by_offsets("w", large, book)])),
        "offsets-to-adaptive": (File([by_offsets("w", small, book)]), File([adaptive("w", large, book)], 2, DEFLATED)),
        "literal": (_literal(small), _literal(large)),
        **{f"exact-{name}": _files(exact(dtype, (20, 30), craft.planes)) for name, dtype in EXACT.items()},
        "exact-raw": _files(exact(F32, (9,), craft.raw)),
        "exact-rows": _rows(),
        "same-renamed-new-and-gone": (
            File([by_offsets("a", small, book), craft.raw("b", [1.0, 2.0]), craft.raw("c", [3.0])]),
            File([craft.raw("new", [9.0, 8.0, 7.0]), by_offsets("renamed", small, book), craft.raw("c", [3.0])]),
        ),
        "alias-and-copy": _tied(),
        "labels": (shared[0], named),
        "labels-gone": (named, shared[0]),
        "header-as-deepcompress-would-not-write-it": (shared[0], File(shared[1].tensors, 2, 0)),
        "no-tensors": (shared[0], File()),
        "equal": (shared[0], shared[0]),
        **update_numbers.pairs(),
    }  # fmt: skip


EXACT = {"float32": F32, "float16": F16, "bfloat16": BF16, "float64": F64, "uint8": U8, "int64": I64}


def _files(tensors: tuple[Tensor, Tensor]) -> tuple[File, File]:
    return File([tensors[0]]), File([tensors[1]])


def _halves(values: Array) -> File:
    return File([craft.adaptive("w", values.astype("<f2"), craft.entries(np.array(SEVEN, "<f2"), F16), dtype=F16)])


def _literal(values: Array) -> File:
    weights = values * np.linspace(1, 2, 480, dtype="<f4").reshape(16, 30)
    return File([craft.coded("w", weights, craft.entries([]), 3, (HUFFMAN, LITERAL))])


def _rows() -> tuple[File, File]:
    old, new = (np.frombuffer(tensor.raw, "<f4").reshape(6, 40).copy() for tensor in exact(F32, (6, 40), craft.raw))
    kinds = [0, 1, 2, 3, 1, 2]
    for values in (old, new):
        bits = values.view("<u4")
        bits[0] = bits[0, 0]
        bits[[2, 5]] &= np.uint32(0xFFFFE000)
        bits[3] &= np.uint32(0xFFFF0000)
    return File([craft.rows("w", old, kinds)], 3), File([craft.rows("w", new, kinds)], 3)


def _tied() -> tuple[File, File]:
    first, second = exact(F32, (8, 9), craft.planes)
    return (
        File([first, craft.copy("tied", first, 0), craft.raw("x", [1.0])], 3),
        File([craft.raw("a", [2.0]), second, craft.alias("tied", second, 1)], 3),
    )


def update(old: bytes, new: bytes) -> bytes:
    """What `diff` makes of two files, before it looks whether the new file is shorter."""
    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder) / "old.dc", Path(folder) / "new.dc"
        for path, content in zip(paths, (old, new), strict=True):
            path.write_bytes(content)
        payload, out = io.BytesIO(), io.BytesIO()
        with ModelFile(paths[0]) as before, ModelFile(paths[1]) as after:
            facts, version = telling.make(before, after, payload)
        write_head(out, hashlib.sha256(old).digest(), hashlib.sha256(new).digest(), Kind.TENSORS, version)
        write_facts(out, facts, payload.tell())
    return out.getvalue() + payload.getvalue()


def valid() -> dict[str, bytes]:
    """Old files and updates."""
    out = {}
    for name, (old, new) in cases().items():
        out[f"{name}.dc"] = old.to_bytes()
        out[f"{name}.dcp"] = update(old.to_bytes(), new.to_bytes())
    before, after = (each.to_bytes() for each in cases()["offsets"])
    out["whole.dc"] = before
    out["whole.dcp"] = head(before, after, 0) + after
    return out


# Invalid: all of them for one old file ---------------------------------------------------------------------

OLD = File([craft.raw("b", [1.0, 2.0]), by_offsets("w", weights((4, 8), SEVEN, 1)[0], craft.entries(list(SEVEN))),
            craft.planes("z", np.linspace(1, 2, 64).astype("<f4")), update_numbers.M, update_numbers.R], 3)  # fmt: skip


def head(old: bytes, new: bytes, kind: int, version: int = 1) -> bytes:
    """The first bytes of an update."""
    names = hashlib.sha256(old).digest()[:8] + hashlib.sha256(new).digest()[:16]
    return b"\x89DP" + bytes([version]) + names + bytes([kind])


def told(facts: bytes, payload: bytes = b"", new: bytes = b"", version: int = 1) -> bytes:
    """An update of the old file, whose facts are not deflated."""
    return head(OLD.to_bytes(), new, 1, version) + varint(len(facts)) + varint(0) + facts + payload


def name(rest: str | bytes, shared: int = 0) -> bytes:
    """A name by what it has in common with the one before it."""
    return varint(shared) + text(rest)


SAME_ALL = b"\x00" + zigzag(0) + varint(5)
RAW2 = text(b"\x10\x00\x02")  # the layout of two float32, raw
W = b"\x03" + name("w") + zigzag(1)  # `w` by the old one
NEW_W = b"\x02" + name("w")


def changed(book: bytes, *numbers: int, payload: bytes = b"") -> bytes:
    """An update of `w` by the old one: what is told of layout and codebook, how many changes, and bytes."""
    return told(b"\x00" + W + book + b"".join(map(varint, numbers)), payload)


def exactly(*numbers: int, layout: bytes = b"\x00", payload: bytes = b"") -> bytes:
    """An update of `b` by its old elements: shift, changes, and bytes."""
    return told(b"\x00\x04" + name("b") + zigzag(0) + layout + b"".join(map(varint, numbers)), payload)


def invalid() -> dict[str, tuple[int, bytes]]:
    """By name: the section of the specification that each breaks, and the update."""
    old = OLD.to_bytes()
    good = told(b"\x00" + SAME_ALL, b"", old)
    w = OLD.tensors[1]
    differing = head(old, b"another", 1) + good[29:]
    deflated = deflate.by_zlib(b"\x00" + SAME_ALL, deflate.DICTIONARY)
    facts = varint(len(SAME_ALL) + 1)
    wide = head(old, old, 1)
    return {
        "magic": (1, b"\x89DQ" + good[3:]),
        "no-bytes": (1, b""),
        "cut-in-the-head": (1, good[:20]),
        "version-3": (1, good[:3] + b"\x03" + good[4:]),
        "another-old-file": (1, good[:4] + bytes(8) + bytes(16) + good[28:]),
        "already-applied": (1, head(b"other", old, 1) + good[29:]),
        "kind-3": (1, good[:28] + b"\x03" + good[29:]),
        "another-new-file": (1, differing),
        "whole-of-another-file": (1, head(old, b"another", 0) + b"some file"),
        "no-facts": (2, wide),
        "facts-cut-short": (2, wide + varint(9) + varint(0) + b"\x00"),
        "facts-not-in-the-shortest-form": (2, wide + b"\x84\x00" + varint(0) + b"\x00" + SAME_ALL),
        "facts-too-many": (2, wide + varint((1 << 26) + 1) + varint(3) + deflated),
        "facts-that-cannot-be-inflated": (2, wide + facts + varint(4) + b"\xff\xff\xff\xff"),
        "facts-inflated-to-more": (2, wide + varint(2) + varint(len(deflated)) + deflated),
        "facts-inflated-to-fewer": (2, wide + varint(9) + varint(len(deflated)) + deflated),
        "facts-with-a-byte-behind": (2, wide + facts + varint(len(deflated) + 1) + deflated + b"\x00"),
        "payload-too-long": (2, good + b"\x00"),
        "flags-4": (3, told(b"\x04" + SAME_ALL)),
        "no-flags": (3, told(b"")),
        "labels-cut-short": (3, told(b"\x01\x00")),
        "header-that-cannot-be-inflated": (3, told(b"\x02" + varint(20) + varint(3) + SAME_ALL, b"\xff\xff\xff")),
        "header-of-no-bytes": (3, told(b"\x02\x00\x00" + SAME_ALL)),
        "header-longer-than-the-update": (3, told(b"\x02" + varint(20) + varint(30) + SAME_ALL, b"\x00")),
        "op-5-in-version-1": (3, told(*update_numbers.of("r"))),
        "run-of-none": (3, told(b"\x00\x00" + zigzag(0) + varint(0))),
        "run-beyond-the-last": (3, told(b"\x00\x00" + zigzag(1) + varint(5))),
        "base-below-0": (3, told(b"\x00\x01" + name("w") + zigzag(-1))),
        "base-beyond-the-last": (3, told(b"\x00\x01" + name("w") + zigzag(5))),
        "name-empty": (3, told(b"\x00\x01" + name("") + zigzag(1))),
        "name-not-utf-8": (3, told(b"\x00\x01" + name(b"\xff") + zigzag(1))),
        "name-not-printable": (3, told(b"\x00\x01" + name("a\x1bb") + zigzag(1))),
        "name-too-long": (3, told(b"\x00\x01" + name("a" * 513) + zigzag(1))),
        "name-shares-too-much": (3, told(b"\x00\x01" + name("w", 1) + zigzag(1))),
        "name-shares-more-than-it-says": (
            3,
            told(b"\x00\x01" + name("ab") + zigzag(1) + b"\x01" + name("ac") + zigzag(-1)),
        ),
        "name-there-twice": (3, told(b"\x00\x01" + name("w") + zigzag(1) + b"\x01" + name("", 1) + zigzag(-1))),
        "record-cut-short": (3, told(b"\x00\x01" + name("w"))),
        "alias-of-none": (3, told(b"\x00" + NEW_W + text(b"\x10\x03\x02\x00") + varint(0))),
        "layout-unknown": (3, told(b"\x00" + NEW_W + text(b"\x10\x0e\x02") + varint(8), bytes(8))),
        "layout-with-a-byte-behind": (3, told(b"\x00" + NEW_W + text(b"\x10\x00\x02\x00") + varint(8), bytes(8))),
        "stored-without-a-layout": (3, told(b"\x00" + NEW_W + varint(0) + varint(8), bytes(8))),
        "stored-of-another-length": (3, told(b"\x00" + NEW_W + RAW2 + varint(9), bytes(9))),
        "stored-beyond-the-end": (2, told(b"\x00" + NEW_W + RAW2 + varint(8), bytes(7))),
        "shared-by-raw-elements": (4, told(b"\x00\x03" + name("b") + zigzag(0) + KEPT + varint(0) * 4)),
        "shared-of-another-size": (4, changed(text(b"\x10\x02\x08" + w.fields) + b"\x00", 0, 0, 0, 0)),
        "codebook-in-way-4": (4, changed(b"\x00\x04", 0, 0, 0, 0)),
        "codebook-told-in-form-5": (4, changed(b"\x00\x01\x00\x05", 0, 0, 0, 0, 0, 0, 0)),
        "codebook-told-of-another-length": (4, changed(b"\x00\x01\x02\x00\x07", 0, 0, 0, 0, payload=bytes(7))),
        "codebook-of-no-owner": (4, changed(b"\x00\x03", 0, 0, 0, 0)),
        "codebook-with-a-value-twice": (
            4,
            changed(b"\x00\x01\x02\x00\x08", 0, 0, 0, 0, payload=b"\x00\x00\x80\x3f" * 2),
        ),
        "more-fall-than-there-are": (5, changed(KEPT, 0, 33, 0, 0)),
        "more-come-back-than-there-are": (5, changed(KEPT, 33, 0, 0, 0)),
        "changes-without-a-change": (5, changed(KEPT, 0, 0, 0, 1, payload=b"\x01")),
        "changes-start-with-0": (5, changed(KEPT, 0, 1, 0, 2, payload=b"\x00\x01")),
        "changes-do-not-end": (5, changed(KEPT, 0, 1, 0, 9, payload=b"\x7f" * 9)),
        "exact-by-another-width": (3, exactly(0, 0, 0, layout=text(b"\x11\x00\x02"))),
        "exact-of-a-coded-layout": (3, told(b"\x00\x04" + name("w") + zigzag(1) + varint(0) * 4)),
        "exact-with-a-shift-of-64": (3, exactly(64, 0, 0)),
        "differences-without-a-block": (6, exactly(0, 0, 0)),
        "differences-of-another-number": (6, exactly(0, 1, 2, payload=b"\x01\x00")),
        "differences-with-bits-behind": (6, exactly(0, 0, 3, payload=b"\x02\x00\x00")),
        "differences-start-with-0": (6, exactly(0, 0, 3, payload=b"\x02\x01\x00")),
    } | {
        f"v2-{what}": (section, told(*parts, version=2)) for what, (section, parts) in update_numbers.broken().items()
    }  # fmt: skip


def write() -> None:
    """All files, in the place of those that are there."""
    broken = invalid()
    sections = {name: section for name, (section, _) in broken.items()}
    refused = {f"{name}.dcp": content for name, (_, content) in broken.items()}
    refused |= {"old.dc": OLD.to_bytes(), "sections.json": (json.dumps(sections, indent=1) + "\n").encode()}
    groups = {"valid": valid(), "invalid": refused}
    for group, files in groups.items():
        folder = HERE / group
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            path.unlink()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        print(f"{folder}: {len(files)} files, {sum(map(len, files.values())):,} bytes")


if __name__ == "__main__":
    write()
