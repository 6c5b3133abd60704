"""Tensors, pruned and shared, to the entries of a .dc file."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence

import numpy as np
import torch

from deepcompress.coding import scales
from deepcompress.coding.dtypes import DType
from deepcompress.coding.encoder import COMPACT, alias, encode_coded, encode_plain
from deepcompress.coding.layouts.exact import least_plain, plan_plain
from deepcompress.coding.layouts.ranked import encode_scaled
from deepcompress.coding.layouts.relative import plan_literal, plan_shared
from deepcompress.coding.survey import CHUNK, survey
from deepcompress.coding.tensors import EncodedTensor, TensorInfo
from deepcompress.container.entries import Extension
from deepcompress.container.writer import pack
from deepcompress.layers import Layer, is_layer, scales_of, tied_to
from deepcompress.networks.precision import Stored
from deepcompress.quantize.rows import RowGrid, nearest
from deepcompress.quantize.sharing import Codebook
from deepcompress.reading.arrays import Array, check_dtype, to_array
from deepcompress.recipe import Recipe

_LARGE = 1 << 14  # elements from which plain numbers are not tried where steps of rows take less than all bytes


class Packer:
    """Encodes the tensors of one file in their order, and knows what later ones may refer to.

    `coder` is one of `encoder.CODERS`: "fixed" keeps streams at fixed width, as the paper's stages 1 and 2 do.
    `index_bits` is the width of offsets, None for the best of each layer. `steps` are those of the rows of tensors that
    an earlier file had as whole numbers times these (`from_file.steps_in`).
    """

    def __init__(
        self,
        small_dtype: str = "float32",
        coder: str = "huffman",
        index_bits: int | None = None,
        steps: Mapping[str, Array] | None = None,
    ) -> None:
        self.small_dtype, self.coder, self.index_bits = small_dtype, coder, index_bits
        self._steps = (steps or {}) if coder in COMPACT else {}
        self._order: dict[str, int] = {}
        self._owners: dict[tuple[Hashable, DType], int] = {}

    def tied(self, name: str, value: torch.Tensor, first: str) -> EncodedTensor:
        """A tensor that is the earlier tensor `first`."""
        self._order[name] = len(self._order)
        return alias(tuple(value.shape), check_dtype(name, value), self._order[first])

    def small(self, name: str, value: torch.Tensor, exact: bool = False) -> EncodedTensor:
        """A tensor that is stored exactly; fp32 vectors and scalars as `small_dtype`, if they fit and not `exact`."""
        self._order[name] = len(self._order)
        values, dtype = to_array(name, value)
        if not exact and self.small_dtype == "float16" and dtype is DType.FLOAT32 and not is_layer(value):
            with np.errstate(over="ignore"):
                halves = values.astype(np.float16)
            if np.isfinite(halves).all():
                return encode_plain(halves, DType.FLOAT16, self.coder in COMPACT)
        return encode_plain(values, dtype, self.coder in COMPACT)

    def layer(
        self, name: str, value: torch.Tensor, centroids: torch.Tensor | None = None, book: Hashable = None
    ) -> EncodedTensor:
        """A pruned tensor: by indices into its shared values `centroids`, or by its surviving values.

        Layers with the same `book` share one codebook in the file (one for each dtype among them). Without shared
        values, what is whole numbers times known steps is stored as such.
        """
        if centroids is None and (grid := self._on_grid(name, value)):
            return self.grid(name, value, grid)
        values, dtype, entries = _parts(name, value, centroids)
        encoded = encode_coded(values, dtype, entries, self.coder, self._owner(book, dtype), self.index_bits)
        if encoded.info.codebook:
            self._owners[book, dtype] = len(self._order)
        self._order[name] = len(self._order)
        return encoded

    def grid(self, name: str, value: torch.Tensor, grid: RowGrid) -> EncodedTensor:
        """A tensor whose elements are whole numbers times steps: `value` is what `grid` stands for, in its own type.

        In another type than float32 all rows have one step, and share the codebook that it makes.
        """
        if value.dtype is torch.float32:
            return self._scaled(name, value, grid)
        numbers = torch.unique(grid.integers)
        return self.layer(name, value, numbers[numbers != 0] * grid.steps[0])

    def _on_grid(self, name: str, value: torch.Tensor) -> RowGrid | None:
        """A tensor as whole numbers times the steps of its rows in an earlier file, if that is what it is exactly."""
        known = self._steps.get(name)
        if known is None or value.dtype is not torch.float32 or known.shape != value.shape[:1]:
            return None
        value = value.detach().cpu()
        grid = nearest(value, torch.from_numpy(scales.steps(*scales.fit(known))))  # as `_scaled` stores them
        return grid if torch.equal(grid.values(), value) else None

    def _scaled(self, name: str, value: torch.Tensor, grid: RowGrid) -> EncodedTensor:
        """With a step for each row; as plain numbers where these take no more, or where steps are out of range."""
        try:
            coded = encode_scaled(grid.integers.numpy(), *scales.fit(grid.steps.numpy()))
        except ValueError:
            return self.small(name, value)
        if value.numel() > _LARGE and len(coded.section) < value.nbytes:
            self._order[name] = len(self._order)
            return coded
        plain = self.small(name, value)
        return coded if len(coded.section) < len(plain.section) else plain

    def plan_fixed(
        self, name: str, value: torch.Tensor, centroids: torch.Tensor | None = None, book: Hashable = None
    ) -> TensorInfo:
        """The facts of `layer` if all streams had fixed widths, without the encoding."""
        values, dtype, entries = _parts(name, value, centroids)
        found = survey(values, dtype, entries)
        if entries is None:
            coded = plan_literal(found, allow_huffman=False, offset_bits=self.index_bits)
        else:
            coded = plan_shared(found, False, self._owner(book, dtype), self.index_bits)
        if coded.section < least_plain(found):
            return coded
        plain = plan_plain(found)
        return coded if coded.section < plain.section else plain

    def _owner(self, book: Hashable, dtype: DType) -> int | None:
        return None if book is None else self._owners.get((book, dtype))


def pack_state(
    state: Mapping[str, torch.Tensor],
    layers: Sequence[Layer],
    codebooks: Sequence[Codebook],
    recipe: Recipe,
    network: str = "",
    data: str = "",
    coder: str | None = None,
    stored: Stored | None = None,
    extensions: Sequence[Extension] = (),
    steps: Mapping[str, Array] | None = None,
) -> bytes:
    """A whole .dc file in memory.

    Tensors with a codebook are stored by indices, other layers by their surviving values, and everything else
    exactly (fp32 small tensors as `recipe.small_dtype`). Tied tensors are stored once.

    Args:
        state: all tensors, in the order of the file.
        layers: those of them that were pruned.
        codebooks: those of the tensors that are shared, as `quantize.sharing.share` left them; vectors may be among
            them.
        coder: instead of the recipe's: "fixed" for the paper's stages 1 and 2, where streams have fixed widths.
        stored: the types of the tensors in the file, where they differ.
        extensions: what else the header says (`container.extensions`).
        steps: of the rows of layers that are not shared, as for `Packer`.
    """
    return pack(encode_state(state, layers, codebooks, recipe, coder, stored, steps), network, data, extensions)


def encode_state(
    state: Mapping[str, torch.Tensor],
    layers: Sequence[Layer],
    codebooks: Sequence[Codebook],
    recipe: Recipe,
    coder: str | None = None,
    stored: Stored | None = None,
    steps: Mapping[str, Array] | None = None,
) -> Iterator[tuple[str, EncodedTensor]]:
    """The tensors of `pack_state`, in their order; arguments as there."""
    packer, stored = Packer(recipe.small_dtype, coder or recipe.coder, recipe.index_bits, steps), stored or Stored()
    tied, exact = tied_to(state), scales_of(state)
    book_of = {member.name: codebook for codebook in codebooks for member in codebook.members}
    coded = {layer.name for layer in layers} | set(book_of)
    for name, value in state.items():
        book = book_of.get(name)
        value = stored.cast(tied.get(name, name), value, shared=book is not None)
        if name in tied:
            encoded = packer.tied(name, value, tied[name])
        elif name not in coded:
            encoded = packer.small(name, value, exact=name in exact)
        elif book is None:
            encoded = packer.layer(name, value)
        else:
            encoded = packer.layer(name, value, book.centroids, id(book))
        yield name, encoded


def codebook_entries(centroids: torch.Tensor, dtype: torch.dtype) -> Array:
    """The centroids in the storage type of `dtype`: sorted, distinct, and none of them zero."""
    rounded = centroids.detach().to(dtype).cpu().double()
    distinct = torch.unique(rounded[rounded != 0]).to(dtype)
    return to_array("codebook", distinct)[0]


def _parts(name: str, value: torch.Tensor, centroids: torch.Tensor | None) -> tuple[Array, DType, Array | None]:
    values, dtype = to_array(name, value)
    entries = None if centroids is None else codebook_entries(centroids, value.dtype)
    return _without_negative_zero(values, dtype), dtype, entries


def _without_negative_zero(values: Array, dtype: DType) -> Array:
    """Pruned is pruned: a zero of either sign becomes +0, so that only surviving weights are stored."""
    if dtype.negative_zero is None:
        return values
    sign = np.array(dtype.negative_zero, dtype=dtype.bits)
    flat = np.ascontiguousarray(values).reshape(-1).view(dtype.bits)
    parts = [flat[start : start + CHUNK] for start in range(0, len(flat), CHUNK)]
    if not any((part == sign).any() for part in parts):  # the usual case, for which no copy is made
        return values
    return np.where(flat == sign, np.zeros_like(sign), flat).view(dtype.storage).reshape(values.shape)
