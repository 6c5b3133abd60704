"""What several commands do: show a result, read a model, find its network and its data."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deepcompress.errors import DataError, DeepCompressError, OutputError
from deepcompress.files import write_atomic
from deepcompress.version import __version__

if TYPE_CHECKING:
    import torch
    from torch import nn

    from deepcompress.checkpoint import Checkpoint
    from deepcompress.training.data import DataSet
    from deepcompress.training.progress import Progress
    from deepcompress.training.tasks import Task


def show(as_json: bool, result: dict[str, Any], text: Callable[[], str | None]) -> None:
    """Print the result on stdout: one JSON object, or what `text` returns or prints itself."""
    if as_json:
        click.echo(json.dumps(result, indent=2, allow_nan=False))
        return
    line = text()
    if line is not None:
        click.echo(line)


def command_line() -> str:
    """The command as it was given."""
    return " ".join(["deepcompress", *sys.argv[1:]])


def versions() -> dict[str, str]:
    """What the outcome of a run depends on beside its command and seed."""
    from importlib.metadata import version

    packages = ("torch", "torchvision", "numpy", "scikit-learn", "bitarray")
    found = {name: version(name) for name in packages}
    return {"python": sys.version.split()[0], "deepcompress": __version__, **found}


def storable(network: str) -> str:
    """A network's name as it may stand in a file: that of the user's own code (file.py:factory) may not."""
    return "" if ".py:" in network else network


def data_label(named: str | None) -> str:
    """The data that a checkpoint names as it may stand in a file: without the path of the user's own."""
    return Path(named or "").stem


def is_packed(file: str) -> bool:
    """Whether it is a .dc file, by its ending or else by its first bytes."""
    from deepcompress.container.entries import MAGIC

    path = Path(file)
    if path.suffix == ".dc" or not path.is_file():
        return path.suffix == ".dc"
    with path.open("rb") as stream:
        return stream.read(len(MAGIC)) == MAGIC


def load_any(file: str, trust_pickle: bool, max_bytes: int | None) -> Checkpoint:
    """A .dc file or a dense checkpoint as a Checkpoint."""
    from deepcompress.checkpoint import Checkpoint, load_checkpoint
    from deepcompress.container.normalize import normalize_in
    from deepcompress.container.reader import ModelFile
    from deepcompress.reading.loader import load_state_dict

    if not is_packed(file):
        return load_checkpoint(file, trust_pickle)
    with ModelFile(file) as opened:
        header = opened.header
    normalize = normalize_in(header.extensions)
    facts: dict[str, str | int | float] = {"normalize": normalize} if normalize else {}
    return Checkpoint(load_state_dict(file, max_bytes=max_bytes), header.network or None, header.data or None, facts)


def file_settings(file: str) -> dict[str, Any]:
    """The settings that a .dc file was made by."""
    from deepcompress.compression.from_file import settings_of

    return settings_of(file)


def known_buffers(name: str | None, source: Checkpoint) -> set[str]:
    """Tensors that are no parameters of the network `name`, as far as it can be built without its tensors."""
    import torch

    from deepcompress import networks
    from deepcompress.layers import buffers_of

    if name is None:
        return set()
    if name.partition(":")[0].endswith(".py"):
        return buffers_of(networks.build(name))
    with torch.device("meta"):
        return buffers_of(networks.build_known(name))


def network_name(source: Checkpoint) -> str | None:
    """The network that a file names, or that its tensors fit."""
    from deepcompress import networks

    return source.network or networks.match(source.state)


def build_model(source: Checkpoint, name: str | None, file: str, purpose: str) -> nn.Module:
    """The network `name` with the tensors of `source`.

    Raises:
        NetworkError: nobody said which network it is, or the tensors do not fit.
    """
    from deepcompress import networks
    from deepcompress.errors import NetworkError
    from deepcompress.reading.loader import fill

    if name is None:
        raise NetworkError(
            f"{file}: its tensors fit no known network, so it cannot be {purpose}: name it with --network "
            "(your own: --network file.py:factory), or compress it with --no-retrain"
        )
    state = dict(source.state)
    elements = sum(value.numel() for value in state.values())
    model = networks.build(name) if source.network != name else networks.build_known(name, elements)
    fill(model, state, file)
    return model


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

    @classmethod
    def taken_from(cls, settings: dict[str, Any]) -> Asked:
        """Those options, which are no longer among `settings` then."""
        return cls(**{field.name: settings.pop(field.name) for field in fields(cls)})

    def samples(self, source: Checkpoint, file: str, model: nn.Module | None = None) -> DataSet:
        """The data that a person named, or else the file, fed as the network takes it."""
        from deepcompress.training.check import takes_input
        from deepcompress.training.data import load_data

        takes = None if model is None else partial(takes_input, model)
        return load_data(data_name(self.data, source.data, file), self.data_dir, self.normalize or said(source), takes)

    def settled(self, model: nn.Module, samples: DataSet, test_only: bool = False) -> DataSet:
        """The data with its task, found to suit the network."""
        from deepcompress.training.check import settle

        loss, metric = (function_of(spec, f"--{name}") for name, spec in (("loss", self.loss), ("metric", self.metric)))
        batches = list(samples.test_loader()) if test_only else samples.all_batches()
        task = settle(model, [batches], self.task, loss, metric)
        if self.loss or self.metric:  # points of a study are known by it
            task = replace(task, name=" ".join(filter(None, (self.task, self.loss, self.metric))))
        return replace(samples, task=task)


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
    import runpy

    from deepcompress.errors import RecipeError

    if spec is None:
        return None
    path, _, name = spec.rpartition(":")
    if not path.endswith(".py"):
        raise RecipeError(f"{option} {spec}: write file.py:function")
    if not Path(path).is_file():
        raise RecipeError(f"{option} {spec}: the file {path} does not exist")
    try:
        found = runpy.run_path(path).get(name)
    except Exception as error:  # it is the user's code
        raise RecipeError(f"{option} {spec}: {path} fails with {type(error).__name__}: {error}") from error
    if not callable(found):
        raise RecipeError(f"{option} {spec}: {path} defines no function named {name!r}")
    function: Callable[..., Any] = found
    return function


def tell(samples: DataSet, quiet: bool) -> None:
    """Say how the user's own data is fed, and what it is for if that was told by its shapes."""
    from deepcompress.training.tasks import CLASSIFICATION

    parts = [samples.inputs] if samples.inputs else []
    if samples.normalize:
        parts.append("not normalized" if samples.normalize == "none" else f"normalized by {samples.normalize}")
    if samples.task.name != CLASSIFICATION.name:
        parts.append(f"task {samples.task.name}, of which {samples.task.metric} is measured")
    if parts and not quiet:
        click.echo(f"{samples.name}: inputs {'; '.join(parts)}", err=True)


def facts_of(samples: DataSet) -> dict[str, str]:
    """What JSON says of the data: known data sets are normalized by their training data."""
    return {"normalize": samples.normalize or "data", "task": samples.task.name, "metric": samples.task.metric}


def axis_of(task: Task) -> str:
    """What an axis of a picture is called that has the task's metric on validation data."""
    unit = f" ({task.unit.strip()})" if task.unit else ""
    return f"Validation {task.metric.lower() if task.metric in ('Error', 'Loss') else task.metric}{unit}"


def model_and_data(source: Checkpoint, file: str, name: str | None, asked: Asked) -> tuple[nn.Module, DataSet]:
    """The network `name` with the tensors of `source`, and its data, on the device, found to fit each other."""
    from deepcompress.training.loop import pick_device

    model = build_model(source, name, file, "retrained").to(pick_device(asked.device))
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


def read_model_and_data(file: str, trust_pickle: bool, network: str | None, asked: Asked) -> tuple[nn.Module, DataSet]:
    """As `model_and_data`, from the checkpoint `file` on: other processes can call it."""
    from deepcompress.checkpoint import open_checkpoint

    source = open_checkpoint(file, trust_pickle)
    return model_and_data(source, file, network or network_name(source), asked)


@contextmanager
def resumable(journal: Path | None, resume: bool, watch: Progress) -> Iterator[None]:
    """A run whose state is kept in `journal`, if it is: it goes on from there, or it must begin anew.

    Raises:
        ResumeError: there is the state of an interrupted run, and nobody said `resume`.
        DeepCompressError: it was interrupted itself, by Ctrl-C; saying how to go on.
    """
    from deepcompress.training.journal import check_unused, is_interrupted

    if journal is None:
        yield
        return
    if not resume:
        check_unused(journal)
    elif not is_interrupted(journal):
        watch.message(f"{journal} holds no interrupted run: starting from the beginning")
    try:
        yield
    except KeyboardInterrupt:
        if not is_interrupted(journal):
            raise
        raise DeepCompressError(
            f"interrupted; what is done stays in {journal}, and the same command with --resume goes on from there"
        ) from None


def output_folder(path: Path) -> Path:
    """Make a folder for results, if it is not there.

    Raises:
        OutputError: that is not possible.
    """
    if path.exists() and not path.is_dir():
        raise OutputError(f"cannot write into {path}: it is not a folder")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {path}: {error.strerror or error}") from None
    return path


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """The `columns` of `rows` as a CSV file; what is None is left empty.

    Raises:
        OutputError: it cannot be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue().encode())


def data_name(given: str | None, named: str | None, file: str) -> str:
    """The data that a person named, else that which the file names.

    A .dc file may come from anybody: what it names is looked for among the known data sets, and not on the disk.
    """
    from deepcompress.training.data import DATA_SETS

    if given:
        return given
    if not named:
        raise DeepCompressError(f"{file}: names no data set; say which with --data (digits, mnist, …, DIR, FILE.npz)")
    if named in DATA_SETS or (Path(named).exists() and not is_packed(file)):
        return named
    raise DataError(
        f"{file}: the file names the data {named!r}, which is a folder or .npz file of whoever made it: "
        "give it with --data"
    )
