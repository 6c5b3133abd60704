"""Exact compression: ReLU units that are always off or always on over a box of inputs (Serra et al. 2020 and 2021).

A unit that is off for all inputs of the box adds nothing. One that is always on is linear there, so that it can be
replaced by others that are always on, where its weights are a combination of theirs. Both leave the outputs alone.
Bounds by intervals come first; units that they leave open, and that random inputs do not show to be on and off, are
decided by mixed-integer linear programs (scipy's HiGHS) as long as there is time.
"""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from deepcompress.errors import NetworkError, RecipeError, first_line
from deepcompress.layers import buffers_of, check_finite, compressible, tensors_of
from deepcompress.networks.copies import copied
from deepcompress.prune.programs import Layer, bounds_of, largest
from deepcompress.reading.fitting import fill

Array = np.ndarray[Any, np.dtype[np.float64]]
Places = np.ndarray[Any, np.dtype[np.integer[Any]]]

SAMPLES = 4096  # random inputs of the box, half of them corners
RANK = 1e-7  # of the largest pivot: what is smaller counts as a combination of the others
SAFE = 1e-6  # of a unit's largest bound: what a solver may be wrong by
TOLERANCE = 1e-5  # of the largest output, for the check at the end; of types that are coarser, their resolution

OFF, ON, OPEN = 0, 1, 2

CHAIN = "only a chain of Linear layers and ReLUs can be merged, and {} is no part of one"
_SHAPES = (torch.flatten, getattr, operator.getitem, "flatten", "view", "reshape", "size")


@dataclass(frozen=True)
class Merged:
    """What became of one hidden layer: how many units it had, how many were off or merged, and how many stay undecided.

    `undecided` units may be stable, but the time did not suffice to prove it.
    """

    layer: str
    units: int
    off: int
    merged: int
    undecided: int


@dataclass(frozen=True)
class Stable:
    """A smaller network with the same outputs, layer by layer, and how far they are apart on random inputs."""

    network: nn.Module
    layers: list[Merged]
    difference: float
    seconds: float

    @property
    def gone(self) -> int:
        """Units that fell."""
        return sum(layer.off + layer.merged for layer in self.layers)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        layers = [asdict(layer) for layer in self.layers]
        return {"stable": layers, "units_gone": self.gone, "max_difference": self.difference, "seconds": self.seconds}


@torch.no_grad()
def merge_stable(model: nn.Module, low: float, high: float, seconds: float = 60.0, seed: int = 0) -> Stable:
    """A copy of a chain of Linear layers and ReLUs without the units that are stable where all inputs are in a range.

    Args:
        model: left as it is. Flattening before the first layer, and dropout, may stand between.
        low, high: of each input, as the network gets it: after normalization.
        seconds: for the programs, over all units. 0 leaves it at intervals.
        seed: of the random inputs.

    Raises:
        RecipeError: the range is empty or infinite, or the time is.
        CheckpointError: a weight is NaN or infinite.
        NetworkError: the network is another one, or the outputs of the smaller one differ.
    """
    if not -math.inf < low < high < math.inf:
        raise RecipeError(
            f"the inputs are from {low:g} to {high:g}; the first must be less than the second, both finite"
        )
    if not 0 <= seconds < math.inf:
        raise RecipeError(f"the time to prove is {seconds:g} seconds; it must be a finite number that is not negative")
    started, names = time.monotonic(), chain_of(model)
    state = tensors_of(model)
    check_finite(state, compressible(state, None, buffers_of(model)))
    layers = [_layer(state, name) for name in names]
    inputs = random_inputs(layers[0].weight.shape[1], low, high, seed)
    expected, found = outputs_of(layers, inputs), []
    for index, name in enumerate(names[:-1]):
        kinds = _kinds(layers[: index + 1], inputs, (low, high), started + seconds)
        has_bias = f"{names[index + 1]}.bias" in state
        merged = merge(name, layers[index], layers[index + 1], kinds, has_bias)
        layers[index], layers[index + 1] = merged[:2]
        found.append(merged[2])
    for name, layer in zip(names, layers, strict=True):
        for key, value in ((f"{name}.weight", layer.weight), (f"{name}.bias", layer.bias)):
            if key in state:
                state[key] = torch.from_numpy(value).to(state[key].device, state[key].dtype)
    rounded = [_layer(state, name) for name in names]
    difference = float(np.abs(outputs_of(rounded, inputs) - expected).max())
    tolerance = max(TOLERANCE, *(torch.finfo(state[f"{name}.weight"].dtype).eps for name in names))
    if difference > tolerance * max(float(np.abs(expected).max()), 1.0):
        raise NetworkError(f"the merged network differs by {difference:.1e} in its outputs: its weights are too large")
    smaller = copied(model)
    fill(smaller, state, "the merged network", smaller=True)
    return Stable(smaller, found, difference, round(time.monotonic() - started, 3))


def chain_of(model: nn.Module) -> list[str]:
    """Names of the Linear layers of a chain of Linear, ReLU, Linear, and so on, that ends with a Linear.

    Raises:
        NetworkError: the network is another one; the message names what stands in the way.
    """
    try:
        graph = torch.fx.symbolic_trace(model).graph
    except Exception as error:  # the user's forward
        raise NetworkError(
            f"the network cannot be traced, and only a chain can be merged ({first_line(error)})"
        ) from error
    names: list[str] = []
    after_linear, modules = False, dict(model.named_modules())
    for node in graph.nodes:
        if node.op in ("placeholder", "output"):
            continue
        what = modules[node.target] if node.op == "call_module" else node.target
        if len(node.users) != 1 or (isinstance(what, nn.Linear) and (after_linear or node.target in names)):
            raise NetworkError(CHAIN.format(node.name))
        if isinstance(what, nn.Linear):
            names.append(node.target)
            after_linear = True
        elif after_linear and (isinstance(what, nn.ReLU) or what in (torch.relu, nn.functional.relu, "relu", "relu_")):
            after_linear = False
        elif not _changes_nothing(what, bool(names)):
            raise NetworkError(CHAIN.format(node.name))
    weights = {id(modules[name].weight) for name in names}
    if len(weights) < len(names):
        raise NetworkError("layers that share a weight cannot be merged: one of them could not become smaller alone")
    if not after_linear or len(names) < 2:
        raise NetworkError("only a chain of two or more Linear layers that ends with one can be merged")
    return names


def _changes_nothing(what: Any, inside: bool) -> bool:
    """Whether an operation only gives another shape before the first layer, or is dropout or an identity anywhere."""
    if isinstance(what, nn.Dropout | nn.Identity) or what is nn.functional.dropout:
        return True
    return not inside and (isinstance(what, nn.Flatten) or what in _SHAPES)


def _layer(state: dict[str, torch.Tensor], name: str) -> Layer:
    weight = state[f"{name}.weight"].detach().double().cpu().numpy()
    bias = state.get(f"{name}.bias")
    return Layer(weight, np.zeros(len(weight)) if bias is None else bias.detach().double().cpu().numpy())


def random_inputs(width: int, low: float, high: float, seed: int) -> Array:
    """`SAMPLES` inputs of the box (SAMPLES, width), half of them corners, where linear functions are extreme."""
    drawn = np.random.default_rng(seed).random((SAMPLES, width))
    drawn[::2] = drawn[::2].round()
    return low + (high - low) * drawn


def outputs_of(layers: Sequence[Layer], inputs: Array) -> Array:
    """What a chain gives, before the ReLU that may follow its last layer."""
    for layer in layers[:-1]:
        inputs = np.maximum(inputs @ layer.weight.T + layer.bias, 0)
    found: Array = inputs @ layers[-1].weight.T + layers[-1].bias
    return found


def _kinds(layers: Sequence[Layer], inputs: Array, box: tuple[float, float], until: float) -> Array:
    """`OFF`, `ON` or `OPEN` for each unit of the last layer; what nobody could decide is NaN."""
    bounds = bounds_of(layers, box)
    low, high = bounds[-1]
    seen = outputs_of(layers, inputs)
    kinds = np.full(len(low), np.nan)
    kinds[(seen.max(axis=0) > 0) & (seen.min(axis=0) < 0)] = OPEN
    kinds[low >= 0], kinds[high <= 0] = ON, OFF
    doubtful = np.flatnonzero(np.isnan(kinds))
    for number, unit in enumerate(doubtful):
        left = (until - time.monotonic()) / (len(doubtful) - number)  # a hard one is not to take the others' time
        if left <= 0 or len(layers) == 1:  # the intervals of a first layer are exact
            break
        sign = 1.0 if seen[:, unit].max() <= 0 else -1.0
        most, reached = largest(layers, bounds, box, int(unit), sign, left)
        if most <= -SAFE * max(abs(low[unit]), abs(high[unit])):
            kinds[unit] = OFF if sign > 0 else ON
        elif reached > 0:
            kinds[unit] = OPEN
    if len(layers) == 1:
        kinds[np.isnan(kinds)] = OPEN
    return kinds


def merge(name: str, layer: Layer, reader: Layer, kinds: Array, has_bias: bool) -> tuple[Layer, Layer, Merged]:
    """Both layers without the units that are off, and without those that are on and combinations of others.

    With ``w_d = C w_B`` for the weights of the units d that go and of a basis B of those that are on, the reader's
    columns become ``V_B + V_d C``, and its bias grows by ``V_d (b_d - C b_B)``.

    Args:
        name: of the layer.
        layer, reader: neighbors in the chain.
        kinds: of the layer's units.
        has_bias: whether the reader can have a bias; else biases must be combinations, too.
    """
    on = np.flatnonzero(kinds == ON)
    rows = layer.weight[on] if has_bias else np.column_stack([layer.weight, layer.bias])[on]
    basis, others, factors = combinations(rows)
    kept, gone = on[basis], on[others]
    columns, bias = reader.weight.copy(), reader.bias.copy()
    columns[:, kept] += reader.weight[:, gone] @ factors
    if has_bias:
        bias += reader.weight[:, gone] @ (layer.bias[gone] - factors @ layer.bias[kept])
    stays = kinds != OFF
    stays[gone] = False
    if not stays.any():  # a layer has at least one unit; what is read of it is nothing
        stays[0], columns[:, 0] = True, 0.0
    lost = np.flatnonzero(~stays)
    off = int((kinds[lost] == OFF).sum())
    found = Merged(name, len(kinds), off, len(lost) - off, int(np.isnan(kinds).sum()))
    return Layer(layer.weight[stays], layer.bias[stays]), Layer(columns[:, stays], bias), found


def combinations(rows: Array) -> tuple[Places, Places, Array]:
    """Which rows are a basis, which others there are, and C with ``rows[others] = C rows[basis]``."""
    from scipy.linalg import qr

    if not rows.size:
        return np.arange(0), np.arange(len(rows)), np.zeros((len(rows), 0))
    _, triangle, order = qr(rows.T, mode="economic", pivoting=True)
    pivots = np.abs(triangle.diagonal())
    rank = int((pivots > RANK * pivots[0]).sum())
    basis, others = np.sort(order[:rank]), np.sort(order[rank:])
    factors = np.linalg.lstsq(rows[basis].T, rows[others].T, rcond=None)[0].T
    return basis, others, factors
