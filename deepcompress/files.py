"""Writing files so that nothing is ever half there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from deepcompress.errors import OutputError


def check_writable(path: str | Path) -> None:
    """Find out early, before hours of work, that `path` cannot be written.

    Raises:
        OutputError: its folder does not exist or takes no new files, or `path` is a folder.
    """
    write_atomic(path, None)


def write_atomic(path: str | Path, content: bytes | Callable[[Path], None] | None) -> None:
    """Write `content` to a temporary sibling of `path`, flush it to disk, and rename it over `path`.

    Whoever opens `path` finds the old file or the new one, whenever the writer is stopped.

    Args:
        path: where the file goes; its folder must exist.
        content: the bytes, or a function that writes them to the temporary path it is given, or None
            to only check that the folder takes a file.

    Raises:
        OutputError: the file cannot be written; `path` is as it was.
    """
    path = Path(path)
    temporary = None
    try:
        _check_place(path)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:32]}.", suffix=".tmp", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as stream:
            if isinstance(content, bytes):
                stream.write(content)
        if callable(content):
            content(temporary)
        if content is not None:
            _publish(temporary, path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _check_place(path: Path) -> None:
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a folder")
    if path.exists() and not path.is_file():  # a rename would put a file where /dev/null was
        raise OutputError(f"cannot write {path}: it is not a regular file")
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {path}: the folder {path.parent} does not exist")


def _publish(temporary: Path, path: Path) -> None:
    with open(temporary, "rb+") as stream:
        os.fsync(stream.fileno())
    umask = os.umask(0)
    os.umask(umask)
    temporary.chmod(0o666 & ~umask)
    temporary.replace(path)
