"""How scripts wrap weights: the state_dict in whatever nested dictionary was saved, found by looking.

A dictionary that has weights among its own values is a state_dict, and dictionaries within it are parts of its names.
Optimizers keep tensors, too, and are none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from deepcompress.checkpoint.stored import Stored, of_memory
from deepcompress.errors import CheckpointError

#: Keys under which training scripts keep the tensors: beside one of these, single tensors at the top are no weights.
STATE_KEYS = ("state_dict", "model_state_dict", "model")
_DEEPEST = 16
_LONGEST = 1024  # of a list that may hold state_dicts
_MOST = 1 << 18  # tensors of one: a dictionary can be in many places

#: What only optimizers have: their settings, and the moments that they keep of a tensor.
_OPTIMIZERS = {"param_groups", "exp_avg", "exp_avg_sq", "momentum_buffer", "square_avg"}

#: What the last part of the name of an extra state is.
_EXTRA_STATE = "_extra_state"

Tree = Mapping[Any, Any]
Value = TypeVar("Value")


@dataclass(frozen=True)
class Part:
    """A state_dict in a file: the keys that lead to it, its tensors, the names of what else it holds, and extra states.

    An extra state is what a module keeps beside tensors (torch's ``get_extra_state``), if it is plain data.
    """

    path: tuple[str, ...]
    tensors: dict[str, Stored]
    others: list[str]
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The keys as they are given to --key."""
        return ".".join(self.path)

    def __str__(self) -> str:
        size = sum(tensor.bytes for tensor in self.tensors.values())
        return f"{self.key} ({len(self.tensors)} tensors, {size:,} bytes)"


def find(content: Any, key: str | None, path: Path) -> Part:
    """The one state_dict in whatever a file holds, or the one under `key`.

    Raises:
        CheckpointError: there is none, or there are several, which are listed; or nothing is under `key`.
    """
    if isinstance(content, (Stored, torch.Tensor)) or _tree(content) is None:
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a state_dict")
    parts = _different(list(_parts(content, (), path)))
    if key:
        return _under(content, key, parts, path)
    if len(parts) > 1:
        listed = ", ".join(map(str, parts))
        raise CheckpointError(
            f"{path}: holds several state_dicts: {listed}; say which with --key, as --key {parts[0].key}"
        )
    if not parts and not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a state_dict")
    if not parts:
        raise CheckpointError(f"{path}: holds no tensors{_shown(content)}")
    return parts[0]


def facts_of(content: Any) -> dict[str, Any]:
    """What stands beside the tensors as plain text or numbers."""
    if not isinstance(content, Mapping):
        return {}
    return {str(name): value for name, value in content.items() if isinstance(value, (str, int, float))}


def _tree(value: Any) -> Tree | None:
    """A value as a dictionary, if it may hold tensors."""
    if isinstance(value, nn.Module):
        return value.state_dict()
    if isinstance(value, (list, tuple)) and len(value) <= _LONGEST:
        return {str(index): entry for index, entry in enumerate(value)}
    return value if isinstance(value, Mapping) and not any(map(value.__contains__, _OPTIMIZERS)) else None


def _is_tensor(value: Any) -> bool:
    numbers = isinstance(value, np.ndarray) and value.dtype.kind in "?biufc"
    return numbers or isinstance(value, (torch.Tensor, Stored))


def _parts(content: Any, at: tuple[str, ...], path: Path) -> Iterator[Part]:
    """The state_dicts within `content`: those that have weights, or if there are none, those that have tensors."""
    weights = list(_walk(content, at, path, _is_weights, set()))
    yield from weights or _walk(content, at, path, _is_tensor, set())


def _is_weights(value: Any) -> bool:
    if isinstance(value, Stored):
        return value.is_weights
    if isinstance(value, torch.Tensor):
        return value.is_floating_point() and value.ndim >= 2
    return isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.ndim >= 2


def _walk(
    content: Any, at: tuple[str, ...], path: Path, counts: Callable[[Any], bool], seen: set[int]
) -> Iterator[Part]:
    tree = _tree(content)
    if tree is None or id(content) in seen or len(at) > _DEEPEST:
        return
    seen.add(id(content))
    wrapped = any(_tree(tree.get(key)) for key in STATE_KEYS)
    if not wrapped and any(counts(value) for name, value in tree.items() if isinstance(name, str)):
        yield _part(tree, at, path)
        return
    for name, value in tree.items():
        if isinstance(name, str) and not _is_tensor(value):
            yield from _walk(value, (*at, name), path, counts, seen)


def _part(tree: Tree, at: tuple[str, ...], path: Path) -> Part:
    tensors: dict[str, Stored] = {}
    others: list[str] = []
    extra: dict[str, Any] = {}
    for count, (name, value) in enumerate(_flat(tree, "", (id(tree),))):
        if count > _MOST:
            raise CheckpointError(f"{path}: has more than {_MOST:,} tensors")
        if isinstance(value, np.ndarray) and _is_tensor(value):
            value = torch.from_numpy(value.astype(value.dtype.newbyteorder("="), copy=False))
        if _is_extra(name, value):
            extra[name] = value
        elif not _is_tensor(value):
            others.append(name)
        elif name in tensors:
            raise CheckpointError(f"{path}: two tensors have the name {name}")
        else:
            tensors[name] = value if isinstance(value, Stored) else of_memory(name, value, path)
    return Part(at, tensors, others, extra)


def _flat(tree: Tree, prefix: str, above: tuple[int, ...]) -> Iterator[tuple[str, Any]]:
    """All values by name; a dictionary that holds itself is a value."""
    for name, value in tree.items():
        whole = _is_tensor(value) or id(value) in above or _is_extra(str(name), value)
        inner = None if whole else _tree(value)
        if inner is None or not isinstance(name, str) or len(above) > _DEEPEST:
            yield f"{prefix}{name}", value
        else:
            yield from _flat(inner, f"{prefix}{name}.", (*above, id(value)))


def _is_extra(name: str, value: Any) -> bool:
    return name.rpartition(".")[2] == _EXTRA_STATE and _is_plain(value, 0)


def _is_plain(value: Any, depth: int) -> bool:
    """Whether it is None, a number, text, or a list, tuple or dictionary of these."""
    if isinstance(value, Mapping):
        return all(isinstance(name, str) for name in value) and _is_plain(list(value.values()), depth + 1)
    if isinstance(value, (list, tuple)):
        return depth <= _DEEPEST and all(_is_plain(part, depth + 1) for part in value)
    return value is None or isinstance(value, (str, int, float))


def _different(parts: Sequence[Part]) -> list[Part]:
    """Without those that are another one's very tensors under another key."""
    kept: dict[Any, Part] = {}
    for part in parts:
        places = tuple((name, tensor.place) for name, tensor in part.tensors.items())
        kept.setdefault(places if all(place for _, place in places) else part.path, part)
    return list(kept.values())


def _under(content: Any, key: str, parts: Sequence[Part], path: Path) -> Part:
    """What --key names: an entry of the nested dictionary, or a common beginning of names in it."""
    for at, value in _entries(content, (), set()):
        if ".".join(at) == key:
            inner = list(_parts(value, at, path))
            if len(inner) == 1:
                return inner[0]
            if inner:
                raise CheckpointError(f"{path}: holds several state_dicts under {key}: {', '.join(map(str, inner))}")
    for part in parts:
        start = key.removeprefix(f"{part.key}.") if part.key else key
        tensors, extra = _within(part.tensors, start), _within(part.extra, start)
        if tensors:
            return Part((key,), tensors, [], extra)
    there = ", ".join(map(str, parts)) or "no tensors at all"
    raise CheckpointError(f"{path}: holds no tensors under the key {key!r}; there is {there}")


def _within(entries: Mapping[str, Value], start: str) -> dict[str, Value]:
    """The entries whose names begin so, by the rest of their names."""
    begin = f"{start}."
    return {name.removeprefix(begin): value for name, value in entries.items() if name.startswith(begin)}


def _entries(content: Any, at: tuple[str, ...], seen: set[int]) -> Iterator[tuple[tuple[str, ...], Any]]:
    tree = None if _is_tensor(content) or id(content) in seen or len(at) > _DEEPEST else _tree(content)
    seen.add(id(content))
    for name, value in (tree or {}).items():
        if isinstance(name, str):
            yield (*at, name), value
            yield from _entries(value, (*at, name), seen)


def _shown(content: Any) -> str:
    names = [repr(name) for name in (_tree(content) or {})][:6]
    return f"; it has the entries {', '.join(names)}" if names else ""
