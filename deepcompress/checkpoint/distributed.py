"""Folders of torch.distributed.checkpoint: chunks of tensors in several files, and a `.metadata` that says where.

The metadata is a pickle: what it names becomes inert things (`pickles`). Each chunk is a torch.save of one tensor.
"""

from __future__ import annotations

import io
import math
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from deepcompress.checkpoint import pickles
from deepcompress.checkpoint.pickles import Thing
from deepcompress.checkpoint.stored import Shape, Stored
from deepcompress.errors import CheckpointError

#: A chunk of a tensor: where it begins in it, and the file, offset and length of its bytes.
Chunk = tuple[Shape, Path, int, int]


def read(folder: Path) -> dict[str, Any]:
    """The nested dictionary that was saved, with its tensors, which stay in the files.

    Raises:
        CheckpointError: the metadata is damaged, or a file is missing or too short.
    """
    with (folder / ".metadata").open("rb") as stream:
        metadata = pickles.read(stream, f"{folder}: its .metadata")
    try:
        return _tree(folder, metadata.state)
    except CheckpointError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        raise CheckpointError(
            f"{folder}: its .metadata is not as torch.distributed.checkpoint writes it ({error})"
        ) from None


def _tree(folder: Path, metadata: dict[str, Any]) -> dict[str, Any]:
    chunks: dict[str, list[Chunk]] = defaultdict(list)
    for index, info in metadata["storage_data"].items():
        where = info.state
        if index.state.get("offset") is not None:
            if where.get("transform_descriptors"):
                raise CheckpointError(
                    f"{folder}: its files are transformed ({where['transform_descriptors']}); save without"
                )
            start = tuple(map(int, index.state["offset"]))
            chunks[index.state["fqn"]].append(
                (start, _beside(folder, where), int(where["offset"]), int(where["length"]))
            )
    tree: dict[str, Any] = {}
    paths = metadata.get("planner_data") or {}
    for name, kind in metadata["state_dict_metadata"].items():
        value = _tensor(folder, name, kind, chunks[name]) if "size" in kind.state else None
        _put(tree, paths.get(name, (name,)), value)
    return tree


def _put(tree: dict[str, Any], path: tuple[Any, ...], value: Stored | None) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(str(key), {})
    tree[str(path[-1])] = value


def _beside(folder: Path, where: dict[str, Any]) -> Path:
    """The file of a chunk.

    Raises:
        CheckpointError: it is not in the folder, or does not have these bytes.
    """
    file = folder / str(where["relative_path"])
    if file.parent != folder or not file.is_file():
        raise CheckpointError(f"{folder}: the file {file.name} that its .metadata names is not in it")
    if int(where["offset"]) < 0 or int(where["offset"]) + int(where["length"]) > file.stat().st_size:
        raise CheckpointError(f"{folder}: the file {file.name} is shorter than its .metadata says")
    return file


def _tensor(folder: Path, name: str, kind: Thing, chunks: list[Chunk]) -> Stored:
    shape, dtype = tuple(map(int, kind.state["size"])), kind.state["properties"].content[0][0]
    if not isinstance(dtype, torch.dtype):
        raise CheckpointError(f"{folder}: tensor {name} has no dtype that this torch knows")
    sizes = {
        tuple(map(int, chunk.state["offsets"])): tuple(map(int, chunk.state["sizes"])) for chunk in kind.state["chunks"]
    }
    elements = sum(math.prod(size) for size in sizes.values())
    held = sum(length for _, _, _, length in chunks)
    if (
        elements != math.prod(shape)
        or elements * dtype.itemsize > held
        or {start for start, *_ in chunks} != set(sizes)
    ):
        raise CheckpointError(f"{folder}: chunks of tensor {name} are missing, or overlap")
    return Stored(shape, dtype, partial(_assembled, folder, name, shape, dtype, chunks), (str(folder), name))


def _assembled(folder: Path, name: str, shape: Shape, dtype: torch.dtype, chunks: list[Chunk]) -> torch.Tensor:
    whole = torch.empty(shape, dtype=dtype)
    for start, file, offset, length in chunks:
        try:
            with file.open("rb") as stream:
                stream.seek(offset)
                raw = io.BytesIO(stream.read(length))
            part = torch.load(raw, map_location="cpu", weights_only=True)
            where = tuple(slice(begin, begin + size) for begin, size in zip(start, part.shape, strict=True))
            whole[where].copy_(part)
        except Exception as error:  # on damaged bytes torch.load fails in any way
            raise CheckpointError(
                f"{folder}: a chunk of tensor {name} cannot be read ({type(error).__name__})"
            ) from None
    return whole
