"""How a network's inputs are normalized: as people write it, and as the extension ``normalize`` of a file says it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from deepcompress.container.entries import Extension
from deepcompress.errors import FormatError

NAME = "normalize"
WORDS = ("none", "imagenet", "data")
MAX_CHANNELS = 64
MAX_BYTES = 4096

_NUMBER = re.compile(r"[+-]?(\d{1,20}(\.\d{0,20})?|\.\d{1,20})(e[+-]?\d{1,3})?", re.ASCII | re.IGNORECASE)
_SMALLEST, _LARGEST = 2.0**-126, 3.4028235e38  # of float32, in which inputs are normalized
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of RGB in 0..1, as torchvision's weights are trained with


@dataclass(frozen=True)
class Normalization:
    """One of `WORDS`, or a mean and a deviation for each channel; one of each is for all channels.

    ``none`` leaves inputs as they are, ``data`` takes mean and deviation of the training data.
    """

    word: str = ""
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Normalization:
        """From a word, or from numbers with commas: all means, and then all deviations.

        Raises:
            ValueError: it is neither; with what is allowed.
        """
        if text == "imagenet":
            return cls(text, *_IMAGENET)
        if text in WORDS:
            return cls(text)
        parts = text.split(",")
        half = len(parts) // 2
        if len(parts) % 2 or half > MAX_CHANNELS or not all(_NUMBER.fullmatch(part.strip()) for part in parts):
            raise ValueError(
                f"{text[:80]!r} is not a normalization: write {', '.join(WORDS)}, or mean,std, or all means and then "
                f"all deviations of up to {MAX_CHANNELS} channels"
            )
        return cls.of([float(part) for part in parts[:half]], [float(part) for part in parts[half:]])

    @classmethod
    def of(cls, mean: Sequence[float], deviation: Sequence[float]) -> Normalization:
        """From numbers.

        Raises:
            ValueError: one is beyond float32, or a deviation is not above 0.
        """
        if not all(abs(number) <= _LARGEST for number in (*mean, *deviation)) or min(deviation, default=1) < _SMALLEST:
            raise ValueError("means and deviations must be numbers of float32, and deviations above 0")
        return cls("", tuple(mean), tuple(deviation))

    def __str__(self) -> str:
        return self.word or ",".join(f"{number:.9g}" for number in (*self.mean, *self.deviation))


def pack_normalize(normalize: str) -> tuple[Extension, ...]:
    """What a header says of it: nothing, where nothing is known or done."""
    return (Extension(NAME, normalize.encode("ascii")),) if normalize not in ("", "none") else ()


def normalize_in(extensions: Sequence[Extension]) -> str:
    """The inverse; empty where a header says nothing.

    Raises:
        FormatError: it says something else, or says it twice.
    """
    found = [extension.data for extension in extensions if extension.name == NAME]
    if not found:
        return ""
    try:
        if len(found) > 1 or len(found[0]) > MAX_BYTES:
            raise ValueError(f"it is there {len(found)} times, with {len(found[0])} bytes")
        return str(Normalization.parse(found[0].decode("ascii")))
    except ValueError as error:  # a UnicodeDecodeError is one
        raise FormatError(f"header: extension {NAME!r}: {error}") from None
