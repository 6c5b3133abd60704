"""A state_dict, pruned and shared, to the bytes of a .dc file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from deepcompress.coding.tensors import DType, EncodedTensor, alias, encode_coded, encode_plain
from deepcompress.container.writer import pack
from deepcompress.interop import Array, to_array
from deepcompress.layers import Layer, tied_to
from deepcompress.quantize.sharing import Codebook
from deepcompress.recipe import Recipe


def pack_state(
    state: Mapping[str, torch.Tensor],
    layers: Sequence[Layer],
    codebooks: Sequence[Codebook],
    recipe: Recipe,
    network: str = "",
    data: str = "",
    allow_huffman: bool = True,
) -> bytes:
    """A whole .dc file in memory.

    Layers with a codebook are stored by indices, other layers by their surviving values, and everything else
    exactly (fp32 small tensors as `recipe.small_dtype`). Tied tensors are stored once.

    Args:
        state: all tensors, in the order that the file shall have.
        layers: those of them that were pruned.
        codebooks: those of the layers that are shared, as `quantize.sharing.share` left them.
        allow_huffman: False for the paper's stages 1 and 2, where streams have fixed widths.
    """
    tied = tied_to(state)
    order = {name: index for index, name in enumerate(state)}
    book_of = {member.name: codebook for codebook in codebooks for member in codebook.members}
    owner_of: dict[tuple[int, DType], int] = {}  # layers of one group may differ in dtype: one codebook each
    coded = {layer.name for layer in layers}
    tensors: list[tuple[str, EncodedTensor]] = []
    for name, value in state.items():
        values, dtype = to_array(name, value)
        if name in tied:
            encoded = alias(values, dtype, order[tied[name]])
        elif name in coded:
            book = book_of.get(name)
            target = owner_of.get((id(book), dtype))
            entries = None if book is None else codebook_entries(book, value.dtype)
            encoded = encode_coded(_without_negative_zero(values, dtype), dtype, entries, allow_huffman, target)
            if book is not None and encoded.info.codebook:
                owner_of[id(book), dtype] = order[name]
        else:
            encoded = _encode_small(values, dtype, recipe.small_dtype)
        tensors.append((name, encoded))
    return pack(tensors, network, data)


def codebook_entries(codebook: Codebook, dtype: torch.dtype) -> Array:
    """The centroids in the storage type of `dtype`: sorted, distinct, and none of them zero."""
    rounded = codebook.centroids.detach().to(dtype).cpu()
    distinct = torch.unique(rounded[rounded != 0].double()).to(dtype)
    return to_array("codebook", distinct)[0]


def _without_negative_zero(values: Array, dtype: DType) -> Array:
    """Pruned is pruned: a zero of either sign becomes +0, so that only surviving weights are stored."""
    sign = np.array(1 << (8 * dtype.bits.itemsize - 1), dtype=dtype.bits)
    bits = np.ascontiguousarray(values).view(dtype.bits)
    return np.where(bits == sign, np.zeros_like(bits), bits).view(dtype.storage)


def _encode_small(values: Array, dtype: DType, small_dtype: str) -> EncodedTensor:
    if small_dtype == "float16" and dtype is DType.FLOAT32:
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        if np.isfinite(halves).all():
            return encode_plain(halves, DType.FLOAT16)
    return encode_plain(values, dtype)
