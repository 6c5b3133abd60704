"""What a network may lose, in a metric of the user's: how much a rounded one has lost of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from deepcompress.errors import DeepCompressError, TaskError, first_line
from deepcompress.networks.inputs import Batches, place_of
from deepcompress.training.evaluation import Evaluation, check_measured, evaluate
from deepcompress.training.tasks import Task, own_task

#: Of a network, in evaluation: a number.
Judge = Callable[..., Any]


@dataclass(frozen=True)
class Budget:
    """A metric, and what it was for the network as it was given.

    Attributes:
        task: what the metric is called, and which way it goes.
        measure: the metric of a network, with all that was measured beside it.
        before: of the network as it was given.
    """

    task: Task
    measure: Callable[[nn.Module], Evaluation]
    before: Evaluation

    @classmethod
    def on_data(cls, network: nn.Module, batches: Batches, task: Task) -> Budget:
        """By the metric of a task on batches (input, target)."""

        def measure(found: nn.Module) -> Evaluation:
            return evaluate(found, batches, task)

        found = cls(task, measure, measure(network))
        return found.checked() if task.is_own else found

    @classmethod
    def by(cls, judge: Judge, network: nn.Module) -> Budget:
        """By a function of the user's that takes the network and returns a number, of which more is better, unless it
        has an attribute ``higher_is_better`` that says otherwise.

        Raises:
            TaskError: it fails, gives no number, or NaN or infinity for the network as it is.
        """
        task = own_task(None, judge)

        def measure(found: nn.Module) -> Evaluation:
            return Evaluation(None, None, math.nan, 0, _number(judge, found))

        return cls(task, measure, measure(network)).checked()

    def checked(self) -> Budget:
        """This budget, found to tell something.

        Raises:
            TaskError: the metric is no number for the network as it was given.
        """
        check_measured(self.before.value, self.task)
        return self

    def lost(self, network: nn.Module) -> float:
        """Points of the metric that `network` has lost, infinite where it has none; see `Task.lost`."""
        value = self.measure(network).value
        return self.task.lost(self.before.value, value) if math.isfinite(value) else math.inf


@torch.no_grad()
def _number(judge: Judge, network: nn.Module) -> float:
    was_training = network.training
    try:
        return float(judge(network.eval()))
    except DeepCompressError:
        raise
    except Exception as error:  # it is the user's code
        raise TaskError(
            f"the metric fails with {first_line(error, kind=True)}{place_of(error)}; without --data it is "
            "called with the network, and must return a number"
        ) from error
    finally:
        network.train(was_training)
