"""What a command writes: never over what it reads, never under another format's ending, and never silently."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from deepcompress.cli.naming import note
from deepcompress.errors import OutputError
from deepcompress.usercode import names_code, parse

#: Endings of files that hold something else than a .dc file does, and what that is.
FORMATS: dict[str, str] = {
    **dict.fromkeys((".pt", ".pth", ".ckpt", ".bin", ".tar", ".safetensors", ".sft", ".gguf", ".h5"), "a checkpoint"),
    **dict.fromkeys((".onnx", ".tflite"), "a network for another runtime"),
    **dict.fromkeys((".npz", ".npy", ".csv", ".json", ".toml", ".zip"), "data or settings"),
    **dict.fromkeys((".py", ".h", ".c", ".js", ".html", ".png"), "code, a page or a picture"),
    ".dcp": "an update (deepcompress diff)",
}  # fmt: skip

#: Parameters of commands that name what is written; all others that name a file name what is read.
WRITTEN = ("output", "save_masks", "save_scores", "keep")

_REPLACED = "deepcompress.replaced"

force_option = click.option(
    "--force", is_flag=True, help="Write even over a file that this command reads, or under an unusual ending."
)


def claim(*paths: str | Path, ending: str | None = None) -> None:
    """Check the files that the running command is about to write; `name_replaced` tells later which were there.

    Args:
        paths: of the files.
        ending: which the first of them has, if that is fixed; ``""`` for a folder.

    Raises:
        OutputError: one is a file that the command reads (whatever it is called there), two are the same file, or the
            ending of the first says another format; unless the command was given ``--force``.
    """
    context = click.get_current_context()
    params = context.params
    if not params.get("force"):
        if ending is not None:
            _check_ending(Path(paths[0]), ending)
        for index, path in enumerate(map(Path, paths)):
            _check_unread(path, params)
            if any(_same(path, Path(other)) for other in paths[:index]):
                raise OutputError(f"{path}: two options of this command write it; give each a file of its own")
    if ending == "":  # in a folder of its own, a command replaces what it wrote there before
        return
    there = [f"{path} ({path.stat().st_size:,} bytes)" for path in map(Path, paths) if path.is_file()]
    context.meta[_REPLACED] = [*context.meta.get(_REPLACED, ()), *there]


def name_replaced() -> None:
    """Say on stderr which files the command has replaced: those that were there when it claimed them."""
    context = click.get_current_context()
    if there := context.meta.get(_REPLACED):
        note(f"Replaced {', '.join(there)}")


def _check_ending(path: Path, ending: str) -> None:
    known = {**FORMATS, ".dc": "a compressed network"}
    found = path.suffix.lower()
    if found != ending and found in known:
        wanted = f"a {ending} file" if ending else "a folder"
        raise OutputError(
            f"{path}: the ending says {known[found]}, and this command writes {wanted}: "
            f"give {'a name that ends in ' + ending if ending else 'another name'}, or --force"
        )


def _check_unread(path: Path, params: Mapping[str, Any]) -> None:
    for read in _read(params):
        if _same(path, read):
            other = "" if str(read) == str(path) else f" as {read}"
            raise OutputError(f"{path}: this command reads it{other}; give another file for the result, or --force")


def _read(params: Mapping[str, Any]) -> Iterator[Path]:
    """The files that are given to a command to read."""
    for name, value in params.items():
        for text in _texts(value) if name not in WRITTEN else ():
            try:
                path = parse(text).path if names_code(text) else Path(text)
                yield from _files_of(path)
            except (OSError, ValueError, AttributeError, TypeError):  # not the name of a file, or no index
                continue


def _files_of(path: Path) -> Iterator[Path]:
    """A file, and the shards beside an index of some."""
    if not path.is_file():
        return
    yield path
    if path.name.endswith(".index.json"):
        shards = json.loads(path.read_text(encoding="utf-8")).get("weight_map", {})
        yield from (path.parent / str(name) for name in sorted(set(shards.values())))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str) and value:
        yield value
    elif isinstance(value, Iterable) and not isinstance(value, str):
        for part in value:
            yield from _texts(part)


def _same(path: Path, other: Path) -> bool:
    """Whether two names mean one file: spelled differently, or by a link of either kind."""
    try:
        return path.samefile(other)
    except OSError:  # one is not there yet
        return path.resolve() == other.resolve()
