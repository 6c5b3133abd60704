"""Samples to calibrate on, from what the user names: inputs alone, no labels."""

from __future__ import annotations

import itertools
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepcompress import usercode
from deepcompress.errors import DataError
from deepcompress.networks.inputs import count_samples, rows

BATCH = 32
FEWEST, MOST = 8, 1024  # samples that are needed, and that are read
BATCHES = 8  # at least, if the samples are enough for it: what differs between them is taken for chance
HELD_OUT = 4  # each so many-th batch is kept to judge by what the others taught; of fewer, the last
_WHAT = "--calibrate"


def load_samples(name: str) -> list[Any]:
    """Batches of inputs (see `networks.inputs.predict`), `MOST` samples at most.

    Args:
        name: a .npz file with one array, or with one for each argument of the network by name; a folder of .npz or .npy
            files, read in the order of their names; or ``file.py:function``, whose function gives batches: a tensor, a
            tuple of positional arguments, or a dictionary of arguments by name.

    Raises:
        DataError: it is not there, or holds nothing of the kind.
    """
    if usercode.names_code(name):
        return list(_from_code(name))
    path = Path(name)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in (".npz", ".npy"))
        if not files:
            raise DataError(f"{_WHAT} {name}: the folder has no .npz or .npy files")
        return _some(part for file in files for part in _from_file(file))
    return _some(_from_file(path))


def check_enough(samples: int) -> None:
    """Refuse fewer samples than `FEWEST` (`DataError`)."""
    if samples < FEWEST:
        raise DataError(f"there are {samples} samples to calibrate on, and at least {FEWEST} are needed (try 256)")


def parted(batches: Iterable[Any]) -> tuple[list[Any], list[Any]]:
    """Batches to learn from, and others to judge by, a quarter of them; few large batches are cut into smaller ones.

    Raises:
        DataError: a batch holds no tensor whose first dimension are samples.
    """
    given = [batch for batch in batches if count_samples(batch)]
    whole = [piece for batch in given for piece in pieces(batch, -(-BATCHES // len(given)))]
    every = max(min(HELD_OUT, len(whole)), 1)
    kept = whole[every - 1 :: every]
    return [batch for place, batch in enumerate(whole) if place % every != every - 1], kept


def pieces(batch: Any, count: int) -> list[Any]:
    """A batch in `count` parts, or fewer, so that each has two samples."""
    samples = count_samples(batch)
    count = max(min(count, samples // 2), 1)
    if count == 1:
        return [batch]
    ends = [place * samples // count for place in range(count + 1)]
    return [rows(batch, start, stop) for start, stop in itertools.pairwise(ends)]


def _from_code(name: str) -> Iterable[Any]:
    function = usercode.find(name, _WHAT, DataError)
    with usercode.blamed(f"{_WHAT} {name}", usercode.parse(name).path.resolve(), DataError):
        made = function()
        if isinstance(made, torch.Tensor):
            return _some(_batches(made))
        if not isinstance(made, Iterable):
            raise DataError(
                f"{_WHAT} {name}: it gives a {type(made).__name__}; a tensor of samples or batches of inputs are needed"
            )
        return _some(iter(made))


def _some(batches: Iterator[Any]) -> list[Any]:
    found, count = [], 0
    for batch in batches:
        if count >= MOST:
            break
        found.append(_inputs(batch))
        first = next(iter(found[-1].values())) if isinstance(found[-1], dict) else found[-1]
        count += len(first[0] if isinstance(first, tuple) else first)
    return found


def _inputs(batch: Any) -> Any:
    if isinstance(batch, torch.Tensor):
        return batch
    if isinstance(batch, list):
        batch = tuple(batch)
    if isinstance(batch, tuple) and batch and all(isinstance(part, torch.Tensor) for part in batch):
        return batch
    if isinstance(batch, dict) and batch:
        return batch
    raise DataError(
        f"{_WHAT}: a batch is a {type(batch).__name__}; it must be a tensor, a tuple of them, or a dictionary by name"
    )


def _from_file(path: Path) -> Iterator[Any]:
    try:
        found = np.load(path, allow_pickle=False)
    except OSError as error:
        raise DataError(f"{_WHAT} {path}: {error.strerror or 'it is no .npz file'}") from None
    except (ValueError, EOFError, zipfile.BadZipFile):
        raise DataError(f"{_WHAT} {path}: it is no .npz file of plain numbers") from None
    arrays = {"x": found} if isinstance(found, np.ndarray) else dict(found)
    if len(arrays) > 1 and "x_train" in arrays:  # a data set with targets
        arrays = {"x": arrays["x_train"]}
    lengths = {len(array) if array.ndim else 0 for array in arrays.values()}
    if (
        not arrays
        or len(lengths) != 1
        or not min(lengths)
        or any(array.dtype.kind not in "fiub" for array in arrays.values())
    ):
        raise DataError(f"{_WHAT} {path}: it needs arrays of numbers that have the samples in their first dimension")
    tensors = {key: torch.from_numpy(np.ascontiguousarray(array)) for key, array in arrays.items()}
    tensors = {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}
    yield from _batches(next(iter(tensors.values())) if len(tensors) == 1 else tensors)


def _batches(samples: torch.Tensor | dict[str, torch.Tensor]) -> Iterator[Any]:
    if isinstance(samples, torch.Tensor):
        yield from samples[:MOST].split(BATCH)  # type: ignore[no-untyped-call]
        return
    count = min(len(next(iter(samples.values()))), MOST)
    for start in range(0, count, BATCH):
        yield {key: value[start : min(start + BATCH, count)] for key, value in samples.items()}
