"""GGUF, the format of llama.cpp: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md

Floats and integers are tensors of their dtype. Blocks of quantized values are left as they are: rows of bytes.
"""

from __future__ import annotations

import mmap
import struct
from functools import partial
from pathlib import Path
from typing import Any

import torch

from deepcompress.checkpoint.stored import Shape, Stored
from deepcompress.errors import CheckpointError

_PLAIN = {
    0: torch.float32,
    1: torch.float16,
    24: torch.int8,
    25: torch.int16,
    26: torch.int32,
    27: torch.int64,
    28: torch.float64,
    30: torch.bfloat16,
}
#: Quantized types: how many values a block has, and bytes.
_BLOCKS = {
    2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40), 10: (256, 84), 11: (256, 110),
    12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66), 17: (256, 74), 18: (256, 98),
    19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136), 29: (256, 56), 34: (256, 54),
    35: (256, 66), 39: (32, 17), 40: (64, 36), 41: (128, 18),
}  # fmt: skip
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MOST_DIMENSIONS = 8


class _Cursor:
    """Reads numbers and text one after the other, and never beyond the end."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data, self.path, self.place = data, path, 4

    def bad(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: a GGUF file that {what}")

    def skip(self, count: int) -> int:
        """Where `count` bytes begin, which are passed."""
        start = self.place
        if count > len(self.data) - start:
            raise self.bad("is cut short")
        self.place += count
        return start

    def number(self, code: str) -> Any:
        return struct.unpack_from(f"<{code}", self.data, self.skip(struct.calcsize(f"<{code}")))[0]

    def text(self) -> str:
        count = self.number("Q")
        start = self.skip(count)
        return self.data[start : start + count].decode("utf-8", "replace")

    def value(self, kind: int, depth: int = 0) -> Any:
        """A value of the metadata; of an array only that it was there."""
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY and depth < 4:
            inner, count = self.number("I"), self.number("Q")
            if inner in _SCALARS:
                self.skip(count * struct.calcsize(f"<{_SCALARS[inner]}"))
                return None
            for _ in range(count):  # each takes bytes of the file, so it ends
                self.value(inner, depth + 1)
            return None
        if kind not in _SCALARS:
            raise self.bad(f"has a value of the unknown kind {kind}")
        return self.number(_SCALARS[kind])


def read(path: Path) -> tuple[dict[str, Stored], dict[str, str | int | float], list[str]]:
    """Its tensors, which stay in the file, its metadata that is plain, and the names of the quantized ones.

    Shapes are as torch has them: GGUF counts dimensions from the innermost.

    Raises:
        CheckpointError: the file is damaged, of another version, or has tensors of an unknown type.
    """
    with path.open("rb") as stream:
        data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    cursor = _Cursor(data, path)
    version = cursor.number("I")
    if version not in (2, 3):
        order = " (of a big-endian machine?)" if version & 0xFFFF == 0 else ""
        raise cursor.bad(f"has version {version}{order}; versions 2 and 3 are read")
    tensors, pairs = cursor.number("Q"), cursor.number("Q")
    facts = {cursor.text(): cursor.value(cursor.number("I")) for _ in range(_possible(cursor, pairs))}
    infos = [_info(cursor) for _ in range(_possible(cursor, tensors))]
    step = facts.get("general.alignment", 32)
    if not isinstance(step, int) or step <= 0:
        raise cursor.bad(f"has the impossible alignment {step}")
    begin = -(-cursor.place // step) * step
    found = {name: _tensor(cursor, name, shape, kind, begin + offset) for name, shape, kind, offset in infos}
    if len(found) != len(infos) or not found:
        raise cursor.bad("has two tensors of one name" if found else "holds no tensors")
    quantized = [name for name, _, kind, _ in infos if kind in _BLOCKS]
    return found, {key: value for key, value in facts.items() if isinstance(value, (str, int, float))}, quantized


def _possible(cursor: _Cursor, count: int) -> int:
    if count > len(cursor.data):  # each takes more than a byte
        raise cursor.bad("is cut short")
    return count


def _info(cursor: _Cursor) -> tuple[str, Shape, int, int]:
    name, dimensions = cursor.text(), cursor.number("I")
    if dimensions > _MOST_DIMENSIONS:
        raise cursor.bad(f"has tensor {name} with {dimensions} dimensions")
    shape = tuple(cursor.number("Q") for _ in range(dimensions))[::-1]
    return name, shape, cursor.number("I"), cursor.number("Q")


def _tensor(cursor: _Cursor, name: str, shape: Shape, kind: int, start: int) -> Stored:
    if kind in _BLOCKS:
        values, size = _BLOCKS[kind]
        if not shape or shape[-1] % values:
            raise cursor.bad(f"has tensor {name} whose rows are no whole blocks of {values} values")
        shape, dtype = (*shape[:-1], shape[-1] // values * size), torch.uint8
    elif kind in _PLAIN:
        dtype = _PLAIN[kind]
    else:
        raise cursor.bad(f"has tensor {name} of the unknown type {kind}; convert it to F16 first")
    count = 1
    for size in shape:
        count *= size
    if start + count * dtype.itemsize > len(cursor.data):
        raise cursor.bad(f"is cut short: tensor {name} lies beyond its end")
    return Stored(
        shape, dtype, partial(_read, cursor.data, start, count, shape, dtype), (str(cursor.path), start, shape)
    )


def _read(data: mmap.mmap, start: int, count: int, shape: Shape, dtype: torch.dtype) -> torch.Tensor:
    if not count:
        return torch.empty(shape, dtype=dtype)
    raw = bytearray(data[start : start + count * dtype.itemsize])
    return torch.frombuffer(raw, dtype=dtype).reshape(shape)
