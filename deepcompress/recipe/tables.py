"""Recipes as plain data: to and from the tables of JSON and TOML."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepcompress.errors import RecipeError
from deepcompress.recipe.conflicts import AS_TRAINED, DEFAULTS, complete
from deepcompress.recipe.effects import SETTINGS, unused
from deepcompress.recipe.rules import LayerRule, check_known

if TYPE_CHECKING:
    from deepcompress.recipe import Recipe


def as_table(recipe: Recipe) -> dict[str, Any]:
    """All settings of a recipe that are not None, and its layer rules as a list ``layer``."""
    values = {name: getattr(recipe, name) for name in SETTINGS}
    if recipe.levels is not None:
        del values["bits"]
    plain = {key: value for key, value in values.items() if value is not None}
    if recipe.layers:
        plain["layer"] = [rule.as_dict() for rule in recipe.layers]
    return plain


def from_table(table: dict[str, Any], where: str) -> dict[str, Any]:
    """Arguments of a recipe from such a table.

    Raises:
        RecipeError: a key is unknown, or a layer rule no rule; the message names it and `where`.
    """
    settings = dict(table)
    rules = settings.pop("layer", [])
    if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
        raise RecipeError(f"{where}: layer must be a list of tables, each headed [[layer]]")
    check_known(settings, SETTINGS, where)
    layers = tuple(LayerRule.from_dict(rule, f"{where}: [[layer]]") for rule in rules)
    return {**chosen(settings), "layers": layers}


def chosen(table: dict[str, Any]) -> dict[str, Any]:
    """What somebody has set in a table.

    That is everything, except in a table with most of the settings, which `as_table` has written: there nobody chose
    the values that are defaults, and they contradict nothing; nor do those that have no effect, as older versions
    wrote them. The fraction counts if it has an effect; the quantizer and early_stop, if their defaults depend on what
    else was chosen.
    """
    if 2 * len(table) < len(SETTINGS):
        return dict(table)
    trained = table.get("retrain", True)
    always = set() if trained else {"quantizer"}
    unchosen = {name: [value] for name, value in DEFAULTS.items()}
    if not {"target_size", "quality"} & table.keys():
        always.add("prune")
    elif not trained:
        unchosen["prune"].append(AS_TRAINED["prune"])
    if table.get("epochs", DEFAULTS["epochs"]) != DEFAULTS["epochs"]:
        always.add("early_stop")
    found = {
        name: value
        for name, value in table.items()
        if name in always or name not in DEFAULTS or value not in unchosen[name]
    }
    idle = unused(complete(found))
    return {name: value for name, value in found.items() if name not in idle}


def to_toml(plain: dict[str, Any]) -> str:
    """A table as a TOML document."""
    rules = plain.pop("layer", [])
    blocks = ["\n".join(f"{key} = {_toml(value)}" for key, value in plain.items())]
    for rule in rules:
        blocks.append("[[layer]]\n" + "\n".join(f"{key} = {_toml(value)}" for key, value in rule.items()))
    return "\n\n".join(blocks) + "\n"


def read_toml(path: str | Path) -> dict[str, Any]:
    """The settings in a recipe file, unchecked.

    Raises:
        RecipeError: the file is missing or is not TOML.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"recipe {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {path}: not valid TOML: {error}") from None


def _toml(value: Any) -> str:
    """JSON's numbers, booleans and strings are TOML's, except surrogate pairs and a bare DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
