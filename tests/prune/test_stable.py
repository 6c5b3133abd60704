"""Units that are always on or off: bounds that are reached, merges that change nothing, and honest answers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from commands import fail, from_json, succeed
from torch import nn

import deepcompress as dc
from deepcompress import networks
from deepcompress.errors import CheckpointError, NetworkError, RecipeError
from deepcompress.prune import stable
from deepcompress.prune.programs import Layer, bounds_of, largest
from deepcompress.prune.stable import combinations, merge_stable


def chain(*sizes, seed=0):
    torch.manual_seed(seed)
    layers = [part for pair in itertools.pairwise(sizes) for part in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def filled(model, *tensors):
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), tensors, strict=True):
            parameter.copy_(torch.tensor(value))
    return model


def same(model, smaller, low, high, inputs):
    x = low + (high - low) * torch.rand(500, inputs, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(smaller(x), model(x), rtol=1e-5, atol=1e-5)


# Bounds ----------------------------------------------------------------------------------------------------------


def test_intervals_by_hand():
    """x in [0, 1]: h = relu(x - 2) is off, relu(x + 1) is in [1, 2], and twice that minus 5 in [-3, -1]."""
    layers = [
        Layer(np.array([[1.0], [1.0]]), np.array([-2.0, 1.0])),
        Layer(np.array([[1.0, 2.0]]), np.array([-5.0])),
    ]
    first, second = bounds_of(layers, (0.0, 1.0))
    assert [side.tolist() for side in first] == [[-2.0, 1.0], [-1.0, 2.0]]
    assert [side.tolist() for side in second] == [[-3.0], [-1.0]]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_program_finds_what_intervals_miss(sign):
    """relu(x) + relu(-x) = |x| is at most 1 for x in [-1, 1], and at least 0; by intervals it is in [0, 2]."""
    layers = [Layer(np.array([[1.0], [-1.0]]), np.zeros(2)), Layer(np.array([[1.0, 1.0]]), np.zeros(1))]
    bounds = bounds_of(layers, (-1.0, 1.0))
    assert bounds[1][1].tolist() == [2.0]
    most, reached = largest(layers, bounds, (-1.0, 1.0), 0, sign, 10.0)
    assert (most, reached) == pytest.approx((1.0 if sign > 0 else 0.0,) * 2, abs=1e-6)


def test_a_program_is_never_below_what_a_grid_reaches():
    net = chain(2, 5, 4, 3, seed=3)
    layers = [Layer(part.weight.detach().double().numpy(), part.bias.detach().double().numpy()) for part in net[::2]]
    grid = np.array(list(itertools.product(np.linspace(-1, 1, 41), repeat=2)))
    values = stable.outputs_of(layers, grid)
    for unit in range(3):
        most, reached = largest(layers, bounds_of(layers, (-1.0, 1.0)), (-1.0, 1.0), unit, 1.0, 10.0)
        assert values[:, unit].max() <= most + 1e-6
        assert reached == pytest.approx(most, abs=1e-4)
        assert most <= bounds_of(layers, (-1.0, 1.0))[-1][1][unit] + 1e-6


# Merging ---------------------------------------------------------------------------------------------------------


def test_combinations():
    rows = np.array([[1.0, 0.0, 2.0], [0.0, 1.0, 1.0], [2.0, 3.0, 7.0], [0.0, 0.0, 0.0]])
    basis, others, factors = combinations(rows)
    assert (len(basis), len(others)) == (2, 2)
    np.testing.assert_allclose(factors @ rows[basis], rows[others], atol=1e-12)


def test_by_hand():
    """Of x in [0, 1]: x - 2 is off, x + 1 and 2 x + 5 are on and in proportion but for the bias, x - 0.5 is open."""
    net = filled(chain(1, 4, 1), [[1.0], [1.0], [2.0], [1.0]], [-2.0, 1.0, 5.0, -0.5], [[9.0, 1.0, 1.0, 1.0]], [0.0])
    found = merge_stable(net, 0.0, 1.0)
    assert found.layers == [stable.Merged("0", 4, 1, 1, 0)]
    assert found.gone == 2
    assert [tuple(value.shape) for value in found.network.parameters()] == [(2, 1), (2,), (1, 2), (1,)]
    same(net, found.network, 0.0, 1.0, 1)
    assert net[0].weight.shape == (4, 1)


@pytest.mark.parametrize("bias", [True, False])
def test_wide_layers_that_are_always_on_have_no_more_units_than_inputs(bias):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3, 12), nn.ReLU(), nn.Dropout(0.5), nn.Linear(12, 2, bias=bias)).eval()
    with torch.no_grad():
        net[1].bias += 10
    found = merge_stable(net, 0.0, 1.0)
    assert found.network[1].out_features == (3 if bias else 4)
    same(net, found.network, 0.0, 1.0, 3)


def test_a_layer_that_is_always_off_keeps_one_unit():
    net = chain(3, 5, 2)
    with torch.no_grad():
        net[0].bias -= 10
    found = merge_stable(net, 0.0, 1.0)
    assert (found.network[0].out_features, found.layers[0].off) == (1, 4)
    same(net, found.network, 0.0, 1.0, 3)


def test_deeper_layers_need_programs(monkeypatch):
    """|x| - 1.5 is off for x in [-1, 1], and -|x| + 1.5 on: intervals say neither."""
    net = filled(
        chain(1, 2, 2, 1), [[1.0], [-1.0]], [0.0, 0.0], [[1.0, 1.0], [-1.0, -1.0]], [-1.5, 1.5], [[1.0, 1.0]], [0.0]
    )
    assert merge_stable(net, -1.0, 1.0, seconds=0).layers[1].undecided == 2
    found = merge_stable(net, -1.0, 1.0, seconds=20)
    assert (found.layers[1].off, found.layers[1].undecided) == (1, 0)
    same(net, found.network, -1.0, 1.0, 1)


@pytest.mark.parametrize("seed", range(4))
def test_random_networks_keep_their_outputs(seed):
    net = chain(4, 9, 7, 3, seed=seed)
    with torch.no_grad():
        net[0].bias += torch.linspace(-3, 3, 9)
        net[2].bias += torch.linspace(-3, 3, 7)
    found = merge_stable(net, -1.0, 1.0, seconds=20)
    assert found.gone > 0
    assert found.difference < 1e-6
    same(net, found.network, -1.0, 1.0, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_difference_is_that_of_weights_as_they_are_stored(dtype):
    net = chain(8, 64, 4)
    with torch.no_grad():
        net[0].bias += 10
    net = net.to(dtype)
    found = merge_stable(net, 0.0, 1.0)
    x = torch.from_numpy(stable.random_inputs(8, 0.0, 1.0, 0))
    with torch.no_grad():
        apart = (found.network.double()(x) - net.double()(x)).abs().max()
    assert found.difference == pytest.approx(float(apart), rel=1e-6)
    assert found.difference > torch.finfo(dtype).eps / 100


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2)), "chain of Linear layers and ReLUs"),
        (nn.Sequential(nn.Linear(2, 3), nn.Sigmoid(), nn.Linear(3, 2)), "_1 is no part of one"),
        (nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)), "_1 is no part of one"),
        (nn.Sequential(nn.Linear(2, 3)), "two or more"),
    ],
)
def test_other_networks_are_refused(model, named):
    with pytest.raises(NetworkError, match=named):
        merge_stable(model, 0.0, 1.0)


def test_bad_input_is_one_error():
    for low, high in ((1.0, 1.0), (2.0, 1.0), (0.0, float("inf")), (float("nan"), 1.0)):
        with pytest.raises(RecipeError, match="the first must be less"):
            merge_stable(chain(2, 3, 1), low, high)
    for seconds in (-1.0, float("inf"), float("nan")):
        with pytest.raises(RecipeError, match="must be a finite number"):
            merge_stable(chain(2, 3, 1), 0.0, 1.0, seconds)
    net = chain(2, 3, 1)
    with torch.no_grad():
        net[0].weight[0, 0] = torch.nan
    with pytest.raises(CheckpointError, match=r"0\.weight"):
        merge_stable(net, 0.0, 1.0)
    tied = chain(3, 3, 3)
    tied[2].weight = tied[0].weight
    with pytest.raises(NetworkError, match="share a weight"):
        merge_stable(tied, 0.0, 1.0)


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    net = networks.build("lenet-300-100")
    with torch.no_grad():
        net.fc1.bias[:40] -= 100
        net.fc1.bias[40:50] = 100
        net.fc1.weight[41:50] = net.fc1.weight[40]
    torch.save(net.state_dict(), "dense.pt")
    named = ["--network", "lenet-300-100"]
    done = from_json("export", "dense.pt", *named, "--stable", "0", "--box", "0", "1", "-o", "small.pt")
    assert done["stable"][0] == {"layer": "fc1", "units": 300, "off": 40, "merged": 9, "undecided": 0}
    assert done["max_difference"] < 1e-5
    from_json("compress", "small.pt", *named, "--no-retrain", "--prune", "0", "--bits", "none", "-o", "m.dc")
    loaded = dc.load("m.dc")
    assert loaded.fc1.out_features == 251
    x = torch.rand(20, 1, 28, 28)
    torch.testing.assert_close(loaded(x), net(x), rtol=1e-4, atol=1e-4)
    text = succeed("export", "dense.pt", *named, "--stable", "0", "--box", "0", "1", "-o", "again.pt").stdout
    assert "fc1: of 300 units 40 are always off, 9 always on and replaced" in text
    assert "go together" in fail("export", "dense.pt", *named, "--stable", "0", "-o", "x.pt", code=2)


def test_what_is_merged_becomes_a_file(tmp_path):
    net = chain(3, 12, 2)
    with torch.no_grad():
        net[0].bias += 10
    smaller = merge_stable(net, 0.0, 1.0).network
    dc.compress(smaller, None, None, dc.Recipe(prune=0, bits=None, retrain=False), tmp_path / "m.dc")
    same(net, dc.load(tmp_path / "m.dc", into=chain(3, 12, 2)), 0.0, 1.0, 3)
