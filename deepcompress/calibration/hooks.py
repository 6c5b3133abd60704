"""Watching layers while samples run: inputs forwards, gradients backwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from deepcompress.calibration import recurrent
from deepcompress.calibration.attention import attend
from deepcompress.calibration.statistics import Statistics


@contextmanager
def watched(network: nn.Module, statistics: Statistics) -> Iterator[None]:
    """While this lasts, what forward and backward passes of `network` show is added to `statistics`."""
    handles, patched = [], []
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Embedding) or _is_plain_convolution(module):
            handles.append(module.register_forward_hook(_hook(statistics)))
        forward = _forward(module, statistics)
        if forward is not None:
            object.__setattr__(module, "forward", forward)
            patched.append(module)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module in patched:
            del module.__dict__["forward"]


def _is_plain_convolution(module: nn.Module) -> bool:
    return isinstance(module, _ConvNd) and not isinstance(module, _ConvTransposeNd)


def _forward(module: nn.Module, statistics: Statistics) -> Callable[..., Any] | None:
    """In place of the forward of a module whose products are out of sight: the same, with these in sight."""
    if isinstance(module, nn.RNNBase) and recurrent.is_known(module):
        return lambda x, hx=None: recurrent.run(module, x, hx, _product(statistics))
    if isinstance(module, nn.MultiheadAttention) and module._qkv_same_embed_dim and module.bias_k is None:
        return lambda *args, **named: attend(module, _product(statistics), *args, **named)
    return None


def _product(statistics: Statistics) -> Callable[..., torch.Tensor]:
    """As `F.linear`, watched; the weight is that of `parameter`, or a part of it from row `start` on."""

    def product(
        x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, parameter: torch.Tensor, start: int = 0
    ) -> torch.Tensor:
        out = F.linear(x, weight, bias)

        def add(gradient: torch.Tensor) -> None:
            found = statistics.moments(parameter)
            if found is not None:
                rows = gradient.reshape(-1, gradient.shape[-1])
                if rows.shape[1] < len(parameter):
                    rows = F.pad(rows, (start, len(parameter) - start - rows.shape[1]))
                found.add(x.detach().reshape(-1, 1, x.shape[-1]), rows)

        if out.requires_grad:
            out.register_hook(add)  # type: ignore[no-untyped-call]
        return out

    return product


def _hook(statistics: Statistics) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], out: torch.Tensor) -> None:
        if not (args and isinstance(args[0], torch.Tensor) and out.requires_grad):
            return
        x = args[0].detach()
        out.register_hook(  # type: ignore[no-untyped-call]
            lambda gradient: _add(module, x, gradient.detach(), statistics)
        )

    return hook


def _add(module: nn.Module, x: torch.Tensor, gradient: torch.Tensor, statistics: Statistics) -> None:
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    if isinstance(module, nn.Embedding):
        table = statistics.lookups(weight)
        if table is not None:
            table.add(x.reshape(-1), gradient.reshape(-1, gradient.shape[-1]))
        return
    groups = module.groups if isinstance(module, _ConvNd) else 1
    moments = statistics.moments(weight, groups)
    if moments is None:
        return
    if isinstance(module, _ConvNd):
        spatial = module.weight.ndim - 2
        if x.ndim == spatial + 1:  # a sample without a batch
            x, gradient = x[None], gradient[None]
        moments.add(patches(module, x), gradient.movedim(1, -1).reshape(-1, gradient.shape[1]))
    else:
        moments.add(x.reshape(-1, 1, x.shape[-1]), gradient.reshape(-1, gradient.shape[-1]))


def patches(module: _ConvNd, x: torch.Tensor) -> torch.Tensor:
    """What a convolution's weights meet (positions, groups, inputs of a row), from its input (samples, channels, …)."""
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    x = F.pad(x, module._reversed_padding_repeated_twice, mode)
    for place, (size, stride, dilation) in enumerate(
        zip(module.kernel_size, module.stride, module.dilation, strict=True)
    ):
        x = x.unfold(2 + place, (size - 1) * dilation + 1, stride)[..., ::dilation]
    spatial = len(module.kernel_size)
    x = x.movedim(1, 1 + spatial)  # samples, positions, channels, kernel
    return x.reshape(-1, module.groups, x[0, *[0] * spatial].numel() // module.groups)
