"""The JavaScript reader and the page that draws digits, in Node.js and in a browser."""

from __future__ import annotations

import html
import importlib
import json
import re
import subprocess
import sys

import pytest
import torch
from browser import ROOT, needs_browser, needs_node, rendered, served

import deepcompress as dc

READER, SUITE = ROOT / "readers" / "js", ROOT / "conformance"
sys.path.insert(0, str(SUITE))
run = importlib.import_module("run")
MODEL = ROOT / "results" / "lenet5-2kb-seed0.dc"


def node(*arguments, **options):
    command = ["node", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=False, text=True, timeout=300, **options)


@needs_node
def test_it_passes_the_suite_and_names_sections():
    with run.by_lines(["node", str(READER / "cli.js"), "--lines"], 60) as decode:
        assert run.run(run.cases(SUITE), decode, sections=True) == {}


@needs_node
def test_its_own_tests_pass():
    done = node("--test", READER / "test" / "reader.test.js")
    assert done.returncode == 0, done.stdout[-3000:]
    assert "# fail 0" in done.stdout


@needs_node
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "Usage: deepcompress-read MODEL.dc | --lines\n"),
        (["--help"], 2, "Usage: deepcompress-read MODEL.dc | --lines\n"),
        ([MODEL, MODEL], 2, "Usage: deepcompress-read MODEL.dc | --lines\n"),
        (["missing.dc"], 1, "Error: missing.dc: ENOENT: no such file or directory, open 'missing.dc'\n"),
        ([ROOT / "README.md"], 1, f"Error: {ROOT / 'README.md'}: this is no .dc file (format, section 1)\n"),
    ],
)
def test_its_command_says_what_is_wrong(arguments, code, message):
    done = node(READER / "cli.js", *arguments)
    assert (done.stdout, done.stderr, done.returncode) == ("", message, code)


def test_its_package_names_files_that_are_there():
    package = json.loads((READER / "package.json").read_text(encoding="utf-8"))
    assert not package.get("dependencies")
    assert all((READER / name).is_file() for name in package["files"])
    modules = {"deepcompress.js", "deepcompress.d.ts", "update.js", "update.d.ts"}
    assert {*modules, *package["bin"].values()} == set(package["files"])


@needs_node
def test_the_code_of_its_readme_runs():
    text = (READER / "README.md").read_text(encoding="utf-8")
    block, of_update = re.findall(r"^```js\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    done = node("--input-type=module", "-e", of_update, cwd=ROOT)
    assert (done.stderr, done.stdout) == ("", "546\n")
    done = node("--input-type=module", "-e", block, cwd=ROOT)
    assert done.stderr == ""
    assert done.stdout.startswith("lenet5 [\n  'conv1.weight',\n  'conv1.bias',")
    assert "[ 500, 800 ]\nFloat32Array(400000) [" in done.stdout


@needs_browser
def test_a_browser_decodes_the_conformance_suite():
    expected = {path.stem: json.loads(path.read_text(encoding="utf-8"))
                for path in sorted((ROOT / "conformance" / "valid").glob("*.json"))}  # fmt: skip
    assert len(expected) > 80
    with served() as address:
        page = rendered(f"{address}/readers/js/test/browser.html#{','.join(expected)}")
    match = re.search(r'<pre id="found">(.*?)</pre>', page, re.DOTALL)
    assert match is not None
    found = json.loads(html.unescape(match[1]))
    for name, contents in expected.items():
        assert found[name] == {key: contents[key] for key in ("network", "data", "tensors")}, name


CLASSIFY = """
import { readFileSync } from "node:fs";
import { open } from %r;
import { lenet5 } from %r;
const network = lenet5(open(readFileSync(%r)));
console.log(JSON.stringify(JSON.parse(readFileSync(0)).map((image) => [...network(image)])));
"""


@needs_node
def test_the_layers_of_the_example_are_those_of_torch():
    images = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    script = CLASSIFY % (str(READER / "deepcompress.js"), str(ROOT / "examples/browser/lenet5.js"), str(MODEL))
    done = node("--input-type=module", "-e", script, input=json.dumps(images.flatten(1).tolist()))
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        expected = dc.load(MODEL)((images - 0.130575) / 0.308005)
    torch.testing.assert_close(torch.tensor(json.loads(done.stdout)), expected, rtol=1e-4, atol=1e-4)


SAMPLES = """
import { readFileSync } from "node:fs";
import { open } from %r;
import { DIGITS, toPixels } from %r;
import { lenet5 } from %r;
const network = lenet5(open(readFileSync(%r)));
const best = (logits) => logits.indexOf(Math.max(...logits));
console.log(JSON.stringify(DIGITS.map((strokes) => best(network(toPixels(strokes))))));
console.log(JSON.stringify(Array.from(toPixels([]))));
"""


@needs_node
def test_the_network_knows_the_digits_that_the_example_draws():
    example = ROOT / "examples" / "browser"
    script = SAMPLES % tuple(
        map(str, (READER / "deepcompress.js", example / "drawing.js", example / "lenet5.js", MODEL))
    )
    digits, nothing = map(json.loads, node("--input-type=module", "-e", script).stdout.splitlines())
    assert digits == list(range(10))
    assert nothing == [0] * 784


@needs_browser
def test_the_example_runs_in_a_browser():
    with served() as address:
        page = rendered(f"{address}/examples/browser/#7")
    assert "in a file of 1,998 bytes" in page
    assert re.search(r"That is a <b>7</b>, said in [\d.]+ ms", page)
