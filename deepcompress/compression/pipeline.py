"""The stages chained: prune, quantize, encode, and the proof that the file holds what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deepcompress.calibration.budget import Budget
from deepcompress.calibration.checking import Rounded
from deepcompress.calibration.rounding import Rounder
from deepcompress.compression.from_base import FromBase, Limits, recipe_beside
from deepcompress.compression.from_file import asks_for_more, renamed, restore, steps_in, still_shared
from deepcompress.compression.lowrank import factorize
from deepcompress.compression.rates import suited
from deepcompress.compression.result import Result, kept_line
from deepcompress.compression.revision import Revision
from deepcompress.compression.small import finish_small
from deepcompress.compression.stages import ByFraction, ByMethod, BySize, Job, Route
from deepcompress.compression.tensors_only import compress_state
from deepcompress.compression.writing import (
    Delivery,
    Stages,
    contiguous_state,
    extra_states,
    kept_of,
    layers_of,
    read_back,
    refresh,
)
from deepcompress.files import check_writable
from deepcompress.layers import buffers_of, live_tensors, parameters_in
from deepcompress.networks.adapt import is_smaller
from deepcompress.networks.copies import copied, unwrapped
from deepcompress.networks.inputs import Batches
from deepcompress.networks.parametrized import bake
from deepcompress.networks.precision import stored_of
from deepcompress.networks.unmade import check_made
from deepcompress.prune.criteria.base import find
from deepcompress.prune.lottery import origin_of
from deepcompress.prune.masks import Masks
from deepcompress.quantize.vector_tuning import tune_vectors
from deepcompress.reading.arrays import dense_bytes
from deepcompress.reading.loader import fill_from, load_state_dict, names_in
from deepcompress.recipe import Fraction, Recipe, Size
from deepcompress.recipe.conflicts import for_samples
from deepcompress.recipe.uses import check_data, check_drop, check_rounding, check_sharing, check_spread, check_stages
from deepcompress.training import distributed
from deepcompress.training.batches import as_pairs
from deepcompress.training.check import settle
from deepcompress.training.evaluation import evaluate
from deepcompress.training.journal import Journal, about_run, fingerprint, recording
from deepcompress.training.loop import seed_everything
from deepcompress.training.objective import objective_of
from deepcompress.training.progress import Progress
from deepcompress.training.retraining import Run
from deepcompress.training.tasks import Loss, Metric, Task


def compress(
    model: nn.Module,
    train_loader: Batches | None,
    val_loader: Batches | None,
    recipe: Recipe | None = None,
    path: str | Path = "model.dc",
    *,
    test_loader: Batches | None = None,
    network: str = "",
    data: str = "",
    watch: Progress | None = None,
    task: str | Task | None = None,
    loss: Loss | None = None,
    metric: Metric | None = None,
    normalize: str = "",
    resume: str | Path | None = None,
    masks: Masks | None = None,
    start: str | Path | None = None,
    rewind_to: Mapping[str, torch.Tensor] | None = None,
    calibrate: Iterable[Any] | None = None,
    teach: bool = False,
    base: str | Path | None = None,
    update_size: int | None = None,
    update_drop: float | None = None,
) -> Result:
    """Compress a network and write it to `path`. `model` itself is not changed.

    Args:
        model: a trained network, or a wrapper of torch's around it (compiled, data-parallel), on the device that
            retrains it.
        train_loader: batches (input, target) for retraining, read again in each epoch, such as a DataLoader. It may
            be None if `recipe.retrain` is False. Input and target are tensors, or tuples, lists or
            dictionaries of tensors. The network gets the parts of the input as its positional or named arguments. In a
            batch with more parts, the last is the target. In a dictionary it is ``labels`` (see `training.batches`).
        val_loader: batches for measuring progress. With None nothing is measured.
        recipe: all settings. `batch_size`, `shift` and `flip` are for the loaders of the command line and have no
            effect on these.
        path: the file to write. An old file is replaced at the very end, or not at all.
        test_loader: batches for the accuracies of the result, by default `val_loader`. They decide nothing.
        network: a name by which `load` can rebuild the network, stored in the file.
        data: the name of the data set, stored in the file.
        watch: told what happens.
        task: what the network is for: ``classification``, ``segmentation``, ``regression``, ``multilabel``,
            ``tokens`` or ``embedding`` (see `training.tasks`). None goes by the shapes of the first batch.
        loss: ``loss(output, target)``, a scalar, in place of a task.
        metric: ``metric(output, target)``, a number that is measured in place of the task's metric. With `calibrate`
            and without `val_loader` and `test_loader`: ``metric(network)``, of the whole network in evaluation.
        normalize: how the inputs of the data were normalized (see `training.normalizing`), stored in the file.
        resume: a folder that keeps the state while this runs (see `training.journal`). After an interruption, the next
            call with the same arguments continues from there and writes the same file. The loaders must draw from
            torch's own generator, or have one as an attribute ``generator`` (a DataLoader does either). The folder is
            removed at the end. With None no state is kept.
        masks: prune exactly these weights, and retrain with these masks for `recipe.epochs`. The recipe's criterion,
            fraction and schedule then have no effect. See `prune.maskfile`.
        start: a .dc file of this network from which to continue. Its tensors replace the model's. Its pruned weights
            stay pruned, and its values stay shared until weights move (see `continuation`).
        rewind_to: for a recipe whose rewind is ``start``: the state_dict of this network before it was trained, or
            early in training (see `prune.lottery`).
        calibrate: batches of inputs with 64 to 1,024 samples, which guide the rounding (see `calibration`). The
            recipe's quantizer must be ``rows``, as in ``Recipe(retrain=False)``.
        teach: with `calibrate`: tune the rounded weights, biases and gains by the outputs of `model` on these samples.
        base: a .dc file of this network that the new file is to be a small update of (`updates.diff`): shared values
            stay, and weights keep theirs, or stay pruned, where that still serves. Settings that `recipe` leaves open
            are those of the file (`from_base.settings_beside`). With data, the network of the file is trained on for
            `recipe.finetune_epochs`, and `model` is the teacher of a recipe that distills; without, weights move
            towards those of `model`. Validation data says how many change: as few as cost no more than 5 % of the loss.
        update_size: with `base`: bytes that the update may have, in place of that.
        update_drop: with `base`: points of the validation metric that the new file may be worse than `model`, in place
            of that; the update is as small as that allows.

    Raises:
        RecipeError: a setting does not fit the network, or data is missing; or `update_size` or `update_drop` is too
            small.
        CheckpointError: the network has no weights to compress, or NaN among them; or `masks` are of other weights.
        NetworkError: it has no values yet, or cannot be copied, or, with a `loss`, does not take the data; or
            `rewind_to` is of another.
        PruneError: a layer would be emptied.
        OutputError: `path` cannot be written, or `resume`.
        ResumeError: the state in `resume` is of another run, or damaged.
    """
    model, recipe = unwrapped(model), recipe or Recipe()
    recipe = recipe if calibrate is None else for_samples(recipe)
    check_made(model)
    limits = Limits(update_size, update_drop)
    limits.check(base)
    if base is not None:
        others = masks is not None or start is not None or calibrate is not None
        recipe = recipe_beside(recipe, base, others)
    if recipe.quantizer == "rows" and not (masks is None and start is None):  # they say what is pruned and shared
        check_rounding(recipe)
        recipe = replace(recipe, quantizer="kmeans")
    if start is not None:
        check_stages(recipe, "the .dc file to go on from says what is pruned and shared")
    if distributed.is_first():
        check_writable(path)
    order = _Order(
        model, train_loader, val_loader, test_loader, recipe, Path(path), network, data,
        watch or Progress(), task, loss, metric, normalize, masks, start, rewind_to, calibrate, teach, base, limits,
    ).with_pairs()  # fmt: skip
    journal = None
    if resume is not None and distributed.is_first():
        journal = Journal(resume, order.about())
    everyday = (torch.inference_mode(False), torch.enable_grad())  # whatever the caller is in
    with everyday[0], everyday[1], recording(journal), distributed.own_file(order.path) as own:
        return _compress(replace(order, path=own))


@dataclass(frozen=True)
class _Order:
    """What `compress` was asked for; attributes as its arguments."""

    model: nn.Module
    train_loader: Batches | None
    val_loader: Batches | None
    test_loader: Batches | None
    recipe: Recipe
    path: Path
    network: str
    data: str
    watch: Progress
    task: str | Task | None
    loss: Loss | None
    metric: Metric | None
    normalize: str
    masks: Masks | None
    start: str | Path | None
    rewind_to: Mapping[str, torch.Tensor] | None
    calibrate: Iterable[Any] | None
    teach: bool
    base: str | Path | None
    limits: Limits

    @property
    def batches(self) -> Batches | None:
        """What is trained on."""
        return self.train_loader if self.recipe.retrain else None

    @property
    def keeps_values(self) -> bool:
        """Whether no weight of a file to go on from moves before weights are shared."""
        return self.batches is None or not self.recipe.epochs

    @property
    def report(self) -> Batches | None:
        """What the stages are measured on."""
        return self.test_loader if self.test_loader is not None else self.val_loader

    def about(self) -> dict[str, str]:
        """What a journal is to know the run by."""
        settings = {
            **self.recipe.as_dict(),
            "network": self.network,
            "data": self.data,
            "processes": distributed.processes(),
            "task": self.task.name if isinstance(self.task, Task) else self.task,
            "normalize": self.normalize,
        }
        if self.masks is not None:
            settings["masks"] = fingerprint(self.masks.keep)
        if self.start is not None:
            settings["start"] = fingerprint(load_state_dict(self.start))
        if self.base is not None:
            settings |= {"base": fingerprint(load_state_dict(self.base)), **vars(self.limits)}
        if self.rewind_to is not None:
            settings["rewind_to"] = fingerprint(self.rewind_to)
        return about_run(self.model, settings, {"training data": self.train_loader, "validation data": self.val_loader})

    def networks(self) -> tuple[nn.Module, nn.Module]:
        """The network as it was given, and the copy to work on; one and the same, unless layers become thin."""
        work = copied(self.model)
        for name in bake(work):
            self.watch.message(f"{name} is computed from other tensors: trained and stored is what it came to")
        if self.batches is not None and not any(parameter.requires_grad for parameter in work.parameters()):
            self.watch.message("no parameter of the network asks for gradients: all of its copy are trained")
            for parameter in work.parameters():
                parameter.requires_grad_(parameter.is_floating_point())
        if self.start is not None:
            fill_from(work, self.start)
        if self.base is not None:
            given = copied(work)
            layers_of(given, contiguous_state(given), self.recipe)  # for its checks: NaN would be no teacher
            fill_from(work, self.base)
            return given, work
        if self.recipe.low_rank is None:
            return work, work
        dense = copied(work)
        for layer in factorize(work, self.recipe.low_rank):
            self.watch.message(str(layer))
        return dense, work

    def with_pairs(self) -> _Order:
        """With loaders that give pairs, and can be passed over again."""
        train, val, test = self.train_loader if self.recipe.retrain else None, self.val_loader, self.test_loader
        return replace(
            self,
            train_loader=self.train_loader if train is None else as_pairs(train, "training data"),
            val_loader=None if val is None else as_pairs(val, "validation data"),
            test_loader=None if test is None else as_pairs(test, "test data"),
        )

    def settled(self, model: nn.Module) -> Task:
        """The task, found to suit network and data."""
        loaders = [loader for loader in (self.batches, self.report) if loader is not None]
        task = settle(model, loaders, self.task, self.loss, self.metric)
        if self.normalize:
            how = "not normalized" if self.normalize == "none" else f"normalized by {self.normalize}"
            self.watch.message(f"inputs are {how}")
        if self.task is None and task.name not in ("classification", "own"):
            self.watch.message(f"task: {task.name}, by the shapes of outputs and targets; {task.metric} is measured")
        return task


def _compress(order: _Order) -> Result:
    source = order.start if order.base is None else order.base
    called = {} if source is None else names_in(source, order.model)
    order = replace(order, recipe=renamed(order.recipe, called))
    recipe, watch = order.recipe, order.watch
    measured = order.val_loader is not None or (order.calibrate is not None and order.metric is not None)
    check_data(recipe, order.train_loader is not None, measured, order.calibrate is not None)
    check_drop(order.limits.drop, measured)
    if order.masks is None and isinstance(recipe.amount, Fraction):
        check_spread(recipe, find(recipe.criterion).scope)
    origin = origin_of(order.model, recipe, order.rewind_to)
    dense, work = order.networks()
    state = contiguous_state(work)
    layers = layers_of(work, state, recipe)
    tensors = live_tensors(work, state)
    weights = {layer.name: tensors[layer.name] for layer in layers}
    check_writable(order.path)
    task = order.settled(work)
    if recipe.quantizer == "rows":
        return _rounded(order, work, state, task)
    objective = objective_of(recipe, dense, task)
    seed_everything(recipe.seed)
    recipe = suited(Run(work, weights, order.batches, recipe, watch=watch, objective=objective))
    current = dense
    stages = Stages(
        dense,
        lambda: None if order.report is None else evaluate(current, order.report, task),
        task,
    )
    stages.finish("dense", stages.dense)
    current = work
    if recipe.low_rank is not None:
        stages.finish("low-rank", dense_bytes(state))
    steps = {} if order.start is None else steps_in(order.start, called)
    delivery = Delivery(work, state, layers, recipe, order.network, order.data, order.normalize, steps)
    former = [] if source is None else restore(source, tensors, called)
    if former and order.keeps_values and not still_shared(former, weights, layers, recipe)[1]:
        check_sharing(recipe)
    run = Run(work, weights, order.batches, recipe, order.val_loader, watch, objective)
    job = Job(run, layers, former, origin)
    route = _route(job, order.masks, delivery) if order.base is None else _from_base(order, job, delivery, dense, task)
    route.prune()
    pruned = route.masks
    watch.message(kept_line(kept_of(pruned), pruned.sparsity))
    stages.finish("prune", len(delivery.packed([], "fixed")))
    pruned.apply(weights)  # a forward may change weights
    route.share()
    if route.masks is not pruned:
        watch.message(f"after sharing, {kept_line(kept_of(route.masks), route.masks.sparsity)}")
    return _delivered(order, job, route, delivery, stages)


def _delivered(order: _Order, job: Job, route: Route, delivery: Delivery, stages: Stages) -> Result:
    """The file of a network whose weights are pruned and shared: its vectors are put on grids, and all is written."""
    run, state, work = job.run, delivery.state, delivery.model
    refresh(state, work, run.weights)
    vectors = finish_small(work, state, run.recipe, job.former)
    route.settle(lambda: len(delivery.packed([*route.codebooks, *vectors])))
    # an update has few bytes for what is no weight
    tuned = tune_vectors(run, vectors, parameters_in(work, state)) if order.base is None else None
    if tuned is not None:
        vectors = tuned
        refresh(state, work, run.weights)
        route.settle(lambda: len(delivery.packed([*route.codebooks, *vectors])))
    result = delivery.write(order.path, [*route.codebooks, *vectors], route.masks, stages, route.held)
    if route.allocation is not None:
        result = replace(result, allocation=asdict(route.allocation))
    return result if not isinstance(route, FromBase) else replace(result, update=route.facts(order.path))


def _rounded(order: _Order, work: nn.Module, state: dict[str, torch.Tensor], task: Task) -> Result:
    """Rounded row by row, and measured, if there is data or a metric of the network."""
    budget = _budget(order, work, task)
    stored = stored_of(work)
    rounder, tune = (None, None) if order.calibrate is None else _rounder(order, work, state, task, budget)
    result = compress_state(
        {name: stored.cast(name, value) for name, value in state.items()} | extra_states(work),
        order.recipe,
        order.path,
        network=order.network,
        data=order.data,
        normalize=order.normalize,
        buffers=buffers_of(work),
        smaller=is_smaller(work),
        watch=order.watch,
        rounder=rounder,
        tune=tune,
    )
    if budget is None:
        return result
    read_back(work, order.path, state)
    return result.measured(budget.before, budget.measure(work), budget.task)


def _budget(order: _Order, work: nn.Module, task: Task) -> Budget | None:
    """What the network is measured by at the end, if by anything."""
    if order.report is not None:
        return Budget.on_data(work, order.report, task)
    return Budget.by(order.metric, work) if order.metric is not None and order.calibrate is not None else None


def _rounder(
    order: _Order, work: nn.Module, state: dict[str, torch.Tensor], task: Task, budget: Budget | None
) -> tuple[Callable[[float], Rounded], Callable[[Rounded], Rounded] | None]:
    """What rounds by samples, to the error of a step or within a budget; and what tunes that then, if anything is."""
    recipe = order.recipe
    assert order.calibrate is not None
    names = [layer.name for layer in layers_of(work, state, recipe)]
    made = Rounder(work, names, order.calibrate, order.watch, order.teach)
    if recipe.target_size is not None:
        return made.checked, made.tuned if order.teach else None
    if recipe.max_drop is None:
        return made.measured, None
    decides = budget if order.val_loader is None else Budget.on_data(work, order.val_loader, task)
    assert decides is not None
    lost, most = decides.checked().lost, recipe.max_drop
    return lambda step: made.kept_by(lost, most, step), None


def _from_base(order: _Order, job: Job, delivery: Delivery, given: nn.Module, task: Task) -> FromBase:
    """The way to a small update of a file."""
    base = Path(str(order.base))
    weights = live_tensors(given, contiguous_state(given))
    own = live_tensors(job.run.model, delivery.state)
    small = {name: value for name, value in own.items() if name not in job.run.weights}
    layers = {name: weights[name] for name in job.run.weights}

    def begin() -> Revision:
        return Revision(job, base, lambda codebooks: delivery.drafted(codebooks, job.former), layers, small)

    budget = None if order.val_loader is None else Budget.on_data(given, order.val_loader, task)
    return FromBase(job, begin, order.limits, budget)


def _route(job: Job, masks: Masks | None, delivery: Delivery) -> Route:
    """The way through stages 1 and 2; on from a file whose masks are sparse enough, by just those."""
    recipe, weights = job.run.recipe, job.run.weights
    if masks is None and recipe.method != "stages":
        return ByMethod(job)
    if masks is None and job.former and recipe.regrow == "none" and not asks_for_more(weights, recipe):
        masks = Masks.nonzero(weights)
    if masks is None and isinstance(recipe.amount, Size):
        return BySize(job, delivery.fixed_bytes)
    return ByFraction(job, masks)
