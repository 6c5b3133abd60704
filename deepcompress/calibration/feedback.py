"""Rounding with second-order error feedback.

Column by column the error of a weight is made good by those that are not rounded yet, as H says they can (optimal brain
surgery, Hassibi and Stork 1993; GPTQ, Frantar et al. 2023). Each takes the nearest number. One that is nearer to zero
would take fewer bits, but then the outputs of a layer become weaker, and that adds up from layer to layer as other
errors do not. A coarser step saves the same bits at less harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from deepcompress.calibration.kernels import round_block

DAMPING = 0.05  # of the mean of H's diagonal, added to it
_BLOCK = 64
_BEYOND = 2  # steps: as far beyond the largest weight may lie what makes errors good


@dataclass(frozen=True)
class Curvature:
    """H, factored: ``upper`` is the Cholesky factor of its inverse, columns in `order`.

    `dead` are inputs that are always zero (bool): their weights mean nothing.
    """

    order: torch.Tensor
    upper: torch.Tensor
    dead: torch.Tensor

    @classmethod
    def of(cls, second: torch.Tensor, noise: float = 0.0) -> Curvature:
        """From H (inputs, inputs), of whose off-diagonal squares a part is `noise`: by it they count less."""
        h = second.double() * (1 - noise)
        h.diagonal().copy_(second.diagonal())
        dead = h.diagonal() <= 0
        mean = float(h.diagonal().mean()) or 1.0
        h[dead, dead] = mean
        h.diagonal().add_(DAMPING * mean)
        order = torch.argsort(h.diagonal(), descending=True, stable=True)
        h = h[order][:, order]
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(h))
        upper = torch.linalg.cholesky(inverse, upper=True)
        return cls(order, upper.float(), dead)

    def ordered(self, rows: torch.Tensor) -> torch.Tensor:
        """Columns of `rows` in `order`; those of dead inputs are zero."""
        return rows.masked_fill(self.dead, 0.0)[:, self.order]

    @property
    def level(self) -> float:
        """The geometric mean of what errors cost, when those of later columns are made good."""
        return float((-2 * self.upper.diagonal().double().log().mean()).exp())


def rounded(weight: torch.Tensor, steps: torch.Tensor, curvatures: Sequence[Curvature], most: int) -> torch.Tensor:
    """Whole numbers (float32) for `weight` (groups, rows, inputs) on grids of `steps` (groups, rows), -most to most.

    Without curvatures nothing is fed back.
    """
    scaled = weight.float() / steps[..., None]
    if not curvatures:
        return scaled.round_().clamp_(-most, most)
    reach = min(int(scaled.abs().max()) + _BEYOND, most)
    found = torch.empty_like(scaled)
    for numbers, exact, each in zip(found, scaled, curvatures, strict=True):
        numbers[:, each.order] = _fed_back(each.ordered(exact), each.upper, reach)
    return found


def _fed_back(left: torch.Tensor, upper: torch.Tensor, most: int) -> torch.Tensor:
    """Whole numbers for `left` (rows, inputs), whose columns are in the order of `upper`; it is changed in place."""
    found, count = torch.empty_like(left), left.shape[1]
    for start in range(0, count, _BLOCK):
        some = slice(start, min(start + _BLOCK, count))
        block, factor = left[:, some].contiguous(), upper[some, some].contiguous()
        numbers, errors = round_block(block.numpy(), factor.numpy(), most)
        found[:, some] = torch.from_numpy(numbers)
        left[:, some.stop :] -= torch.from_numpy(errors) @ upper[some, some.stop :]
    return found
