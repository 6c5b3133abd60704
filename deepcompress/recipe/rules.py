"""Settings of single layers, and which of them are about a tensor."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

from deepcompress.errors import RecipeError
from deepcompress.recipe.kinds import FRACTION, MAX_LEVELS, Bits, Whole

BITS_OR_LEVELS = "bits and levels are two ways to say how many values are shared: give one of them"

_SPECIAL, _ESCAPED = re.compile(r"[*?\[]"), re.compile(r"\[([*?\[])\]")  # of shell patterns
_SETTINGS = re.compile(r"(?P<pattern>.*):(?P<settings>\s*(keep|\w+\s*=).*)", re.DOTALL)


def pattern_hint(names: Iterable[str]) -> str:
    """How to write a pattern for `names`, where one has a character that means something else in a pattern."""
    if any(set(name) & set("[*?") for name in names):
        return " (write [[], [*] or [?] for such a character of a name in a pattern, or the whole name)"
    return ""


@dataclass(frozen=True)
class LayerRule:
    """Settings for the layers whose name matches `pattern` (as in a shell: ``*``, ``?``, ``[...]``).

    `pattern` is held against the fully qualified name of the tensor (``conv1.weight``) and of its module
    (``conv1``). A name that is written out in full always matches itself; in a pattern, ``[[]`` is a bracket that
    stands in the name. A setting that is None is left to the recipe.

    Attributes:
        prune: fraction of the layer's weights to remove, 0 <= prune < 1.
        bits: index width of the codebook; ``"none"`` stores the layer's weights without sharing.
        levels: in place of bits, most shared values.
        group: layers of one group share one codebook.
        keep: leaves the tensor alone, neither pruned nor shared. A later rule that prunes or shares takes it back.
    """

    pattern: str
    prune: float | None = None
    bits: int | str | None = None
    group: str | None = None
    levels: int | None = None
    keep: bool | None = None

    def __post_init__(self) -> None:
        where = f"layer {self.pattern!r}"
        if not self.pattern or not isinstance(self.pattern, str):
            raise RecipeError("a layer rule needs a pattern, such as 'conv*:prune=0.6,bits=8'")
        if self.prune is not None:
            FRACTION.check(self.prune, f"{where}: prune")
        if self.bits is not None:
            Bits().check(self.bits, f"{where}: bits")
        if self.levels is not None:
            Whole(1, MAX_LEVELS).check(self.levels, f"{where}: levels")
        if self.levels is not None and self.bits is not None:
            raise RecipeError(f"{where}: {BITS_OR_LEVELS}")
        if self.group is not None and not isinstance(self.group, str):
            raise RecipeError(f"{where}: group is {self.group!r}; it must be a name")
        if not isinstance(self.keep, bool | None):
            raise RecipeError(f"{where}: keep is {self.keep!r}; it must be true or false")
        if self.keep and (self.prune, self.bits, self.levels, self.group) != (None, None, None, None):
            raise RecipeError(f"{where}: keep leaves the layer alone, and prune, bits, levels and group do not")

    @classmethod
    def parse(cls, text: str) -> LayerRule:
        """Read ``PATTERN:prune=F,bits=B,group=NAME`` (or ``levels=K``) or ``PATTERN:keep``, as ``--layer`` does.

        The settings begin after the last colon that a setting follows: names may have colons themselves.
        """
        found = _SETTINGS.fullmatch(text)
        pattern, colon, settings = (found["pattern"], ":", found["settings"]) if found else text.partition(":")
        if not colon or not settings:
            raise RecipeError(f"--layer {text!r}: write PATTERN:prune=F,bits=B, for example 'conv*:prune=0.6,bits=8'")
        values: dict[str, Any] = {}
        for setting in settings.split(","):
            key, _, value = (part.strip() for part in setting.partition("="))
            values[key] = _number(value) if key in ("prune", "bits", "levels") else value
            if setting.strip() == "keep":
                values[key] = True
        return cls.from_dict({"pattern": pattern, **values}, f"--layer {text!r}")

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: str) -> LayerRule:
        """A rule of plain data (`RecipeError`, which names `where`, if it is none)."""
        check_known(values, [field.name for field in dataclasses.fields(cls)], where)
        try:
            return cls(**{"pattern": "", **values})
        except RecipeError as error:
            raise RecipeError(f"{where}: {error}") from None

    def as_dict(self) -> dict[str, Any]:
        """The inverse of `from_dict`: settings that are None are left out."""
        return {name: value for name, value in vars(self).items() if value is not None}

    @property
    def compresses(self) -> bool:
        """Whether the rule prunes or shares a layer; without that, it makes none of what else is left alone."""
        return bool(self.prune) or self.bits not in (None, "none") or self.levels is not None

    @property
    def asks(self) -> bool:
        """Whether the rule says how much is pruned or shared, or what is not."""
        return (self.prune, self.bits, self.levels, self.group) != (None, None, None, None)

    @property
    def name(self) -> str | None:
        """The one name that the pattern matches; None if it may match others. ``[*]`` is a ``*``."""
        plain = _ESCAPED.sub(r"\1", self.pattern)
        return None if _SPECIAL.search(_ESCAPED.sub("", self.pattern)) else plain

    def matches(self, name: str) -> bool:
        """Whether the rule is about the tensor called `name`."""
        return any(own == self.pattern or fnmatchcase(own, self.pattern) for own in (name, name.rpartition(".")[0]))


class Rules(tuple[LayerRule, ...]):
    """Layer rules in their order, found by name: there may be one for each of thousands of layers."""

    def about(self, name: str) -> list[LayerRule]:
        """Those about the tensor `name`."""
        plain, patterns = self._places
        places = {*plain.get(name, ()), *plain.get(name.rpartition(".")[0], ())}
        places.update(place for place in patterns if self[place].matches(name))
        return [self[place] for place in sorted(places)]

    @cached_property
    def _places(self) -> tuple[dict[str, list[int]], list[int]]:
        """Of rules whose pattern is a name, by that name; and of the others."""
        plain: dict[str, list[int]] = {}
        patterns = []
        for place, rule in enumerate(self):
            if rule.name is None:
                patterns.append(place)
            else:
                plain.setdefault(rule.name, []).append(place)
        return plain, patterns


def check_known(values: Iterable[str], known: Iterable[str], where: str) -> None:
    """Refuse names of settings that there are not.

    Raises:
        RecipeError: naming `where`, the name, and the known ones.
    """
    names = list(known)
    for key in values:
        if key not in names:
            raise RecipeError(f"{where}: unknown setting {key!r}; known are {', '.join(names)}")


def _number(text: str) -> int | float | str:
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            pass
    return text
