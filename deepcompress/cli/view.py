"""`deepcompress view`."""

from __future__ import annotations

from pathlib import Path

import click

from deepcompress.cli.common import show
from deepcompress.cli.options import common
from deepcompress.cli.outputs import claim, force_option


@click.command()
@click.argument("file", metavar="MODEL.dc", type=click.Path())
@click.argument("other", metavar="[OTHER.dc]", type=click.Path(), required=False)
@click.option("-o", "--output", type=click.Path(), metavar="PAGE.html", help="Page to write.  [default: MODEL.html]")
@force_option
@common
def view(
    file: str, other: str | None, output: str | None, force: bool, as_json: bool, verbose: bool, quiet: bool
) -> None:
    """Write a page that shows a .dc file, or two files side by side.

    The page is one HTML file that any browser opens without a network. It shows where the bytes are, the table of
    inspect, the bytes after each stage, and for each layer a histogram with the shared values and a picture of where
    its weights lie. Drop another .dc file on it to look at that one.
    """
    from deepcompress.report.view import write_page

    models = [file] if other is None else [file, other]
    page = output or f"{Path(file).stem}.html"
    claim(page, ending=".html")
    write_page(models, page)
    size = Path(page).stat().st_size
    show(as_json, {"file": page, "file_bytes": size, "models": models}, lambda: f"{page}: {size:,} bytes")
