"""An ONNX model in two parts: its tensors, and the graph without their values.

In that graph (a ModelProto) a tensor that was taken out says so as ONNX itself says that values are in another file:
its ``data_location`` is EXTERNAL, and the ``location`` is the name of the tensor.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepcompress.checkpoint.stored import LazyTensors, Stored
from deepcompress.container.entries import MAX_NAME, is_printable
from deepcompress.errors import CheckpointError, DeepCompressError, first_line
from deepcompress.graphs import walk
from deepcompress.graphs.values import EXTERNAL, PACKED, TYPES, Outline, lies_in, outline, payload
from deepcompress.reading.arrays import TORCH_DTYPES, to_torch

#: An attribute's tensor of fewer elements stays in the graph: it is a shape or a number, and no weights.
FEWEST = 8
MOST_BYTES = (1 << 31) - 1  # of one protobuf message
_VALUES = ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "external_data")


@dataclass(frozen=True)
class OnnxModel:
    """A model in two parts.

    Attributes:
        graph: the ModelProto without the values, as bytes.
        tensors: those that were taken out, by name, read when they are asked for.
        bytes: what the model takes on the disk, with the files beside it that hold values.
    """

    graph: bytes
    tensors: LazyTensors
    bytes: int

    def proto(self) -> Any:
        """The graph as a new ModelProto, without the values."""
        return parse(self.graph, "the graph")


def needs_onnx() -> None:
    """Find out early whether the package that reads ONNX is there.

    Raises:
        DeepCompressError: with the command that installs it.
    """
    if find_spec("onnx") is None:
        raise DeepCompressError("ONNX models need the package onnx: pip install 'deepcompress[onnx]'")


def is_onnx(path: str | Path) -> bool:
    """Whether a file is an ONNX model, by its ending."""
    return Path(path).suffix.lower() == ".onnx"


def parse(raw: bytes, what: str) -> Any:
    """A ModelProto from bytes; `what` it is, for errors.

    Raises:
        CheckpointError: it is none.
    """
    needs_onnx()
    import onnx
    from google.protobuf.message import DecodeError

    model = onnx.ModelProto()
    try:
        model.ParseFromString(raw)
    except (DecodeError, RecursionError) as error:
        raise CheckpointError(f"{what} is not an ONNX model, or damaged ({first_line(error)})") from None
    if not model.ir_version or not model.HasField("graph") or not model.graph.node:
        raise CheckpointError(f"{what} is not an ONNX model: it holds no graph with nodes")
    return model


def open_model(path: str | Path) -> OnnxModel:
    """Read an .onnx file, with the files beside it that hold values, which stay there until they are asked for.

    Raises:
        CheckpointError: it is not there, damaged, or larger than a protobuf message can be; or a file of values is
            missing, too short, or not in the model's folder.
        DeepCompressError: the package onnx is not installed.
    """
    path = Path(path)
    raw = _bytes_of(path)
    size, proto = len(raw), parse(raw, str(path))
    del raw
    try:
        tensors, files = _take_all(proto, path)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    _forget_notes(proto)
    size += sum(file.stat().st_size for file in files)
    return OnnxModel(proto.SerializeToString(deterministic=True), LazyTensors(tensors), size)


def _bytes_of(path: Path) -> bytes:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file" if not path.exists() else f"{path}: not a regular file")
    try:
        if path.stat().st_size > MOST_BYTES:
            raise CheckpointError(
                f"{path}: has {path.stat().st_size:,} bytes, and one ONNX file holds at most {MOST_BYTES:,}: save the "
                "model with its values in another file (onnx.save with save_as_external_data=True)"
            )
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None


def _take_all(proto: Any, path: Path) -> tuple[dict[str, Stored], set[Path]]:
    """The values of all tensors that hold some, out of `proto`; and the files beside it where some of them are."""
    found: dict[str, Stored] = {}
    files = set()
    for label, tensor, is_initializer in walk.tensors(proto):
        outside = tensor.data_location == EXTERNAL
        count = math.prod(tensor.dims)
        known = tensor.data_type in TYPES or tensor.data_type in PACKED
        if outside and not known:
            outline(tensor, label)  # raises
        if not outside and (not known or not count or (not is_initializer and count < FEWEST)):
            continue
        name = _new_name(label, found)
        if outside:
            files.add(lies_in(tensor, path, name)[0])
        found[name] = _taken(tensor, name, path)
    return found, files


def _taken(tensor: Any, name: str, path: Path) -> Stored:
    """The values of one TensorProto, which says from now on that they are the tensor `name`."""
    known = outline(tensor, name)
    if tensor.data_location == EXTERNAL:
        source = type(tensor)()
        source.CopyFrom(tensor)
        values = partial(payload, source, path, name)
    else:
        raw = payload(tensor, path, name)
        values = partial(bytes, raw)
    point_to(tensor, name)
    return Stored(known.shape, TORCH_DTYPES[known.dtype], lambda: _tensor(values(), known))


def point_to(tensor: Any, name: str) -> None:
    """Empty a TensorProto, so that it says that its values are the tensor `name`."""
    for field in _VALUES:
        tensor.ClearField(field)
    tensor.data_location = EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", name


def pointed_to(tensor: Any) -> str:
    """The inverse of `point_to`: the name; empty where a TensorProto holds its values itself."""
    if tensor.data_location != EXTERNAL:
        return ""
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "")


def _tensor(raw: bytes, known: Outline) -> torch.Tensor:
    return to_torch(np.frombuffer(bytearray(raw), known.dtype.storage).reshape(known.shape), known.dtype)


def _new_name(label: str | bytes, taken: Collection[str]) -> str:
    """A name that a .dc file can have, and no other tensor has: `label`, if that is one (bytes are no UTF-8)."""
    fits = (
        isinstance(label, str)
        and is_printable(label)
        and label.isprintable()
        and 0 < len(label.encode()) <= MAX_NAME - 16
    )
    name = label = str(label) if fits else "tensor"
    number = 1
    while name in taken:
        number += 1
        name = f"{label}.{number}"
    return name


def _forget_notes(proto: Any) -> None:
    """Without what exporters tell people about single nodes: source files, stack traces. No runtime reads them."""
    for graph in walk.graphs(proto):
        for node in graph.node:
            for field in ("doc_string", "metadata_props"):
                node.ClearField(field)
