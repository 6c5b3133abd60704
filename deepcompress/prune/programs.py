"""How large a ReLU unit can become over a box of inputs: by intervals, and by a mixed-integer linear program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
Bounds = tuple[Array, Array]


@dataclass(frozen=True)
class Layer:
    """A Linear layer: weight (outputs, inputs) and bias (outputs), float64."""

    weight: Array
    bias: Array


def bounds_of(layers: Sequence[Layer], box: tuple[float, float]) -> list[Bounds]:
    """The least and largest value of each layer's units before their ReLU, by intervals; exact for the first layer."""
    low, high = (np.full(layers[0].weight.shape[1], side) for side in box)
    found = []
    for layer in layers:
        up, down = np.maximum(layer.weight, 0), np.minimum(layer.weight, 0)
        bounds = up @ low + down @ high + layer.bias, up @ high + down @ low + layer.bias
        found.append(bounds)
        low, high = (np.maximum(side, 0) for side in bounds)
    return found


def largest(
    layers: Sequence[Layer],
    bounds: Sequence[Bounds],
    box: tuple[float, float],
    unit: int,
    sign: float,
    seconds: float,
) -> tuple[float, float]:
    """An upper bound of `sign` times a unit of the last layer before its ReLU, and the most that was reached.

    The variables are the inputs, and for each hidden unit its output h and, where its sign is open, a binary z with
    ``h >= a``, ``h <= a - l (1 - z)`` and ``h <= u z``, a being its value before the ReLU and l, u its bounds (the
    formulation with big M, as in Serra et al. 2020).

    Args:
        layers: a chain, ReLUs between.
        bounds: of each layer, as `bounds_of` gives them.
        box: of all inputs.
        unit: of the last layer.
        sign: 1 or -1.
        seconds: after which the solver stops; the bound holds all the same.

    Returns:
        (inf, -inf) where the solver has nothing to say.
    """
    from scipy.optimize import Bounds as Ranges
    from scipy.optimize import LinearConstraint, milp

    program = _Program(layers[0].weight.shape[1], box)
    for layer, (low, high) in zip(layers[:-1], bounds[:-1], strict=True):
        program.add(layer, low, high)
    goal = np.zeros(program.size)
    goal[program.last] = -sign * layers[-1].weight[unit]
    found = milp(
        goal,
        integrality=program.integrality,
        bounds=Ranges(np.array(program.low), np.array(program.high)),
        constraints=LinearConstraint(program.matrix(), -np.inf, np.array(program.right)) if program.right else (),
        options={"time_limit": seconds},
    )
    offset = sign * layers[-1].bias[unit]
    bound = found.get("mip_dual_bound")
    most = np.inf if bound is None else offset - bound
    return float(most), -np.inf if found.x is None else float(offset - goal @ found.x)


class _Program:
    """Variables with their ranges, and rows ``m x <= r``, that are added layer by layer."""

    def __init__(self, inputs: int, box: tuple[float, float]) -> None:
        self.low, self.high = [box[0]] * inputs, [box[1]] * inputs
        self.integrality = [0] * inputs
        self.last = slice(0, inputs)
        self.rows: list[dict[int, float]] = []
        self.right: list[float] = []

    @property
    def size(self) -> int:
        return len(self.low)

    def add(self, layer: Layer, low: Array, high: Array) -> None:
        """The units of a layer, which reads the last ones."""
        before, start = self.last, self.size
        self.last = slice(start, start + len(low))
        for least, most in zip(low, high, strict=True):
            self._variable(max(least, 0.0), max(most, 0.0))
        for unit, (row, bias) in enumerate(zip(layer.weight, layer.bias, strict=True)):
            if high[unit] > 0:
                terms = {before.start + int(at): float(row[at]) for at in np.flatnonzero(row)}
                self._relu(start + unit, terms, float(bias), float(low[unit]), float(high[unit]))

    def _relu(self, output: int, terms: dict[int, float], bias: float, low: float, high: float) -> None:
        """``h = max(a, 0)`` with a = terms + bias."""
        self._row({**terms, output: -1.0}, -bias)  # a <= h
        negative = {at: -value for at, value in terms.items()}
        if low >= 0:
            self._row({**negative, output: 1.0}, bias)  # h <= a
            return
        switch = self.size
        self._variable(0.0, 1.0, 1)
        self._row({**negative, output: 1.0, switch: -low}, bias - low)  # h <= a - l (1 - z)
        self._row({output: 1.0, switch: -high}, 0.0)  # h <= u z

    def _variable(self, low: float, high: float, integrality: int = 0) -> None:
        self.low.append(float(low))
        self.high.append(float(high))
        self.integrality.append(integrality)

    def _row(self, terms: dict[int, float], right: float) -> None:
        self.rows.append(terms)
        self.right.append(right)

    def matrix(self) -> Any:
        """The rows as a sparse matrix."""
        from scipy.sparse import csr_array

        places = [(row, at, value) for row, terms in enumerate(self.rows) for at, value in terms.items()]
        rows, columns, values = zip(*places, strict=True)
        return csr_array((values, (rows, columns)), shape=(len(self.rows), self.size))
