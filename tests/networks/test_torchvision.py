"""Networks of torchvision: the number of classes comes from the tensors, and nothing is downloaded."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner
from torchvision import models

from deepcompress import inspect, load
from deepcompress.cli import main
from deepcompress.errors import NetworkError
from deepcompress.networks import build, build_known, is_known, zoo


def meta(model, **settings):
    with torch.device("meta"):
        return models.get_model(model, weights=None, **settings)


def shapes(network):
    return {name: value.shape for name, value in network.state_dict().items()}


@pytest.mark.parametrize("model", ["resnet18", "squeezenet1_1", "mobilenet_v3_small", "googlenet"])
@pytest.mark.filterwarnings("ignore:The default weight initialization:FutureWarning")
def test_the_number_of_classes_is_that_of_the_tensors(model):
    wanted = meta(model, num_classes=13)
    with torch.device("meta"):
        assert shapes(build_known(f"torchvision:{model}", wanted.state_dict())) == shapes(wanted)


def test_heads_with_several_values_a_class():
    wanted = meta("ssdlite320_mobilenet_v3_large", num_classes=5, weights_backbone=None)
    with torch.device("meta"):
        found = build_known("torchvision:ssdlite320_mobilenet_v3_large", wanted.state_dict())
    assert shapes(found) == shapes(wanted)


def test_the_weights_of_a_backbone_are_not_downloaded(monkeypatch):
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", lambda *args, **kwargs: pytest.fail("a download"))
    with torch.device("meta"):
        build_known("torchvision:lraspp_mobilenet_v3_large")


def test_arguments_are_a_persons_alone():
    assert build("torchvision:resnet18(num_classes=3)").fc.out_features == 3
    with pytest.raises(NetworkError, match=r"no model named 'resnet18\(num_classes=3\)'"):
        build_known("torchvision:resnet18(num_classes=3)")
    assert not is_known("torchvision:resnet18(num_classes=3)")


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("torchvision:resnet18(3)", "write each argument by its name"),
        ("torchvision:resnet18(num_classes=n)", "write each argument by its name"),
        ("torchvision:resnet18(", "write each argument by its name"),
        ("torchvision:resnet18(colour='red')", "torchvision fails with TypeError"),
        ("lenet5(num_classes=3)", "lenet5 takes no arguments"),
    ],
)
def test_arguments_that_are_none(spec, reason):
    with pytest.raises(NetworkError, match=reason):
        build(spec)


def test_tensors_of_no_such_network_leave_the_classes_as_they_are():
    assert zoo._classes("resnet18", {"fc.weight": torch.empty(10, 512), "fc.bias": torch.empty(11)}, {}) == {}
    assert zoo._classes("raft_small", {"w": torch.empty(3)}, {}) == {}


def test_a_file_of_a_network_with_another_head_loads_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    network = models.get_model("squeezenet1_1", weights=None, num_classes=10)
    torch.save(network.state_dict(), "s.pt")
    for spec in ("torchvision:squeezenet1_1", "torchvision:squeezenet1_1(num_classes=10)"):
        options = ["--no-retrain", "--prune", "0", "--bits", "none", "-o", "s.dc", "-q"]
        done = CliRunner().invoke(main, ["compress", "s.pt", "--network", spec, *options])
        assert done.exit_code == 0, done.stderr
        assert inspect("s.dc").network == "torchvision:squeezenet1_1"
    assert load("s.dc").classifier[1].out_channels == 10
    done = CliRunner().invoke(
        main, ["compress", "s.pt", "--network", "torchvision:squeezenet1_1(num_classes=9)", *options]
    )
    assert done.exit_code == 1
    assert "tensor classifier.1.weight has shape (10, 512, 1, 1)" in done.stderr
