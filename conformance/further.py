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
    copy,
    entries,
    grid,
    planes,
    raw,
    rows,
    same,
)
from ranks import GAPS, RANKED, Model, Neighbour, in_order, multiples, ranked

WITH_BOOKS = (craft.CODED, ADAPTIVE, RANKED)


def random_file(rng: np.random.Generator) -> File:
    """Some valid file."""
    version = int(rng.integers(1, 4))
    tensors: list[Tensor] = []
    owners: list[tuple[int, craft.Book, int]] = []
    for number in range(int(rng.integers(0, 6))):
        tensors.append(_random_tensor(rng, f"layer{number}.weight", version, owners, tensors))
    flags = int(rng.integers(0, 4)) if version > 1 else 0
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
    kind = int(rng.integers(0, (4, 6, 9)[version - 1]))
    dtype = int(rng.integers(0, 4 if kind in WITH_BOOKS else 10))
    store = craft.STORES[dtype]
    plain = (rng.integers(0, 2, shape) if dtype == BOOL else rng.integers(0, 120, shape)).astype(store)
    targets = [number for number, tensor in enumerate(earlier) if tensor.layout not in (craft.ALIAS, craft.COPY)]
    if kind in (craft.ALIAS, craft.COPY) and targets:
        number = int(rng.choice(targets))
        return (alias if kind == craft.ALIAS else copy)(name, earlier[number], number)
    if kind == craft.ROWS and len(shape) > 1:
        kinds = rng.integers(1, 16, shape[0]).tolist()
        tensor = rows(name, plain, kinds, dtype)
        return tensor if len(tensor.section) <= len(tensor.raw) else raw(name, plain, dtype)
    if kind == craft.SAME and size > 1:
        return same(name, plain.reshape(-1)[0], shape, dtype)
    if kind in WITH_BOOKS and size > 40:
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
        if version > 1 and dtype == F32 and rng.random() < 0.5:
            book = grid(0.375, sorted(int(step) for step in steps * signs), int(rng.integers(2, 5)))
        used = book
    density = rng.choice([0.05, 0.3, 1])
    if kind == RANKED:
        return _random_ranked(rng, name, shape, dtype, used, density, owners, number)
    values = np.where(rng.random(shape) < density, rng.choice(book.entries, shape), 0)
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


def _random_ranked(
    rng: np.random.Generator,
    name: str,
    shape: tuple[int, ...],
    dtype: int,
    used: craft.Book,
    density: float,
    owners: list[tuple[int, craft.Book, int]],
    number: int,
) -> Tensor:
    """Layout 8: ranks, or multiples where they can be."""
    model = _random_model(rng, shape)
    some = rng.random(shape) < density
    if dtype == F32 and len(shape) > 1 and rng.random() < 0.3:
        most = int(rng.choice([2, 40, 32_767]))
        numbers = rng.integers(-most, most + 1, shape) * some
        tensor = multiples(name, numbers, 0.01, rng.integers(0, 30, shape[0]).tolist(), model)
    else:
        order = in_order(used.entries)
        ranks = rng.integers(-order.index(0), len(order) - order.index(0), shape) * some
        tensor = ranked(name, ranks, used, model, dtype)
        if used.owner is None and len(tensor.section) <= len(tensor.raw):
            owners.append((number, used, dtype))
    if len(tensor.section) <= len(tensor.raw):
        return tensor
    return Tensor(name, dtype, shape, craft.RAW, b"", tensor.raw, tensor.raw)


def _random_model(rng: np.random.Generator, shape: tuple[int, ...]) -> Model:
    shape = shape if len(shape) > 1 else (1, int(np.prod(shape, dtype=int)))
    columns, planes = int(np.prod(shape[1:], dtype=int)), shape[1] if len(shape) > 2 else 1

    def classes(count: int) -> list[int] | None:
        return rng.integers(0, rng.choice([2, 12, 64]), count).tolist() if rng.random() < 0.4 else None

    mode = int(rng.integers(0, 2))
    beside = [(0, 1), (1, 0), (1, 1), (0, 2)][: 0 if mode == GAPS else int(rng.integers(0, 5))]
    near = [
        Neighbour(min(up, shape[0]), min(left, columns), int(rng.integers(-128, 128)), int(rng.integers(0, 256)))
        for up, left in beside
    ]
    return Model(
        mode,
        int(rng.integers(1, shape[0] + 1)),
        (int(rng.integers(0, 3)), int(rng.integers(0, 3))),
        int(rng.integers(-20, 20)),
        classes(shape[0]),
        classes(planes),
        classes(columns // planes),
        tuple(near),
        int(rng.integers(0, 256)),
        int(rng.integers(1, 9)),
    )
