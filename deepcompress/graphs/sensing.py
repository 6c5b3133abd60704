"""What the weights of an ONNX model meet on samples, and how much its output feels an error of each.

onnxruntime gives no gradients. So what a weight meets is watched at its node, and how much the output feels is tried:
the weight is changed a little at random, and the outputs are compared. That is one number g for each weight, where
gradients tell one for each row: the expected squared change of the output is then g e H e^T, as in
`calibration.statistics`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from deepcompress.calibration.statistics import Lookups, Moments, Statistics
from deepcompress.errors import DataError
from deepcompress.graphs import restore
from deepcompress.graphs.feeds import Feeds, count_of
from deepcompress.graphs.model import OnnxModel
from deepcompress.graphs.product import Product
from deepcompress.graphs.session import Session
from deepcompress.training.progress import Progress

Array = np.ndarray[Any, np.dtype[Any]]

_WATCHED = 16  # values at once, which are all in memory
_CHANGE = 0.05  # of a weight that is tried, in root mean squares
_PRIOR = 0.05  # of the mean strength of inputs, that each has at least
_TINY = 1e-30
_LEAST = 1e-3  # of its variance, that the output changes at least by where all of a weight is wrong


@dataclass(frozen=True)
class Sensing:
    """A model that is looked at.

    Attributes:
        model: the model.
        feeds: its samples.
        uses: by the names of weights, their products.
        turned: the weights as (rows, …).
        watch: told how far it is.
    """

    model: OnnxModel
    feeds: Feeds
    uses: Mapping[str, Sequence[Product]]
    turned: Mapping[str, torch.Tensor]
    watch: Progress

    def statistics(self) -> Statistics:
        """What samples tell of the weights.

        Raises:
            DataError: the output is not finite, or the same for all of them.
            NetworkError: the model does not take them.
        """
        found = Statistics(samples=self.feeds.samples)
        _meet(self, found)
        for each in found.of.values():
            if isinstance(each, Moments):
                _shrink(each)
        _feel(self, found)
        return found


def _meet(sensing: Sensing, statistics: Statistics) -> None:
    """What each weight meets, into `statistics`."""
    every = [product for products in sensing.uses.values() for product in products]
    session, inner = _watching(sensing.model, {product.watched for product in every})
    done = 0
    for batch in sensing.feeds.batches:
        sensing.watch.work("calibrate", done, sensing.feeds.samples, "samples")
        done += count_of(batch)
        for start in range(0, max(len(inner), 1), _WATCHED):
            names = inner[start : start + _WATCHED]
            seen = dict(zip(names, session.run(batch, names), strict=True)) if names else {}
            seen |= {} if start else {name: value for name, value in batch.items() if name not in inner}
            for product in every:
                if product.watched in seen:
                    _add(product, seen[product.watched], sensing.turned[product.weight], statistics)
        for found in statistics.of.values():
            if isinstance(found, Moments):
                found.end_batch()


def _watching(model: OnnxModel, names: Collection[str]) -> tuple[Session, list[str]]:
    """The model with these values as outputs, too; and which of them are no inputs of it."""
    proto = restore.complete(model)
    outputs = {each.name for each in proto.graph.output}
    inner = sorted(set(names) - {each.name for each in proto.graph.input})
    for name in inner:
        if name not in outputs:
            proto.graph.output.add().name = name
    return Session(proto), inner


def _add(product: Product, value: Array, weight: torch.Tensor, statistics: Statistics) -> None:
    met = product.meets(value)
    if product.is_lookup:
        table = statistics.lookups(weight)
        if table is not None:
            table.add(met % len(weight), torch.zeros(len(met), weight.shape[1]))
        return
    moments = statistics.moments(weight, product.groups)
    if moments is not None and len(met):
        moments.add(met, torch.ones(len(met), 1))


def _feel(sensing: Sensing, statistics: Statistics) -> None:
    """How much the output feels errors of each weight, into `statistics`; and how much it varies."""
    tensors, batches = sensing.model.tensors, list(sensing.feeds.some())
    given = {products[0].value: tensors[name].numpy() for name, products in sensing.uses.items()}
    proto = restore.complete(sensing.model)
    _as_inputs(proto, given)
    session, counts = Session(proto), list(map(count_of, batches))
    before = [session.run({**batch, **given}, sensing.feeds.outputs) for batch in batches]
    statistics.power = _power(before, counts)
    for number, (name, products) in enumerate(sensing.uses.items()):
        sensing.watch.work("try", number, len(sensing.uses), name)
        product, weight = products[0], sensing.turned[name]
        found = statistics.of.get(id(weight))
        if not isinstance(found, Moments | Lookups):
            continue
        error = _noise(weight)
        changed = (product.back(weight + error)).to(tensors[name].dtype).numpy()
        after = (session.run({**batch, **given, product.value: changed}, sensing.feeds.outputs) for batch in batches)
        moved = sum(apart(*pair) for pair in zip(before, after, strict=True)) / sum(counts)
        least = _LEAST * statistics.power / max(_cost(weight, found, statistics.samples), _TINY)
        felt = max(moved / max(_cost(error, found, statistics.samples), _TINY), least)
        found.gradient = torch.full((_outputs(product, weight),), felt * found.positions)


def _outputs(product: Product, weight: torch.Tensor) -> int:
    """How many numbers come out where a weight is used: its rows, or its columns where rows are looked up."""
    return weight.shape[1] if product.is_lookup else len(weight)


def _shrink(found: Moments) -> None:
    """No input counts as one that is always zero: a byte that no file among the samples has may be in others.

    How much samples tell of how inputs go together is what `Moments.noise` says.
    """
    if found.second is not None:
        strength = found.second.diagonal(dim1=1, dim2=2)
        strength += _PRIOR * strength.mean(1, keepdim=True)


def _noise(weight: torch.Tensor) -> torch.Tensor:
    size = _CHANGE * float(weight.square().mean().sqrt())
    return size * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))


def _cost(error: torch.Tensor, found: Moments | Lookups, samples: int) -> float:
    """What an error of a weight changes in the outputs of its products, squared and summed, for a sample."""
    if isinstance(found, Lookups):
        return float((found.counts[:, None] * error.square()).sum()) / samples
    return 0.0 if found.second is None else float(_row_costs(error, found).sum()) / samples


def _row_costs(error: torch.Tensor, found: Moments) -> torch.Tensor:
    """The same of each row, for all samples (rows)."""
    assert found.second is not None
    parts = len(found.second) // found.groups
    apart = error.reshape(found.groups, len(error) // found.groups, parts, -1).transpose(1, 2).flatten(0, 1)
    costs = ((apart @ found.second) * apart).sum(2)  # (groups × parts, rows)
    return costs.reshape(found.groups, parts, -1).sum(1).reshape(-1)


def _as_inputs(proto: Any, given: Mapping[str, Array]) -> None:
    """Make initializers and constants inputs of the graph, so that other values can be fed for them."""
    from onnx import helper

    graph = proto.graph
    kinds = {tensor.name: (tensor.data_type, tensor.dims) for tensor in graph.initializer if tensor.name in given}
    nodes: list[Any] = []
    constants: list[Any] = []
    for node in graph.node:
        fed = node.op_type == "Constant" and node.output[0] in given
        (constants if fed else nodes).append(node)
    kinds |= {node.output[0]: (node.attribute[0].t.data_type, node.attribute[0].t.dims) for node in constants}
    kept = [tensor for tensor in graph.initializer if tensor.name not in given]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)
    known = {each.name for each in graph.input}
    graph.input.extend(
        helper.make_tensor_value_info(name, kind, list(dims))
        for name, (kind, dims) in kinds.items()
        if name not in known
    )


def apart(one: Sequence[Any], other: Sequence[Any]) -> float:
    """The squared difference of two outputs."""
    return sum(
        float(np.square(a.astype(np.float64) - b).sum()) for a, b in zip(one, other, strict=True) if _is_float(a)
    )


def _is_float(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def _power(outputs: Sequence[Sequence[Any]], counts: Sequence[int]) -> float:
    """The variance of the output over samples, summed over its numbers."""
    rows = []
    for output, count in zip(outputs, counts, strict=True):
        numbers = [value.astype(np.float64) for value in output if _is_float(value)]
        apart = all(value.ndim and len(value) == count for value in numbers)
        rows += (
            list(np.concatenate([value.reshape(count if apart else 1, -1) for value in numbers], 1)) if numbers else []
        )
    if not rows:
        raise DataError("the model gives no floating-point numbers, so there is nothing to calibrate to")
    if not all(np.isfinite(row).all() for row in rows):
        raise DataError("the output of the model holds NaN or infinity for the samples to calibrate on")
    even = len({len(row) for row in rows}) == 1
    power = (
        float(np.var(rows, axis=0).sum())
        if even
        else float(np.var(np.concatenate(rows))) * float(np.mean(list(map(len, rows))))
    )
    if not power > 0:
        raise DataError("the output of the model is the same for all samples, so nothing tells what matters to it")
    return power
