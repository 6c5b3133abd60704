"""A mixture of Gaussians as the prior of weights: density, gradients, and which component a weight is of.

Component 0 lies at zero. The others have means, precisions (one over the variance) and parts that are learned (Nowlan
and Hinton 1992; Ullrich, Meeds and Welling 2017, section 4)::

    p(w) = sum_j pi_j N(w | mu_j, 1 / lambda_j),  mu_0 = 0
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from deepcompress.quantize.line import Line, ends

#: KL divergence in nats below which two components are one, as in the authors' code.
SAME = 1e-10

# The Gamma prior of precisions stands for so many weights, of all, at such a distance from the mean, in root mean
# squares of all weights. The numbers of weights are those of the authors' code, 10,000 and 500 of 642,000.
SEEN_ZERO, SEEN_OTHERS, DEVIATION = 1 / 64, 1 / 1280, 0.2

MOST_ODDS, STEPS = 64.0, 32  # log odds between which the part of the component at zero is looked for, and how long


@dataclass(frozen=True)
class Components:
    """K Gaussians, the one at zero first: means, logarithms of precisions and of parts (float64 on the CPU, K each)."""

    means: torch.Tensor
    log_precisions: torch.Tensor
    log_parts: torch.Tensor

    @property
    def precisions(self) -> torch.Tensor:
        """One over the variances."""
        return self.log_precisions.exp()

    def distances(self, weights: torch.Tensor) -> torch.Tensor:
        """lambda / 2 (w - mu)^2 of all components and weights (K, n)."""
        return 0.5 * self.precisions[:, None] * (weights[None] - self.means[:, None]).square()

    def log_terms(self, weights: torch.Tensor) -> torch.Tensor:
        """log(pi N(w)) of all components and weights (K, n)."""
        peaks = self.log_parts + 0.5 * self.log_precisions - 0.5 * math.log(2 * math.pi)
        return peaks[:, None] - self.distances(weights)

    def chosen(self, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """For each weight (n) the most probable component that is not at zero, and its log odds against that one."""
        terms = self.log_terms(weights)
        highest, component = terms[1:].max(dim=0)
        return component + 1, highest - terms[0]

    def balanced(self, weights: torch.Tensor, counts: torch.Tensor, part: float) -> Components:
        """The same with such a part of the component at zero that it has the `part` of all weights.

        `counts` says how often each of the `weights` is there; responsibilities are counted.
        """
        terms = self.log_terms(weights)
        against = terms[0] - terms[1:].logsumexp(dim=0)
        low, high = -MOST_ODDS, MOST_ODDS
        for _ in range(STEPS):
            middle = (low + high) / 2
            found = float(counts @ (against + middle).sigmoid())
            low, high = (low, middle) if found > part * float(counts.sum()) else (middle, high)
        shift = torch.zeros_like(self.log_parts)
        shift[0] = low
        return replace(self, log_parts=self.log_parts + shift)

    def merged(self) -> Components:
        """Components that are the same are added up; what is added to the one at zero is at zero."""
        group = _same(self)
        logs = self.log_parts.where(group[None] == torch.unique(group)[:, None], -math.inf)
        shares = logs.softmax(dim=1)
        means = shares @ self.means
        means[0] = 0.0  # groups are in the order of their first members
        return Components(means, (shares @ self.precisions).log(), logs.logsumexp(dim=1))


def _same(components: Components) -> torch.Tensor:
    """For each component the first that is linked to it by ones that are the same."""
    means, logs = components.means, components.log_precisions
    ratio = logs[None] - logs[:, None]
    shift = (means[:, None] - means[None]).square() * components.precisions[None]
    divergence = 0.5 * (torch.expm1(ratio) - ratio + shift)  # KL(row || column)
    linked = (divergence < SAME) | (divergence.T < SAME)
    group = torch.arange(len(means))
    for _ in means:
        group = torch.where(linked, group[None], len(means)).amin(dim=1)
    return group


@dataclass(frozen=True)
class Mixture:
    """K components: what of them is learned, and what is fixed. All of it is on the CPU, where float64 is at home.

    Attributes:
        means: of all components but the one at zero (float32, K - 1).
        log_precisions: of all components (float32, K).
        logits: of the parts of all components but the one at zero (float32, K - 1).
        zero: the part of all weights that the one at zero has.
        seen: the Gamma prior of each precision acts like so many more weights (float64, K), ...
        deviation: ... that lie so far from the mean.
    """

    means: nn.Parameter
    log_precisions: nn.Parameter
    logits: nn.Parameter
    zero: float
    seen: torch.Tensor
    deviation: float

    @torch.no_grad()
    def components(self) -> Components:
        """The components as they are now (float64); the part of the one at zero is still to be balanced."""
        zero = torch.zeros(1, dtype=torch.float64)
        means, logits = self.means.double(), self.logits.double()
        return Components(
            torch.cat([zero, means]), self.log_precisions.double(), torch.cat([zero, logits.log_softmax(dim=0)])
        )

    @torch.no_grad()
    def gradients(self, weights: Sequence[torch.Tensor], factor: float) -> list[torch.Tensor]:
        """Gradients of `factor` times the negative log prior, by each of the `weights`; those of the mixture are set.

        With the responsibilities r_ij and the Gamma prior of shape 1 + seen / 2 and rate seen * deviation^2 / 2::

            by w_i:             sum_j r_ij lambda_j (w_i - mu_j)
            by mu_j:            sum_i r_ij lambda_j (mu_j - w_i)
            by log(lambda_j):   sum_i r_ij (lambda_j (w_i - mu_j)^2 - 1) / 2 + seen_j (lambda_j deviation^2 - 1) / 2
            by the logit of j:  -sum_i (r_ij - pi_j / (1 - pi_0) sum_k>0 r_ik)

        pi_0 is what makes the mean of r_i0 `zero`. The prior is a function of one number: it is computed on a line, and
        the weights are between its points.

        Raises:
            DivergedError: the weights, or the mixture, are no longer finite.
        """
        ends((self.means, self.log_precisions, self.logits))  # they have diverged where these are not finite
        now = self.components()
        line = Line.through(weights, float((-0.5 * now.log_precisions.max()).exp()))
        places = [line.places(weight) for weight in weights]
        points, counts = line.points, line.counts(places)
        now = now.balanced(points, counts, self.zero)
        distances, shares = now.distances(points), now.log_terms(points).softmax(dim=0)
        taken = shares @ counts
        pulls = now.precisions @ shares * points - (now.precisions * now.means) @ shares
        by_mean = now.precisions * (now.means * taken - shares @ (counts * points))
        held = self.seen * (now.precisions * self.deviation**2 - 1)
        by_precision = (shares * distances) @ counts - 0.5 * taken + 0.5 * held
        by_logit = self.logits.double().softmax(dim=0) * taken[1:].sum() - taken[1:]
        self.means.grad = (factor * by_mean[1:]).float()
        self.log_precisions.grad = (factor * by_precision).float()
        self.logits.grad = (factor * by_logit).float()
        return [place.values(factor * pulls).view(weight.shape) for place, weight in zip(places, weights, strict=True)]


@torch.no_grad()
def begin(weights: Sequence[torch.Tensor], components: int, zero: float) -> Mixture:
    """A mixture for `weights`: so many `components` beside the one at zero, whose means go over the weights' range.

    All begin as wide as the root mean square of the weights.
    """
    low, high = ends(weights)
    number = sum(weight.numel() for weight in weights)
    size = math.sqrt(sum(float(weight.float().square().sum()) for weight in weights) / number) or 1.0
    seen = torch.tensor([SEEN_ZERO, *[SEEN_OTHERS] * components], dtype=torch.float64)
    return Mixture(
        nn.Parameter(torch.linspace(low, high, components)),
        nn.Parameter(torch.full((components + 1,), -2 * math.log(size))),
        nn.Parameter(torch.zeros(components)),
        zero,
        number * seen,
        DEVIATION * size,
    )
