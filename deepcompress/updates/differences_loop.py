"""The inner loops of differences: docs/update-format.md, section 6.

As `coding.adaptive.model`, they are written so that numba can compile them (`updates.kernels`), and so that they run
without: then the arrays should be lists. Integers only, none beyond 63 bits. Compiled code tests whether an index is
negative, unless it is masked or of an unsigned type. Whether an element changed is mostly predictable, and those loops
branch; decisions of values are not, and `code_one` does not branch by them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from deepcompress.coding.adaptive.model import LOW, MADE, ONE, READ, STATE

#: 1-dimensional integers: numpy arrays for the compiled loop, lists for the plain one.
Numbers = Any

# What `at` holds beyond what `coding.adaptive.model` has there: how often elements changed of late, and the bits that
# no model codes: those not yet in a whole byte, how many, and the byte where they go on.
LATELY, BITS, FILL, BYTE = 5, 6, 7, 8
AT = 9

CONTEXTS = 256
BOUNDS = (80, 400, 1000, 2200, 4500, 9000, 20000)  # of how often elements changed of late, of 65535
LEVELS = 8
NODES = 64  # of the tree over the number of bits

# Slots: those that stand for all contexts come first, and new ones start from them.
ANY_CHANGED, ANY_DOWN, ANY_MORE, ANY_COUNT = 0, 8, 9, 10
TOP = ANY_COUNT + NODES  # the two bits after the first, by the number of bits
CHANGED = TOP + 4 * NODES
DOWN = CHANGED + LEVELS * CONTEXTS
MORE = DOWN + CONTEXTS
COUNT = MORE + CONTEXTS
SLOTS = COUNT + NODES * CONTEXTS

FRESH, YOUNG, LIMIT = 2, 24, 900  # counts: of a new slot, below which its parent learns too, and the last
FULL = ONE - 1
RECENT, COUNTED = (1 << 10) - 1, (1 << 10) - 1  # masks of indices of `levels` and of counts
STEP = 24  # bits that are put down at once, at most


class Slots(NamedTuple):
    """What is learned of decisions: probabilities and counts; and the reciprocals of counts."""

    probabilities: Numbers
    counts: Numbers
    reciprocals: Numbers


class Tape(NamedTuple):
    """What goes in and out.

    Attributes:
        decoding: 1 or 0.
        at: see the constants above.
        decisions: coded ones are put here for `give`: probability of 1, times 2, plus the bit.
        payload: bytes to decode from.
    """

    decoding: int
    at: Numbers
    decisions: Numbers
    payload: Numbers


def encode_flags(flags: Numbers, contexts: Numbers, levels: Numbers, slots: Slots, tape: Tape) -> None:
    """Code for each element whether its difference is not 0: the first decisions of a block.

    Args:
        flags: of each element, 1 where its difference is not 0.
        contexts: of each, below `CONTEXTS`.
        levels: by how often elements changed of late, in units of 64.
        slots, tape: see there.
    """
    probabilities, counts, reciprocals = slots
    at, decisions, lately = tape.at, tape.decisions, tape.at[LATELY]
    for index in range(len(flags)):
        level = levels[lately >> 6 & RECENT]
        slot = CHANGED + contexts[index] * LEVELS + level
        count = counts[slot]
        if count == 0:
            probabilities[slot] = probabilities[ANY_CHANGED + level]
            count = FRESH
        if count < YOUNG:
            learn_one(probabilities, counts, ANY_CHANGED + level, flags[index], reciprocals)
        chance = probabilities[slot]
        if flags[index] == 0:
            decisions[index] = max(chance >> 14, 1) << 1
            probabilities[slot] = chance - (chance * reciprocals[count & COUNTED] >> 16)
            lately -= lately >> 5
        else:
            decisions[index] = max(chance >> 14, 1) << 1 | 1
            probabilities[slot] = chance + ((FULL - chance) * reciprocals[count & COUNTED] >> 16)
            lately += 65535 - lately >> 5
        counts[slot] = min(count + 1, LIMIT)
    at[MADE], at[LATELY] = len(flags), lately


def decode_flags(flags: Numbers, contexts: Numbers, levels: Numbers, slots: Slots, tape: Tape) -> None:
    """The inverse: `flags`, all 0, become 1 where a difference is not."""
    probabilities, counts, reciprocals = slots
    at, payload = tape.at, tape.payload
    state, read, lately = at[STATE], at[READ], at[LATELY]
    for index in range(len(flags)):
        level = levels[lately >> 6 & RECENT]
        slot = CHANGED + contexts[index] * LEVELS + level
        count = counts[slot]
        if count == 0:
            probabilities[slot] = probabilities[ANY_CHANGED + level]
            count = FRESH
        chance = probabilities[slot]
        border, low = 65536 - max(chance >> 14, 1), state & 65535
        if low < border:
            bit = 0
            state = border * (state >> 16) + low
            probabilities[slot] = chance - (chance * reciprocals[count & COUNTED] >> 16)
            lately -= lately >> 5
        else:
            bit = 1
            flags[index] = 1
            state = (65536 - border) * (state >> 16) + low - border
            probabilities[slot] = chance + ((FULL - chance) * reciprocals[count & COUNTED] >> 16)
            lately += 65535 - lately >> 5
        while state < LOW and read < len(payload):
            state = state << 8 | int(payload[read])
            read += 1
        if count < YOUNG:
            learn_one(probabilities, counts, ANY_CHANGED + level, bit, reciprocals)
        counts[slot] = min(count + 1, LIMIT)
    at[STATE], at[READ], at[LATELY] = state, read, lately


def code_values(differences: Numbers, contexts: Numbers, depth: int, slots: Slots, tape: Tape, raw: Numbers) -> None:
    """Code differences that are not 0: the sign, whether there is more than 1, how many bits more, and those.

    Args:
        differences: signed; read or written.
        contexts: of each, below `CONTEXTS`.
        depth: of the tree over the number of bits.
        slots, tape: see there.
        raw: bytes of the bits that no model codes, read or written.
    """
    for index in range(len(differences)):
        context, difference = int(contexts[index]), differences[index]
        above = -1 - difference if difference < 0 else difference - 1  # which cannot overflow
        down = code_one(int(difference < 0), DOWN + context, ANY_DOWN, slots, tape)
        value = 0
        if code_one(int(above > 0), MORE + context, ANY_MORE, slots, tape):
            length = code_length(above, COUNT + context * NODES, depth, slots, tape)
            value = code_bits(above, length, slots, tape, raw)
        differences[index] = -1 - value if down else value + 1


def code_length(above: int, nodes: int, depth: int, slots: Slots, tape: Tape) -> int:
    """Code how many bits a number has below its first one: a tree, whose nodes' slots are from `nodes` on."""
    length, node = -1, 1
    while above > 0:
        above >>= 1
        length += 1
    for place in range(depth - 1, -1, -1):
        node = node << 1 | code_one(length >> place & 1, nodes + node, ANY_COUNT + node, slots, tape)
    return node - (1 << depth)


def code_bits(above: int, length: int, slots: Slots, tape: Tape, raw: Numbers) -> int:
    """Code the bits of a number below its first one: two by what is known of them, the others as they are."""
    value, left, slot = 1, length, TOP + length * 4
    while left > 0 and length - left < 2:
        left -= 1
        bit = code_one(above >> left & 1, slot, slot, slots, tape)
        value = value << 1 | bit
        slot += 1 + bit
    while left > 0:
        step = min(left, STEP)
        left -= step
        value = value << step | pass_bits(above >> left & (1 << step) - 1, step, tape.decoding, tape.at, raw)
    return value


def code_one(bit: int, slot: int, parent: int, slots: Slots, tape: Tape) -> int:
    """Code one decision, or decode it, and learn from it."""
    at = tape.at
    count = slots.counts[slot]
    if count == 0:
        slots.probabilities[slot] = slots.probabilities[parent]
        count = FRESH
    chance = slots.probabilities[slot]
    share = max(chance >> 14, 1)
    if tape.decoding:
        state, border = at[STATE], 65536 - share
        low = state & 65535
        bit = int(low >= border)
        state = (share if bit else border) * (state >> 16) + low - (border & -bit)
        while state < LOW and at[READ] < len(tape.payload):
            state = state << 8 | int(tape.payload[at[READ]])
            at[READ] += 1
        at[STATE] = state
    else:
        tape.decisions[at[MADE]] = share << 1 | bit
        at[MADE] += 1
    slots.probabilities[slot] = chance + (((FULL & -bit) - chance) * slots.reciprocals[count & COUNTED] >> 16)
    slots.counts[slot] = min(count + 1, LIMIT)
    if count < YOUNG and parent != slot:
        learn_one(slots.probabilities, slots.counts, parent, bit, slots.reciprocals)
    return bit


def pass_bits(bits: int, count: int, decoding: int, at: Numbers, raw: Numbers) -> int:
    """Put `count` bits down as they are, most significant first, or read them."""
    if decoding:
        while at[FILL] < count:
            byte = int(raw[at[BYTE]]) if at[BYTE] < len(raw) else 0
            at[BITS] = (at[BITS] << 8 | byte) & (1 << 40) - 1
            at[BYTE] += 1
            at[FILL] += 8
        at[FILL] -= count
        return int(at[BITS] >> at[FILL] & (1 << count) - 1)
    at[BITS] = (at[BITS] << count | bits) & (1 << 40) - 1
    at[FILL] += count
    while at[FILL] >= 8:
        at[FILL] -= 8
        raw[at[BYTE]] = at[BITS] >> at[FILL] & 255
        at[BYTE] += 1
    return bits


def learn_one(probabilities: Numbers, counts: Numbers, slot: int, bit: int, reciprocals: Numbers) -> None:
    """Move the probability of one slot towards `bit`, by one over its count."""
    count, old = counts[slot], probabilities[slot]
    probabilities[slot] = old + (((FULL if bit else 0) - old) * reciprocals[count] >> 16)
    counts[slot] = min(count + 1, LIMIT)
