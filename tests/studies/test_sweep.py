"""Sweeps: real files in a grid, the front among them, and nothing computed twice or half."""

from __future__ import annotations

import csv
import io
import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from commands import fail, from_json, run, succeed, without
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from samples import CLASSES, Mlp, blobs, network_and_data

import deepcompress.studies.points as made
from deepcompress import load_state_dict
from deepcompress.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from deepcompress.compression.pipeline import compress
from deepcompress.errors import CheckpointError, RecipeError
from deepcompress.recipe import LayerRule, Recipe
from deepcompress.report import studytables
from deepcompress.studies import sweep
from deepcompress.training import loop
from deepcompress.training.data import DataSet
from deepcompress.training.evaluation import evaluate
from deepcompress.training.progress import Progress

QUICK = ["--epochs", "1", "--iterations", "1", "--finetune-epochs", "1", "--batch-size", "64"]
FAST = Recipe(prune=0.6, bits=3, epochs=1, iterations=1, lr=0.02, finetune_epochs=1, batch_size=64)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DEEPCOMPRESS_DATA", raising=False)


# Pure ----------------------------------------------------------------------------------------------------------


def beaten(point, points):
    """By the definition: somebody is not above it in either coordinate, and below it in one."""
    return any(a <= point[0] and b <= point[1] and (a, b) != point for a, b in points)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6))))
def test_the_front_is_what_nobody_beats(points):
    front = made.pareto(points)
    assert sorted(front) == [index for index, point in enumerate(points) if not beaten(point, points)]
    assert [points[index] for index in front] == sorted(points[index] for index in front)


def test_ties_on_the_front():
    assert made.pareto([]) == []
    assert made.pareto([(2, 1), (1, 2), (2, 1), (2, 2), (3, 1), (1, 3)]) == [1, 0, 2]


def test_a_grid_in_order_with_names():
    points = sweep.grid(FAST, {"prune": [0.0, 0.95], "conv_bits": [8, "none"], "seed": [1, 0]})
    assert [point.name for point in points] == [
        "prune0-convbits8-seed1", "prune0-convbits8-seed0", "prune0-convbitsnone-seed1", "prune0-convbitsnone-seed0",
        "prune0.95-convbits8-seed1", "prune0.95-convbits8-seed0", "prune0.95-convbitsnone-seed1",
        "prune0.95-convbitsnone-seed0",
    ]  # fmt: skip
    assert points[4].recipe == replace(FAST, prune=0.95, conv_bits=8, seed=1)


def test_a_grid_has_each_point_once():
    assert [point.name for point in sweep.grid(FAST, {"bits": [5, None, 5, "none"]})] == ["bits5", "bitsnone"]
    assert sweep.grid(FAST, {}) == [made.Point("recipe", FAST)]
    assert sweep.grid(FAST, {"seed": []}) == []


@pytest.mark.parametrize("axes", [{"prnue": [0.5]}, {"layers": [()]}, {"prune": [0.5, 1.5]}, {"init": ["middle"]}])
def test_a_grid_of_what_is_not_allowed(axes):
    with pytest.raises(RecipeError, match="|".join([*axes, "prune is 1.5"])):
        sweep.grid(FAST, axes)


# From Python ---------------------------------------------------------------------------------------------------


@pytest.fixture
def data():
    (x, y), (x_val, y_val), (x_test, y_test) = blobs(256, 1), blobs(100, 2), blobs(100, 3)
    return DataSet("blobs", x, y, x_val, y_val, x_test, y_test)


@pytest.fixture
def points():
    return sweep.grid(FAST, {"prune": [0.0, 0.6], "bits": [2, 3]})


class Counter:
    """Stands in for `pipeline.compress` and counts its calls, the `fatal`-th of which is an interruption."""

    def __init__(self, monkeypatch, fatal=None):
        self.files, self.fatal = [], fatal
        monkeypatch.setattr(made, "compress", self)

    def __call__(self, *arguments, **named):
        self.files.append(Path(arguments[4]).stem)
        if len(self.files) == self.fatal:
            raise KeyboardInterrupt
        return compress(*arguments, **named)


@pytest.fixture
def calls(monkeypatch):
    return Counter(monkeypatch)


def test_an_outcome_says_what_is_in_the_file(mlp, data, tmp_path):
    (outcome,) = sweep.sweep(mlp, data, [made.Point("a", FAST)], tmp_path)
    path = tmp_path / "a.dc"
    assert (outcome.name, outcome.recipe, outcome.failure) == ("a", FAST.as_dict(), "")
    assert outcome.file_bytes == path.stat().st_size
    state = load_state_dict(path)
    weights = [value for value in state.values() if value.ndim > 1]
    assert outcome.kept == sum(int((value != 0).sum()) for value in weights) / sum(value.numel() for value in weights)
    assert outcome.ratio == 4 * sum(value.numel() for value in state.values()) / outcome.file_bytes
    reloaded = Mlp()
    reloaded.load_state_dict(state)
    assert outcome.val_error == evaluate(reloaded, data.val_loader()).error
    assert outcome.test_error == evaluate(reloaded, data.test_loader()).error
    assert [stage["stage"] for stage in outcome.stages] == ["dense", "prune", "quantize", "encode"]
    assert outcome.stages[0]["accuracy"] == evaluate(mlp, data.val_loader()).accuracy
    written = json.loads((tmp_path / "a.json").read_text())
    assert written.pop("origin") == vars(made.origin_of(mlp, data, "", 1))
    assert made.Outcome(**written) == outcome


def test_the_test_data_decides_nothing(mlp, data, points, tmp_path):
    other = replace(data, x_test=data.x_test[:10], y_test=(data.y_test[:10] + 1) % CLASSES)
    (tmp_path / "b").mkdir()
    one, two = sweep.sweep(mlp, data, points, tmp_path), sweep.sweep(mlp, other, points, tmp_path / "b")
    assert made.front_of(one) == made.front_of(two)
    assert [outcome.val_error for outcome in one] == [outcome.val_error for outcome in two]
    assert [outcome.test_error for outcome in one] != [outcome.test_error for outcome in two]
    for point in points:
        name = f"{point.name}.dc"
        assert (tmp_path / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_nothing_is_computed_twice(mlp, data, points, tmp_path, calls):
    first = sweep.sweep(mlp, data, points[:3], tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    said = []
    watch = Progress()
    watch.message = said.append
    second = sweep.sweep(mlp, data, points[::-1], tmp_path, watch=watch)
    assert second[:0:-1] == first
    assert calls.files == [point.name for point in points]
    assert said[0] == "3 of 4 points are there already"
    assert said[1].startswith(f"4/4  {points[3].name}: ")
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())


@pytest.mark.parametrize("what", ["settings", "weights", "test samples", "network", "threads"])
def test_a_point_of_something_else_is_computed_again(mlp, data, tmp_path, calls, what):
    point = made.Point("a", FAST)
    sweep.sweep(mlp, data, [point], tmp_path)
    network, threads = "", 1
    if what == "settings":
        point = replace(point, recipe=replace(FAST, lr=0.01))
    elif what == "weights":
        with torch.no_grad():
            mlp.fc1.weight[-1, -1] += 1
    elif what == "test samples":
        data.x_test[-1, -1] += 1
    elif what == "network":
        network = "mine"
    else:
        threads = 2
    again = sweep.sweep(mlp, data, [point], tmp_path, network=network, threads=threads)
    assert len(calls.files) == 2
    assert again == sweep.sweep(mlp, data, [point], tmp_path, network=network, threads=threads)
    assert len(calls.files) == 2


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"null", b"7", b'{"origin": {}}', b"\xff", None])
def test_facts_that_are_not_whole_are_computed_again(mlp, data, tmp_path, calls, content):
    (first,) = sweep.sweep(mlp, data, [made.Point("a", FAST)], tmp_path)
    facts, raw = tmp_path / "a.json", (tmp_path / "a.dc").read_bytes()
    facts.write_bytes(facts.read_bytes()[:-3] if content is None else content)
    (second,) = sweep.sweep(mlp, data, [made.Point("a", FAST)], tmp_path)
    assert len(calls.files) == 2
    assert (tmp_path / "a.dc").read_bytes() == raw
    assert second.val_error == first.val_error == json.loads(facts.read_text())["val_error"]


@pytest.mark.parametrize("cut", [None, 0, 100])
def test_a_file_that_is_not_whole_is_computed_again(mlp, data, tmp_path, calls, cut):
    sweep.sweep(mlp, data, [made.Point("a", FAST)], tmp_path)
    path = tmp_path / "a.dc"
    raw = path.read_bytes()
    path.unlink() if cut is None else path.write_bytes(raw[:cut])
    sweep.sweep(mlp, data, [made.Point("a", FAST)], tmp_path)
    assert len(calls.files) == 2
    assert path.read_bytes() == raw


def test_an_interruption_leaves_whole_points(mlp, data, points, tmp_path, monkeypatch):
    changed = [replace(point, recipe=replace(point.recipe, lr=0.01)) for point in points]
    sweep.sweep(mlp, data, changed, tmp_path)
    Counter(monkeypatch, fatal=3)
    with pytest.raises(KeyboardInterrupt):
        sweep.sweep(mlp, data, points, tmp_path)
    # What was the third point is gone, what was the fourth stays, and so does the pruning that they have in common.
    names = {path.name for path in tmp_path.iterdir() if path.suffix != ".resume"}
    assert names == {f"{points[index].name}.{ending}" for index in (0, 1, 3) for ending in ("dc", "json")}
    assert len(list(tmp_path.glob("pruned-*.resume"))) == 1
    calls = Counter(monkeypatch)
    sweep.sweep(mlp, data, points, tmp_path)
    assert calls.files == [point.name for point in points[2:]]
    assert not list(tmp_path.glob("*.resume"))


#: Settings that have no effect on pruning.
LATER = {
    "bits": 4, "init": "density", "weighting": "fisher", "rate": 0.05, "codebook_dtype": "float16", "small_bits": 4,
    "finetune_epochs": 2, "finetune_lr": 0.01, "coder": "ans", "index_bits": 6, "batch_norm": "fold",
}  # fmt: skip


def trained_stages(monkeypatch):
    """The stages of the trainings that really happen, in their order: one for each epoch."""
    stages, real = [], loop._mean

    def mean(losses, stage, *rest):
        stages.append(stage)
        return real(losses, stage, *rest)

    monkeypatch.setattr(loop, "_mean", mean)
    return stages


def test_points_that_prune_alike_are_pruned_once(mlp, data, tmp_path, monkeypatch):
    """And each file is what it would be alone, byte for byte."""
    recipes = {"plain": FAST, "uniform": replace(FAST, quantizer="uniform"), "other": replace(FAST, **LATER)}
    points = [made.Point(name, recipe) for name, recipe in recipes.items()]
    alone, together = tmp_path / "alone", tmp_path / "together"
    for folder in (alone, together):
        folder.mkdir()
    for point in points:
        sweep.sweep(mlp, data, [point], alone)
    stages = trained_stages(monkeypatch)
    sweep.sweep(mlp, data, points, together)
    assert (stages.count("prune"), stages.count("quantize")) == (1, 5)  # the vectors of "other" take one
    assert {path.name for path in together.iterdir()} == {path.name for path in alone.iterdir()}
    for name in recipes:
        assert (together / f"{name}.dc").read_bytes() == (alone / f"{name}.dc").read_bytes()


def test_points_that_prune_otherwise_share_nothing(mlp, data):
    origin = made.origin_of(mlp, data, "", 1)
    others = [replace(FAST, **change) for change in ({"prune": 0.5}, {"seed": 1}, {"lr": 0.1}, {"epochs": 2})]
    names = [made.pruning_of(made.Point("a", recipe), origin) for recipe in (FAST, *others)]
    names += [
        made.pruning_of(made.Point("a", FAST), replace(origin, **{what: "other"})) for what in ("weights", "samples")
    ]
    assert len(set(names)) == 7
    idle = [replace(FAST, target_size=2000), replace(FAST, epochs=0), Recipe(retrain=False, prune=0.5, bits=3)]
    assert {made.pruning_of(made.Point("a", recipe), origin) for recipe in idle} == {""}


def test_a_damaged_pruning_is_made_again(mlp, data, tmp_path, monkeypatch):
    points = sweep.grid(FAST, {"bits": [2, 3]})
    expected = sweep.sweep(mlp, data, points, tmp_path)
    (tmp_path / f"{points[1].name}.json").unlink()
    origin = made.origin_of(mlp, data, "", 1)
    folder = tmp_path / f"pruned-{made.pruning_of(points[0], origin)}.resume"
    folder.mkdir()
    (folder / "phase-001.pt").write_bytes(b"damaged")
    stages = trained_stages(monkeypatch)
    found = sweep.sweep(mlp, data, points, tmp_path)
    assert [outcome.file_bytes for outcome in found] == [outcome.file_bytes for outcome in expected]
    assert stages.count("prune") == FAST.epochs
    assert not folder.exists()


def test_a_file_without_its_facts_is_no_point(mlp, data, tmp_path, monkeypatch, calls):
    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(made, "write_atomic", stop)
        with pytest.raises(KeyboardInterrupt):
            sweep.sweep(mlp, data, [made.Point("a", FAST)], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.dc"]
    sweep.sweep(mlp, data, [made.Point("a", FAST)], tmp_path)
    assert calls.files == ["a", "a"]


def test_a_point_that_fails_loses_no_other(mlp, data, tmp_path):
    points = sweep.grid(replace(FAST, epochs=0), {"prune": [0.99999, 0.5]})
    for _ in range(2):
        failed, done = sweep.sweep(mlp, data, points, tmp_path)
        assert "which removes all" in failed.failure
        assert (failed.name, failed.file_bytes, failed.val_error, failed.stages) == ("prune0.99999", None, None, [])
        assert done.file_bytes == (tmp_path / "prune0.5.dc").stat().st_size
        assert made.front_of([failed, done]) == [1]
        assert {path.name for path in tmp_path.iterdir()} == {"prune0.5.dc", "prune0.5.json"}


@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory.\nTried"), MemoryError(), OSError(28, "full")])
def test_what_else_can_fail(mlp, data, tmp_path, monkeypatch, error):
    def refuse(*arguments, **named):
        raise error

    monkeypatch.setattr(made, "compress", refuse)
    (outcome,) = sweep.sweep(mlp, data, [made.Point("a", FAST)], tmp_path)
    assert outcome.failure in ("CUDA out of memory.", "MemoryError", "[Errno 28] full")


def test_the_network_and_the_number_of_threads_are_left_as_they_were(mlp, data, tmp_path):
    before = {name: value.clone() for name, value in mlp.state_dict().items()}
    torch.set_num_threads(2)
    try:
        sweep.sweep(mlp, data, [made.Point("a", FAST)], tmp_path)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert mlp.training
    assert all(torch.equal(value, before[name]) for name, value in mlp.state_dict().items())


def test_without_pruning_and_without_sharing(mlp, data, tmp_path):
    """Figure 6 of Han et al. 2016 has pruning alone, sharing alone, and both."""
    none = replace(FAST, epochs=0, finetune_epochs=0)
    points = sweep.grid(none, {"prune": [0.0, 0.6], "bits": ["none", 2]})
    neither, shared, pruned, _both = sweep.sweep(mlp, data, points, tmp_path)
    assert [neither.kept, shared.kept] == [1, 1]
    assert pruned.kept == pytest.approx(0.4, abs=0.001)
    dense, files = mlp.state_dict(), [load_state_dict(tmp_path / f"{point.name}.dc") for point in points]
    for name, value in dense.items():
        assert torch.equal(files[0][name], value)
        if value.ndim > 1:
            assert bool((files[1][name] != 0).all())
            assert len(files[1][name].unique()) == 4
            assert torch.equal(files[2][name][files[2][name] != 0], value[files[2][name] != 0])
            assert torch.equal(files[2][name] == 0, files[3][name] == 0)


def test_what_is_refused_before_anything_is_computed(mlp, data, tmp_path, calls):
    with pytest.raises(RecipeError, match="matches no layer"):
        sweep.sweep(mlp, data, [made.Point("a", replace(FAST, layers=(LayerRule("fc9", prune=0.1),)))], tmp_path)
    with pytest.raises(RecipeError, match="make"):
        sweep.sweep(mlp, data, [made.Point("a", FAST)], tmp_path, jobs=2)
    with torch.no_grad():
        mlp.fc1.weight[0, 0] = torch.nan
    with pytest.raises(CheckpointError, match="NaN"):
        sweep.sweep(mlp, data, [made.Point("a", FAST)], tmp_path)
    assert calls.files == []


def test_a_process_that_dies_loses_its_point_alone(mlp, data, points, tmp_path):
    said = []
    watch = Progress()
    watch.message = said.append
    found = sweep.sweep(mlp, data, points[:3], tmp_path, make=partial(os._exit, 7), jobs=2, watch=watch)
    assert {outcome.failure for outcome in found} == {"its process ended with code 7; was there enough memory?"}
    assert sorted(said)[0].startswith("1/3  ")
    assert len(said) == 3


# From the command line -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A trained network of a user's own with its data, and a sweep of it."""
    folder = tmp_path_factory.mktemp("work")
    network, data = network_and_data(folder)
    succeed("train", network, "--data", data, "-o", folder / "dense.pt", "--epochs", "3", "--lr", "0.1")
    options = ["--network", network, "--data", data, *QUICK]
    axes = ["--prune", "0,0.7", "--bits", "none, 3", "--seed", "1,0"]
    found = from_json("sweep", folder / "dense.pt", *options, *axes, "-o", folder / "swept")
    return {"folder": folder, "dense": folder / "dense.pt", "options": options, "axes": axes, "json": found}


def untrained(work):
    """The options of the work that have an effect without retraining."""
    return [*work["options"][: -len(QUICK)], "--no-retrain"]


def rows_of(path):
    """A CSV file, without the column that no two runs have in common."""
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_each_point_is_what_compress_makes(work):
    points = work["folder"] / "swept" / "points"
    for row in work["json"]["rows"]:
        settings = [f"--{name}={row[name]}" for name in ("prune", "bits", "seed")]
        idle = {"--iterations": row["prune"] == 0, "--finetune-epochs": row["bits"] == "none"}
        options = without(work["options"], *(flag for flag, useless in idle.items() if useless))
        found = from_json("compress", work["dense"], *options, *settings)
        assert Path("model.dc").read_bytes() == (points / f"{row['name']}.dc").read_bytes()
        assert row["file_bytes"] == found["file_bytes"]
        assert row["test_error"] == pytest.approx(100 - found["accuracy_after"])
        written = json.loads((points / f"{row['name']}.json").read_text())
        assert written["recipe"] == found["recipe"]
    assert len(list(points.iterdir())) == 2 * len(work["json"]["rows"])


def test_json_of_a_sweep(work):
    found, folder = work["json"], work["folder"] / "swept"
    assert {
        "checkpoint", "network", "data", "normalize", "task", "metric", "points", "rows", "front", "files", "command",
        "versions",
    } == set(found)  # fmt: skip
    assert [row["name"] for row in found["rows"]] == [
        f"prune{prune}-bits{bits}-seed{seed}" for prune in ("0", "0.7") for bits in ("none", "3") for seed in (1, 0)
    ]
    assert (found["points"], found["data"], found["network"]) == (8, "blobs", "")
    pairs = [(row["file_bytes"], row["val_error"]) for row in found["rows"]]
    assert found["front"] == [found["rows"][index]["name"] for index in made.pareto(pairs)]
    assert [row["name"] for row in found["rows"] if row["front"]] == [
        name for name in (row["name"] for row in found["rows"]) if name in found["front"]
    ]
    assert found["files"] == [str(folder / name) for name in ("sweep.csv", "sweep.png", "points")]
    assert (folder / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_csv_of_a_sweep(work):
    text = (work["folder"] / "swept" / "sweep.csv").read_text()
    assert text.splitlines()[0] == (
        "name,target_size,prune,bits,conv_bits,init,seed,file_bytes,ratio,kept,val_error,test_error,seconds,front,"
        "failure,metric,val_value,test_value,source_ratio"
    )
    rows = list(csv.DictReader(io.StringIO(text)))
    expected = [
        {key: "" if value is None else str(value) for key, value in row.items()} for row in work["json"]["rows"]
    ]
    assert rows == expected


def test_sizes_can_be_swept(work):
    options = without(work["options"], "--iterations", "--finetune-epochs")
    sizes = ["--target-size", "2KB,1.5KB", "--finetune-epochs", "1"]
    found = from_json("sweep", work["dense"], *options, *sizes, "-o", "sizes")
    assert [(row["name"], row["target_size"]) for row in found["rows"]] == [
        ("targetsize2000", 2000), ("targetsize1500", 1500)
    ]  # fmt: skip
    assert all(row["file_bytes"] <= row["target_size"] for row in found["rows"])


def test_two_jobs_make_the_same(work):
    one, two = work["folder"] / "swept", Path("two")
    again = from_json("sweep", work["dense"], *work["options"], *work["axes"], "-o", two, "--jobs", "2")
    assert again["front"] == work["json"]["front"]
    assert rows_of(two / "sweep.csv") == rows_of(one / "sweep.csv")
    names = sorted(path.name for path in (one / "points").iterdir())
    assert names == sorted(path.name for path in (two / "points").iterdir())
    for name in names:
        if name.endswith(".dc"):
            assert (two / "points" / name).read_bytes() == (one / "points" / name).read_bytes()
    assert (two / "sweep.png").read_bytes() == (one / "sweep.png").read_bytes()


def test_the_same_command_again_computes_nothing(work, calls):
    folder = work["folder"] / "swept"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    result = succeed("sweep", work["dense"], *work["options"], *work["axes"], "-o", folder)
    assert result.stderr.splitlines() == [
        "8 of 8 points are there already", "blobs: inputs as the data holds them; not normalized"
    ]  # fmt: skip
    assert calls.files == []
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_without_retraining(work):
    options = untrained(work)
    succeed("sweep", work["dense"], *options, "--prune", "0.5,0.8", "--init", "density,random", "--conv-bits", "6")
    for prune in ("0.5", "0.8"):
        for init in ("density", "random"):
            from_json("compress", work["dense"], *options, "--prune", prune, "--init", init, "--conv-bits", "6")
            name = f"prune{prune}-convbits6-init{init}"
            assert Path("model.dc").read_bytes() == Path("sweep", "points", f"{name}.dc").read_bytes()
    assert [row["conv_bits"] for row in rows_of(Path("sweep/sweep.csv"))] == ["6"] * 4


def test_settings_from_a_file(work):
    Path("r.toml").write_text('prune = 0.3\nretrain = false\nbits = 2\n[[layer]]\npattern = "0"\nbits = 1\n')
    found = from_json("sweep", work["dense"], *untrained(work), "--recipe", "r.toml", "--seed", "0,1")
    assert [(row["name"], row["prune"], row["bits"]) for row in found["rows"]] == [("seed0", 0.3, 2), ("seed1", 0.3, 2)]
    assert json.loads(Path("sweep/points/seed0.json").read_text())["recipe"]["layer"] == [{"pattern": "0", "bits": 1}]


def test_what_people_read(work):
    result = succeed("sweep", work["dense"], *untrained(work), "--bits", "1,6", "-o", "a [b]")
    heading, *_ = result.stdout.splitlines()
    assert heading.split() == ["Bits", "Bytes", "Ratio", "Kept", "Val", "error", "Test", "error", "Seconds", "Front"]
    size = Path("a [b]/points/bits1.dc").stat().st_size
    assert f"{size:,}" in result.stdout
    assert "●" in result.stdout
    assert "a [b]/sweep.csv, a [b]/sweep.png, a [b]/points" in result.stdout
    assert [line.split(":")[0] for line in result.stderr.splitlines()] == ["1/2  bits1", "2/2  bits6", "blobs"]
    assert succeed("sweep", work["dense"], *untrained(work), "--bits", "1,6", "-q").stderr == ""


def test_a_table_in_a_narrow_terminal():
    row = {
        "prune": 0.0, "bits": "none", "conv_bits": 12, "init": "density", "seed": 0, "file_bytes": 123456789,
        "ratio": 12.345, "kept": 1.0, "val_value": 1.234, "test_value": 10.0, "seconds": 1000.0, "front": True,
        "failure": "",
    }  # fmt: skip
    failed = {**dict.fromkeys(row), "prune": 0.99, "failure": "why"}
    texts = {}
    for width in (200, 90, 70):
        console = Console(file=io.StringIO(), width=width)
        console.print(studytables.sweep_table([row, failed], ["prune", "bits", "conv_bits"], width))
        texts[width] = console.file.getvalue()
    assert "Seconds" in texts[200]
    assert "Seconds" not in texts[90]
    assert "Kept" in texts[90]
    assert "Kept" not in texts[70]
    for text in texts.values():
        lines = text.splitlines()
        assert lines[2].split()[:5] == ["0", "none", "12", "123,456,789", "12.35×"]
        assert lines[2].split()[-1] == "●"
        assert "failed" in lines[3]


def test_points_that_fail_are_told_at_the_end(work):
    options = [*untrained(work), "--scope", "global", "--layer", "0:prune=0", "--layer", "4:prune=0"]
    result = run("sweep", work["dense"], *options, "--prune", "0.9,0.05", "--json")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("Error: 1 of 2 points failed, the first of them prune0.9: ")
    first, second = json.loads(result.stdout)["rows"]
    assert "lower prune" in first["failure"]
    assert (first["file_bytes"], first["front"], second["failure"], second["front"]) == (None, False, "", True)
    assert [row["failure"] for row in rows_of(Path("sweep/sweep.csv"))] == [first["failure"], ""]
    assert rows_of(Path("sweep/sweep.csv"))[0]["file_bytes"] == ""
    result = run("sweep", work["dense"], *options, "--prune", "0.9,0.05", "-q")
    assert result.exit_code == 1
    assert result.stdout == "sweep/sweep.csv, sweep/sweep.png, sweep/points\n"
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: 1 of 2 points failed")


def test_all_points_fail(work):
    result = run("sweep", work["dense"], *work["options"], "--lr", "1e30", "--prune", "0.5,0.6", "-q")
    assert result.exit_code == 1
    assert "2 of 2 points failed" in result.stderr
    assert "lower the learning rate" in result.stderr
    assert not Path("sweep/sweep.png").exists()
    assert "sweep.png" not in result.stdout
    assert not list(Path("sweep/points").iterdir())


def test_an_interruption_says_what_stays(work, monkeypatch):
    Counter(monkeypatch, fatal=2)
    line = fail("sweep", work["dense"], *untrained(work), "--bits", "2,3", "-q")
    assert "the finished points stay in sweep/points" in line
    assert {path.name for path in Path("sweep/points").iterdir()} == {"bits2.dc", "bits2.json"}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--prune", "0.5,,0.8"], "--prune"),
        (["--prune", "0.5,1"], "--prune"),
        (["--prune", ""], "--prune"),
        (["--prune", "0.5;0.6"], "--prune"),
        (["--prune", "0.5,nan"], "prune is nan"),
        (["--bits", "4,13"], "--bits"),
        (["--conv-bits", "none,some"], "--conv-bits"),
        (["--init", "linear,middle"], "--init"),
        (["--seed", "0,-1"], "--seed"),
        (["--seed", "0,99999999999"], "seed"),
        (["--epochs", "1,2"], "--epochs"),
        (["--target-size", "2KB,much"], "--target-size"),
        (["--target-size", "2KB", "--prune", "0.5"], "--target-size and --prune"),
        (["--jobs", "0"], "--jobs"),
        (["--threads", "0"], "--threads"),
        (["--layer", "cnv*:prune=0.5"], "matches no layer"),
        (["--recipe", "missing.toml"], "missing.toml"),
    ],
)
def test_wrong_usage(work, options, named):
    assert named in fail("sweep", work["dense"], *work["options"], *options, "-o", "made", code=2)
    assert not Path("made").exists()


def test_what_is_not_there(work, tmp_path):
    assert "missing.pt: no such file" in fail("sweep", "missing.pt")
    assert "cannot be read" in fail("sweep", work["dense"], *work["options"][:2], "--data", "no.npz")
    Path("file").write_text("")
    assert "cannot write into file: it is not a folder" in fail("sweep", work["dense"], *work["options"], "-o", "file")
    assert "cannot make the folder" in fail("sweep", work["dense"], *work["options"], "-o", "file/below")
    checkpoint = load_checkpoint(work["dense"])
    save_checkpoint("nameless.pt", Checkpoint(checkpoint.state))
    assert "names no data set" in fail("sweep", "nameless.pt", *work["options"][:2], "--no-retrain")
    assert not Path("sweep").exists()


def test_help_has_the_options_of_compress():
    text = " ".join(succeed("sweep", "--help-all").stdout.split())
    for option in ("--prune F,…", "--bits B,…", "--conv-bits B,…", "[linear|random|density],…", "--seed N,…", "--lr"):
        assert option in text
    assert "test data decides nothing" in text


def test_a_method_shares_its_pruning_with_no_other_point(mlp, data):
    """It prunes by the values that it shares."""
    origin = made.origin_of(mlp, data, "", 1)
    for settings in ({"method": "lc"}, {"method": "latent"}, {"method": "sws", "optimizer": "adam"}):
        assert made.pruning_of(made.Point("a", replace(FAST, **settings)), origin) == ""
