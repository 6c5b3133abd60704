"""The page of a file: it holds everything, fetches nothing, and shows what `inspect` says."""

from __future__ import annotations

import base64
import json
import re

import pytest
import torch
from browser import ROOT, needs_browser, rendered
from click.testing import CliRunner

from deepcompress.cli import main
from deepcompress.compression.tensors_only import compress_state
from deepcompress.container.breakdown import inspect
from deepcompress.recipe import Recipe

READER = ROOT / "readers" / "js" / "deepcompress.js"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("view") / "a <b>&.dc"
    state = {"fc.weight": torch.randn(40, 30, generator=torch.Generator().manual_seed(0)), "fc.bias": torch.zeros(40),
             "empty": torch.zeros(0, 3), "steps": torch.tensor(3)}  # fmt: skip
    compress_state(state | {"tied": state["fc.weight"]}, Recipe(prune=0.8, retrain=False), path)
    return path


def view(*arguments):
    return CliRunner().invoke(main, ["view", *map(str, arguments)])


@pytest.fixture(scope="module")
def page(model):
    done = view(model, "-o", model.with_suffix(".html"))
    assert done.exit_code == 0, done.output
    return model.with_suffix(".html").read_text(encoding="utf-8")


def test_the_page_holds_the_file_and_the_reader(model, page):
    assert base64.b64encode(model.read_bytes()).decode() in page
    source = READER.read_text(encoding="utf-8")
    assert re.sub(r"^export ", "", source, flags=re.MULTILINE) in page


def test_the_page_fetches_nothing(page):
    assert "default-src 'none'" in page
    assert not re.search(r"""(src|href)\s*=|https?://|@import|url\(""", page)


def test_names_of_files_are_text(page):
    assert "<title>a &lt;b&gt;&amp;.dc</title>" in page
    assert "<b>&.dc" not in page


def test_a_page_has_one_place_and_two_files_share_it(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = view(model, model)
    assert (done.exit_code, done.stdout) == (0, f"a <b>&.html: {(tmp_path / 'a <b>&.html').stat().st_size:,} bytes\n")
    assert (tmp_path / "a <b>&.html").read_text(encoding="utf-8").count("data-file=") == 2


@pytest.mark.parametrize(
    ("file", "message"),
    [("missing.dc", "Error: missing.dc: no such file"), ("bad.dc", "Error: bad.dc: "), ("folder", "Error: folder: ")],
)
def test_bad_files_are_one_line(file, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.dc").write_bytes(b"\x89DC\x01\x05hello")
    (tmp_path / "folder").mkdir()
    done = view(file, "-o", "page.html")
    assert done.exit_code == 1
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "page.html").exists()


def test_a_model_is_not_overwritten_by_its_page(model):
    before = model.read_bytes()
    done = view(model, "-o", model)
    assert done.exit_code == 1
    assert "the ending says a compressed network, and this command writes a .html file" in done.stderr
    done = view(model, "-o", model, "--force")
    assert done.exit_code == 1
    assert "the page shows this model" in done.stderr
    assert model.read_bytes() == before


#: Drops files on the page one after the other, as a person does.
DROP = """<script type="module">
for (const [name, content] of %s) {
  const transfer = new DataTransfer();
  transfer.items.add(new File([Uint8Array.from(content)], name));
  dispatchEvent(new DragEvent("drop", { dataTransfer: transfer }));
  await new Promise((done) => setTimeout(done, 500));
}
</script></body>"""


def text_of(document, pattern):
    match = re.search(pattern, document, re.DOTALL)
    assert match is not None, pattern
    return re.sub(r"<[^>]+>", " ", match[1])


@needs_browser
def test_a_browser_shows_what_inspect_says(model, page):
    found = inspect(model)
    for _ in range(3):  # on a busy machine the browser may end before it has drawn a frame, and so what comes into view
        document = rendered(model.with_suffix(".html").as_uri().replace("&", "%26"))
        if "<canvas" in document:
            break
    assert f"<b>{found.file_bytes:,}</b>" in document
    assert f"{found.ratio:.1f}× smaller than {found.dense_bytes:,} bytes" in document
    for layer in found.layers:
        shown = f"{layer.name} = fc.weight" if layer.kind == "alias" else layer.name
        row = text_of(document, rf'<th scope="row">{re.escape(shown)}</th>(<td>[^\n]*?)</tr>')
        assert f" {layer.bytes:,} " in f" {row} "
    weights = text_of(document, r'<th scope="row">weights</th>(.*?)</tr>')
    coded = sum(layer.parts["weights"] for layer in found.layers if layer.kind == "coded")
    assert f" {coded:,} " in weights
    assert document.count('<canvas class="histogram"') >= 1
    assert "Every element is zero." in document
    assert '<p id="message" role="alert"></p>' in document


@needs_browser
def test_a_dropped_file_takes_the_place_and_a_bad_one_is_a_sentence(model, page, tmp_path):
    other = (ROOT / "tests" / "golden" / "v1-small.dc").read_bytes()
    dropped = [["other.dc", list(other)], ["bad.dc", list(other[:-1])]]
    (tmp_path / "page.html").write_text(page.replace("</body>", DROP % json.dumps(dropped)), encoding="utf-8")
    document = rendered((tmp_path / "page.html").as_uri())
    assert "<h2>other.dc</h2>" in document
    assert "<h2>a &lt;b&gt;" not in document
    assert f"<b>{len(other):,}</b>" in document
    message = text_of(document, r'<p id="message" role="alert">(.*?)</p>')
    assert message.startswith("bad.dc: This file is damaged, or it is no .dc file: ")


@needs_browser
def test_a_page_of_very_many_tensors_shows_the_largest(tmp_path):
    state = {f"layer{n}.bias": torch.arange(1.0, 3 + n % 2) for n in range(1000)} | {"w": torch.eye(9)}
    compress_state(state, Recipe(prune=0.5, retrain=False), tmp_path / "many.dc")
    assert view(tmp_path / "many.dc", "-o", tmp_path / "many.html").exit_code == 0
    document = rendered((tmp_path / "many.html").as_uri())
    assert document.count("The 1,000 largest of 1,001 tensors are shown.") == 2
    assert len(re.findall(r'<th scope="row">(?:layer\d+.bias|w)</th>', document)) == 1000
    assert '<th scope="row">layer998.bias</th>' not in document  # the last of the small ones
