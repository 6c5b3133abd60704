"""Further valid files, made at random from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import craft
import numpy as np
from craft import (
    ADAPTIVE,
    BF16,
    BOOL,
    CHECKED,
    F32,
    SQUARES,
    File,
    Tensor,
    adaptive,
    alias,
    coded,
    entries,
    grid,
    planes,
    raw,
    same,
)


def random_file(rng: np.random.Generator) -> File:
    """Some valid file."""
    version = int(rng.integers(1, 3))
    tensors: list[Tensor] = []
    owners: list[tuple[int, craft.Book, int]] = []
    for number in range(int(rng.integers(0, 6))):
        tensors.append(_random_tensor(rng, f"layer{number}.weight", version, owners, tensors))
    flags = int(rng.integers(0, 4)) if version == 2 else 0
    labels = ["", "lenet5", "größe"]
    file = File(tensors, version, flags, labels[rng.integers(3)], labels[rng.integers(3)])
    return file if len(file.header()) <= 4096 else replace(file, flags=flags & CHECKED)


def _random_tensor(
    rng: np.random.Generator,
    name: str,
    version: int,
    owners: list[tuple[int, craft.Book, int]],
    earlier: Sequence[Tensor],
) -> Tensor:
    shape = tuple(int(n) for n in rng.integers(1, 12, rng.integers(0, 5)))
    size = int(np.prod(shape, dtype=int))
    kind = int(rng.integers(0, 6 if version == 2 else 4))
    dtype = int(rng.integers(0, 4 if kind in (craft.CODED, ADAPTIVE) else 10))
    store = craft.STORES[dtype]
    plain = (rng.integers(0, 2, shape) if dtype == BOOL else rng.integers(0, 120, shape)).astype(store)
    targets = [number for number, tensor in enumerate(earlier) if tensor.layout != craft.ALIAS]
    if kind == craft.ALIAS and targets:
        number = int(rng.choice(targets))
        return alias(name, earlier[number], number)
    if kind == craft.SAME and size > 1:
        return same(name, plain.reshape(-1)[0], shape, dtype)
    if kind in (craft.CODED, ADAPTIVE) and size > 40:
        return _random_coded(rng, name, shape, dtype, kind, version, owners, len(earlier))
    if kind == craft.PLANES and size > 64:
        values = (rng.integers(0, 2, shape)).astype(store)
        tensor = planes(name, values, dtype)
        return tensor if len(tensor.section) <= len(tensor.raw) else raw(name, values, dtype)
    return raw(name, plain, dtype)


def _random_coded(
    rng: np.random.Generator,
    name: str,
    shape: tuple[int, ...],
    dtype: int,
    kind: int,
    version: int,
    owners: list[tuple[int, craft.Book, int]],
    number: int,
) -> Tensor:
    store = ("<f4", "<f2", "<u2", "<f8")[dtype]
    mine = [(at, book) for at, book, of in owners if of == dtype]
    if mine and rng.random() < 0.5:
        at, book = mine[rng.integers(len(mine))]
        used = book.of(at)
    else:
        steps = rng.permutation(np.arange(1, 1 + rng.integers(1, 4)))
        signs = rng.choice([-1, 1], len(steps))
        book = entries(steps + 0x3F00 if dtype == BF16 else steps * signs, dtype)
        if version == 2 and dtype == F32 and rng.random() < 0.5:
            book = grid(0.375, sorted(int(step) for step in steps * signs), int(rng.integers(2, 5)))
        used = book
    values = np.where(rng.random(shape) < rng.choice([0.05, 0.3, 1]), rng.choice(book.entries, shape), 0)
    values = values.astype(book.entries.dtype).view(store).reshape(shape)
    if kind == ADAPTIVE:
        flags = int(rng.integers(0, 2)) if len(shape) > 1 else 0
        columns = int(np.prod(shape[1:], dtype=int)) if len(shape) > 1 else 0
        side = int(rng.integers(2, 4))
        squares = columns > 0 and columns % (side * side) == 0
        tensor = adaptive(name, values, used, flags | (SQUARES if squares else 0), side if squares else 0, dtype)
    else:
        tensor = coded(name, values, used, int(rng.integers(0, 7)), dtype=dtype, version=version)
    if len(tensor.section) > len(tensor.raw):
        return raw(name, values, dtype)
    if used is book:
        owners.append((number, book, dtype))
    return tensor
