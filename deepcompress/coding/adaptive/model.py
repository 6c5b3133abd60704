"""The adaptive model of a shared, sparse tensor, and the binary coder under it: docs/format.md, section 11.

Everything here is written so that numba can compile it (`kernels.code_symbols`), and so that it runs without: then
the arrays should be lists, which plain Python walks faster. Integers only, none beyond 63 bits, so both are the same.

One element is coded as decisions: is it a weight; if so, down a tree over the sorted codebook, whose root parts the
negative entries from the positive ones. Each decision's probability is a logistic mix of adaptive ones, each of
which looks at another part of what is known: how many weights are left, how full this row, this column and its
neighbours are, what stands beside it.
"""

from __future__ import annotations

from typing import Any

#: 1-dimensional integers: numpy arrays for the compiled model, lists for the plain one.
Numbers = Any

# What `facts` holds.
SIZE, ROWS, COLUMNS, PLANE, WIDTH, BY_COLUMN = 0, 1, 2, 3, 4, 5  # geometry
ENTRIES, NEGATIVE, WEIGHTS = 6, 7, 8  # of the codebook, of them negative; elements that are not zero
DECODING = 9
AT_COLUMNS, AT_PLANES, AT_PLACES, AT_BESIDE, AT_BEFORE, AT_GAPS, AT_JOINT, AT_TREE = 10, 11, 12, 13, 14, 15, 16, 17
BASE, FRESH = 18, 19  # logit of the tensor's density; count that a new slot starts with
FACTS = 20

# What `at` holds, and how it changes while coding.
LEFT, GAP, STATE, READ, MADE = 0, 1, 2, 3, 4

# What `seen` holds for each row, then for each column, of the weights so far: four fields each.
LAST, BALANCE, MAGNITUDE, FIELDS = 0, 1, 2, 3

MASK = (1 << 16) - 1  # rows and columns beyond 65,536 share their slots: the model's memory is bounded

ONE = 1 << 30  # an adaptive probability is below this
LOW = 1 << 24  # of the coder's state

ZERO_INPUTS, TREE_INPUTS = 10, 6
SLOW, FAST = 588, 4000  # counts at which a slot stops to slow down: rows, columns; tables
TREE_LIMIT, TREE_FRESH, TREE_ROOT = 250, 2, 65
ZERO_RATE, TREE_RATE = 32, 96
BESIDE_SLOTS, BEFORE_SLOTS, GAP_SLOTS, JOINT_SLOTS = 64, 16, 48, 605
CLASSES = 7
NODE_SLOTS = 1 + 2 * CLASSES + CLASSES * CLASSES + 2 * 9

ZERO_WEIGHTS = (-17695, 11469, 5243, 11141, -1311, 4588, 15729, 13107, 10813, 2621)
TREE_WEIGHTS = (-23593, 7209, 3277, 47841, 8847, 7864)


def code(
    symbols: Numbers,
    start: int,
    stop: int,
    facts: Numbers,
    classes: Numbers,
    probabilities: Numbers,
    counts: Numbers,
    seen: Numbers,
    zero_weights: Numbers,
    tree_weights: Numbers,
    at: Numbers,
    scratch: Numbers,
    tables: tuple[Numbers, Numbers, Numbers],
    decisions: Numbers,
    payload: Numbers,
) -> None:
    """Code elements `start` to `stop` - 1 in the order of the scan; all arrays but the first are the model's state.

    Args:
        symbols: 0 for zero, else the codebook index plus 1; read, or written where zeros were.
        facts, at, seen: see the constants above.
        classes: of each symbol, 0 to `CLASSES` - 1.
        probabilities, counts: of each slot; a count of 0 is a slot that was never used.
        zero_weights, tree_weights: of the two mixers, in units of 1/65536.
        scratch: 40 numbers.
        tables: squash, stretch, reciprocals.
        decisions: coded ones are put here for `rans.pack`: probability of 1, times 2, plus the bit.
        payload: bytes to decode from.
    """
    for index in range(start, stop):
        left, rest = at[LEFT], facts[SIZE] - index
        if left == 0:
            return
        if facts[BY_COLUMN]:
            column = index // facts[ROWS]
            row = index - column * facts[ROWS]
        else:
            row = index // facts[COLUMNS]
            column = index - row * facts[COLUMNS]
        here = row * facts[COLUMNS] + column
        symbol = int(symbols[here])
        bit = 1
        if left < rest:
            predict_zero(symbols, row, column, left, rest, facts, probabilities, counts, at, scratch, tables)
            bit = decide(
                int(symbol > 0), scratch, ZERO_INPUTS, zero_weights, ZERO_RATE, tables[0], facts, at, decisions, payload
            )
            for slot in range(4):
                learn(probabilities, counts, scratch[20 + slot], bit, SLOW, tables[2])
            for slot in range(4, 8):
                learn(probabilities, counts, scratch[20 + slot], bit, FAST, tables[2])
        at[GAP] += 1
        if bit:
            at[GAP] = 0
            at[LEFT] = left - 1
            symbols[here] = code_entry(
                symbol, symbols, here, row, column, facts, classes, probabilities, counts, seen, tree_weights, at,
                scratch, tables, decisions, payload,
            )  # fmt: skip


def predict_zero(
    symbols: Numbers,
    row: int,
    column: int,
    left: int,
    rest: int,
    facts: Numbers,
    probabilities: Numbers,
    counts: Numbers,
    at: Numbers,
    scratch: Numbers,
    tables: tuple[Numbers, Numbers, Numbers],
) -> None:
    """The logits for "this is a weight" into scratch[:10], and the slots they come from into scratch[20:28]."""
    squash, stretch = tables[0], tables[1]
    plane = column // facts[PLANE]
    place = column - plane * facts[PLANE]
    y = place // facts[WIDTH]
    x = place - y * facts[WIDTH]
    here = row * facts[COLUMNS] + column
    width, last = facts[WIDTH], facts[WIDTH] - 1
    beside = int(x > 0 and symbols[here - 1] > 0)
    above = int(y > 0 and symbols[here - width] > 0)
    context = beside | above << 1
    before = int(row > 0 and symbols[here - facts[COLUMNS]] > 0)
    before |= int(plane > 0 and symbols[here - facts[PLANE]] > 0) << 1 | context << 2
    context |= int(y > 0 and x > 0 and symbols[here - width - 1] > 0) << 2
    context |= int(y > 0 and x < last and symbols[here - width + 1] > 0) << 3
    context |= int(x > 1 and symbols[here - 2] > 0) << 4 | int(y > 1 and symbols[here - 2 * width] > 0) << 5

    ratio = (left << 16) // rest
    scratch[0] = stretch[max(ratio, 1)]
    scratch[20] = row & MASK
    scratch[21] = facts[AT_COLUMNS] + (column & MASK)
    scratch[22] = facts[AT_PLANES] + (plane & MASK)
    scratch[23] = facts[AT_PLACES] + (place & MASK)
    scratch[1] = stretch[probabilities[scratch[20]] >> 14]
    scratch[2] = stretch[probabilities[scratch[21]] >> 14]
    scratch[3] = scratch[2]
    around = neighbours(column, x, y, place, facts, probabilities)
    if around >= 0:
        scratch[3] = stretch[around >> 14]
    scratch[4] = stretch[probabilities[scratch[22]] >> 14]
    scratch[5] = stretch[probabilities[scratch[23]] >> 14]

    joint = step(scratch[1] - facts[BASE], 128, 5, 10) * 11 + step(scratch[2] - facts[BASE], 128, 5, 10)
    scratch[24] = facts[AT_BESIDE] + context
    scratch[25] = facts[AT_BEFORE] + before
    scratch[26] = facts[AT_GAPS] + bit_length(at[GAP])
    scratch[27] = facts[AT_JOINT] + joint * 5 + step(scratch[3] - facts[BASE], 192, 2, 4)
    for table in range(4):
        slot = scratch[24 + table]
        if counts[slot] == 0:
            probabilities[slot] = squash[scratch[0] + (len(squash) >> 1)] << 14
            counts[slot] = facts[FRESH]
        scratch[6 + table] = stretch[probabilities[slot] >> 14]


def neighbours(column: int, x: int, y: int, place: int, facts: Numbers, probabilities: Numbers) -> int:
    """Mean density of the columns beside, above and below this one in its plane; -1 if there are none.

    Column by column, those that come later are not known yet.
    """
    total, found, width, base = 0, 0, facts[WIDTH], facts[AT_COLUMNS]
    if x > 0:
        total += probabilities[base + (column - 1 & MASK)]
        found += 1
    if y > 0:
        total += probabilities[base + (column - width & MASK)]
        found += 1
    if not facts[BY_COLUMN]:
        if x < width - 1:
            total += probabilities[base + (column + 1 & MASK)]
            found += 1
        if place + width < facts[PLANE]:
            total += probabilities[base + (column + width & MASK)]
            found += 1
    return total // found if found else -1


def code_entry(
    symbol: int,
    symbols: Numbers,
    here: int,
    row: int,
    column: int,
    facts: Numbers,
    classes: Numbers,
    probabilities: Numbers,
    counts: Numbers,
    seen: Numbers,
    tree_weights: Numbers,
    at: Numbers,
    scratch: Numbers,
    tables: tuple[Numbers, Numbers, Numbers],
    decisions: Numbers,
    payload: Numbers,
) -> int:
    """Code which entry of the codebook this weight is, and return its symbol."""
    place = column % facts[PLANE]
    beside = int(symbols[here - 1]) if place % facts[WIDTH] > 0 else 0
    above = int(symbols[here - facts[WIDTH]]) if place >= facts[WIDTH] else 0
    of_row = (row & MASK) * FIELDS
    of_column = (min(facts[ROWS], MASK + 1) + (column & MASK)) * FIELDS
    low, high, negative = 0, facts[ENTRIES], facts[NEGATIVE]
    root = 0 < negative < high
    while high - low > 1:
        field = BALANCE if root else MAGNITUDE
        middle = negative if root else low + high >> 1
        root = False
        slot = facts[AT_TREE] + middle * NODE_SLOTS
        scratch[20] = slot
        scratch[21] = slot + 1 + classes[seen[of_row + LAST]]
        scratch[22] = slot + 1 + CLASSES + classes[seen[of_column + LAST]]
        scratch[23] = slot + 1 + 2 * CLASSES + classes[beside] * CLASSES + classes[above]
        scratch[24] = slot + NODE_SLOTS - 18 + seen[of_row + field]
        scratch[25] = slot + NODE_SLOTS - 9 + seen[of_column + field]
        for index in range(TREE_INPUTS):
            used = scratch[20 + index]
            if counts[used] == 0:
                probabilities[used] = probabilities[slot]
                counts[used] = TREE_FRESH if index else TREE_ROOT
            scratch[index] = tables[1][probabilities[used] >> 14]
        bit = int(symbol > middle)
        bit = decide(bit, scratch, TREE_INPUTS, tree_weights, TREE_RATE, tables[0], facts, at, decisions, payload)
        for index in range(TREE_INPUTS):
            learn(probabilities, counts, scratch[20 + index], bit, TREE_LIMIT, tables[2])
        if bit:
            low = middle
        else:
            high = middle
    remember(seen, of_row, low + 1, negative, classes)
    remember(seen, of_column, low + 1, negative, classes)
    return low + 1


def remember(seen: Numbers, line: int, symbol: int, negative: int, classes: Numbers) -> None:
    """Note a weight of a row or column: its symbol, the balance of signs (4: even), the magnitudes of late."""
    seen[line + LAST] = symbol
    move = 1 if symbol > negative else -1
    seen[line + BALANCE] = min(max(seen[line + BALANCE] + move, 0), 8)
    size = (classes[symbol] - 1) % 3
    known = seen[line + MAGNITUDE]
    seen[line + MAGNITUDE] = min(known * 3 + size * 8 + 2 >> 2, 5) if known > 0 else size * 2 + 1


def decide(
    bit: int,
    inputs: Numbers,
    count: int,
    weights: Numbers,
    rate: int,
    squash: Numbers,
    facts: Numbers,
    at: Numbers,
    decisions: Numbers,
    payload: Numbers,
) -> int:
    """Mix the first `count` of `inputs` to one probability, code the bit with it (or decode it), move the weights."""
    dot = 0
    for index in range(count):
        dot += weights[index] * inputs[index]
    limit = len(squash) >> 1
    chance = squash[min(max(dot >> 16, -limit), limit) + limit]
    if facts[DECODING]:
        bit = take(chance, at, payload)
    else:
        decisions[at[MADE]] = chance << 1 | bit
        at[MADE] += 1
    error = (65535 if bit else 0) - chance
    for index in range(count):
        weights[index] += error * inputs[index] * rate >> 22
    return bit


def learn(probabilities: Numbers, counts: Numbers, slot: int, bit: int, limit: int, reciprocals: Numbers) -> None:
    """Move a slot's probability towards `bit`, by one over its count."""
    count, old = counts[slot], probabilities[slot]
    probabilities[slot] = old + (((ONE - 1 if bit else 0) - old) * reciprocals[count] >> 16)
    if count < limit:
        counts[slot] = count + 1


def take(chance: int, at: Numbers, payload: Numbers) -> int:
    """Decode one bit that is 1 with probability chance / 65536: binary rANS, the state refilled byte by byte."""
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
