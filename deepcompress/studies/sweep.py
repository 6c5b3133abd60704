"""Many compressions of one network, for the trade between size and error: a grid of settings, and its Pareto front.

Each point is a real file, as `pipeline.compress` makes it. The front is that of file size and *validation* error (or
the metric of another task); the test error is written down beside it and decides nothing.

Points that the folder has already (`points.stored`) are not computed again, so a sweep that was stopped continues.
Points that differ only in what comes after pruning are pruned and retrained once. Their files are the same as if each
had been made alone.
"""

from __future__ import annotations

import itertools
import signal
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deepcompress.errors import DeepCompressError, RecipeError, first_line
from deepcompress.layers import buffers_of, check_finite, check_rules, compressible, tensors_of
from deepcompress.networks.parametrized import plain
from deepcompress.recipe import SETTINGS, Recipe
from deepcompress.studies.points import (
    ForPoint,
    Origin,
    Outcome,
    Point,
    origin_of,
    pruning_of,
    run_point,
    stored,
    torch_threads,
)
from deepcompress.training.data import DataSet
from deepcompress.training.journal import discard
from deepcompress.training.progress import Progress
from deepcompress.training.tasks import Task

#: Gives a network and its data, on their device. Processes call it: it must be a function of some module, or a
#: functools.partial of one.
Make = Callable[[], tuple[nn.Module, DataSet]]
Outcomes = Generator[Outcome, None, None]

_PRUNED = "pruned-{}.resume"


@dataclass(frozen=True)
class Work:
    """A point to compute, and the folder for the pruning that it has in common with others, if it has."""

    point: Point
    pruned: Path | None


def grid(recipe: Recipe, axes: Mapping[str, Sequence[Any]]) -> list[Point]:
    """Every combination of the values of `axes` (settings of a recipe by name), on top of `recipe`.

    The last axis changes fastest. A value that is given twice counts once, and so does one that has no effect beside
    the others, such as an initialization where nothing is shared.

    Raises:
        RecipeError: a setting is unknown or a value not allowed.
    """
    for axis in axes:
        if axis not in SETTINGS:
            raise RecipeError(f"{axis!r} cannot be swept; known are {', '.join(sorted(SETTINGS))}")
    points = {}
    for values in itertools.product(*axes.values()):
        settings = recipe.changed(**dict(zip(axes, values, strict=True)))
        name = "-".join(_label(axis, getattr(settings, axis)) for axis in axes) or "recipe"
        points[name] = Point(name, settings)
    return list(points.values())


def _label(axis: str, value: Any) -> str:
    return f"{axis.replace('_', '')}{value}".removesuffix(".0")


def sweep(
    model: nn.Module,
    data: DataSet,
    points: Sequence[Point],
    folder: str | Path,
    *,
    network: str = "",
    make: Make | None = None,
    jobs: int = 1,
    threads: int = 1,
    watch: Progress | None = None,
) -> list[Outcome]:
    """Run all points that are not in `folder` yet.

    A point that fails loses nothing of the others.

    Args:
        model, data: what is compressed, and retrained and measured on, on one device.
        points: as `grid` makes them.
        folder: where their files go; it must exist.
        network: a name by which `load` can rebuild the network, stored in the files.
        make: gives `model` and `data` once more, in another process; needed for more than one of `jobs`.
        jobs: processes that work side by side. The files are the same with any number of them.
        threads: of torch, in each process. Another number rounds in another way, so the files can differ.
        watch: told what happens.

    Returns:
        One outcome for each point, in their order.

    Raises:
        RecipeError: layer rules do not fit the network.
        CheckpointError: there are NaN among its weights.
    """
    folder, watch, model = Path(folder), watch or Progress(), plain(model)
    state = tensors_of(model)
    for point in points:
        check_rules(point.recipe, compressible(state))
        check_finite(state, compressible(state, point.recipe, buffers_of(model)))
    if jobs > 1 and make is None:
        raise RecipeError("more than one job needs `make`, which gives each process the network and the data")
    origin = origin_of(model, data, network, threads)
    found = {point.name: outcome for point in points if (outcome := stored(point, folder, origin)) is not None}
    todo = [work for work in _all_work(points, folder, origin) if work.point.name not in found]
    if found:
        watch.message(f"{len(found)} of {len(points)} points are there already")
    if jobs > 1 and make is not None:
        work = _side_by_side(todo, make, folder, origin, jobs)
    else:
        work = _one_by_one(todo, model, data, folder, origin, watch)
    with closing(work):
        for outcome in work:
            found[outcome.name] = outcome
            watch.message(f"{len(found)}/{len(points)}  {_line(outcome, data.task)}")
            _tidy(todo, found)
    for left in folder.glob(_PRUNED.format("*")):  # by a sweep that was stopped
        discard(left)
    return [found[point.name] for point in points]


def _all_work(points: Sequence[Point], folder: Path, origin: Origin) -> list[Work]:
    """The points with a folder for each pruning that several of them have in common."""
    names = [pruning_of(point, origin) for point in points]
    several = {name for name, count in Counter(names).items() if name and count > 1}
    return [
        Work(point, folder / _PRUNED.format(name) if name in several else None)
        for point, name in zip(points, names, strict=True)
    ]


def _tidy(todo: Iterable[Work], found: Mapping[str, Outcome]) -> None:
    """Remove the prunings that no point needs any more."""
    needed = {work.pruned for work in todo if work.point.name not in found}
    for work in todo:
        if work.pruned is not None and work.pruned not in needed:
            discard(work.pruned)


def _line(outcome: Outcome, task: Task) -> str:
    if outcome.failure or outcome.val_value is None:
        return f"{outcome.name} failed: {outcome.failure}"
    return (
        f"{outcome.name}: {outcome.file_bytes:,} bytes, {outcome.ratio:.2f}×, validation "
        f"{task.says(outcome.val_value)}, {outcome.seconds:.1f} s"
    )


def _attempt(
    work: Work, model: nn.Module, data: DataSet, folder: Path, origin: Origin, watch: Progress | None = None
) -> Outcome:
    """As `run_point`, but with an outcome in any case."""
    try:
        return run_point(work.point, model, data, folder, origin, watch, pruned=work.pruned)
    except (DeepCompressError, RuntimeError, MemoryError, OSError) as error:  # torch's word for too little memory too
        return _failed(work.point, first_line(error))


def _failed(point: Point, reason: str) -> Outcome:
    return Outcome(point.name, point.recipe.as_dict(), failure=reason)


# In this process -----------------------------------------------------------------------------------------------


def _one_by_one(
    todo: Iterable[Work], model: nn.Module, data: DataSet, folder: Path, origin: Origin, watch: Progress
) -> Outcomes:
    for work in todo:
        with torch_threads(origin.threads):
            outcome = _attempt(work, model, data, folder, origin, ForPoint(work.point.name, watch))
        yield outcome


# In processes --------------------------------------------------------------------------------------------------


def _side_by_side(todo: Iterable[Work], make: Make, folder: Path, origin: Origin, jobs: int) -> Outcomes:
    """Outcomes as they come. Each process has a line to this one, on which it gets its points one by one.

    A pool of the standard library would wait for ever for a process that the system ended for its memory, or give up
    the others; and its processes would outlive this one.
    """
    waiting = list(todo)
    busy: dict[Connection, tuple[SpawnProcess, Work]] = {}
    processes: list[SpawnProcess] = []

    def start() -> tuple[Connection, SpawnProcess]:
        here, there = get_context("spawn").Pipe()
        process = get_context("spawn").Process(target=_serve, args=(there, make, folder, origin), daemon=True)
        process.start()
        there.close()
        processes.append(process)
        return here, process

    def give(line: Connection, process: SpawnProcess) -> None:
        work = _next(waiting, [work for _, work in busy.values()])
        waiting.remove(work)
        busy[line] = process, work
        with suppress(OSError):  # it has just died: that is found out where its answer is waited for
            line.send(work)

    try:
        for _ in range(min(jobs, len(waiting))):
            give(*start())
        while busy:
            for line in wait(list(busy)):
                assert isinstance(line, Connection)
                process, work = busy.pop(line)
                try:
                    yield line.recv()
                except (EOFError, OSError):
                    line.close()
                    process.join()
                    yield _failed(
                        work.point, f"its process ended with code {process.exitcode}; was there enough memory?"
                    )
                    line, process = start() if waiting else (line, process)
                if waiting:
                    give(line, process)
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _next(waiting: Sequence[Work], busy: Sequence[Work]) -> Work:
    """The first that shares its pruning with none that is being worked on: that pruning may not be there yet."""
    taken = {work.pruned for work in busy} - {None}
    return next((work for work in waiting if work.pruned not in taken), waiting[0])


def _serve(line: Connection, make: Make, folder: Path, origin: Origin) -> None:
    """What a process does: take a point, give an outcome, until nobody is at the other end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes: the first one ends the others
    torch.set_num_threads(origin.threads)
    model, data = make()
    model = plain(model)
    with suppress(EOFError, OSError):
        while True:
            line.send(_attempt(line.recv(), model, data, folder, origin))
