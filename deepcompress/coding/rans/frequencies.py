"""Tables of frequencies: quarter octaves in the file, 12-bit shares in the coder (docs/format.md, section 18)."""

from __future__ import annotations

from typing import Any

import numpy as np

from deepcompress.errors import FormatError

Array = np.ndarray[Any, np.dtype[Any]]

BITS = 12
TOTAL = 1 << BITS
LEVELS = 64  # 0: the token does not occur
_FRACTIONS = np.array([64, 76, 91, 108], dtype=np.int64)  # 64 times 2^0, 2^(1/4), 2^(1/2), 2^(3/4), rounded
STEPS = 4  # levels of an octave
TOP = 4 * BITS + 1  # the level of the most frequent token of a table


def of_levels(levels: Array) -> Array:
    """The frequencies, int64 of shape (tables, tokens); those of a table sum to `TOTAL`.

    Each token that occurs has 1, and the rest is shared out by cumulated weights, so that all of it is used.

    Raises:
        FormatError: a table has no token.
    """
    numbers = np.maximum(levels.astype(np.int64) - 1, 0)
    occurs = levels > 0
    if not occurs.any(axis=1).all():
        raise FormatError("a table of frequencies has no token")
    weights = np.where(occurs, _FRACTIONS[numbers & 3] << (numbers >> 2), 0)
    ends = weights.cumsum(axis=1)
    rest = TOTAL - np.count_nonzero(occurs, axis=1)[:, None]
    shared = ends * rest // ends[:, -1:]
    found: Array = np.diff(shared, axis=1, prepend=0) + occurs
    return found


def slots_of(frequencies: Array) -> Array:
    """What the decoder finds at each of the `TOTAL` slots of a table: frequency, place in the token, and token.

    Returns:
        uint32 of shape (tables, `TOTAL`): frequency << 19 | place << 7 | token.
    """
    tables, tokens = frequencies.shape
    flat = frequencies.reshape(-1)
    begins = np.cumsum(flat) - flat
    each = (flat << 19) - (begins << 7) + np.tile(np.arange(tokens, dtype=np.int64), tables)
    slots: Array = np.repeat(each.astype(np.uint32), flat)  # modulo 2^32, until the places are added
    slots += np.arange(tables * TOTAL, dtype=np.uint32) << np.uint32(7)
    return slots.reshape(tables, TOTAL)
