"""Dense checkpoints in and out: whatever people save, through one door, and without running code of theirs.

A file goes through four steps: what kind it is (`containers`, a module for each kind), where in it the state_dict is
(`wrappers`), what wrappers put before the names (`prefixes`), and which weights are computed from others
(`reparametrized`). Tensors stay in the file until they are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from deepcompress.checkpoint import containers, saving, wrappers
from deepcompress.checkpoint.found import Found, about
from deepcompress.checkpoint.prefixes import OWN_NAMES, Unwrapped, unwrapped
from deepcompress.checkpoint.reparametrized import combined
from deepcompress.checkpoint.saving import ENDINGS, check_ending
from deepcompress.checkpoint.stored import LazyTensors, Stored, gathered

__all__ = [
    "ENDINGS",
    "Checkpoint",
    "Found",
    "LazyTensors",
    "Stored",
    "check_ending",
    "load_checkpoint",
    "open_checkpoint",
    "save_checkpoint",
]


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by fully qualified name, and what the file says of itself.

    `network` and `data` are names that the file may carry; `facts` is anything else that is plain text or a number.
    `extra` is what modules keep beside tensors (``get_extra_state``). `found` says where the tensors were; `stored` and
    `stored_extra` are `state` and `extra` under the names that they have there, nothing combined.
    """

    state: Mapping[str, torch.Tensor]
    network: str | None = None
    data: str | None = None
    facts: dict[str, str | int | float] = field(default_factory=dict)
    found: Found | None = None
    stored: Mapping[str, Stored] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    stored_extra: Mapping[str, Any] = field(default_factory=dict)

    def outlines(self) -> dict[str, torch.Tensor]:
        """The tensors without their values, which are not read where the file tells the shapes."""
        known = self.stored or {}
        shapes = {name: known[name].shape if name in known else self.state[name].shape for name in self.state}
        return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def load_checkpoint(path: str | Path, trust_pickle: bool = False, key: str | None = None) -> Checkpoint:
    """Read a checkpoint onto the CPU.

    Understood are the files and folders that docs/checkpoints.md lists, and in them a state_dict, alone or in any
    nested dictionary.

    Args:
        path: the file or folder.
        trust_pickle: allow a pickled module, which runs whatever code its author put into it.
        key: where the state_dict is in a nested dictionary, as ``ema.model``: needed where there are several.

    Raises:
        CheckpointError: the file is missing, holds code, or holds no tensors; or several state_dicts, and no `key`.
    """
    lazy = open_checkpoint(path, trust_pickle, mapped=False, key=key)
    return replace(lazy, state=lazy.state.in_memory()) if isinstance(lazy.state, LazyTensors) else lazy


def open_checkpoint(
    path: str | Path, trust_pickle: bool = False, mapped: bool = True, key: str | None = None
) -> Checkpoint:
    """As `load_checkpoint`, but tensors come from the disk when they are asked for.

    Most kinds of files give a new tensor each time; a .pt file is mapped into memory (if `mapped`), and must not
    change while its tensors are in use.
    """
    path = Path(path)
    content = containers.read(path, trust_pickle, mapped)
    part = wrappers.find(content.tree, key, path)
    facts: dict[str, Any] = content.facts or wrappers.facts_of(content.tree)
    own = facts.pop(OWN_NAMES, None) == "own"
    entries = {**part.tensors, **part.extra}
    names = Unwrapped({name: name for name in entries}) if own else unwrapped(entries)
    tensors, kinds = combined({name: part.tensors[full] for name, full in names.names.items() if full in part.tensors})
    extra = {name: part.extra[full] for name, full in names.names.items() if full in part.extra}
    network, data = (str(facts.pop(label)) if label in facts else None for label in ("network", "data"))
    left_out = (*part.others, *names.left_out)
    found = Found(content.container, content.bytes, part.key, names.removed, combined=kinds, left_out=left_out)
    found = replace(found, restored=content.restored, **about(tensors))
    return Checkpoint(gathered(tensors), network, data, facts, found, part.tensors, extra, part.extra)


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint as .pt or .safetensors, by the ending of `path`.

    Raises:
        CheckpointError: another ending.
        OutputError: the file cannot be written.
    """
    names = {key: value for key, value in (("network", checkpoint.network), ("data", checkpoint.data)) if value}
    saving.write(Path(path), checkpoint.state, {**names, **checkpoint.facts}, checkpoint.extra)
