"""An ONNX model to a .dc file that holds its graph."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from deepcompress.calibration.checking import Rounded
from deepcompress.compression.result import Result
from deepcompress.compression.tensors_only import compress_state
from deepcompress.graphs.model import OnnxModel
from deepcompress.graphs.roles import weights_of
from deepcompress.graphs.turns import turns_of
from deepcompress.recipe import Recipe
from deepcompress.recipe.uses import check_graph
from deepcompress.training.progress import Progress

_SAID = 3  # names in a sentence
_WORTH_SAYING = 0.02  # of the model


def compress_model(
    model: OnnxModel,
    recipe: Recipe | None = None,
    path: str | Path = "model.dc",
    *,
    watch: Progress | None = None,
    rounder: Callable[[float], Rounded] | None = None,
) -> Result:
    """Compress the tensors of an ONNX model that are weights, and store all others exactly, with the graph.

    Args:
        model: the model (`open_model`).
        recipe: settings, as for `compress_state`.
        path: the file to write.
        watch: told what happens.
        rounder: rounds weights by samples, at a step.

    Raises:
        RecipeError, CheckpointError, OutputError: as `compress_state`.
    """
    if recipe is not None:
        check_graph(recipe)
    watch, weights = watch or Progress(), weights_of(model)
    line = _left_alone(model, weights)
    if line:
        watch.message(line)
    return compress_state(
        model.tensors,
        recipe,
        path,
        watch=watch,
        rounder=rounder,
        weights=weights,
        turns=turns_of(model, weights),
        graph=model.graph,
    )


def _left_alone(model: OnnxModel, weights: Collection[str]) -> str:
    """What to say of tensors that might be weights, but are used by operators of which nothing is known."""
    stored = {name: each for name, each in model.tensors.stored.items() if each.is_weights and name not in weights}
    largest = sorted(stored, key=lambda name: -stored[name].bytes)
    size, total = sum(each.bytes for each in stored.values()), sum(each.bytes for each in model.tensors.stored.values())
    if size <= _WORTH_SAYING * total:
        return ""
    more = ", …" if len(largest) > _SAID else ""
    return (
        f"stored exactly, because not only products, look-ups and sums use them: {', '.join(largest[:_SAID])}{more} "
        f"({100 * size / total:.0f} % of the bytes of all tensors)"
    )
