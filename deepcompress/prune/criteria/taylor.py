"""Criteria that predict the rise of the loss when a weight w becomes zero from its derivatives there.

L(w = 0) - L = -g·w + ½·h·w² + …, with the gradient g and the diagonal h of the Hessian. Of a network of n weights no
n × n matrix is ever formed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from deepcompress.errors import NetworkError
from deepcompress.networks.inputs import count_samples
from deepcompress.prune.criteria.base import Evidence, Scores, criterion, samples
from deepcompress.prune.criteria.gradients import (
    TWICE,
    Tensors,
    evaluating,
    gradients,
    mean,
    mean_gradient,
    outputs,
    zeros,
)

PROBES = 4  # random vectors for each batch of samples
KRYLOV = 16  # most dimensions of the space in which the curvature of the loss by the outputs is looked at


@criterion("taylor1")
def taylor1(evidence: Evidence) -> Scores:
    """|g·w|, the size of the first-order term (Molchanov et al. 2017, section 2.2, for weights in place of filters).

    g is the mean gradient over the samples. One forward and one backward pass over them.
    """
    slope = mean_gradient(evidence)
    return {name: (slope[name] * weight.detach()).abs() for name, weight in evidence.weights.items()}


@criterion("taylor2")
def taylor2(evidence: Evidence) -> Scores:
    """½·h·w², the second-order term: Optimal Brain Damage (LeCun, Denker and Solla 1990, equation 5).

    At a minimum g is zero, and this is all. LeCun backpropagates the curvature layer by layer, for chains of layers;
    here h is estimated by `diagonal`, for any network. A negative h gives a negative score, and goes first.
    """
    return second_order(evidence)


@criterion("taylor12")
def taylor12(evidence: Evidence) -> Scores:
    """|-g·w + ½·h·w²|, the size of the predicted change by both terms (Molchanov et al. 2019, section 3).

    They take its square, which has the same order. With its sign it would send first whatever is predicted to lower the
    loss when it goes; but all of that together, at a fraction worth pruning, goes far beyond where first order holds.
    g as in `taylor1`, h as in `taylor2`.
    """
    slope, bend = mean_gradient(evidence), second_order(evidence)
    return {name: (bend[name] - slope[name] * weight.detach()).abs() for name, weight in evidence.weights.items()}


def second_order(evidence: Evidence) -> Tensors:
    """½·h·w², with h by `diagonal`."""
    curvature = diagonal(evidence)
    return {name: 0.5 * curvature[name] * w.detach().float().square() for name, w in evidence.weights.items()}


def diagonal(evidence: Evidence, probes: int = PROBES) -> Tensors:
    """The diagonal of the Hessian of the mean loss over the recipe's `score_samples`, estimated by random vectors.

    The Hessian in its Gauss-Newton (Levenberg-Marquardt) form, as LeCun takes it: JᵀBJ, J being the derivative of the
    outputs by the weights, and B that of the loss by the outputs, twice. Its diagonal is never negative, and is that of
    the Hessian itself where the outputs are piecewise linear in each weight, as in networks of ReLUs and max pooling.
    It is the mean of (Jᵀ√B·v)² over random vectors v of ±1 (Rademacher): `probes` vectors for each batch, a backward
    pass each. The standard deviation of an entry is at most √(2 / vectors) of it. √B·v is computed for each row of the
    outputs by `KRYLOV` steps of Lanczos' method: exactly for no more outputs than that, nearly for more.

    A network whose output is more than one tensor has Hutchinson's estimator of the full Hessian H instead (Bekas,
    Kokiopoulou and Saad 2007): the mean of v ⊙ Hv, which takes differentiating twice. There the variance of an entry is
    the sum of the squares of the others in its row of H, so that small ones drown in noise.

    The loss is taken to be a mean over the rows of the outputs. Memory: the graph of one batch, a few tensors like the
    weights, and `KRYLOV` like the outputs of a batch.

    Args:
        evidence: the network, its data, and the seed of the vectors.
        probes: vectors for each batch.

    Returns:
        float32 like each weight.

    Raises:
        RecipeError: there is no training data.
        DataError: it has no samples.
        NetworkError: an operation of the network cannot be differentiated twice, and would have to be.
    """
    generator = torch.Generator().manual_seed(evidence.recipe.seed)
    totals, count = zeros(evidence), 0
    with evaluating(evidence) as weights:
        for x, y in samples(evidence):
            for estimate in _estimates(evidence, weights, x, y, probes, generator):
                for name, total in totals.items():
                    total.add_(estimate[name].float(), alpha=count_samples(y) / probes)
            count += count_samples(y)
    return mean(totals, count)


def _estimates(
    evidence: Evidence, weights: Tensors, x: Any, y: Any, probes: int, generator: torch.Generator
) -> Iterator[Tensors]:
    """Of the diagonal for one batch."""
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels of attention have no second derivative
        output = outputs(evidence, weights, x)
    if not is_plain(output):
        slope = gradients(evidence.objective(output, x, y), weights, create_graph=True)
        for left in reversed(range(probes)):
            vector = {name: _signs(weight, generator) for name, weight in weights.items()}
            product = _product(slope, weights, vector, left > 0)
            yield {name: vector[name] * product[name] for name in weights}
        return
    for left, seed in zip(reversed(range(probes)), curved(evidence, output, x, y, probes, generator), strict=True):
        found = gradients((output * seed).sum(), weights, keep=left > 0)
        yield {name: gradient.float().square() for name, gradient in found.items()}


def curved(
    evidence: Evidence, output: torch.Tensor, x: Any, y: Any, probes: int, generator: torch.Generator
) -> Iterator[torch.Tensor]:
    """`probes` random gradients √B·v of the outputs, B being the curvature of a batch's mean loss by the outputs.

    The mean of their outer products is B, one block for each row. Sent backwards, they give the Gauss-Newton matrix,
    which is the Fisher matrix where the loss is a negative log-likelihood, such as cross entropy.

    Args:
        evidence, x, y: the loss, and the batch.
        output: of the network, one tensor (rows, ...), which is not differentiated here.
        probes: how many.
        generator: draws v.
    """
    leaf = output.detach().requires_grad_()
    slopes = gradients(evidence.objective(leaf, x, y), {"": leaf}, create_graph=True)
    for _ in range(probes):
        yield _root_times(
            lambda vector: _product(slopes, {"": leaf}, {"": vector}, True)[""], _signs(output.detach(), generator)
        )


def is_plain(output: Any) -> bool:
    """Whether an output is one tensor with rows, so that the curvature of the loss by it can be looked at."""
    return isinstance(output, torch.Tensor) and output.ndim > 0


@torch.no_grad()
def _root_times(product: Callable[[torch.Tensor], torch.Tensor], vector: torch.Tensor) -> torch.Tensor:
    """√B·v for each row of v, by Lanczos' method with full reorthogonalization (Golub and Van Loan, section 10.1).

    Args:
        product: gives B·v, B being symmetric, one block for each row. Negative eigenvalues, which convex losses have
            none of, are taken for zero.
        vector: v, (rows, ...).
    """
    rows = vector.reshape(len(vector), -1)
    size = rows.norm(dim=1, keepdim=True)
    basis, following = rows.new_zeros(len(rows), 0, rows.shape[1]), rows / size
    steps = min(KRYLOV, rows.shape[1])
    images = []
    for _ in range(steps):
        basis = torch.cat([basis, following[:, None]], dim=1)
        with torch.enable_grad():
            image = product(following.view_as(vector)).reshape(rows.shape)
        images.append(image)
        for _ in range(2):  # once leaves rounding errors
            image = image - ((basis @ image[..., None]).mT @ basis)[:, 0]
        length = image.norm(dim=1, keepdim=True)
        far = length > 1e-5 * images[-1].norm(dim=1, keepdim=True)  # else the space is complete
        following = torch.where(far, image / length.clamp_min(torch.finfo(length.dtype).tiny), 0.0)
    small = basis @ torch.stack(images, dim=1).mT
    values, vectors = torch.linalg.eigh((small + small.mT) / 2)
    start = vectors[:, :1] * values.clamp_min(0).sqrt()[:, None]
    result: torch.Tensor = size * ((start @ vectors.mT) @ basis)[:, 0]
    return result.view_as(vector)


def _product(slope: Tensors, weights: Tensors, vector: Tensors, again: bool) -> Tensors:
    """Hv, as the gradient of slope·v; `again` keeps the graph for another vector."""
    curved = [name for name in weights if slope[name].requires_grad]  # the loss is linear in the others
    if not curved:
        return {name: torch.zeros_like(weight) for name, weight in weights.items()}
    try:
        product = torch.autograd.grad(
            [slope[name] for name in curved],
            list(weights.values()),
            [vector[name] for name in curved],
            retain_graph=again,
            allow_unused=True,
            materialize_grads=True,
        )
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise NetworkError(TWICE.format(" ".join(str(error).split())[:200])) from error
    return dict(zip(weights, product, strict=True))


def _signs(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """±1, drawn on the CPU, so that every device sees the same."""
    bits = torch.randint(0, 2, like.shape, generator=generator, dtype=torch.int8)
    return bits.to(like.device, like.dtype).mul_(2).sub_(1)
