"""Samples to calibrate on, from what the user names: inputs alone, no labels."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from deepcompress.errors import DataError
from deepcompress.networks.inputs import count_samples, rows
from deepcompress.training.unlabeled import read_inputs

FEWEST, MOST = 8, 1024  # samples that are needed, and that are read
BATCHES = 8  # at least, if the samples are enough for it: what differs between them is taken for chance
HELD_OUT = 4  # each so many-th batch is kept to judge by what the others taught; of fewer, the last

Batch = TypeVar("Batch")


def load_samples(name: str) -> list[Any]:
    """Batches of inputs, about `MOST` samples at most, of what `name` says (see `training.unlabeled.read_inputs`).

    Raises:
        DataError: it is not there, or holds nothing of the kind.
    """
    return read_inputs(name, "--calibrate", MOST)


def check_enough(samples: int) -> None:
    """Refuse fewer samples than `FEWEST` (`DataError`)."""
    if samples < FEWEST:
        raise DataError(f"there are {samples} samples to calibrate on, and at least {FEWEST} are needed (try 256)")


def parted(batches: Iterable[Any]) -> tuple[list[Any], list[Any]]:
    """Batches to learn from, and others to judge by, a quarter of them; few large batches are cut into smaller ones.

    Raises:
        DataError: a batch holds no tensor whose first dimension are samples.
    """
    given = [batch for batch in batches if count_samples(batch)]
    whole = [piece for batch in given for piece in pieces(batch, -(-BATCHES // len(given)))]
    return held_apart(whole)


def held_apart(batches: Sequence[Batch]) -> tuple[list[Batch], list[Batch]]:
    """Each `HELD_OUT`-th batch is in the second list, and of fewer the last; the others are in the first."""
    every = max(min(HELD_OUT, len(batches)), 1)
    learned = [batch for place, batch in enumerate(batches) if place % every != every - 1]
    return learned, list(batches[every - 1 :: every])


def pieces(batch: Any, count: int) -> list[Any]:
    """A batch in `count` parts, or fewer, so that each has two samples."""
    samples = count_samples(batch)
    count = max(min(count, samples // 2), 1)
    if count == 1:
        return [batch]
    ends = [place * samples // count for place in range(count + 1)]
    return [rows(batch, start, stop) for start, stop in itertools.pairwise(ends)]
