"""Networks that are ONNX graphs: their weights out of the graph, others into it, and onnxruntime to run it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper


class Graph:
    """An ONNX model whose floating-point tensors can be exchanged.

    Attributes:
        state: float32 tensors by name: initializers, and constants under the names of their outputs.
        last: names of those that are the right factor of a product: their output channels are the last dimension.
        facts: what the model says about itself, by name.
    """

    def __init__(self, path: Path) -> None:
        """Read `path`."""
        self._model = onnx.load(path)
        self.facts = {entry.key: entry.value for entry in self._model.metadata_props}
        floats = {name: p for name, p in _tensors(self._model).items() if p.data_type == onnx.TensorProto.FLOAT}
        self.state = {name: torch.from_numpy(numpy_helper.to_array(p).copy()) for name, p in floats.items()}
        products = [node for node in self._model.graph.node if node.op_type == "MatMul"]
        self.last = {node.input[1] for node in products if node.input[1] in self.state}

    def runner(self, state: Mapping[str, torch.Tensor]) -> Callable[[Any], torch.Tensor]:
        """What gives the first output for an input (an array), with the tensors of `state`."""
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        tensors = _tensors(model)
        for name, value in state.items():
            tensors[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value.numpy()), name))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda x: torch.from_numpy(session.run(None, {name: np.asarray(x)})[0])


def _tensors(model: Any) -> dict[str, Any]:
    """Its initializers, and the values of its constants, by name."""
    found = {each.name: each for each in model.graph.initializer}
    constants = [node for node in model.graph.node if node.op_type == "Constant"]
    found.update({node.output[0]: a.t for node in constants for a in node.attribute if a.name == "value"})
    return found
