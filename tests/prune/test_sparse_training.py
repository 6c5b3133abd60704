"""Sparse training and regrowth from the command line, and through the whole pipeline."""

from __future__ import annotations

import pytest
import torch
from commands import fail, from_json, succeed

from deepcompress import load_state_dict
from deepcompress.checkpoint import load_checkpoint
from deepcompress.compression.pipeline import compress
from deepcompress.recipe import Recipe

METHODS = ["set", "deepr", "dsr"]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def arguments(npz, network_file):
    return [f"{network_file}:small", "--data", npz, "--batch-size", "32", "-q"]


def pruned_of(state):
    return {name: value == 0 for name, value in state.items() if value.ndim > 1}


def test_a_sparse_checkpoint_says_so_and_compression_keeps_its_zeros(arguments, npz, network_file):
    found = from_json(
        "train", *arguments, "--prune", "0.7", "--criterion", "magnitude", "--epochs", "3", "--lr", "0.05", "-o", "m.pt"
    )
    assert (found["criterion"], found["regrow"], found["penalty"]) == ("magnitude", "none", "none")
    read = load_checkpoint("m.pt")
    zeros = pruned_of(read.state)
    total = sum(mask.numel() for mask in zeros.values())
    assert sum(int(mask.sum()) for mask in zeros.values()) == round(0.7 * total)
    assert read.facts["sparsity"] == found["sparsity"] == pytest.approx(round(0.7 * total) / total)
    assert (read.facts["criterion"], read.facts["regrow"]) == ("magnitude", "none")
    for schedule in ("cubic", "one-shot"):
        succeed(
            "compress", "m.pt", "--network", f"{network_file}:small", "--data", npz, "--prune", "0.7", "--epochs", "3",
            "--schedule", schedule, "--finetune-epochs", "1", "-q", "-o", "m.dc",
        )  # fmt: skip
        kept = load_state_dict("m.dc")
        assert all((kept[name][mask] == 0).all() for name, mask in zeros.items())


@pytest.mark.parametrize("method", METHODS)
def test_dynamic_sparse_training(arguments, method):
    deepr = ["--deepr-alpha", "0.01", "--deepr-temperature", "1e-6"]
    own = deepr if method == "deepr" else ["--regrow-every", "4", "--regrow-fraction", "0.2"]
    found = from_json(
        "train", *arguments, "--prune", "0.6", "--regrow", method, *own, "--epochs", "2", "-o", "m.pt",
    )  # fmt: skip
    assert (found["criterion"], found["regrow"]) == ("erdos-renyi", method)
    assert found["sparsity"] == pytest.approx(0.6, abs=0.001)


def test_layers_and_penalties(arguments):
    found = from_json(
        "train", *arguments, "--prune", "0.5", "--layer", "0:prune=0", "--criterion", "magnitude", "--epochs", "1",
        "--penalty", "hyperbolic", "--penalty-weight", "0.001", "-o", "m.pt",
    )  # fmt: skip
    assert found["penalty"] == "hyperbolic"
    zeros = pruned_of(load_checkpoint("m.pt").state)
    assert not zeros["0.weight"].any()
    dense = from_json("train", *arguments, "--penalty", "l1", "--epochs", "1", "-o", "d.pt")
    assert (dense["sparsity"], dense["criterion"], dense["lr"], found["lr"]) == (0.0, "none", 0.02, 0.1)
    assert "sparsity" not in from_json("train", *arguments, "--epochs", "1", "-o", "p.pt")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--criterion", "magnitude"], "--criterion is for sparse training: also give --prune"),
        (["--regrow", "set"], "--regrow is for sparse training"),
        (["--penalty-weight", "0.1"], "--penalty-weight needs a --penalty"),
        (["--prune", "0.5", "--regrow", "surgery"], "regrow 'surgery' needs a network to cut again and again"),
        (["--prune", "0.5", "--layer", "0:bits=3"], "train only prunes"),
        (["--prune", "0.5", "--layer", "nobody:prune=0.3"], "matches no layer"),
        (["--prune", "0.5", "--criterion", "nonsense"], "criterion is 'nonsense'"),
        (["--prune", "0.99999999"], "which removes all"),
        (["--prune", "0.99999999", "--regrow", "set"], "prune is 0.99999999"),
    ],
)
def test_wrong_usage_is_one_line(arguments, options, said):
    assert said in fail("train", *arguments, *options, "--epochs", "1", code=2)


@pytest.mark.parametrize("method", METHODS)
def test_compression_with_regrowth_ends_at_the_number_asked_for(dense, flat_train, flat_test, method, tmp_path):
    own = {"deepr_alpha": 0.1} if method == "deepr" else {"regrow_every": 5, "regrow_fraction": 0.1}
    recipe = Recipe(prune=0.8, regrow=method, epochs=4, iterations=1, bits=4, finetune_epochs=1, **own)
    result = compress(dense, flat_train, flat_test, recipe, tmp_path / "m.dc")
    sizes = {name: weight.numel() for name, weight in dense.named_parameters() if weight.ndim > 1}
    assert sum(round(result.kept[name] * size) for name, size in sizes.items()) == sum(sizes.values()) - round(
        0.8 * sum(sizes.values())
    )
    assert result.recipe["regrow"] == method


def test_regrowth_without_training_is_refused(arguments, npz, network_file):
    succeed("train", *arguments, "--epochs", "1", "-o", "m.pt")
    line = fail("compress", "m.pt", "--regrow", "set", "--no-retrain", code=2)
    assert "regrow 'set' happens while training" in line


def test_a_network_that_came_pruned_stays_so(dense, flat_train, tmp_path):
    """Zeros stay zero through a schedule that begins far below their number."""
    with torch.no_grad():
        dense.fc1.weight[:, ::2] = 0
    gone = dense.fc1.weight == 0
    compress(dense, flat_train, None, Recipe(prune=0.3, epochs=3, bits="none"), tmp_path / "m.dc")
    assert (load_state_dict(tmp_path / "m.dc")["fc1.weight"][gone] == 0).all()
