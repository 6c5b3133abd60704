"""What a recipe would do to each tensor of a network, before anything is done.

All decisions are those of the pipeline, taken by its own functions on a copy of the weights as they are: which tensors
are layers, how many weights each loses, who shares values with whom. Only the bytes are an estimate.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from deepcompress.compression.from_file import asks_for_more
from deepcompress.compression.lowrank import factorize
from deepcompress.compression.stages import ByFraction, BySize, Job, Route
from deepcompress.compression.writing import Delivery, contiguous_state, layers_of
from deepcompress.layers import (
    Layer,
    buffers_of,
    check_choice,
    check_finite,
    check_plain,
    compressible,
    in_numbers,
    scales_line,
    scales_of,
    tied_to,
)
from deepcompress.networks.copies import copied
from deepcompress.networks.parametrized import bake
from deepcompress.networks.precision import given_bytes
from deepcompress.prune.costs import mask_bits
from deepcompress.prune.masks import Masks, keep_mask, share_out
from deepcompress.prune.scores import profile
from deepcompress.quantize.choice import Demand, choose
from deepcompress.quantize.rate import Part
from deepcompress.quantize.rows import coarseness, entropy, nearest, storable, typical_sizes
from deepcompress.quantize.sharing import groups, survivors
from deepcompress.quantize.vectors import is_statistic, is_vector
from deepcompress.reading.arrays import check_tensor, dense_bytes, source_bytes
from deepcompress.recipe import Recipe
from deepcompress.training.retraining import Run

SAMPLES = 1 << 15  # weights of a codebook that are clustered for the estimate
_HEADER_BYTES = 40  # of a file, beside its tensors
_ENTRY_BYTES = 16  # of a tensor, beside its name
_VALUE_TABLE_BYTES = 16


@dataclass(frozen=True)
class TensorPlan:
    """One tensor.

    Attributes:
        name, shape, dtype, weights: of it; `weights` is a count.
        kind: what it is, by its module, or else by its shape.
        stored: ``indices`` (of shared values), ``integers`` (times a step),
            ``values`` (what pruning leaves, not shared), ``exact`` (left alone), or
            ``same`` (another tensor's memory, `tied_to`).
        pruned: the fraction that would be removed.
        levels, bits: most shared values, and the width of an index to them; None where none are shared.
        group: the layers whose codebook it shares, if there is more than one.
        bytes: of the file, estimated.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    weights: int
    kind: str
    stored: str
    pruned: float
    levels: int | None
    bits: int | None
    group: tuple[str, ...]
    tied_to: str | None
    bytes: int


@dataclass(frozen=True)
class Plan:
    """A whole network. `layers` counts the tensors that are pruned or shared, `weights` theirs, `pruned` their loss.

    `dense_bytes` counts four bytes for each float, `source_bytes` those of the types in which the tensors are; `ratio`
    and `source_ratio` are these over the bytes of the file. `notes` say where the estimate goes by something else than
    compressing will.
    """

    tensors: list[TensorPlan]
    layers: int
    weights: int
    pruned: float
    dense_bytes: int
    file_bytes: int
    ratio: float
    notes: list[str]
    source_bytes: int
    source_ratio: float

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def plan(
    source: nn.Module | Mapping[str, torch.Tensor], recipe: Recipe | None = None, *, going_on: bool = False
) -> Plan:
    """What `recipe` would do, without data, training or a file.

    Args:
        source: a network, or, where its code is not at hand, its tensors by name. Neither is changed.
        recipe: all settings.
        going_on: whether it comes from a .dc file, of which zeros stay zeros and nothing else goes unless asked for.

    Raises:
        RecipeError, CheckpointError, PruneError: as compressing would.
    """
    recipe = recipe or Recipe()
    if isinstance(source, nn.Module):
        return _of_network(source, recipe, going_on)
    check_plain(source)
    state = {name: value.detach() for name, value in source.items() if isinstance(value, torch.Tensor)}
    for name, value in state.items():
        check_tensor(name, value)
    layers = compressible(state, recipe)
    check_finite(state, layers)
    check_choice(recipe, compressible(state), layers)
    profiles = {layer.name: profile(state[layer.name]) for layer in layers}
    losses, _ = share_out(profiles, recipe)
    masks = Masks({name: keep_mask(state[name], lost) for name, lost in losses.items()})
    return _described(state, layers, masks, recipe, {}, (), _notes(recipe, state))


def _of_network(model: nn.Module, recipe: Recipe, going_on: bool) -> Plan:
    work = copied(model)
    notes = [f"{name} is computed from other tensors: stored is what it came to" for name in bake(work)]
    dense, source = dense_bytes(contiguous_state(work)), given_bytes(work)
    if recipe.low_rank is not None:
        notes += [str(layer) for layer in factorize(work, recipe.low_rank)]
    state = contiguous_state(work)
    layers = layers_of(work, state, recipe)
    weights = {layer.name: state[layer.name] for layer in layers}
    # Without data: one cut, and by magnitudes.
    bare = replace(
        recipe,
        method=Recipe.method,
        criterion=Recipe.criterion,
        max_drop=None,
        target_size=None if recipe.quantizer == "rows" else recipe.target_size,
        schedule=Recipe.schedule,
        reload=False,
        regrow="none",
        rewind="none",
        sort_neurons=False,
    )
    job = Job(Run(work, weights, None, bare), layers)
    delivery = Delivery(work, state, layers, bare)
    route: Route = ByFraction(job) if bare.target_size is None else BySize(job, delivery.fixed_bytes)
    if not going_on or asks_for_more(weights, bare):
        route.prune()
    found = _described(
        state, layers, route.masks, recipe, kinds_of(work), buffers_of(work), notes + _notes(recipe, state)
    )
    size = found.file_bytes
    return replace(found, dense_bytes=dense, ratio=dense / size, source_bytes=source, source_ratio=source / size)


def _notes(recipe: Recipe, state: Mapping[str, torch.Tensor]) -> list[str]:
    scales = scales_of(state)
    notes = [scales_line(scales)] if scales else []
    if recipe.criterion != Recipe.criterion:
        notes.append(
            f"how much each layer loses is estimated by magnitude: criterion {recipe.criterion} needs the data"
        )
    if recipe.max_drop is not None or recipe.schedule in ("circular", "gap"):
        notes.append("how much is pruned in the end, validation data decides")
    if recipe.target_size is not None and recipe.quantizer != "rows":
        notes.append("which weights fit into target_size is estimated: training moves them between layers")
    return notes


def _described(
    state: Mapping[str, torch.Tensor],
    layers: Sequence[Layer],
    masks: Masks,
    recipe: Recipe,
    kinds: Mapping[str, str],
    buffers: Collection[str],
    notes: list[str],
) -> Plan:
    masks = Masks({name: keep & (state[name] != 0) for name, keep in masks.keep.items()})
    tied, chosen = tied_to(state), {layer.name for layer in layers}
    rows = recipe.quantizer == "rows"
    coarser = coarseness({layer.name: layer.weights for layer in layers})
    shared = {} if rows else _shared(layers, recipe)
    value_bits = {names: _value_bits(state, masks, names, levels, recipe) for names, levels in set(shared.values())}
    tensors = []
    for name, value in state.items():
        names, levels = shared.get(name, ((), None))
        coded = "integers" if rows else "values" if levels is None else "indices"
        stored = "same" if name in tied else coded if name in chosen else "exact"
        size = len(name) + _ENTRY_BYTES
        if stored == "integers":
            size += round(value.numel() * _integer_bits(value, recipe.step * coarser[name]) / 8)
        elif name in chosen and name not in tied:
            per_value = value_bits[names] if levels is not None else 8.0 * value.element_size()
            size += round((mask_bits(masks.keep[name]) + masks.kept(name) * per_value) / 8)
            size += 0 if levels is None else _VALUE_TABLE_BYTES + levels * value.element_size() // len(names)
        elif name not in tied:
            size += _small_bytes(name, value, recipe, name in buffers)
        tensors.append(
            TensorPlan(
                name=name,
                shape=tuple(value.shape),
                dtype=str(value.dtype).removeprefix("torch."),
                weights=value.numel(),
                kind=kinds.get(name) or ("buffer" if name in buffers else _by_shape(value)),
                stored=stored,
                pruned=1 - masks.density(name) if name in chosen and name not in tied else 0.0,
                levels=levels,
                bits=None if levels is None else max((levels - 1).bit_length(), 1),
                group=names if len(names) > 1 else (),
                tied_to=tied.get(name),
                bytes=size,
            )
        )
    dense, total = dense_bytes(state), _HEADER_BYTES + sum(tensor.bytes for tensor in tensors)
    total = total if recipe.target_size is None else min(total, recipe.target_size)
    count = sum(layer.weights for layer in layers)
    source = source_bytes(state)
    ratios = dense / total, source / total
    return Plan(tensors, len(layers), count, masks.sparsity, dense, total, ratios[0], notes, source, ratios[1])


def _shared(layers: Sequence[Layer], recipe: Recipe) -> dict[str, tuple[tuple[str, ...], int]]:
    """For each layer that shares values, all that share them with it, and how many values."""
    return {name: (tuple(names), levels) for names, levels in groups(list(layers), recipe) for name in names}


def _integer_bits(value: torch.Tensor, step: float) -> float:
    """Entropy of the multiples of steps of `step` in bits a weight, from a sample of its rows."""
    weight = in_numbers(value.detach())
    steps = storable(weight, step * typical_sizes(weight))
    some = slice(None, None, max(value.numel() // SAMPLES, 1))
    integers = nearest(weight[some], steps[some]).integers
    return entropy(integers.numpy()) / integers.numel()


def _value_bits(
    state: Mapping[str, torch.Tensor], masks: Masks, names: Sequence[str], levels: int, recipe: Recipe
) -> float:
    """Entropy of the indices of a codebook in bits a weight, from a sample of the weights that are kept."""
    kept = [survivors(in_numbers(state[name].detach()) * masks.keep[name]) for name in names]
    parts = []
    for values in kept:
        part = values[:: max(len(values) * len(kept) // SAMPLES, 1)]
        parts.append(Part((len(part),), torch.arange(len(part)).numpy(), part))
    limit = min(torch.finfo(state[name].dtype).max for name in names)
    _, choices = choose(parts, Demand(recipe, levels, limit))
    counts = torch.bincount(torch.cat([torch.from_numpy(choice) for choice in choices])).double()
    share = counts[counts > 0] / counts.sum()
    return float(-(share * share.log2()).sum())


def _small_bytes(name: str, value: torch.Tensor, recipe: Recipe, buffer: bool) -> int:
    """About what a tensor that is no layer takes."""
    if recipe.batch_norm == "fold" and (is_statistic(name) or name.endswith("num_batches_tracked")):
        return 2
    if recipe.small_bits is not None and is_vector(value) and not buffer and not is_statistic(name):
        return value.numel() * recipe.small_bits // 8 + 4
    half = recipe.small_dtype == "float16" and value.dtype is torch.float32 and value.ndim < 2
    return value.numel() * (2 if half else value.element_size())


def kinds_of(model: nn.Module) -> dict[str, str]:
    """What each tensor of a network is, by the module that has it; of one of the user's own, it is a parameter."""
    found = {}
    for path, module in model.named_modules():
        kind = _kind(module)
        for what, tensors in (
            ("parameter", module.named_parameters(recurse=False)),
            ("buffer", module.named_buffers(recurse=False)),
        ):
            found.update({f"{path}.{name}".lstrip("."): kind or what for name, _ in tensors})
    return found


def _kind(module: nn.Module) -> str | None:
    if isinstance(module, _ConvNd):
        spread = "depthwise " if module.groups == module.in_channels > 1 else "grouped " if module.groups > 1 else ""
        return spread + ("transposed convolution" if isinstance(module, _ConvTransposeNd) else "convolution")
    for kind, classes in _KINDS.items():
        if isinstance(module, classes):
            return kind
    return None


_KINDS: dict[str, tuple[type[nn.Module], ...]] = {
    "linear": (nn.Linear, nn.Bilinear),
    "embedding": (nn.Embedding, nn.EmbeddingBag),
    "recurrent": (nn.RNNBase, nn.RNNCellBase),
    "attention": (nn.MultiheadAttention,),
    "batch norm": (_NormBase,),
    "normalization": (nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm),
}


def _by_shape(value: torch.Tensor) -> str:
    if not value.is_floating_point():
        return "complex numbers" if value.is_complex() else "integers"
    return ("scalar", "vector", "matrix")[value.ndim] if value.ndim < 3 else "convolution"
