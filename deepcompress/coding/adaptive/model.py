"""The adaptive model of a shared, sparse tensor, and the binary coder under it: docs/format.md, section 11.

Everything here is written so that numba can compile it (`kernels.code_symbols`), and so that it runs without: then
the arrays should be lists, which plain Python walks faster. Integers only, none beyond 63 bits, so both are the same.

One element is coded as decisions: is it a weight; if so, down a tree over the sorted codebook, whose root parts the
negative values from the positive ones. Each decision's probability is a logistic mix of adaptive ones, each of
which looks at another part of what is known: how many weights are left, how full this row, this column and its
neighbours are, what stands beside it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

#: 1-dimensional integers: numpy arrays for the compiled model, lists for the plain one.
Numbers = Any

#: `Facts` or `Memory`, or what another model (`updates.changes_loop`) has in their place.
Fields = Any

# What `at` of a `Tape` holds, which changes with each element: weights left, zeros since the last one, the coder's
# state, bytes read, decisions made.
LEFT, GAP, STATE, READ, MADE = 0, 1, 2, 3, 4

# What `seen` of `Memory` holds for each row, then for each column, of the weights so far: three fields each.
LAST, BALANCE, MAGNITUDE, FIELDS = 0, 1, 2, 3

MASK = (1 << 16) - 1  # rows and columns beyond 65,536 share their slots: the model's memory is bounded

ONE = 1 << 30  # an adaptive probability is below this
LOW = 1 << 24  # of the coder's state

ZERO_INPUTS, TREE_INPUTS = 10, 6
ZERO_SLOTS, SLOW_SLOTS = 8, 4  # of a decision whether there is a weight; the first ones are of rows and columns
SLOW, FAST = 588, 4000  # counts at which a slot stops to slow down: rows, columns; tables
TREE_LIMIT, TREE_FRESH, TREE_ROOT = 250, 2, 65
ZERO_RATE, TREE_RATE = 32, 96
BESIDE_SLOTS, BEFORE_SLOTS, GAP_SLOTS, JOINT_SLOTS = 64, 16, 48, 605
CLASSES = 7
NODE_SLOTS = 1 + 2 * CLASSES + CLASSES * CLASSES + 2 * 9

ZERO_WEIGHTS = (-17695, 11469, 5243, 11141, -1311, 4588, 15729, 13107, 10813, 2621)
TREE_WEIGHTS = (-23593, 7209, 3277, 47841, 8847, 7864)


class Starts(NamedTuple):
    """The first slot of each table; those of rows come first of all."""

    columns: int
    planes: int
    places: int
    beside: int
    before: int
    gaps: int
    joint: int
    tree: int


class Facts(NamedTuple):
    """What stays the same while a tensor is coded.

    Attributes:
        size, rows, columns: of the tensor as a matrix.
        plane, width: columns of a plane, and of a line of a plane.
        by_column: whether the scan goes down each column first.
        values, negative: of the codebook: how many values it has, and how many of them are negative and come first.
        decoding: whether bits are taken from the payload.
        base: the logit of the tensor's density.
        fresh: the count that a new slot starts with.
        starts: where the slots of each table are.
        classes: of each symbol, 0 to `CLASSES` - 1.
        squash, stretch, reciprocals: see `tables`.
    """

    size: int
    rows: int
    columns: int
    plane: int
    width: int
    by_column: bool
    values: int
    negative: int
    decoding: bool
    base: int
    fresh: int
    starts: Starts
    classes: Numbers
    squash: Numbers
    stretch: Numbers
    reciprocals: Numbers


class Memory(NamedTuple):
    """What the model has learned, and room for one decision.

    Attributes:
        probabilities, counts: of each slot; a count of 0 is a slot that was never used.
        seen: of rows and columns, see the constants above.
        zero_weights, tree_weights: of the two mixers, in units of 1/65536.
        logits: what the slots of this decision say, `ZERO_INPUTS` of them.
        slots: which these are, `ZERO_SLOTS` of them.
    """

    probabilities: Numbers
    counts: Numbers
    seen: Numbers
    zero_weights: Numbers
    tree_weights: Numbers
    logits: Numbers
    slots: Numbers


class Tape(NamedTuple):
    """What goes in and out.

    Attributes:
        at: see the constants above.
        decisions: coded ones are put here for `give`: probability of 1, times 2, plus the bit.
        payload: bytes to decode from.
    """

    at: Numbers
    decisions: Numbers
    payload: Numbers


def code(symbols: Numbers, start: int, stop: int, facts: Facts, memory: Memory, tape: Tape) -> None:
    """Code elements `start` to `stop` - 1 in the order of the scan.

    `symbols` is 0 for zero, else the index in the sorted codebook plus 1; read, or written where zeros were.
    """
    at = tape.at
    for index in range(start, stop):
        left, rest = at[LEFT], facts.size - index
        if left == 0:
            return
        if facts.by_column:
            column = index // facts.rows
            row = index - column * facts.rows
        else:
            row = index // facts.columns
            column = index - row * facts.columns
        bit = 1
        if left < rest:
            predict_zero(symbols, row, column, rest, facts, memory, at)
            bit = int(symbols[row * facts.columns + column] > 0)
            bit = decide(bit, ZERO_INPUTS, memory.zero_weights, ZERO_RATE, facts, memory, tape)
            learn(bit, 0, SLOW_SLOTS, SLOW, facts, memory)
            learn(bit, SLOW_SLOTS, ZERO_SLOTS, FAST, facts, memory)
        at[GAP] += 1
        if bit:
            at[GAP] = 0
            at[LEFT] = left - 1
            code_entry(symbols, row, column, facts, memory, tape)


def predict_zero(symbols: Numbers, row: int, column: int, rest: int, facts: Facts, memory: Memory, at: Numbers) -> None:
    """The logits for "this is a weight", and the slots they come from, where `rest` elements are left."""
    logits, slots, probabilities, stretch = memory.logits, memory.slots, memory.probabilities, facts.stretch
    plane = column // facts.plane
    place = column - plane * facts.plane
    y = place // facts.width
    x = place - y * facts.width
    slots[0] = row & MASK
    slots[1] = facts.starts.columns + (column & MASK)
    slots[2] = facts.starts.planes + (plane & MASK)
    slots[3] = facts.starts.places + (place & MASK)
    logits[0] = stretch[max((at[LEFT] << 16) // rest, 1)]
    logits[1] = stretch[probabilities[slots[0]] >> 14]
    logits[2] = stretch[probabilities[slots[1]] >> 14]
    around = neighbours(column, x, y, place, facts, probabilities)
    logits[3] = stretch[around >> 14] if around >= 0 else logits[2]
    logits[4] = stretch[probabilities[slots[2]] >> 14]
    logits[5] = stretch[probabilities[slots[3]] >> 14]

    find_tables(symbols, row * facts.columns + column, row, plane, x, y, facts, slots)
    joint = step(logits[1] - facts.base, 128, 5, 10) * 11 + step(logits[2] - facts.base, 128, 5, 10)
    slots[6] = facts.starts.gaps + bit_length(at[GAP])
    slots[7] = facts.starts.joint + joint * 5 + step(logits[3] - facts.base, 192, 2, 4)
    for table in range(SLOW_SLOTS, ZERO_SLOTS):
        slot = slots[table]
        if memory.counts[slot] == 0:
            probabilities[slot] = facts.squash[logits[0] + (len(facts.squash) >> 1)] << 14
            memory.counts[slot] = facts.fresh
        logits[2 + table] = stretch[probabilities[slot] >> 14]


def find_tables(
    symbols: Numbers, here: int, row: int, plane: int, x: int, y: int, facts: Facts, slots: Numbers
) -> None:
    """The slots of what stands around an element in its plane, and of what stands before it elsewhere."""
    width, last = facts.width, facts.width - 1
    beside = int(x > 0 and symbols[here - 1] > 0)
    above = int(y > 0 and symbols[here - width] > 0)
    context = beside | above << 1
    before = int(row > 0 and symbols[here - facts.columns] > 0)
    before |= int(plane > 0 and symbols[here - facts.plane] > 0) << 1 | context << 2
    context |= int(y > 0 and x > 0 and symbols[here - width - 1] > 0) << 2
    context |= int(y > 0 and x < last and symbols[here - width + 1] > 0) << 3
    context |= int(x > 1 and symbols[here - 2] > 0) << 4 | int(y > 1 and symbols[here - 2 * width] > 0) << 5
    slots[4] = facts.starts.beside + context
    slots[5] = facts.starts.before + before


def neighbours(column: int, x: int, y: int, place: int, facts: Facts, probabilities: Numbers) -> int:
    """Mean density of the columns beside, above and below this one in its plane; -1 if there are none.

    Column by column, those that come later are not known yet.
    """
    total, found, width, base = 0, 0, facts.width, facts.starts.columns
    if x > 0:
        total += probabilities[base + (column - 1 & MASK)]
        found += 1
    if y > 0:
        total += probabilities[base + (column - width & MASK)]
        found += 1
    if not facts.by_column:
        if x < width - 1:
            total += probabilities[base + (column + 1 & MASK)]
            found += 1
        if place + width < facts.plane:
            total += probabilities[base + (column + width & MASK)]
            found += 1
    return total // found if found else -1


def code_entry(symbols: Numbers, row: int, column: int, facts: Facts, memory: Memory, tape: Tape) -> None:
    """Code which value of the codebook this weight has, down the tree, and put its symbol in its place."""
    here = row * facts.columns + column
    symbol, place = int(symbols[here]), column % facts.plane
    beside = int(symbols[here - 1]) if place % facts.width > 0 else 0
    above = int(symbols[here - facts.width]) if place >= facts.width else 0
    around = facts.classes[beside] * CLASSES + facts.classes[above]
    of_row = (row & MASK) * FIELDS
    of_column = (min(facts.rows, MASK + 1) + (column & MASK)) * FIELDS
    low, high, negative = 0, facts.values, facts.negative
    root = 0 < negative < high
    while high - low > 1:
        middle = negative if root else low + high >> 1
        predict_side(middle, of_row, of_column, BALANCE if root else MAGNITUDE, around, facts, memory)
        bit = int(symbol > middle)
        bit = decide(bit, TREE_INPUTS, memory.tree_weights, TREE_RATE, facts, memory, tape)
        learn(bit, 0, TREE_INPUTS, TREE_LIMIT, facts, memory)
        root = False
        if bit:
            low = middle
        else:
            high = middle
    remember(memory.seen, of_row, low + 1, negative, facts.classes)
    remember(memory.seen, of_column, low + 1, negative, facts.classes)
    symbols[here] = low + 1


def predict_side(
    middle: int, of_row: int, of_column: int, field: int, around: int, facts: Facts, memory: Memory
) -> None:
    """The logits for "on the far side of this node", and the slots they come from; a new slot starts as the node."""
    slots, seen, probabilities, counts = memory.slots, memory.seen, memory.probabilities, memory.counts
    classes, logits, stretch = facts.classes, memory.logits, facts.stretch
    slot = facts.starts.tree + middle * NODE_SLOTS
    slots[0] = slot
    slots[1] = slot + 1 + classes[seen[of_row + LAST]]
    slots[2] = slot + 1 + CLASSES + classes[seen[of_column + LAST]]
    slots[3] = slot + 1 + 2 * CLASSES + around
    slots[4] = slot + NODE_SLOTS - 18 + seen[of_row + field]
    slots[5] = slot + NODE_SLOTS - 9 + seen[of_column + field]
    for index in range(TREE_INPUTS):
        used = slots[index]
        if counts[used] == 0:
            probabilities[used] = probabilities[slot]
            counts[used] = TREE_FRESH if index else TREE_ROOT
        logits[index] = stretch[probabilities[used] >> 14]


def remember(seen: Numbers, line: int, symbol: int, negative: int, classes: Numbers) -> None:
    """Note a weight of a row or column: its symbol, the balance of signs (4: even), the magnitudes of late."""
    seen[line + LAST] = symbol
    move = 1 if symbol > negative else -1
    seen[line + BALANCE] = min(max(seen[line + BALANCE] + move, 0), 8)
    size = (classes[symbol] - 1) % 3
    known = seen[line + MAGNITUDE]
    seen[line + MAGNITUDE] = min(known * 3 + size * 8 + 2 >> 2, 5) if known > 0 else size * 2 + 1


def decide(bit: int, count: int, weights: Numbers, rate: int, facts: Fields, memory: Fields, tape: Tape) -> int:
    """Mix the first `count` logits to one probability, code the bit with it (or decode it), move the weights."""
    logits, squash = memory.logits, facts.squash
    dot = 0
    for index in range(count):
        dot += weights[index] * logits[index]
    limit = len(squash) >> 1
    chance = squash[min(max(dot >> 16, -limit), limit) + limit]
    if facts.decoding:
        bit = take(chance, tape)
    else:
        tape.decisions[tape.at[MADE]] = chance << 1 | bit
        tape.at[MADE] += 1
    error = (65535 if bit else 0) - chance
    for index in range(count):
        weights[index] += error * logits[index] * rate >> 22
    return bit


def learn(bit: int, first: int, stop: int, limit: int, facts: Fields, memory: Fields) -> None:
    """Move the probabilities of slots `first` to `stop` - 1 of the decision towards `bit`, by one over their counts."""
    slots, probabilities, counts, reciprocals = memory.slots, memory.probabilities, memory.counts, facts.reciprocals
    goal = ONE - 1 if bit else 0
    for index in range(first, stop):
        slot = slots[index]
        count, old = counts[slot], probabilities[slot]
        probabilities[slot] = old + ((goal - old) * reciprocals[count] >> 16)
        if count < limit:
            counts[slot] = count + 1


def take(chance: int, tape: Tape) -> int:
    """Decode one bit that is 1 with probability chance / 65536: binary rANS, the state refilled byte by byte."""
    at, payload = tape.at, tape.payload
    state = at[STATE]
    border, low = 65536 - chance, state & 65535
    bit = 0
    if low < border:
        state = border * (state >> 16) + low
    else:
        bit = 1
        state = chance * (state >> 16) + low - border
    while state < LOW and at[READ] < len(payload):
        state = state << 8 | int(payload[at[READ]])
        at[READ] += 1
    at[STATE] = state
    return bit


def give(decisions: Numbers, count: int, out: Numbers) -> int:
    """Code the first `count` decisions, last one first, into `out` from its end on; returns where the bytes start.

    The state starts as 0, so that what a stream costs beyond its decisions is at most what its first improbable bit
    costs too much; it ends in as few bytes as hold it. `out` has 2 bytes for each decision, and 4.
    """
    state, to = 0, len(out)
    for index in range(count - 1, -1, -1):
        chance, bit = int(decisions[index]) >> 1, int(decisions[index]) & 1
        width = chance if bit else 65536 - chance
        while state >= width << 16:
            to -= 1
            out[to] = state & 255
            state >>= 8
        quotient = state // width
        state = (quotient << 16) + state - quotient * width + (65536 - chance if bit else 0)
    while state > 0:
        to -= 1
        out[to] = state & 255
        state >>= 8
    return to


def bit_length(number: int) -> int:
    """Bits of a number that is not negative."""
    length = 0
    while number > 0:
        number >>= 1
        length += 1
    return length


def step(difference: int, unit: int, middle: int, top: int) -> int:
    """A logit's difference in steps of `unit`, from 0 to `top`, with none at `middle`."""
    return min(max(difference // unit + middle, 0), top)
