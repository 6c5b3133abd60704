"""What torch.save writes: a zip archive, or a pickle as before version 1.6. No code of the file's is run."""

from __future__ import annotations

import argparse
import datetime
import decimal
import pickle
import re
import types
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch

from deepcompress.checkpoint.archives import MAGIC, Archive
from deepcompress.errors import CheckpointError, first_line
from deepcompress.usercode import at_home

#: What torch says of a pickle that wants to import or call something, and not of mere damage.
_CODE_MARKS = ("GLOBAL", "Can only", "whose module", "allowlisted", "unrecognized function")
_NAMED = re.compile(r"GLOBAL ([\w.]+)")

_SCALAR: Any = np.float64(0).__reduce__()[0]
_ARRAY: Any = np.zeros(0).__reduce__()[0]
_PATHS = ("pathlib", "pathlib._local")
_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")

_CLASSES: list[Callable[..., Any]] = [argparse.Namespace, types.SimpleNamespace, frozenset, slice, list, tuple, dict]
_CLASSES += [int, float, str, bool, decimal.Decimal, datetime.datetime, datetime.date, datetime.time]
_CLASSES += [datetime.timedelta, datetime.timezone, np.ndarray, np.dtype]
_CLASSES += {type(np.dtype(code)) for code in "?bhilqBHILQefdFDUS"}


def _dictionary(*_: Any) -> dict[Any, Any]:
    return {}


def _list(*_: Any) -> list[Any]:
    return []


#: Plain data that scripts keep beside the tensors. To make one of these runs nothing, and takes no more than it holds.
PLAIN: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    *_CLASSES,
    (_dictionary, "collections.defaultdict"),  # which torch makes, and then refuses to fill
    (_list, "collections.deque"),
    *((function, f"{place}.{function.__name__}") for function in (_SCALAR, _ARRAY) for place in _NUMPY),
    # A path of another system cannot be made here: what is only a name can.
    *((PurePosixPath, f"{place}.{name}") for place in _PATHS for name in ("PosixPath", "PurePosixPath")),
    *((PureWindowsPath, f"{place}.{name}") for place in _PATHS for name in ("WindowsPath", "PureWindowsPath")),
]


def read(path: Path, trust_pickle: bool, mapped: bool) -> Any:
    """Whatever the file holds, with its tensors on the CPU; they stay in the file if `mapped`.

    Raises:
        CheckpointError: it is damaged, or needs code (and nobody said `trust_pickle`).
    """
    try:
        home = at_home([path.resolve().parent]) if trust_pickle else nullcontext()  # where its classes may lie
        # Warnings are about odd pickles.
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(PLAIN), home:
            # torch goes by the ending .safetensors, and only a name can be mapped.
            if mapped and path.suffix != ".safetensors" and _can_be_mapped(path):
                return torch.load(path, map_location="cpu", weights_only=not trust_pickle, mmap=True)
            with path.open("rb") as stream:
                return torch.load(stream, map_location="cpu", weights_only=not trust_pickle)
    except pickle.UnpicklingError as error:
        if any(mark in str(error) for mark in _CODE_MARKS):
            named = _NAMED.search(str(error))
            raise CheckpointError(
                f"{path}: holds a pickled Python object ({named[1] if named else 'a whole module?'}), which could run "
                "any code; save its state_dict() instead, or pass --trust-pickle if you know where the file comes from"
            ) from None
        raise CheckpointError(f"{path}: not a readable PyTorch checkpoint") from None
    except CheckpointError:
        raise CheckpointError(f"{path}: not a readable PyTorch checkpoint") from None
    except Exception as error:  # on damaged bytes the unpickler fails in any way
        raise CheckpointError(f"{path}: not a readable PyTorch checkpoint ({_without_advice(error)})") from None


def _can_be_mapped(path: Path) -> bool:
    """Whether the records of a zip archive lie in the file as they are in memory.

    torch maps whatever bytes are there: of a record that another tool has compressed, those make no weights.
    """
    with path.open("rb") as stream:
        if stream.read(len(MAGIC)) != MAGIC:  # the old format cannot be mapped
            return False
    archive = Archive(path)
    orders = [name for name in archive.records if name.endswith("/byteorder")]
    return archive.is_stored and all(archive.read(name) == b"little" for name in orders)


def _without_advice(error: Exception) -> str:
    """What went wrong in torch's words, without its advice, which is not about this tool."""
    line = re.split(r"\. |, use |\(1\)", first_line(error))[0].rstrip(". ")
    words = any(map(str.isalpha, line)) and "weights_only" not in line
    return line if words else type(error).__name__
