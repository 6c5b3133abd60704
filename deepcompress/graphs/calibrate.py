"""Rounding the weights of an ONNX model by what samples tell, without gradients: onnxruntime has none.

What each weight meets is watched at its node. How much the output feels an error of a weight is tried: the weight is
changed a little at random, and the output compared. That is one number g for each weight, where gradients tell one for
each row: the expected squared change of the output is then g e H e^T, as in `calibration.statistics`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from deepcompress.calibration.grids import Calibrated
from deepcompress.calibration.rounding import Rounded
from deepcompress.calibration.statistics import Lookups, Moments, Statistics
from deepcompress.errors import DataError
from deepcompress.graphs import restore
from deepcompress.graphs.model import OnnxModel
from deepcompress.graphs.products import Product, _same, products
from deepcompress.graphs.roles import weights_of
from deepcompress.graphs.session import Session
from deepcompress.networks.inputs import arguments
from deepcompress.quantize.rows import RowGrid
from deepcompress.training.progress import Progress

Array = np.ndarray[Any, np.dtype[Any]]

FEWEST = 8
_WATCHED = 16  # values at once, which are all in memory
_TRIED = 32  # samples that a change of a weight is tried on
_CHANGE = 0.05  # of a weight that is tried, in root mean squares
_LEAST = 1e-3  # of its variance, that the output changes at least by where all of a weight is wrong


class OnnxRounder:
    """Rounds the weights of an ONNX model at a step, as `calibration.rounding.Rounder` those of a network.

    Args:
        model: the model.
        batches: inputs: a tensor for the first input, a tuple in order, or a dictionary by name.
        watch: told which weights nothing is known of.

    Raises:
        DataError: there are fewer than `FEWEST` samples, or NaN among them; or the output does not depend on them.
        NetworkError: the model does not take them.
    """

    def __init__(self, model: OnnxModel, batches: Iterable[Any], watch: Progress) -> None:
        weights = weights_of(model)
        shapes = {name: each.shape for name, each in model.tensors.stored.items() if name in weights}
        self._products = _of_each(products(model.proto(), shapes))
        self._tensors = model.tensors
        turned = {name: uses[0].turn(model.tensors[name].float()) for name, uses in self._products.items()}
        feeds = Feeds(model, batches)
        statistics = Statistics(samples=feeds.samples)
        _meet(model, feeds, self._products, turned, statistics, watch)
        _feel(model, feeds, self._products, turned, statistics, watch)
        self._calibrated = Calibrated(turned, statistics)
        met = set(self._calibrated.met())
        if missing := sorted(weights - met):
            watch.message(f"rounded without calibration, as no product with them was seen: {', '.join(missing)}")

    def __call__(self, step: float) -> Rounded:
        """As finely as a `step` of the recipe says: the output may change by step^2 of its variance."""
        grids, corrected = {}, {}
        for name, grid in self._calibrated.grids(step**2):
            product = self._products[name][0]
            grids[name] = _in_place(product, grid)
            change = self._calibrated.bias_change(name, grid)
            if change is not None and product.bias and len(self._products[name]) == 1:
                bias = self._tensors[product.bias]
                if bias.shape == change.shape:
                    corrected[product.bias] = bias - change.to(bias)
        return Rounded(grids, corrected)


def _of_each(found: Sequence[Product]) -> dict[str, list[Product]]:
    """The products of each weight that use it as the first of them does; a bias is only that of one product."""
    biases = Counter(product.bias for product in found)
    uses: dict[str, list[Product]] = {}
    for product in found:
        first = uses.setdefault(product.weight, [product])[0]
        alike = (first.groups, first.turn, first.is_lookup) == (product.groups, product.turn, product.is_lookup)
        if product is not first and alike:
            uses[product.weight].append(product)
    return {
        name: [replace(each, bias=each.bias if biases[each.bias] == 1 else "") for each in products]
        for name, products in uses.items()
    }


def _in_place(product: Product, grid: RowGrid) -> RowGrid:
    """The grid of a weight as it lies in the graph, where each index of its first dimension has one step."""
    shape = grid.integers.shape
    integers = product.back(grid.integers)
    steps = product.back(grid.steps.reshape(-1, *[1] * (len(shape) - 1)).expand(shape)).reshape(len(integers), -1)
    common = steps.amax(1)
    numbers = torch.round(integers.reshape(steps.shape) * (steps / common[:, None])).to(torch.int32)
    return RowGrid(numbers.reshape(integers.shape), common)


class Feeds:
    """Samples as a session takes them.

    Attributes:
        batches: arrays by the names of inputs.
        samples: how many there are.
    """

    def __init__(self, model: OnnxModel, batches: Iterable[Any]) -> None:
        session = Session(restore.complete(model))
        self.outputs = session.outputs
        self.batches = [part for batch in batches for part in _split(_named(batch, session.inputs), session.batch)]
        self.samples = sum(map(_count, self.batches))
        if self.samples < FEWEST:
            raise DataError(
                f"there are {self.samples} samples to calibrate on, and at least {FEWEST} are needed (try 256)"
            )

    def some(self) -> Iterator[dict[str, Array]]:
        """The first batches, up to about `_TRIED` samples."""
        taken = 0
        for batch in self.batches:
            if taken >= _TRIED:
                return
            taken += _count(batch)
            yield batch


def _named(batch: Any, inputs: Sequence[str]) -> dict[str, Array]:
    positional, named = arguments(batch)
    if len(positional) > len(inputs) or any(name not in inputs for name in named):
        raise DataError(
            f"--calibrate: the model takes the inputs {', '.join(inputs)}, and a batch has "
            f"{', '.join(named) or len(positional)}"
        )
    given = {**dict(zip(inputs, positional, strict=False)), **named}
    if missing := [name for name in inputs if name not in given]:
        raise DataError(
            f"--calibrate: the model needs the inputs {', '.join(missing)}, too: give arrays of these names"
        )
    arrays = {name: torch.as_tensor(value).numpy() for name, value in given.items()}
    for name, value in arrays.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise DataError(f"--calibrate: there is NaN or infinity in the samples for {name}")
    return arrays


def _count(batch: Mapping[str, Array]) -> int:
    return next((len(value) for value in batch.values() if value.ndim), 1)


def _split(batch: dict[str, Array], size: int | None) -> Iterator[dict[str, Array]]:
    """A batch in parts of `size` samples; what is left over at the end is not used."""
    counts = {len(value) for value in batch.values() if value.ndim}
    if size is None or len(counts) != 1:
        yield batch
        return
    for start in range(0, counts.pop() - size + 1, size):
        yield {name: value[start : start + size] if value.ndim else value for name, value in batch.items()}


def _meet(
    model: OnnxModel,
    feeds: Feeds,
    uses: Mapping[str, Sequence[Product]],
    turned: Mapping[str, torch.Tensor],
    statistics: Statistics,
    watch: Progress,
) -> None:
    """What each weight meets, into `statistics`."""
    proto = restore.complete(model)
    inputs, outputs = {each.name for each in proto.graph.input}, {each.name for each in proto.graph.output}
    every = [product for products in uses.values() for product in products]
    inner = sorted({product.watched for product in every} - inputs)
    for name in inner:
        if name not in outputs:
            proto.graph.output.add().name = name
    session, done = Session(proto), 0
    for batch in feeds.batches:
        watch.work("calibrate", done, feeds.samples, "samples")
        done += _count(batch)
        for start in range(0, len(inner), _WATCHED):
            names = inner[start : start + _WATCHED]
            seen = {**batch, **dict(zip(names, session.run(batch, names), strict=True))} if names else batch
            for product in every:
                if product.watched in names or (not start and product.watched in batch):
                    _add(product, seen[product.watched], turned[product.weight], statistics)
    if not inner:
        for batch in feeds.batches:
            for product in every:
                _add(product, batch[product.watched], turned[product.weight], statistics)


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


def _feel(
    model: OnnxModel,
    feeds: Feeds,
    uses: Mapping[str, Sequence[Product]],
    turned: Mapping[str, torch.Tensor],
    statistics: Statistics,
    watch: Progress,
) -> None:
    """How much the output feels errors of each weight, into `statistics`; and how much it varies."""
    proto = restore.complete(model)
    given = {products[0].value: model.tensors[name].numpy() for name, products in uses.items()}
    _as_inputs(proto, given)
    session = Session(proto)
    before = [session.run({**batch, **given}, feeds.outputs) for batch in feeds.some()]
    samples = sum(map(_count, feeds.some()))
    statistics.power = _power(before, [_count(batch) for batch in feeds.some()])
    for number, (name, same) in enumerate(uses.items()):
        watch.work("try", number, len(uses), name)
        found = statistics.of.get(id(turned[name]))
        if found is None:
            continue
        error = _noise(turned[name])
        changed = {
            **given,
            same[0].value: (model.tensors[name].float() + same[0].back(error)).to(model.tensors[name].dtype).numpy(),
        }
        after = (session.run({**batch, **changed}, feeds.outputs) for batch in feeds.some())
        moved = sum(_apart(*pair) for pair in zip(before, after, strict=True)) / samples
        least = _LEAST * statistics.power / max(_cost(turned[name], found, statistics.samples), 1e-30)
        felt = max(moved / max(_cost(error, found, statistics.samples), 1e-30), least)
        found.gradient = felt * found.positions * _shares(same[0], turned[name], found)


def _shares(product: Product, weight: torch.Tensor, found: Moments | Lookups) -> torch.Tensor:
    """How much more than on average the output feels each row of a weight (columns, where rows are looked up)."""
    import os
    alpha = float(os.environ.get("ALPHA", "0"))
    if isinstance(found, Lookups):
        return torch.ones(weight.shape[1])
    shares = torch.ones(len(weight))
    if product.turn is not _same or found.second is None or not alpha:
        return shares
    power = _row_costs(weight, found).clamp_min(1e-30)
    shares = (power / power.mean()).clamp_min(1e-3) ** -alpha
    return shares / shares.mean()


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
    constants = [node for node in graph.node if node.op_type == "Constant" and node.output[0] in given]
    kinds |= {node.output[0]: (node.attribute[0].t.data_type, node.attribute[0].t.dims) for node in constants}
    kept = [tensor for tensor in graph.initializer if tensor.name not in given]
    nodes = [node for node in graph.node if node not in constants]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)
    known = {each.name for each in graph.input}
    graph.input.extend(
        helper.make_tensor_value_info(name, kind, list(dims))
        for name, (kind, dims) in kinds.items()
        if name not in known
    )


def _apart(one: Sequence[Any], other: Sequence[Any]) -> float:
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
