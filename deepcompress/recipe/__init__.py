"""Every setting of the pipeline in one frozen object, to and from TOML.

`stages` has the settings, each written once; `ways` the alternatives as types, `conflicts` what excludes what, `uses`
what does not go with a use, `rules` the settings of single layers. Command line, TOML and documents follow from the
fields.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepcompress.errors import RecipeError
from deepcompress.recipe.conflicts import DEFAULTS, check_one_of, check_together, check_used, instead_of, usual
from deepcompress.recipe.effects import SETTINGS, unused
from deepcompress.recipe.kinds import (
    LARGEST,
    MAX_BITS,
    MAX_LEVELS,
    Bits,
    Bytes,
    Choice,
    Kind,
    Name,
    Number,
    Switch,
    Whole,
    check_number,
)  # fmt: skip
from deepcompress.recipe.method import Method
from deepcompress.recipe.rules import LayerRule, Rules, pattern_hint
from deepcompress.recipe.smallest import SMALLEST, going_on, on_top, with_smallest
from deepcompress.recipe.stages import CRITERIA, STAGES, File, HowSmall, Pruning, Retraining, Sharing
from deepcompress.recipe.tables import as_table, chosen, from_table, read_toml, to_toml
from deepcompress.recipe.ways import (
    Amount,
    Circular,
    DeepR,
    Drop,
    Dsr,
    Fraction,
    Gap,
    Quality,
    Regrowth,
    Rewind,
    Set,
    Size,
    Steps,
    Surgery,
    Way,
)

#: What a network can be for (`training.tasks`). It is no setting of a recipe: the data says it.
TASKS = ("classification", "tokens", "segmentation", "multilabel", "regression", "embedding")

#: The names that a setting can have, for those that have names.
CHOICES = {name: known.kind.names for name, known in SETTINGS.items() if isinstance(known.kind, Choice)}


@dataclass(frozen=True)
class Recipe(Retraining, File, Sharing, Pruning, Method, HowSmall):
    """All settings of one compression. Defaults are chosen so that ``Recipe(prune=0.92, bits=5)`` is enough.

    It is the settings of all stages (`recipe.stages`), and what takes one stage's can be given a recipe. Settings that
    exclude each other, or that have no effect beside the others, are refused where they are given. In a copy
    (`dataclasses.replace`) the changes win: what they exclude, or take the effect from, goes back to its default.

    Attributes:
        layers: rules for single layers; a later rule wins.
        given: names of the settings that were given and not left to their defaults.
    """

    layers: tuple[LayerRule, ...] = ()
    given: frozenset[str] | None = dataclasses.field(default=None, compare=False, repr=False)

    def __new__(cls, *args: Any, **settings: Any) -> Recipe:
        """Note which settings are given: a dataclass cannot tell them from defaults."""
        recipe = super().__new__(cls)
        if args or settings:
            names = (field.name for field in dataclasses.fields(cls))
            recipe.__dict__["_told"] = {*(name for name, _ in zip(names, args, strict=False)), *settings}
        return recipe

    def __post_init__(self) -> None:
        told: set[str] = self.__dict__.pop("_told", set())
        if self.bits is None:  # one way to say it, or a recipe written to TOML would come back with the default
            object.__setattr__(self, "bits", "none")
        object.__setattr__(self, "layers", Rules(self.layers))
        values = {name: getattr(self, name) for name in SETTINGS}
        for name, known in SETTINGS.items():
            if values[name] is not None or DEFAULTS[name] is not None:
                known.kind.check(values[name], name)
        self._note(told, values)
        check_together(self)

    def _note(self, told: set[str], values: dict[str, Any]) -> None:
        """Keep what was given, and refuse what it excludes. In a copy the changes win over what was given before."""
        before = self.given or frozenset()
        was = usual(before)
        changed = {name for name in values if values[name] != was[name]} - before
        new = {name for name in (told if self.given is None else changed) if values.get(name) is not None}
        check_one_of(new, new)
        lost = instead_of(new, dict.fromkeys(before))
        given = {name for name in before | new if values[name] is not None} - lost
        if self.retrain:
            given.discard("retrain")
        check_used(new, self._filled(given))
        while lost := given & unused(self._filled(given)).keys():  # what goes may take the effect from others
            given -= lost
        object.__setattr__(self, "given", frozenset(given))
        values = self._filled(given)
        for name in SETTINGS:
            object.__setattr__(self, name, values[name])

    def _filled(self, given: Collection[str]) -> dict[str, Any]:
        """All settings by name: those that are given, and the defaults that depend on them."""
        rounded = "quantizer" in given and self.quantizer == "rows"
        defaults = usual(given, any(rule.asks for rule in self.layers), rounded)
        own = {name: getattr(self, name) for name in given}
        return {**defaults, **own, "layer": self.layers}

    def changed(self, **changes: Any) -> Recipe:
        """A copy with those of the `changes` that have an effect in it; the others are left out.

        Raises:
            RecipeError: a value is not allowed.
        """
        rules = changes.get("layers", self.layers)
        idle = unused({**vars(self), **changes, "layer": rules})
        return dataclasses.replace(self, **{name: value for name, value in changes.items() if name not in idle})

    @classmethod
    def smallest(cls, **settings: Any) -> Recipe:
        """A recipe whose settings are those of `SMALLEST` except `settings`; with a `target_size`, usually.

        Raises:
            RecipeError: a value is not allowed.
        """
        return cls(**with_smallest(settings))

    @property
    def amount(self) -> Amount:
        """How much is pruned."""
        if self.target_size is not None:
            return Size(self.target_size)
        if self.quality is not None:
            return Quality(self.quality)
        if self.max_drop is not None and self.schedule != "circular" and "prune" not in (self.given or ()):
            return Drop(self.max_drop)
        return Fraction(self.prune)

    @property
    def way(self) -> Way:
        """How pruning proceeds."""
        if self.schedule == "circular":
            assert self.max_drop is not None
            return Circular(self.prune_step, self.max_drop)
        if self.schedule == "gap":
            return Gap(self.prune_step, self.gap)
        if self.rewind != "none":
            return Rewind(self.rewind, self.schedule, self.iterations)
        return Steps(self.schedule, self.iterations, self.max_drop, self.reload)

    @property
    def regrowth(self) -> Regrowth | None:
        """How weights come back; None: they do not."""
        told = {"regrow_fraction": self.regrow_fraction, "regrow_every": self.regrow_every}
        own: dict[str, Any] = {name: value for name, value in told.items() if value is not None}
        if self.regrow == "deepr":
            return DeepR(self.deepr_alpha, self.deepr_temperature)
        kinds: dict[str, type[Surgery | Set | Dsr]] = {"surgery": Surgery, "set": Set, "dsr": Dsr}
        return kinds[self.regrow](**own) if self.regrow in kinds else None

    @property
    def _rules(self) -> Rules:
        assert isinstance(self.layers, Rules)
        return self.layers

    @property
    def prunes(self) -> bool:
        """Whether any weight is removed, from the network or from one layer."""
        return bool(self.prune or any(rule.prune for rule in self.layers))

    def levels_of(self, name: str, is_conv: bool) -> int | None:
        """How many values the weights of the tensor `name` may share, zero not counted; None if they share none."""
        bits, levels = self.bits, self.levels
        if is_conv and self.conv_bits is not None:
            bits, levels = self.conv_bits, None
        for rule in self._rules.about(name):
            if (rule.bits, rule.levels) != (None, None):
                bits, levels = rule.bits, rule.levels
        if levels is not None:
            return levels
        return None if bits in (None, "none") else 1 << int(bits)

    def prune_of(self, name: str) -> float | None:
        """The fraction set for the tensor `name` itself; None where the distribution decides."""
        fractions = [rule.prune for rule in self._rules.about(name) if rule.prune is not None]
        return fractions[-1] if fractions else None

    def keeps(self, name: str) -> bool | None:
        """Whether the tensor `name` is left alone by the last rule that says so or not; None where none does."""
        told = [rule for rule in self._rules.about(name) if rule.keep is not None or rule.compresses]
        return bool(told[-1].keep) if told else None

    def group_of(self, name: str) -> str | None:
        """The codebook group of the tensor `name`; None for a codebook of its own."""
        groups = [rule.group for rule in self._rules.about(name) if rule.group is not None]
        return groups[-1] if groups else None

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON and TOML: settings that are None are left out, layer rules are a list ``layer``.

        So is `bits` where there are `levels`.
        """
        return as_table(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: str = "recipe") -> Recipe:
        """The inverse of `as_dict`.

        Raises:
            RecipeError: a key is unknown or a value not allowed; the message names it and `where`.
        """
        settings = from_table(values, where)
        try:
            return cls(**settings)
        except RecipeError as error:
            raise RecipeError(f"{where}: {error}") from None

    def to_toml(self) -> str:
        """The recipe as a TOML document that `load` reads back to an equal recipe."""
        return to_toml(self.as_dict())

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read a recipe from a TOML file.

        Raises:
            RecipeError: the file is missing, is not TOML, or holds an unknown or disallowed setting.
        """
        return cls.from_dict(read_toml(path), str(path))


__all__ = [
    "CHOICES", "CRITERIA", "DEFAULTS", "LARGEST", "MAX_BITS", "MAX_LEVELS", "SETTINGS", "SMALLEST", "STAGES",
    "TASKS", "Amount", "Bits", "Bytes", "Choice", "Circular", "DeepR", "Drop", "Dsr", "File", "Fraction", "Gap",
    "HowSmall", "Kind", "LayerRule", "Method", "Name", "Number", "Pruning", "Quality", "Recipe", "Regrowth",
    "Retraining", "Rewind", "Set", "Sharing", "Size", "Steps", "Surgery", "Switch", "Way", "Whole", "check_number",
    "check_one_of", "chosen", "going_on", "on_top", "pattern_hint", "read_toml", "with_smallest",
]  # fmt: skip
