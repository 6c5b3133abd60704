"""What several commands do: show a result, read a model, find its network and its data."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deepcompress.cli.building import SMALLER
from deepcompress.cli.outputs import name_replaced
from deepcompress.errors import DeepCompressError, OutputError
from deepcompress.files import write_atomic
from deepcompress.version import __version__

if TYPE_CHECKING:
    from deepcompress.checkpoint import Checkpoint
    from deepcompress.training.progress import Progress


def show(as_json: bool, result: dict[str, Any], text: Callable[[], str | None], brief: str | None = None) -> None:
    """Print the result on stdout: one JSON object, or what `text` returns or prints itself.

    A command that was told to be quiet prints the line `brief` instead of tables, if there is one. That the result
    took the place of other files is said on stderr.
    """
    name_replaced()
    if as_json:
        click.echo(json.dumps(_numbers(result), indent=2, allow_nan=False))
        return
    quiet = click.get_current_context().params.get("quiet")
    line = brief if quiet and brief is not None else text()
    if line is not None:
        click.echo(line)


def _numbers(value: Any) -> Any:
    """Plain data for JSON, which has no number for what is not finite: a loss that overflows is null there."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _numbers(part) for key, part in value.items()}
    return [_numbers(part) for part in value] if isinstance(value, (list, tuple)) else value


def command_line() -> str:
    """The command as it was given."""
    return " ".join(["deepcompress", *sys.argv[1:]])


def versions() -> dict[str, str]:
    """What the outcome of a run depends on beside its command and seed."""
    from importlib.metadata import version

    packages = ("torch", "torchvision", "numpy", "scikit-learn", "bitarray")
    found = {name: version(name) for name in packages}
    return {"python": sys.version.split()[0], "deepcompress": __version__, **found}


def is_packed(file: str) -> bool:
    """Whether it is a .dc file, by its ending or else by its first bytes."""
    from deepcompress.container.entries import MAGIC

    return _is_kind(file, ".dc", MAGIC)


def is_update(file: str) -> bool:
    """Whether it is an update (.dcp), by its ending or else by its first bytes."""
    from deepcompress.container.entries import UPDATE_MAGIC

    return _is_kind(file, ".dcp", UPDATE_MAGIC)


def _is_kind(file: str, ending: str, magic: bytes) -> bool:
    path = Path(file)
    if path.suffix == ending or not path.is_file():
        return path.suffix == ending
    with path.open("rb") as stream:
        return stream.read(len(magic)) == magic


def load_any(file: str, trust_pickle: bool, max_bytes: int | None, key: str | None = None) -> Checkpoint:
    """A .dc file or a dense checkpoint as a Checkpoint."""
    from deepcompress.checkpoint import Checkpoint, load_checkpoint
    from deepcompress.container.extensions import extra_state, says_smaller
    from deepcompress.container.normalize import normalize_in
    from deepcompress.container.reader import ModelFile
    from deepcompress.reading.loader import load_state_dict

    if not is_packed(file):
        return load_checkpoint(file, trust_pickle, key)
    if key is not None:
        raise DeepCompressError(f"{file}: is a .dc file, which holds one network: leave out --key")
    with ModelFile(file) as opened:
        header = opened.header
    normalize = normalize_in(header.extensions)
    facts: dict[str, str | int | float] = {"normalize": normalize} if normalize else {}
    facts |= {SMALLER: 1} if says_smaller(header) else {}
    state = load_state_dict(file, max_bytes=max_bytes)
    return Checkpoint(state, header.network or None, header.data or None, facts, extra=extra_state(header))


def file_settings(file: str) -> dict[str, Any]:
    """The settings that a .dc file was made by."""
    from deepcompress.compression.from_file import settings_of

    return settings_of(file)


def settings_beside(base: str, retrain: bool | None) -> dict[str, Any]:
    """The settings under which a file becomes a small update of the .dc file `base`."""
    from deepcompress.compression import from_base

    return from_base.settings_beside(base, retrain is not False)


@contextmanager
def resumable(journal: Path | None, resume: bool, watch: Progress) -> Iterator[None]:
    """A run whose state is kept in `journal`, if there is one: it continues from there, or it must start anew.

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
            f"interrupted; the state is kept in {journal}, and the same command with --resume continues the run"
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


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder for results, as `output_folder`. One that was made for what then fails, and is empty, goes again."""
    there = path.exists()
    folder = output_folder(path)
    try:
        yield folder
    except BaseException:
        if not there:
            with suppress(OSError):  # it is not empty
                folder.rmdir()
        raise


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
