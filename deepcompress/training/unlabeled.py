"""Inputs without targets, from what the user names: files of arrays, a folder of them, or a function."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepcompress import usercode
from deepcompress.errors import DataError, first_line
from deepcompress.networks.inputs import count_samples, tensors_in

Array = np.ndarray[Any, np.dtype[Any]]

BATCH = 32


def read_inputs(name: str, what: str, most: int) -> list[Any]:
    """Batches of inputs (see `networks.inputs.predict`), `most` samples or a few more.

    Args:
        name: a .npz or .npy file with one array, or with one for each argument of the network by name; a folder of
            such files, read in the order of their names; or ``file.py:function``, whose function gives a tensor of
            samples, or batches: a tensor, a tuple of positional arguments, or a dictionary of arguments by name.
        what: the option, for messages.
        most: samples that are needed; no more files and batches are read then.

    Raises:
        DataError: it is not there, holds nothing of the kind, or NaN.
    """
    if usercode.names_code(name):
        return _from_code(name, what, most)
    path = Path(name)
    files = array_files(path) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{what} {name}: the folder has no .npz or .npy files")
    return _some((part for file in files for part in _batches(read_arrays(file, what), file, what)), what, most)


def inputs_of(arrays: Mapping[str, Array], path: Path, what: str, most: int) -> list[Any]:
    """As `read_inputs`, of the `arrays` that were read of a file."""
    return _some(_batches(arrays, path, what), what, most)


def array_files(folder: Path) -> list[Path]:
    """The .npz and .npy files in a folder, by name."""
    return sorted(file for file in folder.iterdir() if file.suffix in (".npz", ".npy"))


def read_arrays(path: Path, what: str, names: Collection[str] | None = None) -> dict[str, Array]:
    """The arrays of a .npz or .npy file, by name, or those of these `names`; that of a .npy file is called ``x``.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with open(path, "rb") as stream:
            found = np.load(stream, allow_pickle=False)
            if isinstance(found, np.ndarray):
                return {"x": found}
            return {key: found[key] for key in found.files if names is None or key in names}
    except OSError as error:
        raise DataError(f"{what} {path}: {error.strerror or first_line(error)}") from None
    except Exception:  # numpy and zipfile raise anything on damaged bytes
        raise DataError(f"{what} {path}: it is no .npz file of plain numbers") from None


def check_finite(where: str, value: Any) -> None:
    """Refuse NaN and infinity in an input (`DataError`)."""
    for tensor in tensors_in(value):
        if tensor.is_floating_point() and len(tensor):
            bad = ~torch.isfinite(tensor).reshape(len(tensor), -1).all(1)
            if bad.any():
                raise DataError(f"{where}: there is NaN or infinity in sample {int(bad.nonzero()[0])} (from 0)")


def _from_code(name: str, what: str, most: int) -> list[Any]:
    function = usercode.find(name, what, DataError)
    with usercode.blamed(f"{what} {name}", usercode.parse(name).path.resolve(), DataError):
        made = function()
        if isinstance(made, torch.Tensor):
            made = made[:most].split(BATCH)  # type: ignore[no-untyped-call]
        if not isinstance(made, Iterable):
            raise DataError(
                f"{what} {name}: it gives a {type(made).__name__}; a tensor of samples or batches of inputs are needed"
            )
        return _some(iter(made), what, most)


def _some(batches: Iterator[Any], what: str, most: int) -> list[Any]:
    found, count = [], 0
    for batch in batches:
        if count >= most:
            break
        found.append(_input(batch, what))
        count += count_samples(found[-1])
    return found


def _input(batch: Any, what: str) -> Any:
    """A batch as an input."""
    if isinstance(batch, torch.Tensor):
        return batch
    if isinstance(batch, list):
        batch = tuple(batch)
    if isinstance(batch, tuple) and batch and all(isinstance(part, torch.Tensor) for part in batch):
        return batch
    if isinstance(batch, dict) and batch:
        return batch
    raise DataError(
        f"{what}: a batch is a {type(batch).__name__}; it must be a tensor, a tuple of them, or a dictionary by name"
    )


def _batches(arrays: Mapping[str, Array], path: Path, what: str) -> Iterator[Any]:
    if len(arrays) > 1 and "x_train" in arrays:  # a data set with targets
        arrays = {"x": arrays["x_train"]}
    lengths = {len(array) if array.ndim else 0 for array in arrays.values()}
    numbers = all(array.dtype.kind in "fiub" for array in arrays.values())
    if len(lengths) != 1 or not min(lengths) or not numbers:
        found = ", ".join(f"{key} {array.dtype} {array.shape}" for key, array in arrays.items())
        raise DataError(
            f"{what} {path}: it needs arrays of numbers that have the samples in their first dimension, as many in "
            f"each; it holds {found or 'none'}"
        )
    tensors = {key: _tensor(array) for key, array in arrays.items()}
    for key, value in tensors.items():
        check_finite(f"{what} {path}: {key}", value)
    samples = len(next(iter(tensors.values())))
    for start in range(0, samples, BATCH):
        part = {key: value[start : start + BATCH] for key, value in tensors.items()}
        yield next(iter(part.values())) if len(part) == 1 else part


def _tensor(array: Array) -> torch.Tensor:
    """Floats as float32, other numbers as they are, in this machine's byte order."""
    with np.errstate(over="ignore"):
        native = array.astype(np.float32 if array.dtype.kind == "f" else array.dtype.newbyteorder("="))
    return torch.from_numpy(np.ascontiguousarray(native))
