"""Batches of any network: inputs and targets that are tensors, or tuples, lists and dictionaries of them."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deepcompress.errors import DataError, DeepCompressError, NetworkError, first_line

#: Pairs (input, target), passed over again each epoch. Each of a pair is a tensor, or a structure of tensors that all
#: have the samples in their first dimension.
Batches = Iterable[tuple[Any, Any]]


def each_tensor(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """`value` with every tensor in its tuples, lists and dictionaries changed; anything else in it as it is."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):  # a named tuple
        return type(value)(*(each_tensor(part, change) for part in value))
    if type(value) in (tuple, list):
        return type(value)(each_tensor(part, change) for part in value)
    if type(value) is dict:
        return {key: each_tensor(part, change) for key, part in value.items()}
    return value


def to_device(value: Any, device: torch.device) -> Any:
    """An input or a target on `device`; a structure of another kind moves itself, if it has a method ``to``."""
    if not isinstance(value, torch.Tensor) and hasattr(value, "to"):
        return value.to(device)
    return each_tensor(value, lambda tensor: tensor.to(device))


def in_float32(output: Any) -> Any:
    """What a network gave, its floating-point tensors as float32, in which losses are computed."""
    return each_tensor(output, lambda tensor: tensor.float() if tensor.is_floating_point() else tensor)


def predict(model: nn.Module, x: Any) -> Any:
    """The output for an input: a tuple or list are positional arguments of the network, a mapping those with names.

    Raises:
        NetworkError: the user's forward raises anything, which is the error's cause.
    """
    positional, named = arguments(x)
    try:
        return model(*positional, **named)
    except DeepCompressError:
        raise
    except Exception as error:  # the user's forward may fail in any way
        shapes = [tuple(tensor.shape[1:]) for tensor in tensors_in(x)]
        shown = f"of shape {shapes[0]}" if len(shapes) == 1 else f"of shapes {', '.join(map(str, shapes))}"
        raise NetworkError(
            f"the network {type(model).__name__} cannot take samples {shown}: {first_line(error)}{place_of(error)}"
        ) from error


def place_of(error: Exception) -> str:
    """Where in the user's own code an error was raised, for the end of a line; empty if it was in none of it."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_library(frame.filename)]
    return f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""


def _is_library(filename: str) -> bool:
    folders = (Path(torch.__file__).parent, Path(__file__).parents[1])
    return filename.startswith("<") or any(Path(filename).is_relative_to(folder) for folder in folders)


def arguments(x: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """An input as positional arguments and arguments by name."""
    if isinstance(x, Mapping):
        return (), dict(x)
    return (tuple(x), {}) if isinstance(x, (tuple, list)) else ((x,), {})


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """All tensors of an input, an output or a target."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list, Mapping)):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from tensors_in(part)


def count_samples(value: Any) -> int:
    """Samples of an input or a target: the first dimension of its first tensor.

    Raises:
        DataError: it has no tensor, or one without dimensions.
    """
    found = list(tensors_in(value))
    if not found or not found[0].ndim:
        raise DataError(f"a batch holds a {type(value).__name__} without a tensor whose first dimension are samples")
    return len(found[0])


def rows(value: Any, start: int, stop: int) -> Any:
    """The samples from `start` up to `stop` of an input or a target."""
    if isinstance(value, Mapping):
        return {key: rows(part, start, stop) for key, part in value.items()}
    return each_tensor(value, lambda tensor: tensor[start:stop])
