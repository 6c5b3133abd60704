"""Layers of torch that run from a `SparseMatrix`, and which layers of a network become such.

A layer is converted where it stands: its class changes, as `torch.nn.utils.parametrize` does it, so that whoever
holds the layer finds it converted, and hooks stay. The dense weight is let go.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from deepcompress.errors import NetworkError
from deepcompress.sparse.matrix import FEW, SparseMatrix

#: Fewer weights are multiplied in less time than it takes to call a kernel. A convolution has many positions.
MIN_WEIGHTS = {nn.Linear: 1 << 20, nn.Conv1d: 1 << 17, nn.Conv2d: 1 << 17, nn.Conv3d: 1 << 17}
_APART = 4 * FEW  # positions: with as many, the samples of a batch are multiplied one by one, as they lie in memory

#: Modules that call their children, and do nothing else with them.
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class Compressed(nn.Module):
    """What converted layers share: `matrix` in the place of the parameter `weight`. For inference on the CPU.

    `weight` still gives the dense tensor, made anew each time and not kept, and `state_dict` holds it; it cannot be
    loaded or trained. A deep copy shares the matrix. There is nothing to move: the matrix stays on the CPU.
    """

    matrix: SparseMatrix
    weight_shape: torch.Size

    @property
    def weight(self) -> torch.Tensor:
        """The dense weight, float32, decoded now."""
        return torch.from_numpy(self.matrix.dense()).reshape(self.weight_shape)

    def make_dense(self) -> None:
        """Become the dense layer again, in place."""
        weight = nn.Parameter(self.weight, requires_grad=False)
        self.__class__ = next(dense for dense, kind in _KINDS.items() if type(self) is kind)  # type: ignore[assignment]
        del self.matrix, self.weight_shape
        self._parameters = {"weight": weight, **self._parameters}  # in the order of the dense layer

    def extra_repr(self) -> str:
        """As of the dense layer, and how much of it there is."""
        return f"{super().extra_repr()}, weights={self.matrix.weights}"

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}weight"] = self.weight
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        name, errors = f"{prefix}weight", others[-1]
        if name in state_dict:
            errors.append(f'{name} runs compressed and cannot be overwritten: load the network with mode="dense"')
            state_dict = {key: value for key, value in state_dict.items() if key != name}
        super()._load_from_state_dict(state_dict, prefix, *others)

    def _check(self, x: torch.Tensor, features: int) -> None:
        kind = type(self).__name__
        if x.dtype is not torch.float32 or x.device.type != "cpu":
            raise NetworkError(
                f'{kind}: the input is {x.dtype} on {x.device}, but a network loaded with mode="sparse" takes float32 '
                'on the CPU; load it with mode="dense" for anything else'
            )
        if x.requires_grad and torch.is_grad_enabled():
            raise NetworkError(
                f'{kind}: the compressed form has no gradients; load the network with mode="dense" to train it, or '
                "call it within torch.no_grad()"
            )
        if features != self.matrix.shape[1]:
            raise NetworkError(f"{kind}: the input has {features} features, but the layer takes {self.matrix.shape[1]}")


class SparseLinear(Compressed, nn.Linear):  # type: ignore[override]
    """A linear layer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., in_features) to (..., out_features)."""
        self._check(x, x.shape[-1] if x.ndim else 0)
        rows = x.detach().reshape(-1, x.shape[-1])
        y = _times_rows(self.matrix, rows)
        if self.bias is not None:
            y += self.bias.detach()
        return y.reshape(*x.shape[:-1], self.out_features)


class Pointwise(Compressed):
    """A convolution whose kernel is one element: a linear layer at each position."""

    bias: nn.Parameter | None
    stride: tuple[int, ...]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (batch, in_channels, ...) to (batch, out_channels, ...); the batch may be missing."""
        batched = x if x.ndim == len(self.stride) + 2 else x[None]
        self._check(x, batched.shape[1] if batched.ndim == len(self.stride) + 2 else 0)
        steps: list[Any] = [slice(None, None, step) for step in self.stride]
        seen = batched.detach()[(..., *steps)]
        y = _at_each_position(self.matrix, seen.flatten(2)).reshape(len(seen), -1, *seen.shape[2:])
        if self.bias is not None:
            y += self.bias.detach().reshape(-1, *(1 for _ in steps))
        return y if batched is x else y[0]


class SparseConv1d(Pointwise, nn.Conv1d):  # type: ignore[override, misc]
    """A pointwise convolution over sequences."""


class SparseConv2d(Pointwise, nn.Conv2d):  # type: ignore[override, misc]
    """A pointwise convolution over images."""


class SparseConv3d(Pointwise, nn.Conv3d):  # type: ignore[override, misc]
    """A pointwise convolution over volumes."""


_KINDS: dict[type[nn.Module], type[Compressed]] = {
    nn.Linear: SparseLinear,
    nn.Conv1d: SparseConv1d,
    nn.Conv2d: SparseConv2d,
    nn.Conv3d: SparseConv3d,
}


def _times_rows(matrix: SparseMatrix, x: torch.Tensor) -> torch.Tensor:
    """(vectors, columns) to (vectors, rows)."""
    if len(x) >= FEW:
        return _times_columns(matrix, x.t()).t().contiguous()
    return torch.from_numpy(matrix.times_rows(x.contiguous().numpy(), torch.get_num_threads()))


def _times_columns(matrix: SparseMatrix, x: torch.Tensor) -> torch.Tensor:
    """(columns, vectors) to (rows, vectors)."""
    if x.shape[1] < FEW:
        return _times_rows(matrix, x.t()).t()
    return torch.from_numpy(matrix.times_columns(x.contiguous().numpy(), torch.get_num_threads()))


def _at_each_position(matrix: SparseMatrix, x: torch.Tensor) -> torch.Tensor:
    """(batch, columns, positions) to (batch, rows, positions)."""
    if x.shape[2] < _APART:
        merged = _times_columns(matrix, x.movedim(1, 0).flatten(1))
        return merged.reshape(-1, len(x), x.shape[2]).movedim(0, 1).contiguous()
    y = torch.empty(len(x), matrix.shape[0], x.shape[2])
    for sample, out in zip(x, y, strict=True):
        matrix.times_columns(sample.contiguous().numpy(), torch.get_num_threads(), out.numpy())
    return y


def convert(layer: nn.Module, matrix: SparseMatrix) -> None:
    """Let `layer` run from `matrix`; it is one that `convertible` gave."""
    shape = layer.weight.shape
    del layer.weight
    layer.__class__ = _KINDS[type(layer)]
    layer.matrix, layer.weight_shape = matrix, shape  # type: ignore[assignment]


def convertible(network: nn.Module) -> Iterator[tuple[list[str], list[nn.Module]]]:
    """The weights that can be held compressed: their names (several where they are tied), and the layers that own them.

    A float32 weight on the CPU, all of whose owners are linear layers or pointwise convolutions of torch's own very
    class: whatever is derived from these may do other things with its weight. So may torch's own larger modules, such
    as attention, which reach into their layers; these stay as they are.
    """
    reached = {
        id(layer)
        for parent in network.modules()
        if type(parent).__module__.startswith("torch.nn.modules") and not isinstance(parent, _CONTAINERS)
        for layer in parent.modules()
        if layer is not parent
    }
    owners: dict[int, list[tuple[str, str, nn.Module]]] = {}
    for prefix, module in network.named_modules(remove_duplicate=False):
        for name, value in module.named_parameters(recurse=False):
            owners.setdefault(id(value), []).append((f"{prefix}.{name}".lstrip("."), name, module))
    for found in owners.values():
        if all(name == "weight" and id(layer) not in reached and _fits(layer) for _, name, layer in found):
            layers = {id(layer): layer for *_, layer in found}
            yield [name for name, *_ in found], list(layers.values())


def _fits(layer: nn.Module) -> bool:
    weight = layer.weight if type(layer) in _KINDS else None
    if not isinstance(weight, nn.Parameter) or weight.dtype is not torch.float32 or weight.device.type != "cpu":
        return False
    if weight.numel() < MIN_WEIGHTS[type(layer)]:
        return False
    if isinstance(layer, nn.Linear):
        return True
    padding: str | Sequence[int] = layer.padding  # type: ignore[assignment]
    unpadded = isinstance(padding, str) or not any(padding)
    kernel: Sequence[int] = layer.kernel_size  # type: ignore[assignment]
    return bool(layer.groups == 1) and set(kernel) == {1} and unpadded
