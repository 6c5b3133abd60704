"""A file that is a small update of another: what stays, how small the update is, and what it is good for."""

from __future__ import annotations

import copy
import math
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from samples import SIDE, batches, conv_net

import deepcompress as dc
from deepcompress.cli import main
from deepcompress.compression.from_base import PATIENCE, TOLERANCE, TRAINING, recipe_beside
from deepcompress.compression.from_file import settings_of
from deepcompress.compression.revision import frozen, near
from deepcompress.errors import CheckpointError, RecipeError
from deepcompress.networks import LeNet300100
from deepcompress.prune.masks import Masks
from deepcompress.quantize.sharing import Codebook, Member
from deepcompress.quantize.sticky import StickyHooks, hysteresis, one_more
from deepcompress.recipe import LayerRule, Recipe
from deepcompress.training.evaluation import evaluate
from deepcompress.training.loop import fit
from deepcompress.training.progress import Progress
from deepcompress.updates.describe import describe


@pytest.fixture(scope="module")
def first():
    return batches(256, seed=1, shape=(1, SIDE, SIDE))


@pytest.fixture(scope="module")
def second(first):
    """The same data, turned."""
    return [(images.flip(-1), labels) for images, labels in first]


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "batch norm"])
def files(request, first, second, tmp_path_factory):
    """A network, its file, and the network retrained for other data."""
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    model = conv_net(batch_norm=request.param)
    fit(model, first, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), 4, stage="train")
    recipe = Recipe(prune=0.7, epochs=1, finetune_epochs=1, iterations=1, bits=4)
    dc.compress(model, first, None, recipe, folder / "old.dc")
    fit(model, second, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), 3, stage="train")
    return model, folder / "old.dc"


def settings(old, **changes):
    return Recipe.from_dict(settings_of(old) | {"finetune_epochs": 6, "finetune_lr": 0.05} | changes)


def update_of(old, new, folder):
    return dc.diff(old, new, folder / "u.dcp").file_bytes


def values_of(path):
    return {name: value for name, value in dc.load_state_dict(path).items() if value.ndim > 1}


def values_in(old, new):
    """Each layer of the two files, and whether the new one has values of the old one only."""
    after = values_of(new)
    for name, before in values_of(old).items():
        assert set(after[name].unique().tolist()) <= {0.0, *before.unique().tolist()}
        yield before, after[name]


def test_shared_values_stay_and_few_weights_change(files, second, tmp_path):
    model, old = files
    new = tmp_path / "new.dc"
    result = dc.compress(model, second, None, settings(old), new, base=old)
    changed = [int((before != after).sum()) for before, after in values_in(old, new)]
    assert 0 < sum(changed) == result.update["changed"]
    assert update_of(old, new, tmp_path) == result.update["bytes"]
    assert result.update["levels"] == []  # nothing says which is good enough
    dc.patch(old, tmp_path / "u.dcp", tmp_path / "p.dc")
    assert (tmp_path / "p.dc").read_bytes() == new.read_bytes()


def test_weights_that_are_no_numbers_are_named(files, second, tmp_path):
    model, old = files
    broken = copy.deepcopy(model)
    name, weight = next((name, value) for name, value in broken.named_parameters() if value.ndim > 1)
    with torch.no_grad():
        weight.view(-1)[1] = torch.nan
    for train in (None, second):
        recipe = settings(old) if train else Recipe.from_dict(settings_of(old) | {"retrain": False})
        with pytest.raises(CheckpointError, match=rf"{name}.*1 of {weight.numel()} .*NaN"):
            dc.compress(broken, train, None, recipe, tmp_path / "new.dc", base=old)


def test_validation_data_says_how_few_weights_change(files, second, tmp_path):
    model, old = files
    based, whole = tmp_path / "based.dc", tmp_path / "whole.dc"
    result = dc.compress(model, second, second, settings(old), based, base=old)
    dc.compress(model, second, None, Recipe(prune=0.7, epochs=1, finetune_epochs=1, iterations=1, bits=4), whole)
    network = conv_net(batch_norm=any("running" in name for name in model.state_dict()))
    before = evaluate(dc.load(old, into=network), second)
    assert result.accuracy_after > before.accuracy + 10
    levels = result.update["levels"]
    lowest, sizes = min(level["val_loss"] for level in levels), [level["bytes"] for level in levels[1:]]
    assert (levels[0]["changed"], levels[0]["val_loss"]) == (0, pytest.approx(before.loss))
    assert len(sizes) > PATIENCE
    assert sizes == sorted(sizes, reverse=True)
    kept = [level["bytes"] for level in levels if level["val_loss"] <= (1 + TOLERANCE) * lowest]
    assert result.update["bytes"] == update_of(old, based, tmp_path) == min(kept)
    assert result.loss_after <= (1 + TOLERANCE) * lowest
    assert min(kept) < update_of(old, whole, tmp_path)
    assert result.update["changed"] == sum(int((then != now).sum()) for then, now in values_in(old, based))
    density = {name: float((value != 0).float().mean()) for name, value in values_of(based).items()}
    assert result.kept == pytest.approx(density)


def test_the_update_is_the_smallest_that_loses_no_more_points(files, second, tmp_path):
    model, old = files
    sizes = {}
    for drop in (30.0, 50.0):
        result = dc.compress(model, second, second, settings(old), tmp_path / "n.dc", base=old, update_drop=drop)
        assert result.accuracy_before - result.accuracy_after <= drop
        sizes[drop] = result.update["bytes"]
        assert result.update["max_drop"] == drop
    assert sizes[50.0] < sizes[30.0]
    with pytest.raises(RecipeError, match=r"may lose 0 points, but with all changes that pay the network has error"):
        short = settings(old, finetune_epochs=1, finetune_lr=1e-4)
        dc.compress(model, second, second, short, tmp_path / "x.dc", base=old, update_drop=0)
    assert not (tmp_path / "x.dc").exists()


def test_an_interrupted_run_goes_on_to_the_same_file(files, second, tmp_path):
    model, old = files

    def run(name, watch=None):
        more = {"base": old, "resume": tmp_path / "state", "watch": watch}
        return dc.compress(model, second, second, settings(old), tmp_path / name, **more).update

    class Stopped(Progress):
        def message(self, text):
            if "an update of" in text and not text.startswith("0 "):
                raise KeyboardInterrupt

    wanted = run("whole.dc")
    with pytest.raises(KeyboardInterrupt):
        run("new.dc", Stopped())
    assert run("new.dc") == wanted
    assert (tmp_path / "new.dc").read_bytes() == (tmp_path / "whole.dc").read_bytes()


def test_training_that_harms_is_not_taken(files, first, tmp_path):
    model, old = files
    wild = settings(old, finetune_lr=50.0, finetune_epochs=2, distill=0.0)
    result = dc.compress(model, first, first, wild, tmp_path / "new.dc", base=old)
    base, trained = (level["val_loss"] for level in result.update["levels"][:2])
    assert trained > 2 * base
    assert result.loss_after <= (1 + TOLERANCE) * base


def test_the_base_stays_where_it_is_good_enough(files, second, tmp_path):
    model, old = files
    result = dc.compress(model, second, second, settings(old), tmp_path / "new.dc", base=old, update_drop=100)
    assert len(result.update["levels"]) == 1  # nothing was trained
    assert (tmp_path / "new.dc").read_bytes() == old.read_bytes()


def test_the_update_has_no_more_bytes_than_asked(files, second, tmp_path):
    model, old = files
    sizes = {}
    for most in (450, 300):
        new = tmp_path / f"{most}.dc"
        result = dc.compress(model, second, None, settings(old), new, base=old, update_size=most)
        sizes[most] = update_of(old, new, tmp_path)
        assert 0.7 * most < sizes[most] == result.update["bytes"] <= most
    assert sizes[300] < sizes[450]


@pytest.mark.parametrize(
    ("most", "line"),
    [(20, r"20 bytes, but the update has \d+ without a weight"), (0, "0; it must be at least 1 byte")],
)
def test_a_size_that_nothing_fits_into_is_refused(files, second, tmp_path, most, line):
    model, old = files
    with pytest.raises(RecipeError, match=f"update_size is {line}"):
        dc.compress(model, second, None, settings(old), tmp_path / "x.dc", base=old, update_size=most)
    assert not (tmp_path / "x.dc").exists()


def test_a_size_into_which_no_change_fits_is_refused(files, second, tmp_path):
    model, old = files
    least = update_of(old, old, tmp_path)
    with pytest.raises(RecipeError, match=f"update_size is {least} bytes, and no change of a weight fits"):
        dc.compress(model, second, None, settings(old), tmp_path / "x.dc", base=old, update_size=least)


def test_the_base_itself_is_the_answer_where_nothing_is_to_learn(files, tmp_path):
    _, old = files
    network = conv_net(batch_norm=any("running" in name for name in dc.load_state_dict(old)))
    model, told = dc.load(old, into=network), []
    watch = Progress()
    watch.message = told.append
    recipe = Recipe.from_dict(settings_of(old) | {"retrain": False})
    for limits in ({}, {"update_size": 500}):
        result = dc.compress(model, None, None, recipe, tmp_path / "new.dc", base=old, watch=watch, **limits)
        assert result.update["changed"] == 0
        assert any("nothing changes" in line for line in told)
        assert (tmp_path / "new.dc").read_bytes() == old.read_bytes()


def test_without_data_weights_move_towards_those_of_the_network(files, tmp_path):
    model, old = files
    new = tmp_path / "new.dc"
    dc.compress(model, None, None, Recipe.from_dict(settings_of(old) | {"retrain": False}), new, base=old)
    given = model.state_dict()
    nearer = 0.0
    for name, before in values_of(old).items():
        after, kept = values_of(new)[name], before != 0
        nearer += float(((given[name] - before)[kept] ** 2).sum() - ((given[name] - after)[kept] ** 2).sum())
        assert not after[~kept].any()
    assert nearer > 0
    update_of(old, new, tmp_path)
    assert all(change.back == 0 for change in describe(tmp_path / "u.dcp").changes if change.codebook)


def test_points_decide_without_training_too(files, second, tmp_path):
    model, old = files
    recipe, sizes = Recipe.from_dict(settings_of(old) | {"retrain": False}), []
    network = conv_net(batch_norm=any("running" in name for name in model.state_dict()))
    for drop in (30.0, 100.0):
        result = dc.compress(model, None, second, recipe, tmp_path / "new.dc", base=old, update_drop=drop)
        sizes.append(result.update["bytes"])
        assert result.accuracy_before - result.accuracy_after <= drop
    assert sizes[1] <= sizes[0]
    assert evaluate(dc.load(tmp_path / "new.dc", into=network), second).accuracy == result.accuracy_after


def test_settings_that_are_left_open_are_those_of_the_base(files, second, tmp_path):
    model, old = files
    recipe = Recipe(finetune_epochs=1, seed=3)
    made = dc.compress(model, second[:1], None, recipe, tmp_path / "new.dc", base=old, update_size=300).recipe
    assert made["prune"] == made["epochs"] == 0
    assert made["layer"] == settings_of(old)["layer"]
    assert (made["seed"], made["finetune_epochs"]) == (3, 1)
    assert all(made[name] == value for name, value in TRAINING.items() if name != "finetune_epochs")
    assert recipe_beside(Recipe(distill=0.0), old, False).distill == 0  # the temperature goes with it
    assert recipe_beside(Recipe(retrain=False), old, False).finetune_epochs == 0


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"base": None, "update_size": 100}, "name that file with base"),
        ({"base": None, "update_drop": 1}, "name that file with base"),
        ({"update_size": 100, "update_drop": 1}, "two budgets"),
        ({"update_drop": -1}, "update_drop is -1"),
        ({"update_drop": 1}, "needs validation data"),
        ({"start": True}, "leave out masks, start and calibrate"),
        ({"recipe": {"target_size": 500}}, "target_size is decided by the base"),
        ({"recipe": {"prune": 0.5}}, "prune is decided by the base"),
        ({"recipe": {"bits": 2}}, "bits is decided by the base"),
        ({"recipe": {"codebook_dtype": "float16"}}, "codebook_dtype is decided by the base"),
        ({"recipe": {"layers": (LayerRule("0", prune=0.5),)}}, "layer is decided by the base"),
        ({"recipe": {"max_drop": 1}}, "and update_drop what an update may"),
        ({"recipe": {"epochs": 4}}, "finetune_epochs is for those"),
        ({"recipe": {"lr": 0.1}}, "finetune_lr is for those"),
    ],
)
def test_what_does_not_go_with_a_base(files, second, tmp_path, more, line):
    model, old = files
    more = {"base": old} | more | ({"start": old} if "start" in more else {})
    recipe = Recipe(**more.pop("recipe", {})) if "recipe" in more else settings(old)
    with pytest.raises(RecipeError, match=line):
        dc.compress(model, second, None, recipe, tmp_path / "x.dc", **more)


def book_of(values, assignment, positions=None):
    positions = torch.tensor(range(len(assignment)) if positions is None else positions, dtype=torch.int64)
    member = Member("w", positions, torch.tensor(assignment, dtype=torch.int64))
    return Codebook(len(values), torch.nn.Parameter(torch.tensor(values)), (member,))


def hooks_of(book, first, latents):
    """Hooks on a vector, and the vector, once it has become the latents."""
    weights = {"w": torch.tensor(first)}
    hooks = StickyHooks([book], weights, Masks({"w": weights["w"] != 0}))
    weights["w"].copy_(torch.tensor(latents))
    hooks.after_step()
    return hooks, weights["w"]


def test_weights_change_where_that_pays():
    book = book_of([1.0, 2.0], [0, 0, 1, 1])
    assert hysteresis(book) == 0.25
    hooks, weights = hooks_of(book, [1.0, 1.0, 2.0, 2.0], [1.95, 1.625, 1.125, 1.375])
    # Gains of 0.9, 0.25, 0.75 and 0.25 for three or four bits each, at 0.25 for eight
    assert weights.tolist() == [2, 2, 1, 1]
    room = 0.0
    for wanted in ([1, 1, 2, 2], [2, 1, 2, 2], [2, 1, 1, 2]):
        hooks.allow(room)
        assert weights.tolist() == wanted
        assert hooks.changed == sum(now != then for now, then in zip(wanted, [1, 1, 2, 2], strict=True))
        room = hooks.bits + 5


def test_pruned_weights_come_back_and_others_fall_where_that_pays():
    first = [0.0] * 500 + [1.0, 1.0, 2.0, 2.0]
    latents = [0.9, 0.6, *first[2:500], 0.1, 1.0, 2.0, 2.0]
    hooks, weights = hooks_of(book_of([1.0, 2.0], [0, 0, 1, 1], [500, 501, 502, 503]), first, latents)
    assert weights[0] == 1  # gains 0.8
    assert weights[1] == 0  # would gain 0.2, and take ten bits
    assert weights[500] == 0
    assert not weights[2:500].any()
    assert hooks.changed == 2
    assert [int(mask.sum()) for mask in hooks.masks.keep.values()] == [4]
    book = hooks.codebooks[0]
    assert book.members[0].positions.tolist() == [0, 501, 502, 503]
    assert book.members[0].assignment.tolist() == [0, 0, 1, 1]
    assert hooks.latents["w"][0] == pytest.approx(0.9)  # learns on behind its value


def test_one_more_change_costs_what_it_adds_to_the_logarithm_of_the_choices():
    for elements, changes in [(1000, 0), (1000, 10), (50_000, 4000)]:
        exact = math.log2(math.comb(elements, changes + 1)) - math.log2(math.comb(elements, changes))
        assert one_more(changes, elements) == pytest.approx(exact, abs=0.01)
    assert one_more(10, 10) == one_more(0, 0) == 1


def test_a_layer_without_any_weight_stays_so():
    hooks, weights = hooks_of(book_of([], [], []), [0.0, 0.0], [0.5, -3.0])
    assert weights.tolist() == [0, 0]
    assert hooks.changed == hooks.wanting == 0


def test_small_tensors_change_in_their_upper_bits():
    rng = np.random.default_rng(0)
    old = torch.from_numpy(rng.standard_normal(1000).astype("f4"))
    new = old + 0.1 * torch.from_numpy(rng.standard_normal(1000).astype("f4"))
    found = near(new, old)
    assert ((found - new).abs() <= new.abs() / 256).all()
    same = (found.view(torch.int32) - old.view(torch.int32))[(found > 0) == (old > 0)]
    assert not (same & 0xFFFF).any()
    assert torch.equal(near(old, old), old)
    odd = torch.tensor([float("nan"), float("inf"), 0.0, -0.0])
    assert torch.equal(near(odd, torch.ones(4)).isfinite(), odd.isfinite())


def test_frozen_parameters_learn_again_afterwards():
    layer = torch.nn.Linear(2, 2)
    with frozen([layer.bias]):
        assert [parameter.requires_grad for parameter in (layer.weight, layer.bias)] == [True, False]
    assert layer.bias.requires_grad


def test_a_file_without_shared_values_is_no_base(files, second, tmp_path):
    model, _ = files
    dc.compress(model, None, None, Recipe(retrain=False), tmp_path / "rows.dc")
    with pytest.raises(RecipeError, match="is rounded row by row"):
        dc.compress(model, second, None, Recipe(), tmp_path / "new.dc", base=tmp_path / "rows.dc")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--update-size", "100"], "name that file with --base"),
        (["--base", "none.dc"], "no such file"),
        (["--base", "old.dc", "--prune", "0.5"], "leave out --prune, or --base"),
        (["--base", "old.dc", "--bits", "8", "--layer", "a:prune=0"], "leave out --bits, --layer, or --base"),
        (["--base", "old.dc", "--codebook-dtype", "float16"], "leave out --codebook-dtype, or --base"),
        (["--base", "old.dc", "--low-rank", "0.5"], "leave out --low-rank, or --base"),
        (["--base", "old.dc", "--target-size", "500"], "leave out --target-size, or --base"),
        (["--base", "old.dc", "--epochs", "5"], "(--finetune-epochs is for those): leave out --epochs, or --base"),
        (["--base", "old.dc", "--lr", "0.1", "--optimizer", "adam"], "leave out --optimizer, or --base"),
        (["--base", "old.dc", "--recipe", "r.toml"], "leave out bits in r.toml, layer in r.toml, or --base"),
        (["--base", "old.dc", "--update-size", "100", "--max-drop", "1"], "two budgets"),
        (["--base", "old.dc", "--max-drop", "1", "--trials", "3"], "for the search only"),
        (["--base", "old.dc", "--max-drop", "101"], "Invalid value for '--max-drop'"),
    ],
)
def test_wrong_usage_of_the_command_is_one_line(files, tmp_path, monkeypatch, options, line):
    _, old = files
    monkeypatch.chdir(tmp_path)
    shutil.copy(old, "old.dc")
    (tmp_path / "r.toml").write_text('bits = 2\nfinetune_lr = 0.1\n[[layer]]\npattern = "a"\nprune = 0.5\n')
    done = CliRunner().invoke(main, ["compress", str(old.parent / "x.pt"), *options])
    assert done.exit_code in (1, 2)
    assert line in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_command_keeps_what_is_pruned_in_the_base(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    state = LeNet300100().state_dict()
    torch.save(state, "old.pt")
    torch.save({name: value * 1.1 for name, value in state.items()}, "new.pt")
    common = ["--network", "lenet-300-100", "--no-retrain", "-q"]
    for arguments in (
        ["old.pt", "-o", "old.dc", "--prune", "0.9", "--bits", "2"],
        ["new.pt", "-o", "new.dc", "--base", "old.dc"],
    ):
        done = CliRunner().invoke(main, ["compress", *arguments, *common])
        assert done.exit_code == 0, done.output
    before, after = values_of("old.dc"), values_of("new.dc")
    for name, value in before.items():
        assert torch.equal(value == 0, after[name] == 0)
        assert set(after[name].unique().tolist()) <= set(value.unique().tolist())
