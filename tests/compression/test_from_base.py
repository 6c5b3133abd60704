"""A file that is a small update of another: what stays, how small the update is, and what it is good for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from samples import SIDE, batches, conv_net

import deepcompress as dc
from deepcompress.cli import main
from deepcompress.compression.from_base import frozen, near
from deepcompress.compression.from_file import settings_of
from deepcompress.errors import RecipeError
from deepcompress.networks import LeNet300100
from deepcompress.prune.masks import Masks
from deepcompress.quantize.sharing import Codebook, Member
from deepcompress.quantize.sticky import StickyHooks, hysteresis
from deepcompress.recipe import Recipe
from deepcompress.training.evaluation import evaluate
from deepcompress.training.loop import fit
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
    return Recipe.from_dict(settings_of(old) | {"finetune_epochs": 8, "finetune_lr": 0.05} | changes)


def update_of(old, new, folder):
    return dc.diff(old, new, folder / "u.dcp").file_bytes


def values_of(path):
    return {name: value for name, value in dc.load_state_dict(path).items() if value.ndim > 1}


def test_masks_and_shared_values_stay(files, second, tmp_path):
    model, old = files
    new = tmp_path / "new.dc"
    dc.compress(model, second, None, settings(old), new, base=old)
    for name, before in values_of(old).items():
        after = values_of(new)[name]
        assert torch.equal(before == 0, after == 0)
        assert set(after.unique().tolist()) <= set(before.unique().tolist())
    patched = dc.patch(old, tmp_path / "u.dcp", tmp_path / "p.dc") if update_of(old, new, tmp_path) else None
    assert patched is not None
    assert (tmp_path / "p.dc").read_bytes() == new.read_bytes()


def test_the_new_file_is_good_at_the_new_data_and_its_update_small(files, second, tmp_path):
    model, old = files
    based, whole = tmp_path / "based.dc", tmp_path / "whole.dc"
    result = dc.compress(model, second, second, settings(old), based, base=old)
    dc.compress(model, second, second, Recipe(prune=0.7, epochs=1, finetune_epochs=1, iterations=1, bits=4), whole)
    network = conv_net(batch_norm=any("running" in name for name in model.state_dict()))
    before = evaluate(dc.load(old, into=network), second).accuracy
    assert result.accuracy_after > before + 10
    assert update_of(old, based, tmp_path) < update_of(old, whole, tmp_path)


def test_the_update_has_no_more_bytes_than_asked(files, second, tmp_path):
    model, old = files
    sizes = {}
    for most in (450, 300):
        new = tmp_path / f"{most}.dc"
        dc.compress(model, second, None, settings(old), new, base=old, update_size=most)
        sizes[most] = update_of(old, new, tmp_path)
        assert sizes[most] <= most
    assert sizes[300] < sizes[450]
    with pytest.raises(RecipeError, match=r"update_size is 20 bytes, but the update has \d+ without a weight"):
        dc.compress(model, second, None, settings(old), tmp_path / "x.dc", base=old, update_size=20)
    assert not (tmp_path / "x.dc").exists()


def test_without_data_weights_move_towards_those_of_the_network(files, tmp_path):
    model, old = files
    new = tmp_path / "new.dc"
    recipe = Recipe.from_dict(settings_of(old) | {"retrain": False, "codebook_dtype": "float16"})
    dc.compress(model, None, None, recipe, new, base=old)
    given = model.state_dict()
    nearer = 0.0
    for name, before in values_of(old).items():
        after, kept = values_of(new)[name], before != 0
        nearer += float(((given[name] - before)[kept] ** 2).sum() - ((given[name] - after)[kept] ** 2).sum())
        assert torch.equal(after != 0, kept)
        assert set(after.unique().tolist()) <= set(before.unique().tolist())
    assert nearer > 0
    update_of(old, new, tmp_path)
    assert all(change.back == change.fell == 0 for change in describe(tmp_path / "u.dcp").changes if change.codebook)


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"base": None, "update_size": 100}, "name that file with base"),
        ({"start": True}, "leave out masks, start"),
        ({"update_size": 0}, "at least 1 byte"),
        ({"recipe": {"target_size": 500}}, "leave out masks, start, low_rank, target_size"),
    ],
)
def test_what_does_not_go_with_a_base(files, second, tmp_path, more, line):
    model, old = files
    more = {"base": old} | more | ({"start": old} if "start" in more else {})
    recipe = Recipe(**more.pop("recipe", {})) if "recipe" in more else settings(old)
    with pytest.raises(RecipeError, match=line):
        dc.compress(model, second, None, recipe, tmp_path / "x.dc", **more)


def test_changes_are_those_that_gain_most():
    weights = {"w": torch.tensor([1.0, 1.0, 2.0, 2.0, 0.0])}
    member = Member("w", torch.arange(4), torch.tensor([0, 0, 1, 1]))
    book = Codebook(2, torch.nn.Parameter(torch.tensor([1.0, 2.0])), (member,))
    moved = torch.tensor([1.95, 1.625, 1.125, 1.375, 0.0])
    for most, wanted in [(0, [1, 1, 2, 2]), (1, [2, 1, 2, 2]), (2, [2, 1, 1, 2]), (9, [2, 2, 1, 1])]:
        weights["w"].copy_(moved)
        hooks = StickyHooks([book], weights, Masks({"w": moved != 0}), most)
        assert weights["w"].tolist() == [*wanted, 0]
        assert hooks.changed == sum(now != then for now, then in zip(wanted, [1, 1, 2, 2], strict=True))
    assert hysteresis(book) == 0.25
    weights["w"].copy_(moved)
    StickyHooks([book], weights, Masks({"w": moved != 0}))  # gains of 0.9, 0.25, 0.75, 0.25
    assert weights["w"].tolist() == [2, 1, 1, 2, 0]


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
        (["--base", "old.dc", "--recipe", "r.toml"], "leave out bits in r.toml, layer in r.toml, or --base"),
    ],
)
def test_wrong_usage_of_the_command_is_one_line(files, tmp_path, monkeypatch, options, line):
    _, old = files
    monkeypatch.chdir(tmp_path)
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
