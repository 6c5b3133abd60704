"""How the weights of a graph must be turned for their rows to be outputs: rounding without data goes by that."""

from __future__ import annotations

from collections.abc import Collection

import torch

from deepcompress.graphs.model import OnnxModel
from deepcompress.graphs.product import same
from deepcompress.graphs.products import products
from deepcompress.quantize.rows import Turn


def turns_of(model: OnnxModel, weights: Collection[str]) -> dict[str, Turn]:
    """For each of the `weights` that does not lie as (outputs, inputs, …), how it is turned; its first product decides.

    Rows that are looked up or added meet no inputs, and of other operators it is not known what is an input. Their
    numbers stand alone.
    """
    shapes = {name: model.tensors.stored[name].shape for name in weights}
    turns = {name: _apart(shape) for name, shape in shapes.items()}
    for product in reversed(products(model.proto(), shapes)):
        if not product.is_lookup:
            turns[product.weight] = product.turn, product.back
    return {name: turn for name, turn in turns.items() if turn != (same, same)}


def _apart(shape: tuple[int, ...]) -> Turn:
    """A weight as rows of one number each."""

    def there(weight: torch.Tensor) -> torch.Tensor:
        return weight.reshape(-1, 1)

    def back(rows: torch.Tensor) -> torch.Tensor:
        return rows.reshape(shape)

    return there, back
