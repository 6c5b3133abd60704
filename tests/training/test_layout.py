"""Convolutions are channels last while a network is trained, where that is faster and the network can."""

from __future__ import annotations

import pytest
import torch
from samples import CLASSES, conv_net
from torch import nn

from deepcompress.training.data import TensorLoader
from deepcompress.training.layout import NARROW
from deepcompress.training.loop import Hooks, fit
from deepcompress.training.objective import Taught
from deepcompress.training.tasks import CLASSIFICATION

PRECISIONS = ("float32", "bfloat16")


class Viewing(nn.Module):
    """Flattens with ``view``, which takes no other layout than the usual one."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3)
        self.norm, self.drop, self.fc = nn.BatchNorm2d(4), nn.Dropout(0.2), nn.Linear(64, CLASSES)

    def features(self, x):
        return self.drop(self.norm(self.conv(self.stem(x))))

    def forward(self, x):
        return self.fc(self.features(x).view(len(x), -1))


class Flattening(Viewing):
    """The same with ``flatten``."""

    def forward(self, x):
        return self.fc(self.features(x).flatten(1))


class Looking(Hooks):
    """Whether a weight of a network is channels last, after each step."""

    def __init__(self, weight):
        self.weight, self.seen = weight, []

    def after_step(self):
        self.seen.append(not self.weight.is_contiguous())


def batches(samples=16):
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(samples, 1, 8, 8, generator=generator), torch.arange(samples) % CLASSES
    return TensorLoader(x, y, 8, seed=0, shift=1)


def trained(model, precision, **how):
    torch.manual_seed(5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    fit(model, batches(), optimizer, 2, stage="train", precision=precision, **how)
    return model.state_dict()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_convolutions_are_laid_out_anew_and_get_their_memory_back(precision):
    model = conv_net()
    before = {name: (value.data_ptr(), value.stride()) for name, value in model.named_parameters()}
    state, look = dict(model.state_dict()), Looking(model[3].weight)
    old = state["3.weight"].clone()
    trained(model, precision, hooks=look)
    assert look.seen == [True] * 4
    assert {name: (value.data_ptr(), value.stride()) for name, value in model.named_parameters()} == before
    assert not torch.equal(state["3.weight"], old)  # who holds the memory sees what was learned
    assert torch.equal(state["3.weight"], model[3].weight)


@pytest.mark.parametrize(("precision", "expected"), [("float32", False), ("bfloat16", True)])
def test_one_wide_convolution_keeps_float32_as_it_is(precision, expected):
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.Conv2d(4, NARROW + 1, 3), nn.Flatten(), nn.Linear(16 * (NARROW + 1), CLASSES)
    )
    look = Looking(model[1].weight)
    trained(model, precision, hooks=look)
    assert look.seen == [expected] * 4


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_network_that_cannot_compute_so_is_trained_as_it_is(precision):
    for model, expected in ((Viewing(), False), (Flattening(), True)):
        look = Looking(model.conv.weight)
        trained(model, precision, hooks=look)
        assert look.seen == [expected] * 4


def test_what_was_tried_leaves_no_trace(monkeypatch):
    """Neither chance nor the statistics of batch norm moved: the result is that of a network that is not tried."""
    torch.manual_seed(0)
    model, other = Viewing(), Viewing()
    other.load_state_dict(model.state_dict())
    found = trained(model, "float32")
    monkeypatch.setattr("deepcompress.training.layout.NARROW", 0)
    expected = trained(other, "float32")
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
    assert int(found["norm.num_batches_tracked"]) == 4


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("student", "teacher"), [(Viewing, Flattening), (Flattening, Viewing)])
def test_the_teacher_has_the_same_layout(precision, student, teacher):
    """And where one of the two cannot compute so, both are as they were."""
    model, taught = student(), teacher().eval()
    stride = taught.conv.weight.stride()
    look = Looking(model.conv.weight)
    trained(model, precision, hooks=look, objective=Taught(CLASSIFICATION, taught, 0.5, 2.0))
    assert look.seen == [False] * 4
    assert taught.conv.weight.stride() == stride


def test_shifted_images_are_laid_out_as_images_are():
    assert all(x.stride() == (64, 64, 8, 1) for x, _ in batches())
