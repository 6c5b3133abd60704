"""The network that is meant, with the tensors of a file: under its names, with its shapes, or one clear line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from deepcompress.usercode import names_code

if TYPE_CHECKING:
    from torch import nn

    from deepcompress.checkpoint import Checkpoint


#: A fact of a checkpoint: units were taken out of its network (`export --shrink`).
SMALLER = "smaller"


def outline(name: str | None, source: Checkpoint) -> nn.Module | None:
    """The network `name` for the tensors of `source`, without them: only names and shapes mean anything."""
    from contextlib import nullcontext

    import torch

    from deepcompress import networks

    if name is None:
        return None
    with nullcontext() if names_code(name) else torch.device("meta"):
        return networks.build(name, source.outlines())


def check_shapes(network: nn.Module, source: Checkpoint, name: str | None, file: str) -> None:
    """Refuse tensors whose names and shapes are not those of `network`, an outline.

    Raises:
        NetworkError: naming the first of them.
    """
    from deepcompress.reading.fitting import make_fit

    make_fit(network, source.outlines(), file, smaller=is_smaller(source, name))


def is_smaller(source: Checkpoint, name: str | None) -> bool:
    """Whether tensors may be smaller than those of the network `name`: the file says so, or names it itself.

    Before files said so, a smaller network was known by naming the network that it came from.
    """
    return SMALLER in source.facts or (name is not None and source.network == name)


def build_model(source: Checkpoint, name: str, file: str, strict: bool = True, quiet: bool = False) -> nn.Module:
    """As `build_fitted`, which says what was done to names and values, and gives the network."""
    model, source = build_fitted(source, name, file, strict, quiet)
    tell_found(source)
    return model


def build_fitted(
    source: Checkpoint, name: str, file: str, strict: bool = True, quiet: bool = False
) -> tuple[nn.Module, Checkpoint]:
    """The network `name`, as `naming.network_name` found it, with the tensors of `source`, and these under its names.

    Without `strict`, what is missing and what is too much there is told on stderr, unless `quiet`, and the rest loaded.

    Raises:
        NetworkError: it cannot be built, or the tensors do not fit.
    """
    from deepcompress import networks
    from deepcompress.networks.names import fitted
    from deepcompress.networks.precision import remember
    from deepcompress.reading.fitting import fill

    model = networks.build(name, source.outlines())
    source = fitted(source, model)
    state = dict(source.state)
    misfit = fill(model, state, file, smaller=is_smaller(source, name), strict=strict, extra=source.extra)
    for line in () if quiet else misfit.lines(file, type(model).__name__):
        click.echo(line, err=True)
    remember(model, state)
    return model, source


def tell_found(source: Checkpoint) -> None:
    """Say on stderr what was done to the names and values of a checkpoint, if anything was, and nobody said -q."""
    context = click.get_current_context(silent=True)
    if context is not None and not context.params.get("quiet"):  # another process has none
        for line in source.found.news() if source.found else ():
            click.echo(line, err=True)
