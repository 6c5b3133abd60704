"""Pickles read without running anything of theirs: what they name becomes plain data, or an inert thing.

For what ``torch.load(weights_only=True)`` does not take: TorchScript archives, the tar files of the first PyTorch, and
the metadata of torch.distributed.checkpoint. Nothing is imported or called that a pickle asks for.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import IO, Any

import torch

from deepcompress.checkpoint.stored import Stored
from deepcompress.errors import CheckpointError

#: The dtypes of torch's typed storages.
STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    **{f"UInt{bits}Storage": getattr(torch, f"uint{bits}") for bits in (16, 32, 64)},
    **{
        f"Float{kind}Storage": getattr(torch, f"float{kind}")
        for kind in ("8_e4m3fn", "8_e5m2", "8_e4m3fnuz", "8_e5m2fnuz", "8_e8m0fnu", "4_e2m1fn_x2")
        if hasattr(torch, f"float{kind}")  # newer torch has more of them
    },
}


class Thing:
    """Stands for an object of any class: it holds what the pickle says of it, and does nothing."""

    def __init__(self, *content: Any) -> None:
        self.content = content
        self.state: dict[str, Any] = {}

    def __new__(cls, *content: Any) -> Thing:
        """Also what the pickle makes without calling a constructor has its (empty) state."""
        made = super().__new__(cls)
        made.content, made.state = content, {}
        return made

    def __setstate__(self, state: Any) -> None:
        self.state = dict(state) if isinstance(state, dict) else {}
        self.content = self.content if isinstance(state, dict) else (state,)


@dataclass(frozen=True)
class Storage:
    """The memory of tensors, and how its bytes are read; `numel` counts elements."""

    key: str
    dtype: torch.dtype
    numel: int
    read: Callable[[], bytes]


class Unpickler(pickle.Unpickler):
    """Makes plain data and `Stored` tensors; `storage` finds the memory that a persistent id names."""

    def __init__(self, stream: IO[bytes], storage: Callable[[Any], Any] | None = None) -> None:
        super().__init__(stream, encoding="utf-8")
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a class or a function that the pickle names."""
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        return _KNOWN.get((module, name), Thing)

    def persistent_load(self, pid: Any) -> Any:
        """The memory of a tensor."""
        if self._storage is None:
            raise pickle.UnpicklingError("it names memory that is not in it")
        return self._storage(pid)


def read(stream: IO[bytes], what: str, storage: Callable[[Any], Any] | None = None) -> Any:
    """The next object of a pickle.

    Raises:
        CheckpointError: it is damaged; `what` names it.
    """
    try:
        return Unpickler(stream, storage).load()
    except CheckpointError:
        raise
    except Exception as error:  # on damaged bytes the unpickler fails in any way
        raise CheckpointError(f"{what}: is damaged ({type(error).__name__})") from None


def tensor_of(storage: Storage, offset: int, shape: Sequence[int], stride: Sequence[int]) -> Stored:
    """A tensor that is a view of a storage.

    Raises:
        CheckpointError: it does not lie within.
    """
    numbers = (offset, *shape, *stride)
    if not all(isinstance(number, int) and number >= 0 for number in numbers) or len(shape) != len(stride):
        raise CheckpointError("a tensor of it has an impossible shape")
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if 0 not in shape and last >= storage.numel:
        raise CheckpointError(f"a tensor of shape {tuple(shape)} is larger than its memory")
    place = (storage.key, offset, tuple(shape), tuple(stride))
    return Stored(tuple(shape), storage.dtype, partial(_view, storage, offset, tuple(shape), tuple(stride)), place)


def _view(storage: Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> torch.Tensor:
    if 0 in shape:
        return torch.empty(shape, dtype=storage.dtype)
    raw = bytearray(storage.read())
    if len(raw) < storage.numel * storage.dtype.itemsize:
        raise CheckpointError("the file is cut short: it has fewer values than it says")
    return torch.frombuffer(raw, dtype=storage.dtype, count=storage.numel).as_strided(shape, stride, offset).clone()


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> Any:
    if not isinstance(storage, Storage):
        raise pickle.UnpicklingError("a tensor without memory")
    return tensor_of(storage, offset, shape, stride)


def _quantized(*_: Any) -> Any:
    raise CheckpointError(
        "it holds quantized tensors of torch.ao; save the network before convert(), or its int_repr()"
    )


_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_qtensor"): _quantized,
    ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
    ("torch.jit._pickle", "restore_type_tag"): lambda value, *_: value,
    **{("torch.jit._pickle", f"build_{kind}list"): list for kind in ("int", "double", "bool", "tensor")},
}
