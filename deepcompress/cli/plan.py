"""`deepcompress plan`."""

from __future__ import annotations

from typing import Any

import click

from deepcompress.cli.common import build_fitted, file_settings, is_packed, load_any, network_name, show
from deepcompress.cli.data import said
from deepcompress.cli.options import (
    build_budgeted,
    common,
    network_option,
    recipe_options,
    target_size_option,
    trust_option,
)


@click.command()
@click.argument("checkpoint", metavar="CKPT", type=click.Path())
@network_option
@target_size_option
@recipe_options()
@trust_option
@common
def plan(
    checkpoint: str,
    network: str | None,
    recipe_file: str | None,
    layers: tuple[str, ...],
    trust_pickle: bool,
    key: str | None,
    as_json: bool,
    verbose: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Show what compress would do to each tensor, with the same options, before anything is done.

    Which tensors are pruned, shared or left alone, how much of each would go, how many values it would share and with
    whom, and about how many bytes that makes. No data is needed, and nothing is trained or written.
    """
    packed = is_packed(checkpoint)
    recipe, _ = build_budgeted(recipe_file, layers, settings, file_settings(checkpoint) if packed else None)

    from deepcompress.compression import plan

    source = load_any(checkpoint, trust_pickle, None, key)
    name = network or network_name(source)
    known = None
    if name is not None:
        known, source = build_fitted(source, name, checkpoint, "planned for")
    found = plan.plan(known if known is not None else source.state, recipe, going_on=packed)

    def report() -> None:
        from deepcompress.report import tables

        console = tables.output()
        for line in source.found.sentences() if source.found else ():
            console.out(line, highlight=False)
        console.print(tables.plan_table(found, console.width))
        console.out(f"\n{tables.plan_line(found)}", highlight=False)
        normalized = [f"inputs are normalized: {said(source)}"] if said(source) else []
        for note in () if quiet else (*found.notes, *normalized):
            console.out(note, highlight=False)

    origin = source.found.as_dict() if source.found else None
    facts = {"checkpoint": checkpoint, "network": name, "normalize": said(source), "found": origin}
    show(as_json, {**facts, "recipe": recipe.as_dict(), **found.as_dict()}, report)
