"""From a .dc file with a graph back to an ONNX model."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from deepcompress.checkpoint.stored import LazyTensors, Stored
from deepcompress.container.graph import graph_in
from deepcompress.container.reader import ModelFile, default_max_bytes
from deepcompress.errors import CheckpointError, FormatError, OutputError
from deepcompress.files import write_atomic
from deepcompress.graphs import walk
from deepcompress.graphs.model import OnnxModel, is_onnx, needs_onnx, open_model
from deepcompress.graphs.values import EXTERNAL, Outline, outline
from deepcompress.reading.arrays import TORCH_DTYPES, to_array, to_torch

#: Bytes of values that one .onnx file holds; of a larger model they lie in a file beside it.
MOST_INSIDE = (1 << 31) - (1 << 26)
_ALIGNMENT = 4096  # of values in a file beside the model, so that a runtime can map them


def open_any(path: str | Path, max_bytes: int | None = None) -> OnnxModel:
    """An ONNX model, from an .onnx file or a .dc file.

    Raises:
        CheckpointError, FormatError: as `open_model` and `model_in`.
    """
    return open_model(path) if is_onnx(path) else model_in(path, max_bytes)


def model_in(path: str | Path, max_bytes: int | None = None) -> OnnxModel:
    """The ONNX model of a .dc file; each tensor is decoded when it is asked for.

    Raises:
        FormatError: the file is missing, damaged, or holds no graph; or it would take more than `max_bytes`.
    """
    needs_onnx()
    file = ModelFile(path)
    try:
        graph = _graph(file, max_bytes)
    except FormatError:
        file.close()
        raise
    entries = {entry.name: entry.info for entry in file.header.entries}
    stored = {
        name: Stored(info.shape, TORCH_DTYPES[info.dtype], partial(_decoded, file, name))
        for name, info in entries.items()
    }
    tensors = LazyTensors(stored)
    weakref.finalize(tensors, file.close)
    return OnnxModel(graph, tensors, file.file_bytes)


def _graph(file: ModelFile, max_bytes: int | None) -> bytes:
    file.check(max_bytes)
    limit = default_max_bytes(file.file_bytes) if max_bytes is None else max_bytes
    try:
        graph = graph_in(file.header.extensions, limit)
    except FormatError as error:
        raise FormatError(f"{file.path}: {error}") from None
    if not graph:
        raise FormatError(f"{file.path}: holds no graph of an ONNX model")
    return graph


def _decoded(file: ModelFile, name: str) -> torch.Tensor:
    return to_torch(*file.read(name, torch.get_num_threads())).clone()


def complete(model: OnnxModel, tensors: Mapping[str, torch.Tensor] | None = None) -> Any:
    """The model as a ModelProto that has all values in it.

    Args:
        model: the model.
        tensors: other values for some of its tensors.

    Raises:
        FormatError: the graph and the tensors do not fit each other.
    """
    proto, tensors = _parsed(model), tensors or {}
    for tensor, name, known in _pointers(proto, model):
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        tensor.raw_data = _bytes(tensors[name] if name in tensors else model.tensors[name], name, known)
    return proto


def save(model: OnnxModel, path: str | Path) -> int:
    """Write a model as .onnx; gives how many tensors have left the .dc file.

    Values of more than `MOST_INSIDE` bytes are in a file ``NAME.onnx.data`` beside it.

    Raises:
        FormatError: the graph and the tensors do not fit each other.
        OutputError: the file cannot be written, or another is in the way of the values.
    """
    path = Path(path)
    proto = _parsed(model)
    found = _pointers(proto, model)
    if sum(known.bytes for _, _, known in found) <= MOST_INSIDE:
        del proto
        write_atomic(path, complete(model).SerializeToString(deterministic=True))
        return len(found)
    beside = path.with_name(f"{path.name}.data")
    if beside.exists():
        raise OutputError(f"cannot write {beside}, where the values of so large a model go: there is such a file")

    def write(temporary: Path) -> None:
        with temporary.open("wb") as stream:
            for tensor, name, known in found:
                stream.write(bytes(-stream.tell() % _ALIGNMENT))
                _point_outside(tensor, beside.name, stream.tell(), known.bytes)
                stream.write(_bytes(model.tensors[name], name, known))

    write_atomic(beside, write)
    write_atomic(path, proto.SerializeToString(deterministic=True))
    return len(found)


def _parsed(model: OnnxModel) -> Any:
    try:
        return model.proto()
    except CheckpointError as error:
        raise FormatError(str(error)) from None


def _pointers(proto: Any, model: OnnxModel) -> list[tuple[Any, str, Outline]]:
    """Each TensorProto whose values are a tensor of the model: itself, the name, and what they are.

    Raises:
        FormatError: one names a tensor that is not there, is another's already, or has another shape or type.
    """
    found, seen = [], set()
    for label, tensor, _ in walk.tensors(proto):
        if tensor.data_location != EXTERNAL:
            continue
        facts = {entry.key: entry.value for entry in tensor.external_data}
        name = facts.get("location", "")
        if name not in model.tensors.stored or name in seen or len(facts) > 1:
            raise FormatError(
                f"the graph's tensor {label!a} has values {name[:80]!a}, which the file does not have for it"
            )
        seen.add(name)
        known, stored = outline(tensor, name), model.tensors.stored[name]
        dtype = TORCH_DTYPES[known.dtype]
        if stored.shape != known.shape or (stored.dtype is not dtype and not _narrowed(stored.dtype, dtype)):
            raise FormatError(
                f"tensor {name} is {stored.dtype} of shape {stored.shape} in the file, and {dtype} of shape "
                f"{known.shape} in the graph"
            )
        found.append((tensor, name, known))
    return found


def _narrowed(stored: torch.dtype, wanted: torch.dtype) -> bool:
    """Whether a file may have a tensor as this type: small ones as float16, if the recipe says so."""
    return stored is torch.float16 and wanted is torch.float32


def _bytes(value: torch.Tensor, name: str, known: Outline) -> bytes:
    dtype = TORCH_DTYPES[known.dtype]
    return to_array(name, value if value.dtype is dtype else value.to(dtype))[0].tobytes()


def _point_outside(tensor: Any, file: str, start: int, size: int) -> None:
    tensor.ClearField("external_data")
    for key, value in (("location", file), ("offset", str(start)), ("length", str(size))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
