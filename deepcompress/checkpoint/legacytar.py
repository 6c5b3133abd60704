"""The tar files of PyTorch 0.1.9 and earlier, which torch.load reads only by running their pickles: here it does not.

Four members: `storages` (pickles, each followed by a count and raw values), `tensors` (pickles, each followed by sizes,
strides and an offset), `pickle` (the object itself, which names both by key), and `sys_info`.
"""

from __future__ import annotations

import io
import struct
import tarfile
from pathlib import Path
from typing import Any

from deepcompress.checkpoint import pickles
from deepcompress.checkpoint.pickles import STORAGES, Storage, tensor_of
from deepcompress.errors import CheckpointError

MEMBERS = {"sys_info", "pickle", "storages", "tensors"}


def is_one(path: Path) -> bool:
    """Whether a tar archive is a checkpoint."""
    try:
        with tarfile.open(path, "r:") as archive:
            return set(archive.getnames()) >= MEMBERS
    except (tarfile.TarError, OSError, EOFError):
        return False


def read(path: Path) -> Any:
    """Whatever the file holds, with `Stored` tensors.

    Raises:
        CheckpointError: the file is damaged.
    """
    try:
        with tarfile.open(path, "r:") as archive:
            streams = {name: io.BytesIO(_member(archive, name)) for name in MEMBERS}
        objects: dict[str, Any] = _storages(streams["storages"], str(path))
        objects |= _tensors(streams["tensors"], objects, str(path))
        return pickles.read(streams["pickle"], str(path), lambda pid: _named(objects, pid))
    except CheckpointError as error:
        raise CheckpointError(
            f"{path}: a tar checkpoint of PyTorch 0.1: {str(error).removeprefix(f'{path}: ')}"
        ) from None
    except Exception as error:  # on damaged bytes it ends in any way
        raise CheckpointError(f"{path}: a damaged tar checkpoint of PyTorch 0.1 ({type(error).__name__})") from None


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    stream = archive.extractfile(name)
    if stream is None:
        raise CheckpointError(f"its member {name} is not a file")
    return stream.read()


def _storages(stream: io.BytesIO, what: str) -> dict[str, Storage]:
    found: dict[str, Storage] = {}
    for _ in range(pickles.read(stream, what)):
        key, _location, dtype = pickles.read(stream, what)
        if dtype not in STORAGES.values():
            raise CheckpointError("it has values of a kind that is not supported")
        (numel,) = struct.unpack("<q", stream.read(8))
        size = numel * dtype.itemsize
        raw = stream.read(size) if numel >= 0 else b""
        if len(raw) != max(size, 0):
            raise CheckpointError("it is cut short")
        found[str(key)] = Storage(str(key), dtype, numel, lambda raw=raw: raw)  # type: ignore[misc]
    for key, root, offset, numel in pickles.read(stream, what):
        found[str(key)] = _part(found[str(root)], int(offset), int(numel))
    return found


def _part(root: Storage, offset: int, numel: int) -> Storage:
    if min(offset, numel) < 0 or offset + numel > root.numel:
        raise CheckpointError("a part of it lies outside of its memory")
    size = root.dtype.itemsize
    return Storage(
        f"{root.key}+{offset}", root.dtype, numel, lambda: root.read()[offset * size : (offset + numel) * size]
    )


def _tensors(stream: io.BytesIO, storages: dict[str, Storage], what: str) -> dict[str, Any]:
    found = {}
    for _ in range(pickles.read(stream, what)):
        key, storage, _kind = pickles.read(stream, what)
        (dimensions, _) = struct.unpack("<ii", stream.read(8))
        if not 0 <= dimensions <= len(stream.getbuffer()) // 16:
            raise CheckpointError("a tensor of it has an impossible shape")
        shape = struct.unpack(f"<{dimensions}q", stream.read(8 * dimensions))
        stride = struct.unpack(f"<{dimensions}q", stream.read(8 * dimensions))
        (offset,) = struct.unpack("<q", stream.read(8))
        found[str(key)] = tensor_of(storages[str(storage)], offset, shape, stride)
    return found


def _named(objects: dict[str, Any], pid: Any) -> Any:
    return pid[0] if isinstance(pid, tuple) else objects[str(pid)]
