"""What things are called: which network and which data a person or a file means, and what a new file may say of them.

A person may name code (``file.py:function``) and any file. What a *file* names is believed only where it is in the
tables of this package, or, of data, where a checkpoint names data that is there; and only where its tensors fit.
`network_name` and `data_name` decide that for every command.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from deepcompress.errors import DataError, DeepCompressError, FormatError, NetworkError
from deepcompress.usercode import names_code

if TYPE_CHECKING:
    from deepcompress.checkpoint import Checkpoint


def note(text: str) -> None:
    """One line on stderr, unless the command was told to be quiet."""
    context = click.get_current_context(silent=True)
    if context is not None and not context.params.get("quiet"):
        click.echo(text, err=True)


def network_name(given: str | None, source: Checkpoint, file: str) -> str | None:
    """The network that a person gave, else one that the file names, else one that its tensors fit, else None.

    It is code only where a person gave it, so `networks.build` may build it.
    """
    if given:
        return given
    found, complaint = _from_file(source, file)
    if complaint:
        note(complaint)
    return found


def needed_network(given: str | None, source: Checkpoint, file: str, purpose: str) -> str:
    """As `network_name`, where there must be one for the `purpose` ("retrained").

    Raises:
        NetworkError: nobody said which network it is.
    """
    if given:
        return given
    found, complaint = _from_file(source, file)
    if found is None and _is_onnx_inside(file):
        raise NetworkError(
            f"{file} holds an ONNX model, and only a network of torch can be {purpose}: name one with these tensors "
            "(--network file.py:factory), or take the model itself (export -o model.onnx gives it back)"
        )
    if found is None:
        raise NetworkError(
            f"{complaint or f'{file}: its tensors fit no known network'}, so it cannot be {purpose}: "
            "name it with --network (your own: --network file.py:factory)"
        )
    if complaint:
        note(complaint)
    return found


def _is_onnx_inside(file: str) -> bool:
    """Whether a file is a .dc file with the graph of an ONNX model."""
    from deepcompress.container.graph import has_graph
    from deepcompress.container.reader import ModelFile

    try:
        with ModelFile(file) as opened:
            return has_graph(opened.header.extensions)
    except FormatError:
        return False


def _from_file(source: Checkpoint, file: str) -> tuple[str | None, str]:
    """The network that a file names or that its tensors fit; and why it is not the one that it names, if it is not."""
    from deepcompress.networks.names import known

    wrong = _why_not(source.network, source) if source.network else ""
    if source.network and not wrong:
        return source.network, ""
    complaint = f"{file}: names the network {source.network!r}, which is not used: {wrong}" if wrong else ""
    return known(source), complaint


def _why_not(named: str, source: Checkpoint) -> str:
    """Why a network that a file names is not the one to build; "" if it is."""
    import torch

    from deepcompress import networks
    from deepcompress.networks.names import fitted
    from deepcompress.reading.fitting import make_fit

    if names_code(named):
        return "a file cannot name code; if it is yours, give the same with --network"
    if not networks.is_known(named):
        return "there is no such network here"
    try:
        with torch.device("meta"):
            network = networks.build_known(named, source.outlines())
        make_fit(network, fitted(source, network).outlines(), "it", smaller=True)
    except NetworkError as error:
        return f"its tensors do not fit ({error})"
    return ""


def stored_network(name: str | None) -> str:
    """A network's name as it may stand in a file: one that whoever opens the file can build, or nothing.

    The user's own code is not there for others. Of the arguments of a network of torchvision's, the number of classes
    is seen from the tensors.
    """
    from deepcompress.usercode import parse_call

    name = name or ""
    known, parenthesis, rest = name.partition("(")
    if names_code(name):
        return ""
    if not parenthesis:
        return name
    try:
        arguments = parse_call(f"network({rest}")[2]
    except ValueError:
        return ""
    return known if arguments.keys() <= {"num_classes"} else ""


def data_name(given: str | None, named: str | None, file: str, packed: bool) -> str:
    """The data that a person named, else that which the file names.

    A .dc file (`packed`) may come from anybody: what it names is looked for among the known data sets, and not on the
    disk.

    Raises:
        DataError: it cannot be known which data that is.
    """
    from deepcompress.training.data import DATA_SETS

    if given:
        return given
    if not named:
        raise DeepCompressError(f"{file}: names no data set; say which with --data (digits, mnist, …, DIR, FILE.npz)")
    if named in DATA_SETS or (not packed and _is_there(named)):
        return named
    raise DataError(
        f"{file}: the file names the data {named!r}, which is a folder or .npz file of its author: "
        "give your copy with --data"
    )


def stored_data(source: Checkpoint, file: str, packed: bool) -> str:
    """The data that a checkpoint names as a new file may name it: without the path of the user's own."""
    from deepcompress.training.data import DATA_SETS

    named = source.data or ""
    if packed or not named or named in DATA_SETS:
        return named
    if _is_there(named) or Path(named).suffix == ".npz" or Path(named).name != named:
        return Path(named).stem
    note(f"{file}: names the data {named!r}, which is neither a known data set nor a path: the name is left out")
    return ""


def _is_there(path: str) -> bool:
    try:
        return bool(path) and Path(path).exists()
    except (OSError, ValueError):  # too long, or with characters that no path has
        return False
