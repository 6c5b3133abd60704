"""Weights that a network computes from other tensors: made plain, so that what is pruned and stored is what it uses.

A zero in a tensor that a weight is computed from need not be a zero of the weight, and a magnitude or a norm that is
stored beside it is no weight to prune. So the computed weight takes their place, with the value that it has in
evaluation: bit for bit the same outputs, and nothing left to compute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm, SpectralNormLoadStateDictPreHook
from torch.nn.utils.weight_norm import WeightNorm

from deepcompress.errors import NetworkError
from deepcompress.networks.copies import copied, unwrapped

_Mask = prune.BasePruningMethod


def bake(network: nn.Module) -> list[str]:
    """Replace each computed weight of `network`, in place, by a plain parameter of its value in evaluation.

    Known are all of ``torch.nn.utils.parametrize`` (weight_norm, spectral_norm, orthogonal, the user's own), the
    older hooks of ``torch.nn.utils.weight_norm`` and ``spectral_norm``, the masks of ``torch.nn.utils.prune``, and the
    layers of a network that was loaded with ``mode="sparse"``.
    The parameters are new: make an optimizer that trains them afterwards.

    Returns:
        The fully qualified names of the tensors that are plain now.
    """
    modes = [(module, module.training) for module in network.modules()]
    network.eval()  # in training, the power iteration of spectral_norm moves each time a weight is looked at
    try:
        with torch.enable_grad():  # by which torch tells what becomes a parameter
            found = list(_computed(network))
            for _, remove in found:
                remove()
    finally:
        for module, training in modes:
            module.training = training
    return [name for name, _ in found]


def plain(network: nn.Module) -> nn.Module:
    """The network without wrappers around it; where it computes weights from other tensors, a copy with plain ones.

    It is what `bake` makes of it, and is only to be looked at: `network` itself is not changed.
    """
    inner = unwrapped(network)
    if not computed(inner):
        return inner
    work = copied(inner)
    bake(work)
    return work


def check_trainable(network: nn.Module) -> None:
    """Refuse a network whose tensors cannot be changed in place, or would not be what it computes with.

    Raises:
        NetworkError: naming a tensor.
    """
    for name, value in network.named_parameters():
        if not is_lazy(value) and value.is_inference():
            raise NetworkError(
                f"tensor {name} was made under torch.inference_mode, and cannot be changed or trained: build the "
                "network outside of it, or call compress(), which works on a copy"
            )
    names = computed(network)
    if names:
        raise NetworkError(
            f"{names[0]} is computed from other tensors (a parametrization, weight norm, a mask of torch's pruning): "
            "call deepcompress.bake(model) first, and make the optimizer after that"
        )


def computed(network: nn.Module) -> list[str]:
    """The fully qualified names of the weights that `bake` would make plain."""
    return [name for name, _ in _computed(network)]


def _computed(network: nn.Module) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The name of each computed weight, and what makes it plain."""
    for path, module in network.named_modules():
        prefix = f"{path}." if path else ""
        if parametrize.is_parametrized(module):
            for name in module.parametrizations:
                yield prefix + name, partial(_remove_parametrizations, module, name)
        if hasattr(module, "make_dense"):  # it runs from the compressed form (`sparse.modules`)
            yield f"{prefix}weight", module.make_dense
        # A mask may be on a tensor that weight_norm computes from: it goes first.
        for hook in sorted(module._forward_pre_hooks.values(), key=lambda hook: not isinstance(hook, _Mask)):
            if isinstance(hook, WeightNorm):
                yield prefix + hook.name, partial(remove_weight_norm, module, hook.name)
            elif isinstance(hook, SpectralNorm):
                yield prefix + hook.name, partial(_remove_spectral_norm, module, hook.name)
            elif isinstance(hook, _Mask):
                yield prefix + hook._tensor_name, partial(prune.remove, module, hook._tensor_name)


def _remove_parametrizations(module: nn.Module, name: str) -> None:
    # torch makes the weight a property of a class of the module's own, which its copies share, and deletes it there.
    shared = type(module)
    own = {key: value for key, value in vars(shared).items() if key not in ("__dict__", "__weakref__")}
    module.__class__ = type(shared.__name__, shared.__bases__, own)
    parametrize.remove_parametrizations(module, name)


def _remove_spectral_norm(module: nn.Module, name: str) -> None:
    remove_spectral_norm(module, name)
    for key, hook in list(module._load_state_dict_pre_hooks.items()):  # which torch forgets
        inner = getattr(hook, "hook", hook)
        if isinstance(inner, SpectralNormLoadStateDictPreHook) and inner.fn.name == name:
            del module._load_state_dict_pre_hooks[key]
