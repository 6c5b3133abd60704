"""Compression of bare tensors, one at a time: no network, no data, and no memory for more than the largest tensor.

The first pass over the tensors takes the profile of each layer's magnitudes, which is all that is needed to decide how
many weights each layer loses. The second prunes, shares, encodes and writes them one after the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from deepcompress.calibration.checking import Rounded
from deepcompress.compression.contents import Content, look_through
from deepcompress.compression.result import Result, StageResult, kept_line
from deepcompress.compression.sizing import step_for
from deepcompress.compression.stream import Stream
from deepcompress.container.breakdown import inspect
from deepcompress.container.extensions import SMALLER, pack_extra_state
from deepcompress.container.graph import pack_graph
from deepcompress.container.normalize import pack_normalize
from deepcompress.container.writer import pack, planned_size, save
from deepcompress.errors import CheckpointError
from deepcompress.files import check_writable
from deepcompress.layers import scales_line
from deepcompress.prune.masks import share_out
from deepcompress.quantize.rows import Turn
from deepcompress.reading.arrays import Array
from deepcompress.recipe import Recipe
from deepcompress.recipe.uses import check_tensors_only
from deepcompress.training.progress import Progress

_UNTUNED = 0.97  # of a target_size: the rest is for what tuning adds
RUINOUS = 0.5  # more than this part pruned without retraining, and most networks do not work any more
RUINED = (
    "which ruins most networks: give --data to retrain it, or compress it without --prune, which rounds its weights "
    "finely"
)


def compress_state(
    state: Mapping[str, torch.Tensor],
    recipe: Recipe | None = None,
    path: str | Path = "model.dc",
    *,
    network: str = "",
    data: str = "",
    normalize: str = "",
    buffers: Collection[str] = (),
    smaller: bool = False,
    extra: Mapping[str, Any] | None = None,
    watch: Progress | None = None,
    rounder: Callable[[float], Rounded] | None = None,
    tune: Callable[[Rounded], Rounded] | None = None,
    weights: Collection[str] | None = None,
    turns: Mapping[str, Turn] | None = None,
    steps: Mapping[str, Array] | None = None,
    graph: bytes = b"",
) -> Result:
    """Compress bare tensors, with neither network code nor data: no retraining, no tuning, nothing measured.

    Args:
        state: tensors by name: a state_dict, which is not changed (extra states of modules may be in it, if they are
            plain data), or a mapping that is no dict and gives a new tensor of its own each time it is asked
            (`checkpoint.open_checkpoint`), about twice for each.
        recipe: settings; those of training have no effect.
        path: the file to write; an old one is replaced at the very end, or not at all.
        network, data: names to store in the file.
        normalize: how inputs are normalized, to store in the file.
        buffers: names of the tensors that are known to be no parameters: they are left alone.
        smaller: whether units were taken out of the network (`prune.shrink`): then the file says that its tensors may
            be smaller than those of the network that takes them.
        extra: extra states of modules that are not in `state`.
        watch: told what happens.
        rounder: rounds weights by samples, at a step (`calibration.rounding`); without, and what it leaves, is rounded
            by the size of the weights.
        tune: changes what `rounder` gives, at the end. If the file is larger than its target_size then, it is left out.
        weights: names of the tensors that may be compressed, where that is known; without, shapes and types tell it.
        turns: of weights whose first dimension is not that of outputs, how they are turned (`quantize.rows.Turn`).
        steps: of the rows of layers in a file that the tensors are from (`from_file.steps_in`).
        graph: of the network, to store in the file (`container.graph`).

    Raises:
        RecipeError: a setting does not fit the tensors.
        CheckpointError: there are no weights to compress, NaN among them, or a dtype that the format has not.
        OutputError: `path` cannot be written.
    """
    recipe, watch, path = recipe or Recipe(), watch or Progress(), Path(path)
    check_tensors_only(recipe if rounder is None else replace(recipe, max_drop=None))  # which is the rounder's
    check_writable(path)
    state, beside = _apart(state)
    extensions = (
        *([SMALLER] if smaller else []),
        *pack_extra_state({**beside, **(extra or {})}),
        *pack_normalize(normalize),
        *pack_graph(graph),
    )
    started = time.perf_counter()
    content = look_through(state, recipe, buffers, watch, weights)
    losses, floored = share_out(content.profiles, recipe)
    kept = {name: 1 - losses[name] / layer.weights for name, layer in content.profiles.items()}
    _tell(content, losses, floored, kept, watch)
    pruned = time.perf_counter()

    def stream_of(step: float, rounding: Callable[[float], Rounded] | None = rounder) -> Stream:
        return Stream(state, content, losses, recipe, step, watch, rounding, turns, steps)

    def size_of(stream: Stream) -> int:
        return len(pack(stream, network, data, extensions))

    step = recipe.step
    if recipe.target_size is not None:
        room = recipe.target_size if tune is None else int(_UNTUNED * recipe.target_size)
        step = step_for(room, lambda each: size_of(stream_of(each)), step, watch)
    stream = stream_of(step)
    if tune is not None:
        tuned = tune(stream.given)
        stream = stream_of(step, lambda _: tuned)
        if recipe.target_size is not None and size_of(stream) > recipe.target_size:
            watch.message("warning: what was tuned needs more bytes than there may be, so it is left out")
            stream = stream_of(step)
    for line in stream.given.lines():
        watch.message(line)
    save(path, stream, network, data, extensions)
    sizes = [planned_size(infos.items(), network, data, extensions) for infos in (stream.pruned, stream.shared)]
    kept |= stream.kept
    found = inspect(path)
    now = time.perf_counter()
    dense = content.dense_bytes
    stages = [
        StageResult("dense", dense, 1.0, None, 0.0),
        StageResult("prune", sizes[0], dense / sizes[0], None, round(pruned - started, 3)),
        StageResult("quantize", sizes[1], dense / sizes[1], None, round(stream.sharing_seconds, 3)),
        StageResult("encode", found.file_bytes, found.ratio, None, round(now - pruned - stream.sharing_seconds, 3)),
    ]
    settings = {**recipe.as_dict(), "step": step}
    return Result.of(found, stages, settings, kept, source_bytes=content.source_bytes, errors=stream.errors)


def _tell(
    content: Content, losses: Mapping[str, int], floored: Sequence[str], kept: dict[str, float], watch: Progress
) -> None:
    """Say what is pruned, before it is."""
    if content.scales:
        watch.message(scales_line(content.scales))
    for name in floored:
        watch.message(f"{name} would have been emptied: it keeps its one most salient weight")
    total = sum(layer.weights for layer in content.profiles.values())
    lost = sum(losses.values()) / max(total, 1)
    if lost:
        watch.message(kept_line(kept, lost))
    if lost > RUINOUS:
        watch.message(f"warning: {100 * lost:.0f} % of the weights are pruned and nothing is retrained, {RUINED}")
    if not total:
        watch.message("no tensor is pruned or shared: all are stored exactly")


def _apart(state: Mapping[str, torch.Tensor]) -> tuple[Mapping[str, torch.Tensor], dict[str, Any]]:
    """The tensors of a state_dict, and what modules keep beside them (``get_extra_state``)."""
    if not isinstance(state, dict):  # each tensor would be loaded to look at it
        return state, {}
    others = {name: value for name, value in state.items() if not isinstance(value, torch.Tensor)}
    for name, value in others.items():
        if not name.endswith("_extra_state"):
            raise CheckpointError(
                f"entry {name} of the state_dict is a {type(value).__name__}; only tensors can be stored"
            )
    return {name: value for name, value in state.items() if name not in others}, others
