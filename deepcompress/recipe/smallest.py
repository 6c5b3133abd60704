"""Settings that are put together: those for the smallest files, and those to go on from a compressed file."""

from __future__ import annotations

from typing import Any

from deepcompress.recipe.conflicts import complete, instead_of
from deepcompress.recipe.effects import unused

#: Settings for the smallest files: `Recipe.smallest`, and the command line where a budget is all that was asked for.
SMALLEST: dict[str, Any] = {
    "coder": "rans",
    "quantizer": "uniform",
    "bits": 3,
    "small_bits": 5,
    "batch_norm": "fold",
    "distill": 0.5,
    "temperature": 2.0,
    "lr": 0.01,
    "finetune_lr": 0.01,
    "epochs": 40,
    "finetune_epochs": 12,
}


def with_smallest(settings: dict[str, Any]) -> dict[str, Any]:
    """`settings` (by name), and those of `SMALLEST` that they leave free."""
    return on_top(settings, SMALLEST)


def on_top(settings: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    """`settings` (by name), and what else `others` have, without what `settings` exclude or take the effect from."""
    left = {name: value for name, value in others.items() if name not in settings or name == "layer"}
    for name in instead_of(settings, left):
        del left[name]
    if "target_size" in settings and "layer" in left:
        left["layer"] = _without_fractions(left["layer"])
    if "layer" in settings and isinstance(left.get("layer", []), list):
        left["layer"] = [*left.get("layer", []), *settings["layer"]]
    values = {**settings, **left}
    before = set(unused(complete(others)))
    while lost := left.keys() & unused(complete(values)).keys() - before:  # what goes may take the effect from others
        for name in lost:
            del left[name], values[name]
    return values


def _without_fractions(rules: Any) -> Any:
    """Layer rules, as nobody has checked them yet, for a file whose size decides how much each layer loses."""
    if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
        return rules
    return [{key: value for key, value in rule.items() if key != "prune"} for rule in rules]


def going_on(settings: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """`settings` on top of those that a compressed file was made by (`compression.from_file.settings_of`).

    Where more pruning is asked for, retraining is what it is for any network; where other bits are, no layer keeps the
    number of its values.
    """
    left = dict(base)
    if {"prune", "quality", "target_size", "max_drop", "low_rank"} & settings.keys():
        for name in ("prune", "epochs", "finetune_epochs"):
            left.pop(name, None)
    if {"bits", "levels", "conv_bits"} & settings.keys() or settings.get("quantizer") == "rows":
        left.pop("layer", None)
    return on_top(settings, left)
