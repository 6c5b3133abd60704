"""The tensors of a file as they are coded, one at a time; beside the largest of them no memory is taken."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from deepcompress.calibration.checking import Rounded
from deepcompress.coding.tensors import EncodedTensor, TensorInfo
from deepcompress.compression.contents import Content
from deepcompress.compression.packing import Packer
from deepcompress.layers import is_narrow
from deepcompress.prune.masks import prune_in_place
from deepcompress.quantize.choice import Demand, SharedValues, choose, price_of, rounded, shared_values
from deepcompress.quantize.rate import Part
from deepcompress.quantize.rows import Turn, by_size, coarseness, relative_error
from deepcompress.quantize.sharing import groups, place, snap, survivors
from deepcompress.quantize.vectors import is_statistic, is_vector, vector_values
from deepcompress.reading.arrays import Array
from deepcompress.recipe import Recipe
from deepcompress.training.progress import Progress


@dataclass(frozen=True)
class _Sharing:
    """Shared values, what the file has for each, and, if that is not the nearest, what each weight of a layer takes."""

    centroids: Array
    values: Array
    choices: dict[str, Array] | None = None


class Stream:
    """The encoded tensors of a file, one at a time; while it runs it notes what earlier stages would have made."""

    def __init__(
        self,
        state: Mapping[str, torch.Tensor],
        content: Content,
        losses: Mapping[str, int],
        recipe: Recipe,
        step: float,
        watch: Progress,
        rounder: Callable[[float], Rounded] | None = None,
        turns: Mapping[str, Turn] | None = None,
        steps: Mapping[str, Array] | None = None,
    ) -> None:
        self.given, self._step = Rounded({}, {}) if rounder is None else rounder(step), step
        self.state, self.content, self.losses, self.recipe, self.watch = state, content, losses, recipe, watch
        self.pruned: dict[str, TensorInfo] = {}
        self.shared: dict[str, TensorInfo] = {}
        self.kept: dict[str, float] = {}
        self.sharing_seconds = 0.0
        self._groups = {name: (members, most) for members, most in groups(content.layers, recipe) for name in members}
        self._tables: dict[tuple[str, ...], _Sharing] = {}
        coder = "rans" if recipe.quantizer == "rows" else recipe.coder  # as rows with steps of their own have it
        self._packer = Packer(recipe.small_dtype, coder, recipe.index_bits, steps)
        self._turns = turns or {}
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
        dtype = self.content.dtypes[name]
        found = self.given.grids.get(name)
        if found is None:
            found = by_size(weight.to(dtype), self._step * self._coarser[name], self._turns.get(name))
        rounded = found.values().to(dtype)
        self.errors[name] = relative_error(self.state[name], rounded)
        self.kept[name] = int(torch.count_nonzero(found.integers)) / weight.numel()
        encoded = self._packer.grid(name, rounded, found)
        self.pruned[name] = self.shared[name] = encoded.info
        return encoded

    def _small(self, name: str, value: torch.Tensor) -> EncodedTensor:
        """A tensor that is no layer: as it is, or on a grid if it is a vector and the recipe says so."""
        value = self.given.corrected.get(name, value)
        bits, exact = self.recipe.small_bits, name in self.content.scales
        table = None
        if bits is not None and not exact and is_vector(value) and not is_statistic(name):
            table, _, choice = vector_values(value, bits)
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

    def _shared_values(self, members: tuple[str, ...], levels: int, name: str, weight: torch.Tensor) -> _Sharing:
        """Those of a layer, or of its group: then all its members are looked at when the first is met."""
        if members not in self._tables:
            tensors = (weight if member == name else self._pruned(member) for member in members)
            self._tables[members] = self._find(members, levels, tensors)
        return self._tables[members]

    def _find(self, members: Sequence[str], levels: int, tensors: Iterable[torch.Tensor]) -> _Sharing:
        recipe, limit = self.recipe, float("inf")
        parts = []
        for name, tensor in zip(members, tensors, strict=True):
            limit = min(limit, torch.finfo(self.content.dtypes[name]).max)
            where = np.flatnonzero(tensor.reshape(-1) != 0) if recipe.rate else np.zeros(0, dtype=np.int64)
            parts.append(Part(tuple(tensor.shape), where, survivors(tensor)))
        demand = Demand(recipe, levels, limit, price_of(recipe.rate, parts))
        if not recipe.rate:
            values = np.concatenate([part.values for part in parts])
            return self._table(shared_values(values, None, demand))
        table, choices = choose(parts, demand)
        # A codebook has at most 2^12 values.
        kept = {member: choice.astype(np.int16) for member, choice in zip(members, choices, strict=True)}
        return self._table(table, kept)

    def _table(self, found: SharedValues, choices: dict[str, Array] | None = None) -> _Sharing:
        plain = found.multiples is not None  # a step is rounded already
        values = found.centroids if plain else rounded(found.centroids, self.recipe.codebook_dtype)
        return _Sharing(found.centroids, values, choices)
