"""The registry, and who may name what."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deepcompress.errors import NetworkError
from deepcompress.networks import REGISTRY, batch_counters, build, build_known, match
from deepcompress.networks.lenet import LeNet5, LeNet300100
from deepcompress.networks.resnet import Block


def shapes(model):
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


@pytest.mark.parametrize(
    ("name", "parameters"), [("ds-cnn", 23_050), ("ds-cnn-xs", 8_362), ("lenet-300-100", 266_610), ("lenet5", 431_080)]
)
def test_parameters_and_shapes(name, parameters):
    model = build(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert model(torch.zeros(3, 1, 28, 28)).shape == (3, 10)


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    return build("resnet20").eval()


def test_resnet20_has_the_tensors_of_the_checkpoints_that_are_about(resnet):
    assert sum(parameter.numel() for parameter in resnet.parameters()) == 269_722
    norms = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    blocks = [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in (0, 1, 2)]
    names = ["conv1.weight", *(f"bn1.{name}" for name in norms)]
    for block in blocks:
        for half in ("1", "2"):
            names += [f"{block}.conv{half}.weight", *(f"{block}.bn{half}.{name}" for name in norms)]
    assert list(resnet.state_dict()) == [*names, "linear.weight", "linear.bias"]
    found = shapes(resnet)
    assert found["conv1.weight"] == (16, 3, 3, 3)
    assert found["linear.weight"] == (10, 64)
    widths = {f"layer{stage}.{block}": 16 << (stage - 1) for stage in (1, 2, 3) for block in (0, 1, 2)}
    for name, width in widths.items():
        inputs = width // 2 if name in ("layer2.0", "layer3.0") else width
        assert found[f"{name}.conv1.weight"] == (width, inputs, 3, 3)
        assert found[f"{name}.conv2.weight"] == (width, width, 3, 3)


def test_resnet20_halves_the_image_twice(resnet):
    sizes = []
    handles = [
        getattr(resnet, f"layer{stage}").register_forward_hook(lambda _, __, out: sizes.append(tuple(out.shape)))
        for stage in (1, 2, 3)
    ]
    assert resnet(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    for handle in handles:
        handle.remove()
    assert sizes == [(2, 16, 32, 32), (2, 32, 16, 16), (2, 64, 8, 8)]


def option_a(x):
    """Every second pixel, with the new channels zero: half of them before the old ones and half after."""
    n, channels, height, width = x.shape
    out = torch.zeros(n, 2 * channels, -(-height // 2), -(-width // 2))
    for channel in range(channels):
        for row in range(out.shape[2]):
            for column in range(out.shape[3]):
                out[:, channel + channels // 2, row, column] = x[:, channel, 2 * row, 2 * column]
    return out


@pytest.mark.parametrize("side", [6, 7])
@pytest.mark.parametrize(("block", "shortcut"), [((4, 8, 2), option_a), ((4, 4, 1), torch.clone)])
def test_a_block_adds_its_convolutions_to_its_shortcut(block, shortcut, side):
    torch.manual_seed(0)
    block, x = Block(*block).eval(), torch.randn(2, 4, side, side)
    y = block.bn2(block.conv2(block.bn1(block.conv1(x)).relu()))
    assert torch.equal(block(x), (y + shortcut(x)).relu())
    torch.nn.init.zeros_(block.bn2.weight)  # then the shortcut is all there is
    assert torch.equal(block(x), shortcut(x).relu())


def test_layers_are_those_of_the_paper():
    assert {name: shape for name, shape in shapes(LeNet5()).items() if len(shape) > 1} == {
        "conv1.weight": (20, 1, 5, 5), "conv2.weight": (50, 20, 5, 5), "fc1.weight": (500, 800),
        "fc2.weight": (10, 500),
    }  # fmt: skip
    assert {name: shape for name, shape in shapes(LeNet300100()).items() if len(shape) > 1} == {
        "fc1.weight": (300, 784), "fc2.weight": (100, 300), "fc3.weight": (10, 100)
    }  # fmt: skip


def test_match_with_and_without_batch_norms_counters(resnet):
    state = resnet.state_dict()
    counters = [name for name in state if name.endswith("num_batches_tracked")]
    assert len(counters) == 19
    assert batch_counters(resnet) == set(counters)
    without = {name: value for name, value in state.items() if name not in counters}
    assert match(state) == match(without) == match({**without, counters[3]: state[counters[3]]}) == "resnet20"
    for name in ("bn1.running_var", "layer3.2.bn2.bias", "linear.bias"):
        assert match({key: value for key, value in without.items() if key != name}) is None
    assert match({name: state[name] for name in counters}) is None


def test_counters_that_are_needed_are_not_among_those_that_may_be_missing():
    norms = [nn.BatchNorm1d(3), nn.BatchNorm1d(3, momentum=None), nn.InstanceNorm1d(3), nn.LayerNorm(3)]
    assert batch_counters(nn.Sequential(*norms)) == {"0.num_batches_tracked", "2.num_batches_tracked"}
    assert batch_counters(nn.BatchNorm2d(3)) == {"num_batches_tracked"}


@pytest.mark.parametrize("name", REGISTRY)
def test_match_by_names_and_shapes(name):
    known = REGISTRY[name]().state_dict()
    assert match(known) == name
    assert match(dict(reversed(known.items()))) == name
    first = next(iter(known))
    assert match({**known, first: known[first].unsqueeze(0)}) is None
    assert match({key: shape for key, shape in known.items() if key != first}) is None
    assert match({**known, "extra": torch.zeros(1)}) is None
    assert match({}) is None


def test_torchvision():
    assert type(build("torchvision:squeezenet1_1")).__name__ == "SqueezeNet"
    with pytest.raises(NetworkError, match="torchvision has no model named 'nothing'"):
        build_known("torchvision:nothing")


@pytest.mark.parametrize("name", ["lenet", "", "LeNet5", "os:system", "file.txt"])
def test_unknown_names_list_the_known_ones(name):
    for function in (build, build_known):
        with pytest.raises(NetworkError, match=r"unknown network .*known: ds-cnn, ds-cnn-xs, lenet-300-100, lenet5"):
            function(name)


def test_a_file_of_the_user(network_file):
    model = build(f"{network_file}:small")
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 4)


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        ("missing", "defines no function named 'missing'"),
        ("not_callable", "defines no function named 'not_callable'"),
        ("", "write FILE.py:FUNCTION"),
        ("broken", "fails with RuntimeError: no luck"),
        ("text", "returned str, not a torch.nn.Module"),
        ("nn", "defines no function named 'nn'"),
    ],
)
def test_factories_that_do_not_make_a_network(network_file, factory, reason):
    with pytest.raises(NetworkError, match=reason):
        build(f"{network_file}:{factory}")


@pytest.mark.parametrize(
    ("code", "reason"),
    [("def f(:", "SyntaxError"), ("import nothing_of_that_name", "ModuleNotFoundError"), ("{}['x']", "KeyError")],
)
def test_files_that_do_not_run(tmp_path, code, reason):
    path = tmp_path / "bad.py"
    path.write_text(code)
    with pytest.raises(NetworkError, match=f"bad.py fails with {reason}"):
        build(f"{path}:f")


def test_a_missing_file(tmp_path):
    with pytest.raises(NetworkError, match=r"no.py does not exist"):
        build(f"{tmp_path / 'no.py'}:f")


def test_a_name_from_a_file_runs_nothing(tmp_path):
    witness = tmp_path / "ran"
    script = tmp_path / "x.py"
    script.write_text(f"open({str(witness)!r}, 'w')\ndef f(): pass\n")
    with pytest.raises(NetworkError, match="unknown network"):
        build_known(f"{script}:f")
    assert not witness.exists()
