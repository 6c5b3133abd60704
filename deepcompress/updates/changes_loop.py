"""The inner loop of changed symbols: docs/update-format.md, section 5.

As `coding.adaptive.model`, it is written so that numba can compile it, and so that it runs without. Every element
of the old tensor is zero or a value of the codebook. A zero may come back as a weight; a weight may fall, or keep its
place and become another value. Each of the three is a decision whose probability is a logistic mix of what is known.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from deepcompress.coding.adaptive.model import MASK, Tape, bit_length, decide, learn

#: 1-dimensional integers: numpy arrays for the compiled loop, lists for the plain one.
Numbers = Any

BACK, FELL, MOVED = 0, 1, 2  # kinds of changes

# What `at` of a tape holds beyond what `coding.adaptive.model` has there: changes left and elements left of each kind,
# and elements since the last change.
LEFT, REST, SINCE = 5, 8, 11
AT = 12

INPUTS, RATE = 8, 24
LIMIT, FAR_LIMIT = 400, 250
BESIDE, FILLED, GAPS = 64, 25, 64
NEAR = 8  # values up to which each has a decision of its own; beyond them, it is found by halving

#: Of the mix, in units of 1/65536: what is left, row, column, place, beside, value, how filled, gap.
WEIGHTS = (19661, 6554, 6554, 3277, 9830, 13107, 9830, 3277)


class Starts(NamedTuple):
    """The first slot of each table: of those that each kind has, where rows come first of all, and of the others.

    `kind` is the number of slots that a kind has, `end` that of all.
    """

    columns: int
    places: int
    beside: int
    values: int
    filled: int
    gaps: int
    kind: int
    up: int
    far: int
    tree: int
    end: int


class Facts(NamedTuple):
    """What stays the same while a tensor is coded.

    Attributes:
        size, rows, columns: of the tensor as a matrix.
        plane, width: columns of a plane, and of a line of a plane.
        values: how many the codebook has.
        decoding: whether bits are taken from the payload.
        filled: of each row and then of each column, how full it was, 0 to 4.
        starts: where the slots of each table are.
        squash, stretch, reciprocals: see `coding.adaptive.tables`.
    """

    size: int
    rows: int
    columns: int
    plane: int
    width: int
    values: int
    decoding: bool
    filled: Numbers
    starts: Starts
    squash: Numbers
    stretch: Numbers
    reciprocals: Numbers


class Memory(NamedTuple):
    """What the model has learned, and room for one decision.

    Attributes:
        probabilities, counts: of each slot; a count of 0 is a slot that was never used.
        mixes: weights of the mixers of the three kinds, in units of 1/65536.
        unit: the weight of a decision by one slot alone.
        logits, slots: what the slots of this decision say, and which these are, `INPUTS` of them.
    """

    probabilities: Numbers
    counts: Numbers
    mixes: tuple[Numbers, Numbers, Numbers]
    unit: Numbers
    logits: Numbers
    slots: Numbers


def code_changes(old: Numbers, new: Numbers, start: int, stop: int, facts: Facts, memory: Memory, tape: Tape) -> None:
    """Code elements `start` to `stop` - 1 of `new`, given all of `old`.

    Both are 0 for zero, else the index in the sorted codebook plus 1: what is expected, and what is read, or written.
    """
    at = tape.at
    for here in range(start, stop):
        before, symbol = int(old[here]), int(new[here])
        kind = FELL if before else BACK
        bit = code_whether(int((symbol > 0) != (before > 0)), kind, here, old, new, facts, memory, tape)
        if bit:
            new[here] = 0
            if kind == BACK:
                new[here] = code_value(symbol, facts, memory, tape)
        elif before:
            bit = code_whether(int(symbol != before), MOVED, here, old, new, facts, memory, tape)
            new[here] = before
            if bit:
                new[here] = code_move(symbol, before, facts, memory, tape)
        else:
            new[here] = 0
        at[SINCE] = 0 if bit else at[SINCE] + 1


def code_whether(
    bit: int, kind: int, here: int, old: Numbers, new: Numbers, facts: Facts, memory: Memory, tape: Tape
) -> int:
    """Whether a change of this kind is here; where all or none that are left change, nothing is coded."""
    at = tape.at
    left, rest = at[LEFT + kind], at[REST + kind]
    at[REST + kind] = rest - 1
    if left == 0:
        return 0
    if left < rest:
        find_tables(kind, here, old, new, facts, memory.slots, at)
        predict(min(max((left << 16) // rest, 1), 65535), facts, memory)
        bit = decide(bit, INPUTS, memory.mixes[kind], RATE, facts, memory, tape)
        learn(bit, 1, INPUTS, LIMIT, facts, memory)
    else:
        bit = 1
    at[LEFT + kind] = left - bit
    if kind == FELL and bit:
        at[REST + MOVED] -= 1
    return bit


def find_tables(kind: int, here: int, old: Numbers, new: Numbers, facts: Facts, slots: Numbers, at: Numbers) -> None:
    """The slots of an element and of what stands around it, from 1 on: what is left has none."""
    columns, width, starts = facts.columns, facts.width, facts.starts
    row = here // columns
    column = here - row * columns
    place = column % facts.plane
    beside = 0
    if place % width > 0:
        beside = int(old[here - 1] != new[here - 1]) | int(old[here - 1] > 0) << 1
    if place >= width:
        beside |= int(old[here - width] != new[here - width]) << 2 | int(old[here - width] > 0) << 3
    if row > 0:
        beside |= int(old[here - columns] != new[here - columns]) << 4
    if here + 1 < facts.size:
        beside |= int(old[here + 1] > 0) << 5
    first = kind * starts.kind
    slots[1] = first + (row & MASK)
    slots[2] = first + starts.columns + (column & MASK)
    slots[3] = first + starts.places + (place & MASK)
    slots[4] = first + starts.beside + beside
    slots[5] = first + starts.values + int(old[here])
    slots[6] = first + starts.filled + facts.filled[row] * 5 + facts.filled[facts.rows + column]
    slots[7] = first + starts.gaps + bit_length(at[SINCE])


def predict(chance: int, facts: Facts, memory: Memory) -> None:
    """The logits for a change, where `chance` is the share of changes in what is left; a new slot starts as that."""
    logits, slots, probabilities, stretch = memory.logits, memory.slots, memory.probabilities, facts.stretch
    logits[0] = stretch[chance]
    for index in range(1, INPUTS):
        slot = slots[index]
        if memory.counts[slot] == 0:
            probabilities[slot] = chance << 14
            memory.counts[slot] = min(max(65536 // (8 * min(chance, 65536 - chance)), 2), 300)
        logits[index] = stretch[probabilities[slot] >> 14]


def code_move(symbol: int, before: int, facts: Facts, memory: Memory, tape: Tape) -> int:
    """Which value a weight becomes, and not the one that it was: up or down, and how far."""
    values, starts = facts.values, facts.starts
    up = int(symbol > before)
    if 1 < before < values:
        up = plain(up, starts.up + before, facts, memory, tape)
    elif before == 1:
        up = 1
    else:
        up = 0
    room = values - before if up else before - 1
    distance = abs(symbol - before)
    far, beyond = 1, room + 1
    while beyond - far > 1:
        near = far < NEAR
        middle = far + 1 if near else far + beyond >> 1
        if plain(int(distance >= middle), starts.far + (far if near else 0) * 2 + up, facts, memory, tape):
            far = middle
        else:
            beyond = middle
    return before + far if up else before - far


def code_value(symbol: int, facts: Facts, memory: Memory, tape: Tape) -> int:
    """Which value a weight has that came back: by halving."""
    low, high = 0, facts.values
    while high - low > 1:
        middle = low + high >> 1
        if plain(int(symbol > middle), facts.starts.tree + middle, facts, memory, tape):
            low = middle
        else:
            high = middle
    return low + 1


def plain(bit: int, slot: int, facts: Facts, memory: Memory, tape: Tape) -> int:
    """One decision by one slot alone."""
    if memory.counts[slot] == 0:
        memory.probabilities[slot] = 1 << 29
        memory.counts[slot] = 2
    memory.slots[0] = slot
    memory.logits[0] = facts.stretch[memory.probabilities[slot] >> 14]
    bit = decide(bit, 1, memory.unit, 0, facts, memory, tape)
    learn(bit, 0, 1, FAR_LIMIT, facts, memory)
    return bit
