"""Rounding with second-order error feedback, and what each number costs in bits as a part of the choice.

Column by column the error of a weight is made good by those that are not rounded yet, as H says they can (optimal brain
surgery, Hassibi and Stork 1993; GPTQ, Frantar et al. 2023). Which whole number a weight takes is decided by its error
plus a price for each bit, by the code that the last pass made of all numbers (entropy-constrained quantization, Chou,
Lookabaugh and Gray 1989).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from deepcompress.calibration.kernels import round_block

PRICE = 0.1155  # of a bit, in squared steps: where rate and distortion of a fine grid balance, ln(2) / 6
DAMPING = 0.05  # of the mean of H's diagonal, added to it
PASSES = 2
_BLOCK = 64
_AT_ONCE = 1 << 20  # numbers that are looked at together, for the memory that it takes
_UNSEEN = 0.02  # what a number that did not occur counts as


@dataclass(frozen=True)
class Curvature:
    """H, factored: ``upper`` is the Cholesky factor of its inverse, columns in `order`; `worth` what an error costs.

    `dead` are inputs that are always zero (bool): their weights mean nothing.
    """

    order: torch.Tensor
    upper: torch.Tensor
    worth: torch.Tensor
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
        return cls(order, upper.float(), upper.diagonal().square().reciprocal().float(), dead)

    def ordered(self, rows: torch.Tensor) -> torch.Tensor:
        """Columns of `rows` in `order`; those of dead inputs are zero."""
        return rows.masked_fill(self.dead, 0.0)[:, self.order]

    @property
    def level(self) -> float:
        """The geometric mean of what errors cost."""
        return float(self.worth.double().log().mean().exp())


def _parts(numbers: torch.Tensor) -> list[torch.Tensor]:
    flat = numbers.view(-1)
    return [flat[start : start + _AT_ONCE] for start in range(0, len(flat), _AT_ONCE)]


def code_lengths(integers: torch.Tensor, reach: int) -> torch.Tensor:
    """Bits of each whole number from -reach to reach in an ideal code for `integers`."""
    counts = torch.full((2 * reach + 1,), _UNSEEN)
    for part in _parts(integers):
        counts += torch.bincount(part.long() + reach, minlength=2 * reach + 1)
    return -(counts / counts.sum()).log2()


def rounded(
    weight: torch.Tensor, steps: torch.Tensor, curvatures: Sequence[Curvature], levels: torch.Tensor, most: int
) -> torch.Tensor:
    """Whole numbers (float32) for `weight` (groups, rows, inputs) on grids of `steps` (groups, rows), -most to most.

    All groups have one code. `levels` (groups) are what an error costs on average where the steps were chosen. Without
    curvatures, errors of all inputs cost alike and nothing is fed back.
    """
    scaled = (weight.float() / steps[..., None]).contiguous()
    reach = min(int(max(scaled.max(), -scaled.min())) + 2, most)
    if curvatures:
        scaled = torch.stack([each.ordered(part) for part, each in zip(scaled, curvatures, strict=True)])
    found = scaled.round().clamp(-reach, reach)
    for _ in range(PASSES):
        bits = code_lengths(found, reach)
        if not curvatures:
            for part, exact in zip(_parts(found), _parts(scaled), strict=True):
                part.copy_(_cheapest(exact, PRICE, bits, reach))
            continue
        each_group = zip(scaled, curvatures, levels.tolist(), strict=True)
        found = torch.stack([_pass(part, each, PRICE * level, bits, reach) for part, each, level in each_group])
    for part, each in zip(found, curvatures, strict=False):
        part[:, each.order] = part.clone()
    return found


def _pass(scaled: torch.Tensor, curvature: Curvature, price: float, bits: torch.Tensor, reach: int) -> torch.Tensor:
    """One pass over the columns of `scaled` (rows, inputs), which are in the order of the curvature."""
    left, found, count = scaled.clone(), torch.zeros_like(scaled), scaled.shape[1]
    prices = (price / curvature.worth).numpy()
    for start in range(0, count, _BLOCK):
        some = slice(start, min(start + _BLOCK, count))
        block, upper = left[:, some].contiguous(), curvature.upper[some, some].contiguous()
        numbers, errors = round_block(block.numpy(), upper.numpy(), prices[some], bits.numpy(), reach)
        found[:, some] = torch.from_numpy(numbers)
        left[:, some.stop :] -= torch.from_numpy(errors) @ curvature.upper[some, some.stop :]
    return found


def _cheapest(scaled: torch.Tensor, price: float, bits: torch.Tensor, reach: int) -> torch.Tensor:
    """Of the nearest whole number, the next one towards zero, and zero, the one of the least error and price."""
    best = scaled.round().clamp(-reach, reach)
    cost = (scaled - best).square() + price * bits[best.long() + reach]
    for other in (best - best.sign(), torch.zeros_like(best)):
        here = (scaled - other).square() + price * bits[other.long() + reach]
        better = here < cost
        best, cost = torch.where(better, other, best), torch.where(better, here, cost)
    return best
