"""Many compressions of one network, for the trade between size and error: a grid of settings, and its Pareto front.

Each point is a real file, as `pipeline.compress` makes it. The front is that of file size and *validation* error (or
the metric of another task); the test error is written down beside it and decides nothing.

Points are kept in a folder, ``NAME.dc`` and then ``NAME.json``, each put in its place by a rename: whenever a sweep is
stopped, a point is there whole or not at all, and the next sweep continues from there.
"""

from __future__ import annotations

import itertools
import json
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deepcompress.compression.pipeline import compress
from deepcompress.compression.result import Result
from deepcompress.errors import DeepCompressError, RecipeError, ResumeError, first_line
from deepcompress.files import write_atomic
from deepcompress.layers import buffers_of, check_finite, check_rules, compressible, tensors_of
from deepcompress.networks.copies import copied
from deepcompress.networks.parametrized import plain
from deepcompress.reading.loader import fill_from
from deepcompress.recipe import SETTINGS, Recipe
from deepcompress.training.data import DataSet
from deepcompress.training.evaluation import evaluate
from deepcompress.training.journal import discard, fingerprint
from deepcompress.training.progress import Progress
from deepcompress.training.tasks import CLASSIFICATION, Task

#: Gives a network and its data, on their device. Processes call it: it must be a function of some module, or a
#: functools.partial of one.
Make = Callable[[], tuple[nn.Module, DataSet]]
Outcomes = Generator["Outcome", None, None]


@dataclass(frozen=True)
class Point:
    """One combination of settings, and a name for it that a file can have."""

    name: str
    recipe: Recipe


@dataclass(frozen=True)
class Origin:
    """What a point depends on beside its recipe: network and data by name and content, the task, and what computed it.

    The number of `threads` is among it because sums in another order round in another way.
    """

    network: str
    weights: str
    data: str
    samples: str
    device: str
    threads: int
    task: str = CLASSIFICATION.name


@dataclass(frozen=True)
class Outcome:
    """What became of a point. If it failed, `failure` says why, and there are no numbers.

    `file_bytes` is the size of the file and `ratio` that of dense fp32 over it; `kept` the fraction of the prunable
    weights that pruning left. `val_value` and `test_value` are those of the task's `metric`, of the network reloaded
    from the file; so are `val_error` and `test_error`, in percent, of tasks that have them, and `val_loss`, the mean.
    `seconds` is how long it took, and `stages` how far things stood after each (on validation data).
    """

    name: str
    recipe: dict[str, Any]
    file_bytes: int | None = None
    ratio: float | None = None
    kept: float | None = None
    val_error: float | None = None
    val_loss: float | None = None
    test_error: float | None = None
    seconds: float | None = None
    stages: list[dict[str, Any]] = field(default_factory=list)
    failure: str = ""
    metric: str = CLASSIFICATION.metric
    higher_is_better: bool = False
    val_value: float | None = None
    test_value: float | None = None

    @property
    def cost(self) -> float | None:
        """The metric on validation data, turned so that lower is better."""
        if self.val_value is None:
            return self.val_error
        return -self.val_value if self.higher_is_better else self.val_value


def grid(recipe: Recipe, axes: Mapping[str, Sequence[Any]]) -> list[Point]:
    """Every combination of the values of `axes` (settings of a recipe by name), on top of `recipe`.

    The last axis changes fastest. A value that is given twice counts once.

    Raises:
        RecipeError: a setting is unknown or a value not allowed.
    """
    for axis in axes:
        if axis not in SETTINGS:
            raise RecipeError(f"{axis!r} cannot be swept; known are {', '.join(sorted(SETTINGS))}")
    points = {}
    for values in itertools.product(*axes.values()):
        settings = replace(recipe, **dict(zip(axes, values, strict=True)))
        name = "-".join(_label(axis, getattr(settings, axis)) for axis in axes) or "recipe"
        points[name] = Point(name, settings)
    return list(points.values())


def _label(axis: str, value: Any) -> str:
    return f"{axis.replace('_', '')}{value}".removesuffix(".0")


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other beats, from the lowest first coordinate on.

    A point beats another if it is not above it in either coordinate and below it in one. Equal points are all in, or
    all out.
    """
    front: list[int] = []
    for index in sorted(range(len(points)), key=points.__getitem__):
        best = points[front[-1]] if front else None
        if best is None or points[index][1] < best[1] or points[index] == best:
            front.append(index)
    return front


def front_of(outcomes: Sequence[Outcome]) -> list[int]:
    """Indices of the outcomes on the front of file size and validation metric, from the smallest file on."""
    done = [
        (index, (outcome.file_bytes, outcome.cost))
        for index, outcome in enumerate(outcomes)
        if outcome.file_bytes is not None and outcome.cost is not None
    ]
    return [done[place][0] for place in pareto([pair for _, pair in done])]


def origin_of(model: nn.Module, data: DataSet, network: str, threads: int) -> Origin:
    """The origin of points that are made of `model`, called `network` in the files, and `data`."""
    samples = {name: value for name, value in vars(data).items() if isinstance(value, torch.Tensor)}
    device = next(model.parameters()).device.type
    weights = fingerprint(tensors_of(model))
    return Origin(network, weights, data.name, fingerprint(samples), device, threads, data.task.name)


def stored(point: Point, folder: Path, origin: Origin) -> Outcome | None:
    """The outcome of a point that is in `folder` already, whole, and made of the same with the same settings."""
    try:
        found = json.loads((folder / f"{point.name}.json").read_text(encoding="utf-8"))
        made_of = found.pop("origin")
        outcome = Outcome(**found)
        whole = bool(outcome.failure) or (folder / f"{point.name}.dc").stat().st_size == outcome.file_bytes
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    same = made_of == asdict(origin) and outcome.recipe == point.recipe.as_dict()
    return outcome if same and whole else None


def keep(outcome: Outcome, folder: Path, origin: Origin) -> None:
    """Write what became of a point to ``folder/NAME.json``, for `stored` to find."""
    text = json.dumps({**asdict(outcome), "origin": asdict(origin)}, indent=2)
    write_atomic(folder / f"{outcome.name}.json", f"{text}\n".encode())


def run_point(
    point: Point,
    model: nn.Module,
    data: DataSet,
    folder: Path,
    origin: Origin,
    watch: Progress | None = None,
    test: bool = True,
) -> Outcome:
    """Compress `model`, which is not changed, to ``folder/NAME.dc``, and write what came of it to ``folder/NAME.json``.

    Without `test`, the test data is left alone.

    Raises:
        DeepCompressError: as `pipeline.compress`; then there is no ``NAME.json``.
    """
    path, facts, recipe = folder / f"{point.name}.dc", folder / f"{point.name}.json", point.recipe
    facts.unlink(missing_ok=True)  # before the file: facts never stand beside a file that is not theirs
    path.unlink(missing_ok=True)
    val = data.val_loader()

    def attempt() -> Result:
        train = data.train_loader(recipe.batch_size, recipe.seed, recipe.shift, recipe.flip)
        network, journal = origin.network, journal_of(path)
        return compress(
            model, train, val, recipe, path, network=network, data=data.name, watch=watch, resume=journal,
            task=data.task, normalize=data.normalize,
        )  # fmt: skip

    try:
        result = attempt()
    except ResumeError:  # damaged, or of the point as it was with other settings
        discard(journal_of(path))
        result = attempt()
    back = reloaded(model, path)
    task = data.task
    found = evaluate(back, val, task)
    tested = evaluate(back, data.test_loader(), task) if test else None
    outcome = Outcome(
        name=point.name,
        recipe=recipe.as_dict(),
        file_bytes=result.file_bytes,
        ratio=result.ratio,
        kept=_kept(result, model),
        val_error=found.error,
        val_loss=found.loss,
        test_error=None if tested is None else tested.error,
        seconds=round(sum(stage.seconds for stage in result.stages), 3),
        stages=[asdict(stage) for stage in result.stages],
        metric=task.metric,
        higher_is_better=task.higher_is_better,
        val_value=found.value,
        test_value=None if tested is None else tested.value,
    )
    keep(outcome, folder, origin)
    return outcome


def journal_of(path: Path) -> Path:
    """Where the state is kept while the file at `path` is made."""
    return path.with_suffix(".resume")


def reloaded(model: nn.Module, path: Path) -> nn.Module:
    """A copy of `model` with the tensors of the file at `path`, which was made of it."""
    back = copied(model)
    most = sum(value.nbytes for value in tensors_of(model).values())
    fill_from(back, path, most)
    return back


def _kept(result: Result, model: nn.Module) -> float:
    weights = {layer.name: layer.weights for layer in compressible(tensors_of(model))}
    return sum(round(result.kept[name] * count) for name, count in weights.items()) / sum(weights.values())


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
    todo = [point for point in points if point.name not in found]
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
    return [found[point.name] for point in points]


def _line(outcome: Outcome, task: Task) -> str:
    if outcome.failure or outcome.val_value is None:
        return f"{outcome.name} failed: {outcome.failure}"
    return (
        f"{outcome.name}: {outcome.file_bytes:,} bytes, {outcome.ratio:.2f}×, validation "
        f"{task.says(outcome.val_value)}, {outcome.seconds:.1f} s"
    )


def _attempt(
    point: Point, model: nn.Module, data: DataSet, folder: Path, origin: Origin, watch: Progress | None = None
) -> Outcome:
    """As `run_point`, but with an outcome in any case."""
    try:
        return run_point(point, model, data, folder, origin, watch)
    except (DeepCompressError, RuntimeError, MemoryError, OSError) as error:  # torch's word for too little memory too
        return _failed(point, first_line(error))


def _failed(point: Point, reason: str) -> Outcome:
    return Outcome(point.name, point.recipe.as_dict(), failure=reason)


# In this process -----------------------------------------------------------------------------------------------


def _one_by_one(
    todo: Iterable[Point], model: nn.Module, data: DataSet, folder: Path, origin: Origin, watch: Progress
) -> Outcomes:
    for point in todo:
        with torch_threads(origin.threads):
            outcome = _attempt(point, model, data, folder, origin, ForPoint(point.name, watch))
        yield outcome


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Another number of threads for torch meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class ForPoint(Progress):
    """Passes on how far a point is, under its name, and not the lines that each of them would have written."""

    def __init__(self, name: str, watch: Progress) -> None:
        self.name, self.watch = name, watch

    def begin(self, stage: str, epochs: int) -> None:
        """`stage`, under the point's name."""
        self.watch.begin(f"{self.name} {stage}", epochs)

    def batch(self, done: float, loss: float) -> None:
        """As it comes."""
        self.watch.batch(done, loss)


# In processes --------------------------------------------------------------------------------------------------


def _side_by_side(todo: Iterable[Point], make: Make, folder: Path, origin: Origin, jobs: int) -> Outcomes:
    """Outcomes as they come. Each process has a line to this one, on which it gets its points one by one.

    A pool of the standard library would wait for ever for a process that the system ended for its memory, or give up
    the others; and its processes would outlive this one.
    """
    waiting = deque(todo)
    busy: dict[Connection, tuple[SpawnProcess, Point]] = {}
    processes: list[SpawnProcess] = []

    def start() -> tuple[Connection, SpawnProcess]:
        here, there = get_context("spawn").Pipe()
        process = get_context("spawn").Process(target=_serve, args=(there, make, folder, origin), daemon=True)
        process.start()
        there.close()
        processes.append(process)
        return here, process

    def give(line: Connection, process: SpawnProcess) -> None:
        point = waiting.popleft()
        busy[line] = process, point
        with suppress(OSError):  # it has just died: that is found out where its answer is waited for
            line.send(point)

    try:
        for _ in range(min(jobs, len(waiting))):
            give(*start())
        while busy:
            for line in wait(list(busy)):
                assert isinstance(line, Connection)
                process, point = busy.pop(line)
                try:
                    yield line.recv()
                except (EOFError, OSError):
                    line.close()
                    process.join()
                    yield _failed(point, f"its process ended with code {process.exitcode}; was there enough memory?")
                    line, process = start() if waiting else (line, process)
                if waiting:
                    give(line, process)
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _serve(line: Connection, make: Make, folder: Path, origin: Origin) -> None:
    """What a process does: take a point, give an outcome, until nobody is at the other end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes: the first one ends the others
    torch.set_num_threads(origin.threads)
    model, data = make()
    model = plain(model)
    with suppress(EOFError, OSError):
        while True:
            line.send(_attempt(line.recv(), model, data, folder, origin))
