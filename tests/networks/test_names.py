"""The tensors of a file under the names of a network: what fits decides."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from deepcompress.checkpoint import Checkpoint, open_checkpoint
from deepcompress.compression.tensors_only import compress_state
from deepcompress.errors import CheckpointError, NetworkError
from deepcompress.networks import build
from deepcompress.networks.names import fitted, known, naming
from deepcompress.reading.loader import fill, load, load_state_dict
from deepcompress.recipe import Recipe

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")


class Net(nn.Module):
    def __init__(self, width=3):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width))
        self.head = nn.Linear(width, 2)


class Wrapped(nn.Module):
    def __init__(self, name, inner):
        super().__init__()
        setattr(self, name, inner)


def net():
    torch.manual_seed(0)
    return Net()


def filled(tmp_path, state, network, **how):
    """The checkpoint, saved and matched, after the network took it."""
    torch.save(state, tmp_path / "x.pt")
    source = fitted(open_checkpoint(tmp_path / "x.pt", **how), network)
    fill(network, dict(source.state), "x.pt")
    return source


def same(network, expected):
    state = network.state_dict()
    return state.keys() == expected.keys() and all(torch.equal(state[name], value) for name, value in expected.items())


def under(prefix, state):
    return {prefix + name: value for name, value in state.items()}


PREFIXES = ["", "module.", "_orig_mod.", "model.", "net.", "encoder.", "module.model.", "model._orig_mod.net.",
            "_orig_mod.module.encoder.model."]  # fmt: skip


@pytest.mark.parametrize("prefix", PREFIXES)
def test_any_common_beginning_is_removed(prefix, tmp_path):
    expected = net().state_dict()
    network = Net()
    source = filled(tmp_path, under(prefix, expected), network)
    assert same(network, expected)
    assert source.found.prefix == prefix
    assert source.found.left_out == ()


@pytest.mark.parametrize("inner", ["module", "_orig_mod", "model", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_a_network_with_an_attribute_of_that_name(inner, prefix, tmp_path):
    """Whatever the file has in front, and whatever the network has."""
    plain = net().state_dict()
    for state in (under(prefix, under(f"{inner}.", plain)), under(prefix, plain)):
        network = Wrapped(inner, Net())
        filled(tmp_path, state, network)
        assert same(network, under(f"{inner}.", plain))


def test_what_lies_beside_the_network_is_left_out_and_said(tmp_path):
    expected = net().state_dict()
    state = {**under("model.", expected), "criterion.weight": torch.ones(2, 2), "n_averaged": torch.tensor(3)}
    network = Net()
    source = filled(tmp_path, state, network)
    assert same(network, expected)
    assert source.found.left_out == ("criterion.weight", "n_averaged")


def test_a_network_and_its_average_are_not_guessed_between(tmp_path):
    expected = net().state_dict()
    state = {**under("ema.module.", {name: value + 1 for name, value in expected.items()}), **under("model.", expected)}
    with pytest.raises(CheckpointError, match=r"fits several parts of the file, 'model', 'ema.module'; .* --key"):
        filled(tmp_path, state, Net())
    network = Net()
    filled(tmp_path, state, network, key="model")
    assert same(network, expected)


def test_of_two_parts_the_one_whose_shapes_fit(tmp_path):
    expected = net().state_dict()
    network = Net()
    filled(tmp_path, {**under("small.", Net(2).state_dict()), **under("large.", expected)}, network)
    assert same(network, expected)


def test_counters_of_batch_norm_may_be_missing(tmp_path):
    expected = {name: value for name, value in net().state_dict().items() if "num_batches" not in name}
    network = Net()
    filled(tmp_path, under("model.", expected), network)
    assert all(torch.equal(network.state_dict()[name], value) for name, value in expected.items())


def test_what_does_not_fit_keeps_its_names(tmp_path):
    source = Checkpoint({"module.other": torch.ones(2, 2)})
    assert fitted(source, net()) is source


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


@pytest.mark.parametrize("missing", ["embed.weight", "head.weight"])
@pytest.mark.parametrize("prefix", ["", "model."])
def test_of_tied_names_one_may_be_missing(missing, prefix, tmp_path):
    expected = Tied().state_dict()
    state = {name: value for name, value in expected.items() if name != missing}
    network = Tied()
    filled(tmp_path, under(prefix, state), network)
    assert same(network, expected)
    assert network.head.weight is network.embed.weight


# Computed weights ------------------------------------------------------------------------------------------

WAYS = {
    "weight_norm": nn.utils.weight_norm,
    "new weight_norm": parametrizations.weight_norm,
    "spectral_norm": nn.utils.spectral_norm,
    "new spectral_norm": parametrizations.spectral_norm,
    "mask": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
}


def computed(way):
    torch.manual_seed(0)
    network = nn.Sequential(WAYS[way](nn.Linear(4, 3)), nn.ReLU(), nn.Linear(3, 2)).eval()
    network(torch.ones(1, 4))
    return network


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("prefix", ["", "model."])
def test_a_network_that_computes_its_weights_takes_what_they_come_from(way, prefix, tmp_path):
    expected = computed(way)
    network = computed(way)
    for value in network.state_dict().values():
        value.zero_()
    source = filled(tmp_path, under(prefix, expected.state_dict()), network)
    assert same(network, expected.state_dict())
    assert not source.found.combined


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("prefix", ["", "model."])
def test_a_plain_network_takes_what_they_come_to(way, prefix, tmp_path):
    expected = computed(way)
    plain = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    source = filled(tmp_path, under(prefix, expected.state_dict()), plain)
    x = torch.randn(5, 4)
    assert torch.equal(plain(x), expected(x))
    assert list(source.found.combined) == ["0.weight"]


class Half(nn.Module):
    def forward(self, weight):
        return weight / 2


def test_a_parametrization_of_the_users_own_beside_known_ones(tmp_path):
    def make():
        own = nn.Linear(4, 3)
        parametrize.register_parametrization(own, "weight", Half())
        return nn.Sequential(own, parametrizations.weight_norm(nn.Linear(3, 2)))

    expected, network = make(), make()
    filled(tmp_path, under("net.", expected.state_dict()), network)
    assert same(network, expected.state_dict())


# A .dc file -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["dense", "sparse"])
def test_a_dc_file_of_other_names_loads_into_a_network(mode, tmp_path):
    torch.manual_seed(0)
    state = under("model.", nn.Sequential(nn.Linear(300, 200), nn.ReLU(), nn.Linear(200, 5)).state_dict())
    compress_state(state, Recipe(prune=0.9, retrain=False), tmp_path / "m.dc")
    network = load(tmp_path / "m.dc", into=nn.Sequential(nn.Linear(300, 200), nn.ReLU(), nn.Linear(200, 5)), mode=mode)
    expected = load_state_dict(tmp_path / "m.dc")
    x = torch.randn(3, 300)
    hidden = torch.relu(x @ expected["model.0.weight"].T + expected["model.0.bias"])
    torch.testing.assert_close(network(x), hidden @ expected["model.2.weight"].T + expected["model.2.bias"])


def test_a_dc_file_with_one_of_two_tied_names(tmp_path):
    compress_state({"embed.weight": Tied().embed.weight.detach()}, Recipe(prune=0.5, retrain=False), tmp_path / "m.dc")
    network = load(tmp_path / "m.dc", into=Tied())
    assert torch.equal(network.head.weight, load_state_dict(tmp_path / "m.dc")["embed.weight"])


def test_a_dc_file_of_another_network_is_refused_as_before(tmp_path):
    compress_state(net().state_dict(), Recipe(prune=0.5, retrain=False), tmp_path / "m.dc")
    with pytest.raises(NetworkError, match=r"m.dc: has no tensor weight, which the network Linear needs"):
        load(tmp_path / "m.dc", into=nn.Linear(3, 2))


def test_a_known_network_is_known_behind_any_prefix(tmp_path):
    state = build("lenet-300-100").state_dict()
    assert known(Checkpoint(state)) == known(Checkpoint(under("model.net.", state))) == "lenet-300-100"
    assert known(Checkpoint({**under("a.", state), **under("b.", state)})) is None
    assert known(Checkpoint({**state, "fc1.bias": torch.ones(3)})) is None


def test_tensors_beside_the_network_s_own_names_are_seen():
    """A network that lacks the last layer is not the one of the file, and nothing is left out in silence."""
    whole = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    state = whole.state_dict()
    assert list(fitted(Checkpoint(state), whole[:2]).state) == list(state)
    assert naming(whole[:2], state) == {name: name for name in state}


@pytest.mark.parametrize("prefix", ["", "module.", "net.", "module.model.encoder."])
def test_a_tensor_that_is_missing_leaves_the_other_names_found(prefix):
    network = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    state = {prefix + name: value for name, value in network.state_dict().items() if name != "2.bias"}
    state[f"{prefix}more"] = torch.ones(2)
    fresh = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    found = fitted(Checkpoint(state), fresh)
    with pytest.raises(NetworkError, match=r"has no tensor 2\.bias"):
        fill(fresh, dict(found.state), "x")
    misfit = fill(fresh, dict(found.state), "x", strict=False)
    assert misfit.missing == ("2.bias",)
    assert [name.rpartition(".")[2] for name in misfit.unexpected] == ["more"]
    assert torch.equal(fresh[0].weight, network[0].weight)
    assert naming(fresh, state)["2.weight"] == f"{prefix}2.weight"
