"""Checkpoints out: .pt and .safetensors."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from deepcompress.checkpoint.prefixes import OWN_NAMES, unwrapped
from deepcompress.errors import CheckpointError
from deepcompress.files import write_atomic

#: The endings of what `write` writes.
ENDINGS = (".pt", ".safetensors")


def check_ending(path: str | Path, known: Sequence[str] = ENDINGS) -> None:
    """Refuse a file name that does not say what to write.

    Raises:
        CheckpointError: it has none of the `known` endings.
    """
    if Path(path).suffix not in known:
        written = f"{', '.join(known[:-1])} or {known[-1]}"
        raise CheckpointError(f"{path}: unknown ending {Path(path).suffix!r}; write {written}")


def write(
    path: Path,
    state: Mapping[str, torch.Tensor],
    facts: Mapping[str, str | int | float],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write tensors, and what there is to say of them, by the ending of `path`.

    A .pt file has the `extra` states of modules in its state_dict, as torch does; a .safetensors file has only tensors.
    Names that begin as a wrapper's would are marked as the network's own: they are read back as they are.

    Raises:
        CheckpointError: another ending.
        OutputError: the file cannot be written.
    """
    check_ending(path)
    if unwrapped(state).removed:
        facts = {**facts, OWN_NAMES: "own"}
    if path.suffix == ".pt":
        buffer = io.BytesIO()
        torch.save({"state_dict": {**state, **(extra or {})}, **facts}, buffer)
        write_atomic(path, buffer.getvalue())
        return
    from safetensors.torch import save

    # Tied tensors are written twice here: the format has no way to say that two are one.
    plain = {name: value.contiguous().clone() for name, value in state.items()}
    try:
        packed = save(plain, {key: str(value) for key, value in facts.items()})
    except KeyError as error:
        name = next((name for name, value in plain.items() if value.dtype == error.args[0]), None)
        if name is None:
            raise
        raise CheckpointError(
            f"{path}: tensor {name} has dtype {plain[name].dtype}, which .safetensors does not have; write a .pt file"
        ) from None
    write_atomic(path, packed)
