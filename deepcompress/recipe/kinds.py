"""What a setting may be: each kind says what it allows, and refuses the rest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from deepcompress.errors import RecipeError

MAX_BITS = 12
MAX_LEVELS = 1 << MAX_BITS
LARGEST = 2**31 - 1


@dataclass(frozen=True)
class Number:
    """A finite number from `low` to `high`; with `above` or `below`, that limit itself is not allowed."""

    low: float = 0
    high: float = math.inf
    above: bool = False
    below: bool = False

    @property
    def allowed(self) -> str:
        """The limits in words."""
        low = f"above {self.low}" if self.above else f"at least {self.low}"
        if math.isinf(self.high):
            return low if self.above else f"{self.low} or above"
        if not self.above and not self.below:
            return f"from {self.low} to {self.high}"
        return f"{low} and {'below' if self.below else 'at most'} {self.high}"

    def check(self, value: Any, what: str) -> None:
        """Refuse what is no such number.

        Raises:
            RecipeError: the message calls it `what`.
        """
        known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        inside = known and self.low <= value <= self.high
        if not inside or (self.above and value == self.low) or (self.below and value == self.high):
            raise RecipeError(f"{what} is {value!r}; it must be a finite number, {self.allowed}")


@dataclass(frozen=True)
class Whole:
    """A whole number from `low` to `high`."""

    low: int = 0
    high: int = LARGEST

    def check(self, value: Any, what: str) -> None:
        """Refuse what is no such number (`RecipeError`)."""
        if not isinstance(value, int) or isinstance(value, bool) or not self.low <= value <= self.high:
            raise RecipeError(f"{what} is {value!r}; it must be a whole number from {self.low} to {self.high}")


@dataclass(frozen=True)
class Bytes(Whole):
    """A number of bytes; the command line also takes units."""

    low: int = 1
    high: int = 2**62


@dataclass(frozen=True)
class Bits:
    """The index width of a codebook, or ``none`` for no sharing."""

    def check(self, value: Any, what: str) -> None:
        """Refuse what is no such width (`RecipeError`)."""
        if value == "none":
            return
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_BITS:
            raise RecipeError(f"{what} is {value!r}; it must be a whole number from 1 to {MAX_BITS} or 'none'")


@dataclass(frozen=True)
class Choice:
    """One of `names`."""

    names: tuple[str, ...]

    def check(self, value: Any, what: str) -> None:
        """Refuse other names (`RecipeError`)."""
        if value not in self.names:
            raise RecipeError(f"{what} is {value!r}; allowed are {', '.join(self.names)}")


@dataclass(frozen=True)
class Switch:
    """True or false."""

    def check(self, value: Any, what: str) -> None:
        """Refuse anything else (`RecipeError`)."""
        if not isinstance(value, bool):
            raise RecipeError(f"{what} is {value!r}; it must be true or false")


@dataclass(frozen=True)
class Name:
    """A name, one of `known` or of the user's own."""

    known: tuple[str, ...] = ()

    def check(self, value: Any, what: str) -> None:
        """Refuse what is no text (`RecipeError`)."""
        if not isinstance(value, str) or not value:
            raise RecipeError(f"{what} is {value!r}; it must be a name")


Kind = Number | Whole | Bits | Choice | Switch | Name

FRACTION = Number(0, 1, below=True)


def check_number(value: Any, what: str, low: float, high: float = math.inf) -> None:
    """Refuse what is no finite number from `low` to `high`.

    Raises:
        RecipeError: the message calls it `what`.
    """
    Number(low, high).check(value, what)
