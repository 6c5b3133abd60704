"""Data sets that have inputs and no targets yet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from deepcompress import usercode
from deepcompress.container.normalize import Normalization
from deepcompress.errors import DataError
from deepcompress.networks.inputs import count_samples, each_tensor, tensors_in, to_device
from deepcompress.training.arrays import Takes, check_inputs, form_of
from deepcompress.training.data import DataSet, normalized, own_name, parsed
from deepcompress.training.folders import SPLIT_SEED
from deepcompress.training.unlabeled import array_files, check_finite, inputs_of, read_arrays, read_inputs

FEWEST, MOST = 8, 100_000  # samples
SHARE = 10  # one sample of so many is for validation, and one for testing
_WHAT = "--data"


class Rows:
    """Inputs of a network that takes several. An index of samples gives these as the network takes them.

    There are no dimensions to shift or to mirror.
    """

    ndim = 0

    def __init__(self, value: Any) -> None:
        self.value = value

    def __len__(self) -> int:
        return count_samples(self.value)

    def __getitem__(self, index: Any) -> Any:
        return each_tensor(self.value, lambda tensor: tensor[index])

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return next(tensors_in(self.value)).device

    def to(self, device: torch.device) -> Rows:
        """The same on `device`."""
        return Rows(to_device(self.value, device))


def has_no_targets(name: str) -> bool:
    """Whether what a person names as data has inputs only: code, a folder of arrays, or a file without targets.

    Raises:
        DataError: a file cannot be read, or a folder is empty.
    """
    path = Path(name)
    if path.is_dir() and not any(path.iterdir()):
        raise DataError(f"{path} is empty; {_WHAT} takes a folder of arrays (.npy, .npz), or one of images")
    if usercode.names_code(name) or path.suffix == ".npy":
        return True
    if path.suffix == ".npz":
        return len(read_arrays(path, _WHAT, ("y_train", "y_test"))) < 2
    return path.is_dir() and bool(array_files(path))


def load_inputs(name: str, normalize: str | None = None, takes: Takes | None = None) -> DataSet:
    """Inputs as a data set, whose targets are all 0; arguments and what is raised as `data.load_data`.

    Args:
        name: as `unlabeled.read_inputs` takes it; a .npz file may also have ``x_train`` and ``x_test``. Without the
            latter, a tenth of the samples is held out for testing.
        normalize, takes: as there.
    """
    path, how, inputs = Path(name), Normalization("none") if normalize is None else parsed(normalize), ""
    arrays = read_arrays(path, _WHAT) if path.suffix == ".npz" else {}
    main = next((key for key in ("x_train", "x") if key in arrays), next(iter(arrays)) if len(arrays) == 1 else None)
    test: Any = None
    if main is None:
        train = _joined(inputs_of(arrays, path, _WHAT, MOST) if arrays else read_inputs(name, _WHAT, MOST), name)
    else:
        given = ["x_train", "x_test"] if main == "x_train" and "x_test" in arrays else [main]
        for key in given:
            check_inputs(f"{name}: {key}", arrays[key])
        form = form_of(arrays[main], takes)
        train, *others = (form.apply(arrays[key]) for key in given)
        test, inputs = (others[0] if others else None), str(form)
    data = _parted(own_name(Path(name.partition(".py:")[0]).stem), train, test, inputs)
    if isinstance(data.x_train, Rows):
        if how.word != "none":
            raise DataError(f"{name}: --normalize is for one input, and here are several: leave it out")
        return data
    return normalized(data, how)


def _joined(batches: Sequence[Any], name: str) -> Any:
    """Batches as one."""
    for at, batch in enumerate(batches):
        check_finite(f"{_WHAT} {name}: batch {at} (from 0)", batch)
    if not batches:
        raise DataError(f"{_WHAT} {name}: it gives no inputs")
    first = batches[0]
    try:
        if isinstance(first, torch.Tensor):
            return torch.cat(list(batches))
        if isinstance(first, tuple):
            return Rows(tuple(torch.cat(parts) for parts in zip(*batches, strict=True)))
        return Rows({key: torch.cat([batch[key] for batch in batches]) for key in first})
    except (RuntimeError, TypeError, ValueError, KeyError) as error:
        raise DataError(
            f"{_WHAT} {name}: the batches do not fit together ({error}); all need the same parts, and samples of one "
            "shape: pad them"
        ) from None


def _parted(name: str, train: Any, test: Any, inputs: str) -> DataSet:
    count = len(train)
    if count < FEWEST:
        raise DataError(f"{name}: there are {count} samples to train on, and at least {FEWEST} are needed")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(SPLIT_SEED))
    held = max(count // SHARE, 1)
    val, rest = _picked(train, order[:held]), order[held:]
    if test is None:
        test, rest = _picked(train, rest[:held]), rest[held:]
    parts = (_picked(train, rest), val, test)
    x_train, x_val, x_test = parts
    y_train, y_val, y_test = (torch.zeros(len(part)) for part in parts)
    return DataSet(name, x_train, y_train, x_val, y_val, x_test, y_test, inputs=inputs, has_targets=False)


def _picked(value: Any, index: torch.Tensor) -> Any:
    found = value[index]
    return found if isinstance(found, torch.Tensor) else Rows(found)
