"""Masks and scores as files: the same ones come back, and what does not fit is refused in one line."""

from __future__ import annotations

import pytest
import torch
from samples import Mlp
from test_guard import weights_of

from deepcompress.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from deepcompress.compression.pipeline import compress
from deepcompress.container.breakdown import inspect
from deepcompress.errors import CheckpointError, PruneError, RecipeError
from deepcompress.prune.maskfile import fitted, load_masks, load_scores, save_masks, save_scores
from deepcompress.prune.masks import Masks
from deepcompress.reading.loader import load_state_dict
from deepcompress.recipe import Recipe


@pytest.fixture
def masks():
    generator = torch.Generator().manual_seed(0)
    return Masks({name: torch.rand(weight.shape, generator=generator) < 0.4
                  for name, weight in weights_of(Mlp()).items()})  # fmt: skip


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_a_round_trip(masks, tmp_path, ending):
    path = tmp_path / f"m.{ending}"
    save_masks(path, masks, {"network": "mine", "file": "m.dc"})
    found = load_masks(path)
    assert list(found.keep) == list(masks.keep) or ending == "safetensors"  # which sorts
    assert all(torch.equal(mask, masks.keep[name]) for name, mask in found.keep.items())
    read = load_checkpoint(path)
    assert (read.network, read.facts) == ("mine", {"holds": "masks", "file": "m.dc"})
    scores = {name: torch.randn(mask.shape) for name, mask in masks.keep.items()}
    save_scores(path, scores, {"criterion": "magnitude"})
    assert all(torch.equal(value, scores[name]) for name, value in load_scores(path).items())
    assert load_checkpoint(path).facts == {"holds": "scores", "criterion": "magnitude"}


def test_the_same_masks_are_the_same_bytes(masks, tmp_path):
    for name in ("a", "b"):
        save_masks(tmp_path / f"{name}.safetensors", masks)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_files_of_something_else(masks, tmp_path):
    save_scores(tmp_path / "s.safetensors", {"a": torch.ones(3, 2)})
    with pytest.raises(CheckpointError, match=r"s.safetensors: tensor a is torch.float32: this is not a file of masks"):
        load_masks(tmp_path / "s.safetensors")
    save_masks(tmp_path / "m.safetensors", masks)
    with pytest.raises(CheckpointError, match=r"m.safetensors: .* torch.bool: this is not a file of scores"):
        load_scores(tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match="no such file"):
        load_masks(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="unknown ending"):
        save_masks(tmp_path / "m.txt", masks)


def test_masks_of_other_weights_are_refused(masks):
    weights = weights_of(Mlp())
    keep = dict(masks.keep)
    for name, wrong, message in (
        ("fc2.weight", None, "there is no mask for fc2.weight; there are masks for fc1.weight, fc3.weight"),
        ("fc4.weight", torch.ones(2, 2, dtype=torch.bool), "there is a mask for fc4.weight, which is not pruned here"),
        ("fc2.weight", keep["fc2.weight"].T, r"of fc2.weight has shape \(32, 16\), and its weights \(16, 32\)"),
    ):
        changed = {**keep, name: wrong} if wrong is not None else {k: v for k, v in keep.items() if k != name}
        with pytest.raises(CheckpointError, match=message):
            fitted(Masks(changed), weights)
    assert list(fitted(Masks(dict(reversed(keep.items()))), weights).keep) == list(weights)


def test_a_prefix_that_is_part_of_the_names(tmp_path):
    weights = {"module.a": torch.ones(2, 2), "module.b": torch.ones(2, 2)}
    masks = Masks({name: weight > 0 for name, weight in weights.items()})
    save_masks(tmp_path / "m.safetensors", masks)
    assert fitted(load_masks(tmp_path / "m.safetensors"), weights).keep.keys() == weights.keys()


def test_exactly_these_are_pruned(dense, flat_train, flat_test, masks, tmp_path):
    recipe = Recipe(epochs=2, finetune_epochs=1, lr=0.01, prune=0.1)
    result = compress(dense, flat_train, flat_test, recipe, tmp_path / "m.dc", masks=masks)
    state = load_state_dict(tmp_path / "m.dc")
    assert all(torch.equal(state[name] != 0, mask) for name, mask in masks.keep.items())
    assert result.kept == {name: masks.density(name) for name in masks.keep}
    before = weights_of(dense)["fc1.weight"]
    compress(dense, None, None, Recipe(retrain=False, bits="none"), tmp_path / "n.dc", masks=masks)
    assert torch.equal(load_state_dict(tmp_path / "n.dc")["fc1.weight"], before * masks.keep["fc1.weight"])
    assert inspect(tmp_path / "n.dc").nonzeros == sum(map(masks.kept, masks.keep))


def test_what_masks_do_not_go_with(dense, flat_train, flat_test, masks, tmp_path):
    path = tmp_path / "m.dc"
    for settings in ({"target_size": 900}, {"max_drop": 1.0}, {"distribution": "std", "quality": 1.0}):
        with pytest.raises(RecipeError, match="give one of them"):
            compress(dense, flat_train, flat_test, Recipe(**settings), path, masks=masks)
    with pytest.raises(RecipeError, match="regrow 'surgery' would change it"):
        compress(dense, flat_train, flat_test, Recipe(regrow="surgery"), path, masks=masks)
    empty = Masks({**masks.keep, "fc2.weight": torch.zeros(16, 32, dtype=torch.bool)})
    with pytest.raises(PruneError, match=r"fc2.weight would lose its last weight"):
        compress(dense, flat_train, flat_test, Recipe(), path, masks=empty)
    with pytest.raises(CheckpointError, match="no mask for"):
        compress(dense, flat_train, flat_test, Recipe(), path, masks=Masks({"fc1.weight": masks.keep["fc1.weight"]}))
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_weights_is_no_file_of_masks(tmp_path):
    save_checkpoint(tmp_path / "w.safetensors", Checkpoint(Mlp().state_dict()))
    with pytest.raises(CheckpointError, match="this is not a file of masks"):
        load_masks(tmp_path / "w.safetensors")
