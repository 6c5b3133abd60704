"""The documents tell the truth: their code runs, and their bytes are the writer's."""

import hashlib
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import succeed

from deepcompress.coding.encoder import encode_coded, encode_plain
from deepcompress.coding.tensors import DType
from deepcompress.container.writer import pack
from deepcompress.prune.criteria import base
from deepcompress.recipe import Recipe

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def dumps():
    """The bytes that each hex dump of the specification shows; of one that is cut, its lines by their addresses."""
    text = (ROOT / "docs" / "format.md").read_text(encoding="utf-8")
    found = re.findall(r"^```\n(0000  .*?)^```", text, re.MULTILINE | re.DOTALL)
    return [{int(at, 16): bytes.fromhex(line) for at, line in re.findall(r"^([0-9a-f]{4})  (.*)$", dump, re.MULTILINE)}
            for dump in found]  # fmt: skip


def lines(data):
    return {at: data[at : at + 16] for at in range(0, len(data), 16)}


def sparse(shape, dtype, values):
    out = np.zeros(shape, dtype)
    for position, value in values.items():
        out.reshape(-1)[position] = value
    return out


def test_hex_dumps_of_the_format_are_what_the_writer_makes():
    version1, books, lanes, version2, several_blocks, *_ = dumps()  # those of version 3 have tests of their own
    book = np.array([-1, 0.25, 0.5], dtype=np.float32)
    weight = np.zeros((16, 16), dtype=np.float32)
    for i in range(64):
        weight.reshape(-1)[4 * i + (i % 8 == 0)] = -1.0 if i % 8 == 3 else 0.25 if i % 16 == 5 else 0.5
    tensors = [
        ("fc.weight", encode_coded(weight, DType.FLOAT32, book)),
        ("fc.bias", encode_plain(np.array([0.5] * 15 + [-1], dtype=np.float32), DType.FLOAT32)),
        ("steps", encode_plain(np.array(3, dtype=np.int64), DType.INT64)),
    ]
    assert version1 == lines(pack(tensors, "", "digits"))
    tensors = [
        ("fc.weight", encode_coded(weight, DType.FLOAT32, book, "ans")),
        ("fc.bias", encode_plain(np.full(16, 0.5, dtype=np.float32), DType.FLOAT32, compact=True)),
    ]
    assert version2 == lines(pack(tensors, "", "digits"))

    w1 = sparse((8, 8), "<f4", {3: 0.5, 9: 0.5, 10: -1, 22: 0.25, 40: 0.5, 41: 0.5, 60: -1})
    w2 = np.array([0.5, -1, 0.5, 0, 0.25, 0.5, 0.5, -1, 0.5, 0.5, 0.25, 0.5], dtype="<f4")
    h = sparse((6, 9), "<f2", {1: 1.5, 30: -0.125, 53: 65504})
    tensors = [
        ("w1", encode_coded(w1, DType.FLOAT32, book)),
        ("w2", encode_coded(w2, DType.FLOAT32, book, target=0)),
        ("h", encode_coded(h, DType.FLOAT16, None)),
    ]
    assert books == lines(pack(tensors))

    i = np.arange(1 << 17)
    file = pack([("x", encode_plain((i * i % 7).astype(np.uint8), DType.UINT8))])
    assert (len(file), len(lanes)) == (32_936, 4)
    assert lanes.items() <= lines(file).items()
    assert hashlib.sha256(file).hexdigest() in (ROOT / "docs" / "format.md").read_text(encoding="utf-8")

    a = sparse(524_290, "<f4", {5: 0.5, 524_286: -1, 524_289: 0.25})
    b = np.array([0.5, 0, -1, 0.25, 0.5, 0.5, 0, 0.25], "<f4").repeat(4)
    tensors = [
        ("a", encode_coded(a, DType.FLOAT32, book, "ans")),
        ("b", encode_coded(b, DType.FLOAT32, book, "ans", target=0)),
    ]
    assert several_blocks == lines(pack(tensors))


def test_python_in_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(README, "python")
    exec(compile(code, "README.md", "exec"), {})
    size, ratio, accuracy = map(float, capsys.readouterr().out.split())
    assert size == (tmp_path / "model.dc").stat().st_size
    assert ratio > 20
    assert 0 <= accuracy <= 100


def test_recipe_in_the_readme_loads(tmp_path):
    (text,) = blocks(README, "toml")
    (tmp_path / "recipe.toml").write_text(text, encoding="utf-8")
    recipe = Recipe.load(tmp_path / "recipe.toml")
    assert (recipe.prune, recipe.bits, recipe.conv_bits) == (0.92, 5, 8)
    assert recipe.prune_of("fc1.weight") == 0.95


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning with the newest torch
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.parametrize("name", ["coming-from.md", "concepts.md", "criteria.md", "guide.md", "tasks.md"])
def test_every_block_of_the_guides_runs(name, tmp_path, monkeypatch):
    """In their order, as in the root of a clone; a block that begins with the name of a file is that file."""
    monkeypatch.setattr(base, "CRITERIA", dict(base.CRITERIA))  # what a block adds is gone after it
    for folder in ("models", "recipes", "readers"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    space = {}
    for language, block in re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        file = re.match(r"# ([\w.]+\.(?:py|toml))\n", block)
        if file:
            (tmp_path / file[1]).write_text(block, encoding="utf-8")
        elif language == "python":
            exec(compile(block, name, "exec"), space)
        elif language == "bash":
            for line in block.replace("\\\n", "").splitlines():
                program, *arguments = shlex.split(line, comments=True)
                if program == "node" and shutil.which("node") is None:
                    break  # what is compared next is not there
                if program == "node":
                    subprocess.run([program, *arguments], check=True)
                elif program == "cmp":
                    assert Path(arguments[0]).read_bytes() == Path(arguments[1]).read_bytes()
                else:
                    assert program == "deepcompress"
                    succeed(*arguments)
        else:
            assert language in ("toml", "text"), f"a block in {language} does not run"


def test_pictures_and_links_of_the_documents_are_there():
    for page in [ROOT / "README.md", ROOT / "findings" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_table_of_settings_is_what_the_fields_say():
    script = runpy.run_path(str(ROOT / "docs" / "settings.py"))
    assert script["page"]() == (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")


ADDED = """
import numpy as np
from deepcompress.coding.dtypes import DType
from deepcompress.coding.layouts.exact import Zeros
from deepcompress.container.reader import ModelFile
from deepcompress.container.writer import pack
from deepcompress.recipe import Recipe

recipe = Recipe(criterion="squared", accumulate=2)
values = np.zeros((3, 4), DType.BITS8.storage)
with ModelFile(pack([("w", Zeros().write(values, DType.BITS8))])) as file:
    found, dtype = file.read("w")
assert (found.tolist(), dtype, file.header.version, file.file_bytes) == (values.tolist(), DType.BITS8, 3, 22)
assert recipe.accumulate == 2
"""


def test_what_contributing_adds_is_added(tmp_path):
    """Its diffs apply to the code, and the setting, the criterion, the element type and the layout are there."""
    package = tmp_path / "deepcompress"
    shutil.copytree(ROOT / "deepcompress", package, ignore=shutil.ignore_patterns("__pycache__"))
    diffs = blocks((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), "diff")
    assert len(diffs) == 4
    for diff in diffs:
        assert sum(line.startswith("+") and not line.startswith("+++") for line in diff.splitlines()) <= 12
        for path, hunks in re.findall(r"^--- a/(\S+)\n\+\+\+ b/\1\n((?:(?!--- ).*\n)+)", diff, re.MULTILINE):
            text = (tmp_path / path).read_text(encoding="utf-8")
            for hunk in re.split(r"^@@.*\n", hunks, flags=re.MULTILINE)[1:]:
                rows = hunk.splitlines(keepends=True)
                old, new = ("".join(row[1:] for row in rows if row[0] != sign) for sign in "+-")
                assert text.count(old) == 1, f"{path}: {old}"
                text = text.replace(old, new)
            (tmp_path / path).write_text(text, encoding="utf-8")
    variables = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", ADDED]
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
