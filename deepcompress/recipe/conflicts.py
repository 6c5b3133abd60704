"""Which settings of a recipe exclude each other, all in one place; `uses` has what a use of it excludes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from deepcompress.errors import RecipeError
from deepcompress.recipe.effects import Values, in_rules, shares, unused
from deepcompress.recipe.method import MOST_MEANS, PRIORS, PRUNING_ONLY
from deepcompress.recipe.rules import BITS_OR_LEVELS
from deepcompress.recipe.setting import settings_in
from deepcompress.recipe.stages import STAGES, WATCHING

if TYPE_CHECKING:
    from deepcompress.recipe import Recipe

DEFAULTS: dict[str, Any] = {name: getattr(stage, name) for stage in STAGES for name in settings_in(stage)}

#: Without retraining: settings that are not given; and which others, where one is given, leave the quantizer alone.
AS_TRAINED: dict[str, Any] = {"prune": 0.0, "quantizer": "rows"}
ASKS = frozenset(
    ("prune", "quality", "max_drop", "bits", "conv_bits", "levels", "low_rank", "init", "rate", "codebook_dtype")
)

#: Settings of which a recipe can be given one only, and why.
TWO_WAYS: dict[tuple[str, str], str] = {
    ("bits", "levels"): BITS_OR_LEVELS,
    **{(one, other): f"{one} and {other} are two ways to say how much is pruned: give one of them"
       for one, other in (("target_size", "prune"), ("target_size", "quality"), ("prune", "quality"))},
    ("target_size", "max_drop"): "target_size and max_drop are two budgets: give one of them",
    ("target_size", "criterion"): "target_size ranks weights by bytes and has no criterion: leave out one of "
    "them",
    **{("target_size", other): f"target_size decides by bytes over the whole network, and {other} is for "
       "prune: choose one" for other in ("scope", "distribution")},
}  # fmt: skip


def usual(given: Collection[str], asked: bool = False, rounded: bool = False) -> dict[str, Any]:
    """The defaults beside settings that are `given`, or `asked` for in rules for layers.

    All `epochs` that are given are trained. ``retrain`` counts as given where it is off. Then nothing is pruned or
    shared that nobody asked for; a ``max_drop`` asks for pruning, unless the quantizer is said to be ``rows``
    (`rounded`).
    """
    found = {**DEFAULTS, "early_stop": "epochs" not in given}
    if "retrain" not in given:
        return found
    found |= AS_TRAINED
    for name, asks in {
        "quantizer": asked or not ASKS.isdisjoint(given),
        "prune": "max_drop" in given and not rounded,
    }.items():
        if asks:
            found[name] = DEFAULTS[name]
    return found


def complete(settings: Values) -> dict[str, Any]:
    """`settings` by name, with layer rules as ``layer``, which nobody may have checked yet, and defaults beside."""
    given = {name: value for name, value in settings.items() if value is not None}
    names = given.keys() - ({"retrain"} if given.get("retrain") else set())
    asked = bool(in_rules(settings, "prune", "bits", "levels", "group"))
    return {**usual(names, asked, given.get("quantizer") == "rows"), **given}


def for_samples(recipe: Recipe) -> Recipe:
    """`recipe` where samples say how weights are rounded: a max_drop alone then asks for no pruning."""
    told = (recipe.given or frozenset()) & (ASKS | {"quantizer"})
    if recipe.retrain or told != {"max_drop"} or any(rule.asks for rule in recipe.layers):
        return recipe
    return replace(recipe, quantizer="rows")


def instead_of(given: Collection[str], others: Mapping[str, Any]) -> set[str]:
    """Which of the settings in `others` must go where those that are `given` are to win."""
    pairs = [*TWO_WAYS, *((other, one) for one, other in TWO_WAYS)]
    return {other for one, other in pairs if one in given and other in others and other not in given}


def check_one_of(new: Collection[str], given: Collection[str]) -> None:
    """Refuse `new` settings that say what another that is `given` says already.

    Raises:
        RecipeError: naming both.
    """
    for (one, other), reason in TWO_WAYS.items():
        if one in given and other in given and (one in new or other in new):
            raise RecipeError(reason)


def check_used(new: Collection[str], values: Values) -> None:
    """Refuse `new` settings that have no effect; `values` has all settings.

    Raises:
        RecipeError: naming the setting, and the one that it depends on.
    """
    for name, reason in unused(values).items():
        if name in new:
            raise RecipeError(reason)


def check_together(recipe: Recipe) -> None:
    """Refuse settings that are each allowed, and not together.

    Raises:
        RecipeError: naming them.
    """
    for check in (
        _check_method, _check_rows, _check_size, _check_watching, _check_reload, _check_rewind, _check_regrowth,
    ):  # fmt: skip
        check(recipe)


def _check_method(recipe: Recipe) -> None:
    """Methods that prune, share and train at once."""
    if recipe.method == "stages":
        return
    method = f"method {recipe.method!r}"
    if not recipe.retrain or not recipe.epochs:
        raise RecipeError(f"{method} compresses while it trains: set epochs, and leave retraining on")
    _refuse_others(
        recipe, f"{method} compresses to prune and bits, and {{}} sets another end: choose one",
        ("target_size", "max_drop"),
    )  # fmt: skip
    if recipe.method in PRIORS:
        _check_prior(recipe)
    if recipe.penalty not in ("l2", "none"):
        raise RecipeError(f"penalty {recipe.penalty!r} is for method 'stages', and {method} knows l2 and none")
    if not recipe.prunes and recipe.quality is None and not shares({**vars(recipe), "layer": recipe.layers}):
        raise RecipeError(f"{method} prunes or shares, and neither is asked for: set prune, bits or levels")


def _check_prior(recipe: Recipe) -> None:
    """Methods that learn a prior, or the noise of weights, beside the weights."""
    method = f"method {recipe.method!r}"
    if recipe.optimizer != "adam":
        raise RecipeError(
            f"{method} has gradients of very different sizes, and optimizer 'sgd' does not even them out: "
            "set optimizer to adam, and lr to 0.001 or so"
        )
    if recipe.quality is not None or (not recipe.prunes and recipe.method in PRUNING_ONLY):
        raise RecipeError(f"{method} removes a fraction of the weights: set prune")
    if recipe.method != "sws":
        return
    for rule in recipe.layers:
        if (rule.bits, rule.levels) != (None, None):
            raise RecipeError(
                f"{method} has one mixture for the network, and layer {rule.pattern!r} has bits or levels of its own: "
                "leave them out there"
            )
    values = recipe.levels_of("", is_conv=False)
    if values is None or values > MOST_MEANS:
        raise RecipeError(
            f"{method} needs to know how many values there may be, at most {MOST_MEANS}: set bits to 8 or less, or "
            "levels"
        )


def _check_rows(recipe: Recipe) -> None:
    """The quantizer ``rows``."""
    if recipe.quantizer != "rows":
        return
    if recipe.retrain:
        raise RecipeError("quantizer 'rows' is for networks as they were trained: take kmeans or uniform")
    for rule in recipe.layers:
        if (rule.bits, rule.levels, rule.group) != (None, None, None):
            raise RecipeError(
                f"quantizer 'rows' shares no values, and layer {rule.pattern!r} says which are shared: take kmeans or "
                "uniform, or leave bits, levels and group out"
            )


def _check_size(recipe: Recipe) -> None:
    if recipe.target_size is None:
        return
    for rule in recipe.layers:
        if rule.prune is not None:
            raise RecipeError(
                f"target_size and the prune of layer {rule.pattern!r} both decide how many weights the layer keeps: "
                "give one of them"
            )
    if recipe.keeps_count:
        raise RecipeError(
            f"regrow {recipe.regrow!r} keeps the number of weights, and target_size decides on bytes: with that, "
            "use regrow 'surgery' or none"
        )


def _check_watching(recipe: Recipe) -> None:
    """The schedules that look at validation data."""
    if recipe.schedule not in WATCHING:
        return
    if recipe.schedule == "circular" and recipe.max_drop is None:
        raise RecipeError(
            "schedule 'circular' prunes while the loss of accuracy is small enough: set max_drop to the allowed points"
        )
    if recipe.keeps_count:
        raise RecipeError(
            f"regrow {recipe.regrow!r} begins after the last iteration, which schedule {recipe.schedule!r} cannot "
            "tell: choose one"
        )
    if recipe.schedule == "gap" and not recipe.retrain:
        raise RecipeError("schedule 'gap' looks at the network before each epoch of retraining, and retrain is off")
    if recipe.schedule == "gap" and recipe.max_drop is not None:
        raise RecipeError("schedule 'gap' prunes by the generalization gap, and max_drop by accuracy: choose one")
    for other in ("target_size", "quality"):
        if getattr(recipe, other) is not None:
            raise RecipeError(
                f"schedule {recipe.schedule!r} goes up to the fraction prune, and {other} sets another end: choose one"
            )


def _check_reload(recipe: Recipe) -> None:
    if recipe.reload:
        _refuse_others(
            recipe, "reload prunes the dense weights at each iteration, and {} continues from pruned ones: choose one",
            ("schedule", "target_size", "regrow"),
        )  # fmt: skip


def _check_rewind(recipe: Recipe) -> None:
    if recipe.rewind == "none":
        return
    _refuse_others(
        recipe, f"rewind {recipe.rewind!r} trains survivors from the start again, and {{}} continues from trained "
        "weights: choose one",
        ("max_drop", "target_size", "regrow", "schedule", "reload", "low_rank"),
    )  # fmt: skip
    if not recipe.retrain or not recipe.epochs:
        raise RecipeError(
            f"rewind {recipe.rewind!r} leaves an untrained network, and nothing trains it: set epochs, and leave "
            "retraining on"
        )


def _check_regrowth(recipe: Recipe) -> None:
    if recipe.regrow != "none" and recipe.max_drop is not None and recipe.schedule != "circular":
        raise RecipeError("max_drop rolls back what was pruned, and regrow brings it back by itself: choose one")
    if recipe.keeps_count and (not recipe.retrain or not recipe.epochs):
        raise RecipeError(
            f"regrow {recipe.regrow!r} happens while training, and there is none: set epochs, and leave retraining on"
        )
    if recipe.keeps_count and not recipe.prunes and recipe.quality is None:
        raise RecipeError(f"regrow {recipe.regrow!r} brings pruned weights back, and nothing is pruned: set prune")


#: What makes another way through pruning of a recipe, and how a message calls it.
_OTHERS: dict[str, Callable[[Recipe], str]] = {
    "max_drop": lambda recipe: "" if recipe.max_drop is None else "max_drop",
    "target_size": lambda recipe: "" if recipe.target_size is None else "target_size",
    "regrow": lambda recipe: "" if recipe.regrow == "none" else f"regrow {recipe.regrow!r}",
    "schedule": lambda recipe: f"schedule {recipe.schedule!r}" if recipe.schedule in WATCHING else "",
    "reload": lambda recipe: "reload" if recipe.reload else "",
    "low_rank": lambda recipe: "" if recipe.low_rank is None else "low_rank",
}


def _refuse_others(recipe: Recipe, message: str, others: Collection[str]) -> None:
    for other in others:
        name = _OTHERS[other](recipe)
        if name:
            raise RecipeError(message.format(name))
