"""The documents tell the truth: their code runs, and their bytes are the writer's."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from deepcompress.coding.encoder import encode_coded, encode_plain
from deepcompress.coding.tensors import DType
from deepcompress.container.writer import pack
from deepcompress.prune.criteria import base
from deepcompress.recipe import Recipe

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_hex_dump_of_the_format_is_what_the_writer_makes():
    text = (ROOT / "docs" / "format.md").read_text(encoding="utf-8")
    parts = re.split("## 9[.]|## 13[.]", text)[:2]  # version 3 has its own test
    first, second = ("".join(re.findall(r"^[0-9a-f]{4}  ([0-9a-f ]+)$", part, re.MULTILINE)) for part in parts)
    weight = np.zeros((16, 16), dtype=np.float32)
    for i in range(64):
        weight.reshape(-1)[4 * i + (i % 8 == 0)] = -1.0 if i % 8 == 3 else 0.25 if i % 16 == 5 else 0.5
    tensors = [
        ("fc.weight", encode_coded(weight, DType.FLOAT32, np.array([-1, 0.25, 0.5], dtype=np.float32))),
        ("fc.bias", encode_plain(np.array([0.5] * 15 + [-1], dtype=np.float32), DType.FLOAT32)),
        ("steps", encode_plain(np.array(3, dtype=np.int64), DType.INT64)),
    ]
    assert bytes.fromhex(first) == pack(tensors, "", "digits")
    tensors = [
        ("fc.weight", encode_coded(weight, DType.FLOAT32, np.array([-1, 0.25, 0.5], dtype=np.float32), "ans")),
        ("fc.bias", encode_plain(np.full(16, 0.5, dtype=np.float32), DType.FLOAT32, compact=True)),
    ]
    assert bytes.fromhex(second) == pack(tensors, "", "digits")


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


@pytest.mark.parametrize("name", ["concepts.md", "criteria.md", "guide.md"])
def test_every_block_of_the_guides_runs(name, tmp_path, monkeypatch):
    """In their order, as in the root of a clone; a block that begins with the name of a file is that file."""
    monkeypatch.setattr(base, "CRITERIA", dict(base.CRITERIA))  # what a block adds is gone after it
    for folder in ("models", "recipes"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    space = {}
    for language, block in re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        file = re.match(r"# ([\w.]+\.(?:py|toml))\n", block)
        if file:
            (tmp_path / file[1]).write_text(block, encoding="utf-8")
        elif language == "python":
            exec(compile(block, name, "exec"), space)
        elif language == "bash":
            command = ["bash", "-euo", "pipefail", "-c", block]
            done = subprocess.run(
                command, env=os.environ | {"PATH": paths}, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, block + done.stderr
        else:
            assert language in ("toml", "text"), f"a block in {language} does not run"


def test_pictures_and_links_of_the_documents_are_there():
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
