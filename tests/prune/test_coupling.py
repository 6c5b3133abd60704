"""Which units can go: found in chains, sums, concatenations and depthwise convolutions, and in nothing uncertain."""

from __future__ import annotations

import pytest
import torch
from samples import Mlp, conv_net
from torch import nn

from deepcompress.errors import DeepCompressError
from deepcompress.layers import compressible
from deepcompress.networks import REGISTRY
from deepcompress.prune.coupling import channels


class Net(nn.Module):
    """Modules by keyword, and what is done with them."""

    def __init__(self, run, **modules):
        super().__init__()
        self.run = run
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self.run(self, x)


def found(model, *shape):
    torch.manual_seed(0)
    state = model.state_dict()
    weights = {layer.name: state[layer.name] for layer in compressible(state)}
    return channels(model, weights, torch.randn(2, *shape))


def names(groups):
    return {tuple(sorted(group.rows)): tuple(sorted(group.columns)) for group in groups}


def test_a_chain_but_not_what_the_network_gives():
    model = Mlp()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    groups = found(model, 12)
    assert names(groups) == {("fc1.weight",): ("fc2.weight",), ("fc2.weight",): ("fc3.weight",)}
    assert [list(group.vectors) for group in sorted(groups, key=lambda g: -g.count)] == [["fc1.bias"], ["fc2.bias"]]
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_flattening_and_batch_norm():
    groups = {next(iter(group.rows)): group for group in found(conv_net(batch_norm=True), 1, 8, 8)}
    assert set(groups) == {"0.weight", "3.weight", "7.weight"}
    assert set(groups["0.weight"].vectors) == {"0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"}
    flattened = groups["3.weight"].columns["7.weight"]
    assert torch.equal(flattened, torch.arange(8).repeat_interleave(4))


def test_a_sum_couples_and_a_concatenation_keeps_places():
    def run(net, x):
        y = torch.relu(net.a(x) + net.b(x))
        return net.c(torch.cat([y, net.d(x)], 1)).mean(dim=(2, 3))

    model = Net(run, a=nn.Conv2d(1, 4, 3), b=nn.Conv2d(1, 4, 3), c=nn.Conv2d(7, 5, 3), d=nn.Conv2d(1, 3, 3))
    groups = {tuple(sorted(group.rows)): group for group in found(model, 1, 8, 8)}
    assert set(groups) == {("a.weight", "b.weight"), ("d.weight",)}
    assert groups["a.weight", "b.weight"].columns["c.weight"].tolist() == [0, 1, 2, 3, -1, -1, -1]
    assert groups["d.weight",].columns["c.weight"].tolist() == [-1, -1, -1, -1, 0, 1, 2]


def test_a_depthwise_convolution_goes_with_its_channels():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 2, 1), nn.Flatten())
    (group,) = found(model, 1, 6, 6)
    assert (set(group.rows), set(group.columns)) == ({"0.weight", "1.weight"}, {"2.weight"})
    assert set(group.vectors) == {"0.bias", "1.bias"}


@pytest.mark.parametrize(("groups", "expected"), [(4, 1), (1, 0), (2, 0)])
def test_a_norm_over_several_channels_ties_them(groups, expected):
    class Norm(nn.Module):
        def forward(self, x):
            return nn.functional.group_norm(x, groups)

    model = nn.Sequential(nn.Conv2d(1, 4, 3), Norm(), nn.Conv2d(4, 2, 3), nn.Flatten())
    assert len(found(model, 1, 6, 6)) == expected


def test_operations_across_channels_are_found_out():
    def softmax(net, x):
        return net.b(torch.softmax(net.a(x), dim=1))

    def flipped(net, x):
        return net.b(net.a(x).flip(1))

    for run in (softmax, flipped):
        assert found(Net(run, a=nn.Linear(5, 4), b=nn.Linear(4, 3)), 5) == []


def test_what_is_used_elsewhere_is_left():
    tied = Net(lambda net, x: net.b(torch.relu(net.a(x))), a=nn.Linear(4, 4), b=nn.Linear(4, 4))
    tied.b.weight = tied.a.weight
    assert found(tied, 4) == []
    seen = Net(lambda net, x: (net.a(x), net.b(torch.relu(net.a(x)))), a=nn.Linear(4, 4), b=nn.Linear(4, 4))
    assert found(seen, 4) == []  # a's units are an output


def test_inside_of_residual_blocks():
    groups = found(REGISTRY["resnet20"](), 3, 32, 32)
    assert len(groups) == 9
    assert all(name.endswith("conv1.weight") for group in groups for name in group.rows)
    assert all(group.columns.keys() == {name.replace("conv1", "conv2") for name in group.rows} for group in groups)


def test_a_network_that_does_not_take_the_example():
    with pytest.raises(DeepCompressError, match="the dependencies in the network Mlp cannot be traced"):
        found(Mlp(), 7)
