"""The one place that decides which tensors are pruned and shared, and which are stored as they are.

The rule knows no names and no architectures: a floating-point tensor with two or more dimensions holds the
weights of a layer; vectors (biases, batch norm), scalars and integers do not. Nor do buffers, where the network says
which they are: a mask or a table of positions is nothing that was learned. A recipe has the last word, by patterns: a
rule ``keep`` leaves a tensor alone, and one that prunes or shares a buffer makes it a layer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from deepcompress.errors import CheckpointError, RecipeError
from deepcompress.recipe import Recipe, pattern_hint


@dataclass(frozen=True)
class Layer:
    """One tensor that is pruned and shared: its fully qualified name and shape."""

    name: str
    shape: tuple[int, ...]

    @property
    def weights(self) -> int:
        """Number of weights."""
        count = 1
        for dimension in self.shape:
            count *= dimension
        return count

    @property
    def is_conv(self) -> bool:
        """Three or more dimensions: the weights of a convolution."""
        return len(self.shape) >= 3


def tied_to(state: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Names whose tensor is the very memory of an earlier one (tied weights), and the name of that one."""
    first: dict[tuple[object, ...], str] = {}
    tied = {}
    for name, value in state.items():
        if value.numel() == 0:
            continue
        key = (value.device, value.data_ptr(), value.dtype, tuple(value.shape), value.stride())
        if first.setdefault(key, name) != name:
            tied[name] = first[key]
    return tied


def compressible(
    state: Mapping[str, torch.Tensor], recipe: Recipe | None = None, buffers: Collection[str] = ()
) -> list[Layer]:
    """The layers of a network, in the order of its state_dict; of tied tensors only the first.

    Args:
        state: all tensors.
        recipe: whose rules may leave some alone; without, all that could be layers are.
        buffers: names of those that are no parameters, where that is known.
    """
    tied = tied_to(state)
    return [
        Layer(name, tuple(value.shape))
        for name, value in state.items()
        if is_layer(value) and name not in tied and not is_kept(name, recipe, name in buffers)
    ]


def is_layer(value: torch.Tensor) -> bool:
    """Whether a tensor that is not tied to an earlier one may be a layer, by its shape and type."""
    return value.is_floating_point() and value.ndim >= 2 and value.numel() > 0


def is_kept(name: str, recipe: Recipe | None, buffer: bool = False) -> bool:
    """Whether a tensor that may be a layer is left alone: neither pruned nor shared, and stored exactly."""
    asked = None if recipe is None else recipe.keeps(name)
    return buffer if asked is None else asked


def live_tensors(model: nn.Module, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of a network by name: parameters as they are trained, anything else as in `state`, its state_dict."""
    return {**state, **dict(model.named_parameters(remove_duplicate=False))}


def buffers_of(model: nn.Module) -> set[str]:
    """Fully qualified names of the tensors of `model` that are no parameters."""
    return {name for name, _ in model.named_buffers(remove_duplicate=False)}


def check_finite(state: Mapping[str, torch.Tensor]) -> None:
    """Refuse NaN and infinite values.

    Raises:
        CheckpointError: naming the first such tensor.
    """
    for name, value in state.items():
        if not value.is_floating_point():
            continue
        parts = value.detach().reshape(-1).split(1 << 20)  # type: ignore[no-untyped-call]
        bad = sum(int((~torch.isfinite(part)).sum()) for part in parts)
        if bad:
            raise CheckpointError(
                f"tensor {name}: {bad} of {value.numel()} values are NaN or infinite; it cannot be compressed"
            )


def check_rules(recipe: Recipe, layers: Iterable[Layer]) -> None:
    """Refuse a layer rule that is about none of the `layers` that there could be: most likely a misspelt name.

    Raises:
        RecipeError: naming the pattern and the layers there are.
    """
    names = [layer.name for layer in layers]
    for rule in recipe.layers:
        if not any(rule.matches(name) for name in names):
            raise RecipeError(
                f"layer pattern {rule.pattern!r} matches no layer; there are {', '.join(names)}{pattern_hint(names)}"
            )


def check_choice(recipe: Recipe, possible: Sequence[Layer], chosen: Sequence[Layer]) -> None:
    """Refuse a choice of layers that leaves nothing to do, or rules about none of them.

    Args:
        recipe: the rules.
        possible: all tensors that could be layers.
        chosen: those that are.

    Raises:
        CheckpointError: there is nothing to compress.
        RecipeError: as `check_rules`.
    """
    if not possible:
        raise CheckpointError("there is nothing to compress: no floating-point tensor has two or more dimensions")
    check_rules(recipe, possible)
    if not chosen:
        raise CheckpointError(
            f"there is nothing to compress: {possible[0].name} and all others like it are buffers, or kept by rules"
        )


def check_plain(names: Iterable[str]) -> None:
    """Refuse tensors that a weight is computed from, by the names that torch gives them, where no network is at hand.

    Raises:
        CheckpointError: naming the first.
    """
    for name in names:
        if ".parametrizations." in f".{name}":
            raise CheckpointError(
                f"tensor {name}: a weight is computed from it (torch.nn.utils.parametrize), and how only the network "
                "knows: name it (--network), or remove the parametrizations before saving (deepcompress.bake)"
            )
