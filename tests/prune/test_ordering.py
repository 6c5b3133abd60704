"""Neurons in another order: the network computes the same, and masks and tensors move together."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from samples import Mlp, conv_net
from torch import nn

from deepcompress.networks.lenet import LeNet5
from deepcompress.prune.masks import Masks
from deepcompress.prune.neurons import connections
from deepcompress.prune.ordering import alike, moved, sort_neurons


def depthwise():
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 8, 1), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.BatchNorm1d(32), nn.Linear(32, 4),
    )  # fmt: skip


class OneNorm(nn.Module):
    """A batch norm that is called twice: it cannot follow both layers."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(12, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.norm = nn.BatchNorm1d(6)

    def forward(self, x):
        return self.third(self.norm(self.second(self.norm(self.first(x)))))


def tied_bias():
    net = Mlp()
    net.other = nn.Linear(32, 32)
    net.other.bias = net.fc1.bias
    return net


def pruned(net, kept=0.3):
    """The network with most weights at zero and nothing in it that is the same twice; its weights, and masks."""
    generator = torch.Generator().manual_seed(0)
    for name, value in (*net.named_parameters(), *net.named_buffers()):
        if value.is_floating_point():
            value.data = torch.rand(value.shape, generator=generator) + (0.5 if "var" in name else -0.5)
    weights = {name: value for name, value in net.named_parameters() if value.ndim > 1}
    for value in weights.values():
        value.data *= torch.rand(value.shape, generator=generator) < kept
    return net.double().eval(), weights, Masks.nonzero({name: value.detach() for name, value in weights.items()})


def sorted_network(net):
    net, weights, masks = pruned(net)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    x = torch.randn(5, *((12,) if hasattr(net, "first") or hasattr(net, "fc3") else (1, 8, 8)), dtype=torch.float64)
    expected = net(x)
    masks = sort_neurons(net, weights, masks, connections(net))
    assert torch.allclose(net(x), expected, rtol=1e-12, atol=1e-12)
    assert all(torch.equal(masks.keep[name], value != 0) for name, value in weights.items())
    return net, {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize(
    ("make", "unmoved"),
    [
        (Mlp, {"fc3.bias"}),
        (lambda: conv_net(batch_norm=True), {"9.bias", "1.num_batches_tracked"}),
        (depthwise, {"10.bias", *(f"{at}.num_batches_tracked" for at in (1, 4, 9))}),
        (tied_bias, {"fc1.weight", "fc1.bias", "other.bias", "other.weight", "fc3.bias"}),
    ],
)
def test_all_that_hangs_on_a_neuron_moves_with_it(make, unmoved):
    net, changed = sorted_network(make())
    assert net.state_dict().keys() - changed == unmoved


def test_where_a_norm_is_used_twice_nothing_moves():
    assert sorted_network(OneNorm())[1] == set()


def test_what_is_not_pruned_does_not_move():
    net, weights, masks = pruned(Mlp())
    before = {name: value.clone() for name, value in net.state_dict().items()}
    some = {name: value for name, value in weights.items() if name != "fc2.weight"}
    sort_neurons(net, some, masks, connections(net))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_parameter_under_the_name_of_another_does_not_move():
    net, weights, masks = pruned(Mlp())
    before = net.fc1.weight.clone()
    sort_neurons(net, {**weights, "fc1.weight": weights["fc1.weight"].detach().clone()}, masks, connections(net))
    assert torch.equal(net.fc1.weight, before)


def test_dead_filters_and_neurons_come_last():
    net, weights, masks = pruned(LeNet5(), kept=0.02)
    sort_neurons(net, weights, masks, connections(net))
    for columns in (weights["conv2.weight"].transpose(0, 1), weights["fc2.weight"].T):
        alive = (columns.flatten(1) != 0).any(dim=1)
        assert int(alive.sum()) > 0
        assert torch.equal(alive, alive.sort(descending=True).values)


def test_each_is_followed_by_the_most_similar_one():
    rows = torch.tensor([[0, 0, 0], [0, 0, 2], [1, 1, 0], [0, 1, 1], [0, 0, 0], [1, 1, 1], [1, 1, 0]])
    assert alike(rows).tolist() == [5, 2, 6, 3, 1, 0, 4]
    assert alike(torch.zeros(3, 2)).tolist() == [0, 1, 2]
    assert alike(torch.tensor([[1, 1], [-1, -1], [1, 0]])).tolist() == [0, 2, 1]


@given(st.integers(0, 100), st.integers(1, 12), st.integers(1, 5))
def test_it_is_a_permutation(seed, count, width):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(-1, 2, (count, width), generator=generator)
    assert alike(rows).sort().values.tolist() == list(range(count))


def test_neurons_that_take_several_places_move_as_a_whole():
    assert moved(torch.arange(6), 0, torch.tensor([2, 0, 1])).tolist() == [4, 5, 0, 1, 2, 3]
    assert moved(torch.arange(4).reshape(2, 2), 1, torch.tensor([1, 0])).tolist() == [[1, 0], [3, 2]]
