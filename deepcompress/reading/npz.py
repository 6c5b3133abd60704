"""Tensors as numpy's archive of arrays."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from deepcompress.container.reader import ModelFile
from deepcompress.errors import CheckpointError
from deepcompress.files import write_atomic
from deepcompress.reading.frameworks import to_numpy

Array = np.ndarray[Any, np.dtype[Any]]


def save_npz(path: str | Path, names: Iterable[str], arrays: Iterable[Array]) -> None:
    """Write an uncompressed .npz, with one array in memory at a time; the same arrays always make the same bytes.

    `numpy.savez` is not it: it cannot write a tensor that is called ``file``, and wants all of them at once.

    Raises:
        CheckpointError: two names are one to numpy.
        OutputError: the file cannot be written.
    """
    names = list(names)
    for name in names:
        if f"{name}.npy" in names:
            raise CheckpointError(f"{path}: numpy takes {name} and {name}.npy for one; write .safetensors or .pt")

    def write(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w") as archive:
            for name, values in zip(names, arrays, strict=True):
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, np.ascontiguousarray(values).reshape(values.shape), None, False)

    write_atomic(path, write)


def export_npz(source: str | Path, path: str | Path, max_bytes: int | None = None) -> int:
    """Write the tensors of a .dc file as .npz, as `frameworks.to_numpy` gives them; returns how many there are.

    Raises:
        FormatError: the .dc file is missing, damaged, too new, or claims more than `max_bytes`.
        CheckpointError, OutputError: as `save_npz`.
    """
    with ModelFile(source) as file:
        file.check(max_bytes)
        save_npz(path, file, (to_numpy(*file.read(name)) for name in file))
        return len(file.header.entries)
