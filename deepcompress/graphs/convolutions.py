"""Convolutions of a graph, and what their weights meet."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch

from deepcompress.calibration.hooks import patches
from deepcompress.graphs.product import Array, Product, attributes_of, weight_at


def convolution(node: Any, held: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> list[Product]:
    """Of Conv."""
    name, known = weight_at(node, 1, held, shapes), attributes_of(node)
    if not name or len(shapes[name]) < 3:
        return []
    kernel = shapes[name][2:]
    groups = known.get("group", 1)
    like = SimpleNamespace(
        padding_mode="zeros", kernel_size=kernel, stride=tuple(known.get("strides", [1] * len(kernel))),
        dilation=tuple(known.get("dilations", [1] * len(kernel))), groups=groups,
    )  # fmt: skip

    def meets(x: Array) -> torch.Tensor:
        pads = _pads(known, kernel, like.stride, like.dilation, x.shape[2:])
        like._reversed_padding_repeated_twice = [part for pair in reversed(pads) for part in pair]
        return patches(like, torch.from_numpy(x).float())  # type: ignore[arg-type]

    bias = held.get(node.input[2], "") if len(node.input) > 2 else ""
    return [Product(name, node.input[1], node.input[0], meets, groups=groups, bias=bias)]


def transposed(node: Any, held: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> list[Product]:
    """Of ConvTranspose: a convolution of its input with zeros between, by the weight turned around."""
    name, known = weight_at(node, 1, held, shapes), attributes_of(node)
    if not name or len(shapes[name]) < 3 or known.get("group", 1) != 1 or not _plainly_padded(known):
        return []
    kernel = shapes[name][2:]
    places = range(2, 2 + len(kernel))
    strides, dilation = known.get("strides", [1] * len(kernel)), tuple(known.get("dilations", [1] * len(kernel)))
    cut = known.get("pads", [0] * 2 * len(kernel))
    like = SimpleNamespace(
        padding_mode="zeros", kernel_size=kernel, stride=(1,) * len(kernel), dilation=dilation, groups=1,
    )  # fmt: skip
    around = [(width - 1) * spread for width, spread in zip(kernel, dilation, strict=True)]
    pads = [(each - cut[at], each - cut[len(kernel) + at]) for at, each in enumerate(around)]
    like._reversed_padding_repeated_twice = [part for pair in reversed(pads) for part in pair]

    def meets(x: Array) -> torch.Tensor:
        sizes = [(size - 1) * stride + 1 for size, stride in zip(x.shape[2:], strides, strict=True)]
        apart = torch.zeros(*x.shape[:2], *sizes)
        every: tuple[Any, ...] = (..., *(slice(None, None, stride) for stride in strides))
        apart[every] = torch.from_numpy(x).float()
        return patches(like, apart)  # type: ignore[arg-type]

    def turn(weight: torch.Tensor) -> torch.Tensor:
        return weight.transpose(0, 1).flip(list(places)).contiguous()

    bias = held.get(node.input[2], "") if len(node.input) > 2 else ""
    return [Product(name, node.input[1], node.input[0], meets, turn, turn, bias=bias)]


def _plainly_padded(known: Mapping[str, Any]) -> bool:
    return known.get("auto_pad", b"NOTSET") == b"NOTSET" and not ({"output_shape", "output_padding"} & known.keys())


def _pads(
    known: Mapping[str, Any], kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...], size: Any
) -> list[tuple[int, int]]:
    """What is put before and after each dimension of an input of a convolution."""
    given = known.get("pads", [0] * 2 * len(kernel))
    way = known.get("auto_pad", b"NOTSET")
    if way in (b"NOTSET", b"VALID"):
        half = len(kernel)
        return [(given[each], given[half + each]) if way == b"NOTSET" else (0, 0) for each in range(half)]
    found = []
    for width, step, spread, length in zip(kernel, stride, dilation, size, strict=True):
        total = max((math.ceil(length / step) - 1) * step + (width - 1) * spread + 1 - length, 0)
        found.append((total // 2, total - total // 2) if way == b"SAME_UPPER" else (total - total // 2, total // 2))
    return found
