"""The inner loops of differences: docs/update-format.md, section 6.

As `coding.adaptive.model`, they are written so that numba can compile them (`updates.kernels`), and so that they run
without: then the arrays should be lists. Integers only, none beyond 63 bits. Nothing is called in them but `learn_one`
and `pass_bits`, and those seldom: a call takes longer than a decision.
"""

from __future__ import annotations

from typing import Any

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
STEP = 24  # bits that are put down at once, at most


def encode_flags(
    flags: Numbers,
    contexts: Numbers,
    slots: tuple[Numbers, Numbers],
    at: Numbers,
    levels: Numbers,
    reciprocals: Numbers,
    decisions: Numbers,
) -> None:
    """Code for each element whether its difference is not 0.

    Args:
        flags: of each element, 1 where its difference is not 0.
        contexts: of each, below `CONTEXTS`.
        slots: probabilities and counts.
        at: see the constants above.
        levels: by how often elements changed of late, in units of 64.
        reciprocals: of counts.
        decisions: coded ones are put here for `give`: probability of 1, times 2, plus the bit.
    """
    probabilities, counts = slots
    made, lately = at[MADE], at[LATELY]
    for index in range(len(flags)):
        level = levels[lately >> 6]
        slot = CHANGED + contexts[index] * LEVELS + level
        count = counts[slot]
        if count == 0:
            probabilities[slot] = probabilities[ANY_CHANGED + level]
            count = FRESH
        if count < YOUNG:
            learn_one(probabilities, counts, ANY_CHANGED + level, flags[index], reciprocals)
        chance = probabilities[slot]
        if flags[index] == 0:
            decisions[made] = max(chance >> 14, 1) << 1
            probabilities[slot] = chance - (chance * reciprocals[count] >> 16)
            lately -= lately >> 5
        else:
            decisions[made] = max(chance >> 14, 1) << 1 | 1
            probabilities[slot] = chance + ((FULL - chance) * reciprocals[count] >> 16)
            lately += 65535 - lately >> 5
        made += 1
        counts[slot] = min(count + 1, LIMIT)
    at[MADE], at[LATELY] = made, lately


def decode_flags(
    flags: Numbers,
    contexts: Numbers,
    slots: tuple[Numbers, Numbers],
    at: Numbers,
    levels: Numbers,
    reciprocals: Numbers,
    payload: Numbers,
) -> None:
    """The inverse: `flags`, all 0, become 1 where a difference is not."""
    probabilities, counts = slots
    state, read, lately = at[STATE], at[READ], at[LATELY]
    for index in range(len(flags)):
        level = levels[lately >> 6]
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
            probabilities[slot] = chance - (chance * reciprocals[count] >> 16)
            lately -= lately >> 5
        else:
            bit = 1
            flags[index] = 1
            state = (65536 - border) * (state >> 16) + low - border
            probabilities[slot] = chance + ((FULL - chance) * reciprocals[count] >> 16)
            lately += 65535 - lately >> 5
        while state < LOW and read < len(payload):
            state = state << 8 | int(payload[read])
            read += 1
        if count < YOUNG:
            learn_one(probabilities, counts, ANY_CHANGED + level, bit, reciprocals)
        counts[slot] = min(count + 1, LIMIT)
    at[STATE], at[READ], at[LATELY] = state, read, lately


def code_values(  # noqa: PLR0912, PLR0915 - a call takes longer than a decision
    differences: Numbers,
    contexts: Numbers,
    depth: int,
    decoding: int,
    slots: tuple[Numbers, Numbers],
    at: Numbers,
    reciprocals: Numbers,
    decisions: Numbers,
    payload: Numbers,
    raw: Numbers,
) -> None:
    """Code differences that are not 0: the sign, whether there is more than 1, how many bits more, and those.

    Args:
        differences: signed; read or written.
        contexts, slots, at, reciprocals, decisions: as in `encode_flags`.
        depth: of the tree over the number of bits.
        decoding: 1 or 0.
        payload: bytes to decode decisions from.
        raw: bytes of the bits that no model codes, read or written.
    """
    probabilities, counts = slots
    state, read, made = at[STATE], at[READ], at[MADE]
    leaves = 1 << depth
    for index in range(len(differences)):
        context, difference = contexts[index], differences[index]
        above = -1 - difference if difference < 0 else difference - 1  # which cannot overflow
        length, rest = 0, above
        while not decoding and rest > 1:
            rest >>= 1
            length += 1
        down, node, value, left, last = 0, 0, 1, 0, 0  # node 0: before the tree; left: bits of the value
        slot, parent, wanted = DOWN + context, ANY_DOWN, int(difference < 0)
        stage, place = 0, depth
        while stage < 4:
            count = counts[slot]
            if count == 0:
                probabilities[slot] = probabilities[parent]
                count = FRESH
            chance = probabilities[slot]
            share = max(chance >> 14, 1)
            if decoding:
                low = state & 65535
                wanted = int(low >= 65536 - share)
                border = 65536 - share
                state = share * (state >> 16) + low - border if wanted else border * (state >> 16) + low
                while state < LOW and read < len(payload):
                    state = state << 8 | int(payload[read])
                    read += 1
            else:
                decisions[made] = share << 1 | wanted
                made += 1
            probabilities[slot] = chance + (((FULL if wanted else 0) - chance) * reciprocals[count] >> 16)
            counts[slot] = min(count + 1, LIMIT)
            if count < YOUNG and parent != slot:
                learn_one(probabilities, counts, parent, wanted, reciprocals)
            if stage == 0:
                down, stage = wanted, 1
                slot, parent, wanted = MORE + context, ANY_MORE, int(above > 0)
                continue
            if stage == 1:
                if not wanted:
                    value, stage = 0, 4
                    continue
                node, stage = 1, 2
            elif stage == 2:
                node = node << 1 | wanted
            else:
                value, left, last = value << 1 | wanted, left - 1, last + 1 + wanted
            if stage == 2 and node < leaves:
                slot, parent = COUNT + context * NODES + node, ANY_COUNT + node
                place -= 1
                wanted = length >> place & 1
                continue
            if stage == 2:
                length = node - leaves
                left, last, stage = length, TOP + length * 4, 3
            if left == 0 or length - left == 2:
                stage = 4
            else:
                slot, parent, wanted = last, last, above >> left - 1 & 1
        while left > 0:
            step = min(left, STEP)
            left -= step
            value = value << step | pass_bits(above >> left & (1 << step) - 1, step, decoding, at, raw)
        differences[index] = -1 - value if down else value + 1
    at[STATE], at[READ], at[MADE] = state, read, made


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
