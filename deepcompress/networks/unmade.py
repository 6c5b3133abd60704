"""Networks whose tensors have no values yet: on the meta device, or in torch's lazy modules."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from deepcompress.errors import NetworkError


def check_made(network: nn.Module) -> None:
    """Refuse a network that has no values to compress.

    Raises:
        NetworkError: naming the first tensor without.
    """
    for name, value in _tensors(network):
        if is_lazy(value):
            raise NetworkError(
                f"tensor {name} of the network {type(network).__name__} has no shape yet (a lazy module): run the "
                "network once on an input first"
            )
        if value.is_meta:
            raise NetworkError(
                f"tensor {name} of the network {type(network).__name__} is on the meta device and has no values: load "
                "the network's weights first"
            )


def make(network: nn.Module, coming: Collection[str]) -> None:
    """Give tensors on the meta device memory on the CPU, in place, for values that are `coming` by these names.

    Tensors that modules share stay one. Lazy modules make their own when they are loaded.

    Raises:
        NetworkError: there are no values for one; then nothing is changed.
    """
    if not any(value.is_meta for _, value in _tensors(network)):
        return
    state = network.state_dict(keep_vars=True)
    given = {id(value) for name, value in state.items() if name in coming}
    for name, value in _tensors(network):
        if value.is_meta and id(value) not in given:
            raise NetworkError(
                f"tensor {name} of the network {type(network).__name__} is on the meta device, and the file has no "
                "values for it: build the network on the CPU"
            )
    made: dict[int, torch.Tensor] = {}
    for module in network.modules():
        for own in (module._parameters, module._buffers):
            for key, tensor in own.items():
                if tensor is not None and tensor.is_meta:
                    own[key] = made.setdefault(id(tensor), _on_cpu(tensor))  # type: ignore[assignment]


def unfold(network: nn.Module) -> None:
    """Give each element memory of its own where several are one (`expand`), so that values can be loaded."""
    for _, value in _tensors(network):
        if not is_lazy(value) and any(
            step == 0 < size - 1 for step, size in zip(value.stride(), value.shape, strict=True)
        ):
            value.data = value.data.contiguous()


def _on_cpu(tensor: torch.Tensor) -> torch.Tensor:
    if is_lazy(tensor):
        return type(tensor)(device="cpu", dtype=tensor.dtype)  # type: ignore[call-arg]
    fresh = torch.empty_like(tensor, device="cpu")
    return nn.Parameter(fresh, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fresh


def _tensors(network: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from network.named_parameters()
    yield from network.named_buffers()
