"""What stays of layers that pruning would cut off: the path whose least weight is worth most."""

from __future__ import annotations

import itertools

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from deepcompress.prune.lifelines import with_paths
from deepcompress.prune.masks import Masks
from deepcompress.prune.neurons import Connection, connections, remove_dead


def none_of(worth):
    return Masks({name: torch.zeros_like(value, dtype=torch.bool) for name, value in worth.items()})


@given(st.integers(0, 200))
def test_no_other_path_has_a_better_least_weight(seed):
    generator = torch.Generator().manual_seed(seed)
    worth = {name: torch.rand(3, 3, generator=generator) for name in "abc"}
    links = [Connection("a", "b", 1), Connection("b", "c", 1)]
    found = with_paths(none_of(worth), ["b"], worth, links)
    assert [found.kept(name) for name in "abc"] == [1, 1, 1]
    assert remove_dead(found, links)[1] == 0
    least = min(float(worth[name][mask]) for name, mask in found.keep.items())
    paths = itertools.product(range(3), repeat=4)  # from input i by neurons j and k to output o
    best = max(float(min(worth["a"][j, i], worth["b"][k, j], worth["c"][o, k])) for i, j, k, o in paths)
    assert least == best


def test_it_leads_through_convolutions_and_flatten():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv1d(2, 4, 5), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(4, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4)
    )
    links = connections(net)
    assert [(link.source, link.target, link.repeat) for link in links] == [
        ("0.weight", "3.weight", 1), ("3.weight", "6.weight", 4),
    ]  # fmt: skip
    worth = {f"{at}.weight": net[at].weight.detach().square() for at in (0, 3, 6)}
    found = with_paths(none_of(worth), ["0.weight"], worth, links)
    assert [found.kept(name) for name in worth] == [1, 1, 1]
    assert remove_dead(found, links)[1] == 0


@given(st.integers(0, 50))
def test_it_stays_in_its_channel_through_a_depthwise_convolution(seed):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a": (3, 2, 2, 2), "b": (3, 1, 2, 2), "c": (2, 3, 1, 1)}
    worth = {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}
    links = [Connection("a", "b", 1, depthwise=True), Connection("b", "c", 1)]
    found = with_paths(none_of(worth), ["b"], worth, links)
    assert [found.kept(name) for name in "abc"] == [1, 1, 1]
    assert remove_dead(found, links)[1] == 0
    least = min(float(worth[name][mask]) for name, mask in found.keep.items())
    best = max(float(min(worth["a"][i].max(), worth["b"][i].max(), worth["c"][:, i].max())) for i in range(3))
    assert least == best


def test_what_must_not_come_back_does_not():
    worth = {"a": torch.tensor([[5.0, -1.0], [-1.0, 2.0]]), "b": torch.tensor([[-1.0, 1.0]])}
    links = [Connection("a", "b", 1)]
    found = with_paths(none_of(worth), ["a"], worth, links)
    assert found.keep["a"].tolist() == [[False, False], [False, True]]
    assert found.keep["b"].tolist() == [[False, True]]
    worth["b"][0, 1] = -1
    assert with_paths(none_of(worth), ["a"], worth, links).sparsity == 1


def test_other_chains_are_left_alone():
    worth = {name: torch.ones(2, 2) for name in "abcd"}
    links = [Connection("a", "b", 1), Connection("c", "d", 1), Connection("d", "elsewhere", 1)]
    found = with_paths(none_of(worth), ["d"], worth, links)
    assert [found.kept(name) for name in "abcd"] == [0, 0, 1, 1]
