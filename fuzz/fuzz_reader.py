"""Coverage-guided fuzzing of the reader of .dc files, with atheris: `python fuzz/fuzz_reader.py fuzz/corpus`.

An input is a .dc file. Random damage to one would end at its checksums, so `mutate` takes the file apart, damages the
header or a section, and puts it together with lengths and checksums that are right: what an attacker would do. Every
input is then read in every way that the package has; see `check` for what must hold.

Importing this module needs no atheris: the tests run `check` over the corpus, and over mutations of it.
"""

from __future__ import annotations

import math
import os
import random
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "container"))

#: What the tensors of an input may take together.
MAX_BYTES = 1 << 18
#: Up to so many bytes of tensors the reader in readers/python reads the file, too; it is slow.
COMPARED_UP_TO = 1 << 13
#: A header may describe sections of so many bytes that are not there; `assemble` then appends zeros.
MAX_PADDING = 1 << 12

Tensors = dict[str, tuple[bytes, tuple[int, ...], str]]


def check(data: bytes, path: Path) -> str:
    """Read `data`, by way of the file `path`, in all ways, and assert what must hold of every file there can be.

    It is refused with a FormatError, or its tensors have the shapes and types that the header announces and take no
    more than `MAX_BYTES`. What is accepted is accepted by the reader in readers/python, with the same tensors, and its
    header is the one that the writer would write. And where short streams have lanes, two threads of the compiled
    kernels and their slow twins give the same tensors, or both refuse.

    Returns:
        ``accepted`` or ``refused``, as the format of today has it.
    """
    path.write_bytes(data)
    found = load(path)
    if found is not None:
        compare_with_plain_reader(data, found)
        check_facts(path, data)
    with lanes_in_short_streams():
        compiled = load(path, workers=2)
        with without_kernels():
            plain = load(path)
        assert plain == compiled, "the compiled kernels and their slow twins disagree"
    return "refused" if found is None else "accepted"


def load(path: Path, workers: int = 1) -> Tensors | None:
    """Everything in the file, by so many threads: name -> (bytes, shape, type); None if it is refused."""
    from deepcompress.container.entries import is_printable
    from deepcompress.container.reader import ModelFile
    from deepcompress.errors import FormatError

    try:
        with ModelFile(path) as file:
            file.check(MAX_BYTES)
            found: Tensors = {}
            for name in file:
                info = file.entry(name).info
                values, dtype = file.read(name, workers)
                assert (values.shape, dtype, values.dtype) == (info.shape, info.dtype, info.dtype.storage)
                assert is_printable(name)
                found[name] = (values.tobytes(), values.shape, dtype.name)
            assert sum(len(raw) for raw, _, _ in found.values()) <= MAX_BYTES
            return found
    except FormatError as error:
        assert str(error).startswith(str(path))
        return None


def compare_with_plain_reader(data: bytes, found: Tensors) -> None:
    """The reader that was written from the specification alone must accept the file, and give the same tensors."""
    import plain_reader

    from deepcompress.coding.dtypes import DType

    if sum(math.prod(shape) for _, shape, _ in found.values()) > COMPARED_UP_TO:
        return
    values, _ = plain_reader.read(data)
    assert {name: (raw, shape, DType(dtype).name) for name, (dtype, shape, raw) in values.items()} == found


def check_facts(path: Path, data: bytes) -> None:
    """`inspect` accounts for every byte, and the header is the one way to write what it says."""
    from deepcompress.container.breakdown import inspect
    from deepcompress.container.format import header_span, pack_header, unpack_header

    facts = inspect(path)
    assert sum(facts.sections.values()) == len(data) == facts.file_bytes
    assert math.isfinite(facts.ratio)
    span = header_span(data[:16], len(data))
    header = unpack_header(data[:span], len(data))
    assert header.version >= 2 or pack_header(header) == data[:span]  # deflate has many ways to write the same


@contextmanager
def lanes_in_short_streams() -> Iterator[None]:
    """Short streams have lanes, compiled kernels and threads, as long ones do: not the format, but the same code."""
    from deepcompress.coding import lanes, offsets

    small = {(lanes, "LANES_FROM"): 256, (lanes, "SYMBOLS_PER_LANE"): 64, (lanes, "_KERNELS_FROM"): 16}
    small |= {(lanes, "_LANES_PER_THREAD"): 2, (offsets, "CHUNK"): 512}
    before = {place: getattr(*place) for place in small}
    for place, value in small.items():
        setattr(*place, value)
    try:
        yield
    finally:
        for place, value in before.items():
            setattr(*place, value)


@contextmanager
def without_kernels() -> Iterator[None]:
    """As if numba were not there."""
    from deepcompress.coding import lanes

    before = lanes.kernels
    lanes.kernels = lambda: None  # type: ignore[assignment]
    try:
        yield
    finally:
        lanes.kernels = before


# Mutations that leave the checksums right ------------------------------------------------------------------


class _AnySize(int):
    """A file size that agrees with whatever a header adds up to."""

    __hash__ = int.__hash__

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False


def assemble(version: int, body: bytes, sections: bytes) -> bytes:
    """A file with this header: lengths and checksums are right, and sections are cut or padded to what it describes.

    If the header is not valid, then at least its own length and checksum and that of the file are right.
    """
    from deepcompress.coding.bits import varint
    from deepcompress.container import deflate
    from deepcompress.container.entries import crc_bytes
    from deepcompress.container.format import pack_header, unpack_header
    from deepcompress.errors import FormatError

    start = b"\x89DC" + bytes([version] if version < 2 else [version, 0]) + varint(len(body)) + body
    start += crc_bytes(start) if version < 2 else b""
    if version == 3:  # where names are as in version 2 only in a header that is deflated
        packed = deflate.compress(body[: deflate.LONGEST])
        start = b"\x89DC\x03\x01" + varint(len(packed)) + varint(min(len(body), deflate.LONGEST)) + packed
    try:
        header = unpack_header(start, _AnySize(0))
    except FormatError:
        return start + sections + crc_bytes(start, sections)
    sections = sections.ljust(min(header.file_size - header.size - 4, len(sections) + MAX_PADDING), b"\0")
    sections = sections[: header.file_size - header.size - 4]
    entries = []
    for entry in header.entries:
        at = entry.start - header.size
        entries.append(replace(entry, crc=zlib.crc32(sections[at : at + entry.info.section])))
    start = pack_header(replace(header, entries=tuple(entries)))
    return start + sections + crc_bytes(start, sections)


def take_apart(data: bytes) -> tuple[int, bytes, bytes]:
    """Version, fields of the header, and all between header and checksum of the file; the inverse of `assemble`."""
    from deepcompress.coding.bits import Reader
    from deepcompress.container import deflate
    from deepcompress.errors import FormatError

    try:
        reader = Reader(data[3:], "file")
        version = reader.byte("version")
        flags = reader.byte("flags") if version >= 2 else 2
        length = reader.varint("length of the header", limit=len(data))
        inflated = reader.varint("inflated length", limit=deflate.LONGEST) if flags & 1 else 0
        body = bytes(reader.take(length, "header"))
        body = deflate.expand(body, inflated) if inflated else body
    except FormatError:
        return 1, data[4:], b""
    return version, body, data[len(data) - len(reader) + (4 if flags & 2 else 0) : -4]


def mutate(data: bytes, max_size: int, seed: int, some_bytes: Callable[[bytes, int], bytes]) -> bytes:
    """A file like `data`, changed somewhere by `some_bytes` (bytes and the most there may be -> other bytes).

    Mostly it is a header or a place in the sections that changes, and the checksums are right; seldom any byte.
    """
    rng = random.Random(seed)
    kind = rng.randrange(16)
    if kind == 0:
        return some_bytes(data, max_size)
    version, body, sections = take_apart(data)
    if kind < 8 or not sections:
        changed = assemble(version, some_bytes(body, len(body) + 16), sections)
    else:
        # A window keeps its length half of the time, so that what comes after it stays where it was.
        begin = rng.randrange(len(sections))
        end = min(len(sections), begin + rng.choice((1, 2, 4, 16, 64)))
        window = some_bytes(sections[begin:end], end - begin + 8)
        if kind < 12:
            window = window[: end - begin].ljust(end - begin, b"\0")
        changed = assemble(version, body, sections[:begin] + window + sections[end:])
    return changed if len(changed) <= max_size else data


def main() -> None:
    """Fuzz until told to stop; the arguments are libFuzzer's."""
    import atheris

    # An index beyond an array is an error in the kernels, too, instead of silence. Not in the user's cache.
    os.environ["NUMBA_BOUNDSCHECK"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NUMBA_CACHE_DIR"] = folder
        import deepcompress.coding.kernels  # before the others: numba cannot compile what atheris has instrumented

        with atheris.instrument_imports(include=["deepcompress"]):
            import deepcompress.container.breakdown
            import deepcompress.container.writer  # noqa: F401
        path = Path(folder) / "model.dc"

        def run(data: bytes) -> None:
            check(data, path)

        def custom(data: bytes, max_size: int, seed: int) -> Any:
            return mutate(data, max_size, seed, atheris.Mutate)

        atheris.Setup(sys.argv, run, custom_mutator=custom)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
