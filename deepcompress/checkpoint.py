"""Dense checkpoints in and out: .pt (without running code from them) and .safetensors."""

from __future__ import annotations

import io
import json
import pickle
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
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

    state: Mapping[str, torch.Tensor]
    network: str | None = None
    data: str | None = None
    facts: dict[str, str | int | float] = field(default_factory=dict)


def load_checkpoint(path: str | Path, trust_pickle: bool = False) -> Checkpoint:
    """Read a checkpoint onto the CPU.

    Understood are a state_dict, a dictionary that holds one under one of `STATE_KEYS`, a .safetensors file, and the
    index (.safetensors.index.json) of several.

    Args:
        path: the file.
        trust_pickle: allow a pickled module, which runs whatever code its author put into it.

    Raises:
        CheckpointError: the file is missing, holds code, or holds no tensors.
    """
    lazy = open_checkpoint(path, trust_pickle, mapped=False)
    return replace(lazy, state=_checked(lazy.state, Path(path)))


def open_checkpoint(path: str | Path, trust_pickle: bool = False, mapped: bool = True) -> Checkpoint:
    """As `load_checkpoint`, but tensors come from the disk when they are asked for.

    A .safetensors file gives a new tensor each time; a .pt file is mapped into memory (if `mapped`), and must not
    change while its tensors are in use.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file" if not path.exists() else f"{path}: not a regular file")
    if path.name.endswith(".safetensors.index.json"):
        return Checkpoint(LazyTensors(_shards(path)))
    if path.suffix == ".safetensors":
        lazy = LazyTensors(dict.fromkeys(_names_in(path), path))
        facts = lazy.facts(path)
        network, data = facts.pop("network", None), facts.pop("data", None)
        return Checkpoint(lazy, network, data, {**facts})
    return _from_content(_load_pt(path, trust_pickle, mapped), path)


class LazyTensors(Mapping[str, torch.Tensor]):
    """The tensors of .safetensors files, each read anew whenever it is asked for: the caller may change it."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = dict(files)
        self._names = _unprefixed(self._files)

    def __getitem__(self, name: str) -> torch.Tensor:
        path = self._files[self._names[name]]
        with _safetensors(path) as stream:
            tensor: torch.Tensor = stream.get_tensor(self._names[name])
            return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def facts(self, path: Path) -> dict[str, str]:
        """The metadata of one of the files."""
        with _safetensors(path) as stream:
            return dict(stream.metadata() or {})


@contextmanager
def _safetensors(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as stream:
            yield stream
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a valid .safetensors file: {error}") from None


def _names_in(path: Path) -> list[str]:
    with _safetensors(path) as stream:
        names = list(stream.keys())
    if not names:
        raise CheckpointError(f"{path}: holds no tensors")
    return names


def _shards(path: Path) -> dict[str, Path]:
    """The file of each tensor, by an index that stands beside them."""
    try:
        where = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        files = {str(name): path.parent / str(file) for name, file in where.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{path}: not an index of .safetensors files (a JSON object with a weight_map)") from None
    if not files:
        raise CheckpointError(f"{path}: holds no tensors")
    held = {file: set(_names_in(file)) for file in _beside(path, set(files.values()))}
    for name, file in files.items():
        if name not in held[file]:
            raise CheckpointError(f"{path}: tensor {name} is not in {file.name}, where the index says it is")
    return files


def _beside(path: Path, files: set[Path]) -> list[Path]:
    for file in sorted(files):
        if file.parent != path.parent or not file.is_file():
            raise CheckpointError(f"{path}: names the file {file.name}, which is not beside it")
    return sorted(files)


def _load_pt(path: Path, trust_pickle: bool, mapped: bool) -> Any:
    try:
        with warnings.catch_warnings(action="ignore"):  # about odd pickles, beside the error that they end in
            mapped = mapped and zipfile.is_zipfile(path)  # the old format cannot be mapped
            return torch.load(path, map_location="cpu", weights_only=not trust_pickle, mmap=mapped)
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
    """The tensors of a state_dict, by their names without DataParallel's prefix."""
    tensors = {}
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise CheckpointError(f"{path}: entry {name!r} is a {type(value).__name__}, not a tensor: not a state_dict")
        if value.is_nested or value.layout is not torch.strided or value.is_quantized:
            raise CheckpointError(
                f"{path}: tensor {name} is sparse, nested or quantized; only dense ones are supported"
            )
        tensors[name] = value.detach()
    if not tensors:
        raise CheckpointError(f"{path}: holds no tensors")
    return {name: tensors[stored] for name, stored in _unprefixed(tensors).items()}


def _unprefixed(names: Iterable[str]) -> dict[str, str]:
    """Each name without the prefix that DataParallel puts before all of them, and the name as it is stored."""
    stored = list(names)
    prefix = "module." if all(name.startswith("module.") for name in stored) else ""
    return {name.removeprefix(prefix): name for name in stored}


#: The endings of what `save_checkpoint` writes.
ENDINGS = (".pt", ".safetensors")


def check_ending(path: str | Path, known: Sequence[str] = ENDINGS) -> None:
    """Refuse a file name that does not say what to write.

    Raises:
        CheckpointError: it has none of the `known` endings.
    """
    if Path(path).suffix not in known:
        written = f"{', '.join(known[:-1])} or {known[-1]}"
        raise CheckpointError(f"{path}: unknown ending {Path(path).suffix!r}; write {written}")


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
        try:
            packed = save(state, metadata)
        except KeyError as error:
            name = next((name for name, value in state.items() if value.dtype == error.args[0]), None)
            if name is None:
                raise
            raise CheckpointError(
                f"{path}: tensor {name} is of {state[name].dtype}, which .safetensors does not have; write a .pt file"
            ) from None
        write_atomic(path, packed)
