"""MLPrune: the Fisher matrix of each layer as a Kronecker product, for the whole network (Zeng and Urtasun 2019).

A layer's output a = W x has the gradient g, and the gradient by W is g x^T. Where x and g are taken for independent,
the Fisher matrix of W is ``A ⊗ G``, with A the second moment of x and G that of g (K-FAC: Martens and Grosse 2015;
for convolutions: Grosse and Martens 2016, section 3). No matrix is larger than one of these two factors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from deepcompress.networks.inputs import count_samples
from deepcompress.prune.criteria.base import Evidence, Verdict, criterion, samples
from deepcompress.prune.criteria.gradients import evaluating, gradients, outputs
from deepcompress.prune.criteria.obs import Layer, Moments, groups_of, inverse_diagonal, second_moments
from deepcompress.prune.criteria.taylor import PROBES, curved, is_plain, second_order
from deepcompress.prune.masks import Masks

STEPS = 200  # of conjugate gradients at most, for the correction of a block
CLOSE = 1e-4  # what is left of the residual when the correction is done


@criterion("mlprune", local=True)
def mlprune(evidence: Evidence) -> Verdict:
    """What the loss grows by if the layer's others move to the best place: ``w^2 / (2 [A^-1]_ii [G^-1]_oo)``.

    That is Optimal Brain Surgeon's ``w^2 / (2 [F^-1]_qq)`` (Hassibi and Stork 1993, equation 5) with F = A ⊗ G, of
    which inverses are ``A^-1 ⊗ G^-1``. It is a rise of the loss, so one threshold fits the whole network. Each factor
    has a hundredth of its mean diagonal on its diagonal, and more than `obs.BLOCK` inputs or outputs are taken apart,
    as in `obs`. G comes from random gradients with the curvature of the loss (`taylor.curved`); of a network that
    returns more than one tensor, from the gradients of the labels. Once it is decided who stays, `compensated` moves
    all weights of a layer together.

    Weights that are none of a Linear or Conv layer, or of one that never ran, have no factors. They are judged by
    ``h w^2 / 2`` (see `taylor2`), which is a rise of the loss too, and are not corrected.

    Memory: 8 bytes × (inputs × min(inputs, BLOCK) + outputs × min(outputs, BLOCK)) for each layer.

    Raises:
        RecipeError: there is no training data, or a layer's inputs are NaN or infinite.
        DataError: it has no samples.
    """
    inputs, slopes = second_moments(evidence), output_moments(evidence)
    known = {name: (inputs[name], slopes[name]) for name in evidence.weights if name in inputs and name in slopes}
    count = sum(count_samples(y) for _, y in samples(evidence))
    scores = {}
    for name, factors in known.items():
        positions = factors[0].seen / count  # of one sample: A is to be their sum, not their mean
        scores[name] = positions * _saliency(*factors, evidence.weights[name].detach())
    strange = {name: weight for name, weight in evidence.weights.items() if name not in known}
    if strange:
        scores |= second_order(replace(evidence, weights=strange))

    def correct(masks: Masks) -> None:
        for name, factors in known.items():
            weight = evidence.weights[name]
            with torch.no_grad():
                weight.copy_(_compensated(*factors, weight.detach(), masks.keep[name]))

    text = f"mlprune sees no inputs of {', '.join(strange)}: judged by taylor2, and not corrected"
    return Verdict(scores, correct, (text,) if strange else ())


@torch.no_grad()
def saliency(inputs: torch.Tensor, outputs: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """``w^2 / (2 [A^-1]_ii [G^-1]_oo)`` for each weight.

    Args:
        inputs: the diagonal of A^-1 (groups, inputs), see `obs.inverse_diagonal`.
        outputs: that of G^-1 (groups, outputs).
        weight: (groups, outputs, inputs).

    Returns:
        like `weight`, in the dtype of the diagonals.
    """
    return weight.to(inputs.dtype).square() / (2 * outputs[:, :, None] * inputs[:, None])


@torch.no_grad()
def compensated(inputs: torch.Tensor, outputs: torch.Tensor, weight: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """`weight` with what is kept moved to where ``1/2 tr(D^T G D A)`` of the move D is least, the others being 0.

    For all that is removed at once that is ``F_SS d_S = F_SP w_P``, S being the kept and P the removed. F_SS is no
    Kronecker product, and has a row for each weight that is kept: so conjugate gradients, which only multiply by it.
    Each step lowers the rise, so that even a few are better than none.

    Args:
        inputs: A, positive definite (groups, inputs, inputs).
        outputs: G, positive definite (groups, outputs, outputs).
        weight: (groups, outputs, inputs).
        keep: bool, like `weight`.

    Returns:
        like `weight`, in the dtype of the factors; groups that lose nothing are as they were.
    """
    weight = weight.to(inputs.dtype)
    scale = outputs.diagonal(dim1=1, dim2=2)[:, :, None] * inputs.diagonal(dim1=1, dim2=2)[:, None]
    start = (outputs @ (weight * ~keep) @ inputs) * keep
    return weight * keep + solve(lambda move: (outputs @ move @ inputs) * keep, start, scale)


def solve(product: Callable[[torch.Tensor], torch.Tensor], right: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """x with ``product(x) = right`` by conjugate gradients (Golub and Van Loan, section 11.5), each group by itself.

    Args:
        product: multiplies by a positive semidefinite matrix.
        right: (groups, ...).
        scale: the diagonal of the matrix, by which it is preconditioned; like `right`.
    """
    found, left = torch.zeros_like(right), right
    along = left / scale
    power = _dot(left, along)
    enough = CLOSE**2 * power
    for _ in range(STEPS):
        if bool((power <= enough).all()):
            break
        image = product(along)
        step = _over(power, _dot(along, image))
        found, left = found + step * along, left - step * image
        power, before = _dot(left, left / scale), power
        along = left / scale + _over(power, before) * along
    return found


def _dot(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return (one * other).sum(dim=(1, 2), keepdim=True)


def _over(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """0 where the divisor is: of a group that is done."""
    return torch.where(other > 0, one / other, 0.0)


def output_moments(evidence: Evidence) -> dict[str, Moments]:
    """The second moment of a sample's gradients at the outputs of a layer, by name of its weight.

    Raises:
        RecipeError: there is no training data.
    """
    names = {id(weight): name for name, weight in evidence.weights.items()}
    generator = torch.Generator().manual_seed(evidence.recipe.seed)
    found: dict[str, Moments] = {}

    def look(name: str, layer: Layer, _: Any, output: torch.Tensor) -> None:
        moments = found.setdefault(name, Moments(groups_of(layer), len(layer.weight) // groups_of(layer)))
        output.register_hook(lambda gradient: moments.add(_rows(layer, gradient)))  # type: ignore[no-untyped-call]

    with evaluating(evidence) as weights:
        handles = [
            layer.register_forward_hook(partial(look, names[id(layer.weight)]))
            for layer in evidence.model.modules()
            if isinstance(layer, Layer) and id(layer.weight) in names
        ]
        try:
            for x, y in samples(evidence):
                for value in _felt(evidence, outputs(evidence, weights, x), x, y, generator):
                    gradients(value, weights, keep=True)
        finally:
            for handle in handles:
                handle.remove()
    return found


def _felt(evidence: Evidence, output: Any, x: Any, y: Any, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Scalars whose gradients, at each sample, have the second moment that the Fisher matrix of one sample has."""
    count = count_samples(y)
    if not is_plain(output):
        yield count * evidence.objective(output, x, y)
        return
    for slope in curved(evidence, output, x, y, PROBES, generator):
        yield count**0.5 * (output * slope).sum()


def _rows(layer: Layer, gradient: torch.Tensor) -> torch.Tensor:
    """Gradients at a layer's outputs as vectors: (groups, number, outputs of a group)."""
    if isinstance(layer, nn.Linear):
        return gradient.reshape(1, -1, layer.out_features)
    channels = gradient.movedim(-len(layer.kernel_size) - 1, -1)
    return channels.reshape(-1, layer.groups, layer.out_channels // layer.groups).transpose(0, 1)


def _saliency(inputs: Moments, slopes: Moments, weight: torch.Tensor) -> torch.Tensor:
    """`saliency` of a whole weight: each block of A and of G is inverted once."""
    rows = torch.cat([inverse_diagonal(matrix) for matrix in slopes.matrices()], dim=1)
    blocks = zip(inputs.matrices(), inputs.rows(weight), strict=True)
    return inputs.joined([saliency(inverse_diagonal(matrix), rows, part) for matrix, part in blocks], weight)


def _compensated(inputs: Moments, slopes: Moments, weight: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """`compensated` for each pair of blocks of A and G, and the part of the weight that belongs to them."""
    columns = []
    for matrix, *parts in zip(inputs.matrices(), inputs.rows(weight), inputs.rows(keep), strict=True):
        rows = zip(slopes.matrices(), *(part.tensor_split(slopes.count, dim=1) for part in parts), strict=True)
        columns.append(torch.cat([compensated(matrix, *row) for row in rows], dim=1))
    return inputs.joined(columns, weight)
