"""Copies of a user's network, which are ours to trace, to prune and to train: the network itself is only looked at."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import torch
import torch.fx
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.overrides import TorchFunctionMode

from deepcompress.errors import NetworkError, first_line
from deepcompress.layers import live_tensors, tensors_of

Value = TypeVar("Value")

#: Wrappers that hold the network as ``module``, and give its tensors other names.
_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)
#: Attributes of a module that hold what is always copied.
_OWN = ("_parameters", "_buffers", "_modules")


def unwrapped(model: nn.Module) -> nn.Module:
    """The network itself, without what torch's compiler, data parallelism or averaging puts around it.

    Raises:
        NetworkError: it is no network.
    """
    if not isinstance(model, nn.Module):
        raise NetworkError(
            f"the network is a {type(model).__name__}; give a torch.nn.Module with its weights (bare tensors are "
            "compressed by deepcompress.compression.tensors_only.compress_state)"
        )
    while True:
        inner = model.module if isinstance(model, _WRAPPERS) else getattr(model, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def counterparts(model: nn.Module, shapes: Mapping[str, torch.Size]) -> dict[str, torch.Tensor]:
    """The tensors of these names and shapes in `model`, or in the one network that it wraps.

    Raises:
        NetworkError: it has not all of them.
    """
    inner: nn.Module | None = unwrapped(model)
    while inner is not None:
        tensors = live_tensors(inner, tensors_of(inner))
        wrong = [name for name, shape in shapes.items() if name not in tensors or tensors[name].shape != shape]
        if not wrong:
            return {name: tensors[name] for name in shapes}
        children = list(inner.children())
        inner = children[0] if len(children) == 1 else None
    raise NetworkError(f"the network {type(model).__name__} has no tensor {wrong[0]} of shape {shapes[wrong[0]]}")


def traced(network: nn.Module) -> torch.fx.Graph:
    """The graph of a network, by torch.fx. A copy is traced: what its forward keeps would be torch's placeholders.

    Raises:
        NetworkError: it cannot be traced, or copied.
    """
    twin = copied(network)
    try:
        return torch.fx.symbolic_trace(twin).graph
    except Exception as error:  # tracing runs the user's forward, which may fail in any way
        reason = first_line(error)
        raise NetworkError(
            f"torch.fx cannot trace the network {type(twin).__name__} ({type(error).__name__}: {reason})"
        ) from error


def copied(network: nn.Module) -> nn.Module:
    """A deep copy of a network, without wrappers around it; the network is left as it was.

    What the last forward left in it (activations, caches, hidden states) is copied without the graph that it came from.
    What no copy can be made of (locks, open files, generators) is shared with the copy. Embeddings of the copy have
    dense gradients: few optimizers take sparse ones.

    Raises:
        NetworkError: it cannot be copied.
    """
    network = unwrapped(network)
    try:
        twin = _copy(network, {})
    except Exception:  # the user's modules may hold anything
        try:
            twin = _copy(network, _uncopied(network))
        except Exception as error:
            reason = first_line(error)
            raise NetworkError(f"the network {type(network).__name__} cannot be copied: {reason}") from error
    learns = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
    for name, parameter in twin.named_parameters():
        if learns.get(name) and not parameter.requires_grad:  # copies of scripts forget it
            parameter.requires_grad_(True)
    for module in twin.modules():
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            module.sparse = False
    return twin


def _copy(value: Value, memo: dict[int, Any]) -> Value:
    with torch.inference_mode(False), torch.no_grad(), _Detached():
        return copy.deepcopy(value, memo)


class _Detached(TorchFunctionMode):
    """While it lasts, tensors with a graph are copied without it; torch refuses to copy them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.Tensor.__deepcopy__ or args[0].is_leaf:
            return func(*args, **(kwargs or {}))
        tensor, memo = args
        memo[id(tensor)] = copy.deepcopy(tensor.detach(), memo)
        return memo[id(tensor)]


def _uncopied(network: nn.Module) -> dict[int, Any]:
    """What no copy can be made of among the attributes of modules, as a memo for `copy.deepcopy` that shares it."""
    held = (*network.modules(), *network.parameters(), *network.buffers())
    known = {id(value): value for value in held}
    attributes = (value for module in network.modules() for key, value in vars(module).items() if key not in _OWN)
    return {id(part): part for value in attributes for part in _parts(value) if not _is_copied(part, known)}


def _parts(value: Any) -> Iterator[Any]:
    """The values in a dictionary, list or tuple, or the value itself."""
    if isinstance(value, (dict, list, tuple)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _parts(part)
    else:
        yield value


def _is_copied(value: Any, known: dict[int, Any]) -> bool:
    try:
        _copy(value, dict(known))
    except Exception:
        return False
    return True
