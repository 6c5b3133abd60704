"""What a run leaves on the disk for itself, should it be killed: the state after the last epoch of every training.

A run does the same things in the same order whenever it starts from the same network, data and settings. So only
training, which takes the time, is written down, each call of `training.loop.fit` as one phase in a file of its own. A
run that is resumed does everything again, but a phase that is in the journal is read instead of trained. What lies
between (cuts, clustering, measuring) comes out as it did before, and so does the file at the end, byte for byte.

Every write is atomic (`files.write_atomic`), so a kill leaves a state or the one before it. A phase whose file is lost
is trained again, to the same state; those after it still fit.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import zipfile
from collections.abc import Iterator, Mapping, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from deepcompress.errors import DataError, DeepCompressError, OutputError, ResumeError, first_line
from deepcompress.files import write_atomic
from deepcompress.networks.inputs import Batches, tensors_in
from deepcompress.training.snapshot import Plain, generators, tensors_of

_RUN = "run.json"
_LAST = "quantize"  # the stage that runs with the same pruning do not have in common
_active: ContextVar[Journal | None] = ContextVar("journal", default=None)
_common: ContextVar[Path | None] = ContextVar("common", default=None)


class Journal:
    """A folder with the states of one run.

    Attributes:
        folder: where it is.
        restored_seconds: of training that this run has read instead of doing it again.
    """

    def __init__(self, folder: str | Path, about: Mapping[str, Any]) -> None:
        """Make the folder, or go on from what an earlier run has left there.

        Args:
            folder: need not exist, but its own folder must.
            about: all that the run depends on, for JSON: the next run must have the same.

        Raises:
            ResumeError: what is there is of another run, or damaged.
            OutputError: it cannot be made.
        """
        self.folder, self.restored_seconds = Path(folder), 0.0
        self._phases = 0
        now = json.loads(json.dumps(about))
        if is_interrupted(folder):
            _check_same(self.folder, _read_about(self.folder / _RUN), now)
        _make(self.folder)
        write_atomic(self.folder / _RUN, f"{json.dumps(now, indent=2)}\n".encode())

    def next_phase(self, stage: str, epochs: int) -> Phase:
        """The phase that begins now."""
        self._phases += 1
        name, common = f"phase-{self._phases:03d}.pt", _common.get()
        return Phase(
            self, self.folder / name, stage, epochs, None if common is None or stage == _LAST else common / name
        )

    def remove(self) -> None:
        """The run is over, or can never end: nobody will go on from it."""
        for path in [*_phase_files(self.folder), *self.folder.glob(".*.tmp"), self.folder / _RUN]:
            path.unlink(missing_ok=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()


class Phase:
    """One training, whose state is in one file; its end also in the file `common`, if other runs train the same."""

    def __init__(self, journal: Journal, path: Path, stage: str, epochs: int, common: Path | None = None) -> None:
        self.journal, self.path, self.stage, self.epochs, self.common = journal, path, stage, epochs, common
        self._since = time.perf_counter()

    def load(self) -> tuple[int, Plain] | None:
        """How many epochs are done, and the state after them; None if there is none.

        Raises:
            ResumeError: the file is damaged, or of another training.
        """
        path = next((path for path in (self.path, self.common) if path is not None and path.exists()), None)
        if path is None:
            return None
        found = _read(path)
        if (found.get("stage"), found.get("epochs")) != (self.stage, self.epochs):
            raise ResumeError(
                f"{path} belongs to {found.get('stage')!r} with {found.get('epochs')} epochs, but {self.stage!r} "
                f"with {self.epochs} comes here: code has changed since; remove {path.parent} to start over"
            )
        self._since -= found["seconds"]
        self.journal.restored_seconds += found["seconds"]
        return found["done"], found["state"]

    def save(self, done: int, state: Plain) -> None:
        """Write down the `state` after `done` epochs.

        Raises:
            OutputError: that is not possible; the state before is still there.
        """
        facts = {"stage": self.stage, "epochs": self.epochs, "done": done, "seconds": time.perf_counter() - self._since}
        try:
            write_atomic(self.path, lambda temporary: _save({**facts, "state": state}, temporary))
        except OutputError as error:
            raise OutputError(
                f"{error}. The epochs before this one are kept in {self.path.parent}: solve this, and use --resume"
            ) from None
        if self.common is not None and done == self.epochs:
            write_atomic(self.common, self.path.read_bytes())


def is_interrupted(folder: str | Path) -> bool:
    """Whether a run that trained has left its state in `folder`."""
    return bool(_phase_files(Path(folder)))


def check_unused(folder: str | Path) -> None:
    """Refuse to begin anew over the state of an interrupted run.

    Raises:
        ResumeError: there is one.
    """
    if is_interrupted(folder):
        raise ResumeError(
            f"{folder} holds the state of an interrupted run: continue it with --resume, or remove it to start over "
            "(unless that run is still at work)"
        )


def discard(folder: str | Path) -> None:
    """Remove a journal, whatever it holds."""
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def recording(journal: Journal | None) -> Iterator[None]:
    """Training in this context is written to `journal`, and read from it; when it is over, the journal is removed.

    It stays where somebody can put right what went wrong. What a run itself has come to, it would come to again.
    """
    token = _active.set(journal)
    over = False
    try:
        yield
        over = True
    except DeepCompressError as error:
        over = not isinstance(error, (OutputError, ResumeError, DataError))
        raise
    finally:
        _active.reset(token)
        if journal is not None and (over or not is_interrupted(journal.folder)):
            journal.remove()


@contextmanager
def sharing(folder: Path | None) -> Iterator[None]:
    """Runs in this context have their pruning in common: what one has trained for it is read by the others.

    They must have everything in common but the settings of what comes after pruning. `folder` keeps the states, and it
    is for the caller to make and to `discard`; with None nothing is shared. Only runs with a journal take part.
    """
    token = _common.set(folder)
    try:
        yield
    finally:
        _common.reset(token)


def begin_phase(stage: str, epochs: int) -> Phase | None:
    """The phase that begins now, if somebody keeps a journal."""
    journal = _active.get()
    return None if journal is None else journal.next_phase(stage, epochs)


def clock() -> float:
    """Seconds since some time, those among them that an interrupted run took for what this one has read."""
    journal = _active.get()
    return time.perf_counter() + (0.0 if journal is None else journal.restored_seconds)


def about_run(model: nn.Module, settings: Mapping[str, Any], data: Mapping[str, Batches | None]) -> dict[str, Any]:
    """What a journal is of: the network by content, the settings, loaders by name, and what computes.

    Of a loader, that is its length, and the content of tensors and the states of generators that it holds itself:
    enough for a list of batches, a `TensorLoader`, or a DataLoader of a TensorDataset, but not for files that are read.
    """
    from deepcompress.version import __version__

    tensors = tensors_of(model)
    device = next((tensor.device.type for tensor in tensors.values()), "none")
    return {
        **settings,
        **{name: _about_batches(batches) for name, batches in data.items()},
        "network weights": fingerprint(tensors)[:16],
        "device": device,
        "number of threads": torch.get_num_threads(),
        "version of deepcompress": __version__,
        "version of torch": str(torch.__version__),
        "version of numpy": np.__version__,
        "processor": torch.backends.cpu.get_cpu_capability(),
    }


def _about_batches(batches: Batches | None) -> str:
    if batches is None:
        return "none"
    holders = (batches, getattr(batches, "dataset", None))
    held = [holder if isinstance(holder, (list, tuple)) else getattr(holder, "__dict__", {}) for holder in holders]
    tensors = [tensor for part in held for tensor in tensors_in(part)]
    tensors += [generator.get_state() for generator in generators((batches,))]
    digest = fingerprint({str(at): tensor for at, tensor in enumerate(tensors)})[:16]
    return f"{len(batches) if isinstance(batches, Sized) else 'some'} batches ({digest})"


def fingerprint(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names, types, shapes and contents."""
    digest = hashlib.sha256()
    for name, value in tensors.items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


# Files --------------------------------------------------------------------------------------------------------


def _phase_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("phase-*.pt"))


def _make(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
        for left in folder.glob(".*.tmp"):  # what was being written when the run was killed
            left.unlink()
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error.strerror or error}") from None


def _save(content: Plain, path: Path) -> None:
    try:
        with open(path, "wb") as stream:
            torch.save(content, stream)
    except RuntimeError as error:  # torch's word for a full disk
        raise OSError(first_line(error)) from None


def _read(path: Path) -> dict[str, Any]:
    """A phase's file. torch itself looks at no checksum: the archive's are looked at here."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is None:
            found: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            return found
    except Exception:  # zipfile, pickle and torch raise anything on damaged bytes
        pass
    raise ResumeError(
        f"{path} is damaged: remove this file, and the run continues without it (it trains that part again)"
    )


def _read_about(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
        if isinstance(found, dict):
            return found
    except (OSError, ValueError):
        pass
    raise ResumeError(
        f"{path} is lost or damaged, so the run in {path.parent} is unknown: remove the folder to start over"
    )


def _check_same(folder: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for key in [*now, *then]:
        if then.get(key) != now.get(key):
            raise ResumeError(
                f"{folder} belongs to a run with another {key}: {_shown(then.get(key))} then, {_shown(now.get(key))} "
                f"now; use the old {key}, or remove that folder to start over"
            )


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)
