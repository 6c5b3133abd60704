"""A point of a study: one compression as a file in a folder, what it is made of, what became of it, and the front.

Points are kept as ``NAME.dc`` and then ``NAME.json``, each put in its place by a rename: whenever a study is stopped,
a point is there whole or not at all, and the same study continues from there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deepcompress.compression.pipeline import compress
from deepcompress.compression.result import Result
from deepcompress.errors import ResumeError
from deepcompress.files import write_atomic
from deepcompress.layers import compressible, tensors_of
from deepcompress.networks.copies import copied
from deepcompress.reading.loader import fill_from
from deepcompress.recipe import File, Recipe, Sharing, Size
from deepcompress.training.data import DataSet
from deepcompress.training.evaluation import evaluate
from deepcompress.training.journal import discard, fingerprint, sharing
from deepcompress.training.progress import Progress
from deepcompress.training.tasks import CLASSIFICATION

PARTS = 20  # of the validation samples, on which files are compared one by one
#: Settings of what comes after pruning.
_LATER = {"bits", "conv_bits", "levels", *(setting.name for stage in (Sharing, File) for setting in fields(stage))}


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

    `file_bytes` is the size of the file, `ratio` that of dense fp32 over it, and `source_ratio` that of the tensors as
    they were given; `kept` the fraction of the prunable weights that pruning left. `val_value` and `test_value` are
    those of the task's `metric`, of the network reloaded from the file; so are `val_error` and `test_error`, in
    percent, of tasks that have them, and `val_loss`, the mean. `val_parts` is `val_value` on each of `PARTS` parts of
    the samples. `seconds` is how long it took, with the pruning that it may have in common with other points, and
    `stages` how far things stood after each (on validation data).
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
    source_ratio: float | None = None
    val_parts: list[float] = field(default_factory=list)

    @property
    def cost(self) -> float | None:
        """The metric on validation data, turned so that lower is better."""
        if self.val_value is None:
            return self.val_error
        return -self.val_value if self.higher_is_better else self.val_value


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


def parts_of(model: nn.Module, data: DataSet) -> list[float]:
    """The metric of a network on each of `PARTS` parts of the validation samples, fewer where there are fewer."""
    size = max(-(-len(data.x_val) // PARTS), 1)
    return [evaluate(model, [batch], data.task).value for batch in data.val_loader(size)]


def pruning_of(point: Point, origin: Origin) -> str:
    """A name for the pruning of a point, which is the same for all that prune alike.

    It is empty where nothing is to be gained, because nothing is retrained, or where what comes later has a part in it:
    a size says what is pruned, or a method shares values while it prunes.
    """
    recipe = point.recipe
    if recipe.method != "stages" or isinstance(recipe.amount, Size) or not recipe.retrain or not recipe.epochs:
        return ""
    settings = {name: value for name, value in recipe.as_dict().items() if name not in _LATER}
    text = json.dumps([settings, asdict(origin)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


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
    pruned: Path | None = None,
) -> Outcome:
    """Compress `model`, which is not changed, to ``folder/NAME.dc``, and write what came of it to ``folder/NAME.json``.

    Without `test`, the test data is left alone. `pruned` is a folder for the pruning that other points have in common
    with this one (`training.journal.sharing`); it is made here, and left.

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
        if pruned is not None:
            pruned.mkdir(exist_ok=True)
        with sharing(pruned):
            return compress(
                model, train, val, recipe, path, network=network, data=data.name, watch=watch, resume=journal,
                task=data.task, normalize=data.normalize,
            )  # fmt: skip

    try:
        result = attempt()
    except ResumeError:  # damaged, or of the point as it was with other settings
        for state in (journal_of(path), pruned):
            if state is not None:
                discard(state)
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
        source_ratio=result.source_ratio,
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
        val_parts=[] if test else parts_of(back, data),
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
