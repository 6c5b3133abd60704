"""What several commands do: show a result, read a model, find its network and its data."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
    from deepcompress.container.reader import ModelFile
    from deepcompress.reading.loader import load_state_dict

    if not is_packed(file):
        return load_checkpoint(file, trust_pickle)
    with ModelFile(file) as opened:
        header = opened.header
    return Checkpoint(load_state_dict(file, max_bytes=max_bytes), header.network or None, header.data or None)


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
    from deepcompress.networks.precision import remember
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
    remember(model, state)
    return model


def model_and_data(
    source: Checkpoint, file: str, name: str | None, data: str | None, data_dir: str | None, device: str
) -> tuple[nn.Module, DataSet]:
    """The network `name` with the tensors of `source`, and its data, on the device, found to fit each other."""
    from deepcompress.training.data import load_data
    from deepcompress.training.loop import check_fits, pick_device

    model = build_model(source, name, file, "retrained")
    samples = load_data(data_name(data, source.data, file), data_dir)
    target = pick_device(device)
    model, samples = model.to(target), samples.to(target)
    check_fits(model, samples.all_batches())
    return model, samples


def example_input(
    source: Checkpoint, file: str, data: str | None, data_dir: str | None, shape: tuple[int, ...] | None
) -> torch.Tensor:
    """Two samples that a network takes: of the `shape` that a person gave, at random, or the first of its data."""
    import torch

    from deepcompress.training.data import load_data

    if shape is not None:
        return torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    return load_data(data_name(data, source.data, file), data_dir).x_val[:2]


def example_of_file(file: str, data: str | None, data_dir: str | None, shape: tuple[int, ...] | None) -> torch.Tensor:
    """As `example_input`, of a .dc file whose tensors nobody needs."""
    from deepcompress.checkpoint import Checkpoint
    from deepcompress.container.reader import ModelFile

    with ModelFile(file) as opened:
        named = opened.header.data or None
    return example_input(Checkpoint({}, data=named), file, data, data_dir, shape)


def read_model_and_data(
    file: str, trust_pickle: bool, network: str | None, data: str | None, data_dir: str | None, device: str
) -> tuple[nn.Module, DataSet]:
    """As `model_and_data`, from the checkpoint `file` on: other processes can call it."""
    from deepcompress.checkpoint import open_checkpoint

    source = open_checkpoint(file, trust_pickle)
    return model_and_data(source, file, network or network_name(source), data, data_dir, device)


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
