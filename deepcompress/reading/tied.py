"""Weights that a network ties, stored once in its ONNX file: torch's exporter folds a transposed copy of small ones."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepcompress.layers import tied_to

Array = np.ndarray[Any, np.dtype[Any]]

#: Bytes of a weight below which a node that makes its copy takes about as many as the copy.
SMALL = 256


def store_once(path: Path, state: Mapping[str, torch.Tensor]) -> int:
    """Rewrite the ONNX file at `path` so that it holds each tied weight of `state` once; gives the bytes it lost.

    A copy, also a transposed one, becomes the output of a node that makes it, under its old name.
    """
    import onnx

    first = dict.fromkeys(tied_to(state).values())
    tied = [state[name].detach().cpu() for name in first]
    arrays = [value.numpy() for value in tied if value.dtype in (torch.float32, torch.float64, torch.float16)]
    arrays = [array for array in arrays if array.nbytes >= SMALL]
    if not arrays:
        return 0
    before, model = path.stat().st_size, onnx.load(path)
    nodes: dict[str, Any] = {}  # by the names of what they make
    for array in arrays:
        nodes |= {node.output[0]: node for node in _copies(model.graph, array, nodes)}
    if nodes:
        kept = [value for value in model.graph.initializer if value.name not in nodes]
        later = list(model.graph.node)
        del model.graph.initializer[:], model.graph.node[:]
        model.graph.initializer.extend(kept)
        model.graph.node.extend([*nodes.values(), *later])
        onnx.save(model, path)
    return before - path.stat().st_size


def _copies(graph: Any, array: Array, made: Collection[str]) -> Iterable[Any]:
    """A node for each initializer but the first that holds `array`, or its transpose: made from that first one."""
    from onnx import helper, numpy_helper

    shapes = {array.shape, array.shape[::-1]} if array.ndim == 2 else {array.shape}
    found = []
    for value in graph.initializer:
        if tuple(value.dims) in shapes and value.name not in made:
            stored = numpy_helper.to_array(value)
            for turned in (False, True) if array.ndim == 2 else (False,):
                if _same(stored, array.T if turned else array):
                    found.append((turned, value.name))
                    break
    found.sort(key=lambda one: one[0])  # the weight as the network has it is the one to keep, if it is there
    for turned, name in found[1:]:
        kind = "Transpose" if turned is not found[0][0] else "Identity"
        yield helper.make_node(kind, [found[0][1]], [name], name=f"{name}_of_{found[0][1]}")


def _same(one: Array, other: Array) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and one.tobytes() == other.tobytes()
