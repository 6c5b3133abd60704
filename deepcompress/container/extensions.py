"""The optional extensions of a header that this release writes and reads (docs/format.md, the last section)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from deepcompress.container.entries import Extension, Header, checked_name
from deepcompress.container.graph import graph_in, pack_graph
from deepcompress.container.normalize import normalize_in, pack_normalize
from deepcompress.errors import CheckpointError, FormatError

#: The tensors are smaller than those of the network that takes them, because units were taken out of it.
SMALLER = Extension("smaller", b"")
#: What modules store beside tensors (torch's ``get_extra_state``), as JSON.
EXTRA_STATE = "extra_state"
MAX_EXTRA = 1 << 20  # bytes

#: The key under which a tuple is written, because JSON has only lists.
_TUPLE = "()"


def says_smaller(header: Header) -> bool:
    """Whether the file says that its tensors may be smaller than those of the network that takes them."""
    return any(extension.name == SMALLER.name for extension in header.extensions)


def known(header: Header) -> tuple[Extension, ...]:
    """Those of a file's extensions that this release knows, checked.

    Raises:
        FormatError: one of them is damaged.
    """
    return (
        *([SMALLER] if says_smaller(header) else []),
        *pack_extra_state(extra_state(header)),
        *pack_normalize(normalize_in(header.extensions)),
        *pack_graph(graph_in(header.extensions)),
    )


def pack_extra_state(states: Mapping[str, Any]) -> tuple[Extension, ...]:
    """The extra states of modules as an extension; none where there are none.

    Args:
        states: by their names in the state_dict: None, booleans, numbers, text, and lists, tuples and dictionaries
            of these.

    Raises:
        CheckpointError: one is something else, or they take more than `MAX_EXTRA` bytes.
    """
    for name, value in states.items():
        if not _survives(value):
            raise CheckpointError(
                f"entry {name} of the state_dict (a {type(value).__name__}) is no tensor and no plain data (None, "
                "booleans, finite numbers, text, lists, tuples and dictionaries of these), so it cannot be stored"
            )
    text = _written(dict(states)).encode()
    if len(text) > MAX_EXTRA:
        raise CheckpointError(
            f"the extra states of modules take {len(text):,} bytes as JSON; at most {MAX_EXTRA:,} can be stored"
        )
    return (Extension(EXTRA_STATE, text),) if states else ()


def extra_state(header: Header) -> dict[str, Any]:
    """What `pack_extra_state` has packed, by name; empty where there is none.

    Raises:
        FormatError: it is no such thing, or has the name of a tensor.
    """
    found = [extension.data for extension in header.extensions if extension.name == EXTRA_STATE]
    if not found:
        return {}
    if len(found) > 1 or len(found[0]) > MAX_EXTRA:
        raise FormatError(f"header: extension {EXTRA_STATE!r} is there twice, or larger than {MAX_EXTRA:,} bytes")
    try:
        states = _read(found[0].decode())
        fits = isinstance(states, dict) and _written(states).encode() == found[0]
    except (ValueError, RecursionError):
        fits = False
    if not fits:
        raise FormatError(f"header: extension {EXTRA_STATE!r} is not the JSON that it should be")
    names = {entry.name for entry in header.entries}
    for name in states:
        checked_name(name.encode(), names)
    return dict(states)


def _survives(value: Any) -> bool:
    try:
        again = _read(_written(value).encode().decode())
    except (TypeError, ValueError, RecursionError):
        return False
    return _same(again, value)


def _same(one: Any, other: Any) -> bool:
    """Equal, with tuples, lists, booleans and numbers told apart."""
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        same_kind = isinstance(one, tuple) is isinstance(other, tuple) and len(one) == len(other)
        return same_kind and all(map(_same, one, other))
    return type(one) is type(other) and bool(one == other)


def _written(value: Any) -> str:
    return json.dumps(_without_tuples(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _without_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_tuples(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        parts = [_without_tuples(part) for part in value]
        return {_TUPLE: parts} if isinstance(value, tuple) else parts
    return value


def _read(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_object, parse_constant=_refused)


def _object(pairs: Iterable[tuple[str, Any]]) -> Any:
    found = dict(pairs)
    return tuple(found[_TUPLE]) if list(found) == [_TUPLE] else found


def _refused(constant: str) -> None:
    raise ValueError(constant)
