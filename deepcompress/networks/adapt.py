"""A network's modules made to fit tensors that structured pruning or low rank left smaller.

No code comes from the tensors: a module is replaced by one of its own kind with other sizes, or a layer by two thin
ones, and only where shapes say so. Nothing becomes larger than it was, and what the network takes and gives keeps its
size. A smaller module says that it is one (`is_smaller`), so that files of it can say so, too: another network whose
names happen to agree is not to be taken for a smaller one.
Whether the sizes of different layers fit each other is seen when the network runs.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
Tensors = Mapping[str, torch.Tensor]
_MARK = "_deepcompress_smaller"  # an attribute, which copies of a module keep


def replacements(network: nn.Module, state: Tensors, smaller: bool = False) -> dict[str, nn.Module]:
    """Modules, by name, that take the place of those of `network` so that the tensors of `state` fit.

    They have the shapes of `state` and values of no meaning; `network` is left as it is. Modules for which there is no
    such replacement are missing, as are those that fit. Two thin layers are told by their names; modules of other sizes
    take places only if somebody says that units were taken out (`smaller`).
    """
    layers = [name for name, module in network.named_modules() if isinstance(module, (nn.Linear, *CONVOLUTIONS))]
    found: dict[str, nn.Module] = {}
    made: dict[nn.Module, nn.Module | None] = {}  # one that several names share stays one
    for name, module in network.named_modules(remove_duplicate=False):
        if module not in made:
            made[module] = _replacement(name, module, state, smaller)
        replaced = made[module]
        if replaced is not None and name and _keeps_ends(name, module, replaced, layers):
            found[name] = replaced
    return found


def _replacement(name: str, module: nn.Module, state: Tensors, smaller: bool) -> nn.Module | None:
    """What takes the place of one module; None where nothing does."""
    own = _own(module)
    tensors = {key: state[_join(name, key)] for key in own if _join(name, key) in state}
    first, second = (state.get(_join(name, f"{number}.weight")) for number in (0, 1))
    if "weight" not in tensors and first is not None and second is not None and is_factorable(module):
        return _thin(module, first, second, smaller)
    if smaller and any(value.shape != own[key].shape for key, value in tensors.items()):
        return resized(module, {key: value.shape for key, value in tensors.items()})
    return None


def is_smaller(network: nn.Module) -> bool:
    """Whether one of its modules is smaller than it was in the network that somebody wrote."""
    return any(getattr(module, _MARK, False) for module in network.modules())


def replace(network: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    """Put `modules` in the places that their names say, in the mode (training or not) of what was there."""
    for name, module in modules.items():
        parent, _, child = name.rpartition(".")
        module.train(network.get_submodule(name).training)
        setattr(network.get_submodule(parent), child, module)


def resized(module: nn.Module, shapes: Mapping[str, torch.Size]) -> nn.Module | None:
    """A module like this one whose tensors have `shapes`; None where those are larger, or no such module has them."""
    own = _own(module)
    weight = shapes.get("weight", own["weight"].shape if "weight" in own else None)
    if any(len(shape) != own[key].ndim for key, shape in shapes.items() if key in own):
        return None
    if any(new > old for key, shape in shapes.items() for new, old in zip(shape, own[key].shape, strict=True)):
        return None
    if any(0 in shape for shape in shapes.values()):
        return None
    new = copy.copy(module)
    new._parameters, new._buffers = dict(module._parameters), dict(module._buffers)
    if not _set_sizes(new, weight if weight is not None else next(iter(shapes.values()))):
        return None
    vars(new)[_MARK] = True
    for key, value in own.items():
        size = shapes.get(key, value.shape)
        if size != _expected(new, value):
            return None
        fresh = torch.empty(size, dtype=value.dtype, device=value.device)
        if key in new._parameters:
            new._parameters[key] = nn.Parameter(fresh, requires_grad=value.requires_grad)
        else:
            new._buffers[key] = fresh
    return new


def _set_sizes(new: nn.Module, weight: torch.Size) -> bool:
    """Give a copy of a module the sizes that the shape of its weight says; False where there is no such module."""
    if isinstance(new, CONVOLUTIONS):
        return _set_channels(new, weight)
    if type(new) is nn.Linear:
        new.out_features, new.in_features = weight
    elif isinstance(new, _NormBase):
        new.num_features = weight[0]
    elif type(new) is nn.GroupNorm:
        new.num_channels = weight[0]
        return weight[0] % new.num_groups == 0
    elif type(new) is nn.LayerNorm:
        new.normalized_shape = tuple(weight)
    elif type(new) is nn.Embedding:
        new.embedding_dim = weight[1]  # its rows are inputs that the network takes
    else:
        return False
    return True


def _set_channels(new: _ConvNd, weight: torch.Size) -> bool:
    """The same of a convolution. A depthwise one has as many groups as inputs; others keep the number of theirs."""
    many = new.out_channels // new.groups
    depthwise = 1 < new.groups == new.in_channels
    groups = weight[0] // many if depthwise else new.groups
    if weight[2:] != new.weight.shape[2:] or weight[0] != groups * (many if depthwise else weight[0] // groups):
        return False
    new.out_channels, new.in_channels, new.groups = weight[0], weight[1] * groups, groups
    return True


def _expected(new: nn.Module, old: torch.Tensor) -> torch.Size:
    """The shape that a tensor of a module with these sizes has; `old` is what it was, as large in other dimensions."""
    if isinstance(new, nn.Linear):
        sizes: tuple[int, ...] = (new.out_features, new.in_features)
    elif isinstance(new, _ConvNd):
        sizes = (new.out_channels, new.in_channels // new.groups, *old.shape[2:])
    elif isinstance(new, nn.Embedding):
        sizes = (new.num_embeddings, new.embedding_dim)
    elif isinstance(new, nn.LayerNorm):
        sizes = new.normalized_shape
    else:
        assert isinstance(new, (_NormBase, nn.GroupNorm))
        sizes = (new.num_features if isinstance(new, _NormBase) else new.num_channels,)
    return torch.Size(sizes[: old.ndim])


def is_factorable(module: nn.Module) -> bool:
    """Whether a product of two thin layers can be in its place: a linear layer, or an ungrouped convolution.

    Subclasses are not: whoever made them may read their weight directly.
    """
    return type(module) is nn.Linear or (type(module) in CONVOLUTIONS and getattr(module, "groups", 0) == 1)


def thin(module: nn.Module, rank: int) -> nn.Sequential:
    """Two layers in the place of one (`is_factorable`), with `rank` units between them; values are of no meaning.

    A linear layer becomes two; a convolution one of the same kernel, stride and padding with `rank` filters, and one of
    1 × 1. The second has the bias.
    """
    weight = module.get_parameter("weight")
    more: dict[str, Any] = {"dtype": weight.dtype, "device": weight.device}
    bias = module.bias is not None
    if isinstance(module, nn.Linear):
        first: nn.Module = nn.Linear(module.in_features, rank, bias=False, **more)
        second: nn.Module = nn.Linear(rank, module.out_features, bias=bias, **more)
        return nn.Sequential(first, second).train(module.training)
    assert isinstance(module, CONVOLUTIONS)
    kind: Any = type(module)
    how = {key: getattr(module, key) for key in ("kernel_size", "stride", "padding", "dilation", "padding_mode")}
    first = kind(module.in_channels, rank, bias=False, **how, **more)
    second = kind(rank, module.out_channels, 1, bias=bias, **more)
    return nn.Sequential(first, second).train(module.training)


def _thin(module: nn.Module, first: torch.Tensor, second: torch.Tensor, smaller: bool) -> nn.Module | None:
    """The two layers whose weights have these shapes; None where they are not two thin ones of this layer."""
    weight = module.get_parameter("weight")
    rank = first.shape[0] if first.ndim else 0
    outputs, inputs = weight.shape[0], weight[0].numel()
    if not 0 < rank * (outputs + inputs) < outputs * inputs:
        return None
    pair = thin(module, rank)
    for number, value in enumerate((first, second)):
        if value.shape != pair[number].get_parameter("weight").shape:
            if not smaller:
                return None
            shapes = {"weight": value.shape}
            if number == 1 and pair[1].bias is not None:
                shapes["bias"] = value.shape[:1]
            replaced = resized(pair[number], shapes)
            if replaced is None:
                return None
            pair[number] = replaced
    return pair


def _keeps_ends(name: str, module: nn.Module, replaced: nn.Module, layers: list[str]) -> bool:
    """Whether the first layer still takes as much as it did, and the last gives as much: that is not to change."""
    if name not in layers:
        return True
    old = module.get_parameter("weight").shape
    pair = (replaced[0], replaced[1]) if isinstance(replaced, nn.Sequential) else (replaced, replaced)
    takes, gives = pair[0].get_parameter("weight").shape[1], pair[1].get_parameter("weight").shape[0]
    return (name != layers[0] or takes == old[1]) and (name != layers[-1] or gives == old[0])


def _own(module: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of a module itself that are in its state_dict, by their short names."""
    buffers = {key: value for key, value in module._buffers.items() if key not in module._non_persistent_buffers_set}
    own = {key: value for key, value in {**module._parameters, **buffers}.items() if value is not None}
    return {key: value for key, value in own.items() if not is_lazy(value)}


def _join(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key
