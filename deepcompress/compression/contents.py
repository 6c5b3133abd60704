"""What bare tensors are, before any of them is compressed: layers, their magnitudes, scales, and sizes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from deepcompress.layers import (
    Layer,
    Scales,
    check_choice,
    check_finite,
    check_plain,
    check_rules,
    is_kept,
    is_layer,
    tied_to,
)
from deepcompress.prune.scores import Profile, profile
from deepcompress.reading.arrays import check_tensor, dense_bytes
from deepcompress.recipe import Recipe
from deepcompress.training.progress import Progress


@dataclass
class Content:
    """What the first pass found: layers, their profiles and types, tied names, scales, and sizes."""

    tied: dict[str, str]
    layers: list[Layer] = field(default_factory=list)
    profiles: dict[str, Profile] = field(default_factory=dict)
    dtypes: dict[str, torch.dtype] = field(default_factory=dict)
    scales: set[str] = field(default_factory=set)
    dense_bytes: int = 0
    source_bytes: int = 0
    elements: int = 0


def look_through(
    state: Mapping[str, torch.Tensor], recipe: Recipe, buffers: Collection[str], watch: Progress
) -> Content:
    """The first pass over the tensors; `buffers` are left alone.

    Raises:
        RecipeError, CheckpointError: as `tensors_only.compress_state`.
    """
    # In a mapping that loads tensors anew each time no two are one: it says itself which are tied.
    if isinstance(state, dict):
        for name, value in state.items():
            check_tensor(name, value)
    content = Content(tied_to(state) if isinstance(state, dict) else dict(getattr(state, "tied", {})))
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
