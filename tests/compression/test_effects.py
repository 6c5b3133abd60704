"""A setting that is given is read, or it is refused: whatever is made of a network, and however."""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch
from samples import Mlp

from deepcompress.compression.from_file import settings_of
from deepcompress.compression.pipeline import compress
from deepcompress.compression.tensors_only import compress_state
from deepcompress.errors import RecipeError
from deepcompress.recipe import DEFAULTS, Recipe

#: A value of each setting that is not its default, and makes another file where it is read.
OTHER = {
    "prune": 0.8, "bits": 2, "conv_bits": 4, "levels": 6, "target_size": 900, "max_drop": 1.0, "low_rank": 0.7,
    "method": "lc", "lc_mu": 0.5, "lc_growth": 2.0, "kl_weight": 0.1, "sws_tau": 0.1,
    "scope": "global", "distribution": "uniform", "episodes": 9, "quality": 1.0, "criterion": "taylor1",
    "score_samples": 33,
    "schedule": "linear", "iterations": 3, "prune_step": 0.5, "gap": 3.0, "reload": True, "rewind": "random",
    "regrow": "surgery", "regrow_fraction": 0.5, "regrow_every": 1, "deepr_alpha": 0.1, "deepr_temperature": 0.1,
    "quantizer": "uniform", "step": 0.3, "init": "density", "weighting": "fisher", "rate": 0.3,
    "codebook_dtype": "float16", "small_bits": 3, "finetune_epochs": 2, "finetune_lr": 0.1, "coder": "ans",
    "index_bits": 2, "batch_norm": "fold", "small_dtype": "float16",
    "sort_neurons": True, "retrain": False, "epochs": 4, "early_stop": False,
    "optimizer": "adam", "lr": 0.2, "lr_schedule": "step", "warmup": 0.5, "batch_size": 9, "penalty": "l1",
    "penalty_weight": 0.05, "label_smoothing": 0.3, "distill": 0.7, "temperature": 9.0, "precision": "bfloat16",
    "shift": 2, "flip": True, "seed": 5, "clip_norm": 0.5, "freeze_bn": True,
}  # fmt: skip

LOOP = {"optimizer", "lr", "warmup", "penalty", "penalty_weight", "lr_schedule", "precision", "label_smoothing"} | {
    "distill", "temperature", "batch_size", "shift", "flip", "epochs", "finetune_epochs", "finetune_lr", "clip_norm",
    "freeze_bn",
}  # fmt: skip
WHICH = {"scope", "distribution", "criterion", "score_samples", "schedule", "iterations", "reload", "rewind", "regrow"}
SHARING = {"quantizer", "init", "weighting", "rate", "codebook_dtype"}
BESIDE = {"prune_step", "gap", "regrow_fraction", "regrow_every", "deepr_alpha", "deepr_temperature"} | {
    "score_samples", "temperature", "step", "quality", "episodes", "lc_mu", "lc_growth", "kl_weight", "sws_tau",
    "sort_neurons",
}  # fmt: skip

#: Settings of a run, and which others are refused beside them: two ways to say one thing, and what is not read.
RUNS = {
    "fraction": ({"prune": 0.6, "bits": 3}, BESIDE | {"levels", "target_size"}),
    "quality": ({"quality": 1.0, "distribution": "std"}, BESIDE - {"quality"} | {"prune", "target_size"}),
    "size": (
        {"target_size": 1000, "bits": 3},
        BESIDE - {"sort_neurons"} | WHICH - {"schedule", "regrow"} | {"prune", "levels", "max_drop", "method"},
    ),
    "drop": (
        {"prune": 0.6, "bits": 3, "max_drop": 1.0}, BESIDE | {"levels", "target_size", "rewind", "regrow", "method"},
    ),
    "circular": (
        {"prune": 0.6, "schedule": "circular", "max_drop": 1.0},
        BESIDE - {"prune_step"} | {"target_size", "scope", "distribution", "iterations", "reload", "rewind", "method"},
    ),
    "no epochs": (
        {"prune": 0.6, "bits": 3, "epochs": 0, "finetune_epochs": 0},
        BESIDE | LOOP - {"epochs", "finetune_epochs"} | {"levels", "target_size", "schedule", "iterations", "reload",
                                                         "rewind", "regrow", "method"},
    ),
    "nothing pruned": ({"prune": 0.0, "bits": 3}, BESIDE | WHICH - {"rewind"} | {"levels", "target_size", "max_drop"}),
    "nothing shared": (
        {"prune": 0.6, "bits": "none"},
        BESIDE | SHARING | {"levels", "target_size", "finetune_epochs", "finetune_lr"},
    ),
    "untrained": (
        {"prune": 0.6, "bits": 3, "retrain": False},
        BESIDE | LOOP | {"levels", "target_size", "schedule", "iterations", "reload", "rewind", "regrow", "weighting",
                         "method"},
    ),
    "rows": (
        {"retrain": False},
        BESIDE - {"step"} | LOOP | WHICH | {"weighting", "coder", "index_bits", "batch_norm", "method"},
    ),
    "rows to a size": (
        {"retrain": False, "target_size": 900},
        BESIDE | LOOP | WHICH | {"prune", "max_drop", "weighting", "coder", "index_bits", "batch_norm", "method"},
    ),
    "lc": (
        {"method": "lc", "prune": 0.6, "bits": 3},
        BESIDE - {"lc_mu", "lc_growth"} | WHICH - {"scope"} | {"levels", "target_size", "max_drop", "weighting", "rate",
                                                               "penalty", "retrain"},
    ),
    "variational": (
        {"method": "variational", "optimizer": "adam", "prune": 0.6, "bits": 3},
        BESIDE - {"kl_weight"} | WHICH - {"scope"} | {"levels", "target_size", "max_drop", "penalty", "penalty_weight",
                                                      "retrain"},
    ),
    "sws": (
        {"method": "sws", "optimizer": "adam", "prune": 0.6, "bits": 3},
        BESIDE - {"sws_tau"} | WHICH - {"scope"} | {"levels", "target_size", "max_drop", "penalty", "penalty_weight",
                                                    "retrain", "quantizer", "init", "conv_bits", "weighting", "rate"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_what_is_refused_beside_the_settings_of_a_run(name):
    base, expected = RUNS[name]
    assert Recipe(**base).given == base.keys()
    refused = set()
    for setting, value in OTHER.items():
        try:
            if setting not in base:
                Recipe(**base, **{setting: value})
        except RecipeError as error:
            assert setting in str(error), error
            refused.add(setting)
    assert refused == expected


def test_every_setting_is_among_them():
    assert OTHER.keys() == DEFAULTS.keys()
    assert not [name for name, value in OTHER.items() if value == DEFAULTS[name]]


# Without training each run takes some milliseconds: whatever is not refused makes another file --------------------


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(1)
    return Mlp(inputs=64).eval()


@pytest.fixture(scope="module")
def start(network, tmp_path_factory):
    """A file of it to go on from."""
    path = tmp_path_factory.mktemp("start") / "start.dc"
    compress_state(network.state_dict(), Recipe(prune=0.6, bits=3, retrain=False), path)
    return path


def with_network(network, recipe, path, **more):
    compress(network, None, None, recipe, path, **more)
    return path.read_bytes()


def of_tensors(network, recipe, path):
    compress_state(network.state_dict(), recipe, path)
    return path.read_bytes()


PLAIN = {"prune": 0.6, "bits": 3}
WAYS = {
    "network": (with_network, {**PLAIN, "retrain": False}),
    "tensors": (of_tensors, PLAIN),
    "rows": (of_tensors, {"retrain": False}),
    "rows to a size": (with_network, {"retrain": False, "target_size": 2500}),
}
#: What cannot make another file here: no random number is drawn, no convolution there is, nor batch norm; and to say
#: once more that nothing is retrained, or that nothing ends early.
NOTHING_TO_DO = {"seed", "conv_bits", "batch_norm", "retrain", "early_stop"}


def silent(make, base, network, path):
    """The settings that are neither refused nor make another file."""
    expected, found = make(network, Recipe(**base), path), set()
    for setting, value in OTHER.items():
        if setting in base:
            continue
        with suppress(RecipeError):
            recipe = Recipe(**base, **{setting: value})
            found |= {setting} if make(network, recipe, path) == expected else set()
    return found


@pytest.mark.parametrize("way", WAYS)
def test_what_is_given_is_read_or_refused(way, network, tmp_path):
    make, base = WAYS[way]
    assert silent(make, base, network, tmp_path / "m.dc") <= NOTHING_TO_DO


def test_calibrated(network, tmp_path):
    def make(network, recipe, path):
        return with_network(network, recipe, path, calibrate=[torch.randn(8, 64, generator=torch.Generator())])

    assert silent(make, {"retrain": False}, network, tmp_path / "m.dc") <= NOTHING_TO_DO


def test_on_from_a_file(network, start, tmp_path):
    base = settings_of(start)
    rules = Recipe.from_dict(base).layers

    def make(network, recipe, path):
        return with_network(network, recipe, path, start=start)

    settings = {**{name: value for name, value in base.items() if name != "layer"}, "layers": rules, "retrain": False}
    asked_in_rules = {"bits", "conv_bits", "levels"}
    assert silent(make, settings, network, tmp_path / "m.dc") <= NOTHING_TO_DO | asked_in_rules
