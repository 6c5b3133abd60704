"""Compression to a size: the file is never larger than asked, whatever the settings."""

from __future__ import annotations

import copy

import pytest
import torch
from samples import conv_net
from torch import nn

from deepcompress.compression.pipeline import compress
from deepcompress.container.breakdown import inspect
from deepcompress.errors import RecipeError
from deepcompress.reading.loader import load
from deepcompress.recipe import LayerRule, Recipe
from deepcompress.training.evaluation import evaluate
from deepcompress.training.loop import fit

QUICK = {"epochs": 2, "finetune_epochs": 1}


@pytest.fixture
def dense_conv(image_train):
    torch.manual_seed(0)
    model = conv_net(batch_norm=True)
    fit(model, image_train, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), 3, stage="train")
    return model


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"quantizer": "kmeans", "bits": 2},
        {"coder": "huffman", "small_bits": None},
        {"rate": 0.05, "bits": 5},
        {"weighting": "fisher"},
        {"regrow": "surgery"},
        {"penalty": "rate"},
        {"schedule": "linear"},
        {"finetune_epochs": 0},
        {"epochs": 0},
        {"bits": "none"},
        {"precision": "bfloat16"},
        {"retrain": False},
        {"layers": (LayerRule("*", group="all"),)},
        {"sort_neurons": True},
    ],
    ids=str,
)
def test_the_file_is_no_larger_than_asked(settings, dense_conv, image_train, image_test, tmp_path):
    trained = QUICK if settings.get("retrain", True) else {}
    recipe = Recipe.smallest(target_size=900, **{**trained, **settings})
    result = compress(dense_conv, image_train, image_test, recipe, tmp_path / "m.dc")
    assert (tmp_path / "m.dc").stat().st_size == result.file_bytes <= 900
    found = inspect(tmp_path / "m.dc")
    assert sum(found.sections.values()) == result.file_bytes
    torch.manual_seed(1)
    again = load(tmp_path / "m.dc", into=conv_net(batch_norm=True))
    assert evaluate(again, image_test).accuracy == result.accuracy_after
    kept = {layer.name: layer.density for layer in found.layers if layer.name in result.kept}
    assert kept == pytest.approx(result.kept)


def test_the_same_network_takes_less_where_neurons_are_sorted(tmp_path):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(200, 100), nn.ReLU(), nn.Linear(100, 10)), torch.randn(8, 200)
    sizes, outputs = [], []
    for is_sorted in (False, True):
        recipe = Recipe(target_size=900, bits=2, small_bits=4, coder="ans", retrain=False, sort_neurons=is_sorted)
        sizes.append(compress(model, None, None, recipe, tmp_path / "m.dc").file_bytes)
        outputs.append(load(tmp_path / "m.dc", into=copy.deepcopy(model))(x))
    assert sizes[1] < 0.95 * sizes[0]
    assert torch.allclose(*outputs, atol=1e-6)


def test_what_fits_loses_little(dense_conv, image_train, image_test, tmp_path):
    dense = evaluate(dense_conv, image_test).accuracy
    recipe = Recipe.smallest(target_size=1200, epochs=8, finetune_epochs=4)
    assert compress(dense_conv, image_train, image_test, recipe, tmp_path / "m.dc").accuracy_after >= dense - 5


def test_one_seed_one_file(dense_conv, image_train, image_test, tmp_path):
    recipe = Recipe.smallest(target_size=900, **QUICK)
    files = []
    for name in ("a.dc", "b.dc"):
        compress(dense_conv, image_train, image_test, recipe, tmp_path / name)
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1]


def test_shared_values_lie_on_a_grid(dense_conv, image_train, image_test, tmp_path):
    compress(dense_conv, image_train, image_test, Recipe.smallest(target_size=900, **QUICK), tmp_path / "m.dc")
    model = load(tmp_path / "m.dc", into=conv_net(batch_norm=True))
    for value in (parameter for parameter in model.parameters() if parameter.ndim > 1):
        kept = value.detach()[value.detach() != 0].double()
        step = kept.abs().min()
        multiples = [kept / (step / divisor) for divisor in range(1, 5)]  # the smallest may be more than one step
        assert any((ratio - ratio.round()).abs().max() < 1e-6 for ratio in multiples)


@pytest.mark.parametrize("size", [1, 60])
def test_a_size_that_leaves_no_room_is_refused(size, dense_conv, image_train, image_test, tmp_path):
    with pytest.raises(RecipeError, match=f"target_size is {size} bytes, but what is not pruned .* ask for more"):
        compress(dense_conv, image_train, image_test, Recipe.smallest(target_size=size, **QUICK), tmp_path / "m.dc")
    assert not (tmp_path / "m.dc").exists()


def test_the_smallest_possible_file_is_named(dense_conv, tmp_path):
    def fits(size):
        try:
            compress(dense_conv, None, None, Recipe.smallest(target_size=size, retrain=False), tmp_path / "m.dc")
        except RecipeError as error:
            assert f"target_size is {size} bytes" in str(error)
            return False
        assert (tmp_path / "m.dc").stat().st_size <= size
        return True

    low = 256  # a little below the least that leaves any room
    while fits(low):
        low -= 16
    high = low + 16
    while not fits(high):
        high += 16
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    assert high > 200
