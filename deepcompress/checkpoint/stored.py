"""Tensors that are still in their file: what is known of each, and how it is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from deepcompress.errors import CheckpointError

Shape = tuple[int, ...]
_LONGEST = 1 << 48  # of a dimension


@dataclass(frozen=True)
class Stored:
    """One tensor of a file.

    Attributes:
        shape, dtype: of the tensor.
        read: gives it, each time anew: the caller may change it.
        place: where its memory is; tensors of one place are tied. None where that is not known.
        value: the tensor itself, if it is in memory already.
    """

    shape: Shape
    dtype: torch.dtype
    read: Callable[[], torch.Tensor]
    place: Hashable = None
    value: torch.Tensor | None = None

    def __post_init__(self) -> None:
        if not all(0 <= size < _LONGEST for size in self.shape):  # also beside a 0, which makes all of it nothing
            raise CheckpointError(f"a tensor has the impossible shape {self.shape}")

    @property
    def elements(self) -> int:
        """How many it has."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Size of its values in memory."""
        return self.elements * self.dtype.itemsize

    @property
    def is_weights(self) -> bool:
        """Whether it may be the weights of a layer, by its shape and type."""
        return self.dtype.is_floating_point and len(self.shape) >= 2


class LazyTensors(Mapping[str, torch.Tensor]):
    """Tensors by name, each read anew whenever it is asked for: the caller may change it.

    Attributes:
        stored: what is known of each without reading it.
        tied: names whose tensor is the memory of an earlier one, and the name of that one.
    """

    def __init__(self, stored: Mapping[str, Stored]) -> None:
        self.stored = dict(stored)
        first: dict[Hashable, str] = {}
        places = {name: tensor.place for name, tensor in self.stored.items() if tensor.place is not None}
        owners = {name: first.setdefault(place, name) for name, place in places.items()}
        self.tied = {name: owner for name, owner in owners.items() if owner != name}

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.stored[name].read()

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)

    def in_memory(self) -> dict[str, torch.Tensor]:
        """All tensors at once; tied ones are one."""
        state: dict[str, torch.Tensor] = {}
        for name in self:
            owner = self.tied.get(name)
            state[name] = self[name] if owner is None else state[owner]
        return state


def of_memory(name: str, value: torch.Tensor, path: Path) -> Stored:
    """A tensor that is in memory already.

    Raises:
        CheckpointError: it is sparse, quantized, nested, or has no values (it is on the meta device).
    """
    value = value.detach()
    if value.is_meta:
        raise CheckpointError(
            f"{path}: tensor {name} has no values (it is on the meta device): save the loaded network"
        )
    if value.is_nested or value.layout is not torch.strided or value.is_quantized:
        kind = "nested" if value.is_nested else "quantized" if value.is_quantized else "sparse"
        raise CheckpointError(
            f"{path}: tensor {name} is {kind}; only dense tensors are supported: save {_dense_way(kind)} in its place"
        )
    place = (value.data_ptr(), value.dtype, tuple(value.shape), value.stride()) if value.numel() else None
    return Stored(tuple(value.shape), value.dtype, value.clone, place, value)


def gathered(stored: Mapping[str, Stored]) -> Mapping[str, torch.Tensor]:
    """These tensors by name: a dictionary if all are in memory, else one after the other as they are asked for."""
    values = {name: tensor.value for name, tensor in stored.items() if tensor.value is not None}
    return values if len(values) == len(stored) else LazyTensors(stored)


def _dense_way(kind: str) -> str:
    return {"sparse": "its to_dense()", "quantized": "its int_repr() or dequantize()"}.get(kind, "its parts")
