"""Batch norm in the file: running statistics moved into scale and shift."""

from __future__ import annotations

from collections import Counter

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def fold_statistics(network: nn.Module) -> list[str]:
    """Rewrite each batch norm of `network`, in place, so that mean is 0 and variance 1; outputs in evaluation stay.

    ``y = (x - mean) / sqrt(var + eps) * weight + bias`` becomes ``y = x / sqrt(1 + eps) * weight' + bias'``. What is
    constant costs next to nothing in a file. Computed in float64, so that scale and shift are rounded only once.
    Batch norms without scale and shift, or without running statistics, stay as they are, and so do those that share one
    of these tensors with another module.

    Returns:
        The names of the counters that evaluation does not need (``num_batches_tracked``).
    """
    held = Counter(id(tensor) for module in network.modules() for tensor in _own(module))
    counters = []
    for name, module in network.named_modules():
        if not isinstance(module, _BatchNorm) or module.weight is None or module.bias is None:
            continue
        if module.running_mean is None or module.running_var is None:
            continue
        if any(held[id(tensor)] > 1 for tensor in _own(module)):
            continue
        if module.momentum is not None and module.num_batches_tracked is not None:
            counters.append(f"{name}.num_batches_tracked".lstrip("."))
        if not module.running_mean.any() and bool((module.running_var == 1).all()):  # folded already
            continue
        scale = module.weight.double() / torch.sqrt(module.running_var.double() + module.eps)
        module.bias.copy_(module.bias.double() - module.running_mean.double() * scale)
        module.weight.copy_(scale * (1 + module.eps) ** 0.5)
        module.running_mean.zero_()
        module.running_var.fill_(1)
    return counters


def _own(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]
