"""What a person would do instead: half precision and zstandard, whole numbers per channel and brotli, or NNCodec.

Each is a way to store a state. It gives the bytes, and the tensors that come out of them again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from importlib import import_module

import numpy as np
import torch

State = Mapping[str, torch.Tensor]
Stored = tuple[int, State]

BITS = range(8, 2, -1)
QP = (-36, -32, -28, -24, -20, -17, -14, -11, -8, -5, -2, 1, 4)
_BROTLI = 11, 4_000_000  # quality, and from how many weights on a lower one is taken, because 11 takes minutes
_BROTLI_LARGE = 9


def half_zstandard(state: State) -> Stored:
    """Half precision, then zstandard at level 19."""
    zstandard = import_module("zstandard")
    halves = {name: value.half() for name, value in state.items()}
    stored = zstandard.ZstdCompressor(level=19).compress(b"".join(value.numpy().tobytes() for value in halves.values()))
    return len(stored), {name: value.float() for name, value in halves.items()}


def integers_brotli(state: State, bits: int, last: Collection[str] = ()) -> Stored:
    """Weights as whole numbers of `bits` bits, a byte each, with a scale for each output channel, then brotli.

    The scale makes the largest weight of the channel the largest number. Vectors stay float32. The output channels are
    the first dimension, or the last one of tensors that `last` names.
    """
    brotli = import_module("brotli")
    most, parts, found = 2 ** (bits - 1) - 1, [], {}
    for name, value in state.items():
        if value.ndim < 2:
            parts.append(value.numpy().tobytes())
            found[name] = value
            continue
        rows = value.movedim(-1, 0) if name in last else value
        flat = rows.reshape(len(rows), -1)
        scale = (flat.abs().amax(1, keepdim=True) / most).clamp_min(1e-30)
        numbers = (flat / scale).round().clamp(-most, most)
        parts += [scale.numpy().tobytes(), numbers.to(torch.int8).numpy().tobytes()]
        again = (numbers * scale).reshape(rows.shape)
        found[name] = (again.movedim(0, -1) if name in last else again).contiguous()
    stored = b"".join(parts)
    quality = _BROTLI[0] if len(stored) <= _BROTLI[1] else _BROTLI_LARGE
    return len(brotli.compress(stored, quality=quality, lgwin=24)), found


def nncodec(state: State, qp: int) -> Stored:
    """NNCodec's bitstream at a quantization parameter, otherwise with its defaults."""
    nnc = import_module("nncodec.nnc")
    arrays = {name: np.ascontiguousarray(value.numpy()).copy() for name, value in state.items()}
    stored = nnc.compress(arrays, bitstream_path=None, qp=qp, return_bitstream=True)
    decoded = nnc.decompress(stored)
    return len(stored), {
        name: torch.from_numpy(np.asarray(decoded[name])).reshape(v.shape) for name, v in state.items()
    }


def ways(last: Collection[str] = ()) -> dict[str, dict[str, Callable[[State], Stored]]]:
    """All of them: the settings of each by name, as far as their packages can be imported."""
    found: dict[str, dict[str, Callable[[State], Stored]]] = {}
    if _is_here("zstandard"):
        found["fp16 + zstandard"] = {"": half_zstandard}
    if _is_here("brotli"):
        found["int-N + brotli"] = {f"int{bits}": partial(integers_brotli, bits=bits, last=last) for bits in BITS}
    if _is_here("nncodec.nnc"):
        found["NNCodec"] = {f"qp {qp}": partial(nncodec, qp=qp) for qp in QP}
    return found


def missing() -> list[str]:
    """Packages that are not here, so that their way is not measured."""
    return [name for name in ("zstandard", "brotli", "nncodec") if not _is_here(name)]


def _is_here(name: str) -> bool:
    try:
        import_module(name)
    except ImportError:
        return False
    return True
