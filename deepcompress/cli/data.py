"""What a person says of data and task, and what becomes of it: a network and its data that fit each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from deepcompress import usercode
from deepcompress.cli.building import build_model
from deepcompress.cli.common import is_packed
from deepcompress.cli.naming import data_name, needed_network
from deepcompress.errors import DataError, RecipeError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from deepcompress.checkpoint import Checkpoint
    from deepcompress.training.data import DataSet
    from deepcompress.training.tasks import Task


@dataclass(frozen=True)
class Asked:
    """What a person said of data and task: options as they were given, so that other processes can be told."""

    data: str | None = None
    data_dir: str | None = None
    device: str = "auto"
    task: str | None = None
    loss: str | None = None
    metric: str | None = None
    normalize: str | None = None
    teacher_only: bool = False

    @classmethod
    def taken_from(cls, settings: dict[str, Any]) -> Asked:
        """Those options, which are no longer among `settings` then; what a command does not have is as by default."""
        return cls(**{field.name: settings.pop(field.name, field.default) for field in fields(cls)})

    def samples(self, source: Checkpoint, file: str, model: nn.Module | None = None) -> DataSet:
        """The data that a person named, or else the file, fed as the network takes it."""
        from deepcompress.training.check import takes_input
        from deepcompress.training.data import load_data

        takes = None if model is None else partial(takes_input, model)
        name, normalize = data_name(self.data, source.data, file, is_packed(file)), self.normalize or said(source)
        if self.teacher_only:
            from deepcompress.training.inputs_only import has_no_targets, load_inputs

            is_code = usercode.names_code(name)  # which a file may not name
            if has_no_targets(name) and (self.data is not None or not is_code):
                return load_inputs(name, normalize, takes)
        return load_data(name, self.data_dir, normalize, takes)

    def settled(self, model: nn.Module, samples: DataSet, test_only: bool = False) -> DataSet:
        """The data with its task, found to suit the network."""
        from deepcompress.training.check import settle
        from deepcompress.training.taught import taught_by

        loss, metric = (function_of(spec, f"--{name}") for name, spec in (("loss", self.loss), ("metric", self.metric)))
        if self.teacher_only:
            samples, loss, metric = taught_by(model, samples, self._kind(model, samples), loss, metric), None, None
        batches = list(samples.test_loader()) if test_only else samples.all_batches()
        task = settle(model, [batches], samples.task if self.teacher_only else self.task, loss, metric)
        if self.loss or self.metric:  # points of a study are known by it
            task = replace(task, name=" ".join(filter(None, (self.task, self.loss, self.metric))))
        return replace(samples, task=task)

    def _kind(self, model: nn.Module, samples: DataSet) -> str | None:
        """The task, as a person named it, or as labels that are there show it; None without either."""
        from deepcompress.training.check import settle

        if self.task is not None or self.loss is not None or not samples.has_targets:
            return self.task
        try:
            return settle(model, [samples.test_loader()]).name
        except DataError:  # labels of something else
            return None


def said(source: Checkpoint) -> str | None:
    """How a file says that inputs are normalized; what others may keep under that name is no business of ours."""
    from deepcompress.container.normalize import Normalization

    found = source.facts.get("normalize")
    try:
        return str(Normalization.parse(str(found))) if found else None
    except ValueError:
        return None


def function_of(spec: str | None, option: str) -> Callable[..., Any] | None:
    """The function ``file.py:name`` that a person named on the command line.

    Raises:
        RecipeError: there is no such file or function, or the file fails.
    """
    return None if spec is None else usercode.find(spec, option, RecipeError)


def tell(samples: DataSet, quiet: bool) -> None:
    """Say how the user's own data is fed, and what it is for if that was told by its shapes."""
    from deepcompress.training.tasks import CLASSIFICATION

    parts = [samples.inputs] if samples.inputs else []
    if samples.normalize:
        parts.append("not normalized" if samples.normalize == "none" else f"normalized by {samples.normalize}")
    if samples.task.name != CLASSIFICATION.name:
        parts.append(f"task {samples.task.name}, of which {samples.task.metric} is measured")
    if parts and not quiet:
        inputs = "inputs " if samples.inputs or samples.normalize else ""
        click.echo(f"{samples.name}: {inputs}{'; '.join(parts)}", err=True)


def facts_of(samples: DataSet) -> dict[str, str]:
    """What JSON says of the data: known data sets are normalized by their training data."""
    return {"normalize": samples.normalize or "data", "task": samples.task.name, "metric": samples.task.metric}


def axis_of(task: Task) -> str:
    """What an axis of a picture is called that has the task's metric on validation data."""
    unit = f" ({task.unit.strip()})" if task.unit else ""
    return f"Validation {task.metric.lower() if task.metric in ('Error', 'Loss') else task.metric}{unit}"


def model_and_data(source: Checkpoint, file: str, name: str, asked: Asked) -> tuple[nn.Module, DataSet]:
    """The network `name` with the tensors of `source`, and its data, on the device, found to fit each other."""
    from deepcompress.training.loop import pick_device

    model = build_model(source, name, file).to(pick_device(asked.device))
    samples = asked.samples(source, file, model).to(next(model.parameters()).device)
    return model, asked.settled(model, samples)


def example_input(
    source: Checkpoint, file: str, asked: Asked, shape: tuple[int, ...] | None, model: nn.Module | None = None
) -> torch.Tensor:
    """Two samples that a network takes: of the `shape` that a person gave, at random, or the first of its data."""
    import torch

    if shape is not None:
        return torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    return asked.samples(source, file, model).x_val[:2]


def example_of_file(file: str, asked: Asked, shape: tuple[int, ...] | None, model: nn.Module) -> torch.Tensor:
    """As `example_input`, of a .dc file whose tensors nobody needs."""
    from deepcompress.checkpoint import Checkpoint
    from deepcompress.container.reader import ModelFile

    with ModelFile(file) as opened:
        named = opened.header.data or None
    return example_input(Checkpoint({}, data=named), file, asked, shape, model)


def read_model_and_data(
    file: str, trust_pickle: bool, key: str | None, network: str | None, asked: Asked
) -> tuple[nn.Module, DataSet]:
    """As `model_and_data`, from the checkpoint `file` on: other processes can call it."""
    from deepcompress.checkpoint import open_checkpoint

    source = open_checkpoint(file, trust_pickle, key=key)
    return model_and_data(source, file, needed_network(network, source, file, "retrained"), asked)
