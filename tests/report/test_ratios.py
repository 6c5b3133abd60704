"""Ratios against fp32, and against the tensors as they were given."""

from __future__ import annotations

import io

import pytest
import torch
from commands import from_json, succeed
from rich.console import Console
from samples import Mlp

from deepcompress.compression.plan import plan
from deepcompress.compression.tensors_only import compress_state
from deepcompress.container.breakdown import inspect
from deepcompress.recipe import Recipe
from deepcompress.report import filetables, studytables, tables

COUNT = sum(parameter.numel() for parameter in Mlp(inputs=64).parameters())


@pytest.fixture(scope="module")
def state():
    """Half of the bytes that fp32 takes, except one vector of four."""
    torch.manual_seed(0)
    found = {name: value.bfloat16() for name, value in Mlp(inputs=64).state_dict().items()}
    return {**found, "fc3.bias": found["fc3.bias"].float()}


@pytest.fixture(scope="module")
def made(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("ratios") / "m.dc"
    return compress_state(state, Recipe(prune=0.5, bits=4, retrain=False), path)


def shown(table):
    console = Console(file=io.StringIO(), width=200)
    console.print(table)
    return console.file.getvalue()


def test_a_file_knows_both(state, made):
    found, given = inspect(made.file), 2 * COUNT + 2 * state["fc3.bias"].numel()
    assert (found.dense_bytes, found.source_bytes) == (4 * COUNT, given) == (made.dense_bytes, made.source_bytes)
    assert found.ratio == 4 * COUNT / found.file_bytes
    assert found.source_ratio == given / found.file_bytes == made.source_ratio
    both = f"{found.ratio:.2f}× smaller than fp32, {found.source_ratio:.2f}× smaller than what was given"
    assert found.smaller == made.smaller == both
    assert f"{found.source_ratio:.2f}× smaller than {given:,} in its own types" in filetables.headline(found)
    written = from_json("inspect", made.file)
    assert (written["source_bytes"], written["source_ratio"]) == (given, found.source_ratio)
    assert both in succeed("inspect", made.file, "-q").stdout


def test_stages_have_both(made):
    stages = made.as_dict()["stages"]
    assert [stage["source_ratio"] for stage in stages] == [made.source_bytes / stage["bytes"] for stage in stages]
    assert stages[-1]["source_ratio"] == made.source_ratio
    heading, *_, last = shown(tables.stages_table(made)).splitlines()
    assert heading.split() == ["Stage", "Bytes", "To", "fp32", "To", "given", "Error", "Seconds"]
    assert last.split()[2:4] == [f"{made.ratio:.2f}×", f"{made.source_ratio:.2f}×"]


def test_a_plan_has_both(state):
    found = plan(state, Recipe(prune=0.5, bits=4, retrain=False))
    assert (found.dense_bytes, found.source_bytes) == (4 * COUNT, 2 * COUNT + 2 * state["fc3.bias"].numel())
    assert found.source_ratio == found.source_bytes / found.file_bytes
    assert f"{found.source_ratio:.1f}× smaller than {found.source_bytes:,} as given" in tables.plan_line(found)


def test_points_of_a_sweep_have_both():
    row = {"bits": 4, "file_bytes": 100, "ratio": 8.0, "source_ratio": 4.0, "kept": 1.0, "val_value": 1.0,
           "test_value": 1.0, "seconds": 1.0, "front": True, "failure": ""}  # fmt: skip
    failed = {**row, "failure": "why"}
    heading, _, first, second = shown(studytables.sweep_table([row, failed], ["bits"])).splitlines()
    assert "To fp32  To given" in heading
    assert first.split()[:4] == ["4", "100", "8.00×", "4.00×"]
    assert second.split() == ["4", "failed"]


def test_one_ratio_is_enough_for_fp32(tmp_path):
    made = compress_state(Mlp().state_dict(), Recipe(retrain=False), tmp_path / "m.dc")
    assert made.source_ratio == made.ratio == inspect(made.file).source_ratio
    assert made.smaller == f"{made.ratio:.2f}× smaller"
    assert "Ratio" in shown(tables.stages_table(made))
    assert "types" not in filetables.headline(made.breakdown)
