"""Dead neurons on hand-built masks, and which connections a network's graph shows."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from samples import Mlp, conv_net
from torch import nn

from deepcompress.networks.lenet import LeNet5, LeNet300100
from deepcompress.prune.masks import Masks
from deepcompress.prune.neurons import Connection, connections, remove_dead, silence


def masks(**rows):
    return Masks({name: torch.tensor(value, dtype=torch.bool) for name, value in rows.items()})


def test_chain_of_linear_layers():
    assert connections(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))) == [
        Connection("0.weight", "2.weight", 1)
    ]
    assert connections(Mlp()) == [Connection("fc1.weight", "fc2.weight", 1), Connection("fc2.weight", "fc3.weight", 1)]


def test_convolution_flatten_linear():
    assert connections(conv_net(batch_norm=True)) == [
        Connection("0.weight", "3.weight", 1, norms=("1",)),
        Connection("3.weight", "7.weight", 4),
        Connection("7.weight", "9.weight", 1),
    ]


def test_reference_networks():
    assert connections(LeNet5()) == [
        Connection("conv1.weight", "conv2.weight", 1),
        Connection("conv2.weight", "fc1.weight", 16),
        Connection("fc1.weight", "fc2.weight", 1),
    ]
    assert [link.repeat for link in connections(LeNet300100())] == [1, 1]


class Functional(nn.Module):
    """One layer after the other, with `between` on the way."""

    def __init__(self, first, second, between):
        super().__init__()
        self.first, self.second, self.between = first, second, between

    def forward(self, x):
        return self.second(self.between(self.first(x)))


CONV = lambda: nn.Conv2d(1, 4, 3)  # noqa: E731


@pytest.mark.parametrize(
    ("between", "repeat"),
    [
        (lambda x: x.flatten(1), 9),
        (lambda x: x.flatten(start_dim=1), 9),
        (lambda x: torch.flatten(x, 1), 9),
        (lambda x: torch.flatten(x, start_dim=1, end_dim=-1), 9),
        (lambda x: F.max_pool2d(F.relu(x), 2).flatten(1), 9),
        (lambda x: F.adaptive_avg_pool2d(x, 3).relu().flatten(1), 9),
        (lambda x: x.flatten(1).tanh(), 9),
        # Whatever is not the plain order of channels shows nothing.
        (lambda x: x, None),
        (lambda x: x.flatten(2), None),
        (lambda x: x.flatten(), None),
        (lambda x: x.transpose(1, 3).flatten(1), None),
        (lambda x: F.max_pool1d(x.flatten(1), 1), None),
        (lambda x: torch.softmax(x.flatten(1), 1), None),
        (lambda x: x.flatten(1) + x.flatten(1), None),
        (lambda x: torch.cat([x, x], 1).flatten(1), None),
    ],
)
def test_what_lies_between_a_convolution_and_a_linear_layer(between, repeat):
    found = connections(Functional(CONV(), nn.Linear(36, 2), between))
    assert found == ([] if repeat is None else [Connection("first.weight", "second.weight", repeat)])


@pytest.mark.parametrize(
    "between",
    [
        lambda x: x.mean(dim=(2, 3)),
        lambda x: x.relu().mean((-1, -2)),
        lambda x: torch.mean(x, [2, 3]).relu(),
        lambda x: torch.mean(x, axis=(2, 3)),
        lambda x: x.mean((2, 3), True).flatten(1),
        lambda x: x.mean(dim=(2, 3), keepdim=True).relu().flatten(1),
    ],
)
def test_a_mean_over_all_places_is_pooling(between):
    assert connections(Functional(CONV(), nn.Linear(4, 2), between)) == [Connection("first.weight", "second.weight", 1)]


@pytest.mark.parametrize(
    ("first", "between"),
    [
        (CONV(), lambda x: x.mean()),
        (CONV(), lambda x: x.mean(3)),
        (CONV(), lambda x: x.mean(dim=(1, 2))),
        (CONV(), lambda x: x.mean((2, 3), True)),
        (nn.Conv1d(1, 4, 3), lambda x: x.flatten(1).mean(-1)),
        (nn.Linear(5, 4), lambda x: x.mean(1)),
    ],
)
def test_other_means_show_nothing(first, between):
    assert connections(Functional(first, nn.Linear(4, 2), between)) == []


def test_a_mean_over_the_places_of_a_signal_is_pooling():
    net = Functional(nn.Conv1d(1, 4, 3), nn.Linear(4, 2), lambda x: x.mean(-1))
    assert connections(net) == [Connection("first.weight", "second.weight", 1)]


@pytest.mark.parametrize(
    ("first", "second", "between"),
    [
        # Rows of several positions, flattened: the inputs of the second layer are position by position.
        (nn.Linear(5, 4), nn.Linear(12, 2), lambda x: x.flatten(1)),
        # Pooling over a linear layer's outputs mixes them, although their number may stay the same.
        (nn.Linear(5, 4), nn.Linear(4, 2), lambda x: F.avg_pool1d(x, 3, 1, 1)),
        (nn.Linear(5, 4), nn.Conv1d(4, 2, 1), lambda x: x),
        (nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 2, 1), torch.relu),
        (nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 1, groups=2), torch.relu),
        (nn.Conv2d(1, 4, 3), nn.ConvTranspose2d(4, 2, 1), torch.relu),
    ],
)
def test_other_orders_show_nothing(first, second, between):
    assert connections(Functional(first, second, between)) == []


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        x = torch.relu(self.a(x))
        return self.c(x + self.b(x))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.b(torch.relu(self.a(torch.relu(self.a(x)))))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.c.weight = self.b.weight

    def forward(self, x):
        return self.c(torch.relu(self.b(torch.relu(self.a(x)))))


class AlsoDirect(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return F.linear(self.b(torch.relu(self.a(x))), self.a.weight)


class Untraceable(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        x = self.a(x)
        return self.b(x) if x.sum() > 0 else x


class AlsoReturned(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        x = self.a(x)
        return self.b(x), x


@pytest.mark.parametrize("kind", [Residual, Twice, Tied, AlsoDirect, Untraceable, AlsoReturned])
def test_nothing_is_concluded_where_it_is_not_certain(kind):
    assert connections(kind()) == []


def test_a_neuron_without_input_loses_its_outputs_and_the_other_way_round():
    # Neuron 0 has no input, neuron 2 no output, neuron 3 neither, neuron 1 both.
    before = masks(a=[[0, 0], [1, 0], [1, 1], [0, 0]], b=[[1, 1, 0, 0], [1, 0, 0, 0]])
    after, lost = remove_dead(before, [Connection("a", "b", 1)])
    assert after.keep["a"].int().tolist() == [[0, 0], [1, 0], [0, 0], [0, 0]]
    assert after.keep["b"].int().tolist() == [[0, 1, 0, 0], [0, 0, 0, 0]]
    assert lost == 4
    assert before.keep["a"].sum() == 3  # masks are never changed in place


def test_flatten_gives_each_channel_its_run_of_inputs():
    conv = torch.zeros(2, 1, 2, 2, dtype=torch.bool)
    conv[1, 0, 1, 0] = True  # channel 0 has no input left
    linear = torch.ones(3, 6, dtype=torch.bool)
    after, lost = remove_dead(Masks({"conv": conv, "fc": linear}), [Connection("conv", "fc", 3)])
    assert after.keep["fc"].int().tolist() == [[0, 0, 0, 1, 1, 1]] * 3
    assert lost == 9
    linear = torch.zeros(3, 6, dtype=torch.bool)
    linear[2, 1] = True  # only channel 0 is looked at
    conv = torch.ones(2, 1, 2, 2, dtype=torch.bool)
    after, lost = remove_dead(Masks({"conv": conv, "fc": linear}), [Connection("conv", "fc", 3)])
    assert after.keep["conv"].flatten(1).any(1).tolist() == [True, False]
    assert lost == 4


def test_convolution_to_convolution():
    first = torch.ones(2, 1, 3, 3, dtype=torch.bool)
    second = torch.zeros(3, 2, 3, 3, dtype=torch.bool)
    second[1, 1, 2, 2] = True
    after, lost = remove_dead(Masks({"a": first, "b": second}), [Connection("a", "b", 1)])
    assert after.keep["a"].flatten(1).all(1).tolist() == [False, True]
    assert lost == 9


@pytest.mark.parametrize("order", [1, -1])
def test_it_cascades_until_nothing_changes(order):
    # A single path, cut at the start: every later connection of it goes, whatever the order of the links.
    chain = masks(a=[[0, 0], [1, 1]], b=[[1, 0], [0, 1]], c=[[1, 0], [0, 1]], d=[[1, 1]])
    links = [Connection("a", "b", 1), Connection("b", "c", 1), Connection("c", "d", 1)][::order]
    after, lost = remove_dead(chain, links)
    assert [after.keep[name].int().tolist() for name in "abcd"] == [
        [[0, 0], [1, 1]], [[0, 0], [0, 1]], [[0, 0], [0, 1]], [[0, 1]]
    ]  # fmt: skip
    assert lost == 3
    again, more = remove_dead(after, links)
    assert more == 0
    assert all(torch.equal(again.keep[name], after.keep[name]) for name in "abcd")


def test_links_of_layers_that_are_not_pruned_are_passed_over():
    before = masks(a=[[0], [1]])
    after, lost = remove_dead(before, [Connection("a", "elsewhere", 1), Connection("elsewhere", "a", 1)])
    assert lost == 0
    assert torch.equal(after.keep["a"], before.keep["a"])


@torch.no_grad()
def test_removing_dead_connections_of_a_bias_free_network_changes_no_output():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 10, bias=False),
        nn.ReLU(), nn.Linear(10, 3, bias=False),
    )  # fmt: skip
    weights = dict(net.named_parameters())
    keep = Masks({name: torch.rand(value.shape) < 0.15 for name, value in weights.items()})
    keep.apply(weights)
    x = torch.randn(5, 1, 8, 8)
    before = net(x)
    after, lost = remove_dead(keep, connections(net))
    after.apply(weights)
    assert lost > 0
    torch.testing.assert_close(net(x), before)


def separable(groups=3):
    """A layer before and one after a convolution in groups."""
    return nn.Sequential(
        nn.Conv2d(1, 3, 2),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Conv2d(3, 3, 2, groups=groups),
        nn.ReLU(),
        nn.Conv2d(3, 2, 1),
    )


def test_a_depthwise_convolution_is_followed():
    assert connections(separable()) == [
        Connection("0.weight", "3.weight", 1, depthwise=True, norms=("1",)),
        Connection("3.weight", "5.weight", 1),
    ]


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(4, 4, 1, groups=2), nn.Conv2d(4, 8, 1, groups=4)], ids=["groups", "multiplied"]
)
def test_other_groups_are_not(layer):
    between = nn.Sequential(nn.Conv2d(1, 4, 2), layer, nn.Conv2d(layer.out_channels, 2, 1))
    assert connections(between) == []


def test_a_channel_dies_through_a_depthwise_convolution():
    """One has no input, one has no output, and one lives; in the convolution between them all have weights."""
    net = separable()
    keep = {name: torch.ones_like(net.get_parameter(name), dtype=torch.bool) for name in WEIGHTS}
    keep["0.weight"][0] = False
    keep["5.weight"][:, 1] = False
    found, lost = remove_dead(Masks(keep), connections(net))
    for name in ("0.weight", "3.weight"):
        assert found.keep[name].flatten(1).any(dim=1).tolist() == [False, False, True]
    assert found.keep["5.weight"].flatten(1).tolist() == [[False, False, True]] * 2
    assert lost == 4 + 2 * 4 + 2


WEIGHTS = ("0.weight", "3.weight", "5.weight")


def test_silence_through_a_depthwise_convolution():
    net = separable()
    with torch.no_grad():
        net[3].weight[1] = 0
        net[5].weight[:, 2] = 0
    silence(net.state_dict(), connections(net))
    assert (net[0].bias != 0).tolist() == [True, False, True]
    assert (net[3].bias != 0).tolist() == [True, True, False]


def test_silence_zeroes_the_biases_that_nothing_reads():
    state = {
        "conv.weight": torch.ones(2, 1, 3, 3), "conv.bias": torch.tensor([1.0, 2.0]),
        "fc.weight": torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0]]), "fc.bias": torch.tensor([3.0, 4.0]),
        "out.weight": torch.tensor([[0.0, -1.0]]), "out.bias": torch.tensor([5.0]),
    }  # fmt: skip
    silence(state, [Connection("conv.weight", "fc.weight", 2), Connection("fc.weight", "out.weight", 1)])
    assert state["conv.bias"].tolist() == [1.0, 0.0]
    assert state["fc.bias"].tolist() == [0.0, 4.0]
    assert state["out.bias"].tolist() == [5.0]


def test_silence_passes_over_layers_without_bias():
    state = {"a.weight": torch.ones(2, 2), "b.weight": torch.zeros(2, 2)}
    silence(state, [Connection("a.weight", "b.weight", 1)])
    assert sorted(state) == ["a.weight", "b.weight"]


@torch.no_grad()
def test_silence_changes_no_output():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 10), nn.ReLU(), nn.Linear(10, 3)
    )
    net[6].weight[:, :7] = 0
    net[4].weight[:, :18] = 0
    x = torch.randn(5, 1, 8, 8)
    before = net(x)
    state = net.state_dict()
    silence(state, connections(net))
    assert state["0.bias"][:2].tolist() == [0, 0]
    assert state["4.bias"][:7].tolist() == [0] * 7
    assert (state["4.bias"][7:] != 0).all()
    torch.testing.assert_close(net(x), before)
