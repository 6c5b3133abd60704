"""What is no layer, as the file stores it: batch norm, biases and other vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from deepcompress.compression.from_file import unmoved
from deepcompress.layers import parameters_in, scales_of, tied_to
from deepcompress.networks.batchnorm import fold_statistics
from deepcompress.prune.neurons import connections, silence
from deepcompress.quantize.sharing import Codebook
from deepcompress.quantize.vectors import is_vector, share_vectors
from deepcompress.recipe import Recipe


def finish_small(
    work: nn.Module, state: dict[str, torch.Tensor], recipe: Recipe, former: Sequence[Codebook] = ()
) -> list[Codebook]:
    """What is no layer, as the file stores it, in place: batch norm folded, vectors shared, if the recipe says so.

    Of neurons that nothing reads, biases become zero where vectors are shared. Vectors that still have the values of a
    `former` codebook, no more of them than the recipe allows, keep it. Returns the vectors' codebooks.
    """
    scales = _folded(work, state, recipe.small_bits) if recipe.batch_norm == "fold" else []
    if recipe.small_bits is None and recipe.small_dtype == "float16":
        former = []  # vectors that share no values are stored as their halves
    names = [name for name in _vectors(work, state) if name not in _members(scales)]
    most = None if recipe.small_bits is None else 1 << recipe.small_bits
    if most is not None:
        silence(state, connections(work))
    kept = []
    for book in former:
        small = {member.name for member in book.members} <= set(names)
        if small and (most is None or len(book.centroids) < most) and (found := unmoved(book, state)) is not None:
            kept.append(found)
    if recipe.small_bits is None:
        return kept
    taken = _members(kept)
    return [*scales, *kept, *share_vectors(state, [name for name in names if name not in taken], recipe.small_bits)]


def _folded(work: nn.Module, state: dict[str, torch.Tensor], bits: int | None) -> list[Codebook]:
    """Fold batch norms in place, and with `bits` put the new scales on grids, whose codebooks are returned.

    An error of a scale counts as much as what the scale multiplies varies: nothing where the channel is dead.
    """
    names = {id(parameter): name for name, parameter in parameters_in(work, state).items()}
    vectors, codebooks = set(_vectors(work, state)), list[Codebook]()

    def rounding(scale: nn.Parameter, variance: torch.Tensor) -> None:
        if bits is not None and (name := names[id(scale)]) in vectors and is_vector(scale):
            codebooks.extend(share_vectors(state, [name], bits, variance))

    for counter in fold_statistics(work, None if bits is None else rounding):
        state.pop(counter, None)  # a network may give it another name there
    return codebooks


def _members(codebooks: Sequence[Codebook]) -> set[str]:
    return {member.name for codebook in codebooks for member in codebook.members}


def _vectors(work: nn.Module, state: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of the vectors that are parameters, each once; buffers such as running variances are left alone."""
    parameters = parameters_in(work, state)
    left = {*tied_to(state), *scales_of(state)}
    return [name for name, value in state.items() if name in parameters and name not in left and is_vector(value)]
