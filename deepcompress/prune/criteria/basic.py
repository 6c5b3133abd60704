"""Criteria that need no data."""

from __future__ import annotations

import torch

from deepcompress.prune.criteria.base import Evidence, Scores, criterion


@criterion("magnitude", scope="layer")
def magnitude(evidence: Evidence) -> Scores:
    """The absolute value (Han et al. 2015, section 3)."""
    return {name: weight.detach().abs() for name, weight in evidence.weights.items()}


@criterion("random", scope="layer")
def random(evidence: Evidence) -> Scores:
    """Uniform numbers from 0 to 1 by the recipe's seed: the control, which every other criterion should beat.

    They are drawn on the CPU, so that every device sees the same, and are the same at each iteration: what was pruned
    stays a part of what is pruned next.
    """
    generator = torch.Generator().manual_seed(evidence.recipe.seed)
    return {name: torch.rand(w.shape, generator=generator).to(w.device) for name, w in evidence.weights.items()}
