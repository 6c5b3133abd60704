"""A page of HTML that shows what is in `.dc` files: it holds them and a reader in JavaScript, and fetches nothing."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from deepcompress.container.breakdown import Breakdown, inspect
from deepcompress.errors import DeepCompressError, OutputError
from deepcompress.files import write_atomic

#: What a browser opens with ease: the page holds the files as text, a third longer than they are.
MOST_BYTES = 256 << 20
WEB = files("deepcompress.report") / "web"


def write_page(models: Sequence[str | Path], output: str | Path) -> None:
    """Write the page of one `.dc` file, or of two side by side, to `output`.

    Raises:
        FormatError: a file is missing or damaged.
        DeepCompressError: a file is too large for a page.
        OutputError: the page cannot be written, or `output` is one of the models.
    """
    if any(Path(model).resolve() == Path(output).resolve() for model in models):
        raise OutputError(f"cannot write {output}: the page shows this model; give it another name with -o")
    found = [inspect(model) for model in models]
    title = " and ".join(Path(model).name for model in models)
    parts = {
        "title": html.escape(title),
        "style": _asset("view.css"),
        "reader": re.sub(r"^export ", "", _asset("deepcompress.js"), flags=re.MULTILINE),
        "script": _asset("view.js"),
        "files": "\n".join(map(_embedded, found)),
    }
    page = re.sub(r"\{\{(\w+)\}\}", lambda field: parts[field[1]], _asset("view.html"))
    write_atomic(output, page.encode())


def _embedded(found: Breakdown) -> str:
    """A file as an element that no browser runs, with its name and the bytes after each stage."""
    if found.file_bytes > MOST_BYTES:
        raise DeepCompressError(f"{found.file}: has {found.file_bytes:,} bytes; a page takes at most {MOST_BYTES:,}")
    stages = [[name, found.dense_bytes / ratio] for name, ratio in found.stages.items() if ratio]
    facts = html.escape(json.dumps({"name": Path(found.file).name, "stages": stages}))
    content = base64.b64encode(Path(found.file).read_bytes()).decode()
    return f'<script type="application/octet-stream" data-file="{facts}">{content}</script>'


def _asset(name: str) -> str:
    """A file of the page. The reader is a link to `readers/js`; git without links checks out the link's text."""
    asset = WEB / name
    text = asset.read_text(encoding="utf-8")
    if "\n" not in text.strip() and text.startswith("../"):
        return Path(str(asset)).with_name(text.strip()).resolve().read_text(encoding="utf-8")
    return text
