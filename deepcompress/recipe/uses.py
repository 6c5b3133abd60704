"""Which settings do not go with what a recipe is used for; `conflicts` has those that exclude each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepcompress.errors import RecipeError
from deepcompress.recipe.conflicts import DEFAULTS, check_used, instead_of
from deepcompress.recipe.effects import unused
from deepcompress.recipe.smallest import SMALLEST
from deepcompress.recipe.stages import WATCHING

if TYPE_CHECKING:
    from deepcompress.recipe import Recipe


def check_spread(recipe: Recipe, scope: str) -> None:
    """Refuse a distribution where the criterion's own `scope` leaves it nothing to do (`RecipeError`)."""
    asked = "distribution" in (recipe.given or ()) and recipe.scope is None and recipe.quality is None
    if asked and scope == "global":
        raise RecipeError(
            f"distribution spreads pruning over the layers, and criterion {recipe.criterion!r} has one threshold for "
            "all of them: leave distribution out, or set scope to 'layer'"
        )


def check_sizes(recipe: Recipe) -> None:
    """Refuse what has no effect in a search, which tries one target_size after the other (`RecipeError`)."""
    given = (recipe.given or frozenset()) - {"max_drop"}
    idle = unused({**vars(recipe), "target_size": 1, "max_drop": None, "layer": recipe.layers})
    for name in sorted(given & {*instead_of({"target_size"}, dict.fromkeys(given)), *idle}):
        raise RecipeError(
            f"a search tries one target_size after the other, and {name} does not go with it: leave it out"
        )


def check_rounding(recipe: Recipe) -> None:
    """Refuse to round rows where masks, or a file to go on from, say what is pruned and shared (`RecipeError`)."""
    for name in ("quantizer", "step"):
        if recipe.quantizer == "rows" and name in (recipe.given or ()):
            raise RecipeError(
                f"{name} rounds weights row by row, and masks or a .dc file to go on from say what is pruned and "
                f"shared: leave {name} out, or them"
            )


def check_sharing(recipe: Recipe) -> None:
    """Refuse how values are found where all keep those of the file that they come from (`RecipeError`).

    What `SMALLEST` has is not refused beside a size or a drop: the command line fills it in where nobody asked for it.
    """
    filled = {} if recipe.target_size is None and recipe.max_drop is None else SMALLEST
    for name in ("quantizer", "init", "weighting", "rate"):
        if name in (recipe.given or ()) and getattr(recipe, name) != filled.get(name):
            raise RecipeError(
                f"{name} is for values that are shared anew, and all layers keep the shared values of the .dc file: "
                f"leave {name} out, or ask for other bits or for epochs of retraining"
            )


def check_masks(recipe: Recipe) -> None:
    """Refuse what masks that are given decide already (`RecipeError`)."""
    check_stages(recipe, "masks say what is pruned")
    for setting in ("target_size", "max_drop", "quality"):
        if getattr(recipe, setting) is not None:
            raise RecipeError(f"masks say what is pruned, and so does {setting}: give one of them")
    if recipe.regrow != "none":
        raise RecipeError(f"masks say what is pruned, and regrow {recipe.regrow!r} would change it: choose one")


def check_unsearched(recipe: Recipe) -> None:
    """Refuse fractions that are found by trials where nothing can be tried (`RecipeError`)."""
    if recipe.searches:
        raise RecipeError(
            f"distribution {recipe.distribution!r} tries fractions on validation data, and here is none to measure on: "
            "give compress the network and its data (val_loader; --network and --data), or take distribution 'lamp' or "
            "'uniform'"
        )


def check_stages(recipe: Recipe, what: str) -> None:
    """Refuse a method that prunes and shares in its own way; `what` is in the way of it (`RecipeError`)."""
    if recipe.method != "stages":
        raise RecipeError(f"method {recipe.method!r} prunes and shares in its own way, and {what}: leave method out")


def check_data(recipe: Recipe, trained: bool, measured: bool, calibrated: bool = False) -> None:
    """Refuse what needs data for training, or to measure on, where there is none (`RecipeError`)."""
    if calibrated and recipe.quantizer != "rows":
        raise RecipeError(
            "samples to calibrate on are for weights that are rounded row by row (no retraining, quantizer 'rows'): "
            "leave out either them, or what is pruned, shared, masked or gone on from"
        )
    if recipe.retrain and not trained:
        raise RecipeError("retraining needs training data: pass train_loader, or set retrain=False")
    if recipe.max_drop is not None and not measured:
        raise RecipeError("max_drop needs validation data to measure on: pass val_loader")


def check_drop(drop: float | None, measured: bool) -> None:
    """Refuse points that an update may lose where there is no data to measure on (`RecipeError`)."""
    if drop is not None and not measured:
        raise RecipeError("update_drop needs validation data to measure on: pass val_loader")


def check_tensors_only(recipe: Recipe) -> None:
    """Refuse what needs a network, or data, where there are only tensors (`RecipeError`)."""
    if recipe.batch_norm == "fold":  # eps is the network's, and no tensor
        raise RecipeError("batch_norm 'fold' needs the network, not only its tensors: name it and its data")
    if recipe.low_rank is not None:
        raise RecipeError("low_rank needs the network, not only its tensors: name it")
    if recipe.max_drop is not None or (recipe.target_size is not None and recipe.quantizer != "rows"):
        raise RecipeError(
            "max_drop needs the network and data (or samples to calibrate on), and target_size the network, unless the "
            "quantizer is 'rows': name it"
        )
    if recipe.criterion != DEFAULTS["criterion"]:
        raise RecipeError(
            f"criterion {recipe.criterion!r} needs the network and data, and without retraining only tensors are "
            "looked at: set epochs and finetune_epochs to 0 instead (--epochs 0 --finetune-epochs 0)"
        )
    check_unsearched(recipe)
    if recipe.weighting != "none":
        raise RecipeError(f"weighting {recipe.weighting!r} needs training data, and here is none: name the data")
    check_stages(recipe, "nothing is trained where there are only tensors")
    for name in ("rewind", "regrow"):
        if getattr(recipe, name) != "none":
            raise RecipeError(f"{name} {getattr(recipe, name)!r} happens while training, and nothing is trained here")
    check_used(recipe.given or (), {**vars(recipe), "retrain": False, "layer": recipe.layers})


def check_graph(recipe: Recipe) -> None:
    """Refuse a budget in points where weights of an ONNX model are rounded, which nothing measures (`RecipeError`)."""
    if recipe.max_drop is not None:
        raise RecipeError(
            "max_drop is for networks of torch, and an ONNX model is rounded by step or to a target_size: leave "
            "max_drop out"
        )


def check_own_loop(recipe: Recipe) -> None:
    """Refuse what needs a training loop of deepcompress's own, or none at all (`RecipeError`)."""
    check_stages(recipe, "only compress() has a training loop for that")
    if recipe.quantizer == "rows":
        raise RecipeError(
            "quantizer 'rows' rounds a network as it was trained, and nothing is left to tune: use compress(), or set "
            "prune or bits"
        )
    if recipe.target_size is not None or recipe.max_drop is not None or recipe.schedule in WATCHING:
        raise RecipeError(
            "target_size, max_drop and the schedules circular and gap decide while they train, in a loop of their own: "
            "use compress() for them, or set prune"
        )
    check_unsearched(recipe)
    if recipe.low_rank is not None:
        raise RecipeError("low_rank replaces layers by others, which your optimizer would not know: use compress()")
    if recipe.keeps_count or recipe.reload or recipe.rewind != "none":
        raise RecipeError(
            "reload, rewind, and regrow other than surgery, need a training loop of their own: use compress()"
        )
