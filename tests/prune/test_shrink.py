"""The physically smaller network: equal outputs, the shapes that are left, and the way through the command line."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner
from samples import CLASSES, SIDE, Mlp, batches, conv_net
from torch import nn

import deepcompress as dc
from deepcompress.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from deepcompress.cli import main
from deepcompress.compression.pipeline import compress
from deepcompress.compression.tensors_only import compress_state
from deepcompress.errors import DeepCompressError, NetworkError
from deepcompress.layers import compressible
from deepcompress.networks import build
from deepcompress.prune.coupling import channels
from deepcompress.prune.masks import Masks
from deepcompress.prune.shrink import cost, shrink
from deepcompress.recipe import Recipe


def emptied(model, example, keep):
    """The network with the first `keep` units of each group left, and the columns of the others zero."""
    state = model.state_dict()
    weights = {layer.name: state[layer.name] for layer in compressible(state)}
    masks = Masks.full(weights)
    for group in channels(model, weights, example):
        masks = group.without(masks, torch.arange(group.count) >= keep)
    masks.apply(weights)
    return model.eval()


def randomized(model):
    torch.manual_seed(1)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand_like(value) * 0.2 + 0.05 if value.ndim == 1 else torch.randn_like(value) * 0.2)
    return model


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.bn = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv1, self.bn1 = nn.Conv2d(6, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, x):
        x = torch.relu(self.bn(self.stem(x)))
        x = torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))
        return self.fc(x.mean(dim=(2, 3)))


@pytest.mark.parametrize(
    ("model", "shape", "expected"),
    [
        (Mlp(), (12,), [(3, 12), (3, 3), (CLASSES, 3)]),
        (build("lenet5"), (1, 28, 28), [(3, 1, 5, 5), (3, 3, 5, 5), (3, 48), (10, 3)]),
        (conv_net(batch_norm=True), (1, SIDE, SIDE), [(3, 1, 3, 3), (3, 3, 3, 3), (3, 12), (CLASSES, 3)]),
        (Residual(), (1, SIDE, SIDE), [(3, 1, 3, 3), (3, 3, 3, 3), (3, 3, 3, 3), (CLASSES, 3)]),
    ],
)
def test_outputs_stay_and_shapes_are_what_is_left(model, shape, expected):
    example = torch.randn(4, *shape)
    model = emptied(randomized(model), example, 3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = shrink(model, example)
    assert [tuple(value.shape) for value in found.network.state_dict().values() if value.ndim > 1] == expected
    assert found.stuck == 0
    x = torch.randn(5, *shape)
    torch.testing.assert_close(found.network(x), model(x), rtol=1e-5, atol=1e-6)
    double = x.double()
    torch.testing.assert_close(found.network.double()(double), model.double()(double), rtol=1e-9, atol=1e-12)
    model.float()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_costs_by_hand():
    example = torch.randn(2, 12)
    model = emptied(randomized(Mlp()), example, 3)
    found = shrink(model, example)
    assert found.before.macs == 12 * 32 + 32 * 16 + 16 * CLASSES
    assert found.before.parameters == found.before.macs + 32 + 16 + CLASSES
    assert (found.after.macs, found.after.parameters) == (36 + 9 + 3 * CLASSES, 36 + 9 + 3 * CLASSES + 3 + 3 + CLASSES)
    assert found.units == 29 + 13
    assert found.as_dict()["after"] == {"parameters": found.after.parameters, "macs": found.after.macs}
    assert cost(nn.Sequential(nn.Conv2d(2, 3, 3)), torch.randn(2, 2, 6, 5)).macs == 4 * 3 * 3 * 2 * 9


def test_what_only_the_removed_read_goes_too_and_one_always_stays():
    model = randomized(Mlp()).eval()
    with torch.no_grad():
        model.fc3.weight.zero_()  # nothing reads fc2, and so nothing that matters reads fc1
    found = shrink(model, torch.randn(2, 12))
    assert [tuple(value.shape) for value in found.network.state_dict().values() if value.ndim > 1] == [
        (1, 12),
        (1, 1),
        (4, 1),
    ]
    assert (found.units, found.stuck) == (31 + 15, 2)


def test_a_network_with_nothing_to_take_out():
    model = randomized(Mlp())
    found = shrink(model, torch.randn(2, 12))
    assert (found.units, found.stuck, found.before) == (0, 0, found.after)


def test_sizes_that_the_code_fixes_stay():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc1, self.fc2 = nn.Conv2d(1, 4, 3), nn.Linear(144, 10), nn.Linear(10, 3)

        def forward(self, x):
            return self.fc2(torch.relu(self.fc1(self.conv(x).view(-1, 144))))

    example = torch.randn(2, 1, SIDE, SIDE)
    model = emptied(randomized(Fixed()), example, 3)
    found = shrink(model, example)
    assert [tuple(value.shape) for value in found.network.state_dict().values() if value.ndim > 1] == [
        (4, 1, 3, 3), (3, 144), (3, 3)
    ]  # fmt: skip
    assert (found.units, found.stuck) == (7, 1)


def test_a_network_that_does_not_take_the_input():
    with pytest.raises(DeepCompressError, match="Mlp"):
        shrink(Mlp(), torch.randn(2, 5))
    with pytest.raises(NetworkError, match="does not run on such an input"):
        cost(Mlp(), torch.randn(2, 5))


def test_a_pruned_network_costs_what_it_has(tmp_path):
    """Structured pruning to a file, and from it to a network of the sizes that are left."""
    torch.manual_seed(0)
    train, test = batches(256, 1, (1, SIDE, SIDE)), batches(128, 2, (1, SIDE, SIDE))
    recipe = Recipe(prune=0.6, criterion="filters-l1", epochs=3, iterations=2, finetune_epochs=1, coder="auto")
    model = conv_net(batch_norm=True)
    compress(model, train, test, recipe, tmp_path / "m.dc")
    loaded = dc.load(tmp_path / "m.dc", into=conv_net(batch_norm=True))
    found = shrink(loaded, train[0][0][:2])
    x = test[0][0]
    torch.testing.assert_close(found.network(x), loaded(x), rtol=1e-4, atol=1e-5)
    weights = sum(value.numel() for value in found.network.state_dict().values() if value.ndim > 1)
    kept = sum(int((value != 0).sum()) for name, value in loaded.state_dict().items() if value.ndim > 1)
    assert weights <= 1.02 * kept  # what is left is dense


@pytest.fixture
def lenet(tmp_path):
    """A .dc file of LeNet-300-100 of which half of the units of each layer are gone."""
    torch.manual_seed(0)
    model = emptied(build("lenet-300-100"), torch.randn(2, 1, 28, 28), 40)
    compress_state(
        model.state_dict(), Recipe(prune=0, bits="none"), tmp_path / "m.dc", network="lenet-300-100", data="digits"
    )
    return tmp_path / "m.dc"


def test_export_shrinks_and_what_it_writes_loads(lenet, tmp_path):
    small = tmp_path / "small.pt"
    done = CliRunner().invoke(
        main, ["export", str(lenet), "--shrink", "--input-shape", "1,28,28", "-o", str(small), "--json"]
    )
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["after"] == {"parameters": 40 * 784 + 40 * 40 + 400 + 90, "macs": 40 * 784 + 40 * 40 + 400}
    assert (told["units"], told["stuck"]) == (320, 0)
    checkpoint = load_checkpoint(small)
    assert (checkpoint.network, checkpoint.data) == ("lenet-300-100", "digits")
    assert [tuple(value.shape) for value in checkpoint.state.values()] == [
        (40, 784),
        (40,),
        (40, 40),
        (40,),
        (10, 40),
        (10,),
    ]
    results = []
    for file in (lenet, small):
        done = CliRunner().invoke(main, ["eval", str(file), "--json"])
        assert done.exit_code == 0, done.output
        results.append(json.loads(done.stdout))
    assert results[0]["accuracy"] == results[1]["accuracy"]
    assert results[1]["loss"] == pytest.approx(results[0]["loss"], rel=1e-5)
    text = CliRunner().invoke(main, ["export", str(lenet), "--shrink", "-o", str(small)])
    assert text.exit_code == 0, text.output
    assert "multiply-accumulates of a sample: 266,200 → 33,360 (7.98× fewer)" in text.stdout
    assert "320 neurons, filters or channels taken out" in text.stdout


def test_a_shrunk_network_goes_through_a_file(tmp_path, lenet):
    found = shrink(dc.load(lenet), torch.randn(2, 1, 28, 28))
    state = found.network.state_dict()
    compress_state(state, Recipe(prune=0, bits="none"), tmp_path / "small.dc", network="lenet-300-100")
    loaded = dc.load(tmp_path / "small.dc")
    assert loaded.fc1.out_features == 40
    x = torch.randn(3, 1, 28, 28)
    assert torch.equal(loaded(x), found.network(x))


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--input-shape", "1,x"], 2, "is not a shape"),
        (["--input-shape", "0,28,28"], 2, "is not a shape"),
        (["--input-shape", "3,5"], 1, "does not run on such an input"),
        (["--network", "lenet5"], 1, "has no tensor conv1.weight"),
    ],
)
def test_what_export_refuses(lenet, tmp_path, more, code, message):
    done = CliRunner().invoke(main, ["export", str(lenet), "--shrink", "-o", str(tmp_path / "x.pt"), *more])
    assert (done.exit_code, message in done.output) == (code, True), done.output
    assert not (tmp_path / "x.pt").exists()


def test_without_torch_pruning_it_says_what_to_install(lenet, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch_pruning", None)
    done = CliRunner().invoke(
        main, ["export", str(lenet), "--shrink", "--input-shape", "1,28,28", "-o", str(tmp_path / "x.pt")]
    )
    assert done.exit_code == 1
    assert "pip install 'deepcompress[shrink]'" in done.output


def test_a_checkpoint_of_other_sizes_and_no_name(tmp_path):
    save_checkpoint(tmp_path / "x.pt", Checkpoint({"a": torch.ones(3, 3)}))
    done = CliRunner().invoke(
        main, ["export", str(tmp_path / "x.pt"), "--shrink", "--input-shape", "3", "-o", str(tmp_path / "y.pt")]
    )
    assert done.exit_code == 1
    assert "fit no known network, so it cannot be shrunk" in done.output
