"""The registry, and who may name what."""

from __future__ import annotations

import pytest
import torch

from deepcompress.errors import NetworkError
from deepcompress.networks import REGISTRY, build, build_known, match
from deepcompress.networks.lenet import LeNet5, LeNet300100


def shapes(model):
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


@pytest.mark.parametrize(("name", "parameters"), [("lenet-300-100", 266_610), ("lenet5", 431_080)])
def test_parameters_and_shapes(name, parameters):
    model = build(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert model(torch.zeros(3, 1, 28, 28)).shape == (3, 10)


def test_layers_are_those_of_the_paper():
    assert {name: shape for name, shape in shapes(LeNet5()).items() if len(shape) > 1} == {
        "conv1.weight": (20, 1, 5, 5), "conv2.weight": (50, 20, 5, 5), "fc1.weight": (500, 800),
        "fc2.weight": (10, 500),
    }  # fmt: skip
    assert {name: shape for name, shape in shapes(LeNet300100()).items() if len(shape) > 1} == {
        "fc1.weight": (300, 784), "fc2.weight": (100, 300), "fc3.weight": (10, 100)
    }  # fmt: skip


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


@pytest.mark.parametrize("name", ["lenet", "", "LeNet5", "os:system", "file.py"])
def test_unknown_names_list_the_known_ones(name):
    for function in (build, build_known):
        with pytest.raises(NetworkError, match=r"unknown network .*known: lenet-300-100, lenet5"):
            function(name)


def test_a_file_of_the_user(network_file):
    model = build(f"{network_file}:small")
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 4)


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        ("missing", "defines no function named 'missing'"),
        ("not_callable", "defines no function named 'not_callable'"),
        ("", "defines no function named ''"),
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
