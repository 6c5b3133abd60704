"""Arrays of the user's own as inputs and targets: what a file holds is what the network is fed.

Floats stay as they are, 8-bit numbers are divided by 255 and 16-bit ones without a sign by 65,535, as images are; other
whole numbers stay whole. Where one array can be meant in several ways, the network says which of them it takes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepcompress.errors import DataError

Array = np.ndarray[Any, np.dtype[Any]]
Takes = Callable[[torch.Tensor], bool]  # whether a network takes such inputs

KEYS = ("x_train", "y_train", "x_test", "y_test")
_SCALES = {"uint8": 255.0, "uint16": 65535.0}


@dataclass(frozen=True)
class Form:
    """How an array becomes inputs.

    Attributes:
        whole: numbers stay whole (int64), as tokens do; else they become float32.
        scale: what they are divided by.
        layout: ``as is``; ``grey``: a channel is put in; ``channels last``: channels are moved to the front.
    """

    whole: bool = False
    scale: float = 1.0
    layout: str = "as is"

    def apply(self, array: Array) -> torch.Tensor:
        """The inputs."""
        native = array.astype(np.int64 if self.whole else np.float32)  # in this machine's byte order
        x = torch.from_numpy(native)
        if self.scale != 1:
            x = x / self.scale
        if self.layout == "grey":
            return x.unsqueeze(1)
        return x.permute(0, 3, 1, 2).contiguous() if self.layout == "channels last" else x

    def __str__(self) -> str:
        numbers = "stay whole numbers" if self.whole else "as the data holds them"
        parts = [numbers if self.scale == 1 else f"divided by {self.scale:,.0f}"]
        parts += {"grey": ["with one channel"], "channels last": ["channels moved to the front"]}.get(self.layout, [])
        return ", ".join(parts)


def forms_of(array: Array) -> list[Form]:
    """What inputs an array can be meant as, the likeliest first."""
    scale, whole = _SCALES.get(array.dtype.name, 1.0), array.dtype.kind in "iu"
    plain = Form(scale=scale)
    if array.ndim == 4:
        height, width, last = array.shape[1:]
        is_last = height not in (1, 3) if last in (1, 3) else last == 4 and min(height, width) > 4  # grey, RGB; RGBA
        return [Form(scale=scale, layout="channels last"), plain] if is_last else [plain]
    grey = [Form(scale=scale, layout="grey")] if array.ndim == 3 else []
    if scale != 1:  # images, or bytes that are looked up
        return [*grey, plain, Form(whole=True)]
    return [Form(whole=True), plain, *grey] if whole and array.ndim < 4 else [plain, *grey]


def form_of(array: Array, takes: Takes | None = None) -> Form:
    """The form in which a network `takes` the array; the likeliest without a network, or if it takes none."""
    forms = forms_of(array)
    if takes is None or len(forms) == 1:
        return forms[0]
    return next((form for form in forms if takes(form.apply(array[:4]))), forms[0])


def check_inputs(where: str, array: Array) -> None:
    """Refuse what is no inputs.

    Raises:
        DataError: it has no numbers, no dimension of samples, or NaN.
    """
    if not array.ndim:
        raise DataError(f"{where} is a single value; its first dimension must be that of samples")
    if array.dtype.kind not in "fiub":
        raise DataError(f"{where} is {array.dtype}; inputs are numbers: floats, whole numbers or bytes")
    with np.errstate(over="ignore"):
        fine = array.dtype.kind != "f" or bool(np.isfinite(array.astype(np.float32)).all())
    if not fine:
        raise DataError(f"{where} holds NaN, infinite values, or values outside the range of float32")


def targets_of(where: str, array: Array) -> torch.Tensor:
    """Targets: whole numbers as int64, floats as float32.

    Raises:
        DataError: they are neither, or NaN.
    """
    if array.dtype.kind not in "fiub":
        raise DataError(f"{where} is {array.dtype}; targets are whole numbers (labels) or floats")
    check_inputs(where, array)
    return torch.from_numpy(array.astype(np.float32 if array.dtype.kind == "f" else np.int64))


def read_npz(path: Path) -> dict[str, Array]:
    """The arrays of a .npz file, by `KEYS`, checked to belong together.

    Raises:
        DataError: the file cannot be read, an array is missing, or they do not fit each other.
    """
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            missing = [key for key in KEYS if key not in arrays]
            if missing:
                raise DataError(
                    f"{path} has no array {missing[0]!r}; it must hold {', '.join(KEYS)} (inputs alone are enough with "
                    "compress --teacher-only, and with eval --teacher)"
                )
            found = {key: arrays[key] for key in KEYS}
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # numpy and zipfile raise anything on damaged bytes
        raise DataError(f"{path} is not a readable .npz file: {error or type(error).__name__}") from None
    _check_together(path, found)
    return found


def _check_together(path: Path, arrays: dict[str, Array]) -> None:
    for part, at_least in (("train", 3), ("test", 1)):
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if x.ndim < 2 or not y.ndim or len(x) != len(y) or len(x) < at_least:
            raise DataError(
                f"{path}: x_{part} has shape {x.shape} and y_{part} {y.shape}; samples and targets must be as many, "
                f"{at_least} or more, and a sample has one dimension or more"
            )
        check_inputs(f"{path}: x_{part}", x)
    for name in ("x", "y"):
        one, other = arrays[f"{name}_train"], arrays[f"{name}_test"]
        if one.shape[1:] != other.shape[1:]:
            raise DataError(
                f"{path}: samples of {name}_train are {one.shape[1:]}, but those of {name}_test {other.shape[1:]}"
            )
        if _meaning(one) != _meaning(other):
            raise DataError(f"{path}: {name}_train is {one.dtype}, but {name}_test {other.dtype}; make both the same")


def _meaning(array: Array) -> str:
    """What decides how numbers are fed."""
    return array.dtype.name if array.dtype.name in _SCALES else {"u": "i"}.get(array.dtype.kind, array.dtype.kind)
