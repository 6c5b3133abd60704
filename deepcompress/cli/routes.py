"""The ways in which `compress` makes a file: with data, by a search, with the network alone, and from bare tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepcompress.cli.building import SMALLER, build_model, check_shapes, outline, tell_found
from deepcompress.cli.common import new_folder, resumable
from deepcompress.cli.data import facts_of, function_of, model_and_data, said, tell
from deepcompress.cli.naming import stored_data, stored_network
from deepcompress.cli.onnx import compress_onnx, graph_of
from deepcompress.cli.order import Order
from deepcompress.errors import DeepCompressError

if TYPE_CHECKING:
    import torch

    from deepcompress.checkpoint import Checkpoint
    from deepcompress.compression.result import Result
    from deepcompress.prune.masks import Masks
    from deepcompress.report.console import ConsoleProgress


@dataclass(frozen=True)
class Job:
    """What a way starts from: the order, the tensors, the network's name, and what the files that it names hold."""

    order: Order
    source: Checkpoint
    name: str | None
    watch: ConsoleProgress
    masks: Masks | None
    origin: Mapping[str, torch.Tensor] | None

    @property
    def label(self) -> str:
        """The data that a file may name where none was used."""
        return stored_data(self.source, self.order.checkpoint, packed=self.order.start is not None)


@dataclass(frozen=True)
class Made:
    """What came of it, the name of the data, and what else JSON says."""

    result: Result
    label: str
    facts: dict[str, Any] = field(default_factory=dict)


Route = Callable[[Job], Made]


def route_of(order: Order, name: str | None) -> Route:
    """The way to the file, where the network is called `name`, if it is known."""
    if order.is_model:
        return with_graph
    if order.searching:
        return by_search
    if order.uses_data:
        return with_data
    if name is not None and (order.need or order.start is not None):
        return without_data
    return from_tensors


def with_data(job: Job) -> Made:
    """Retrained or measured."""
    from deepcompress.compression import pipeline
    from deepcompress.training import distributed

    order, recipe = job.order, job.order.recipe
    assert job.name is not None
    model, samples = model_and_data(job.source, order.checkpoint, job.name, order.asked)
    journal = Path(f"{order.output}.resume") if recipe.retrain else None
    with resumable(journal if distributed.is_first() else None, order.resume, job.watch):
        result = pipeline.compress(
            model,
            samples.train_loader(recipe.batch_size, recipe.seed, recipe.shift, recipe.flip),
            samples.val_loader(),
            recipe,
            order.output,
            test_loader=samples.test_loader(),
            network=stored_network(job.name),
            data=samples.name,
            normalize=samples.normalize,
            task=samples.task,
            watch=job.watch,
            resume=journal,
            rewind_to=job.origin,
            masks=job.masks,
            start=order.start,
            **order.calibrating.arguments(),
            base=order.base,
            update_size=order.update_size,
            update_drop=order.update_drop,
        )
    tell(samples, order.quiet or not distributed.is_first())
    return Made(result, samples.name, facts_of(samples))


def by_search(job: Job) -> Made:
    """The smallest file within the budget."""
    import torch

    from deepcompress.studies import search as library

    order, budget = job.order, job.order.recipe.max_drop
    assert job.name is not None
    assert budget is not None
    model, samples = model_and_data(job.source, order.checkpoint, job.name, order.asked)
    with new_folder(Path(f"{order.output}.search")) as folder:
        try:
            found = library.search(
                model,
                samples,
                order.recipe,
                budget,
                folder,
                trials=order.trials or library.TRIALS,
                network=stored_network(job.name),
                threads=torch.get_num_threads(),
                watch=job.watch,
            )
        except KeyboardInterrupt:
            raise DeepCompressError(
                f"interrupted; the finished trials stay in {folder}, and the same command continues the search"
            ) from None
    result = library.deliver(found, model, samples, order.output)
    if not order.keep_trials:
        library.clear(folder)
    tell(samples, order.quiet)
    facts = {"budget": library.facts(found), "search": found.as_dicts(), **facts_of(samples)}
    return Made(result, samples.name, facts)


def with_graph(job: Job) -> Made:
    """An ONNX model, with its graph; measured before and after where there is data."""
    order = job.order
    samples = order.calibrating.read()
    result, facts = compress_onnx(order.checkpoint, order.recipe, order.output, samples, order.asked, job.watch)
    return Made(result, "", facts)


def without_data(job: Job) -> Made:
    """To a size, by masks, with scores, or on from a file: with the network, but neither trained nor measured."""
    from deepcompress.compression import pipeline

    order = job.order
    assert job.name is not None
    label = job.label
    result = pipeline.compress(
        build_model(job.source, job.name, order.checkpoint),
        None,
        None,
        order.recipe,
        order.output,
        network=stored_network(job.name),
        data=label,
        normalize=said(job.source) or "",
        watch=job.watch,
        masks=job.masks,
        start=order.start,
        metric=function_of(order.asked.metric, "--metric") if order.judged else None,
        **order.calibrating.arguments(),
        base=order.base,
        update_size=order.update_size,
    )
    return Made(result, label)


def from_tensors(job: Job) -> Made:
    """Without data and without the network: tensor by tensor."""
    from deepcompress.compression.from_file import steps_in
    from deepcompress.compression.tensors_only import compress_state
    from deepcompress.layers import buffers_of, part_of_computed
    from deepcompress.networks.names import fitted

    order, source, recipe = job.order, job.source, job.order.recipe
    if job.name is not None and part_of_computed(source.state) is not None:
        return without_data(job)  # what it comes to, only the network knows
    if order.start is not None:  # whose batch norm is folded, if it is
        recipe = replace(recipe, batch_norm="keep")
    network, label = outline(job.name, source), job.label
    source = source if network is None else fitted(source, network, plain=True)
    tell_found(source)
    if network is not None:
        check_shapes(network, source, job.name, order.checkpoint)
    result = compress_state(
        source.state,
        recipe,
        order.output,
        network=stored_network(job.name),
        data=label,
        normalize=said(source) or "",
        buffers=set() if network is None else buffers_of(network),
        smaller=SMALLER in source.facts,
        extra=source.extra,
        watch=job.watch,
        steps={} if order.start is None else steps_in(order.start),
        graph=b"" if order.start is None else graph_of(order.start),
    )
    return Made(result, label)
