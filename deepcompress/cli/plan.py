"""`deepcompress plan`."""

from __future__ import annotations

from typing import Any

import click

from deepcompress.cli.building import build_fitted
from deepcompress.cli.common import file_settings, is_packed, load_any, show
from deepcompress.cli.data import said
from deepcompress.cli.naming import network_name
from deepcompress.cli.options import common, network_option, trust_option
from deepcompress.cli.sections import Sections
from deepcompress.cli.settings import build_budgeted, recipe_options, setting_option


@click.command(cls=Sections)
@click.argument("checkpoint", metavar="CKPT", type=click.Path())
@network_option
@setting_option("target_size")
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
    """Show what compress would do to each tensor with the same options.

    The table shows which tensors would be pruned or share values, how much of each would be removed, how many values it
    would share and with which tensors, and its estimated bytes. No data is needed. Nothing is trained or written.
    """
    packed = is_packed(checkpoint)
    recipe, _ = build_budgeted(recipe_file, layers, settings, file_settings(checkpoint) if packed else None)

    from deepcompress.compression import plan
    from deepcompress.compression.from_file import renamed
    from deepcompress.reading.loader import names_in

    source = load_any(checkpoint, trust_pickle, None, key)
    name = network_name(network, source, checkpoint)
    known = None
    if name is not None:
        known, source = build_fitted(source, name, checkpoint)
        recipe = renamed(recipe, names_in(checkpoint, known)) if packed else recipe
    found = plan.plan(known if known is not None else source.state, recipe, going_on=packed)

    def report() -> None:
        from deepcompress.report import tables

        console = tables.output()
        for line in source.found.sentences() if source.found else ():
            tables.say(console, line)
        console.print(tables.plan_table(found, console.width))
        tables.say(console, f"\n{tables.plan_line(found)}")
        normalized = [f"inputs are normalized: {said(source)}"] if said(source) else []
        for note in (*found.notes, *normalized):
            tables.say(console, note)

    from deepcompress.report.tables import plan_line

    origin = source.found.as_dict() if source.found else None
    facts = {"checkpoint": checkpoint, "network": name, "normalize": said(source), "found": origin}
    show(as_json, {**facts, "recipe": recipe.as_dict(), **found.as_dict()}, report, plan_line(found))
