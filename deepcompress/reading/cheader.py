"""A .dc file as a C header: its bytes for flash, a table of its tensors, and sizes as macros."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from deepcompress.container.entries import MAX_DIMENSIONS, Entry
from deepcompress.container.reader import ModelFile
from deepcompress.files import write_atomic

_PER_LINE = 16
_SUFFIXES = ("", "_ELEMENTS", "_BYTES")


def export_header(source: str | Path, path: str | Path, max_bytes: int | None = None) -> int:
    """Write the C header (C99 and C++) of a .dc file; returns how many tensors it has.

    Names in it begin with that of the header's file: ``model.h`` has ``model_file`` and ``MODEL_FILE_BYTES``.

    Raises:
        FormatError: the .dc file is missing, damaged, too new, or claims more than `max_bytes`.
        OutputError: the header cannot be written.
    """
    with ModelFile(source) as file:
        file.check(max_bytes)
        content = Path(source).read_bytes()
        header = file.header
        lines = _header(_identifier(Path(path).stem), content, header.entries, header.network, header.data)
        write_atomic(path, "".join(f"{line}\n" for line in lines).encode("ascii"))
        return len(header.entries)


def _header(name: str, content: bytes, entries: Sequence[Entry], network: str, data: str) -> Iterator[str]:
    upper = name.upper()
    sizes = [entry.info.nbytes for entry in entries]
    yield "/* A .dc file and what is in it, made by deepcompress. Do not edit. */"
    yield f"#ifndef {upper}_H_\n#define {upper}_H_\n\n#include <stdint.h>\n"
    yield f"#define {upper}_NETWORK {_literal(network)}\n#define {upper}_DATA {_literal(data)}"
    yield f"#define {upper}_FILE_BYTES {len(content)}UL"
    yield f"#define {upper}_TENSORS {len(entries)}"
    yield f"#define {upper}_DENSE_BYTES {sum(sizes)}ULL /* all tensors, decoded */"
    yield f"#define {upper}_LARGEST_BYTES {max(sizes, default=0)}ULL /* the largest of them */\n"
    yield "/* Of each tensor: its number, its elements, its bytes when it is decoded. */"
    yield from _macros(upper, entries)
    yield f"\nstruct {name}_tensor {{\n    const char *name, *dtype;\n    uint64_t elements, bytes;"
    yield f"    uint32_t rank;\n    uint64_t shape[{MAX_DIMENSIONS}];\n}};\n"
    yield f"static const struct {name}_tensor {name}_tensors[{max(len(entries), 1)}] = {{"
    yield from (f"    {row}," for row in (map(_row, entries) if entries else ["{0}"]))
    yield f"}};\n\nstatic const uint8_t {name}_file[{upper}_FILE_BYTES] = {{"
    for at in range(0, len(content), _PER_LINE):
        yield "    " + " ".join(f"0x{byte:02x}," for byte in content[at : at + _PER_LINE])
    yield "};\n\n#endif"


def _row(entry: Entry) -> str:
    info = entry.info
    shape = ", ".join(f"{n}U" if n < 1 << 32 else f"{n}ULL" for n in info.shape) or "0"
    dtype = info.dtype.name.lower()
    return f'{{{_literal(entry.name)}, "{dtype}", {info.size}ULL, {info.nbytes}ULL, {len(info.shape)}, {{{shape}}}}}'


def _macros(upper: str, entries: Sequence[Entry]) -> Iterator[str]:
    """The macros of each tensor; where names become the same, the later one gets a number."""
    taken = {f"{upper}_{word}" for word in ("NETWORK", "DATA", "FILE_BYTES", "TENSORS", "DENSE_BYTES", "LARGEST_BYTES")}
    taken |= {f"{upper}_H_"}
    for number, entry in enumerate(entries):
        plain = f"{upper}_{re.sub('[^A-Z0-9_]', '_', entry.name.upper())}"
        names = iter([plain, *(f"{plain}_{n}" for n in range(number, number + len(entries) + 9))])
        macro = next(name for name in names if not taken & {name + suffix for suffix in _SUFFIXES})
        taken |= {macro + suffix for suffix in _SUFFIXES}
        yield f"#define {macro} {number}"
        yield f"#define {macro}_ELEMENTS {entry.info.size}ULL"
        yield f"#define {macro}_BYTES {entry.info.nbytes}ULL"


def _identifier(stem: str) -> str:
    """A file's name as one of C."""
    name = re.sub("[^A-Za-z0-9_]", "_", stem)
    return name if re.match("[A-Za-z]", name) else f"dc_{name}"


def _literal(text: str) -> str:
    """A string of C that has these characters as UTF-8, and nothing that a compiler takes for something else."""
    raw = text.encode("utf-8")
    return '"' + "".join(chr(b) if 32 <= b < 127 and b not in b'"\\?' else f"\\{b:03o}" for b in raw) + '"'
