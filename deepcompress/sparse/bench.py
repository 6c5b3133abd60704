"""How fast a network runs from the compressed form, layer by layer, beside its dense twin."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from deepcompress.networks.inputs import predict, tensors_in
from deepcompress.sparse.modules import Compressed

Call = tuple[tuple[Any, ...], dict[str, Any]]

ROUNDS = 5  # at least; each runs both once, so that a machine that becomes slower for a while does so for both
SECONDS = 0.3  # for each figure, unless the rounds take longer
MAX_ROUNDS = 200


@dataclass(frozen=True)
class Time:
    """Median milliseconds at one batch size; `sparse_ms` is None where a layer stays dense."""

    batch: int
    dense_ms: float
    sparse_ms: float | None

    @property
    def speedup(self) -> float:
        """How many times faster than dense."""
        return self.dense_ms / self.sparse_ms if self.sparse_ms else 1.0

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "speedup": self.speedup}


@dataclass(frozen=True)
class Row:
    """One layer, or the whole network: bytes of its tensors in memory, dense and as they are run, and its times."""

    name: str
    shape: tuple[int, ...]
    is_sparse: bool
    density: float
    dense_bytes: int
    bytes: int
    times: list[Time] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**vars(self), "shape": list(self.shape), "times": [found.as_dict() for found in self.times]}


@dataclass(frozen=True)
class Bench:
    """All layers with weights, in the order in which they run; the network; and how far the outputs are apart.

    `max_difference` is that of the outputs, over the largest of the dense network's.
    """

    layers: list[Row]
    total: Row
    max_difference: float

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        layers = [row.as_dict() for row in self.layers]
        return {"layers": layers, "total": self.total.as_dict(), "max_difference": self.max_difference}


def bench(dense: nn.Module, sparse: nn.Module, example: torch.Tensor, batches: Sequence[int]) -> Bench:
    """Measure a network that was loaded twice, by ``load(path)`` and ``load(path, mode="sparse")``.

    Args:
        dense: the one; both on the CPU.
        sparse: the other.
        example: samples that they take; repeated to make up a batch. How long they take does not depend on the values.
        batches: the batch sizes to measure.
    """
    names = _layers(dense)
    rows = {name: _row(name, dense.get_submodule(name), sparse.get_submodule(name)) for name in names}
    total, apart = _total(dense, sparse, list(rows.values())), 0.0
    order: list[str] = []
    with torch.no_grad():
        for batch in batches:
            x = example.repeat(-(-batch // len(example)), *(1 for _ in example.shape[1:]))[:batch]
            expected, found = predict(dense, x), predict(sparse, x)
            apart = max(apart, _apart(expected, found))
            inputs = _inputs(dense, names, x)
            order = list(inputs)
            for name, given in inputs.items():
                rows[name].times.append(_times(batch, dense.get_submodule(name), sparse.get_submodule(name), given))
            total.times.append(_compare(batch, partial(dense, x), partial(sparse, x)))
    return Bench([rows[name] for name in order], total, apart)


def _layers(network: nn.Module) -> list[str]:
    """Names of the modules that have weights of two or more dimensions themselves, and are called as modules."""
    return [
        name
        for name, module in network.named_modules()
        if any(value.ndim >= 2 for value in module.parameters(recurse=False))
    ]


def _row(name: str, dense: nn.Module, sparse: nn.Module) -> Row:
    weights = [value for value in dense.parameters(recurse=False) if value.ndim >= 2]
    size = sum(value.numel() * value.element_size() for value in weights)
    density = sum(int(value.count_nonzero()) for value in weights) / max(1, sum(value.numel() for value in weights))
    is_sparse = isinstance(sparse, Compressed)
    held = sparse.matrix.nbytes if isinstance(sparse, Compressed) else size
    return Row(name or type(dense).__name__, tuple(weights[0].shape), is_sparse, density, size, held)


def _total(dense: nn.Module, sparse: nn.Module, rows: Sequence[Row]) -> Row:
    size, held = _held(dense), _held(sparse)
    weights = sum(value.numel() for value in dense.parameters())
    kept = sum(int(value.count_nonzero()) for value in dense.parameters())
    return Row("total", (), any(row.is_sparse for row in rows), kept / max(1, weights), size, held)


def _held(network: nn.Module) -> int:
    """Bytes of parameters, buffers and matrices, each counted once."""
    tensors = [*network.parameters(), *network.buffers()]
    matrices = {id(m.matrix): m.matrix for m in network.modules() if isinstance(m, Compressed)}
    return sum(value.numel() * value.element_size() for value in tensors) + sum(m.nbytes for m in matrices.values())


def _inputs(network: nn.Module, names: Sequence[str], x: torch.Tensor) -> dict[str, Call]:
    """What each layer is called with, in the order in which they run; a layer that is never called is missing."""
    seen: dict[str, Call] = {}
    with _watching(network, names, seen):
        predict(network, x)
    return seen


@contextmanager
def _watching(network: nn.Module, names: Sequence[str], seen: dict[str, Call]) -> Iterator[None]:
    def keep(name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        return lambda _, given, named: seen.update({} if name in seen else {name: (given, named)})

    layers = {name: network.get_submodule(name) for name in names}
    handles = [layer.register_forward_pre_hook(keep(name), with_kwargs=True) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _times(batch: int, dense: nn.Module, sparse: nn.Module, call: Call) -> Time:
    given, named = call
    if isinstance(sparse, Compressed):
        return _compare(batch, lambda: dense(*given, **named), lambda: sparse(*given, **named))
    return _compare(batch, lambda: dense(*given, **named), None)


def _compare(batch: int, dense: Callable[[], object], sparse: Callable[[], object] | None) -> Time:
    """Median times of interleaved rounds, after one that is not counted."""
    actions = [dense] if sparse is None else [dense, sparse]
    taken: list[list[float]] = [[] for _ in actions]
    for action in actions:
        action()
    begin = time.perf_counter()
    for number in range(MAX_ROUNDS):
        if number >= ROUNDS and time.perf_counter() - begin > SECONDS:
            break
        for action, found in zip(actions, taken, strict=True):
            start = time.perf_counter()
            action()
            found.append(1e3 * (time.perf_counter() - start))
    medians = [statistics.median(found) for found in taken]
    return Time(batch, medians[0], medians[1] if sparse else None)


def _apart(expected: Any, found: Any) -> float:
    """The largest difference of two outputs over the largest element of the first."""
    pairs = list(zip(tensors_in(expected), tensors_in(found), strict=True))
    largest = max((float(one.abs().max()) for one, _ in pairs if one.numel()), default=0.0)
    return max((float((one - other).abs().max()) for one, other in pairs if one.numel()), default=0.0) / (largest or 1)
