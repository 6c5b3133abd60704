"""The one place that decides which tensors are pruned and shared, and which are stored as they are.

The rule knows no names and no architectures: a floating-point tensor with two or more dimensions holds the
weights of a layer; vectors (biases, batch norm), scalars and integers do not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from deepcompress.errors import CheckpointError, RecipeError
from deepcompress.recipe import Recipe


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


def compressible(state: Mapping[str, torch.Tensor]) -> list[Layer]:
    """The layers of a network, in the order of its state_dict; of tied tensors only the first."""
    tied = tied_to(state)
    return [Layer(name, tuple(value.shape)) for name, value in state.items() if is_layer(value) and name not in tied]


def is_layer(value: torch.Tensor) -> bool:
    """The rule itself, for a tensor that is not tied to an earlier one."""
    return value.is_floating_point() and value.ndim >= 2 and value.numel() > 0


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
    """Refuse a layer rule that is about no layer: most likely a misspelt name.

    Raises:
        RecipeError: naming the pattern and the layers there are.
    """
    names = [layer.name for layer in layers]
    for rule in recipe.layers:
        if not any(rule.matches(name) for name in names):
            raise RecipeError(f"layer pattern {rule.pattern!r} matches no layer; there are {', '.join(names)}")
