"""Sparsity over iterations, and iterations over epochs, by hand."""

from __future__ import annotations

import pytest

from deepcompress.errors import RecipeError
from deepcompress.prune.schedule import PRUNING_PART, SCHEDULES, epochs_of, progress
from deepcompress.recipe import CHOICES


def test_values_by_hand():
    assert progress("one-shot", 6) == [1.0]
    assert progress("linear", 4) == [0.25, 0.5, 0.75, 1.0]
    assert progress("cubic", 4) == [1 - 0.75**3, 1 - 0.5**3, 1 - 0.25**3, 1.0]


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("iterations", [1, 2, 7])
def test_a_schedule_rises_to_exactly_one(name, iterations):
    steps = progress(name, iterations)
    assert steps[-1] == 1
    assert steps == sorted(set(steps))
    assert 0 < steps[0] <= 1


def test_every_choice_exists():
    assert CHOICES["schedule"] == (*SCHEDULES, "circular", "gap")


@pytest.mark.parametrize("name", ["circular", "gap"])
def test_what_validation_data_decides_cannot_be_said_in_advance(name):
    with pytest.raises(RecipeError, match=f"schedule '{name}' needs validation data .* one-shot, linear, cubic"):
        progress(name, 3)


def test_steps_are_spread_over_the_first_part_of_the_epochs():
    assert PRUNING_PART == 0.6
    assert epochs_of([0.2, 0.5, 1.0], 10) == {0: 0.2, 2: 0.5, 4: 1.0}
    assert epochs_of([0.2, 0.5, 1.0], 9, part=1.0) == {0: 0.2, 3: 0.5, 6: 1.0}
    assert epochs_of([0.2, 0.4, 0.6, 0.8, 0.9, 1.0], 10) == {0: 0.2, 1: 0.4, 2: 0.6, 3: 0.8, 4: 0.9, 5: 1.0}


def test_an_epoch_takes_the_last_of_its_steps():
    assert epochs_of([0.25, 0.5, 0.75, 1.0], 1) == {0: 1.0}
    assert epochs_of([0.25, 0.5, 0.75, 1.0], 4) == {0: 0.5, 1: 1.0}


@pytest.mark.parametrize("epochs", range(1, 30))
@pytest.mark.parametrize("count", [1, 2, 5, 12])
def test_the_last_step_is_always_reached_in_time(epochs, count):
    steps = progress("cubic", count)
    starts = epochs_of(steps, epochs)
    assert 0 in starts
    assert list(starts.values())[-1] == 1.0
    assert max(starts) < max(1, PRUNING_PART * epochs)
