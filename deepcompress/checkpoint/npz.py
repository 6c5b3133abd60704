"""numpy's .npz: named arrays in a zip archive."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepcompress.checkpoint.archives import Archive
from deepcompress.checkpoint.stored import Stored
from deepcompress.errors import CheckpointError


def read(path: Path) -> dict[str, Stored]:
    """Its arrays as tensors, which stay in the file; those of another byte order are turned.

    Raises:
        CheckpointError: an array holds objects, text or records, or is not as large as the file says.
    """
    archive = Archive(path)
    found = {}
    for record in archive.records:
        if record.endswith(".npy"):
            name = record.removesuffix(".npy")
            shape, dtype = _outline(archive, record, f"{path}: array {name}")
            found[name] = Stored(
                shape, dtype, partial(_read, archive, record, f"{path}: array {name}"), (str(path), name)
            )
    if not found:
        raise CheckpointError(f"{path}: holds no tensors")
    return found


def _outline(archive: Archive, record: str, what: str) -> tuple[tuple[int, ...], Any]:
    """Shape and dtype of an array, found to be as large as its record before anything is allocated."""
    size = archive.size(record)
    try:
        with archive.open(record) as stream:
            version = np.lib.format.read_magic(stream)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = header(stream)
            begins = stream.tell()
    except Exception as error:  # numpy's, zipfile's and zlib's
        raise CheckpointError(f"{what} is damaged ({error})") from None
    if dtype.hasobject:
        raise CheckpointError(f"{what} holds Python objects, which could run any code; save numbers only")
    if math.prod(shape) * dtype.itemsize != size - begins:
        raise CheckpointError(f"{what} has shape {shape}, and the file has more or fewer values")
    try:
        kind = torch.from_numpy(np.zeros(0, dtype.newbyteorder("="))).dtype
    except TypeError:
        raise CheckpointError(f"{what} is {dtype}, which torch does not have; save it as another") from None
    return tuple(shape), kind


def _read(archive: Archive, record: str, what: str) -> torch.Tensor:
    try:
        with archive.open(record) as stream:
            array = np.lib.format.read_array(stream, allow_pickle=False)
    except Exception as error:  # numpy's, zipfile's and zlib's
        raise CheckpointError(f"{what} is damaged ({error})") from None
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C", copy=False))
