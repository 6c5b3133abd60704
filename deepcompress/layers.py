"""The one place that decides which tensors are pruned and shared, and which are stored as they are.

The rule knows no names and no architectures: a floating-point tensor with two or more dimensions holds the
weights of a layer; vectors (biases, batch norm), scalars and integers do not. Nor do buffers, where the network says
which they are: a mask or a table of positions is nothing that was learned. Nor do the scales of weights that are
quantized already (`scales_of`). A recipe has the last word, by patterns: a rule ``keep`` leaves a tensor alone, and one
that prunes or shares a buffer or a scale makes it a layer.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from deepcompress.errors import CheckpointError, RecipeError
from deepcompress.recipe import Recipe, pattern_hint

#: Floating-point types whose elements may be weights: they have a zero, and one element is one number.
WIDE = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_NARROW = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)

#: Types in which others store quantized weights, several to an element or one. Not int64, the type of indices.
_QUANTIZED = (
    *(torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32, torch.uint32),
    *_NARROW,
    torch.float4_e2m1fn_x2,
)
_INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)


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
    first: dict[Hashable, str] = {}
    tied = {}
    for name, value in state.items():
        if value.numel() and first.setdefault(_memory(value), name) != name:
            tied[name] = first[_memory(value)]
    return tied


def _memory(value: torch.Tensor) -> Hashable:
    """Equal for two tensors that are one. One without memory (empty, or on the meta device) is its own."""
    if value.is_meta or not value.numel():
        return id(value)
    return value.device, value.data_ptr(), value.dtype, tuple(value.shape), value.stride()


def compressible(
    state: Mapping[str, torch.Tensor], recipe: Recipe | None = None, buffers: Collection[str] = ()
) -> list[Layer]:
    """The layers of a network, in the order of its state_dict; of tied tensors only the first.

    Args:
        state: all tensors.
        recipe: whose rules may leave some alone; without, all that could be layers are.
        buffers: names of those that are no parameters, where that is known.
    """
    tied = tied_to(state)
    exact = buffers if recipe is None else {*buffers, *scales_of(state)}
    return [
        Layer(name, tuple(value.shape))
        for name, value in state.items()
        if is_layer(value) and name not in tied and not is_kept(name, recipe, name in exact)
    ]


def is_layer(value: torch.Tensor) -> bool:
    """Whether a tensor that is not tied to an earlier one may be a layer, by its shape and type."""
    return value.dtype in (*WIDE, *_NARROW) and value.ndim >= 2 and value.numel() > 0


def is_narrow(dtype: torch.dtype) -> bool:
    """Whether torch stores this type but hardly computes with it: float8, which float32 holds exactly."""
    return dtype in _NARROW


def in_numbers(value: torch.Tensor) -> torch.Tensor:
    """A tensor in a type that torch computes with: float8 as float32, which holds it exactly."""
    return value.float() if is_narrow(value.dtype) else value


class Scales:
    """Finds what belongs to weights that are quantized already, one tensor after the other: `look` at each.

    Such weights are integers (or float8) of two dimensions or more, with more than two distinct values. In their
    module, or under their own name, a floating-point tensor with at most an element for two of their bytes is a scale
    or zero point. So is a vector or scalar beside integers of its own shape, its zero points. No name of any format is
    looked for.
    """

    def __init__(self) -> None:
        self._bytes: dict[str, int] = {}
        self._points: set[tuple[str, torch.Size]] = set()
        self._floats: dict[str, torch.Size] = {}

    def look(self, name: str, value: torch.Tensor) -> None:
        """Take a tensor into account."""
        module = name.rpartition(".")[0]
        if value.dtype in _QUANTIZED and value.ndim >= 2 and _many_values(value):
            for place in (module, name):
                self._bytes[place] = max(self._bytes.get(place, 0), value.numel() * value.element_size())
        if value.dtype in _INTEGERS and value.ndim < 2:
            self._points.add((module, value.shape))
        if value.is_floating_point():
            self._floats[name] = value.shape

    @property
    def found(self) -> set[str]:
        """Names of the scales and zero points among the tensors so far."""
        return {name for name, shape in self._floats.items() if self._is_scale(name.rpartition(".")[0], shape)}

    def _is_scale(self, module: str, shape: torch.Size) -> bool:
        return 2 * shape.numel() <= self._bytes.get(module, 0) or (len(shape) < 2 and (module, shape) in self._points)


def _many_values(value: torch.Tensor) -> bool:
    """Whether a tensor has more than two distinct values, so that it is no mask."""
    if value.dtype not in _INTEGERS:
        return True
    return value.numel() > 2 and int(value.max()) - int(value.min()) > 1


def scales_of(state: Mapping[str, torch.Tensor]) -> set[str]:
    """Names of the scales and zero points of weights that are quantized already (see `Scales`)."""
    scales = Scales()
    for name, value in state.items():
        scales.look(name, value)
    return scales.found


def scales_line(names: Collection[str]) -> str:
    """What to say of tensors that are left alone because they belong to quantized weights."""
    some = ", ".join(sorted(names)[:3]) + (", …" if len(names) > 3 else "")
    return (
        f"{len(names)} tensor{'s are scales or zero points' if len(names) > 1 else ' is a scale or a zero point'} of "
        f"weights that are quantized already ({some}): stored exactly, as the integers are"
    )


def is_kept(name: str, recipe: Recipe | None, buffer: bool = False) -> bool:
    """Whether a tensor that may be a layer is left alone: neither pruned nor shared, and stored exactly."""
    asked = None if recipe is None else recipe.keeps(name)
    return buffer if asked is None else asked


def live_tensors(model: nn.Module, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of `state`, a network's state_dict, by name: parameters as they are trained, others as there."""
    return {**state, **parameters_in(model, state)}


def parameters_in(model: nn.Module, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The parameters of a network by their names in `state`, its state_dict.

    They are known by their memory: a network may give its state_dict other names than its attributes have.
    """
    own = {_memory(parameter): parameter for parameter in model.parameters()}
    return {name: own[_memory(value)] for name, value in state.items() if _memory(value) in own}


def buffers_of(model: nn.Module) -> set[str]:
    """Names in the state_dict of `model` of the tensors that are no parameters, nor share the memory of one."""
    state = tensors_of(model, keep_vars=True)
    return state.keys() - parameters_in(model, state).keys()


def tensors_of(model: nn.Module, keep_vars: bool = False) -> dict[str, torch.Tensor]:
    """The state_dict of `model` without what is no tensor in it (extra states of modules)."""
    state = model.state_dict(keep_vars=keep_vars)
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


def check_finite(state: Mapping[str, torch.Tensor], layers: Iterable[Layer]) -> None:
    """Refuse NaN and infinite values of weights that are to be compressed; all else is stored as it is.

    Raises:
        CheckpointError: naming the first such tensor.
    """
    for layer in layers:
        value = in_numbers(state[layer.name].detach())
        parts = value.reshape(-1).split(1 << 20)  # type: ignore[no-untyped-call]
        bad = sum(int((~torch.isfinite(part)).sum()) for part in parts)
        if bad:
            raise CheckpointError(
                f"tensor {layer.name}: {bad} of {value.numel()} values are NaN or infinite; it cannot be compressed, "
                f"only kept as it is (--layer '{layer.name}:keep')"
            )


def check_whole(state: Mapping[str, torch.Tensor]) -> None:
    """Refuse tensors of which this process has only a part (FSDP, tensor parallelism: torch's DTensor).

    Raises:
        CheckpointError: naming the first such tensor.
    """
    for name, value in state.items():
        if hasattr(value, "full_tensor"):  # as DTensor has, without loading torch.distributed.tensor
            raise CheckpointError(
                f"tensor {name} is divided between processes (DTensor), and a threshold needs all of it: train with "
                "data parallelism (DDP), or gather the network into one process (torch's get_model_state_dict)"
            )


def check_rules(recipe: Recipe, layers: Iterable[Layer]) -> None:
    """Refuse a layer rule that is about none of the `layers` that there could be: most likely a misspelt name.

    Raises:
        RecipeError: naming the pattern and the layers there are.
    """
    names = [layer.name for layer in layers]
    known = {*names, *(name.rpartition(".")[0] for name in names)}
    for rule in recipe.layers:
        found = any(map(rule.matches, names)) if rule.name is None else rule.name in known
        if not found:
            raise RecipeError(
                f"layer pattern {rule.pattern!r} matches no layer; there are {', '.join(names)}{pattern_hint(names)}"
            )


def check_choice(recipe: Recipe, possible: Sequence[Layer], chosen: Sequence[Layer]) -> None:
    """Refuse a choice of layers that leaves nothing to do, or rules about none of them.

    Args:
        recipe: the rules.
        possible: all tensors that could be layers.
        chosen: those that are.

    Raises:
        CheckpointError: there is nothing to compress.
        RecipeError: as `check_rules`.
    """
    if not possible:
        raise CheckpointError("there is nothing to compress: no floating-point tensor has two or more dimensions")
    check_rules(recipe, possible)
    if not chosen:
        raise CheckpointError(
            f"there is nothing to compress: {possible[0].name} and all others like it are buffers, or kept by rules"
        )


def check_plain(names: Iterable[str]) -> None:
    """Refuse tensors that a weight is computed from, by the names that torch gives them, where no network is at hand.

    Raises:
        CheckpointError: naming the first.
    """
    name = part_of_computed(names)
    if name is not None:
        raise CheckpointError(
            f"tensor {name}: a weight is computed from it (torch.nn.utils.parametrize), and how only the network "
            "knows: name it (--network), or remove the parametrizations before saving (deepcompress.bake; of "
            "torch.ao.pruning, whose masks are not in the file, sparsifier.squash_mask())"
        )


def part_of_computed(names: Iterable[str]) -> str | None:
    """The first tensor that a weight is computed from, by the names that torch gives them; None if there is none."""
    return next((name for name in names if ".parametrizations." in f".{name}"), None)
