"""Layers as products of two thin ones, and their way through a file."""

from __future__ import annotations

import math

import pytest
import torch
from samples import CLASSES, SIDE, Mlp, conv_net
from torch import nn

import deepcompress as dc
from deepcompress.compression.lowrank import factorize, rank_of
from deepcompress.compression.pipeline import compress
from deepcompress.compression.tensors_only import compress_state
from deepcompress.errors import CheckpointError, NetworkError, RecipeError
from deepcompress.networks import build
from deepcompress.reading.fitting import fill
from deepcompress.recipe import Recipe


def with_values(values, rows=12, columns=10):
    """A matrix with these singular values."""
    generator = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(rows, len(values), generator=generator, dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(columns, len(values), generator=generator, dtype=torch.float64)).Q
    return ((left * torch.tensor(values, dtype=torch.float64)) @ right.T).float()


def net(matrix, bias=True):
    model = nn.Sequential(nn.Linear(matrix.shape[1], matrix.shape[0], bias=bias), nn.ReLU(), nn.Linear(12, 2))
    with torch.no_grad():
        model[0].weight.copy_(matrix)
    return model


@pytest.mark.parametrize(
    ("energy", "rank"),
    [
        (0.5, 1),
        (0.63, 1),
        (0.65, 2),
        (0.88, 2),
        (0.9, 3),
        (0.97, 3),
        (0.99, 4),
        (1.0, 4),
    ],  # squares of 8, 5, 3, 1.4142: 64 25 9 2
)
def test_the_rank_is_the_least_with_that_energy(energy, rank):
    assert rank_of(torch.tensor([8.0, 5.0, 3.0, math.sqrt(2.0)]), energy) == rank


def test_values_below_precision_do_not_count():
    assert rank_of(torch.tensor([8.0, 5.0, 1e-9, 1e-10]), 1.0) == 2
    assert rank_of(torch.zeros(3), 0.9) == 1


@pytest.mark.parametrize("bias", [True, False])
def test_exact_where_the_matrix_has_that_rank(bias):
    model, x = net(with_values([3.0, 2.0, 1.0]), bias), torch.randn(5, 10)
    expected = model(x)
    (found,) = factorize(model, 1.0)
    assert (found.name, found.rank, found.before, found.after) == ("0", 3, 120, 66)
    assert str(found) == "0: a product of rank 3, 120 → 66 weights"
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)
    assert [name for name in model.state_dict() if name.startswith("0")] == ["0.0.weight", "0.1.weight"] + [
        "0.1.bias"
    ] * bias


def test_the_relative_error_is_that_of_the_energy():
    matrix = with_values([10.0, 3.0, 2.0, 1.0, 0.5])
    model = net(matrix)
    factorize(model, 0.9)
    product = (model[0][1].weight @ model[0][0].weight).detach()
    error = float((product - matrix).norm() / matrix.norm())
    squares = torch.tensor([100.0, 9, 4, 1, 0.25])
    assert error == pytest.approx(
        float((squares[2:].sum() / squares.sum()).sqrt()), rel=1e-4
    )  # 100 of 114.25 are not 0.9
    assert error <= math.sqrt(1 - 0.9)


def test_not_where_it_would_be_larger():
    full = net(with_values([1.0] * 10))
    assert factorize(full, 1.0) == []
    assert isinstance(full[0], nn.Linear)
    six = net(with_values([1.0] * 6))  # 6 x 22 weights are more than 120
    assert factorize(six, 1.0) == []
    assert [found.rank for found in factorize(net(with_values([1.0] * 5)), 1.0)] == [5]


def test_convolutions_by_their_matrix():
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 12, 3, stride=2, padding=1, dilation=2, padding_mode="circular")
    with torch.no_grad():
        layer.weight.copy_(with_values([3.0, 2.0], 12, 36).reshape(12, 4, 3, 3))
    model, x = nn.Sequential(layer), torch.randn(2, 4, 9, 9)
    expected = model(x)
    (found,) = factorize(model, 1.0)
    assert (found.rank, found.after) == (2, 2 * 36 + 2 * 12)
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


def test_what_stays_as_it_is():
    class Own(nn.Linear):
        pass

    tied = nn.Sequential(nn.Linear(10, 12), nn.Linear(10, 12))
    matrix = with_values([1.0])
    attention = nn.MultiheadAttention(8, 2)
    layers = [
        tied,
        nn.Sequential(Own(10, 12)),
        nn.Sequential(nn.Conv2d(8, 8, 3, groups=8)),
        nn.TransformerEncoderLayer(8, 2),
    ]
    with torch.no_grad():
        tied[0].weight.copy_(matrix)
        layers[1][0].weight.copy_(matrix)
    tied[1].weight = tied[0].weight
    for model in (*layers, nn.Sequential(attention)):
        assert factorize(model, 0.01) == []


def test_frozen_stays_frozen_and_modes_stay():
    model = net(with_values([1.0])).eval()
    model[0].requires_grad_(False)
    factorize(model, 1.0)
    assert not any(parameter.requires_grad for parameter in model[0].parameters())
    assert not any(module.training for module in model.modules())


def test_nan_is_refused():
    model = Mlp()
    with torch.no_grad():
        model.fc2.weight[0, 0] = torch.nan
    with pytest.raises(CheckpointError, match=r"tensor fc2.weight: 1 of 512 values are NaN"):
        factorize(model, 0.9)


@pytest.mark.parametrize("value", [0, -0.1, 1.01, math.nan, "0.9", True])
def test_only_fractions(value):
    with pytest.raises(RecipeError, match="low_rank is"):
        Recipe(low_rank=value)


def test_through_a_file_and_back(tmp_path, image_train, image_test):
    torch.manual_seed(0)
    model = conv_net()
    recipe = Recipe(prune=0.3, bits=4, low_rank=0.8, epochs=2, iterations=1, finetune_epochs=1)
    result = compress(model, image_train, image_test, recipe, tmp_path / "m.dc")
    assert isinstance(model[7], nn.Linear)  # the user's own is as it was
    dense = 4 * sum(value.numel() for value in model.state_dict().values())
    assert [stage.stage for stage in result.stages] == ["dense", "low-rank", "prune", "quantize", "encode"]
    assert (result.dense_bytes, result.stages[0].bytes) == (dense, dense)
    assert result.stages[1].bytes < dense
    own = dc.load(tmp_path / "m.dc", into=conv_net())
    assert isinstance(own[7], nn.Sequential)
    state = dc.load_state_dict(tmp_path / "m.dc")
    assert {"7.0.weight", "7.1.weight", "7.1.bias"} <= state.keys()
    x = torch.cat([x for x, _ in image_test])
    y = torch.cat([y for _, y in image_test])
    accuracy = 100 * float((own(x).argmax(1) == y).double().mean())
    assert accuracy == pytest.approx(result.accuracy_after)
    assert result.stages[1].accuracy is not None


def test_a_network_of_the_registry_is_rebuilt_from_its_file(tmp_path):
    torch.manual_seed(0)
    model = build("lenet-300-100")
    recipe = Recipe(prune=0.5, low_rank=0.5, retrain=False)
    result = compress(model, None, None, recipe, tmp_path / "m.dc", network="lenet-300-100")
    loaded = dc.load(tmp_path / "m.dc")
    assert isinstance(loaded.fc1, nn.Sequential)
    assert loaded(torch.randn(2, 1, 28, 28)).shape == (2, 10)
    assert result.stages[1].bytes < 0.6 * result.dense_bytes


def test_bare_tensors_are_refused(tmp_path):
    with pytest.raises(RecipeError, match="low_rank needs the network"):
        compress_state(Mlp().state_dict(), Recipe(low_rank=0.9, retrain=False), tmp_path / "m.dc")


def test_a_network_with_other_layers_refuses_the_file(tmp_path):
    recipe = Recipe(prune=0.3, low_rank=0.5, retrain=False)
    compress(conv_net(), None, None, recipe, tmp_path / "m.dc")
    with pytest.raises(NetworkError):
        dc.load(tmp_path / "m.dc", into=Mlp(SIDE, CLASSES))
    with pytest.raises(NetworkError):
        fill(nn.Sequential(nn.Linear(4, 4)), dc.load_state_dict(tmp_path / "m.dc"), "x")
