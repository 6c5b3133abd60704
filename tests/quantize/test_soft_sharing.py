"""Soft weight sharing: the pull of the prior, the collapse of given weights, and what ends in the file."""

from __future__ import annotations

import pytest
import torch
from listener import Listener
from samples import CLASSES, Mlp, batches, conv_net
from torch import nn

from deepcompress.compression.pipeline import compress
from deepcompress.errors import DivergedError, RecipeError
from deepcompress.prune.masks import Masks
from deepcompress.quantize import soft_sharing
from deepcompress.quantize.mixture import Components
from deepcompress.quantize.soft_sharing import Collapse, SoftSharingHooks
from deepcompress.reading.loader import load_state_dict
from deepcompress.recipe import LayerRule, Recipe
from deepcompress.training.retraining import Run

SETTINGS = {"method": "sws", "optimizer": "adam", "lr": 0.01, "sws_tau": 0.001, "epochs": 4, "finetune_epochs": 0}
RECIPE = Recipe(prune=0.7, bits=2, **SETTINGS)
CPU = torch.device("cpu")


def layers_of(path):
    return {name: value for name, value in load_state_dict(path).items() if value.ndim > 1}


def test_the_prior_pulls_for_one_sample_of_all():
    layer, still = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
    still.weight.requires_grad_(False)
    layer.weight.grad = torch.tensor([[2.0, 3.0]])
    weights = {"weight": layer.weight, "still": still.weight}
    hooks = SoftSharingHooks(Run(layer, weights, batches(64, 1), RECIPE), 3)
    whole = hooks.mixture.gradients([layer.weight.detach(), still.weight.detach()], 1.0)[0]
    assert [hooks.before_epoch(epoch) and hooks.strength for epoch in (0, 3)] == [1.0, pytest.approx(100)]
    hooks.after_backward()
    assert torch.allclose(layer.weight.grad, torch.tensor([[2.0, 3.0]]) + whole * hooks.strength * 0.001 / 64)
    assert still.weight.grad is None


def collapse(weights, recipe, means=(0.0, -1.0, 0.5, 2.0)):
    """Components that are as wide and as frequent as each other."""
    same = torch.zeros(len(means), dtype=torch.float64)
    components = Components(torch.tensor(means).double(), same + 4, same)
    return Collapse({name: torch.tensor(weight) for name, weight in weights.items()}, components, recipe)


def test_each_weight_takes_the_mean_of_its_component():
    recipe = Recipe(**SETTINGS, prune=3 / 7)
    found = collapse({"a": [[0.2, -0.9], [0.6, 3.0]], "b": [[0.1, -0.4, 0.4]]}, recipe)
    assert found.values["a"].tolist() == [[0.0, -1.0], [0.5, 2.0]]
    assert found.values["b"].tolist() == [[0.0, 0.0, 0.5]]
    book = found.codebook(["a"], 4, CPU)
    assert book.centroids.tolist() == [-1.0, 0.5, 2.0]
    weights = {"a": torch.zeros(2, 2)}
    book.write(weights)
    assert weights["a"].tolist() == [[0.0, -1.0], [0.5, 2.0]]
    assert found.codebook(["b"], 4, CPU).centroids.tolist() == [0.5]  # the means that it takes
    assert found.codebook(["a", "b"], 4, CPU).counts().tolist() == [1, 2, 1]


def test_the_lowest_odds_go():
    """Odds are larger on the side where a component is near."""
    weights = {"a": [[0.2, -0.24, 0.3, 0.0]]}
    assert collapse(weights, Recipe(**SETTINGS, prune=0.5)).values["a"].tolist() == [[0.5, 0.0, 0.5, 0.0]]
    assert collapse(weights, Recipe(**SETTINGS, prune=0)).values["a"].tolist() == [[0.5, 0.5, 0.5, 0.0]]


def test_no_layer_loses_all_its_weights_and_zeros_stay():
    weights = {"a": [[0.01, -0.05, 0.1]], "b": [[1.0, 2.0, 3.0, -1.0]], "c": [[0.0, 0.0]]}
    found = collapse(weights, Recipe(**SETTINGS, prune=0.6))
    assert found.values["a"].tolist() == [[0.0, 0.0, 0.5]]
    assert found.values["c"].tolist() == [[0.0, 0.0]]


def test_values_are_the_means_of_one_mixture(tmp_path, dense, flat_train, flat_test, monkeypatch):
    made = []

    class Spy(Collapse):
        def __init__(self, weights, mixture, recipe):
            super().__init__(weights, mixture, recipe)
            made.append(mixture.means.float().tolist())

    monkeypatch.setattr(soft_sharing, "Collapse", Spy)
    watch = Listener()
    recipe = RECIPE.changed(epochs=25)
    result = compress(dense, flat_train, flat_test, recipe, tmp_path / "m.dc", watch=watch)
    layers = layers_of(tmp_path / "m.dc").values()
    values = {value for weight in layers for value in weight.reshape(-1).tolist()}
    assert values <= set(made[-1])
    assert f"the weights take {len(values) - 1} of the 4 means" in watch.lines
    count = sum(weight.numel() for weight in layers)
    assert sum(int((weight == 0).sum()) for weight in layers) == round(0.7 * count)
    assert result.accuracy_after > 90
    assert Recipe.from_dict(result.recipe) == recipe


def test_tuning_moves_the_values_of_each_layer(tmp_path, dense, flat_train, flat_test):
    recipe = RECIPE.changed(finetune_epochs=2, levels=3)
    compress(dense, flat_train, flat_test, recipe, tmp_path / "m.dc")
    assert all(len(weight[weight != 0].unique()) <= 3 for weight in layers_of(tmp_path / "m.dc").values())


class Words(nn.Module):
    """An LSTM between an embedding and a layer that is tied to it."""

    def __init__(self):
        super().__init__()
        self.embed, self.cell, self.head = nn.Embedding(12, 6), nn.LSTM(6, 6, batch_first=True), nn.Linear(6, 12)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(self.cell(self.embed(tokens))[0][:, -1])


class Odd(nn.Module):
    """A layer that is frozen, one that is constant, one that is zero and frozen, and one without weights."""

    def __init__(self):
        super().__init__()
        self.first, self.constant, self.last = nn.Linear(12, 8), nn.Linear(8, 8), nn.Linear(8, CLASSES)
        self.first.weight.requires_grad_(False)
        nn.init.constant_(self.constant.weight, 0.25)
        self.zero = nn.Parameter(torch.zeros(3, 2), requires_grad=False)
        self.none = nn.Parameter(torch.zeros(0, 4))

    def forward(self, x):
        return self.last(torch.relu(self.constant(torch.relu(self.first(x)))))


def words(n):
    tokens = torch.randint(0, 12, (n, 5), generator=torch.Generator().manual_seed(0))
    return list(zip(tokens.split(32), tokens[:, 0].split(32), strict=True))


@pytest.mark.parametrize(
    ("make", "data"),
    [
        (lambda: conv_net(batch_norm=True), batches(64, 1, (1, 8, 8))),
        (Words, words(64)),
        (Odd, batches(64, 1)),
        (lambda: Mlp().double(), [(x.double(), y) for x, y in batches(64, 1)]),
        (lambda: Mlp().bfloat16(), [(x.bfloat16(), y) for x, y in batches(64, 1)]),
    ],
    ids=["convolutions", "LSTM and tied weights", "frozen, constant, zero and empty", "float64", "bfloat16"],
)
def test_networks_of_many_kinds(make, data, tmp_path):
    torch.manual_seed(0)
    network = make()
    compress(network, data, None, RECIPE, tmp_path / "m.dc", task="classification")
    found = load_state_dict(tmp_path / "m.dc")
    values = {value for weight in layers_of(tmp_path / "m.dc").values() for value in weight.reshape(-1).tolist()}
    assert 2 <= len(values) <= 5
    for name, value in network.state_dict().items():
        assert found[name].shape == value.shape
        assert found[name].dtype == value.dtype
        assert value.ndim < 2 or not value.any() or found[name].any()  # no layer dies
    if isinstance(network, Words):
        assert torch.equal(found["head.weight"], found["embed.weight"])
    if isinstance(network, Odd):
        assert not found["zero"].any()


def test_a_network_of_zeros_stays_so(tmp_path):
    network = nn.Linear(4, 4, bias=False)
    nn.init.zeros_(network.weight)
    network.weight.requires_grad_(False)
    nothing = nn.Sequential(network, nn.BatchNorm1d(4))
    compress(nothing, batches(64, 1, (4,)), None, RECIPE, tmp_path / "m.dc", task="classification")
    assert not load_state_dict(tmp_path / "m.dc")["0.weight"].any()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"optimizer": "sgd"}, "set optimizer to adam"),
        ({"bits": "none"}, "set bits to 8 or less, or levels"),
        ({"bits": 9}, "at most 256"),
        ({"levels": 257}, "at most 256"),
        ({"epochs": 0}, "epochs is 0"),
        ({"retrain": False}, "nothing is retrained"),
        ({"max_drop": 1.0}, "max_drop sets another end"),
        ({"target_size": 1000}, "target_size sets another end"),
        ({"quality": 1.0, "distribution": "std", "scope": "layer"}, "set prune"),
        ({"penalty": "l1"}, "penalty is for other methods"),
        ({"criterion": "obs"}, "criterion is for pruning and sharing stage after stage"),
        ({"conv_bits": 3}, "conv_bits is for layers with values of their own"),
        ({"quantizer": "uniform"}, "quantizer is for layers with values of their own"),
        ({"init": "density"}, "init is for layers with values of their own"),
        ({"rate": 0.1}, "rate is for values that are shared after pruning"),
        ({"layers": (LayerRule("fc1", bits=3),)}, "layer 'fc1' has bits or levels of its own"),
        ({"distribution": "lamp"}, "distribution spreads pruning"),
        ({"kl_weight": 0.5}, "kl_weight is only for method variational"),
    ],
)
def test_what_does_not_go_with_it(settings, reason):
    with pytest.raises(RecipeError, match=reason):
        Recipe(**{"method": "sws", "optimizer": "adam", **settings})


def test_what_goes_with_it():
    rules = (LayerRule("fc1", prune=0.5), LayerRule("fc3", keep=True), LayerRule("fc*", group="all"))
    recipe = Recipe(
        **SETTINGS, prune=0.8, scope="layer", distribution="uniform", codebook_dtype="float16", layers=rules
    )
    assert Recipe.from_dict(recipe.as_dict()) == recipe
    with pytest.raises(RecipeError, match="sws_tau is only for method sws"):
        Recipe(sws_tau=0.1)


def test_weights_that_are_no_longer_finite(tmp_path, mlp, flat_train):
    weights = {"fc1.weight": mlp.fc1.weight, "fc2.weight": mlp.fc2.weight}
    hooks = SoftSharingHooks(Run(mlp, weights, flat_train, RECIPE), 3)
    with torch.no_grad():
        mlp.fc1.weight[0, 0] = torch.nan
    for moment in (hooks.after_backward, lambda: hooks.before_epoch(1)):
        with pytest.raises(DivergedError, match="no longer finite; lower the learning rate"):
            moment()
    with pytest.raises(DivergedError, match="lower the learning rate"):
        compress(Mlp(), flat_train, None, RECIPE.changed(lr=1e30), tmp_path / "m.dc")


def test_without_data(tmp_path, mlp):
    with pytest.raises(RecipeError, match="data"):
        compress(mlp, None, None, RECIPE, tmp_path / "m.dc")
    weights = {name: value for name, value in mlp.named_parameters() if value.ndim > 1}
    with pytest.raises(RecipeError, match=r"method 'sws'.* leave method out"):
        compress(mlp, batches(64, 1), None, RECIPE, tmp_path / "m.dc", masks=Masks.full(weights))
