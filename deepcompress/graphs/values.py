"""The values of ONNX's TensorProto, wherever it keeps them, as little-endian bytes, and what type they have in a file.

An element of less than a byte (int4, uint4, int2, uint2) has no type of its own in a .dc file: its bytes, which hold
several, are stored as uint8.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from deepcompress.coding.dtypes import DType
from deepcompress.container.entries import MAX_DIMENSIONS
from deepcompress.errors import CheckpointError

Array = np.ndarray[Any, np.dtype[Any]]

#: Element types by their numbers in ONNX (TensorProto.DataType). Text (8) is none that a file can hold.
TYPES = {
    1: DType.FLOAT32, 2: DType.UINT8, 3: DType.INT8, 4: DType.UINT16, 5: DType.INT16, 6: DType.INT32, 7: DType.INT64,
    9: DType.BOOL, 10: DType.FLOAT16, 11: DType.FLOAT64, 12: DType.UINT32, 13: DType.UINT64, 14: DType.COMPLEX64,
    15: DType.COMPLEX128, 16: DType.BFLOAT16, 17: DType.FLOAT8_E4M3FN, 18: DType.FLOAT8_E4M3FNUZ,
    19: DType.FLOAT8_E5M2, 20: DType.FLOAT8_E5M2FNUZ, 24: DType.FLOAT8_E8M0FNU,
}  # fmt: skip
#: Types of which a byte holds several: how many, and the type of that byte.
PACKED = {
    21: (2, DType.UINT8), 22: (2, DType.UINT8), 23: (2, DType.FLOAT4_E2M1FN_X2),
    25: (4, DType.UINT8), 26: (4, DType.UINT8),
}  # fmt: skip
EXTERNAL = 1  # TensorProto.DataLocation

#: Where a tensor without raw bytes has its values, by its type; all others are in `int32_data`.
_FIELDS = {
    1: ("float_data", "<f4"), 7: ("int64_data", "<i8"), 11: ("double_data", "<f8"), 12: ("uint64_data", "<u8"),
    13: ("uint64_data", "<u8"), 14: ("float_data", "<f4"), 15: ("double_data", "<f8"),
}  # fmt: skip


@dataclass(frozen=True)
class Outline:
    """Type and shape that the values of a TensorProto have in a .dc file, and how many bytes they are."""

    dtype: DType
    shape: tuple[int, ...]
    bytes: int


def outline(tensor: Any, name: str) -> Outline:
    """What a TensorProto says of itself.

    Raises:
        CheckpointError: its type is unknown here, or its shape impossible.
    """
    shape = tuple(tensor.dims)
    if min(shape, default=0) < 0 or math.prod(shape) > 1 << 40:
        raise CheckpointError(f"tensor {name} has the impossible shape {shape}")
    count = math.prod(shape)
    if tensor.data_type in PACKED:
        each, dtype = PACKED[tensor.data_type]
        size = -(-count // each)
        whole = shape and shape[-1] % each == 0
        shape = (*shape[:-1], shape[-1] // each) if whole else (size,)
    elif tensor.data_type in TYPES:
        dtype = TYPES[tensor.data_type]
        size = count * dtype.storage.itemsize
    else:
        raise CheckpointError(f"tensor {name} has the element type {tensor.data_type}, which is unknown")
    if len(shape) > MAX_DIMENSIONS:
        shape = (math.prod(shape),)
    return Outline(dtype, shape, size)


def payload(tensor: Any, model: Path, name: str) -> bytes:
    """The values of a TensorProto, little-endian and in row-major order.

    Args:
        tensor: of any type but text.
        model: the file that it is from; other files that hold values lie beside it.
        name: for errors.

    Raises:
        CheckpointError: they are missing, or as many as its shape does not have.
    """
    expected = outline(tensor, name)
    if tensor.data_location == EXTERNAL:
        raw = _external(tensor, model, name)
    elif tensor.HasField("raw_data"):
        raw = bytes(tensor.raw_data)
    else:
        raw = _typed(tensor, expected.dtype)
    if len(raw) != expected.bytes:
        raise CheckpointError(
            f"tensor {name}: its shape {tuple(tensor.dims)} needs {expected.bytes:,} bytes, and it has {len(raw):,}"
        )
    if expected.dtype is DType.BOOL:  # of which a byte may be anything but 0
        raw = bytes((np.frombuffer(raw, np.uint8) != 0).astype(np.uint8))
    return raw


def _typed(tensor: Any, dtype: DType) -> bytes:
    """Values in a field of their type: those of less than four bytes are whole numbers there, by their bits."""
    field, kind = _FIELDS.get(tensor.data_type, ("int32_data", "<i4"))
    values: Array = np.array(getattr(tensor, field), dtype=kind)
    if tensor.data_type == 12:
        return values.astype("<u4").tobytes()
    return values.tobytes() if field != "int32_data" else values.astype(f"<u{dtype.storage.itemsize}").tobytes()


def lies_in(tensor: Any, model: Path, name: str) -> tuple[Path, int, int]:
    """The file beside `model` that holds the values of a TensorProto, and where they begin in it, and how many bytes.

    Raises:
        CheckpointError: it is not there, too short, or not in the model's folder.
    """
    facts = {entry.key: entry.value for entry in tensor.external_data}
    path = beside(str(facts.get("location", "")), model, name)
    try:
        start, size = int(facts.get("offset") or 0), int(facts.get("length") or outline(tensor, name).bytes)
    except ValueError:
        raise CheckpointError(f"tensor {name}: its offset and length in {path.name} are no numbers") from None
    if start < 0 or size < 0 or start + size > path.stat().st_size:
        raise CheckpointError(
            f"tensor {name}: its values are bytes {start:,} to {start + size:,} of {path}, which has "
            f"{path.stat().st_size:,}: it is cut short"
        )
    return path, start, size


def beside(location: str, model: Path, name: str) -> Path:
    """The file that holds values of the tensor `name`: in the model's folder, or below it.

    Where the model is a link (in a cache of downloads), it may lie beside what that leads to.

    Raises:
        CheckpointError: it is not there, or lies elsewhere.
    """
    inner = PurePosixPath(location)
    outside = inner.is_absolute() or PureWindowsPath(location).anchor or ".." in inner.parts
    if not inner.parts or outside or "\\" in location or "\0" in location:
        raise CheckpointError(
            f"tensor {name}: the model says that its values are in {location[:120]!a}, which is no file in the "
            "model's folder; it is not opened"
        )
    path = model.parent / location
    if not path.is_file():
        raise CheckpointError(f"tensor {name}: its values are in the file {path}, which is not there: copy it there")
    if not any(path.resolve().is_relative_to(folder) for folder in (model.parent.resolve(), model.resolve().parent)):
        raise CheckpointError(f"tensor {name}: {path} is a link that leaves the model's folder; it is not opened")
    return path


def _external(tensor: Any, model: Path, name: str) -> bytes:
    path, start, size = lies_in(tensor, model, name)
    try:
        with path.open("rb") as stream:
            stream.seek(start)
            return stream.read(size)
    except OSError as error:
        raise CheckpointError(f"tensor {name}: {path} cannot be read ({error.strerror})") from None
