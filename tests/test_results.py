"""results/: the documents say what the files are, and the files are what their commands printed."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from deepcompress.cli import main
from deepcompress.container.breakdown import inspect
from deepcompress.container.reader import ModelFile
from deepcompress.recipe import Recipe

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results"
sys.path.insert(0, str(RESULTS))

import pruning  # noqa: E402
import report  # noqa: E402
import reproduce  # noqa: E402

README = (ROOT / "README.md").read_text(encoding="utf-8")
ENTRIES = reproduce.entries()
BATCH_NORMS = {"resnet20": 19, "ds-cnn-xs": 5}
EXPERIMENTS = ENTRIES | reproduce.studies() | reproduce.pruners()


def test_every_experiment_has_its_outcome_and_every_outcome_its_experiment():
    outcomes = {path.relative_to(RESULTS).with_suffix("").as_posix() for path in RESULTS.rglob("*.json")}
    assert outcomes == set(EXPERIMENTS)
    assert {path.stem for path in RESULTS.rglob("*.dc")} == set(ENTRIES)


@pytest.mark.parametrize("name", ENTRIES)
def test_results_are_those_of_the_files(name):
    stated = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    found = inspect(RESULTS / f"{name}.dc")
    assert found.file_bytes == stated["file_bytes"] == (RESULTS / f"{name}.dc").stat().st_size
    assert found.file_bytes == sum(found.sections.values())
    counters = stated["dense_bytes"] - found.dense_bytes  # folding batch norm leaves its counters out of the file
    assert counters == 8 * BATCH_NORMS.get(found.network, 0)
    assert stated["ratio"] == pytest.approx(stated["dense_bytes"] / found.file_bytes)
    with ModelFile(RESULTS / f"{name}.dc") as file:
        file.check()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_outcomes_are_those_of_the_commands(name):
    command = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["command"]
    assert command == f"deepcompress {EXPERIMENTS[name][-1]} --json"


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_commands_are_understood(name):
    """Options that a command has lost would be found by nobody else until the next reproduction."""
    for command in EXPERIMENTS[name]:
        verb, *arguments = shlex.split(command)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(main.commands[verb], "callback", lambda **_: None)
            assert CliRunner().invoke(main, [verb, *arguments]).exit_code == 0


def test_the_documents_are_what_the_script_writes():
    assert (RESULTS / "README.md").read_text(encoding="utf-8") == report.readme()
    assert (RESULTS / "pruners" / "README.md").read_text(encoding="utf-8") == pruning.readme()
    assert not re.search(r"<!-- [A-Z]", pruning.readme())


def test_the_document_leaves_no_mark_and_shows_every_file_and_figure():
    text = report.readme()
    assert not re.search(r"<!-- [A-Z0-9]+ -->", text)
    for name in ENTRIES:
        assert f"[{name}]({name}.dc)" in text
    shown = set(re.findall(r"\]\((figures/\w[^)]*\.png)\)", text))
    assert shown == {path.relative_to(RESULTS).as_posix() for path in (RESULTS / "figures").glob("*.png")}
    for figure in shown:
        with Image.open(RESULTS / figure) as image:
            assert min(image.size) > 400


@pytest.mark.parametrize("row", [line for line in README.splitlines() if line.startswith("|") and "results/" in line])
def test_the_readme_quotes_the_files(row):
    (name,) = re.findall(r"\(results/([^)]+)\.dc\)", row)
    stated = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    for figure in (
        f"{stated['file_bytes']:,}",
        f"{stated['ratio']:.1f}×",
        f"{100 - stated['accuracy_before']:.2f} %",
        f"{100 - stated['accuracy_after']:.2f} %",
    ):
        assert figure in row


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda path: path.stem)
def test_recipes_load_and_are_used(path):
    recipe = Recipe.load(path)
    assert Recipe.from_dict(recipe.as_dict()) == recipe
    assert any(f"recipes/{path.name}" in command for commands in ENTRIES.values() for command in commands)
