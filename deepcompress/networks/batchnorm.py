"""Batch norm: in the file, where running statistics move into scale and shift, and in training, where some stay.

After training, `averaging` estimates running statistics anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

#: Rounds a scale in place, told the variance of what each of its channels multiplies.
Rounding = Callable[[nn.Parameter, torch.Tensor], None]


@torch.no_grad()
def fold_statistics(network: nn.Module, rounding: Rounding | None = None) -> list[str]:
    """Rewrite each batch norm of `network`, in place, so that mean is 0 and variance 1; outputs in evaluation stay.

    ``y = (x - mean) / sqrt(var + eps) * weight + bias`` becomes ``y = x / sqrt(1 + eps) * weight' + bias'``. What is
    constant costs next to nothing in a file. Computed in float64, so that scale and shift are rounded only once.
    Batch norms without scale and shift, or without running statistics, stay as they are, and so do those that share one
    of these tensors with another module.

    With `rounding`, each new scale is rounded before the shift is computed, so that what a channel gives for its mean
    is what it gave before.

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
        unit = (1 + module.eps) ** 0.5
        module.weight.copy_(scale * unit)
        if rounding is not None:
            rounding(module.weight, module.running_var)
            scale = module.weight.double() / unit
        module.bias.copy_(module.bias.double() - module.running_mean.double() * scale)
        module.running_mean.zero_()
        module.running_var.fill_(1)
    return counters


def freeze_norms(network: nn.Module, every: bool = False) -> list[str]:
    """Mark the norms that are to keep their running statistics while `network` is trained, in place: by momentum 0.

    These are the ones that their owner froze: the momentum is 0 already, or the module evaluates while the network
    trains, or neither scale nor shift asks for a gradient while other parameters do. With `every` these are all.
    A norm that is marked still learns its scale and shift, if they ask for a gradient.

    Returns:
        The names of all that are marked.
    """
    trained = any(parameter.requires_grad for parameter in network.parameters())
    frozen = []
    for name, module in network.named_modules():
        if not isinstance(module, _NormBase) or module.running_mean is None:
            continue
        left = network.training and not module.training
        fixed = module.affine and trained and not any(each.requires_grad for each in module.parameters())
        if every or module.momentum == 0 or left or fixed:
            module.momentum = 0.0
            frozen.append(name)
    return frozen


def has_frozen_norms(network: nn.Module) -> bool:
    """Whether a norm of `network` is marked as frozen (`freeze_norms`)."""
    norms = [module for module in network.modules() if isinstance(module, _NormBase)]
    return any(norm.running_mean is not None and norm.momentum == 0 for norm in norms)


def let_train(network: nn.Module) -> None:
    """Put `network` into training; norms that are frozen (`freeze_norms`) still normalize by their statistics."""
    network.train()
    for module in network.modules():
        if isinstance(module, _NormBase) and module.running_mean is not None and module.momentum == 0:
            module.eval()


def running_norms(network: nn.Module) -> list[_NormBase]:
    """The norms of `network` whose running statistics follow the data: they have some, and are not frozen."""
    norms = [module for module in network.modules() if isinstance(module, _NormBase)]
    return [norm for norm in norms if norm.running_mean is not None and norm.momentum != 0]


@contextmanager
def averaging(network: nn.Module) -> Iterator[None]:
    """Within it, the running statistics of norms that are not frozen become the mean over all batches they meet.

    What they were before counts no more from the first batch on. Everything else of the network evaluates, so there is
    no dropout. Momenta and counters of batches are afterwards as they were.
    """
    norms, training, met = running_norms(network), network.training, Counter[nn.Module]()
    momenta = [norm.momentum for norm in norms]
    counted = [None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone() for norm in norms]

    def weigh(norm: _NormBase, _: object) -> None:
        met[norm] += 1
        norm.momentum = 1 / met[norm]

    network.eval()
    hooks = [norm.train().register_forward_pre_hook(weigh) for norm in norms]
    try:
        yield
    finally:
        for norm, hook, momentum, count in zip(norms, hooks, momenta, counted, strict=True):
            hook.remove()
            norm.momentum = momentum
            if count is not None and norm.num_batches_tracked is not None:
                norm.num_batches_tracked.copy_(count)
        network.train(training)


def _own(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]
