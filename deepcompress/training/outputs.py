"""What networks give: a tensor, or a structure with the one that counts and others beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from deepcompress.errors import DataError
from deepcompress.networks.inputs import tensors_in

#: Names that networks give to their main output.
_MAIN = ("logits", "out", "output", "prediction", "sentence_embedding", "pooler_output")


def main_of(output: Any) -> torch.Tensor:
    """The tensor that counts of what a network gave: itself, the one under a usual name, or else the first.

    Raises:
        DataError: there is none.
    """
    if isinstance(output, torch.Tensor):
        return output
    named = _named(output)
    for name in _MAIN:
        if isinstance(named.get(name), torch.Tensor):
            return _float(named[name])
    first = next((tensor for tensor in tensors_in(output) if tensor.is_floating_point()), None)
    if first is None:
        raise DataError(f"the network gives {type(output).__name__}, which holds no floating-point tensor")
    return _float(first)


def auxiliary(output: Any) -> list[torch.Tensor]:
    """Outputs of the heads that help in training (GoogLeNet, Inception): those named ``aux…``."""
    found = [value for name, value in _named(output).items() if str(name).startswith("aux")]
    return [_float(value) for value in found if isinstance(value, torch.Tensor)]


def _named(output: Any) -> Mapping[Any, Any]:
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return dict(zip(output._fields, output, strict=True))
    return output if isinstance(output, Mapping) else getattr(output, "__dict__", {})


def _float(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
