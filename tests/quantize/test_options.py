"""The options of weight sharing from one end of the pipeline to the other: what is in the file is what was shared."""

from __future__ import annotations

import pytest
import torch
from samples import Mlp, conv_net

from deepcompress.compression.pipeline import compress
from deepcompress.compression.tensors_only import compress_state
from deepcompress.container.breakdown import inspect
from deepcompress.errors import RecipeError
from deepcompress.reading.loader import load_state_dict
from deepcompress.recipe import LayerRule, Recipe

QUICK = {"prune": 0.5, "iterations": 2, "epochs": 2, "finetune_epochs": 1}
OPTIONS = {
    "grid": {"bits": 3, "quantizer": "uniform"},
    "rate": {"bits": 4, "rate": 0.1},
    "grid and rate": {"bits": 5, "quantizer": "uniform", "rate": 0.1, "weighting": "fisher"},
    "fisher": {"bits": 3, "weighting": "fisher"},
    "ternary": {"levels": 2},
    "halves": {"bits": 4, "codebook_dtype": "float16"},
    "vectors": {"bits": 4, "small_bits": 3},
    "all": {"levels": 6, "quantizer": "uniform", "rate": 0.03, "weighting": "fisher", "small_bits": 4,
            "layers": (LayerRule("fc[12]", group="g"), LayerRule("fc3", bits="none"))},
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_what_is_measured_is_what_the_file_holds(name, dense, flat_train, flat_test, tmp_path):
    recipe = Recipe(**QUICK, **OPTIONS[name])
    result = compress(dense, flat_train, flat_test, recipe, tmp_path / "m.dc")
    state = load_state_dict(tmp_path / "m.dc")
    assert result.stages[-2].accuracy == result.accuracy_after
    assert result.accuracy_after > 60
    for key, kept in result.kept.items():
        assert int((state[key] != 0).sum()) / state[key].numel() == kept
        levels = recipe.levels_of(key, is_conv=False)
        assert levels is None or len(torch.unique(state[key][state[key] != 0])) <= levels
    if recipe.small_bits is not None:
        assert all(len(torch.unique(v)) <= 2**recipe.small_bits for v in state.values() if v.ndim == 1)
    again = compress(dense, flat_train, flat_test, recipe, tmp_path / "again.dc")
    assert (tmp_path / "again.dc").read_bytes() == (tmp_path / "m.dc").read_bytes()
    assert again.file_bytes == inspect(tmp_path / "m.dc").file_bytes


@pytest.mark.parametrize("quantizer", ["kmeans", "uniform"])
def test_the_higher_the_rate_the_smaller_the_file(quantizer, tmp_path):
    torch.manual_seed(0)
    state = {"w": torch.randn(200, 100)}
    sizes = []
    for rate in (0.0, 0.01, 0.05, 0.2, 1.0):
        recipe = Recipe(prune=0.5, bits=5, quantizer=quantizer, rate=rate)
        sizes.append(compress_state(state, recipe, tmp_path / "m.dc").file_bytes)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < sizes[0] / 2


@pytest.mark.parametrize("fold", ["keep", "fold"])
def test_running_statistics_are_not_rounded(fold, image_train, tmp_path):
    torch.manual_seed(0)
    model = conv_net(batch_norm=True)
    with torch.no_grad():
        for x, _ in image_train:
            model(x)
    recipe = Recipe(prune=0.5, bits=4, small_bits=2, retrain=False, batch_norm=fold)
    compress(model.eval(), None, None, recipe, tmp_path / "m.dc")
    state = load_state_dict(tmp_path / "m.dc")
    if fold == "keep":
        for name in ("1.running_mean", "1.running_var"):
            assert torch.equal(state[name], model.state_dict()[name])
        compress_state(model.state_dict(), recipe, tmp_path / "s.dc")
        streamed = load_state_dict(tmp_path / "s.dc")
        assert all(torch.equal(streamed[name], value) for name, value in state.items())
    assert len(torch.unique(state["1.bias"])) <= 4
    assert (state["1.weight"] > 0).all()


def test_the_gradients_need_data(tmp_path):
    with pytest.raises(RecipeError, match="weighting needs training data, and without retraining none"):
        Recipe(weighting="fisher", retrain=False)
    with pytest.raises(RecipeError, match="weighting 'fisher' needs training data"):
        compress_state(Mlp().state_dict(), Recipe(weighting="fisher"), tmp_path / "m.dc")
    assert not (tmp_path / "m.dc").exists()


def test_tied_vectors_are_rounded_once(tmp_path):
    torch.manual_seed(0)
    bias = torch.randn(30)
    state = {"w": torch.randn(30, 20), "b": bias, "c": bias}
    compress_state(state, Recipe(prune=0.5, small_bits=3), tmp_path / "m.dc")
    found = load_state_dict(tmp_path / "m.dc")
    assert torch.equal(found["b"], found["c"])
    assert 4 <= len(torch.unique(found["b"])) <= 8
