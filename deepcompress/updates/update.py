"""The update from one file to another, and the new file from the old one and an update: docs/update-format.md."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from deepcompress.container.reader import ModelFile, default_max_bytes
from deepcompress.errors import FormatError, UpdateError
from deepcompress.files import write_atomic
from deepcompress.updates import building, cutting, joining, telling
from deepcompress.updates.container import (
    NEW_NAME,
    OLD_NAME,
    Kind,
    UpdateFile,
    copy_all,
    file_hash,
    write_facts,
    write_head,
)
from deepcompress.updates.cuts import FileKind, kind_of

_SPOOL = 1 << 24  # bytes of payloads that wait in memory


@dataclass(frozen=True)
class Difference:
    """An update that was written: its file, its bytes, those of the two files, and whether these are equal."""

    file: str
    file_bytes: int
    old_bytes: int
    new_bytes: int
    equal: bool

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Patched:
    """A file that was made of an older one and an update."""

    file: str
    file_bytes: int
    update_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def diff(old: str | Path, new: str | Path, out: str | Path) -> Difference:
    """Write the update from the file `old` to the file `new`: two .dc files, or two checkpoints (.safetensors or .pt).

    `patch` makes of `old` and the update the very bytes of `new`. The update is never larger than `new` and 32 bytes.

    Args:
        old, new: the files; both must be valid.
        out: where the update goes, whole or not at all.

    Raises:
        UpdateError: a file is missing or damaged, or the two are of different kinds.
        FormatError: a .dc file is damaged.
        OutputError: `out` cannot be written.
    """
    old, new = Path(old), Path(new)
    kinds = kind_of(old), kind_of(new)
    if (FileKind.MODEL in kinds) and kinds[0] is not kinds[1]:
        raise UpdateError(
            f"{old} is {kinds[0].value}, and {new} is {kinds[1].value}: an update is made of two .dc files, or of two "
            "checkpoints"
        )
    hashes = file_hash(old), file_hash(new)

    def write(temporary: Path) -> None:
        with temporary.open("wb") as target:
            _write(target, old, new, kinds, hashes)
        if temporary.stat().st_size > new.stat().st_size or not _is_exact(old, temporary, kinds, hashes[1]):
            with temporary.open("wb") as target, new.open("rb") as source:
                write_head(target, *hashes, Kind.WHOLE)
                copy_all(source, target)

    write_atomic(out, write)
    sizes = Path(out).stat().st_size, old.stat().st_size, new.stat().st_size
    return Difference(str(out), *sizes, equal=hashes[0] == hashes[1])


def _write(
    target: BinaryIO, old: Path, new: Path, kinds: tuple[FileKind, FileKind], hashes: tuple[bytes, bytes]
) -> None:
    with tempfile.SpooledTemporaryFile(_SPOOL) as spool:
        payload: Any = spool
        if kinds[0] is FileKind.MODEL:
            with ModelFile(old) as before, ModelFile(new) as after:
                before.check()
                after.check()
                facts, version = telling.make(before, after, payload)
            write_head(target, *hashes, Kind.TENSORS, version)
        else:
            facts = cutting.make(old, new, kinds, payload)
            write_head(target, *hashes, Kind.PIECES)
        write_facts(target, facts, payload.tell())
        copy_all(payload, target)


def _is_exact(old: Path, update: Path, kinds: tuple[FileKind, FileKind], wanted: bytes) -> bool:
    """Whether the update gives the new file. Pieces do by the way they are made; tensors are written anew."""
    if kinds[0] is not FileKind.MODEL:
        return True
    target = _Hashed(None)
    try:
        with UpdateFile(update) as opened:
            _apply(old, opened, target, None)
    except FormatError:
        return False
    return target.digest() == wanted


def patch(old: str | Path, update: str | Path, out: str | Path, max_bytes: int | None = None) -> Patched:
    """Write the file that `diff` saw as the new one.

    Args:
        old: the file that it saw as the old one, byte for byte.
        update: what it wrote.
        out: where the new file goes, whole or not at all; it may be `old`.
        max_bytes: how many bytes the new file may take, or of a .dc file its tensors when they are decoded.

    Raises:
        UpdateError: a file is missing, or the update is not for `old`.
        FormatError: the update is damaged, or the new file would take more than `max_bytes`.
        OutputError: `out` cannot be written.
    """
    old = Path(old)
    with UpdateFile(update) as opened:
        _check_old(old, opened)

        def write(temporary: Path) -> None:
            with temporary.open("wb") as stream:
                target = _Hashed(stream)
                try:
                    _apply(old, opened, target, max_bytes)
                except FormatError as error:
                    raise FormatError(f"{opened.path}: {error}") from None
            if target.digest()[:NEW_NAME] != opened.new:
                raise FormatError(f"{opened.path}: it does not give the file that it names: the update is damaged")

        write_atomic(out, write)
        return Patched(str(out), Path(out).stat().st_size, opened.file_bytes)


def _check_old(old: Path, update: UpdateFile) -> None:
    found = file_hash(old)
    if found[:OLD_NAME] == update.old:
        return
    if found[:NEW_NAME] == update.new:
        raise UpdateError(f"{old}: the update {update.path} is already applied: this is the new file")
    raise UpdateError(
        f"{old}: the update {update.path} is for another file, whose SHA-256 begins with {update.old.hex()}; "
        f"this one's begins with {found[:OLD_NAME].hex()}"
    )


def _apply(old: Path, update: UpdateFile, target: _Hashed, max_bytes: int | None) -> None:
    size = old.stat().st_size
    limit = max_bytes
    if update.kind is Kind.WHOLE:
        update.copy(update.left, target.write, "the new file")
    elif update.kind is Kind.PIECES:
        limit = max(4 * size, default_max_bytes(update.file_bytes)) if limit is None else limit
        with old.open("rb") as stream:
            joining.apply(stream, size, update, target.write, limit)
    else:
        limit = default_max_bytes(size + update.file_bytes) if limit is None else limit
        with ModelFile(old, limit) as before, tempfile.SpooledTemporaryFile(_SPOOL) as spool:
            waiting: Any = spool
            building.apply(before, update, target, waiting, limit)


class _Hashed:
    """Passes writes on, if there is somewhere for them to go, and keeps their SHA-256."""

    def __init__(self, target: BinaryIO | None) -> None:
        self._target, self._hash = target, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        return len(data) if self._target is None else self._target.write(data)

    def digest(self) -> bytes:
        """Of all that was written."""
        return self._hash.digest()
