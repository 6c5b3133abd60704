"""Networks of every kind, compressed and reloaded: the outputs are those of the network in the file, bit for bit."""

from __future__ import annotations

import copy
import json
import math
import warnings
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from samples import CLASSES, batches
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import deepcompress as dc
from deepcompress.compression.tensors_only import compress_state
from deepcompress.errors import CheckpointError, DataError, NetworkError, RecipeError, TaskError
from deepcompress.recipe import LayerRule, Recipe
from deepcompress.training.progress import Progress

RECIPE = Recipe(prune=0.6, bits=4, epochs=2, iterations=2, finetune_epochs=1, seed=3)


class Tagger(nn.Module):
    """A label for each token of a sequence."""

    def __init__(self, cell=nn.LSTM):
        super().__init__()
        self.embed = nn.Embedding(20, 8, padding_idx=0)
        self.cell = cell(8, 12, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(24, 5)

    def forward(self, tokens):
        return self.head(self.cell(self.embed(tokens))[0])


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.register_buffer("mask", torch.full((8, 8), -1e9).triu(1))

    def forward(self, x):
        y = self.norm(x)
        x = x + self.attention(y, y, y, attn_mask=self.mask, need_weights=False)[0]
        return x + self.mlp(x)


class Gpt(nn.Module):
    """A language model whose last layer is its embedding."""

    def __init__(self, width=16):
        super().__init__()
        self.tokens = nn.Embedding(30, width)
        self.positions = nn.Parameter(0.02 * torch.randn(1, 8, width))
        self.blocks = nn.Sequential(Block(width), Block(width))
        self.head = nn.Linear(width, 30, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, tokens):
        return self.head(self.blocks(self.tokens(tokens) + self.positions))


class Autoencoder(nn.Module):
    """Images to a code and back, by strided and transposed convolutions."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.decoder = nn.Sequential(nn.ConvTranspose2d(8, 8, 4, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 1))

    def forward(self, images):
        return self.decoder(self.encoder(images))


def token_loss(output, target):
    return F.cross_entropy(output.flatten(0, 1), target.flatten())


def token_accuracy(output, target):
    return 100 * (output.argmax(-1) == target).float().mean()


def sequences(symbols, length=8, labels=5, n=96):
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(1, symbols, (n, length), generator=generator)
    return tokens, tokens % labels


def pairs(x, y, size=32):
    return list(zip(x.split(size), y.split(size), strict=True))


def learn(model, data, loss, epochs=4):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(epochs):
        for x, y in data:
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()
    return model


def check_reloaded(result, model, fresh, x):
    """Reloaded into `fresh`, the file gives what its tensors give in a copy of the network they were made from."""
    state = dc.load_state_dict(result.file)
    again = dc.load(result.file, into=fresh)
    twin = copy.deepcopy(model).eval()
    dc.bake(twin)
    twin.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(again(x), twin(x))
    return state


def result_of_a_guess(symbols):
    return math.log(symbols)


def density(weight):
    return float((weight != 0).float().mean())


# Tasks other than classification --------------------------------------------------------------------------------


def test_a_sequence_tagger(tmp_path):
    torch.manual_seed(0)
    tokens, labels = sequences(20)
    data = pairs(tokens, labels)
    model = learn(Tagger(), data, token_loss, 12)
    recipe = replace(RECIPE, lr=0.1, finetune_lr=0.05, epochs=6)
    result = dc.compress(model, data, data, recipe, tmp_path / "m.dc", loss=token_loss, metric=token_accuracy)
    state = check_reloaded(result, model, Tagger(), tokens)
    assert (result.accuracy_before, result.accuracy_after) == (None, None)
    found = token_loss(dc.load(result.file, into=Tagger())(tokens), labels)
    assert result.loss_after == pytest.approx(found.item())
    assert result.metric_after > 90
    assert result.stages[0].metric > 90
    recurrent = [name for name in state if name.startswith("cell.weight")]
    assert len(recurrent) == 8
    assert all(len(state[name].unique()) <= 17 for name in recurrent)
    json.dumps(result.as_dict(), allow_nan=False)


def test_a_language_model_with_tied_embeddings(tmp_path):
    torch.manual_seed(0)
    tokens, _ = sequences(30)
    data = pairs(tokens, (tokens * 7 + 3) % 30)
    model = learn(Gpt(), data, token_loss, 10)
    recipe = replace(RECIPE, lr=0.05, epochs=4, coder="auto")
    result = dc.compress(model, data, data, recipe, tmp_path / "m.dc", loss=token_loss)
    fresh = Gpt()
    state = check_reloaded(result, model, fresh, tokens)
    assert fresh.head.weight is fresh.tokens.weight
    assert state["head.weight"] is state["tokens.weight"]
    assert result.loss_after < 0.5 * result_of_a_guess(30)
    masks = [name for name in state if name.endswith("mask")]
    assert len(masks) == 2
    assert all(torch.equal(state[name], model.state_dict()[name]) for name in masks)  # a buffer, left alone
    assert not set(masks) & set(result.kept)
    assert "blocks.0.attention.in_proj_weight" in result.kept


def test_an_autoencoder(tmp_path):
    torch.manual_seed(0)
    images = torch.rand(64, 1, 8, 8).round()
    data = pairs(images, images)
    model = learn(Autoencoder(), data, F.mse_loss, 10)
    recipe = replace(RECIPE, batch_norm="fold", epochs=4, lr=0.05)
    result = dc.compress(model, data, data, recipe, tmp_path / "m.dc", loss=F.mse_loss)
    check_reloaded(result, model, Autoencoder(), images[:5])
    assert result.loss_after < float(images.var())


class TwoInputs(nn.Module):
    """Two inputs by name, two outputs."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(6, 8), nn.Linear(4, 8)
        self.out = nn.Linear(8, 3)

    def forward(self, a, b):
        hidden = torch.relu(self.left(a) + self.right(b))
        return {"scores": self.out(hidden), "hidden": hidden}


@pytest.mark.parametrize("kind", [tuple, dict])
@pytest.mark.parametrize("criterion", ["magnitude", "taylor1"])
def test_structures_of_tensors(tmp_path, kind, criterion):
    generator = torch.Generator().manual_seed(2)
    a, b, y = torch.randn(64, 6, generator=generator), torch.randn(64, 4, generator=generator), torch.rand(64, 3)
    parts = list(zip(a.split(16), b.split(16), y.split(16), strict=True))
    data = [((a, b) if kind is tuple else {"b": b, "a": a}, {"y": y}) for a, b, y in parts]

    def loss(output, target):
        return F.mse_loss(output["scores"], target["y"]) + 0.01 * output["hidden"].square().mean()

    samples = {} if criterion == "magnitude" else {"score_samples": 40}
    recipe = replace(RECIPE, criterion=criterion, weighting="fisher", **samples)
    result = dc.compress(TwoInputs(), data, data, recipe, tmp_path / "m.dc", loss=loss)
    again = dc.load(result.file, into=TwoInputs())
    assert result.loss_after == pytest.approx(loss(again(a, b), {"y": y}).item(), rel=1e-5)


def test_what_is_wrong_with_a_task_is_said_before_any_work(tmp_path):
    tokens, labels = sequences(20)
    data, model = pairs(tokens, labels), Tagger()

    def run(recipe=RECIPE, batches=data, **task):
        dc.compress(model, batches, None, recipe, tmp_path / "m.dc", **task)

    with pytest.raises(TaskError, match=r"the loss gives a Tensor of shape \(32, 8, 5\); it must give one number"):
        run(loss=lambda output, target: output)
    with pytest.raises(TaskError, match=r"the loss gives a float"):
        run(loss=lambda output, target: 0.5)
    with pytest.raises(TaskError, match=r"the loss fails with RuntimeError"):
        run(loss=F.cross_entropy)
    with pytest.raises(TaskError, match=r"the metric gives a str"):
        run(loss=token_loss, metric=lambda output, target: "good")
    with pytest.raises(RecipeError, match="label_smoothing is for classification"):
        run(replace(RECIPE, label_smoothing=0.1), loss=token_loss)
    with pytest.raises(RecipeError, match="max_drop needs validation data"):
        run(replace(RECIPE, max_drop=1.0), loss=token_loss)
    with pytest.raises(DataError, match="no batches"):
        run(batches=[], loss=token_loss)
    with pytest.raises(DataError, match="a batch is a pair"):
        run(batches=[tokens], loss=token_loss)
    with pytest.raises(NetworkError, match=r"the network Tagger cannot take samples of shapes \(8,\), \(8,\)"):
        run(batches=[((tokens, tokens), labels)], loss=token_loss)
    assert not (tmp_path / "m.dc").exists()


# Kinds of layers ------------------------------------------------------------------------------------------------


class FirstOutput(nn.Module):
    def __init__(self, cell):
        super().__init__()
        self.cell = cell

    def forward(self, x):
        return self.cell(x)[0]


class Attention(nn.Module):
    def __init__(self, **settings):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, **settings)

    def forward(self, x):
        return self.attention(x, x, x)[0]


KINDS = {
    "linear": (lambda: nn.Linear(12, 10), (3, 12)),
    "bilinear": (lambda: nn.Sequential(nn.Linear(12, 10), nn.Unflatten(1, (2, 5)), nn.Flatten()), (3, 12)),
    "conv1d": (lambda: nn.Conv1d(3, 8, 5), (2, 3, 12)),
    "conv3d": (lambda: nn.Conv3d(2, 4, 3), (2, 2, 5, 5, 5)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2), (2, 4, 5, 5)),
    "grouped": (lambda: nn.Sequential(nn.Conv2d(8, 8, 3, groups=2), nn.ReLU(), nn.Conv2d(8, 4, 1)), (2, 8, 6, 6)),
    "depthwise": (lambda: nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 12, 1)), (2, 8, 6, 6)),
    "lstm": (lambda: FirstOutput(nn.LSTM(6, 10, num_layers=2)), (5, 2, 6)),
    "gru": (lambda: FirstOutput(nn.GRU(6, 10, num_layers=2)), (5, 2, 6)),
    "attention": (Attention, (2, 5, 8)),
    "attention with keys of another size": (lambda: Attention(kdim=8, vdim=8, bias=False), (2, 5, 8)),
    "transformer": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (2, 5, 8)),
    "batch norm": (lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3)), (2, 3, 8, 8)),
    "group norm": (lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.GroupNorm(2, 6)), (2, 3, 8, 8)),
    "weight norm": (lambda: parametrizations.weight_norm(nn.Linear(12, 10)), (3, 12)),
    "spectral norm": (lambda: nn.Sequential(parametrizations.spectral_norm(nn.Conv2d(3, 6, 3))), (2, 3, 8, 8)),
    "orthogonal": (lambda: parametrizations.orthogonal(nn.Linear(12, 12)), (3, 12)),
}


@pytest.mark.parametrize("folded", [False, True], ids=["", "folded"])
@pytest.mark.parametrize("kind", KINDS)
def test_layers_of_every_kind(kind, folded, tmp_path):
    make, shape = KINDS[kind]
    torch.manual_seed(0)
    model, x = make(), torch.randn(shape)
    for _ in range(3):
        model(x)  # running statistics, power iterations
    settings = {"batch_norm": "fold", "small_bits": 6, "coder": "auto"} if folded else {}
    result = dc.compress(model, None, None, Recipe(prune=0.5, bits=4, retrain=False, **settings), tmp_path / "m.dc")
    state = check_reloaded(result, model, make(), x)
    total = sum(weight.numel() for weight in state.values() if weight.ndim > 1)
    lost = sum(int((weight == 0).sum()) for weight in state.values() if weight.ndim > 1)
    assert lost >= total // 2 - 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", ["linear", "conv1d", "lstm", "attention", "batch norm"])
def test_other_precisions(kind, dtype, tmp_path):
    make, shape = KINDS[kind]
    torch.manual_seed(0)
    model, x = make().to(dtype), torch.randn(shape).to(dtype)
    result = dc.compress(model, None, None, Recipe(prune=0.5, bits=4, retrain=False), tmp_path / "m.dc")
    state = check_reloaded(result, model, make().to(dtype), x)
    assert {value.dtype for value in state.values() if value.is_floating_point()} == {dtype}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_training_in_another_precision(dtype, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, CLASSES)).to(dtype)
    data = [(x.to(dtype), y) for x, y in batches(64, seed=1)]
    result = dc.compress(model, data, None, RECIPE, tmp_path / "m.dc")
    state = check_reloaded(result, model, copy.deepcopy(model), data[0][0])
    assert all(len(w.unique()) <= 17 and w.dtype is dtype for w in state.values() if w.ndim > 1)


# Computed weights -----------------------------------------------------------------------------------------------


class Heard(Progress):
    def __init__(self):
        self.said = []

    def message(self, text):
        self.said.append(text)


def test_computed_weights_become_plain_and_that_is_said(tmp_path, flat_train):
    def make():
        return nn.Sequential(
            parametrizations.weight_norm(nn.Linear(12, 16)), nn.ReLU(), parametrizations.spectral_norm(nn.Linear(16, 4))
        )

    torch.manual_seed(0)
    model, watch, x = make(), Heard(), flat_train[0][0]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = dc.compress(model, flat_train, None, RECIPE, tmp_path / "m.dc", watch=watch)
    assert [text.split(" is computed")[0] for text in watch.said[:2]] == ["0.weight", "2.weight"]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert parametrize.is_parametrized(model[0])

    state = dc.load_state_dict(tmp_path / "m.dc")
    assert set(state) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert sum(int((state[name] == 0).sum()) for name in ("0.weight", "2.weight")) >= 0.6 * (192 + 64) - 1
    plain = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))
    loaded = dc.load(tmp_path / "m.dc", into=plain)
    assert torch.equal(dc.load(tmp_path / "m.dc", into=make())(x), loaded(x))
    assert result.dense_bytes == 4 * sum(value.numel() for value in state.values())


def test_masks_of_torch_prune_are_taken_over(tmp_path, flat_train):
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))
    prune.l1_unstructured(model[0], "weight", amount=0.7)
    model(flat_train[0][0])  # its weight hangs on a graph now
    mask = model[0].weight_mask
    dc.compress(model, flat_train, None, replace(RECIPE, prune=0.5), tmp_path / "m.dc")
    assert not dc.load_state_dict(tmp_path / "m.dc")["0.weight"][mask == 0].any()
    assert prune.is_pruned(model)


@pytest.mark.parametrize("norm", ["weight_norm", "spectral_norm"])
def test_the_older_norms(norm, tmp_path, flat_train):
    def make():
        with warnings.catch_warnings(action="ignore"):
            return nn.Sequential(getattr(torch.nn.utils, norm)(nn.Linear(12, 4)))

    torch.manual_seed(0)
    model, x = make(), flat_train[0][0]
    expected = model.eval()(x)
    dc.compress(model, None, None, Recipe(prune=0, bits="none", retrain=False), tmp_path / "m.dc")
    assert torch.equal(dc.load(tmp_path / "m.dc", into=make())(x), expected)


def test_bare_tensors_of_computed_weights_are_refused(tmp_path):
    state = parametrizations.weight_norm(nn.Linear(4, 3)).state_dict()
    with pytest.raises(CheckpointError, match=r"tensor parametrizations.weight.original0: .* name it \(--network\)"):
        compress_state(state, Recipe(retrain=False), tmp_path / "m.dc")


# Left alone by patterns -----------------------------------------------------------------------------------------


def test_what_a_rule_keeps_is_stored_as_it_is(tmp_path):
    torch.manual_seed(0)
    tokens, labels = sequences(20)
    data, model = pairs(tokens, labels), Tagger()
    rules = (LayerRule("embed", keep=True), LayerRule("head", prune=0.1, bits="none"))
    recipe = replace(RECIPE, layers=rules, small_dtype="float16", epochs=0, finetune_epochs=0)
    result = dc.compress(model, data, None, recipe, tmp_path / "m.dc", loss=token_loss)
    state = check_reloaded(result, model, Tagger(), tokens)
    assert torch.equal(state["embed.weight"], model.embed.weight)
    assert "embed.weight" not in result.kept
    assert density(state["head.weight"]) == pytest.approx(0.9)
    assert len(state["head.weight"].unique()) > 100
    bare = compress_state(model.state_dict(), replace(recipe, retrain=False), tmp_path / "b.dc")
    assert (tmp_path / "b.dc").read_bytes() == (tmp_path / "m.dc").read_bytes()
    assert bare.kept == pytest.approx(result.kept)
    with pytest.raises(CheckpointError, match="kept by rules"):
        dc.compress(model, None, None, Recipe(retrain=False, layers=(LayerRule("*", keep=True),)), tmp_path / "m.dc")


def test_depthwise_filters_and_embeddings_are_spared_by_default(tmp_path):
    """LAMP gives small layers a larger share of what is kept: a filter of nine weights does not lose them all."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(32, 32, 3, groups=32), nn.ReLU(), nn.Conv2d(32, 256, 1), nn.Conv2d(256, 64, 1))
    recipe = Recipe(prune=0.9, retrain=False)
    result = dc.compress(model, None, None, recipe, tmp_path / "m.dc")
    even = dc.compress(model, None, None, replace(recipe, distribution="uniform"), tmp_path / "u.dc")
    assert result.kept["0.weight"] > 0.6
    assert even.kept["0.weight"] == pytest.approx(0.1, abs=0.01)
