"""The options of a recipe, made from its fields, and the recipe that they ask for."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, ClassVar, TypeVar

import click

from deepcompress.errors import RecipeError
from deepcompress.recipe import (
    DEFAULTS,
    LARGEST,
    MAX_BITS,
    SETTINGS,
    STAGES,
    Bits,
    Bytes,
    Choice,
    Drop,
    Kind,
    LayerRule,
    Name,
    Number,
    Recipe,
    Switch,
    Whole,
    check_one_of,
    chosen,
    going_on,
    on_top,
    read_toml,
    with_smallest,
)

Command = TypeVar("Command", bound=Callable[..., Any])


def options(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, shown in this order."""

    def decorate(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


class Width(click.ParamType):  # type: ignore[type-arg]  # a generic class in new versions of click only
    """The index width of a codebook, or ``none``."""

    name = "bits"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """A number of bits as int."""
        if value == "none":
            return "none"
        if not (str(value).isdecimal() and 1 <= int(value) <= MAX_BITS):
            self.fail(f"{value!r} is not a whole number from 1 to {MAX_BITS}, nor 'none'", param, ctx)
        return int(value)


class Size(click.ParamType):  # type: ignore[type-arg]  # as above
    """A size of a file: bytes, or a number with a unit."""

    name = "size"
    units: ClassVar = {
        "": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30,
    }  # fmt: skip

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Whole bytes, rounded down."""
        found = re.fullmatch(r"(\d{1,18}(?:\.\d{1,18})?) ?([a-z]*)", str(value).strip(), re.ASCII | re.IGNORECASE)
        unit = self.units.get(found[2].upper()) if found else None
        if found is None or unit is None:
            self.fail(
                f"{value!r} is not a size: write bytes, or a number with KB, MB, KiB or MiB, such as 10KB", param, ctx
            )
        size = int(Decimal(found[1]) * unit)
        if size < 1:
            self.fail(f"{value!r} is less than one byte", param, ctx)
        return size


class OwnName(click.ParamType):  # type: ignore[type-arg]  # as above
    """One of the known names, or ``file.py:function``."""

    name = "name"

    def __init__(self, known: Sequence[str]) -> None:
        self.known = known

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name itself; whether the user's own file has that function is seen when it is asked."""
        if value not in self.known and ".py:" not in value:
            self.fail(
                f"{value!r} is unknown; known are {', '.join(self.known)}, or your own function as file.py:function",
                param,
                ctx,
            )
        return value


class Several(click.ParamType):  # type: ignore[type-arg]  # as above
    """A comma-separated list of what an option takes, as a tuple."""

    name = "list"

    def __init__(self, single: click.ParamType[Any]) -> None:
        self.single = single

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """What help shows where the option does not say it."""
        return f"{self.single.get_metavar(param, ctx)},…"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        """The values, in the order in which they were given."""
        return tuple(self.single.convert(part.strip(), param, ctx) for part in value.split(","))


def type_of(kind: Kind) -> click.ParamType[Any]:
    """What click converts and checks a setting of this kind by."""
    match kind:
        case Choice(names):
            return click.Choice(names)
        case Name(known):
            return OwnName(known)
        case Number(low, high, above, below):
            return click.FloatRange(low, None if math.isinf(high) else high, min_open=above, max_open=below)
        case Whole(low, high) if not isinstance(kind, Bytes):
            return click.IntRange(low, None if high == LARGEST else high)
    plain: dict[type[Kind], click.ParamType[Any]] = {Bytes: Size(), Bits: Width(), Switch: click.BOOL}
    return plain[type(kind)]


def flag_of(name: str) -> str:
    """The option of a setting."""
    return SETTINGS[name].flag or f"--{name.replace('_', '-')}"


def setting_option(name: str, *, several: bool = False, **changes: Any) -> Callable[[Command], Command]:
    """The option of a setting; with `several` it takes a comma-separated list.

    Args:
        changes: what is different for one command: its `default`, and arguments of ``click.option``.
    """
    known, default = SETTINGS[name], changes.get("default", DEFAULTS[name])
    flag = flag_of(name)
    changes = {"default": None, "help": help_of(name, default), **changes}
    if isinstance(known.kind, Switch):
        only: dict[str, Any] = {} if "/" in flag else {"is_flag": True, "flag_value": not flag.startswith("--no-")}
        return click.option(flag, name, **only, **changes)
    kind, metavar = type_of(known.kind), known.metavar
    if several:
        kind, metavar = Several(kind), metavar and f"{metavar},…"
    return click.option(flag, name, **{"type": kind, "metavar": metavar, **changes})


def help_of(name: str, default: Any) -> str:
    """What a setting does, when it has an effect, and its default."""
    known = SETTINGS[name]
    parts = [known.help]
    if known.when is not None:
        parts.append(known.when.sentence(flag_of(known.when.name)))
    shown = "" if default is None or isinstance(known.kind, Switch) else default
    if shown != "" or known.unset:
        parts.append(f" [default: {known.unset if shown == '' else shown}]")
    return " ".join(parts)


recipe_file_option = click.option(
    "--recipe", "recipe_file", type=click.Path(), metavar="FILE.toml",
    help="Read settings from a file. Options on the command line override it.",
)  # fmt: skip
layers_option = click.option(
    "--layer", "layers", multiple=True, metavar="'PATTERN:prune=F,bits=B,group=G'",
    help="Settings for the layers whose name matches. Repeatable; the last match wins. levels=K replaces "
    "bits=B. Layers of one group share a codebook. 'PATTERN:keep' leaves the layers unchanged.",
)  # fmt: skip

#: Settings of which `recipe_options` can take several values, from the one that changes slowest in a sweep.
AXES = ("target_size", "prune", "bits", "conv_bits", "init", "seed")
#: Settings that not all commands have, or that have an option of another kind there.
APART = ("target_size", "max_drop", "rewind")
#: Headings of the help, and the settings under them.
HEADINGS = {stage.heading: tuple(name for name in SETTINGS if hasattr(stage, name)) for stage in STAGES}
#: What is told of retraining beside how long it is.
RETRAINING = tuple(name for name in HEADINGS["Retraining"] if name not in ("retrain", "epochs", "early_stop", "seed"))


def recipe_options(several: bool = False) -> Callable[[Command], Command]:
    """All settings of a recipe except those `APART`; with `several` those of `AXES` take comma-separated lists."""
    names = [name for name in SETTINGS if name not in APART or (several and name in AXES)]
    made = [setting_option(name, several=several and name in AXES) for name in names]
    return options(recipe_file_option, *made, layers_option)


def build_recipe(path: str | None, layers: tuple[str, ...], settings: dict[str, Any]) -> Recipe:
    """The recipe of the file, if any, with the options that were given on top."""
    return build_budgeted(path, layers, settings)[0]


def build_budgeted(
    path: str | None,
    layers: tuple[str, ...],
    settings: dict[str, Any],
    base: dict[str, Any] | None = None,
    calibrated: bool = False,
) -> tuple[Recipe, bool]:
    """As `build_recipe`, and whether its size is to be searched for: there is a `max_drop`, and nothing to prune.

    A circular schedule needs the `max_drop` for itself, and prunes as far as the recipe's default without a fraction.

    Where a size or a search is asked for, what nobody set is as in `recipe.SMALLEST`. A recipe file that has a size of
    its own is taken as it stands. `base` are the settings of a compressed file to go on from. Where the rounding is
    `calibrated`, nothing is searched for: samples keep to the budget.
    """
    given = {key: value for key, value in settings.items() if value is not None}
    try:
        check_one_of(given, given)
    except RecipeError as error:
        raise click.UsageError(
            re.sub(r"\w+", lambda word: flag_of(word[0]) if word[0] in given else word[0], str(error))
        ) from None
    if layers:
        given["layer"] = [LayerRule.parse(layer).as_dict() for layer in layers]
    where = f"recipe {path}" if path else "options"
    values = on_top(given, chosen(read_toml(path)) if path else {})
    first = Recipe.from_dict(values if base is None else going_on(values, base), where)
    searching = isinstance(first.amount, Drop) and not calibrated
    rounded = base is None and first.quantizer == "rows"
    if ("target_size" in given and not rounded) or searching:
        values = with_smallest(values)
    if base is not None:
        values = going_on(values, base)
    return Recipe.from_dict(values, where), searching
