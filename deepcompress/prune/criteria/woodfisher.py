"""WoodFisher: the inverse of the empirical Fisher matrix, block by block (Singh and Alistarh 2020)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from deepcompress.networks.inputs import count_samples
from deepcompress.prune.criteria.base import Evidence, Verdict, criterion, samples
from deepcompress.prune.criteria.gradients import Tensors
from deepcompress.prune.criteria.per_sample import per_sample_gradients
from deepcompress.prune.masks import Masks

BLOCK = 64  # consecutive weights of a tensor, those that are alive, whose mutual influence is looked at
DAMPING = 0.1  # what is on the diagonal from the start, in mean squared gradients
AT_ONCE = 1 << 8  # blocks that are solved together


@criterion("woodfisher", scope="layer", local=True)
def woodfisher(evidence: Evidence) -> Verdict:
    """What the loss grows by if the others of the block move to the best place: ``w^2 / (2 [F^-1]_qq)``.

    F is the mean of ``g g^T`` over the gradients g of single samples, plus damping, in blocks of `BLOCK` of the weights
    that are not pruned yet, as they lie in memory (Singh and Alistarh 2020, equations 3 to 5; damping is a fixed 1e-5
    there, and goes by the mean squared gradient here, so that the scale of the loss does not matter). Once it is
    decided who stays, the correction is exact for all that a block loses at once: ``-[F^-1]_SP ([F^-1]_PP)^-1 w_P``,
    not the sum over single weights. It is asked again at each iteration, as the paper does in its gradual runs:
    gradients at the weights say little of far away.

    Memory: 4 bytes × weights × BLOCK, which is 0.26 GB for a million weights, and gradients of some samples.

    Raises:
        RecipeError: there is no training data.
        DataError: it has no samples.
    """
    inverses = inverse_fisher(evidence)
    scores = {}
    for name, weight in evidence.weights.items():
        alive = evidence.masks.keep[name]
        diagonal = inverses[name].diagonal(dim1=1, dim2=2).flatten()[: int(alive.sum())]
        largest = float(diagonal.max()) if len(diagonal) else 1.0
        least = torch.finfo(diagonal.dtype).eps * largest  # rounding may leave nothing of a very small one
        scores[name] = torch.zeros_like(weight, dtype=torch.float32)
        scores[name][alive] = (weight.detach()[alive].square() / (2 * diagonal.clamp_min(least))).float()

    def correct(masks: Masks) -> None:
        for name, weight in evidence.weights.items():
            alive = evidence.masks.keep[name]
            values, keep = blocks(weight.detach()[alive]), blocks(masks.keep[name][alive])
            parts = zip(*(torch.split(part, AT_ONCE) for part in (inverses[name], values, keep)), strict=True)
            moved = torch.cat([compensated(*part) for part in parts])
            with torch.no_grad():
                weight[alive] = moved.flatten()[: int(alive.sum())].to(weight.dtype)

    return Verdict(scores, correct)


def inverse_fisher(evidence: Evidence) -> Tensors:
    """For each tensor the inverses of the blocks of its alive weights: (blocks, BLOCK, BLOCK), at least float32."""
    start = 1 / _damping(evidence)
    inverses = {
        name: torch.eye(BLOCK, device=weight.device, dtype=torch.promote_types(weight.dtype, torch.float32))
        .mul(start)
        .repeat(-(-evidence.masks.kept(name) // BLOCK), 1, 1)
        for name, weight in evidence.weights.items()
    }
    number = _count(evidence)
    for found in per_sample_gradients(evidence):
        for name, value in found.items():
            grads = blocks(value[:, evidence.masks.keep[name]]).transpose(0, 1).to(inverses[name].dtype)
            for inverse, part in zip(*(torch.split(whole, AT_ONCE) for whole in (inverses[name], grads)), strict=True):
                count_in(inverse, part, number)
    return inverses


def _damping(evidence: Evidence) -> float:
    """`DAMPING` times the mean squared gradient by the weights that are alive; 1 where all are 0.

    Of all samples: in a trained network the few that it gets wrong have nearly all of it.
    """
    total, count = 0.0, 0
    for found in per_sample_gradients(evidence):
        total += sum(float(value.float().square().sum()) for value in found.values())
        count += len(next(iter(found.values())))
    alive = sum(map(evidence.masks.kept, evidence.weights))
    return DAMPING * total / (count * max(alive, 1)) or 1.0


def _count(evidence: Evidence) -> int:
    """How many samples there are to look at."""
    return sum(count_samples(y) for _, y in samples(evidence))


def blocks(values: torch.Tensor) -> torch.Tensor:
    """(…, weights) as (…, blocks, BLOCK), the last block filled up with zeros."""
    return torch.unflatten(F.pad(values, (0, -values.shape[-1] % BLOCK)), -1, (-1, BLOCK))


@torch.no_grad()
def count_in(inverse: torch.Tensor, grads: torch.Tensor, number: int) -> None:
    """From the inverse of F to that of ``F + 1/number sum g g^T``, in place, by Woodbury's identity.

    With one gradient at a time this is the recursion of Singh and Alistarh 2020, equation 4.

    Args:
        inverse: (blocks, size, size).
        grads: gradients g of some samples, (blocks, samples, size).
        number: samples of all calls together.
    """
    reached = grads @ inverse
    inner = reached @ grads.mT
    inner.diagonal(dim1=1, dim2=2).add_(number)
    inverse.baddbmm_(reached.mT, torch.linalg.solve(inner, reached), alpha=-1)


@torch.no_grad()
def compensated(inverse: torch.Tensor, values: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """`values`, those that are kept moved to where ``1/2 d^T F d`` is least, the others being 0.

    Solved for all blocks together: rows of weights that are kept become those of the identity.

    Args:
        inverse: of F, (blocks, size, size).
        values: (blocks, size).
        keep: bool, like `values`.

    Returns:
        like `values`, in the dtype of `inverse`; blocks that lose nothing are as they were.
    """
    lost = (values * ~keep).to(inverse.dtype)
    among = inverse * (~keep[:, :, None] & ~keep[:, None, :]) + torch.diag_embed(keep.to(inverse.dtype))
    multipliers = torch.linalg.solve(among, lost[:, :, None])
    move = (inverse @ multipliers)[:, :, 0]
    return torch.where(keep, values.to(inverse.dtype) - move, 0.0)
