"""What training has changed, as plain data that can be written to a file, sent to another process, and put back.

An object takes part by naming those of its attributes that change in ``changing``, a tuple; those that its base classes
name are added. Such an attribute holds numbers, strings, booleans, None, tensors, a torch.Generator, another object
that takes part, a dataclass of all these (a new one is made of the old one's type), or dicts, lists and tuples of them.
Dataclasses, objects and generators must be there already when the snapshot is put back; other values may be None by
then, and dicts and lists empty.

A Parameter gets its values in place, because an optimizer knows it by identity; so do lists, and objects that take
part. Every other tensor is replaced by a new one: do not name what must stay the memory of the network.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

Plain = Any  # None, bool, int, float, str, tensors, and dicts, lists and tuples of these


def promises(thing: object) -> bool:
    """Whether every class of `thing` says for itself what changes: a base class cannot know."""
    return all("changing" in vars(kind) for kind in type(thing).__mro__ if kind is not object)


def names(thing: object) -> list[str]:
    """The attributes of `thing` that change, those of base classes first."""
    return [name for kind in reversed(type(thing).__mro__) for name in vars(kind).get("changing", ())]


def take(value: Any) -> Plain:
    """`value` as plain data. Tensors are not copied: write it, or send it, before training goes on."""
    if isinstance(value, torch.Tensor):
        return value.detach()
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, (list, tuple)):
        return [take(entry) for entry in value]
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (int, float)):  # numpy's float64 is a float, but not plain
        return int(value) if isinstance(value, int) else float(value)
    return {name: take(entry) for name, entry in _parts(value).items()}


def _parts(value: Any) -> Mapping[Any, Any]:
    if hasattr(type(value), "changing"):
        return {name: getattr(value, name) for name in names(value)}
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return value
    raise TypeError(f"a {type(value).__name__} cannot be part of a snapshot")


def put_back(current: Any, saved: Plain, device: torch.device) -> Any:
    """What `saved` was taken of: `current`, changed in place where the module's docstring says so, or a new value."""
    if isinstance(current, torch.Generator):
        current.set_state(saved)
        return current
    if isinstance(saved, torch.Tensor):
        return _tensor(current, saved, device)
    if isinstance(saved, list):
        return _sequence(current, saved, device)
    if isinstance(saved, dict):
        return _record(current, saved, device)
    return saved


@torch.no_grad()
def _tensor(current: Any, saved: torch.Tensor, device: torch.device) -> torch.Tensor:
    if isinstance(current, nn.Parameter):
        current.copy_(saved)
        return current
    return saved.to(current.device if isinstance(current, torch.Tensor) else device)


def _record(current: Any, saved: dict[Any, Plain], device: torch.device) -> Any:
    known = {} if current is None else _parts(current)
    values = {name: put_back(known.get(name), entry, device) for name, entry in saved.items()}
    if hasattr(type(current), "changing"):
        for name, value in values.items():
            setattr(current, name, value)
        return current
    if dataclasses.is_dataclass(current) and not isinstance(current, type):
        return dataclasses.replace(current, **values)
    return values


def _sequence(current: Any, saved: list[Plain], device: torch.device) -> Any:
    known = [*(current or ()), *[None] * len(saved)]
    values = [put_back(known[at], entry, device) for at, entry in enumerate(saved)]
    if isinstance(current, tuple):
        return tuple(values)
    if isinstance(current, list):
        current[:] = values
        return current
    return values


@dataclasses.dataclass(frozen=True)
class Training:
    """All that training changes: the network, the optimizer, the hooks, and where chance stands.

    `hooks` has `changing` and `restored` (`training.loop.Hooks`); `loaders` may have generators.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    hooks: Any
    loaders: tuple[object, ...]

    @property
    def device(self) -> torch.device:
        """Of the network."""
        return next(self.model.parameters()).device

    def take(self, optimizer: bool = True) -> Plain:
        """The state now; the optimizer's only while it is needed."""
        return {
            "model": tensors_of(self.model),
            "optimizer": self.optimizer.state_dict() if optimizer else None,
            "hooks": take(self.hooks),
            "chance": take_chance(self.device, *self.loaders),
        }

    def put_back(self, saved: Plain) -> None:
        """As it was when `saved` was taken."""
        put_back_learned(self.model, self.hooks, saved)
        if saved["optimizer"] is not None:
            self.optimizer.load_state_dict(saved["optimizer"])
        put_back_chance(saved["chance"], self.device, *self.loaders)


def put_back_learned(model: nn.Module, hooks: Any, saved: Plain) -> None:
    """The tensors of a network (``model``) and its ``hooks`` as they were, and the hooks are told."""
    fill_tensors(model, saved["model"])
    put_back(hooks, saved["hooks"], next(model.parameters()).device)
    hooks.restored()


# The network --------------------------------------------------------------------------------------------------


def tensors_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by name, also the buffers that the state_dict leaves out; tied ones once."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


@torch.no_grad()
def fill_tensors(model: nn.Module, saved: Mapping[str, torch.Tensor]) -> None:
    """The inverse of `tensors_of`, in place. A buffer that had another shape then is replaced."""
    for name, tensor in tensors_of(model).items():
        if tensor.shape == saved[name].shape:
            tensor.copy_(saved[name])
        else:
            tensor.data = saved[name].to(tensor.device, tensor.dtype)


# Chance -------------------------------------------------------------------------------------------------------


def take_chance(device: torch.device, *holders: object) -> Plain:
    """The states of all generators: of Python, numpy, torch, `device`, and those that `holders` (loaders) have."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "device": _device_chance(device),
        "own": [generator.get_state() for generator in generators(holders)],
    }


def _device_chance(device: torch.device) -> torch.Tensor | None:
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.mps.get_rng_state() if device.type == "mps" else None


def put_back_chance(saved: Plain, device: torch.device, *holders: object) -> None:
    """The inverse of `take_chance`."""
    random.setstate(saved["python"])
    kind, keys, *rest = saved["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(saved["torch"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(saved["device"], device)
    if device.type == "mps":
        torch.mps.set_rng_state(saved["device"])
    for generator, state in zip(generators(holders), saved["own"], strict=True):
        generator.set_state(state)


@contextmanager
def chance_kept(device: torch.device, *holders: object) -> Iterator[None]:
    """Set all generators back afterwards (see `take_chance`): what is drawn meanwhile has no effect on what comes."""
    saved = take_chance(device, *holders)
    try:
        yield
    finally:
        put_back_chance(saved, device, *holders)


def generators(holders: tuple[object, ...]) -> Iterator[torch.Generator]:
    """The torch.Generators of loaders, of their samplers and data sets; each once."""
    seen: set[int] = set()
    for holder in holders:
        sampler = getattr(holder, "sampler", None)
        batch_sampler = getattr(holder, "batch_sampler", None)
        parts = (holder, sampler, batch_sampler, getattr(batch_sampler, "sampler", None))
        for part in (*parts, getattr(holder, "dataset", None)):
            for value in vars(part).values() if hasattr(part, "__dict__") else ():
                if isinstance(value, torch.Generator) and id(value) not in seen:
                    seen.add(id(value))
                    yield value
