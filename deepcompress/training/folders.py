"""Folders of images, with one folder for each class as in torchvision's ImageFolder, to arrays.

Two layouts are known. ``DIR/train/CLASS/…`` and ``DIR/test/CLASS/…``, with the validation data in ``DIR/val`` or
``DIR/valid`` if there is one; where there is no ``test``, that part is the test data, as ImageNet has it. Or
``DIR/CLASS/…``, of which a fixed fifth of each class is the test data.

Images are the files with an ending of `torchvision.datasets.folder.IMG_EXTENSIONS`, also in folders within that of
their class. Other files are left alone, and so is whatever has a name that starts with a dot.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepcompress.errors import DataError, first_line

Array = np.ndarray[Any, np.dtype[Any]]
Classes = dict[str, list[Path]]  # the images of each class, classes and files sorted by name

SPLIT_SEED = 2016  # splits never depend on the seed of a run, so that all runs hold out the same images
TEST_SHARE = 5  # one image of so many is for testing, where the folder has no part for that

#: What parts of data are called. A folder of folders with such a name is no class.
_PART_NAMES = {"train", "test", "val", "valid", "training", "testing", "validation"}
_GREY = {"1", "L", "LA"}


def read_folder(folder: Path) -> dict[str, tuple[Array, Array]]:
    """The parts ``train``, ``test`` and, where the folder has it, ``val``: images and labels.

    Images are uint8 of shape (n, 1, height, width) if all of them are grey, uint16 of that shape if all of them are
    grey with 16 bits, and else uint8 of shape (n, 3, height, width), red, green and blue. Transparency is dropped.
    Labels are int64 (n,): the place of the class in the sorted names.

    Raises:
        DataError: the folder is laid out in another way, an image is damaged, or images differ in size.
    """
    from PIL import Image

    try:
        parts = _parts(folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow thinks of odd metadata, and of transparency that is dropped
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            kind, size = _look_at([file for classes in parts.values() for files in classes.values() for file in files])
            return {part: (_decoded(classes, kind, size), _labels(classes)) for part, classes in parts.items()}
    except OSError as error:
        raise DataError(f"{error.filename or folder} cannot be read: {error.strerror or error}") from None
    except MemoryError:
        raise DataError(f"{folder} holds more images than memory does; resize them, or take fewer") from None


# Which files there are -----------------------------------------------------------------------------------------


def _parts(folder: Path) -> dict[str, Classes]:
    seen: dict[Path, Path] = {}
    if not _subfolders(folder / "train"):
        return _split(_classes(folder, seen))
    found = {part: _classes(place, seen) for part, place in _places(folder).items()}
    for part, classes in found.items():
        odd = sorted(classes.keys() ^ found["train"].keys())
        if odd:
            here, there = ("train", part) if odd[0] in found["train"] else (part, "train")
            raise DataError(f"{folder}: class {odd[0]!r} is in {here}, but not in {there}; all parts need all classes")
    return found


def _places(folder: Path) -> dict[str, Path]:
    """Where the parts are, by what they are for."""
    others = [folder / name for name in ("val", "valid") if (folder / name).is_dir()]
    if len(others) > 1:
        raise DataError(f"{folder} has both val and valid; keep the one that holds the validation images")
    places = {"train": folder / "train", "test": folder / "test"}
    if places["test"].is_dir():
        return places | ({"val": others[0]} if others else {})
    if not others:
        raise DataError(f"{folder} has train, but neither test nor val: put images to measure on into test")
    return places | {"test": others[0]}


def _split(classes: Classes) -> dict[str, Classes]:
    """Hold out one image of `TEST_SHARE` in each class, and at least one, for testing."""
    parts: dict[str, Classes] = {"train": {}, "test": {}}
    for name, files in classes.items():
        if len(files) < 2:
            raise DataError(f"{files[0].parent} holds one image; a class needs two or more, as one is for testing")
        order = torch.randperm(len(files), generator=torch.Generator().manual_seed(SPLIT_SEED)).tolist()
        held = set(order[: max(1, len(files) // TEST_SHARE)])
        parts["train"][name] = [file for index, file in enumerate(files) if index not in held]
        parts["test"][name] = [file for index, file in enumerate(files) if index in held]
    return parts


def _classes(folder: Path, seen: dict[Path, Path]) -> Classes:
    places = _subfolders(folder)
    for place in places:
        if place.name.lower() in _PART_NAMES and _subfolders(place):
            raise DataError(f"{place} looks like a part of the data, not like a class; call the parts train, val, test")
    if len(places) < 2:
        found = f"only one folder, {places[0].name}" if places else "no folder"
        raise DataError(
            f"{folder} holds {found}; there must be one of images for each class, two or more "
            "(DIR/CLASS/x.png, or DIR/train/CLASS/x.png and DIR/test/CLASS/x.png)"
        )
    return {place.name: _images_in(place, seen) for place in places}


def _images_in(folder: Path, seen: dict[Path, Path]) -> list[Path]:
    """The images of a class."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    found, waiting = [], [folder]
    while waiting:
        here = waiting.pop()
        _enter(here, seen)
        for entry in _visible(here):
            if entry.is_dir():
                waiting.append(entry)
            elif entry.suffix.lower() in IMG_EXTENSIONS:
                found.append(entry)
    if not found:
        raise DataError(f"{folder} holds no image (a file in {', '.join(IMG_EXTENSIONS)}); remove it, or fill it")
    for file in found:
        if not file.is_file():  # opening a pipe would wait for ever
            raise DataError(f"{file} is not a regular file, or a link to nowhere; remove it")
    return sorted(found, key=Path.as_posix)


def _enter(folder: Path, seen: dict[Path, Path]) -> None:
    """Refuse a folder that was read before: links may go round in circles, or give the same images to two parts."""
    real = folder.resolve()
    if real in seen:
        raise DataError(f"{folder} is {seen[real]} once more, by a link; remove the link")
    seen[real] = folder


def _subfolders(folder: Path) -> list[Path]:
    return [entry for entry in _visible(folder) if entry.is_dir()] if folder.is_dir() else []


def _visible(folder: Path) -> list[Path]:
    return sorted((entry for entry in folder.iterdir() if not entry.name.startswith(".")), key=lambda entry: entry.name)


# What is in them -----------------------------------------------------------------------------------------------


def _look_at(files: Sequence[Path]) -> tuple[str, tuple[int, int]]:
    """What all images are (``grey``, ``deep`` for 16-bit grey, or ``colour``) and their width and height.

    Only the heads of the files are read: images of many sizes, or huge ones, are refused before any is decoded.
    """
    kinds: dict[str, Path] = {}
    sizes: dict[tuple[int, int], Path] = {}
    for file in files:
        with _opened(file) as image:
            mode, size = image.mode, image.size
        if mode == "F":
            raise DataError(f"{file} holds floating-point pixels; make it an image of 8 or 16 bits, or use a .npz file")
        kinds.setdefault("deep" if mode.startswith("I") else "grey" if mode in _GREY else "colour", file)
        sizes.setdefault(size, file)
        if len(sizes) > 1:
            one, other = (f"{path} has {width}×{height} pixels" for (width, height), path in sizes.items())
            raise DataError(f"{one}, but {other}; all images must be of one size: resize them")
    if "deep" in kinds and len(kinds) > 1:
        other_kind = next(kind for kind in kinds if kind != "deep")
        raise DataError(f"{kinds['deep']} has 16 bits a pixel, but {kinds[other_kind]} 8; make all of them the same")
    return "colour" if "colour" in kinds else next(iter(kinds)), next(iter(sizes))


def _decoded(classes: Classes, kind: str, size: tuple[int, int]) -> Array:
    """All images of a part, at one or two bytes for each pixel and channel."""
    files = [file for files in classes.values() for file in files]
    width, height = size
    shape = (len(files), 3 if kind == "colour" else 1, height, width)
    images = np.empty(shape, dtype=np.uint16 if kind == "deep" else np.uint8)
    for index, file in enumerate(files):
        with _opened(file) as image:
            images[index] = _pixels(image, kind)
    return images


def _labels(classes: Classes) -> Array:
    return np.repeat(np.arange(len(classes)), [len(files) for files in classes.values()])


def _pixels(image: Any, kind: str) -> Array:
    """One image as (channels, height, width)."""
    if kind == "grey":
        return np.asarray(image.convert("L"))[None]
    if kind == "colour":
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    values = np.asarray(image)  # convert("L") would cut off what is above 255
    if values.min() < 0 or values.max() > 0xFFFF:
        raise ValueError("it has more than 16 bits a pixel")
    return values[None]


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """An image that is read as far as it is asked for; whatever goes wrong meanwhile is one line."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        most = f"{Image.MAX_IMAGE_PIXELS:,}"
        raise DataError(f"{file} has more than {most} pixels, as a decompression bomb has; resize it") from None
    except UnidentifiedImageError:
        raise DataError(f"{file} is not an image of any format that Pillow knows; replace or remove it") from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise anything on damaged bytes
        reason = first_line(error)
        raise DataError(f"{file} is a damaged image ({reason}); replace or remove it") from None
