"""Section 11 of docs/format.md in plain Python: the adaptive model and its decoder, from the text alone.

Slots are kept in dictionaries and tables are computed with the decimal module, so that nothing is as in the package.
"""

from decimal import Decimal, localcontext
from functools import cache

LIMIT = 2880
ZERO = (-17695, 11469, 5243, 11141, -1311, 4588, 15729, 13107, 10813, 2621)
ENTRY = (-23593, 7209, 3277, 47841, 8847, 7864)


@cache
def squash(t):
    with localcontext(prec=40):
        p = Decimal(65536) / (1 + (Decimal(-t) / 256).exp())
        return min(65535, max(1, int(p.to_integral_value())))


@cache
def stretch(p):
    if p == 0:
        return -LIMIT
    with localcontext(prec=40):
        t = 256 * (Decimal(p) / (65536 - p)).ln()
        return min(LIMIT, max(-LIMIT, int(t.to_integral_value())))


class Block:
    """The bytes of one block, and the state of its decoder."""

    def __init__(self, data):
        assert not data or data[0]
        self.left, self.x = list(data), 0
        self.refill()

    def refill(self):
        while self.x < 1 << 24 and self.left:
            self.x = self.x * 256 + self.left.pop(0)

    def decision(self, p):
        low, high = self.x % 65536, self.x >> 16
        bit = int(low >= 65536 - p)
        self.x = p * high + low - (65536 - p) if bit else (65536 - p) * high + low
        self.refill()
        return bit


class Model:
    """What a decoder knows of one tensor."""

    def __init__(self, shape, by_column, side, k, z, n):
        self.rows = shape[0] if len(shape) > 1 else 1
        self.size = 1
        for dimension in shape:
            self.size *= dimension
        self.columns = self.size // self.rows if self.rows else 0
        self.plane = self.width = self.columns
        if side:
            self.plane, self.width = side * side, side
        elif len(shape) > 2:
            self.plane, self.width = 1, shape[-1]
            for dimension in shape[2:]:
                self.plane *= dimension
        self.by_column, self.k, self.z, self.left = by_column, k, z, n
        d = min(max((n << 30) // max(1, self.size), 1 << 15), (1 << 30) - (1 << 15))
        self.density, self.fresh = d, min(max((1 << 26) // min(d, (1 << 30) - d), 2), 2000)
        self.slots, self.found, self.gap = {}, {}, 0
        self.zero, self.entry = list(ZERO), list(ENTRY)
        self.last, self.balance, self.magnitude = {}, {}, {}

    def value(self, slot):
        """The slot, which is one that has a value from the start, or has been given one."""
        return self.slots.setdefault(slot, [self.density, self.fresh])

    def learn(self, slot, bit, limit):
        v, count = self.slots[slot]
        v += (((1 << 30) - 1 if bit else 0) - v) * (65536 // count) >> 16
        self.slots[slot] = [v, min(count + 1, max(limit, count))]

    def mix(self, inputs, weights, rate, block):
        t = sum(w * s for w, s in zip(weights, inputs, strict=True)) >> 16
        p = squash(min(max(t, -LIMIT), LIMIT))
        bit = block.decision(p)
        e = 65535 - p if bit else -p
        for i, s in enumerate(inputs):
            weights[i] += e * s * rate >> 22
        return bit

    def at(self, r, c):
        return self.found.get((r, c), 0)

    def element(self, index, block):
        if self.left == 0:
            return
        r, c = (index % self.rows, index // self.rows) if self.by_column else divmod(index, self.columns)
        a, o = divmod(c, self.plane)
        y, x = divmod(o, self.width)
        rest = self.size - index
        weight = self.is_weight(r, c, a, o, y, x, rest, block) if self.left < rest else 1
        self.gap += 1
        if weight:
            self.gap = 0
            self.left -= 1
            self.found[r, c] = self.which(r, c, y, x, block)

    def is_weight(self, r, c, a, o, y, x, rest, block):
        w = self.width
        left, above = int(x > 0 and self.at(r, c - 1) > 0), int(y > 0 and self.at(r, c - w) > 0)
        corner = int(y > 0 and x > 0 and self.at(r, c - w - 1) > 0)
        other = int(y > 0 and x < w - 1 and self.at(r, c - w + 1) > 0)
        beside = left + 2 * above + 4 * corner + 8 * other
        beside += 16 * int(x > 1 and self.at(r, c - 2) > 0) + 32 * int(y > 1 and self.at(r, c - 2 * w) > 0)
        before = int(r > 0 and self.at(r - 1, c) > 0) + 2 * int(a > 0 and self.at(r, c - self.plane) > 0)
        before += 4 * left + 8 * above
        fixed = [(name, number % 65536) for name, number in (("row", r), ("column", c), ("plane", a), ("place", o))]
        s0 = stretch(max(1, self.left * 65536 // rest))
        s1, s2, s4, s5 = (stretch(self.value(slot)[0] >> 14) for slot in fixed)
        around = [c - 1] * (x > 0) + [c - w] * (y > 0)
        if not self.by_column:
            around += [c + 1] * (x < w - 1) + [c + w] * (o + w < self.plane)
        values = [self.value(("column", near % 65536))[0] for near in around]
        s3 = stretch(sum(values) // len(values) >> 14) if values else s2
        base = stretch(self.density >> 14)

        def g(s, u, middle, top):
            return min(max((s - base) // u + middle, 0), top)

        joint = (11 * g(s1, 128, 5, 10) + g(s2, 128, 5, 10)) * 5 + g(s3, 192, 2, 4)
        tables = [("beside", beside), ("before", before), ("gap", self.gap.bit_length()), ("joint", joint)]
        for slot in tables:
            self.slots.setdefault(slot, [squash(s0) << 14, self.fresh])
        inputs = [s0, s1, s2, s3, s4, s5, *(stretch(self.slots[slot][0] >> 14) for slot in tables)]
        bit = self.mix(inputs, self.zero, 32, block)
        for slot in fixed:
            self.learn(slot, bit, 588)
        for slot in tables:
            self.learn(slot, bit, 4000)
        return bit

    def class_of(self, symbol):
        if symbol == 0:
            return 0
        if symbol <= self.z:
            return 1 + 3 * (self.z - symbol) // self.z
        return 4 + 3 * (symbol - self.z - 1) // (self.k - self.z)

    def which(self, r, c, y, x, block):
        left = self.class_of(self.at(r, c - 1)) if x > 0 else 0
        above = self.class_of(self.at(r, c - self.width)) if y > 0 else 0
        row, column = ("row", r % 65536), ("column", c % 65536)
        low, high, first = 0, self.k, 0 < self.z < self.k
        while high - low > 1:
            middle = self.z if first else (low + high) >> 1
            numbers, start = (self.balance, 4) if first else (self.magnitude, 0)
            first = False
            contexts = [None, self.class_of(self.last.get(row, 0)), self.class_of(self.last.get(column, 0)),
                        (left, above), numbers.get(row, start), numbers.get(column, start)]  # fmt: skip
            slots = [("tree", table, middle, context) for table, context in enumerate(contexts)]
            self.slots.setdefault(slots[0], [1 << 29, 65])
            for slot in slots[1:]:
                self.slots.setdefault(slot, [self.slots[slots[0]][0], 2])
            bit = self.mix([stretch(self.slots[slot][0] >> 14) for slot in slots], self.entry, 96, block)
            for slot in slots:
                self.learn(slot, bit, 250)
            low, high = (middle, high) if bit else (low, middle)
        symbol = low + 1
        for line in (row, column):
            self.last[line] = symbol
            move = -1 if symbol <= self.z else 1
            self.balance[line] = min(max(self.balance.get(line, 4) + move, 0), 8)
            h, known = (self.class_of(symbol) - 1) % 3, self.magnitude.get(line, 0)
            self.magnitude[line] = min(5, 3 * known + 8 * h + 2 >> 2) if known else 2 * h + 1
        return symbol


def decode(blocks, shape, by_column, side, k, z, n):
    """The symbols of a tensor, in row-major order; `blocks` gives the bytes of the blocks in turn."""
    model = Model(shape, by_column, side, k, z, n)
    for start in range(0, model.size, 1 << 19):
        block = Block(next(blocks))
        for index in range(start, min(start + (1 << 19), model.size)):
            model.element(index, block)
        assert block.x == 0
        assert not block.left
    return [model.at(*divmod(index, model.columns)) for index in range(model.size)]
