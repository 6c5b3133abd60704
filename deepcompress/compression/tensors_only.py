"""Compression of bare tensors, one at a time: no network, no data, and no memory for more than the largest tensor.

The first pass over the tensors takes the profile of each layer's magnitudes, which is all that is needed to decide how
many weights each layer loses. The second prunes, shares, encodes and writes them one after the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepcompress.calibration.rounding import Rounded
from deepcompress.coding.tensors import EncodedTensor, TensorInfo
from deepcompress.compression.packing import Packer
from deepcompress.compression.result import Result, StageResult, kept_line
from deepcompress.compression.sizing import step_for
from deepcompress.container.breakdown import inspect
from deepcompress.container.extensions import SMALLER, pack_extra_state
from deepcompress.container.normalize import pack_normalize
from deepcompress.container.writer import pack, planned_size, save
from deepcompress.errors import CheckpointError
from deepcompress.files import check_writable
from deepcompress.layers import (
    Layer,
    Scales,
    check_choice,
    check_finite,
    check_plain,
    check_rules,
    is_kept,
    is_layer,
    is_narrow,
    scales_line,
    tied_to,
)
from deepcompress.prune.masks import prune_in_place, share_out
from deepcompress.prune.scores import Profile, profile
from deepcompress.quantize.choice import Demand, Table, choose, price_of, rounded, table_of
from deepcompress.quantize.rate import Part
from deepcompress.quantize.rows import coarseness, nearest, relative_error, storable, typical_sizes
from deepcompress.quantize.sharing import groups, place, snap, survivors
from deepcompress.quantize.vectors import is_statistic, is_vector, vector_table
from deepcompress.reading.arrays import Array, check_tensor, dense_bytes
from deepcompress.recipe import Recipe
from deepcompress.recipe.conflicts import check_tensors_only
from deepcompress.training.progress import Progress

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

    Raises:
        RecipeError: a setting does not fit the tensors.
        CheckpointError: there are no weights to compress, NaN among them, or a dtype that the format has not.
        OutputError: `path` cannot be written.
    """
    recipe, watch, path = recipe or Recipe(), watch or Progress(), Path(path)
    check_tensors_only(recipe)
    check_writable(path)
    state, beside = _apart(state)
    extensions = (
        *([SMALLER] if smaller else []),
        *pack_extra_state({**beside, **(extra or {})}),
        *pack_normalize(normalize),
    )
    started = time.perf_counter()
    content = _look_through(state, recipe, buffers, watch)
    if content.scales:
        watch.message(scales_line(content.scales))
    losses, floored = share_out(content.profiles, recipe)
    for name in floored:
        watch.message(f"{name} would have been emptied: it keeps its one most salient weight")
    kept = {name: 1 - losses[name] / layer.weights for name, layer in content.profiles.items()}
    total = sum(layer.weights for layer in content.profiles.values())
    lost = sum(losses.values()) / max(total, 1)
    if lost:
        watch.message(kept_line(kept, lost))
    if lost > RUINOUS:
        watch.message(f"warning: {100 * lost:.0f} % of the weights are pruned and nothing is retrained, {RUINED}")
    if not total:
        watch.message("no tensor is pruned or shared: all are stored exactly")
    pruned = time.perf_counter()
    if recipe.target_size is not None:
        names = network, data, extensions

        def size_of(found: Recipe) -> int:
            return len(pack(_Stream(state, content, losses, found, watch, rounder), *names))

        recipe = _to_size(recipe, watch, size_of)
    stream = _Stream(state, content, losses, recipe, watch, rounder)
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
    return Result.of(found, stages, recipe.as_dict(), kept, source_bytes=content.source_bytes, errors=stream.errors)


def _to_size(recipe: Recipe, watch: Progress, size_of: Callable[[Recipe], int]) -> Recipe:
    """`recipe` with the step that its target_size leaves room for."""
    assert recipe.target_size is not None
    step = step_for(recipe.target_size, lambda each: size_of(replace(recipe, step=each)), recipe.step, watch)
    return replace(recipe, step=step)


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


@dataclass
class _Content:
    """What the first pass found: layers, their profiles and types, tied names, scales, and sizes."""

    tied: dict[str, str]
    layers: list[Layer] = field(default_factory=list)
    profiles: dict[str, Profile] = field(default_factory=dict)
    dtypes: dict[str, torch.dtype] = field(default_factory=dict)
    scales: set[str] = field(default_factory=set)
    dense_bytes: int = 0
    source_bytes: int = 0
    elements: int = 0


def _look_through(
    state: Mapping[str, torch.Tensor], recipe: Recipe, buffers: Collection[str], watch: Progress
) -> _Content:
    # In a mapping that loads tensors anew each time no two are one: it says itself which are tied.
    if isinstance(state, dict):
        for name, value in state.items():
            check_tensor(name, value)
    content = _Content(tied_to(state) if isinstance(state, dict) else dict(getattr(state, "tied", {})))
    scales = Scales()
    possible: list[Layer] = []
    check_plain(state)
    for name in state:
        if name in content.tied:
            continue
        value = state[name].detach()
        watch.work("look", content.elements, 0, name)
        check_tensor(name, value)
        scales.look(name, value)
        content.elements += value.numel()
        content.dense_bytes += dense_bytes({name: value})
        content.source_bytes += value.numel() * value.element_size()
        if not is_layer(value):
            continue
        layer = Layer(name, tuple(value.shape))
        possible.append(layer)
        if not is_kept(name, recipe, name in buffers):
            content.layers.append(layer)
            content.dtypes[name] = value.dtype
            content.profiles[name] = profile(value)
    content.scales = {name for name in scales.found if is_kept(name, recipe, True)}
    content.layers = [layer for layer in content.layers if layer.name not in content.scales]
    content.profiles = {layer.name: content.profiles[layer.name] for layer in content.layers}
    for layer in content.layers:
        if not np.isfinite(content.profiles[layer.name].levels).all():
            check_finite(state, [layer])
    if scales.found or any(rule.keep for rule in recipe.layers):
        check_rules(recipe, possible)
    else:
        check_choice(recipe, possible, content.layers)
    return content


@dataclass(frozen=True)
class _Table:
    """Shared values, what the file has for each, and, if that is not the nearest, what each weight of a layer takes."""

    centroids: Array
    values: Array
    choices: dict[str, Array] | None = None


class _Stream:
    """The encoded tensors of a file, one at a time; while it runs it notes what earlier stages would have made."""

    def __init__(
        self,
        state: Mapping[str, torch.Tensor],
        content: _Content,
        losses: Mapping[str, int],
        recipe: Recipe,
        watch: Progress,
        rounder: Callable[[float], Rounded] | None = None,
    ) -> None:
        self._given = Rounded({}, {}) if rounder is None else rounder(recipe.step)
        self.state, self.content, self.losses, self.recipe, self.watch = state, content, losses, recipe, watch
        self.pruned: dict[str, TensorInfo] = {}
        self.shared: dict[str, TensorInfo] = {}
        self.kept: dict[str, float] = {}
        self.sharing_seconds = 0.0
        self._groups = {name: (members, most) for members, most in groups(content.layers, recipe) for name in members}
        self._tables: dict[tuple[str, ...], _Table] = {}
        coder = "rans" if recipe.quantizer == "rows" else recipe.coder  # as rows with steps of their own have it
        self._packer = Packer(recipe.small_dtype, coder, recipe.index_bits)
        self._coarser = coarseness({layer.name: layer.weights for layer in content.layers})
        self.errors: dict[str, float] = {}

    def __iter__(self) -> Iterator[tuple[str, EncodedTensor]]:
        done = 0
        for name in self.state:
            self.watch.work("encode", done, self.content.elements, name)
            if name in self.content.tied:
                first = self.content.tied[name]
                encoded = self._packer.tied(name, self.state[name], first)
                self.pruned[name] = self.shared[name] = encoded.info
            elif name in self.losses:
                encoded = self._layer(name)
            else:
                encoded = self._small(name, self.state[name].detach())
            done += encoded.info.size
            yield name, encoded

    def _layer(self, name: str) -> EncodedTensor:
        if self.recipe.quantizer == "rows":
            return self._rounded(name)
        weight, dtype = self._pruned(name), self.content.dtypes[name]
        self.pruned[name] = self._packer.plan_fixed(name, weight.to(dtype))
        if name not in self._groups:
            self.shared[name] = self.pruned[name]
            return self._packer.layer(name, weight.to(dtype))
        started = time.perf_counter()
        members, levels = self._groups[name]
        table = self._shared_values(tuple(members), levels, name, weight)
        if table.choices is None:
            snap(weight, table.centroids, table.values)
        else:
            place(weight, table.values, table.choices.pop(name))
            self.kept[name] = int(torch.count_nonzero(weight)) / weight.numel()
        book: Hashable = tuple(members) if len(members) > 1 else None
        values = torch.from_numpy(table.values)
        weight = weight.to(dtype)
        self.shared[name] = self._packer.plan_fixed(name, weight, values, book)
        self.sharing_seconds += time.perf_counter() - started
        return self._packer.layer(name, weight, values, book)

    def _rounded(self, name: str) -> EncodedTensor:
        """A layer as whole numbers times steps."""
        weight = self._pruned(name)
        steps = self.recipe.step * self._coarser[name] * typical_sizes(weight)
        dtype = self.content.dtypes[name]
        given = self._given.grids.get(name) if dtype is torch.float32 else None
        found = given or nearest(weight, storable(weight.to(dtype), steps))
        rounded = found.values().to(dtype)
        self.errors[name] = relative_error(self.state[name], rounded)
        self.kept[name] = int(torch.count_nonzero(found.integers)) / weight.numel()
        encoded = self._packer.grid(name, rounded, found)
        self.pruned[name] = self.shared[name] = encoded.info
        return encoded

    def _small(self, name: str, value: torch.Tensor) -> EncodedTensor:
        """A tensor that is no layer: as it is, or on a grid if it is a vector and the recipe says so."""
        value = self._given.corrected.get(name, value)
        bits, exact = self.recipe.small_bits, name in self.content.scales
        table = None
        if bits is not None and not exact and is_vector(value) and not is_statistic(name):
            table, _, choice = vector_table(value, bits)
        if table is None or not len(table.centroids):
            plain = self._packer.small(name, value, exact)
            self.pruned[name] = self.shared[name] = plain.info
            return plain
        vector, values = value.cpu().clone(), torch.from_numpy(table.centroids)
        place(vector, table.centroids, choice)
        self.pruned[name] = Packer(self.recipe.small_dtype).small(name, value).info
        self.shared[name] = self._packer.plan_fixed(name, vector, values)
        return self._packer.layer(name, vector, values)

    def _pruned(self, name: str) -> torch.Tensor:
        weight = self.state[name].detach()
        if is_narrow(weight.dtype):
            weight = weight.to("cpu", torch.float32).contiguous()
        elif isinstance(self.state, dict) or not weight.is_contiguous() or weight.device.type != "cpu":
            weight = weight.cpu().clone(memory_format=torch.contiguous_format)
        prune_in_place(weight, self.losses[name])
        return weight

    def _shared_values(self, members: tuple[str, ...], levels: int, name: str, weight: torch.Tensor) -> _Table:
        """Those of a layer, or of its group: then all its members are looked at when the first is met."""
        if members not in self._tables:
            tensors = (weight if member == name else self._pruned(member) for member in members)
            self._tables[members] = self._find(members, levels, tensors)
        return self._tables[members]

    def _find(self, members: Sequence[str], levels: int, tensors: Iterable[torch.Tensor]) -> _Table:
        recipe, limit = self.recipe, float("inf")
        parts = []
        for name, tensor in zip(members, tensors, strict=True):
            limit = min(limit, torch.finfo(self.content.dtypes[name]).max)
            where = np.flatnonzero(tensor.reshape(-1) != 0) if recipe.rate else np.zeros(0, dtype=np.int64)
            parts.append(Part(tuple(tensor.shape), where, survivors(tensor)))
        demand = Demand(recipe, levels, limit, price_of(recipe.rate, parts))
        if not recipe.rate:
            values = np.concatenate([part.values for part in parts])
            return self._table(table_of(values, None, demand))
        table, choices = choose(parts, demand)
        # A codebook has at most 2^12 values.
        kept = {member: choice.astype(np.int16) for member, choice in zip(members, choices, strict=True)}
        return self._table(table, kept)

    def _table(self, found: Table, choices: dict[str, Array] | None = None) -> _Table:
        plain = found.multiples is not None  # a step is rounded already
        values = found.centroids if plain else rounded(found.centroids, self.recipe.codebook_dtype)
        return _Table(found.centroids, values, choices)
