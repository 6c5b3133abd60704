"""A budget in a metric of the user's: how coarse it lets weights be rounded by samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from commands import fail, from_json
from listener import Listener
from torch import nn

import deepcompress as dc
from deepcompress.calibration.trial import CLOSE, COARSEST, FINEST, TRIES, coarsest
from deepcompress.errors import RecipeError
from deepcompress.recipe import Recipe

CODE = """
import torch
from torch import nn

def make():
    return nn.Sequential(nn.Linear(8, 24), nn.Tanh(), nn.Linear(24, 4))

def inputs():
    return torch.randn(64, 8, generator=torch.Generator().manual_seed(5))

DENSE = torch.load("net.pt")

@torch.no_grad()
def far(network):
    dense = make()
    dense.load_state_dict(DENSE)
    x = torch.randn(200, 8, generator=torch.Generator().manual_seed(6))
    return float((network(x) - dense(x)).square().mean()) + 1

far.higher_is_better = False

def raises(network):
    raise ValueError("no luck")

def nothing(network):
    return float("nan")

def pair(output, target):
    return 1.0
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("budget")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 24), nn.Tanh(), nn.Linear(24, 4))
    torch.save(network.state_dict(), folder / "net.pt")
    (folder / "own.py").write_text(CODE)
    return folder


def compress(folder, *more):
    return ("compress", "net.pt", "--network", "own.py:make", "--calibrate", "own.py:inputs", *more)


@pytest.mark.parametrize(("allowed", "start"), [(0.01, 0.1), (1e-6, 3.0), (5.0, 0.02), (0.02, FINEST)])
def test_the_coarsest_step_is_found_in_a_few_tries(allowed, start):
    tried = []

    def loss_of(step):
        tried.append(step)
        return step**2.6

    found = coarsest(allowed, loss_of, start)
    assert len(tried) <= TRIES
    assert CLOSE * allowed <= found**2.6 <= allowed


def test_where_nothing_is_allowed_the_least_loss_is_taken():
    assert coarsest(1.0, lambda step: math.inf if step > 1 else 2 + step, 4.0) < 1
    assert coarsest(1.0, lambda step: 0.0, 0.1) == COARSEST


def test_points_of_a_metric_of_the_network_are_kept(folder, monkeypatch):
    monkeypatch.chdir(folder)
    sizes = []
    for most in (0.05, 1.0):
        found = from_json(*compress(folder, "--metric", "own.py:far", "--max-drop", most, "-o", f"{most}.dc"))
        assert 100 * (found["stages"][-1]["metric"] - 1) <= most
        assert 100 * (found["stages"][-1]["metric"] - 1) >= 0.3 * most
        assert (found["metric"], found["stages"][0]["metric"]) == ("far", 1.0)
        sizes.append(found["file_bytes"])
    assert sizes[1] < sizes[0]


def test_metrics_that_tell_nothing_are_one_line(folder, monkeypatch):
    monkeypatch.chdir(folder)
    for name, words in {
        "raises": "the metric fails with ValueError: no luck (own.py:",
        "nothing": "the metric nothing is nan for the network as it is",
        "pair": "it is called with the network, and must return a number",
    }.items():
        line = fail(*compress(folder, "--metric", f"own.py:{name}", "--max-drop", "1", "-o", "no.dc"))
        assert words in line
    assert not (folder / "no.dc").exists()


def test_a_network_without_a_metric_is_too_bad(folder):
    network = torch.nn.Linear(4, 2)

    def metric(found):
        return 1.0 if torch.equal(found.weight, network.weight) else math.nan

    recipe, watch = Recipe(retrain=False, max_drop=1.0), Listener()
    dc.compress(network, None, None, recipe, folder / "a.dc", calibrate=[torch.randn(32, 4)], metric=metric,
                watch=watch)  # fmt: skip
    assert any(line.startswith("warning: inf points are lost") for line in watch.lines)
    with pytest.raises(RecipeError, match="max_drop needs validation data"):
        dc.compress(network, None, None, recipe, folder / "a.dc", calibrate=[torch.randn(32, 4)])


FUNCTIONS = """
def raises(output, target):
    raise KeyError("gone")


def nothing(output, target):
    return float("nan")


def late(output, target):  # of the last batch only
    return float("inf") if len(output) < 20 else 1.0


def text(output, target):
    return "x"
"""


@pytest.mark.parametrize("more", [["--no-retrain"], [], ["--prune", "0.5", "--max-drop", "1"], ["--max-drop", "1"]])
def test_a_metric_of_outputs_that_tells_nothing_is_one_line(folder, monkeypatch, more):
    monkeypatch.chdir(folder)
    (folder / "per_batch.py").write_text(FUNCTIONS)
    x = np.random.default_rng(0).normal(size=(1100, 8)).astype(np.float32)
    np.savez(folder / "data.npz", x_train=x, y_train=x[:, :4], x_test=x[:1010], y_test=x[:1010, :4])
    for name, words in {
        "raises": "the metric fails with KeyError: 'gone' (per_batch.py:3)",
        "nothing": "the metric nothing is nan for the network as it is",
        "text": "the metric gives a str; it must give one number",
        "late": "the metric late is inf for the network as it is",
    }.items():
        if name == "late" and more == ["--max-drop", "1"]:
            continue  # a search looks at the validation data alone, which is one batch
        command = ["compress", "net.pt", "--network", "own.py:make", "--data", "data.npz", "--task", "regression", "-q"]
        line = fail(*command, "--metric", f"per_batch.py:{name}", "-o", "no.dc", *more)
        assert words in line
        assert not (folder / "no.dc").exists()
