"""`deepcompress plan`."""

from __future__ import annotations

from typing import Any

import click

from deepcompress.cli.common import file_settings, is_packed, load_any, show
from deepcompress.cli.compress import Sections
from deepcompress.cli.naming import build_model, network_name
from deepcompress.cli.options import (
    build_budgeted,
    common,
    network_option,
    recipe_options,
    target_size_option,
    trust_option,
)


@click.command(cls=Sections)
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

    source = load_any(checkpoint, trust_pickle, None)
    name = network_name(network, source, checkpoint)
    known = build_model(source, name, checkpoint) if name is not None else None
    found = plan.plan(known if known is not None else source.state, recipe, going_on=packed)

    def report() -> None:
        from deepcompress.report import tables

        console = tables.output()
        console.print(tables.plan_table(found, console.width))
        tables.say(console, f"\n{tables.plan_line(found)}")
        for note in found.notes:
            tables.say(console, note)

    from deepcompress.report.tables import plan_line

    result = {"checkpoint": checkpoint, "network": name, "recipe": recipe.as_dict(), **found.as_dict()}
    show(as_json, result, report, plan_line(found))
