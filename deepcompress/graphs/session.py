"""ONNX models that run, by onnxruntime."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from deepcompress.errors import DeepCompressError, NetworkError, first_line
from deepcompress.graphs import restore
from deepcompress.graphs.model import OnnxModel

Array = np.ndarray[Any, np.dtype[Any]]

_KINDS = {
    "tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64,
    "tensor(int8)": np.int8, "tensor(uint8)": np.uint8, "tensor(int16)": np.int16, "tensor(uint16)": np.uint16,
    "tensor(int32)": np.int32, "tensor(uint32)": np.uint32, "tensor(int64)": np.int64, "tensor(uint64)": np.uint64,
    "tensor(bool)": np.bool_,
}  # fmt: skip


def needs_runtime() -> None:
    """Find out early whether onnxruntime is there.

    Raises:
        DeepCompressError: with the command that installs it.
    """
    if find_spec("onnxruntime") is None:
        raise DeepCompressError("running an ONNX model needs onnxruntime: pip install 'deepcompress[onnx]'")


class Session:
    """A ModelProto in onnxruntime.

    Attributes:
        inputs: names of what must be fed, in order.
        outputs: names of what comes out.

    Raises:
        DeepCompressError: onnxruntime is not installed.
        NetworkError: it cannot run the model.
    """

    def __init__(self, proto: Any, folder: Path | None = None) -> None:
        needs_runtime()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            content = str(folder / _FILE) if folder is not None else proto.SerializeToString()
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has an exception for each of its states
            raise NetworkError(f"onnxruntime cannot load the model: {first_line(error)}") from error
        self._known = {each.name: each for each in self._session.get_inputs()}
        self.inputs = list(self._known)
        self.outputs = [each.name for each in self._session.get_outputs()]

    def kind(self, name: str) -> Any:
        """The numpy type of an input.

        Raises:
            NetworkError: it is none of numbers.
        """
        kind = _KINDS.get(self._known[name].type)
        if kind is None:
            raise NetworkError(f"the model's input {name} is {self._known[name].type}, which cannot be fed from here")
        return kind

    def _fed(self, name: str, value: Array) -> Array:
        kind = self.kind(name)
        if np.dtype(kind).kind in "iu" and value.dtype.kind == "f":
            raise NetworkError(f"the model's input {name} takes whole numbers, and not {value.dtype}")
        return np.ascontiguousarray(value, dtype=kind).reshape(value.shape)

    @property
    def batch(self) -> int | None:
        """How many samples the first input takes at once, if it takes only so many."""
        shape = self._known[self.inputs[0]].shape if self.inputs else []
        return shape[0] if shape and isinstance(shape[0], int) and shape[0] > 0 else None

    def run(self, feeds: Mapping[str, Array], wanted: Sequence[str] | None = None) -> list[Any]:
        """The outputs (all, or those `wanted`) for inputs by name, of any type.

        Raises:
            NetworkError: it does not take them.
        """
        given = {name: self._fed(name, value) for name, value in feeds.items()}
        try:
            return list(self._session.run(wanted, given))
        except Exception as error:  # as above
            shapes = ", ".join(f"{name} {value.shape}" for name, value in given.items())
            raise NetworkError(f"onnxruntime does not run the model on {shapes}: {first_line(error)}") from error


_FILE = "model.onnx"


class OnnxNetwork(nn.Module):
    """An ONNX model as a network of torch's, for what measures networks. It cannot be trained.

    Inputs are given in order or by name. The one output is a tensor, and several are a tuple.

    Raises:
        DeepCompressError, NetworkError: as `Session`.
    """

    def __init__(self, model: OnnxModel) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.empty(0), requires_grad=False)  # a network is where its parameters are
        self._folder: Any = None
        if sum(each.bytes for each in model.tensors.stored.values()) <= restore.MOST_INSIDE:
            self.session = Session(restore.complete(model))
            return
        self._folder = tempfile.TemporaryDirectory(prefix="deepcompress-")
        restore.save(model, Path(self._folder.name) / _FILE)
        self.session = Session(None, Path(self._folder.name))

    def forward(self, *given: torch.Tensor, **named: torch.Tensor) -> Any:
        """What the model gives for a batch; a model that takes so many samples only is fed so many at once.

        Raises:
            NetworkError: it does not take them.
        """
        names = self.session.inputs
        if len(given) > len(names) or any(name not in names for name in named):
            extra = [name for name in named if name not in names]
            raise NetworkError(
                f"the model takes the inputs {', '.join(names)}, and not {', '.join(extra) or len(given)}"
            )
        feeds = {**dict(zip(names, given, strict=False)), **named}
        arrays = {name: value.detach().cpu().numpy() for name, value in feeds.items()}
        outputs = _in_batches(self.session, arrays)
        tensors = [
            torch.from_numpy(value) for value in outputs if isinstance(value, np.ndarray) and value.dtype != object
        ]
        return tensors[0] if len(tensors) == 1 else tuple(tensors)


def _in_batches(session: Session, arrays: Mapping[str, Array]) -> list[Any]:
    size = session.batch
    counts = {len(value) for value in arrays.values() if value.ndim}
    if size is None or len(counts) != 1 or counts == {size}:
        return session.run(arrays)
    count, parts = counts.pop(), []
    for start in range(0, count, size):
        some = {name: _some(value, start, size) for name, value in arrays.items()}
        parts.append(session.run(some))
    return [np.concatenate(pieces)[:count] for pieces in zip(*parts, strict=True)]


def _some(value: Array, start: int, size: int) -> Array:
    """`size` samples from `start` on, the last one again where there are no more."""
    part = value[start : start + size]
    return np.concatenate([part, part[-1:].repeat(size - len(part), axis=0)]) if len(part) < size else part
