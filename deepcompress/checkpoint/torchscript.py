"""TorchScript archives (torch.jit.save): their tensors, without running or even loading their code."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from deepcompress.checkpoint import pickles
from deepcompress.checkpoint.archives import Archive
from deepcompress.checkpoint.pickles import STORAGES, Storage, Thing
from deepcompress.checkpoint.stored import Stored
from deepcompress.errors import CheckpointError

_MOST = 1 << 20  # attributes of a file: a small one can name the same module over and over
_DEEPEST = 64


def read(path: Path) -> dict[str, Stored]:
    """The tensors of a scripted, traced or frozen module, by their names in it; they stay in the file.

    Raises:
        CheckpointError: the file is damaged, of PyTorch before 1.4, or holds quantized or no tensors.
    """
    archive = Archive(path)
    records = {name.partition("/")[2]: name for name in archive.records}
    if "data.pkl" not in records:
        raise CheckpointError(
            f"{path}: an archive of PyTorch before 1.4: load it with torch.jit, and save its state_dict()"
        )
    if "byteorder" in records and archive.read(records["byteorder"]) != b"little":
        raise CheckpointError(f"{path}: a TorchScript archive of a big-endian machine; save its state_dict() there")
    pickled = io.BytesIO(archive.read(records["data.pkl"]))
    try:
        module = pickles.read(pickled, f"{path}: its data.pkl", partial(_storage, archive, records))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: a TorchScript archive: {str(error).removeprefix(f'{path}: ')}") from None
    found: dict[str, Stored] = {}
    for count, (name, value) in enumerate(_attributes(module, "", 0)):
        if count > _MOST:
            raise CheckpointError(f"{path}: has more than {_MOST:,} attributes")
        if isinstance(value, Stored):
            found[name] = value
    if not found:
        raise CheckpointError(
            f"{path}: holds no tensors: those of a frozen TorchScript module are constants of its code; "
            "use the file from before torch.jit.freeze"
        )
    return found


def _attributes(thing: Any, prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    """All that a module and those in it hold, by name."""
    if isinstance(thing, Thing) and depth <= _DEEPEST:
        for name, value in thing.state.items():
            yield f"{prefix}{name}", value
            yield from _attributes(value, f"{prefix}{name}.", depth + 1)


def _storage(archive: Archive, records: dict[str, str], pid: Any) -> Storage:
    try:
        _, dtype, key, _, numel = pid
        record = records[f"data/{key}"]
    except (KeyError, TypeError, ValueError):
        raise CheckpointError("names memory that is not in it") from None
    if dtype not in STORAGES.values() or not isinstance(numel, int):
        raise CheckpointError("has a tensor of a kind that is not supported")
    if not 0 <= numel * dtype.itemsize <= archive.size(record):
        raise CheckpointError(f"its record data/{key} is smaller than the tensor in it")
    return Storage(str(key), dtype, numel, archive.reader(record))
