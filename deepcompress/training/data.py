"""Data sets as tensors on the device, sliced in batches.

Small images fit in memory many times over, so nothing is decoded, converted or copied per
image: one epoch is one permutation and `len(loader)` slices.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from deepcompress.container.entries import is_printable
from deepcompress.container.normalize import MAX_CHANNELS, Normalization
from deepcompress.errors import DataError, first_line
from deepcompress.networks.inputs import to_device
from deepcompress.training.arrays import Takes, form_of, forms_of, read_npz, targets_of
from deepcompress.training.folders import SPLIT_SEED, read_folder
from deepcompress.training.speech import read_fsdd
from deepcompress.training.tasks import CLASSIFICATION, Task

Samples = tuple[torch.Tensor, torch.Tensor]  # x as float32 (n, ...), y (n,)

#: Where torchvision's data sets are looked for, and downloaded to, if nobody says otherwise.
DEFAULT_DATA_DIR = Path.home() / ".cache" / "deepcompress"


@dataclass(frozen=True)
class DataSet:
    """One data set: inputs (n, ...) as float32, or as int64 where whole numbers are looked up, and targets (n, ...).

    Of images, inputs are (n, channels, height, width); labels are int64.

    Attributes:
        name: what files call it.
        shift, flip: the largest random shift in pixels, in each direction, that keeps an image's meaning, and whether a
            mirror image means the same: the defaults of the training loop for this data.
        normalize: how inputs were normalized (`container.normalize`); empty for a known data set that is as ever.
        inputs: how inputs were made of what the user's data holds, for people.
        task: what it is for.
        has_targets: whether somebody has said what the targets are; without, they are all 0.
    """

    name: str
    x_train: torch.Tensor
    y_train: torch.Tensor
    x_val: torch.Tensor
    y_val: torch.Tensor
    x_test: torch.Tensor
    y_test: torch.Tensor
    shift: int = 0
    flip: bool = False
    normalize: str = ""
    inputs: str = ""
    task: Task = CLASSIFICATION
    has_targets: bool = True

    def to(self, device: torch.device) -> DataSet:
        """The same data on `device`."""
        return replace(self, **{name: to_device(value, device) for name, value in vars(self).items()})

    def train_loader(
        self, batch_size: int, seed: int, shift: int | None = None, flip: bool | None = None
    ) -> TensorLoader:
        """Shuffled training batches, shifted by up to `shift` pixels and mirrored at random; None: the data's own."""
        shift = self.shift if shift is None else shift
        flip = self.flip if flip is None else flip
        return TensorLoader(self.x_train, self.y_train, batch_size, seed=seed, shift=shift, flip=flip)

    def val_loader(self, batch_size: int = 1000) -> TensorLoader:
        """Validation batches: held out of the training data, and what every decision is made on."""
        return TensorLoader(self.x_val, self.y_val, batch_size)

    def test_loader(self, batch_size: int = 1000) -> TensorLoader:
        """Test batches: for reporting only."""
        return TensorLoader(self.x_test, self.y_test, batch_size)

    def all_batches(self, batch_size: int = 1000) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Every sample of every part, in order: views, for checks of the whole."""
        parts = ((self.x_train, self.y_train), (self.x_val, self.y_val), (self.x_test, self.y_test))
        return [batch for x, y in parts for batch in TensorLoader(x, y, batch_size)]


class TensorLoader:
    """Batches of two tensors, an iterable like torch's DataLoader but without per-sample work.

    With a `seed` each pass is a new permutation drawn from one seeded generator; without one the
    order is that of the tensors. `shift` moves each image by up to that many pixels, filling with its own
    border (the background of a normalized image is not zero); `flip` mirrors every second one, on average.
    """

    def __init__(
        self,
        x: torch.Tensor,
        y: torch.Tensor,
        batch_size: int,
        seed: int | None = None,
        shift: int = 0,
        flip: bool = False,
    ) -> None:
        self.x, self.y, self.batch_size = x, y, batch_size
        images = x.ndim == 4
        self.shift, self.flip = shift if images else 0, flip and images
        self.generator = None if seed is None else torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return -(-len(self.x) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        n = len(self.x)
        if self.generator is None:
            for start in range(0, n, self.batch_size):
                yield self.x[start : start + self.batch_size], self.y[start : start + self.batch_size]
            return
        order = torch.randperm(n, generator=self.generator).to(self.x.device)
        for start in range(0, n, self.batch_size):
            chosen = order[start : start + self.batch_size]
            yield self._flipped(self._shifted(self.x[chosen])), self.y[chosen]

    def _shifted(self, x: torch.Tensor) -> torch.Tensor:
        if not self.shift:
            return x
        n, channels, height, width = x.shape
        s, device = self.shift, x.device
        padded = F.pad(x, (s, s, s, s), mode="replicate")
        move = torch.randint(0, 2 * s + 1, (2, n, 1, 1, 1), generator=self.generator).to(device)
        images, planes = torch.arange(n, device=device)[:, None, None, None], torch.arange(channels, device=device)
        rows, columns = (
            move[0] + torch.arange(height, device=device)[:, None],
            move[1] + torch.arange(width, device=device),
        )
        return padded[images, planes[:, None, None], rows, columns]

    def _flipped(self, x: torch.Tensor) -> torch.Tensor:
        if not self.flip:
            return x
        mirrored = torch.randint(0, 2, (len(x), 1, 1, 1), generator=self.generator).bool().to(x.device)
        return torch.where(mirrored, x.flip(3), x)


def data_dir(given: str | Path | None = None) -> Path:
    """The folder of the data sets: as given, else ``DEEPCOMPRESS_DATA``, else `DEFAULT_DATA_DIR`."""
    return Path(given or os.environ.get("DEEPCOMPRESS_DATA") or DEFAULT_DATA_DIR)


def load_data(
    name: str, folder: str | Path | None = None, normalize: str | None = None, takes: Takes | None = None
) -> DataSet:
    """Load a data set by name (see `DATA_SETS`), or one of the user's own.

    Args:
        name: of a known data set; or the path of a ``FILE.npz`` with x_train, y_train, x_test, y_test; or that of a
            folder with one folder of images for each class (see `training.folders`). A known name wins over a folder
            that is called the same: write ``./digits`` for that.
        folder: where the known data sets are; None as in `data_dir`.
        normalize: as `Normalization.parse` takes it. None: known data sets are normalized by their training data, and
            the user's own data is fed as it is.
        takes: whether the network takes an input, for arrays that can be meant in several ways (`training.arrays`).

    Returns:
        The data set. Its name, which files store, is that of the file or folder without the path.

    Raises:
        DataError: the name is unknown, the data is neither on disk nor to be downloaded, or it is malformed.
    """
    how = None if normalize is None else parsed(normalize)
    if name in DATA_SETS:
        data = DATA_SETS[name](data_dir(folder))
        return normalized(data, how or Normalization("data"), named=how is not None and how.word != "data")
    if name.endswith(".npz"):
        return normalized(_npz(Path(name), takes), how or Normalization("none"))
    if Path(name).is_dir():
        return normalized(_folder(Path(name), takes), how or Normalization("none"))
    known = ", ".join(sorted(DATA_SETS))
    raise DataError(f"unknown data set {name!r}; known: {known}, or a folder that is there, or FILE.npz")


def parsed(normalize: str) -> Normalization:
    """What ``--normalize`` says (`DataError`)."""
    try:
        return Normalization.parse(normalize)
    except ValueError as error:
        raise DataError(f"--normalize: {error}") from None


def _digits(_: Path) -> DataSet:
    """scikit-learn's 1,797 handwritten digits, enlarged from 8x8 to MNIST's 28x28: 1,097 / 200 / 500 images."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16.0
    x = F.pad(F.interpolate(x, size=20, mode="bilinear", align_corners=False), (4, 4, 4, 4))
    y = torch.tensor(labels, dtype=torch.int64)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(SPLIT_SEED))
    x, y = x[order], y[order]
    return _assemble("digits", (x[500:], y[500:]), (x[:500], y[:500]), 200, shift=1)


def _from_torchvision(name: str, class_name: str, shift: int, flip: bool = False) -> Callable[[Path], DataSet]:
    """A loader for one of torchvision's small image sets: read if there, else downloaded."""

    def load(folder: Path) -> DataSet:
        from torchvision import datasets

        maker: Any = getattr(datasets, class_name)
        parts = []
        for train in (True, False):
            try:
                parts.append(_fetch(maker, folder, train))
            except Exception as error:  # no file, no network, or any complaint of a parser about a damaged file
                reason = first_line(error).rstrip(": ")
                raise DataError(
                    f"{name} is not in {folder} and could not be downloaded ({reason}); point --data-dir or "
                    "DEEPCOMPRESS_DATA at a folder that holds it, or use --data digits, which needs no download"
                ) from None
        return _assemble(name, parts[0], parts[1], 5000, shift, flip)

    return load


def _fetch(maker: Any, folder: Path, train: bool) -> Samples:
    try:
        source = maker(folder, train=train, download=False)
    except RuntimeError:
        source = maker(folder, train=train, download=True)
    images = np.asarray(source.data)
    return forms_of(images)[0].apply(images), torch.as_tensor(source.targets)


def _fsdd(folder: Path) -> DataSet:
    """Spoken digits as spectrograms of 32 bands by 50 frames: 2,400 / 300 / 300 recordings of six speakers."""
    parts = read_fsdd(folder)
    return _assemble("fsdd", parts["train"], parts["test"], len(parts["train"][0]) // 9, shift=2)


def _npz(path: Path, takes: Takes | None) -> DataSet:
    arrays = read_npz(path)
    form = form_of(arrays["x_train"], takes)
    parts = [
        (form.apply(arrays[f"x_{part}"]), targets_of(f"{path}: y_{part}", arrays[f"y_{part}"]))
        for part in ("train", "test")
    ]
    name, held_out = own_name(path.stem), max(1, len(parts[0][0]) // 10)
    return replace(_assemble(name, parts[0], parts[1], held_out), inputs=str(form))


def _folder(path: Path, takes: Takes | None) -> DataSet:
    found = read_folder(path)
    form = form_of(found["train"][0], takes)
    parts = {part: (form.apply(x), torch.as_tensor(y)) for part, (x, y) in found.items()}
    train = parts["train"]
    if len(train[1]) < 3:
        raise DataError(f"{path} has {len(train[1])} images to train on; it must have 3 or more")
    name = own_name(Path(os.path.abspath(path)).name)  # noqa: PTH100 (resolve would follow a link)
    data = _assemble(name, train, parts["test"], parts.get("val", max(1, len(train[1]) // 10)))
    return replace(data, inputs=str(form))


def own_name(name: str) -> str:
    """What a user's own data is called: never like a known data set, and with nothing that a file may not hold."""
    printable = "".join(character if is_printable(character) else "?" for character in name)
    return f"./{printable}" if printable in DATA_SETS else printable


def _assemble(
    name: str, train: Samples, test: Samples, validation: int | Samples, shift: int = 0, flip: bool = False
) -> DataSet:
    """All parts; `validation`: how many training samples to hold out first, or the samples themselves."""
    if isinstance(validation, int):
        (x, y), count = train, validation
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(SPLIT_SEED))
        train, validation = (x[order[count:]], y[order[count:]]), (x[order[:count]], y[order[:count]])
    return DataSet(name, *train, *validation, *test, shift, flip)


def normalized(data: DataSet, how: Normalization, named: bool = True) -> DataSet:
    """The data with its inputs normalized in place, channel by channel (axis 1); numbers of a table column by column.

    Args:
        data: as it was read.
        how: by these means and deviations, or by those of the training part, or not at all.
        named: whether the data set says so.

    Raises:
        DataError: inputs are whole numbers, or have no or other channels.
    """
    x = data.x_train
    if how.word == "none":
        return replace(data, normalize="none" if named else "")
    if not x.is_floating_point():
        raise DataError(f"{data.name}: its inputs stay whole numbers, which are not normalized: leave --normalize out")
    if x.ndim < 2:
        raise DataError(f"{data.name}: a sample is one number, and has no channels: leave --normalize out")
    shape = (1, -1, *[1] * (x.ndim - 2))
    if how.word == "data":
        axes = [axis for axis in range(x.ndim) if axis != 1]
        mean = x.mean(dim=axes, keepdim=True)
        deviation = x.std(dim=axes, keepdim=True).clamp_min(1e-6)
        if x.shape[1] <= MAX_CHANNELS:  # then a file can say by which numbers
            how = Normalization.of(mean.flatten().tolist(), deviation.flatten().tolist())
    else:
        if len(how.mean) not in (1, x.shape[1]):
            raise DataError(
                f"{data.name}: --normalize {how} is for {len(how.mean)} channels, but inputs of shape "
                f"{tuple(x.shape[1:])} have {x.shape[1]}"
            )
        mean, deviation = (torch.tensor(part).reshape(shape) for part in (how.mean, how.deviation))
    for part in (data.x_train, data.x_val, data.x_test):
        part.sub_(mean).div_(deviation)  # in place: data may take much of the memory
    return replace(data, normalize=str(how) if named else "")


DATA_SETS: dict[str, Callable[[Path], DataSet]] = {
    "digits": _digits,
    "mnist": _from_torchvision("mnist", "MNIST", shift=1),
    "fashion-mnist": _from_torchvision("fashion-mnist", "FashionMNIST", shift=1),
    "cifar10": _from_torchvision("cifar10", "CIFAR10", shift=4, flip=True),
    "fsdd": _fsdd,
}
