"""Criteria side by side: every row from the dense weights, exact facts, and the same rows for the same seed."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import fail, from_json, run, succeed
from samples import blobs, network_and_data

from deepcompress.errors import RecipeError
from deepcompress.prune.criteria.base import CRITERIA, Criterion, Verdict
from deepcompress.recipe import Recipe
from deepcompress.studies import compare as library
from deepcompress.studies.compare import Compared, compare, ranking_layer, spearman, summarize
from deepcompress.training.data import DataSet
from deepcompress.training.evaluation import evaluate

QUICK = Recipe(epochs=1, schedule="one-shot", batch_size=64, lr=0.01)
ONE_CUT = replace(QUICK, epochs=0)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DEEPCOMPRESS_DATA", raising=False)


@pytest.fixture(autouse=True)
def quick_reference(monkeypatch):
    """In place of the measured one, which takes a pass over the data for each weight."""
    monkeypatch.setattr(library, "REFERENCE", "magnitude")


@pytest.fixture(scope="module")
def data():
    parts = [blobs(count, seed) for count, seed in ((256, 1), (100, 2), (50, 3))]
    return DataSet("blobs", *(part for pair in parts for part in pair))


def numbers(rows):
    """Rows without what a clock says."""
    return [replace(row, scoring_seconds=None, seconds=None) for row in rows]


def added(monkeypatch, name, judge, **settings):
    monkeypatch.setitem(CRITERIA, name, Criterion(judge, settings.pop("scope", "layer"), **settings))


# From Python ---------------------------------------------------------------------------------------------------


def test_rows_by_hand(dense, data):
    before = {name: value.clone() for name, value in dense.state_dict().items()}
    first, *rows = compare(dense, data, ["magnitude"], [0.75, 0.5, 0.5, 0], replace(ONE_CUT, distribution="uniform"))
    reference, test = (evaluate(dense, loader) for loader in (data.val_loader(), data.test_loader()))
    assert first == Compared("dense", 0, False, 0.0, 0.0, reference.error, reference.loss, test.error,
                             val_value=reference.error, test_value=test.error)  # fmt: skip
    assert [(row.criterion, row.retrained, row.prune) for row in rows] == [("magnitude", False, 0.5),
                                                                           ("magnitude", False, 0.75)]  # fmt: skip
    with torch.no_grad():
        for name in ("fc1", "fc2", "fc3"):
            flat = getattr(dense, name).weight.view(-1)
            flat[flat.abs().argsort()[: len(flat) // 2]] = 0
    found, test = (evaluate(dense, loader) for loader in (data.val_loader(), data.test_loader()))
    assert numbers(rows)[0] == Compared(
        "magnitude",
        0,
        False,
        0.5,
        0.5,
        found.error,
        found.loss,
        test.error,
        spearman=1.0,
        val_value=found.error,
        test_value=test.error,
    )
    dense.load_state_dict(before)


def test_the_network_is_not_changed_and_no_row_depends_on_another(dense, data):
    before = {name: value.clone() for name, value in dense.state_dict().items()}
    rows = list(compare(dense, data, ["random", "magnitude"], [0.5, 0.9], QUICK, [3]))
    assert [(row.criterion, row.retrained, row.prune) for row in rows[1:]] == [
        (name, retrained, prune) for name in ("random", "magnitude") for prune in (0.5, 0.9)
        for retrained in (False, True)
    ]  # fmt: skip
    assert all(torch.equal(value, before[name]) for name, value in dense.state_dict().items())
    again = list(compare(dense, data, ["random", "magnitude"], [0.5, 0.9], QUICK, [3]))
    assert numbers(again) == numbers(rows)
    alone = list(compare(dense, data, ["magnitude"], [0.9], QUICK, [3]))
    assert numbers(alone)[1:] == numbers(rows)[-2:]
    assert numbers(compare(dense, data, ["random"], [0.5], QUICK, [4]))[1] != numbers(rows)[1]


def test_retraining_goes_on_from_the_cut(dense, data):
    rows = list(compare(dense, data, ["magnitude"], [0.9], replace(QUICK, epochs=3, lr=0.05)))
    cut, retrained = rows[1:]
    assert retrained.sparsity == cut.sparsity >= 0.9
    assert retrained.val_loss < cut.val_loss
    assert retrained.seconds > cut.seconds >= cut.scoring_seconds > 0


def test_another_schedule_goes_its_own_way(dense, data):
    recipe = replace(QUICK, epochs=6, schedule="linear", iterations=2)
    one, other = (list(compare(dense, data, ["magnitude"], [0.9], settings)) for settings in
                  (replace(recipe, schedule="one-shot"), recipe))  # fmt: skip
    assert numbers(one)[:2] == numbers(other)[:2]  # not retrained, all goes in one cut
    assert one[2].val_loss != other[2].val_loss
    held = list(compare(dense, data, ["magnitude"], [0.9], replace(recipe, schedule="circular", max_drop=0.0)))
    assert held[2].val_error <= held[0].val_error
    assert held[2].sparsity <= 0.9


def test_a_criterion_is_asked_once_unless_it_corrects(dense, data, monkeypatch):
    asked, corrected = [], []

    def judge(evidence):
        asked.append(evidence.recipe.criterion)
        scores = CRITERIA["magnitude"].judge(evidence)
        weight = evidence.weights["fc3.weight"]

        def correct(masks):
            corrected.append(weight.detach().clone())
            weight.data.mul_(2)

        return scores if evidence.recipe.criterion == "plain" else Verdict(scores, correct)

    for name in ("plain", "corrects"):
        added(monkeypatch, name, judge)
    rows = list(compare(dense, data, ["plain", "corrects"], [0.5, 0.75], ONE_CUT))
    assert asked == ["plain", "corrects", "corrects"]
    assert all(torch.equal(weight, dense.fc3.weight) for weight in corrected)  # each time the dense one
    assert len(corrected) == 2
    assert rows[1].sparsity == rows[3].sparsity
    assert rows[1].val_loss != rows[3].val_loss


def test_what_fails_is_a_row_and_the_others_go_on(dense, data, monkeypatch):
    def judge(evidence):
        raise RuntimeError("not enough memory\nand more")

    added(monkeypatch, "broken", judge)
    rows = list(compare(dense, data, ["broken", "magnitude"], [0.5, 0.9], ONE_CUT))
    assert rows[1] == Compared("broken", 0, False, 0.5, failure="not enough memory")
    assert [row.criterion for row in rows[2:]] == ["magnitude"] * 2
    assert {summary.criterion for summary in summarize(rows)} == {"magnitude"}


def test_structured_criteria_and_files_of_ones_own(dense, data):
    Path("mine.py").write_text(
        "def smallest(evidence):\n    return {n: -w.abs() for n, w in evidence.weights.items()}\n"
    )
    rows = list(compare(dense, data, ["filters-l1", "mine.py:smallest"], [0.5], QUICK))
    assert not any(row.failure for row in rows)
    structured, _, own, _ = rows[1:]
    assert 0.3 < structured.sparsity <= 0.55
    assert own.spearman == -1.0


def test_spearman_by_hand():
    a = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert spearman(a, a) == spearman(a, a.exp()) == 1.0
    assert spearman(a, -a) == -1.0
    assert spearman(a, torch.tensor([[2.0, 1.0], [3.0, 4.0]])) == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert spearman(a, torch.tensor([[5.0, 5.0], [6.0, 6.0]])) == pytest.approx(2 / np.sqrt(5))  # ranks 1.5 and 3.5
    assert spearman(a, torch.ones(2, 2)) is None
    scipy = pytest.importorskip("scipy.stats")
    one, other = torch.randint(0, 9, (500,)).float(), torch.randn(500)
    assert spearman(one, other) == pytest.approx(scipy.spearmanr(one, other).statistic, abs=1e-12)


def test_the_layer_of_the_ranks(dense, data):
    assert ranking_layer(dense, Recipe()) == "fc3.weight"
    assert ranking_layer(dense, Recipe(), "fc[12]") == "fc1.weight"
    with pytest.raises(RecipeError, match=r"'fc9' matches no layer; there are fc1.weight, fc2.weight, fc3.weight"):
        compare(dense, data, ["magnitude"], [0.5], layer="fc9")


def test_means_deviations_and_the_front_by_hand():
    def row(criterion, seed, prune, sparsity, error, retrained=False):
        return Compared(criterion, seed, retrained, prune, sparsity, error, 0.1, error + 1, 0.1, 0.2, 1.0,
                        val_value=error, test_value=error + 1)  # fmt: skip

    found = summarize([
        Compared("dense", 0, False, 0.0, 0.0, 0.5, 0.1, 0.5),
        row("a", 0, 0.5, 0.5, 2.0), row("a", 1, 0.5, 0.5, 4.0),
        row("a", 0, 0.9, 0.91, 8.0), row("a", 1, 0.9, 0.91, 8.0),
        row("b", 0, 0.5, 0.4, 2.5), row("b", 0, 0.9, 0.90, 7.0), row("b", 0, 0.9, 0.9, 1.0, retrained=True),
    ])  # fmt: skip
    first = found[0]
    assert (first.criterion, first.seeds, first.sparsity, first.val_error, first.test_error) == ("a", 2, 0.5, 3.0, 4.0)
    assert (first.val_error_deviation, first.val_error_least, first.val_error_most) == (np.sqrt(2), 2.0, 4.0)
    # b at 0.5 has removed less than was asked, but errs least of all; a at 0.9 removed more, which does not count
    assert [(one.criterion, one.prune, one.retrained) for one in found if one.front] == [
        ("a", 0.5, False), ("b", 0.5, False), ("b", 0.9, False), ("b", 0.9, True),
    ]  # fmt: skip


def test_what_is_refused(dense, data):
    for criteria, sparsities, message in (
        (["magnitude"], [1.0], "sparsity 1.0"), (["magnitud"], [0.5], "criterion is 'magnitud'; allowed are"),
        ([], [0.5], "nothing to compare"), (["magnitude"], [0], "nothing to compare"),
    ):  # fmt: skip
        with pytest.raises(RecipeError, match=message):
            compare(dense, data, criteria, sparsities)
    with pytest.raises(RecipeError, match="nothing to compare"):
        compare(dense, data, ["magnitude"], [0.5], seeds=[])
    for settings in ({"target_size": 100}, {"distribution": "std", "quality": 1.0}):
        with pytest.raises(RecipeError, match="fractions of the weights"):
            compare(dense, data, ["magnitude"], [0.5], Recipe(**settings))
    with pytest.raises(RecipeError, match="distribution 'amc' finds fractions by trials, and criteria are compared"):
        compare(dense, data, ["magnitude"], [0.5], Recipe(distribution="amc"))


# From the command line -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A trained network of a user's own with its data."""
    folder = tmp_path_factory.mktemp("work")
    network, data = network_and_data(folder)
    succeed("train", network, "--data", data, "-o", folder / "dense.pt", "--epochs", "3", "--lr", "0.1")
    return [folder / "dense.pt", "--network", network, "--data", data]


def test_json_csv_and_picture(work):
    options = ["--criteria", "magnitude,random", "--prune", "0.5, 0.9", "--seed", "0,1", "--epochs", "1"]
    found = from_json("compare", *work, *options)
    assert {
        "checkpoint", "data", "samples", "epochs", "schedule", "seeds", "reference", "rank_layer", "dense_error",
        "dense_value", "metric", "normalize", "task",
        "dense_test_error", "criteria", "summary", "rows", "files", "command", "versions",
    } == set(found)  # fmt: skip
    assert (found["data"], found["samples"], found["epochs"], found["seeds"]) == ("blobs", 30, 1, [0, 1])
    assert (found["schedule"], found["reference"], found["rank_layer"]) == ("one-shot", "magnitude", "0.weight")
    assert [(row["criterion"], row["seed"], row["prune"], row["retrained"]) for row in found["rows"][1:]] == [
        (name, seed, prune, retrained) for seed in (0, 1) for name in ("magnitude", "random") for prune in (0.5, 0.9)
        for retrained in (False, True)
    ]  # fmt: skip
    assert [row["criterion"] for row in found["criteria"]] == ["magnitude", "random"]
    assert found["criteria"][0]["spearman"] == 1.0
    text = Path("compare/compare.csv").read_text()
    assert text.splitlines()[0].split(",") == [field.name for field in fields(Compared)]
    expected = [{key: "" if value is None else str(value) for key, value in row.items()} for row in found["rows"]]
    assert list(csv.DictReader(io.StringIO(text))) == expected
    assert found["files"] == ["compare/compare.csv", "compare/compare.png"]
    assert Path("compare/compare.png").read_bytes().startswith(b"\x89PNG")


def test_rows_are_written_as_they_come(work, monkeypatch):
    looks = []

    def interrupted(*args):
        looks.append(args)
        if len(looks) > 6:
            raise KeyboardInterrupt
        return evaluate(*args)

    monkeypatch.setattr(library, "evaluate", interrupted)
    result = run("compare", *work, "--criteria", "magnitude", "--prune", "0.5,0.6,0.7", "--epochs", "0")
    assert result.exit_code == 1
    assert "Traceback" not in result.stderr
    rows = list(csv.DictReader(io.StringIO(Path("compare/compare.csv").read_text())))
    assert [row["prune"] for row in rows] == ["0.0", "0.5", "0.6"]


def test_the_tables(work):
    options = ["--criteria", "magnitude,random", "--prune", "0.5,0.9", "--epochs", "1", "-o", "a [b]"]
    quiet = succeed("compare", *work, *options, "-q")
    assert (quiet.stdout, quiet.stderr) == ("a [b]/compare.csv, a [b]/compare.png\n", "")
    result = succeed("compare", *work, *options)
    lines = [line for line in result.stdout.splitlines() if line.strip()]
    assert lines[0].startswith("Error in percent on 30 validation samples of blobs, not retrained; dense ")
    assert lines[1].replace(" %", "%").split() == ["Criterion", "Seconds", "Spearman", "50%", "90%"]
    assert [line.split()[0] for line in lines[3:5]] == ["magnitude", "random"]
    assert lines[3].split()[2] == "1.00"
    assert "●" in result.stdout
    assert "retrained (one-shot, epochs: 1); dense" in lines[5]
    assert lines[6].replace(" %", "%").split() == ["Criterion", "50%", "90%"]
    assert lines[-2:] == ["Spearman: with magnitude, in 0.weight", "a [b]/compare.csv, a [b]/compare.png"]
    several = succeed("compare", *work, *options, "--seed", "0,1").stdout
    assert "±" in several


def test_recipe_files_and_schedules(work):
    Path("r.toml").write_text('schedule = "linear"\nepochs = 2\niterations = 2\nmax_drop = 100.0\nprune = 0.3\n')
    found = from_json("compare", *work, "--criteria", "magnitude", "--prune", "0.6", "--recipe", "r.toml")
    assert (found["schedule"], found["epochs"]) == ("linear", 2)
    assert found["rows"][1]["sparsity"] == pytest.approx(0.6, abs=0.02)


def test_a_failure_is_shown_and_ends_with_an_error(work):
    Path("mine.py").write_text("def bad(evidence):\n    return {}\n")
    result = run("compare", *work, "--criteria", "mine.py:bad,magnitude", "--prune", "0.5", "--epochs", "0", "--json")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith(
        "Error: mine.py:bad failed: criterion mine.py:bad: there are no scores"
    )
    rows = json.loads(result.stdout)["rows"]
    assert [bool(row["failure"]) for row in rows] == [False, True, False]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--prune", "0.5,1"], "--prune"),
        (["--criteria", "magnitude,none"], "criterion is 'none'"),
        (["--rank-layer", "cnv*"], "'cnv*' matches no layer"),
        (["--bits", "4"], "--bits"),
        (["--schedule", "circular"], "max_drop"),
        (["--recipe", "missing.toml"], "missing.toml"),
    ],
)
def test_wrong_usage(work, options, named):
    assert named in fail("compare", *work, *options, "-o", "made", code=2)
    assert not Path("made").exists()


def test_a_row_is_plain_data():
    assert asdict(Compared("a", 0, True, 0.5))["sparsity"] is None
