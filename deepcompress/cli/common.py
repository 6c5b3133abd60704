"""What several commands do: show a result, read a model, find its network and its data."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deepcompress import __version__
from deepcompress.errors import DeepCompressError

if TYPE_CHECKING:
    from torch import nn

    from deepcompress.checkpoint import Checkpoint


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


def load_any(file: str, trust_pickle: bool, max_bytes: int | None) -> Checkpoint:
    """A .dc file or a dense checkpoint as a Checkpoint."""
    from deepcompress.checkpoint import Checkpoint, load_checkpoint
    from deepcompress.container.format import MAGIC
    from deepcompress.container.reader import ModelFile
    from deepcompress.loader import load_state_dict

    path = Path(file)
    is_dc = path.suffix == ".dc"
    if not is_dc and path.is_file():
        with path.open("rb") as stream:
            is_dc = stream.read(len(MAGIC)) == MAGIC
    if not is_dc:
        return load_checkpoint(file, trust_pickle)
    with ModelFile(file) as opened:
        header = opened.header
    return Checkpoint(load_state_dict(file, max_bytes=max_bytes), header.network or None, header.data or None)


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
    from deepcompress.loader import fill

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


def load_network(name: str, file: str, trust_pickle: bool) -> nn.Module:
    """The network that a person named, with the tensors of a checkpoint."""
    from deepcompress import networks
    from deepcompress.checkpoint import load_checkpoint
    from deepcompress.loader import fill

    model = networks.build(name)
    fill(model, dict(load_checkpoint(file, trust_pickle).state), file)
    return model


def data_name(given: str | None, named: str | None, file: str) -> str:
    """The data that a person named, else that which the file names."""
    if given or named:
        return str(given or named)
    raise DeepCompressError(f"{file}: names no data set; say which with --data (digits, mnist, …, FILE.npz)")
