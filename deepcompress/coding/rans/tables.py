"""The tables that an encoder takes for what it has counted: few, and cheap to tell.

None of this is part of the format: another encoder may choose otherwise.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from deepcompress.coding.rans import frequencies, model

Array = np.ndarray[Any, np.dtype[Any]]

_LEVEL_BITS = 4  # what a level of a table takes, about
_TABLE_BITS = 16  # what a table takes beside its levels
_NEW_BITS = 5  # what a difference that comes for the first time takes in the Huffman table
_ROUNDS = 2
_WINDOW = 12  # levels below the nearest one, and above it, that are looked at
_LEVELS = frequencies.TOP + 1


def tables_of(counts: Array) -> tuple[Array, Array]:
    """The table of each context (uint8), and the levels of each table: contexts that are alike share one.

    Args:
        counts: how often each token comes in each context, int64 of shape (contexts, tokens).
    """
    used = np.flatnonzero(counts.sum(axis=1))
    sums = counts[used].astype(np.float64)
    members = [[int(k)] for k in used]
    alive = np.ones(len(used), dtype=bool)
    cost = _bits(sums)
    gain = np.array([_gain(sums, cost, k) for k in range(len(used))])
    while alive.sum() > 1:
        a, b = divmod(int(np.argmax(gain)), len(used))
        if gain[a, b] <= 0 and alive.sum() <= model.MAX_TABLES:
            break
        sums[a] += sums[b]
        members[a] += members[b]
        alive[b] = False
        cost[a], sums[b] = _bits(sums[a : a + 1])[0], 0
        gain[b], gain[:, b] = -np.inf, -np.inf
        row = np.where(alive, _gain(sums, cost, a), -np.inf)
        row[a] = -np.inf
        gain[a], gain[:, a] = row, row
    groups = sorted((sorted(members[k]), k) for k in np.flatnonzero(alive))
    most = max(range(len(groups)), key=lambda number: len(groups[number][0]))
    contexts = np.full(len(counts), most, dtype=np.uint8)  # also of those that never come: it has the shortest code
    for number, (group, _) in enumerate(groups):
        contexts[group] = number
    return contexts, cheap_levels(sums[[k for _, k in groups]])


def _bits(counts: Array) -> Array:
    """Bits of tokens that occur `counts` times, with their table."""
    totals = counts.sum(axis=1)
    each = _times_log(counts).sum(axis=1)
    bits: Array = _times_log(totals) - each + _LEVEL_BITS * np.count_nonzero(counts, axis=1) + _TABLE_BITS
    return bits


def _times_log(counts: Array) -> Array:
    """Each count times its logarithm to base 2; 0 for 0."""
    found: Array = counts * np.log2(np.maximum(counts, 1))
    return found


def _gain(sums: Array, cost: Array, k: int) -> Array:
    """Bits that each group saves when it is put together with group k; minus infinity for itself."""
    found: Array = cost + cost[k] - _bits(sums + sums[k])
    found[k] = -np.inf
    return found


# Levels ----------------------------------------------------------------------------------------------------------


def cheap_levels(counts: Array) -> Array:
    """Levels (uint8) of tokens that occur `counts` times, both of shape (tables, tokens).

    A file tells how each level differs from that of the table before. So a level need not be the nearest one: by
    dynamic programming over the tables, each token takes those levels with which data and differences are smallest.
    What a difference takes depends on how often it comes, so this is done a few times.
    """
    losses = _losses(counts)
    levels = losses.argmin(axis=2)
    near = np.clip(levels[:, :, None] + np.arange(-_WINDOW, _WINDOW), 0, frequencies.TOP)
    losses = np.take_along_axis(losses, near, axis=2)
    for _ in range(_ROUNDS):
        levels = _cheapest(near, losses, _prices(levels))
    return levels.astype(np.uint8)  # type: ignore[no-any-return]


def _losses(counts: Array) -> Array:
    """Bits that data take more than their entropy by each level, of shape (tables, tokens, levels).

    The level says a share of the table, as if the shares summed to one. What it costs that they do not is in there:
    ln(1 + x) is at most x.
    """
    totals = counts.sum(axis=1)[:, None, None]
    wanted = counts[:, :, None] / np.maximum(totals, 1)
    told = 2.0 ** ((np.arange(_LEVELS) - frequencies.TOP) / frequencies.STEPS) + 1 / frequencies.TOTAL
    told[0] = 0
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = told - wanted + np.where(wanted > 0, wanted * np.log(wanted / told), 0)
    found: Array = totals * apart / np.log(2)
    return found


def _prices(levels: Array) -> Array:
    """Bits of each difference between the levels of two tables, by the Huffman code for `levels`, about."""
    changes = np.diff(levels, axis=0, prepend=0) & frequencies.LEVELS - 1
    often = np.bincount(changes.reshape(-1), minlength=frequencies.LEVELS)
    bits = np.log2(changes.size / np.maximum(often, 0.5))
    found: Array = np.maximum(bits, 1) + np.where(often, _NEW_BITS / np.maximum(often, 1), _NEW_BITS)
    return found


def _cheapest(near: Array, losses: Array, prices: Array) -> Array:
    """The levels with the least bits of data and differences, of those `near`: a path through the tables each token."""
    tables, tokens, _ = near.shape
    total = losses[0] + prices[near[0]]
    before = np.zeros(near.shape, dtype=np.int64)
    for table in range(1, tables):
        changes = near[table][:, :, None] - near[table - 1][:, None, :] & frequencies.LEVELS - 1
        ways = total[:, None, :] + prices[changes]
        before[table] = ways.argmin(axis=2)
        total = losses[table] + np.take_along_axis(ways, before[table][:, :, None], axis=2)[:, :, 0]
    found = np.zeros((tables, tokens), dtype=np.int64)
    every, at = np.arange(tokens), total.argmin(axis=1)
    for table in range(tables - 1, -1, -1):
        found[table] = near[table][every, at]
        at = before[table][every, at]
    return found
