"""The inner loop of changed symbols: docs/update-format.md, section 5.

As `coding.adaptive.model`, it is written so that numba can compile it, and so that it runs without. Every element
of the old tensor is zero or an entry of the codebook. A zero may come back as a weight; a weight may fall, or keep its
place and become another entry. Each of the three is a decision whose probability is a logistic mix of what is known.
"""

from __future__ import annotations

from typing import Any

from deepcompress.coding.adaptive.model import (
    COLUMNS,
    ENTRIES,
    MASK,
    PLANE,
    SIZE,
    WIDTH,
    bit_length,
    decide,
    learn,
)

#: 1-dimensional integers: numpy arrays for the compiled loop, lists for the plain one.
Numbers = Any

BACK, FELL, MOVED = 0, 1, 2  # kinds of changes

# What `facts` holds beyond what `coding.adaptive.model` has there: the first slot of each table, and slots of a kind.
AT_COLUMNS, AT_PLACES, AT_BESIDE, AT_ENTRIES, AT_FILLED, AT_GAPS = 10, 11, 12, 13, 14, 15
OF_KIND, AT_UP, AT_FAR, AT_TREE, SLOTS = 16, 17, 18, 19, 20
FACTS = 21

# What `at` holds beyond that: changes left and elements left of each kind, and elements since the last change.
LEFT, REST, SINCE = 5, 8, 11
AT = 12

INPUTS, RATE = 8, 24
LIMIT, FAR_LIMIT = 400, 250
BESIDE, FILLED, GAPS = 64, 25, 64
NEAR = 8  # entries up to which each has a decision of its own; beyond them, it is found by halving

#: Of the mix, in units of 1/65536: what is left, row, column, place, beside, entry, how filled, gap.
WEIGHTS = (19661, 6554, 6554, 3277, 9830, 13107, 9830, 3277)


def code_changes(
    old: Numbers,
    new: Numbers,
    start: int,
    stop: int,
    facts: Numbers,
    filled: Numbers,
    probabilities: Numbers,
    counts: Numbers,
    weights: tuple[Numbers, Numbers, Numbers, Numbers],
    at: Numbers,
    scratch: Numbers,
    tables: tuple[Numbers, Numbers, Numbers],
    decisions: Numbers,
    payload: Numbers,
) -> None:
    """Code elements `start` to `stop` - 1 of `new`, given all of `old`.

    Args:
        old: symbols that are expected: 0 for zero, else an entry plus 1.
        new: symbols; read, or written.
        facts, at: see the constants above.
        filled: of each row and then of each column, how full it was, 0 to 4.
        probabilities, counts: of the slots; a count of 0 is a slot that was never used.
        weights: of the mixers of the three kinds, and of the direction.
        scratch: 40 numbers.
        tables: squash, stretch, reciprocals.
        decisions: coded ones are put here.
        payload: bytes to decode from.
    """
    for here in range(start, stop):
        before, symbol = int(old[here]), int(new[here])
        kind = FELL if before else BACK
        bit = code_whether(
            int((symbol > 0) != (before > 0)), kind, here, old, new, facts, filled, probabilities, counts,
            weights[kind], at, scratch, tables, decisions, payload,
        )  # fmt: skip
        if bit:
            new[here] = 0
            if kind == BACK:
                new[here] = code_entry(
                    symbol, facts, probabilities, counts, at, tables, scratch, decisions, payload, weights[3]
                )
        elif before:
            bit = code_whether(
                int(symbol != before), MOVED, here, old, new, facts, filled, probabilities, counts, weights[MOVED], at,
                scratch, tables, decisions, payload,
            )  # fmt: skip
            new[here] = before
            if bit:
                new[here] = code_move(
                    symbol, before, facts, probabilities, counts, at, tables, scratch, decisions, payload, weights[3]
                )
        else:
            new[here] = 0
        at[SINCE] = 0 if bit else at[SINCE] + 1


def code_whether(
    bit: int,
    kind: int,
    here: int,
    old: Numbers,
    new: Numbers,
    facts: Numbers,
    filled: Numbers,
    probabilities: Numbers,
    counts: Numbers,
    weights: Numbers,
    at: Numbers,
    scratch: Numbers,
    tables: tuple[Numbers, Numbers, Numbers],
    decisions: Numbers,
    payload: Numbers,
) -> int:
    """Whether a change of this kind is here; where all or none that are left change, nothing is coded."""
    left, rest = at[LEFT + kind], at[REST + kind]
    at[REST + kind] = rest - 1
    if left == 0:
        return 0
    if left < rest:
        predict(kind, here, left, rest, old, new, facts, filled, probabilities, counts, at, scratch, tables)
        bit = decide(bit, scratch, INPUTS, weights, RATE, tables[0], facts, at, decisions, payload)
        for index in range(1, INPUTS):
            learn(probabilities, counts, scratch[20 + index], bit, LIMIT, tables[2])
    else:
        bit = 1
    at[LEFT + kind] = left - bit
    if kind == FELL and bit:
        at[REST + MOVED] -= 1
    return bit


def predict(
    kind: int,
    here: int,
    left: int,
    rest: int,
    old: Numbers,
    new: Numbers,
    facts: Numbers,
    filled: Numbers,
    probabilities: Numbers,
    counts: Numbers,
    at: Numbers,
    scratch: Numbers,
    tables: tuple[Numbers, Numbers, Numbers],
) -> None:
    """The logits for a change into scratch[:8], and the slots they come from into scratch[21:28]."""
    columns, plane, width = facts[COLUMNS], facts[PLANE], facts[WIDTH]
    row = here // columns
    column = here - row * columns
    place = column % plane
    beside = 0
    if place % width > 0:
        beside = int(old[here - 1] != new[here - 1]) | int(old[here - 1] > 0) << 1
    if place >= width:
        beside |= int(old[here - width] != new[here - width]) << 2 | int(old[here - width] > 0) << 3
    if row > 0:
        beside |= int(old[here - columns] != new[here - columns]) << 4
    if here + 1 < facts[SIZE]:
        beside |= int(old[here + 1] > 0) << 5
    first = kind * facts[OF_KIND]
    scratch[21] = first + (row & MASK)
    scratch[22] = first + facts[AT_COLUMNS] + (column & MASK)
    scratch[23] = first + facts[AT_PLACES] + (place & MASK)
    scratch[24] = first + facts[AT_BESIDE] + beside
    scratch[25] = first + facts[AT_ENTRIES] + int(old[here])
    scratch[26] = first + facts[AT_FILLED] + filled[row] * 5 + filled[facts[SIZE] // columns + column]
    scratch[27] = first + facts[AT_GAPS] + bit_length(at[SINCE])
    chance = min(max((left << 16) // rest, 1), 65535)
    scratch[0] = tables[1][chance]
    for index in range(1, INPUTS):
        slot = scratch[20 + index]
        if counts[slot] == 0:
            probabilities[slot] = chance << 14
            counts[slot] = min(max(65536 // (8 * min(chance, 65536 - chance)), 2), 300)
        scratch[index] = tables[1][probabilities[slot] >> 14]


def code_move(
    symbol: int,
    before: int,
    facts: Numbers,
    probabilities: Numbers,
    counts: Numbers,
    at: Numbers,
    tables: tuple[Numbers, Numbers, Numbers],
    scratch: Numbers,
    decisions: Numbers,
    payload: Numbers,
    unit: Numbers,
) -> int:
    """Which entry a weight becomes, and not the one that it was: up or down, and how far."""
    entries = facts[ENTRIES]
    up = int(symbol > before)
    if 1 < before < entries:
        up = plain(
            up, facts[AT_UP] + before, facts, probabilities, counts, at, tables, scratch, decisions, payload, unit
        )
    elif before == 1:
        up = 1
    else:
        up = 0
    room = entries - before if up else before - 1
    distance = abs(symbol - before)
    far, beyond = 1, room + 1
    while beyond - far > 1:
        near = far < NEAR
        middle = far + 1 if near else far + beyond >> 1
        slot = facts[AT_FAR] + (far if near else 0) * 2 + up
        if plain(
            int(distance >= middle), slot, facts, probabilities, counts, at, tables, scratch, decisions, payload, unit
        ):  # fmt: skip
            far = middle
        else:
            beyond = middle
    return before + far if up else before - far


def code_entry(
    symbol: int,
    facts: Numbers,
    probabilities: Numbers,
    counts: Numbers,
    at: Numbers,
    tables: tuple[Numbers, Numbers, Numbers],
    scratch: Numbers,
    decisions: Numbers,
    payload: Numbers,
    unit: Numbers,
) -> int:
    """Which entry a weight has that came back: by halving."""
    low, high = 0, facts[ENTRIES]
    while high - low > 1:
        middle = low + high >> 1
        if plain(
            int(symbol > middle), facts[AT_TREE] + middle, facts, probabilities, counts, at, tables, scratch, decisions,
            payload, unit,
        ):  # fmt: skip
            low = middle
        else:
            high = middle
    return low + 1


def plain(
    bit: int,
    slot: int,
    facts: Numbers,
    probabilities: Numbers,
    counts: Numbers,
    at: Numbers,
    tables: tuple[Numbers, Numbers, Numbers],
    scratch: Numbers,
    decisions: Numbers,
    payload: Numbers,
    unit: Numbers,
) -> int:
    """One decision by one slot alone."""
    if counts[slot] == 0:
        probabilities[slot] = 1 << 29
        counts[slot] = 2
    scratch[0] = tables[1][probabilities[slot] >> 14]
    bit = decide(bit, scratch, 1, unit, 0, tables[0], facts, at, decisions, payload)
    learn(probabilities, counts, slot, bit, FAR_LIMIT, tables[2])
    return bit
