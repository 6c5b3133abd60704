"""Entropy-constrained scalar quantization: shared values that are cheap to code, not only near.

Chou, Lookabaugh and Gray 1989, for pruned networks Choi, El-Khamy and Lee 2017 (their ECSQ): what is lowered is
distortion + price * bits, by turns over the assignment of weights, the code lengths, and the shared values. Pruning is
part of it: zero is one of the values a weight may take, and what it saves is a position as well as an index.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

CHUNK = 1 << 16  # values that are held against all centroids together
ROUNDS = 20
ENOUGH = 1e-4  # a round that lowers the cost by less than this fraction is the last


@dataclass(frozen=True)
class Part:
    """The surviving weights of one tensor.

    Attributes:
        shape: of the tensor.
        positions: where in the flat tensor they are, int64, ascending.
        values: float32 or float64, none zero.
        importance: what the squared error of each counts, positive; None counts all alike.
    """

    shape: tuple[int, ...]
    positions: Array
    values: Array
    importance: Array | None = None

    @property
    def counts(self) -> Array:
        """The importance of each, float64."""
        return np.ones(len(self.values)) if self.importance is None else self.importance.astype(np.float64)


@dataclass(frozen=True)
class Significance:
    """What it costs to say where the weights are: a coder that knows how dense each row and each column is.

    A position is taken with probability row * column / whole, the densities of its row and column (each mixed with one
    position of the whole's density), and of the tensor.
    """

    rows: Array
    columns: Array
    density: float

    @classmethod
    def of(cls, shape: tuple[int, ...], positions: Array) -> Significance:
        """Fitted to the positions (flat) that are taken in a tensor of this shape."""
        rows, size = shape[0], int(np.prod(shape))
        columns = max(size // max(rows, 1), 1)
        density = float(np.clip(len(positions) / max(size, 1), 0.5 / max(size, 1), 1))
        in_row = np.bincount(positions // columns, minlength=rows)
        in_column = np.bincount(positions % columns, minlength=columns)
        return cls((in_row + density) / (columns + 1), (in_column + density) / (rows + 1), density)

    def bits(self, positions: Array) -> tuple[Array, Array]:
        """Bits that say "a weight" and "no weight" at each of `positions`, float64."""
        columns = len(self.columns)
        taken = self._probability(self.rows[positions // columns], self.columns[positions % columns])
        return -np.log2(taken), -np.log2(1 - taken)

    def total(self, positions: Array) -> float:
        """Bits for the whole tensor, if the weights are at `positions`."""
        lines = max(CHUNK // len(self.columns), 1)
        empty = 0.0
        for start in range(0, len(self.rows), lines):
            taken = self._probability(self.rows[start : start + lines, None], self.columns[None])
            empty -= float(np.log2(1 - taken).sum())
        weight, none = self.bits(positions)
        return empty + float((weight - none).sum())

    def _probability(self, row: Array, column: Array) -> Array:
        least = 0.5 / (len(self.rows) * len(self.columns) + 1)
        product: Array = np.clip(row * column / self.density, least, 1 - least)
        return product


@dataclass(frozen=True)
class State:
    """Where the search stands: shared values, bits of each one's index, and the assignment of each part (-1: zero).

    `origin` says for each shared value which of the first ones it was.
    """

    centroids: Array
    origin: Array
    lengths: Array
    significances: tuple[Significance, ...]
    choices: tuple[Array, ...]


#: Better shared values for (values, importance, assignment), all of one length and none of them zero, and the state.
Refit = Callable[[Array, Array, Array, State], Array]


def constrain(
    parts: Sequence[Part], centroids: Array, choices: Sequence[Array], price: float, refit: Refit
) -> tuple[State, list[float]]:
    """Lower distortion + price * bits from the shared values and the assignment given.

    Args:
        parts: the tensors that have these values in common.
        centroids: sorted, none zero, float64.
        choices: index of each weight's centroid (-1: zero), for each part; every centroid has a weight.
        price: of a bit, in units of importance * squared weight.
        refit: the best shared values for an assignment (the means, or a step times whole numbers).

    Returns:
        Where the search ended, and the cost after each round: it never rises. A part that had weights keeps one.
    """
    found = tuple(
        Significance.of(part.shape, part.positions[choice >= 0]) for part, choice in zip(parts, choices, strict=True)
    )
    start = State(centroids, np.arange(len(centroids)), np.zeros(len(centroids)), found, tuple(choices))
    state = _without_unused(start)
    trace = [cost(parts, state, price)]
    for _ in range(ROUNDS):
        state = replace(state, choices=tuple(_assign(part, i, state, price) for i, part in enumerate(parts)))
        state = _without_unused(state)
        state = replace(state, significances=tuple(_refitted(part, i, state) for i, part in enumerate(parts)))
        state = replace(state, centroids=_moved(parts, state, refit))
        trace.append(cost(parts, state, price))
        if trace[-1] >= trace[-2] * (1 - ENOUGH):
            break
    return state, trace


def cost(parts: Sequence[Part], state: State, price: float) -> float:
    """Distortion + price * bits of the whole: positions and indices, without tables."""
    distortion = bits = 0.0
    table, lengths = np.append(state.centroids, 0.0), np.append(state.lengths, 0.0)
    for part, significance, choice in zip(parts, state.significances, state.choices, strict=True):
        distortion += float((part.counts * np.square(part.values - table[choice])).sum())
        bits += float(lengths[choice].sum()) + significance.total(part.positions[choice >= 0])
    return distortion + price * bits


def cheapest(values: Array, counts: Array, centroids: Array, prices: Array, zero: Array) -> Array:
    """For each value the centroid of the lowest cost, -1 for zero: int64.

    The cost is count * squared error + the centroid's price; that of zero is `zero`, one for each value, on top of the
    error. Runs over the centroids, in chunks of the values, so it takes no memory for their product.
    """
    choices = np.full(len(values), -1, dtype=np.int64)
    for start in range(0, len(values), CHUNK):
        chunk = slice(start, start + CHUNK)
        value, count, choice = values[chunk].astype(np.float64), counts[chunk], choices[chunk]
        best = count * np.square(value) + zero[chunk]
        for index, (centroid, price) in enumerate(zip(centroids.tolist(), prices.tolist(), strict=True)):
            here = count * np.square(value - centroid) + price
            better = here < best
            choice[better] = index
            np.minimum(best, here, out=best)
    return choices


def index_lengths(counts: Array) -> Array:
    """Bits of the index of each centroid in the ideal code, from how many weights each has (none of them 0)."""
    lengths: Array = -np.log2(counts / max(counts.sum(), 1))
    return lengths


def _assign(part: Part, index: int, state: State, price: float) -> Array:
    weight, none = state.significances[index].bits(part.positions)
    values, counts, lengths, zero = part.values, part.counts, price * state.lengths, price * (none - weight)
    choice = cheapest(values, counts, state.centroids, lengths, zero)
    if len(choice) and (choice < 0).all():  # the one that is the least dearer with a value stays
        forced = cheapest(values, counts, state.centroids, lengths, np.full(len(values), np.inf))
        kept = counts * (np.square(values - state.centroids[forced]) - np.square(values)) + lengths[forced] - zero
        choice[np.argmin(kept)] = forced[np.argmin(kept)]
    return choice


def _without_unused(state: State) -> State:
    """Centroids that no weight has left go, and the code is made for those that stay."""
    counts = sum(
        (np.bincount(choice[choice >= 0], minlength=len(state.centroids)) for choice in state.choices),
        start=np.zeros(len(state.centroids), dtype=np.int64),
    )
    used = counts > 0
    renumber = np.append(np.cumsum(used) - 1, -1)
    choices = tuple(renumber[choice] for choice in state.choices)
    kept = state.centroids[used], state.origin[used]
    return State(*kept, index_lengths(counts[used]), state.significances, choices)


def _refitted(part: Part, index: int, state: State) -> Significance:
    """A new model of the positions where it is better: the product of densities need not be."""
    alive, old = part.positions[state.choices[index] >= 0], state.significances[index]
    new = Significance.of(part.shape, alive)
    return new if new.total(alive) < old.total(alive) else old


def _moved(parts: Sequence[Part], state: State, refit: Refit) -> Array:
    choices = np.concatenate(state.choices)
    alive = choices >= 0
    values = np.concatenate([part.values.astype(np.float64) for part in parts])[alive]
    return refit(values, np.concatenate([part.counts for part in parts])[alive], choices[alive], state)


def means(values: Array, counts: Array, choices: Array, state: State) -> Array:
    """Each centroid to the weighted mean of its values; one that would fall on zero stays."""
    old = state.centroids
    weight = np.bincount(choices, counts, minlength=len(old))
    mean = np.bincount(choices, counts * values, minlength=len(old)) / np.where(weight > 0, weight, 1)
    moved: Array = np.where((weight > 0) & (mean != 0), mean, old)
    return moved
