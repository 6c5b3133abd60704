"""Dense checkpoints in and out: .pt (without running code from them) and .safetensors."""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deepcompress.errors import CheckpointError
from deepcompress.files import write_atomic

#: Keys under which training scripts keep the tensors, in the order in which they are looked for.
STATE_KEYS = ("state_dict", "model_state_dict", "model")


#: What torch says of a pickle that wants to import or call something, and not of mere damage.
_CODE_MARKS = ("GLOBAL", "whose module", "allowlisted", "unrecognized function")


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by fully qualified name, and what the file says of itself.

    `network` and `data` are names that the file may carry; `facts` is anything else that is plain text or a number.
    """

    state: dict[str, torch.Tensor]
    network: str | None = None
    data: str | None = None
    facts: dict[str, str | int | float] = field(default_factory=dict)


def load_checkpoint(path: str | Path, trust_pickle: bool = False) -> Checkpoint:
    """Read a checkpoint onto the CPU.

    Understood are a state_dict, a dictionary that holds one under one of `STATE_KEYS`, and a .safetensors file.

    Args:
        path: the file.
        trust_pickle: allow a pickled module, which runs whatever code its author put into it.

    Raises:
        CheckpointError: the file is missing, holds code, or holds no tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file" if not path.exists() else f"{path}: not a regular file")
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    return _from_content(_load_pt(path, trust_pickle), path)


def _load_safetensors(path: Path) -> Checkpoint:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as stream:
            facts = dict(stream.metadata() or {})
            state = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a valid .safetensors file: {error}") from None
    return Checkpoint(_checked(state, path), facts.pop("network", None), facts.pop("data", None), facts)


def _load_pt(path: Path, trust_pickle: bool) -> Any:
    try:
        with warnings.catch_warnings(action="ignore"):  # about odd pickles, beside the error that they end in
            return torch.load(path, map_location="cpu", weights_only=not trust_pickle)
    except pickle.UnpicklingError as error:
        if any(mark in str(error) for mark in _CODE_MARKS):
            raise CheckpointError(
                f"{path}: holds a pickled Python object (a whole module?), which could run any code; save its "
                "state_dict() instead, or pass --trust-pickle if you know where the file comes from"
            ) from None
        raise CheckpointError(f"{path}: not a readable PyTorch checkpoint") from None
    except Exception as error:  # on damaged bytes the unpickler fails in any way
        raise CheckpointError(f"{path}: not a readable PyTorch checkpoint ({_first_line(error)})") from None


def _first_line(error: Exception) -> str:
    line = (str(error).splitlines() or [""])[0].rstrip(". ")
    return line if any(map(str.isalpha, line)) else type(error).__name__


def _from_content(content: Any, path: Path) -> Checkpoint:
    if isinstance(content, nn.Module):
        return Checkpoint(_checked(content.state_dict(), path))
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a state_dict")
    for key in STATE_KEYS:
        inner = content.get(key)
        if isinstance(inner, nn.Module):
            inner = inner.state_dict()
        if isinstance(inner, Mapping):
            facts = {name: value for name, value in content.items() if isinstance(value, (str, int, float))}
            names = {label: str(facts.pop(label)) for label in ("network", "data") if label in facts}
            return Checkpoint(_checked(inner, path), names.get("network"), names.get("data"), facts)
    return Checkpoint(_checked(content, path))


def _checked(state: Mapping[str, Any], path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a state_dict, without the prefix that DataParallel puts before every name."""
    tensors = {}
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise CheckpointError(f"{path}: entry {name!r} is a {type(value).__name__}, not a tensor: not a state_dict")
        if value.layout is not torch.strided or value.is_quantized or value.is_complex():
            raise CheckpointError(
                f"{path}: tensor {name} is sparse, quantized or complex; only dense real tensors are supported"
            )
        tensors[name] = value.detach()
    if not tensors:
        raise CheckpointError(f"{path}: holds no tensors")
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    return tensors


def check_ending(path: str | Path) -> None:
    """Refuse a file name that `save_checkpoint` would refuse.

    Raises:
        CheckpointError: the ending is neither .pt nor .safetensors.
    """
    if Path(path).suffix not in (".pt", ".safetensors"):
        raise CheckpointError(f"{path}: unknown ending {Path(path).suffix!r}; write .pt or .safetensors")


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint as .pt or .safetensors, by the ending of `path`.

    Raises:
        CheckpointError: another ending.
        OutputError: the file cannot be written.
    """
    path = Path(path)
    check_ending(path)
    names = {key: value for key, value in (("network", checkpoint.network), ("data", checkpoint.data)) if value}
    if path.suffix == ".pt":
        buffer = io.BytesIO()
        torch.save({"state_dict": checkpoint.state, **names, **checkpoint.facts}, buffer)
        write_atomic(path, buffer.getvalue())
    else:
        from safetensors.torch import save

        metadata = {**names, **{key: str(value) for key, value in checkpoint.facts.items()}}
        # Tied tensors are written twice here: the format has no way to say that two are one.
        state = {name: value.contiguous().clone() for name, value in checkpoint.state.items()}
        write_atomic(path, save(state, metadata))
