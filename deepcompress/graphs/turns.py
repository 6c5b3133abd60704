"""How the weights of a graph must be turned for their rows to be outputs: rounding without data goes by that."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection
from typing import Any

import torch

from deepcompress.graphs.model import OnnxModel
from deepcompress.graphs.product import same
from deepcompress.graphs.products import products
from deepcompress.quantize.rows import Turn


def turns_of(model: OnnxModel, weights: Collection[str]) -> dict[str, Turn]:
    """For each of the `weights` that does not lie as (outputs, inputs, …), how it is turned; its first product decides.

    Rows that are looked up or added meet no inputs, and of other operators it is not known what is an input. Their
    numbers stand alone. Weights that are equal are turned alike, and stored once.
    """
    shapes = {name: model.tensors.stored[name].shape for name in weights}
    turns = {name: _apart(shape) for name, shape in shapes.items()}
    for product in reversed(products(model.proto(), shapes)):
        if not product.is_lookup:
            turns[product.weight] = product.turn, product.back
    for name, other in doubles(model, turns).items():
        turns[name] = turns[other]
    return {name: turn for name, turn in turns.items() if turn != (same, same)}


def doubles(model: OnnxModel, names: Collection[str]) -> dict[str, str]:
    """Of weights that are equal, each but the first, and the name of the first."""
    kinds = {name: (each.shape, each.dtype) for name, each in model.tensors.stored.items() if name in names}
    counts, first, found = Counter(kinds.values()), dict[tuple[Any, bytes], str](), dict[str, str]()
    for name, kind in kinds.items():
        if counts[kind] > 1:
            values = model.tensors[name].contiguous().view(torch.uint8).numpy().tobytes()
            other = first.setdefault((kind, hashlib.sha256(values).digest()), name)
            if other != name:
                found[name] = other
    return found


def _apart(shape: tuple[int, ...]) -> Turn:
    """A weight as rows of one number each."""

    def there(weight: torch.Tensor) -> torch.Tensor:
        return weight.reshape(-1, 1)

    def back(rows: torch.Tensor) -> torch.Tensor:
        return rows.reshape(shape)

    return there, back
