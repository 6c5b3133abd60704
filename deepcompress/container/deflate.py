"""Small headers made smaller: raw deflate (RFC 1951) with a dictionary of what headers are made of.

zlib reads it. It is written here, because two releases of zlib need not write the same bytes, and a .dc file of the
same tensors must always have the same: one block of fixed codes, in the fewest bits that such a block can have.
"""

from __future__ import annotations

import zlib
from bisect import bisect
from operator import itemgetter

from deepcompress.errors import FormatError

LONGEST = 4096  # bytes of a header that is deflated; what a longer one wastes is little beside its sections

#: Part of the format. What stands nearer to the end costs fewer bits.
DICTIONARY = (
    b"self_attn.q_proj.weight\nmlp.down_proj.weight\nlayers.0.embeddings.\n"
    b"torchvision:resnet50\x08imagenet\x00downsample.0.weight\nclassifier.6.weight\nfeatures.0.bias\n"
    b"layer1.0.conv1.weight\nlayer1.0.bn1.weight\nlayer1.0.bn1.bias\nlayer1.0.bn1.running_mean\n"
    b"layer1.0.bn1.running_var\nlayer1.0.bn1.num_batches_tracked\nlayer2.0.conv2.weight\nlayer2.0.bn2.weight\n"
    b"layer3.0.shortcut.0.weight\nfc.weight\nfc.bias\n\x08resnet20\x07cifar10\x00\x0dfashion-mnist\x06digits"
    b"\x06lenet5\x05mnist\x00\x08conv1.weight\nconv1.bias\nconv2.weight\nconv2.bias\n"
    b"\x0dlenet-300-100\x05mnist\x00\x06fc1.weight\nfc1.bias\nfc2.weight\nfc2.bias\nfc3.weight\nfc3.bias\n"
)

_SHORTEST_MATCH, _LONGEST_MATCH = 3, 258
_END = 256
_LENGTHS = [(length, 0) for length in range(3, 11)]
_LENGTHS += [
    (base + (step << bits), bits) for bits, base in ((1, 11), (2, 19), (3, 35), (4, 67), (5, 131)) for step in range(4)
]
_LENGTHS += [(258, 0)]
_DISTANCES = [(distance, 0) for distance in range(1, 5)]
_DISTANCES += [((2 + step << bits) + 1, bits) for bits in range(1, 14) for step in range(2)]


def compress(data: bytes) -> bytes:
    """One final block of fixed codes: of all ways to cut `data` into literals and matches, one of the fewest bits."""
    window = DICTIONARY + data
    begin, end = len(DICTIONARY), len(window)
    # best[i]: bits for everything from i on, length of what comes first, and its distance (0: a literal).
    best: list[tuple[int, int, int]] = [(0, 0, 0)] * (end - begin + 1)
    best[-1] = (7, 0, 0)
    for at in range(end - 1, begin - 1, -1):
        choice = (_literal_bits(window[at]) + best[at - begin + 1][0], 1, 0)
        for length, distance in _matches(window, at):
            choice = min(choice, (_match_bits(length, distance) + best[at - begin + length][0], length, distance))
        best[at - begin] = choice
    return _write(window, begin, best)


def by_zlib(data: bytes, dictionary: bytes = b"") -> bytes:
    """The smallest stream that zlib makes, whose releases need not agree; it may refer to `dictionary`."""
    stream = zlib.compressobj(9, wbits=-15, zdict=dictionary) if dictionary else zlib.compressobj(9, wbits=-15)
    return stream.compress(data) + stream.flush()


def expand(packed: bytes, size: int, what: str = "header", dictionary: bytes = DICTIONARY) -> bytes:
    """The inverse: exactly `size` bytes, out of exactly these.

    Args:
        packed: what `compress` gives, or `by_zlib` with the same dictionary.
        size: of what was packed.
        what: it is, for errors.
        dictionary: bytes that the stream may refer to.

    Raises:
        FormatError: it is no such stream.
    """
    stream = zlib.decompressobj(-15, zdict=dictionary)
    try:
        data = stream.decompress(packed, size + 1)
    except zlib.error:
        raise FormatError(f"the {what} cannot be inflated: it is damaged") from None
    if len(data) != size or not stream.eof or stream.unused_data or stream.unconsumed_tail:
        raise FormatError(f"the {what} does not have the length that is announced: it is damaged")
    return data


def _matches(window: bytes, at: int) -> list[tuple[int, int]]:
    """For each length, the nearest earlier place that has the same bytes: (length, distance)."""
    found: list[tuple[int, int]] = []
    for length in range(_SHORTEST_MATCH, min(_LONGEST_MATCH, len(window) - at) + 1):
        place = window.rfind(window[at : at + length], 0, at + length - 1)
        if place < 0:
            break
        found.append((length, at - place))
    return found


def _literal_bits(byte: int) -> int:
    return 8 if byte < 144 else 9


def _match_bits(length: int, distance: int) -> int:
    code, _, more = _coded(length, _LENGTHS)
    return (7 if code < 23 else 8) + more + 5 + _coded(distance, _DISTANCES)[2]


def _coded(value: int, table: list[tuple[int, int]]) -> tuple[int, int, int]:
    """The code of a length or distance, what is left to say, and in how many bits."""
    code = bisect(table, value, key=itemgetter(0)) - 1
    return code, value - table[code][0], table[code][1]


def _write(window: bytes, begin: int, best: list[tuple[int, int, int]]) -> bytes:
    out = _Bits()
    out.put(1, 1)  # the last block
    out.put(1, 2)  # with fixed codes
    at = begin
    while at < len(window):
        _, length, distance = best[at - begin]
        if distance:
            code, rest, more = _coded(length, _LENGTHS)
            out.symbol(_END + 1 + code)
            out.put(rest, more)
            code, rest, more = _coded(distance, _DISTANCES)
            out.word(code, 5)
            out.put(rest, more)
        else:
            out.symbol(window[at])
        at += length
    out.symbol(_END)
    return out.bytes()


class _Bits:
    """Bits from the least significant of each byte up, as deflate wants them."""

    def __init__(self) -> None:
        self._value, self._count = 0, 0

    def put(self, value: int, bits: int) -> None:
        """A number, least significant bit first."""
        self._value |= value << self._count
        self._count += bits

    def word(self, value: int, bits: int) -> None:
        """A code word, most significant bit first."""
        for bit in range(bits - 1, -1, -1):
            self.put(value >> bit & 1, 1)

    def symbol(self, symbol: int) -> None:
        """A literal, length or end, in the fixed code of RFC 1951, section 3.2.6."""
        for first, word, bits in ((280, 0b11000000, 8), (256, 0, 7), (144, 0b110010000, 9), (0, 0b00110000, 8)):
            if symbol >= first:
                self.word(word + symbol - first, bits)
                return

    def bytes(self) -> bytes:
        """All bits, the last byte filled with zeros."""
        return self._value.to_bytes(-(-self._count // 8), "little")
