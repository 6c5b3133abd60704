"""Masks and scores from the command line: saved, drawn, and pruned by again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from commands import QUICK, fail, from_json, succeed, without
from samples import network_and_data

from deepcompress.checkpoint import load_checkpoint
from deepcompress.prune.maskfile import load_masks, load_scores, save_masks, save_scores
from deepcompress.prune.masks import Masks
from deepcompress.reading.loader import load_state_dict
from deepcompress.report.masks import block_density

PNG = b"\x89PNG\r\n\x1a\n"
WEIGHTS = {"0.weight": (6, 1, 3, 3), "4.weight": (20, 54), "6.weight": (4, 20)}


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DEEPCOMPRESS_DATA", raising=False)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A trained network of a user's own with its data, and what a compression of it saved."""
    folder = tmp_path_factory.mktemp("work")
    network, data = network_and_data(folder)
    options = ["--network", network, "--data", data]
    succeed("train", network, "--data", data, "-o", folder / "dense.pt", "--epochs", "3", "--lr", "0.1")
    saved = [folder / "masks.safetensors", folder / "scores.safetensors"]
    found = from_json("compress", folder / "dense.pt", *options, "-o", folder / "m.dc", "--prune", "0.6", *QUICK,
                      "--save-masks", saved[0], "--save-scores", saved[1])  # fmt: skip
    return {"dense": folder / "dense.pt", "options": options, "file": folder / "m.dc", "masks": saved[0],
            "scores": saved[1], "found": found}  # fmt: skip


def test_what_is_saved(work):
    assert work["found"]["saved"] == [str(work["masks"]), str(work["scores"])]
    masks, scores, state = load_masks(work["masks"]), load_scores(work["scores"]), load_state_dict(work["file"])
    assert {name: tuple(mask.shape) for name, mask in masks.keep.items()} == WEIGHTS
    for name, mask in masks.keep.items():
        assert torch.equal(mask, state[name] != 0)
        assert masks.density(name) == work["found"]["kept"][name]
    facts = load_checkpoint(work["scores"]).facts
    assert (facts["holds"], facts["criterion"], facts["seed"]) == ("scores", "magnitude", "0")
    dense = load_checkpoint(work["dense"]).state
    assert all(torch.equal(scores[name], dense[name].abs()) for name in WEIGHTS)  # one cut, at the very start


def test_the_same_masks_again(work):
    """Pruned by the file, with the same seed: the same network, byte for byte."""
    trained = [*work["options"], *without(QUICK, "--iterations")]
    succeed("compress", work["dense"], *trained, "-o", "again.dc", "--masks", work["masks"])
    assert Path("again.dc").read_bytes() == work["file"].read_bytes()


def test_without_data(work):
    for options in (["--masks", work["masks"]], ["--save-scores", "s.pt", "--prune", "0.5"]):
        succeed("compress", work["dense"], *work["options"][:2], "--no-retrain", "-o", "n.dc", *options)
    dense = load_checkpoint(work["dense"]).state
    assert all(torch.equal(value, dense[name].abs()) for name, value in load_scores("s.pt").items())
    result = from_json(
        "compress", work["dense"], "--no-retrain", "-o", "n.dc", "--prune", "0.5", "--save-masks", "m.pt"
    )
    assert {name: load_masks("m.pt").density(name) for name in WEIGHTS} == result["kept"]  # with no network at all


def test_what_is_refused(work):
    command = ["compress", work["dense"], *work["options"], "-o", "n.dc"]
    for flag, value in (
        ("--prune", "0.5"),
        ("--max-drop", "1"),
        ("--criterion", "magnitude"),
        ("--schedule", "linear"),
    ):
        assert f"so does {flag}" in fail(*command, "--masks", work["masks"], flag, value, code=2)
    assert "--save-scores needs a criterion" in fail(*command, "--target-size", "2KB", "--save-scores", "s.pt", code=2)
    assert "unknown ending" in fail(*command, "--save-masks", "m.png")
    assert "folder none does not exist" in fail(*command, "--save-scores", "none/s.pt")
    assert "this is not a file of masks" in fail(*command, "--masks", work["scores"])
    assert "no such file" in fail(*command, "--masks", "none.safetensors")
    masks = load_masks(work["masks"])
    save_masks("part.safetensors", Masks({"4.weight": masks.keep["4.weight"]}))
    assert "there is no mask for 0.weight" in fail(*command, "-q", "--masks", "part.safetensors")
    save_masks("turned.safetensors", Masks({**masks.keep, "4.weight": masks.keep["4.weight"].T}))
    assert "4.weight has shape (54, 20), and its weights (20, 54)" in fail(
        *command, "-q", "--masks", "turned.safetensors"
    )
    assert not Path("n.dc").exists()


def test_pictures(work):
    assert succeed("plot", work["masks"]).stdout == "masks-plots/masks.png\n"
    found = from_json("plot", work["scores"], "-o", "one", "--masks", work["masks"])
    assert found == {"file": str(work["scores"]), "pictures": ["one/scores.png"]}
    succeed("plot", work["scores"], "-o", "two", "--masks", work["masks"], "--layer", "4", "--layer", "6")
    succeed("plot", work["scores"], "-o", "three")
    pictures = [Path(name).read_bytes() for name in ("masks-plots/masks.png", "one/scores.png", "two/scores.png",
                                                     "three/scores.png")]  # fmt: skip
    assert all(picture.startswith(PNG) for picture in pictures)
    assert len(set(pictures)) == 4
    succeed("plot", work["masks"], "-o", "again")
    assert Path("again/masks.png").read_bytes() == pictures[0]


def test_what_cannot_be_drawn(work):
    assert "--layer 'fc*' matches no layer; there are 0.weight" in fail("plot", work["masks"], "--layer", "fc*")
    assert "is for a file of scores" in fail("plot", work["file"], "--masks", work["masks"], code=2)
    assert "is for a file of scores" in fail("plot", work["masks"], "--masks", work["masks"], code=2)
    save_masks("part.safetensors", Masks({"4.weight": torch.ones(20, 54, dtype=torch.bool)}))
    assert "there is no mask for 0.weight" in fail("plot", work["scores"], "--masks", "part.safetensors")
    assert "does not start with" in fail("plot", work["dense"])


def test_odd_masks_are_drawn(tmp_path):
    """All pruned, all kept, one weight, many dimensions, and a layer much larger than its picture."""
    keep = {
        "none": torch.zeros(5, 3, dtype=torch.bool), "all": torch.ones(1, 700, dtype=torch.bool),
        "one": torch.ones(1, 1, dtype=torch.bool), "many": torch.rand(4, 3, 3, 3, 3) < 0.5,
        "$x_1$": torch.rand(900, 1100) < 0.01,
    }  # fmt: skip
    save_masks("m.safetensors", Masks(keep))
    succeed("plot", "m.safetensors")

    save_scores(
        "s.safetensors", {"zero": torch.zeros(5, 3), "same": torch.ones(4, 4), "tiny": torch.full((2, 2), 2e-38)}
    )
    succeed("plot", "s.safetensors")
    assert Path("s-plots/scores.png").read_bytes().startswith(PNG)


def test_density_of_blocks_by_hand():
    matrix = np.array([[1, 1, 0, 0, 1], [1, 0, 0, 0, 0], [0, 0, 1, 1, 1]], dtype=bool)
    assert np.array_equal(block_density(matrix, (5, 5)), matrix)
    assert block_density(matrix, (2, 3)).tolist() == [[0.75, 0.0, 0.5], [0.0, 1.0, 1.0]]
    assert block_density(matrix, (1, 1)).tolist() == [[7 / 15]]
