"""Budgets: sizes as people write them, what nobody set, the search and its trials, and the command that ties them."""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pytest
from commands import fail, from_json, run, succeed
from samples import blobs, network_and_data

import deepcompress.studies.points as made
from deepcompress.cli import main
from deepcompress.cli.settings import Size, build_budgeted
from deepcompress.compression.pipeline import compress
from deepcompress.errors import OutputError, PruneError, RecipeError
from deepcompress.recipe import SMALLEST, LayerRule, Recipe
from deepcompress.studies import search
from deepcompress.studies.points import PARTS, Outcome
from deepcompress.studies.search import Found, Rule, look
from deepcompress.training.data import DataSet
from deepcompress.training.evaluation import Evaluation, evaluate
from deepcompress.training.tasks import TASKS

FAST = ["--epochs", "2", "--finetune-epochs", "1", "--batch-size", "64", "--lr", "0.05"]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DEEPCOMPRESS_DATA", raising=False)


# Sizes and settings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("9000", 9000), ("10KB", 10_000), ("10 kb", 10_000), ("6.5KB", 6500), ("40KiB", 40_960), ("1.5MB", 1_500_000),
        ("2MiB", 2 << 20), ("1GB", 10**9), ("12B", 12), ("1.0015KB", 1001),
    ],
)  # fmt: skip
def test_sizes(text, size):
    assert Size().convert(text, None, None) == size


@pytest.mark.parametrize("text", ["", "KB", "10 parsecs", "-5KB", "1e4", "10K", "nan", "1,5KB", "٣KB", "0", "0.5"])
def test_what_is_no_size(text):
    with pytest.raises(click.BadParameter, match=r"size|byte"):
        Size().convert(text, None, None)


def test_a_preset_for_what_nobody_set():
    assert build_budgeted(None, (), {"target_size": 9000}) == (Recipe.smallest(target_size=9000), False)
    recipe, searching = build_budgeted(None, (), {"target_size": 9000, "bits": 4, "epochs": 3})
    assert (recipe.bits, recipe.epochs, recipe.coder, searching) == (4, 3, SMALLEST["coder"], False)
    assert build_budgeted(None, (), {"max_drop": 0.5, "lr": 0.5}) == (Recipe.smallest(max_drop=0.5, lr=0.5), True)
    assert build_budgeted(None, (), {"max_drop": 0.5, "prune": 0.8}) == (Recipe(max_drop=0.5, prune=0.8), False)
    assert build_budgeted(None, (), {"prune": 0.8}) == (Recipe(prune=0.8), False)
    levels, _ = build_budgeted(None, (), {"target_size": 9000, "levels": 3})
    assert levels == Recipe.smallest(target_size=9000, levels=3)


def test_a_recipe_file_beats_the_preset_and_options_beat_the_file():
    Path("r.toml").write_text('epochs = 5\ncoder = "huffman"\n')
    recipe, _ = build_budgeted("r.toml", (), {"target_size": 9000, "coder": "ans"})
    assert recipe == Recipe.smallest(target_size=9000, epochs=5, coder="ans")
    Path("r.toml").write_text("prune = 0.5\n")
    assert build_budgeted("r.toml", (), {"max_drop": 1.0}) == (Recipe(prune=0.5, max_drop=1.0), False)
    recipe, _ = build_budgeted("r.toml", (), {"target_size": 9000})
    assert recipe == Recipe.smallest(target_size=9000)  # in place of the fraction
    Path("r.toml").write_text('schedule = "gap"\ngap = 2.0\n[[layer]]\npattern = "fc"\nprune = 0.5\nbits = 4\n')
    recipe, _ = build_budgeted("r.toml", (), {"schedule": "linear", "target_size": 9000})
    assert recipe == Recipe.smallest(schedule="linear", target_size=9000, layers=(LayerRule("fc", bits=4),))
    Path("r.toml").write_text("gap = 2.0\n")
    with pytest.raises(RecipeError, match=r"recipe r\.toml: gap is only for schedule gap"):
        build_budgeted("r.toml", (), {})


@pytest.mark.parametrize("recipe", [Recipe.smallest(target_size=9000), Recipe(target_size=9000), Recipe(max_drop=1.0)])
def test_a_recorded_recipe_is_taken_as_it_stands(recipe):
    Path("r.toml").write_text(recipe.to_toml())
    assert build_budgeted("r.toml", (), {}) == (recipe, False)


def test_options_in_place_of_the_budget_in_a_recipe_file():
    Path("r.toml").write_text(Recipe.smallest(target_size=9000, epochs=5).to_toml())
    assert build_budgeted("r.toml", (), {"prune": 0.7}) == (Recipe.smallest(prune=0.7, epochs=5), False)
    assert build_budgeted("r.toml", (), {"max_drop": 0.7}) == (Recipe.smallest(max_drop=0.7, epochs=5), True)


@pytest.mark.parametrize("points", [-1, 101, math.nan, "much"])
def test_what_no_recipe_may_say(points):
    with pytest.raises(RecipeError, match="max_drop"):
        Recipe(max_drop=points)
    with pytest.raises(RecipeError, match="two budgets"):
        Recipe(max_drop=1.0, target_size=5)


# The rule ------------------------------------------------------------------------------------------------------


def outcome(errors, samples, loss):
    return Outcome("x", {}, file_bytes=1, val_error=100 * errors / samples, val_loss=loss)


def test_points_are_counted_in_whole_samples():
    rule = Rule.of(Evaluation(accuracy=99.0, error=1.0, loss=0.1, samples=200, value=1.0), 0.5)
    assert (rule.dense_errors, rule.most_errors, rule.most_loss) == (2, 3, None)
    assert rule.passes(outcome(3, 200, 9.0))
    assert not rule.passes(outcome(4, 200, 0.0))
    assert Rule.of(Evaluation(90.0, 10.0, 0.1, 1000, 10.0), 0.7).most_errors == 107  # 0.7 * 1000 / 100 is 6.999…


def test_a_short_trial_may_lose_a_little_more():
    rule = Rule.of(Evaluation(accuracy=99.0, error=1.0, loss=0.1, samples=200, value=1.0), 0.5)
    assert [rule.is_near(outcome(errors, 200, 9.0)) for errors in (0, 6, 7)] == [True, True, False]
    assert not rule.is_near(Outcome("x", {}, failure="too small"))


def test_a_budget_finer_than_a_sample_looks_at_the_cross_entropy_too():
    rule = Rule.of(Evaluation(accuracy=99.0, error=1.0, loss=0.1, samples=200, value=1.0), 0.1)
    assert rule.most_errors == 2
    assert rule.most_loss == 0.1
    assert rule.passes(outcome(2, 200, 0.1))
    assert rule.passes(outcome(1, 200, 0.05))
    assert not rule.passes(outcome(2, 200, 0.101))
    assert not rule.passes(outcome(3, 200, 0.05))
    assert not rule.passes(Outcome("x", {}, failure="too small"))


def test_the_margin_by_hand():
    """Losses of 0, 2, 0 and 2 points: a deviation of 2 / sqrt(3), and a standard error of half of it."""
    rule = Rule.of(Evaluation(99.0, 1.0, 0.1, 400, 1.0), 2.0, parts=[1.0, 0.0, 2.0, 1.0])
    trial = replace(outcome(8, 400, 9.0), val_parts=[1.0, 2.0, 2.0, 3.0])
    assert rule.margin(trial) == pytest.approx(1.73 / math.sqrt(3))
    assert rule.passes(trial)  # one point was lost, and one more may be: 4 + floor(400 * (0.02 - 0.00999))
    assert not rule.passes(replace(trial, val_error=2.25))
    assert rule.margin(outcome(8, 400, 9.0)) == 0


def test_where_the_margin_is_all_nothing_may_be_lost():
    rule = Rule.of(Evaluation(99.0, 1.0, 0.1, 400, 1.0), 0.5, parts=[1.0, 0.0, 2.0, 1.0])
    trial = replace(outcome(4, 400, 0.1), val_parts=[0.0, 2.0, 1.0, 1.0])
    assert rule.margin(trial) > 0.5
    assert rule.passes(trial)
    assert not rule.passes(replace(trial, val_loss=0.101))
    assert not rule.passes(replace(trial, val_error=1.25))


def test_the_margin_of_another_metric():
    dense = Evaluation(None, None, 0.1, 40, 80.0)
    rule = Rule.of(dense, 2.0, TASKS["segmentation"], [80.0, 80.0, math.nan])
    trial = Outcome("x", {}, val_value=79.0, val_parts=[80.0, 78.0, 50.0])
    assert rule.margin(trial) == pytest.approx(1.73)  # a deviation of sqrt(2), by sqrt(2) of two parts
    assert not rule.passes(trial)
    assert rule.passes(replace(trial, val_value=80.0))
    assert rule.passes(replace(trial, val_parts=[79.0, 79.0, math.nan]))


class Chance:
    """Trials that are measured on some samples, and lose as many points as is known: `allowed` at 9,000 bytes."""

    def __init__(self, seed, samples, allowed, errors=0.05, churn=0.01):
        self.rng, self.allowed, self.errors, self.churn = np.random.default_rng(seed), allowed, errors, churn
        self.dense = self.rng.random(samples) < errors

    def lost(self, size):
        return self.allowed * (9000 / size) ** 1.5

    def parts(self, wrong):
        return [100 * float(part.mean()) for part in np.array_split(wrong, PARTS)]

    def rule(self, margin):
        parts = self.parts(self.dense) if margin else ()
        return Rule(self.allowed, len(self.dense), int(self.dense.sum()), 0.1, parts)

    def __call__(self, point):
        lost = self.lost(point.recipe.target_size or 200_000)
        drawn = self.rng.random(len(self.dense))
        newly = drawn < (self.churn + lost / 100) / (1 - self.errors)
        wrong = np.where(self.dense, drawn > self.churn / self.errors, newly)
        return Outcome(
            point.name, point.recipe.as_dict(), file_bytes=point.recipe.target_size or 200_000,
            val_error=100 * float(wrong.mean()), val_loss=0.1 + lost / 100, val_parts=self.parts(wrong),
        )  # fmt: skip


@pytest.mark.parametrize(("samples", "allowed"), [(400, 2.0), (2000, 1.0), (10_000, 0.5)])
def test_the_budget_holds_on_data_that_did_not_choose(samples, allowed):
    held = {}
    for margin in (True, False):
        losses = []
        for seed in range(40):
            chance = Chance(seed, samples, allowed)
            found = Found(Path(), chance.rule(margin))
            look(found, LONG, DENSE, chance)
            if found.best is not None:
                losses.append(chance.lost(found.best.outcome.file_bytes))
        assert len(losses) >= 30
        held[margin] = sum(lost <= allowed for lost in losses) / len(losses)
    assert held[True] >= 0.9
    assert held[False] < 0.75  # which is why there is a margin


# The search ----------------------------------------------------------------------------------------------------

DENSE = 1_024_000
LONG = Recipe.smallest()
NO_LADDER = replace(LONG, epochs=2, finetune_epochs=1)


class Fake:
    """Compresses nothing: a size passes from `needed` bytes on, of a short trial from twice that."""

    def __init__(self, needed, unpruned=200_000, floor=0):
        self.needed, self.unpruned, self.floor, self.names = needed, unpruned, floor, []

    def __call__(self, point):
        self.names.append(point.name)
        asked = point.recipe.target_size
        if asked is not None and asked < self.floor:
            return Outcome(point.name, point.recipe.as_dict(), failure="too small")
        size = self.unpruned if asked is None else asked
        needed = self.needed * (2 if point.name.startswith("short") else 1)
        errors = 0 if size >= needed else 9
        return Outcome(point.name, point.recipe.as_dict(), file_bytes=size, val_error=float(errors), val_loss=0.0)


def looked(fake, recipe=LONG, trials=8):
    found = Found(Path(), Rule(1.0, 100, 0, 0.0))
    look(found, recipe, DENSE, fake, trials)
    assert [trial.outcome.name for trial in found.trials] == fake.names
    return found


def test_a_ladder_down_then_halves_of_what_is_left():
    fake = Fake(9000)
    found = looked(fake)
    assert fake.names == [
        "short64000", "short32000", "short16000",  # needs 18,000
        "size16000", "size8000", "size11314", "size9514", "size8724", "size9110",
    ]  # fmt: skip
    assert found.best.asked == 9110  # 8,724 is less than 5 % below
    assert [trial.passed for trial in found.trials[3:]] == [True, False, True, True, False, True]


def test_the_number_of_trials_is_that_of_full_ones():
    for trials, last in ((1, "size16000"), (3, "size11314"), (5, "size8724")):
        fake = Fake(9000)
        looked(fake, trials=trials)
        assert fake.names[-1] == last
        assert len([name for name in fake.names if name.startswith("size")]) == trials


def test_sizes_rise_until_one_passes():
    fake = Fake(150_000)
    found = looked(fake)
    assert fake.names[:4] == ["short64000", "size64000", "size128000", "size256000"]
    assert 150_000 <= found.best.outcome.file_bytes <= 1.05 * 150_000


def test_without_a_ladder_where_full_trials_are_short():
    fake = Fake(9000)
    looked(fake, NO_LADDER, trials=3)
    assert fake.names == ["size64000", "size32000", "size16000"]
    fake = Fake(9000)
    looked(fake, replace(LONG, retrain=False), trials=1)
    assert fake.names == ["size64000"]


def test_nothing_passes_but_without_pruning():
    fake = Fake(300_000, unpruned=400_000)
    found = looked(fake)
    assert fake.names == ["short64000", "size64000", "size128000", "size256000", "unpruned"]
    assert (found.best.outcome.file_bytes, found.best.asked) == (400_000, None)
    assert found.best.outcome.recipe["prune"] == 0


def test_nothing_passes_at_all():
    found = looked(Fake(10**9), NO_LADDER, trials=1)
    assert found.best is None
    assert [trial.outcome.name for trial in found.trials] == ["size64000", "unpruned"]


def test_everything_passes_down_to_what_is_possible():
    fake = Fake(0, floor=1000)
    found = looked(fake, trials=12)
    assert fake.names[:6] == [f"short{DENSE // divisor}" for divisor in (16, 32, 64, 128, 256, 512)]
    assert fake.names[6:9] == ["size1000", "size500", "size707"]
    assert found.best.outcome.file_bytes == 1000


def test_the_front_and_the_choice_in_plain_data():
    rows = looked(Fake(9000)).as_dicts()
    assert [row["target_size"] for row in rows if row["chosen"]] == [9110]
    assert {row["target_size"] for row in rows if row["front"]} == {8000, 9110}
    json.dumps(rows, allow_nan=False)


# Real trials, stopped and gone on with -------------------------------------------------------------------------


@pytest.fixture
def data():
    (x, y), (x_val, y_val), (x_test, y_test) = blobs(256, 1), blobs(100, 2), blobs(100, 3)
    return DataSet("blobs", x, y, x_val, y_val, x_test, y_test)


SMALL = Recipe.smallest(epochs=3, finetune_epochs=1, batch_size=64, lr=0.02, coder="huffman", batch_norm="keep")


class Counter:
    """Stands in for `pipeline.compress` and counts its calls, the `fatal`-th of which is an interruption.

    What is in `known`, by recipe, is not computed again.
    """

    def __init__(self, monkeypatch, fatal=None, known=None):
        self.files, self.fatal, self.known = [], fatal, {} if known is None else known
        monkeypatch.setattr(made, "compress", self)

    def __call__(self, *arguments, **named):
        assert named.get("test_loader") is None
        self.files.append(Path(arguments[4]).stem)
        if len(self.files) == self.fatal:
            raise KeyboardInterrupt
        recipe, path = arguments[3], Path(arguments[4])
        if recipe not in self.known:
            result = compress(*arguments, **named)
            self.known[recipe] = result, path.read_bytes()
        result, raw = self.known[recipe]
        path.write_bytes(raw)
        return result


def test_after_an_interruption_at_any_point_the_same_file(dense, data, tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    whole.mkdir()
    calls = Counter(monkeypatch)
    known = calls.known
    found = search.search(dense, data, SMALL, 10.0, whole, trials=3)
    done = calls.files
    assert len(done) == len(set(done)) >= 4
    first = search.deliver(found, dense, data, tmp_path / "whole.dc")
    for stop in range(1, len(done) + 1):
        folder = tmp_path / f"stopped{stop}"
        folder.mkdir()
        Counter(monkeypatch, stop, known)
        with pytest.raises(KeyboardInterrupt):
            search.search(dense, data, SMALL, 10.0, folder, trials=3)
        calls = Counter(monkeypatch, known=known)
        again = search.search(dense, data, SMALL, 10.0, folder, trials=3)
        assert calls.files == done[stop - 1 :]
        assert [trial.asked for trial in again.trials] == [trial.asked for trial in found.trials]
        result = search.deliver(again, dense, data, tmp_path / "again.dc")
        assert (tmp_path / "again.dc").read_bytes() == (tmp_path / "whole.dc").read_bytes()
        assert result.recipe == first.recipe
        shutil.rmtree(folder)


def test_a_trial_is_what_its_size_makes_by_itself(dense, data, tmp_path):
    found = search.search(dense, data, SMALL, 5.0, tmp_path, trials=2)
    result = search.deliver(found, dense, data, "m.dc")
    recipe = Recipe.from_dict(result.recipe)
    train = data.train_loader(recipe.batch_size, recipe.seed, recipe.shift, recipe.flip)
    alone = compress(
        dense, train, data.val_loader(), recipe, "alone.dc", test_loader=data.test_loader(), data=data.name
    )
    assert Path("alone.dc").read_bytes() == Path("m.dc").read_bytes()
    assert (alone.file_bytes, alone.dense_bytes, alone.ratio) == (result.file_bytes, result.dense_bytes, result.ratio)
    assert (alone.accuracy_before, alone.accuracy_after) == (result.accuracy_before, result.accuracy_after)
    assert [stage.accuracy is None for stage in result.stages] == [False, True, True, False]
    assert result.file_bytes == Path("m.dc").stat().st_size
    assert set(result.kept) == set(alone.kept)
    search.clear(tmp_path)
    assert not list(tmp_path.glob("s*"))


def test_the_test_data_decides_nothing(dense, data, tmp_path):
    spoiled = replace(data, y_test=(data.y_test + 1) % 4)
    paths = []
    for which, name in ((data, "a"), (spoiled, "b")):
        folder = tmp_path / name
        folder.mkdir()
        found = search.search(dense, which, SMALL, 20.0, folder, trials=1)
        paths.append(found.path(found.best))
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_trials_of_something_else_are_computed_again(dense, data, tmp_path, monkeypatch):
    search.search(dense, data, SMALL, 5.0, tmp_path, trials=1)
    calls = Counter(monkeypatch)
    search.search(dense, data, SMALL, 5.0, tmp_path, trials=1)
    assert calls.files == []
    search.search(dense, data, replace(SMALL, lr=0.03), 5.0, tmp_path, trials=1)
    assert calls.files


def test_errors_that_say_nothing_of_the_size_end_the_search(dense, data, tmp_path, monkeypatch):
    def full(*arguments, **named):
        raise OutputError("no space left")

    monkeypatch.setattr(made, "compress", full)
    with pytest.raises(OutputError, match="no space"):
        search.search(dense, data, SMALL, 5.0, tmp_path, trials=1)
    with pytest.raises(RecipeError, match="trials is 0"):
        search.search(dense, data, SMALL, 5.0, tmp_path, trials=0)


def test_nothing_passes_is_one_error(dense, data, tmp_path, monkeypatch):
    def refuse(*arguments, **named):
        raise RecipeError("too small")

    monkeypatch.setattr(made, "compress", refuse)
    with pytest.raises(PruneError, match=r"not even without pruning.*--max-drop.*too small"):
        search.search(dense, data, SMALL, 0.0, tmp_path, trials=2)


# The command ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    network, data = network_and_data(folder)
    succeed("train", network, "--data", data, "-o", folder / "dense.pt", "--epochs", "3", "--lr", "0.1")
    return [folder / "dense.pt", "--network", network, "--data", data, *FAST]


def test_compress_to_a_size_and_again_by_its_recipe(work):
    found = from_json("compress", *work, "--target-size", "1.2KB")
    assert found["file_bytes"] == Path("model.dc").stat().st_size <= 1200
    asked = Recipe.smallest(target_size=1200, epochs=2, finetune_epochs=1, batch_size=64, lr=0.05)
    assert found["recipe"] == asked.as_dict()
    Path("r.toml").write_text(Recipe.from_dict(found["recipe"]).to_toml())
    from_json("compress", *work[:5], "--recipe", "r.toml", "-o", "again.dc")
    assert Path("again.dc").read_bytes() == Path("model.dc").read_bytes()


def test_search_for_the_smallest_file(work):
    result = succeed("compress", *work, "--max-drop", "10", "--trials", "3", "--json")
    found = json.loads(result.stdout)
    assert not Path("model.dc.search").exists()
    assert found["file_bytes"] == Path("model.dc").stat().st_size
    chosen = [trial for trial in found["search"] if trial["chosen"]]
    assert [trial["file_bytes"] for trial in chosen] == [found["file_bytes"]]
    assert min(trial["file_bytes"] for trial in found["search"] if trial["passed"]) == found["file_bytes"]
    assert (found["budget"]["max_drop"], found["budget"]["samples"]) == (10, 30)
    assert {"accuracy_before", "accuracy_after", "stages", "seed", "recipe", "ratio", "dense_bytes"} <= set(found)
    assert "chosen" in result.stderr
    measured = from_json("eval", "model.dc", *work[1:5])
    assert measured["accuracy"] == found["accuracy_after"]
    size = str(found["recipe"]["target_size"])
    from_json("compress", *work, "--target-size", size, "-o", "again.dc")
    assert Path("again.dc").read_bytes() == Path("model.dc").read_bytes()


def test_trials_can_be_kept_and_the_bits_fixed(work):
    found = from_json("compress", *work, "--max-drop", "20", "--trials", "1", "--bits", "4", "--keep-trials", "-q")
    assert found["recipe"]["bits"] == 4
    assert {path.suffix for path in Path("model.dc.search").iterdir()} == {".dc", ".json"}
    again = succeed("compress", *work, "--max-drop", "20", "--trials", "1", "--bits", "4")
    assert "chosen" in again.stderr


def test_an_interrupted_search_says_so_and_leaves_the_old_file(work, monkeypatch):
    Path("model.dc").write_bytes(b"old")
    Counter(monkeypatch, fatal=1)
    assert "the same command continues the search" in run("compress", *work, "--max-drop", "20").stderr
    assert Path("model.dc").read_bytes() == b"old"


def test_guarded_pruning(work):
    found = from_json("compress", *work, "--prune", "0.95", "--max-drop", "0", "--iterations", "1")
    assert found["recipe"]["max_drop"] == 0
    assert "search" not in found
    assert isinstance(found["held"], list)


def test_a_size_without_data(work):
    found = from_json("compress", *work[:3], "--target-size", "1KB", "--no-retrain")
    assert found["file_bytes"] <= 1000
    assert found["accuracy_after"] is None
    assert "--network" in fail("compress", work[0], "--target-size", "1KB", "--no-retrain", "--bits", "3")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--target-size", "10 parsecs"], "10 parsecs"),
        (["--target-size", "0"], "--target-size"),
        (["--target-size", "10KB", "--prune", "0.9"], "--target-size and --prune are two ways"),
        (["--bits", "5", "--levels", "3"], "--bits and --levels are two ways"),
        (["--gap", "1"], "gap is only for schedule gap"),
        (["--max-drop", "1", "--scope", "global"], "a search tries one target_size after the other, and scope"),
        (["--target-size", "10KB", "--quality", "1"], "--quality"),
        (["--target-size", "10KB", "--max-drop", "1"], "--max-drop"),
        (["--max-drop", "-1"], "--max-drop"),
        (["--max-drop", "nan"], "max_drop"),
        (["--max-drop", "1", "--trials", "0"], "--trials"),
        (["--max-drop", "1", "--prune", "0.5", "--trials", "3"], "--trials"),
        (["--prune", "0.5", "--keep-trials"], "--keep-trials"),
        (["--target-size", "20"], "target_size is 20 bytes"),
    ],
)
def test_wrong_usage(work, options, named):
    assert named in fail("compress", *work, *options, "-q", code=2)


def test_a_search_that_is_refused_leaves_nothing(work, tmp_path):
    refused = ("--max-drop", "2", "--distribution", "amc", "-o", tmp_path / "m.dc", "-q")
    assert "distribution does not go with it" in fail("compress", *work, *refused, code=2)
    assert list(tmp_path.iterdir()) == []


def test_help_has_its_headings():
    text = succeed("compress", "--help-all").stdout
    for heading in ("How small:", "Pruning:", "Shared values:", "File:", "Retraining:", "Other:"):
        assert f"\n{heading}\n" in text
    assert "--bits 3" in text
    options = [param.opts[-1] for param in main.commands["compress"].params[1:]]
    assert len(options) > 40
    assert [option for option in options if not re.search(rf"^  (-\w, )?{option}\b", text, re.MULTILINE)] == []


def test_a_search_on_the_network_it_is_given_changes_nothing(dense, data, tmp_path):
    before = evaluate(dense, data.val_loader())
    search.search(dense, data, SMALL, 5.0, tmp_path, trials=1)
    assert evaluate(dense, data.val_loader()) == before
