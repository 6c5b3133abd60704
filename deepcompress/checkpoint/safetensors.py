"""The .safetensors format: by its own library, which checks every size before it maps the file."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from deepcompress.checkpoint.stored import Stored
from deepcompress.errors import CheckpointError

_MOST_MAPPED = 1 << 28  # bytes


def read(path: Path) -> tuple[dict[str, Stored], dict[str, str], dict[str, str]]:
    """Its tensors, which stay in the file, its metadata, and names of tensors that are not in it with what they are.

    A tied tensor that safetensors' save_model left out is there again: the metadata says which one it was.
    huggingface_hub says the same of a slice of a tensor, so what is there again may be more than what was left out.

    Raises:
        CheckpointError: the file is damaged, or holds no tensors.
    """
    file = _File(path)
    facts = dict(file.stream.metadata() or {})
    tensors = {name: file.stored(name) for name in file.stream.keys()}  # noqa: SIM118
    if not tensors:
        raise CheckpointError(f"{path}: holds no tensors")
    tied = _left_out(tensors, facts)
    facts = {name: fact for name, fact in facts.items() if name not in tied}
    return {**tensors, **{name: tensors[owner] for name, owner in tied.items()}}, facts, tied


class _File:
    """An open file, which is opened anew after so many bytes: what was read of a mapped file stays in memory."""

    def __init__(self, path: Path) -> None:
        self.path, self.stream, self._mapped = path, _open(path), 0

    def stored(self, name: str) -> Stored:
        part = self.stream.get_slice(name)
        kind, shape = part.get_dtype(), tuple(part.get_shape())
        if kind not in DTYPES:
            raise CheckpointError(f"{self.path}: tensor {name} has the dtype {kind}, which this torch does not have")
        if kind == "F4":  # two of them in a byte, and an element of torch's is that byte
            shape = (*shape[:-1], shape[-1] // 2)
        return Stored(shape, DTYPES[kind], partial(self.read, name), (str(self.path), name))

    def read(self, name: str) -> torch.Tensor:
        from safetensors import SafetensorError

        if self._mapped > _MOST_MAPPED:
            self.stream, self._mapped = _open(self.path), 0
        try:
            tensor: torch.Tensor = self.stream.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{self.path}: tensor {name} cannot be read: {error}") from None
        self._mapped += tensor.nbytes
        return tensor.clone()  # what comes of the library is the mapped file itself


def _open(path: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a valid .safetensors file: {error}") from None


def _left_out(tensors: Mapping[str, Stored], facts: Mapping[str, str]) -> dict[str, str]:
    """Names of which the metadata says that they are a tensor of the file, and the name of that one."""
    return {name: owner for name, owner in facts.items() if owner in tensors and name not in tensors and "." in name}


DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "C64": torch.complex64,
    **{
        name: getattr(torch, dtype)
        for name, dtype in (("F8_E8M0", "float8_e8m0fnu"), ("F4", "float4_e2m1fn_x2"))
        if hasattr(torch, dtype)
    },
}
