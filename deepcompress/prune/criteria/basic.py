"""Criteria that need no data."""

from __future__ import annotations

from deepcompress.prune.criteria.base import Evidence, Scores, criterion


@criterion("magnitude", scope="layer")
def magnitude(evidence: Evidence) -> Scores:
    """The absolute value (Han et al. 2015, section 3)."""
    return {name: weight.detach().abs() for name, weight in evidence.weights.items()}
