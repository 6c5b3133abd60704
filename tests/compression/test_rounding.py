"""Networks rounded row by row after training: without data, without network code, and to a size."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from listener import Listener
from torch import nn

import deepcompress as dc
from deepcompress.compression.plan import plan
from deepcompress.compression.sizing import COARSEST, FINEST, step_for
from deepcompress.compression.tensors_only import RUINED, compress_state
from deepcompress.errors import RecipeError
from deepcompress.quantize.rows import (
    LARGEST,
    RowGrid,
    coarseness,
    entropy,
    evened,
    nearest,
    row_sizes,
    storable,
    typical_sizes,
)
from deepcompress.recipe import LayerRule, Recipe
from deepcompress.training.progress import Progress

PLAIN = Recipe(retrain=False)


@pytest.fixture
def state():
    torch.manual_seed(0)
    wide = torch.randn(64, 90)
    wide[3] *= 1e-9  # a row that training never used
    return {"wide": wide, "wide.bias": torch.randn(64), "conv": 0.1 * torch.randn(16, 8, 3, 3)}


def test_nothing_is_pruned_and_the_error_is_that_of_the_step(state, tmp_path):
    result = compress_state(state, PLAIN, tmp_path / "m.dc")
    found = dc.load_state_dict(tmp_path / "m.dc")
    assert torch.equal(found["wide.bias"], state["wide.bias"])
    assert not found["wide"][3].any()
    for name in ("wide", "conv"):
        step = PLAIN.step * coarseness({"wide": 5760, "conv": 1152})[name]
        error = float((found[name] - state[name]).norm() / state[name].norm())
        assert result.errors[name] == pytest.approx(error)
        assert error == pytest.approx(step / math.sqrt(12), rel=0.12)
    assert result.errors.keys() == {"wide", "conv"}
    assert result.file_bytes < result.dense_bytes / 3.5


def test_no_recipe_at_all_still_prunes_as_it_always_did(state, tmp_path):
    assert compress_state(state, None, tmp_path / "m.dc").recipe["prune"] == 0.9


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_other_types_stay_what_they_are(dtype, tmp_path):
    torch.manual_seed(0)
    weight = torch.randn(40, 30).clamp(-2.5, 2.5).to(dtype)
    compress_state({"w": weight}, PLAIN, tmp_path / "m.dc")
    found = dc.load_state_dict(tmp_path / "m.dc")["w"]
    assert found.dtype is dtype
    assert (found.double() - weight.double()).abs().max() <= 0.1


@pytest.mark.parametrize(
    "weight",
    [torch.zeros(5, 4), torch.full((3, 3), 2.0), torch.full((2, 2), 1e-30), torch.tensor([[1e30, 1.0]]),
     torch.full((2, 2), 65504.0).half(), torch.tensor([[3.0]]), torch.eye(30)],
    ids=["zero", "constant", "tiny", "huge", "half", "one", "sparse"],
)  # fmt: skip
def test_odd_tensors_come_back_finite_and_near(weight, tmp_path):
    compress_state({"w": weight, "b": torch.ones(3)}, PLAIN, tmp_path / "m.dc")
    found = dc.load_state_dict(tmp_path / "m.dc")["w"]
    assert torch.isfinite(found).all()
    assert (found.double() - weight.double()).abs().max() <= 0.05 * float(weight.double().abs().max())
    assert not found[weight == 0].any()


def test_nan_is_refused_and_kept_tensors_are_exact(state, tmp_path):
    rule = replace(PLAIN, layers=(LayerRule("conv", keep=True),))
    compress_state(state, rule, tmp_path / "m.dc")
    assert torch.equal(dc.load_state_dict(tmp_path / "m.dc")["conv"], state["conv"])
    state["wide"][0, 0] = math.nan
    with pytest.raises(dc.errors.CheckpointError, match="wide: 1 of 5760 values are NaN"):
        compress_state(state, PLAIN, tmp_path / "n.dc")


@pytest.mark.parametrize("target", [2500, 4000, 9000])
def test_a_size_is_kept_and_used(state, target, tmp_path):
    result = compress_state(state, replace(PLAIN, target_size=target), tmp_path / "m.dc")
    assert 0.95 * target <= result.file_bytes <= target
    assert result.file_bytes == (tmp_path / "m.dc").stat().st_size
    assert result.recipe["step"] != PLAIN.step


def test_a_size_that_cannot_be_is_said(state, tmp_path):
    with pytest.raises(RecipeError, match="target_size is 100 bytes, but with its weights as coarse as can be"):
        compress_state(state, replace(PLAIN, target_size=100), tmp_path / "m.dc")
    assert not list(tmp_path.iterdir())


def test_step_for_finds_the_finest_step_that_fits():
    tried = []

    def size_of(step):
        tried.append(step)
        return int(1000 * max(0.5 - math.log2(step / 4), 0.01))

    step = step_for(3000, size_of, 0.05, Progress())
    assert 2970 <= size_of(step) <= 3000
    assert len(tried) <= 9
    assert step_for(10**9, size_of, 0.05, Progress()) == FINEST
    assert step_for(10, size_of, 0.05, Progress()) <= COARSEST
    with pytest.raises(RecipeError, match="as coarse as can be the file has 10"):
        step_for(9, size_of, 0.05, Progress())


def test_step_for_comes_near_where_sizes_fall_ever_faster():
    """As those of a network of which most weights are 0: eight lines came to 60,142 bytes, and 4,644 were taken."""
    steps = [0.055, 0.719, 1.359, 1.826, 2.138, 2.296, 2.361, 2.427, 9.267]
    bits = np.log2([338_098, 139_558, 95_239, 78_737, 68_144, 62_501, 60_142, 57_900, 4_644])

    def size_of(step):
        return int(2 ** np.interp(math.log2(step), np.log2(steps), bits))

    step = step_for(60_000, size_of, 0.055, Progress())
    assert 54_000 <= size_of(step) <= 60_000


def test_pruning_without_retraining_warns(state, tmp_path):
    watch = Listener()
    compress_state(state, Recipe(retrain=False, prune=0.9), tmp_path / "m.dc", watch=watch)
    assert [line for line in watch.lines if RUINED in line and line.startswith("warning: 90 %")]
    watch = Listener()
    compress_state(state, PLAIN, tmp_path / "m.dc", watch=watch)
    assert not watch.lines


def test_a_few_large_weights_do_not_drown_the_others():
    torch.manual_seed(0)
    weight = torch.randn(2, 1000)
    weight[1, :20] *= 1000
    assert typical_sizes(weight).tolist() == pytest.approx([1.0, 1.15], abs=0.08)
    assert row_sizes(weight)[1] > 90


def test_places_of_a_kernel_meet_the_same_inputs():
    kernel = torch.tensor([[[1.0, 0.0, 0.001, 7.0]], [[0.5, 0.5, 0.5, 0.5]]])
    assert typical_sizes(kernel).tolist() == pytest.approx(row_sizes(kernel).tolist())
    split = torch.tensor([[[3.0, 4.0], [0.0, 0.0]]])  # the second input is not used
    assert typical_sizes(split).tolist() == pytest.approx(row_sizes(split).tolist())


def test_typical_sizes_of_rows_without_weights():
    weight = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    assert torch.equal(typical_sizes(weight), row_sizes(weight))
    assert typical_sizes(torch.zeros(2, 3)).tolist() == [0.0, 0.0]


def test_loud_inputs_that_small_weights_meet_are_kept(tmp_path):
    """An LSTM's input layer whose inputs were never normalized: rows of a few huge weights, for quiet inputs."""
    torch.manual_seed(0)
    loudness = torch.logspace(-1.5, 1.5, 40)
    weight = torch.randn(64, 40) / loudness
    inputs = torch.randn(256, 40) * loudness
    compress_state({"weight": weight}, replace(PLAIN, step=0.04), tmp_path / "m.dc")
    rounded = dc.load_state_dict(tmp_path / "m.dc")["weight"]
    eight_bits = weight.abs().amax(1, keepdim=True) / 127
    naive = (weight / eight_bits).round() * eight_bits
    outputs = inputs @ weight.T
    errors = [float((inputs @ each.T - outputs).norm() / outputs.norm()) for each in (rounded, naive)]
    assert errors[0] < 0.3 * errors[1]


def test_errors_add_up_to_nothing_in_kernels_and_rows():
    torch.manual_seed(0)
    for shape in ((50, 80), (12, 10, 3, 3), (6, 1, 5), (4, 1)):
        weight = torch.randn(shape)
        weight[0] = 0.1
        near = nearest(weight, torch.full((shape[0],), 0.75))
        even = evened(weight, near)
        errors = even.integers - weight / 0.75
        assert errors.flatten(1).sum(1).abs().max() <= 0.5 + 1e-4
        assert errors.abs().max() <= (1.5 if weight.ndim > 2 else 1.0)
        assert even.integers.abs().max() <= near.integers.abs().max()
        assert even.steps is near.steps
    kernels = (evened(torch.full((1, 3, 8), 0.2), RowGrid(torch.ones(1, 3, 8).int(), torch.ones(1))).integers).sum(2)
    assert kernels.tolist() == [[2, 2, 1]]  # 1.6 each, 4.8 together


def test_inputs_that_are_not_around_zero_keep_their_outputs(tmp_path):
    """Behind a ReLU, errors of the nearest numbers would add up."""
    torch.manual_seed(0)
    weight, inputs = torch.randn(64, 200), torch.randn(256, 200).relu()
    compress_state({"weight": weight}, replace(PLAIN, step=0.5), tmp_path / "m.dc")
    found = dc.load_state_dict(tmp_path / "m.dc")["weight"]
    plain = nearest(weight, storable(weight, 0.5 * typical_sizes(weight))).values()
    errors = [float((inputs @ (each - weight).T).square().mean()) for each in (found, plain)]
    assert errors[0] < 0.75 * errors[1]


def test_rows_of_a_tensor():
    weight = torch.tensor([[3.0, -4.0, 0.0], [0.0, 0.0, 0.0], [1e-20, 0.0, 0.0]])
    overall = math.sqrt(25 / 3)
    assert row_sizes(weight).tolist() == pytest.approx([math.sqrt(12.5), 1e-3 * overall, 1e-3 * overall])
    steps = storable(weight, torch.full((3,), 1e-9))
    assert float(weight.abs().max() / steps[0]) <= LARGEST + 8
    grid = nearest(torch.tensor([[0.26, -0.76], [1.0, 0.24]]), torch.tensor([0.5, 0.5]))
    assert grid.integers.tolist() == [[1, -2], [2, 0]]
    assert grid.values().tolist() == [[0.5, -1.0], [1.0, 0.0]]


def test_larger_layers_have_coarser_steps():
    found = coarseness({"a": 1000, "b": 8000})
    assert found["b"] / found["a"] == pytest.approx(8**0.3)
    assert coarseness({"a": 77}) == {"a": pytest.approx(1.0)}
    assert coarseness({}) == {}


def test_entropy_of_integers():
    assert entropy(np.array([0, 1, 2, 3])) == pytest.approx(8)
    assert entropy(np.zeros(9)) == 0


def test_with_data_the_file_is_measured(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))
    loader = [(torch.randn(32, 6), torch.randint(0, 3, (32,)))]
    result = dc.compress(model, None, loader, PLAIN, tmp_path / "m.dc")
    net = dc.load(tmp_path / "m.dc", into=model)
    right = 100 * float((net(loader[0][0]).argmax(1) == loader[0][1]).float().mean())
    assert result.accuracy_after == pytest.approx(right)
    assert result.stages[0].loss is not None
    assert result.recipe["prune"] == 0.0


def test_the_plan_is_near_the_file(state, tmp_path):
    found = plan(state, PLAIN)
    assert {tensor.name: tensor.stored for tensor in found.tensors} == {
        "wide": "integers", "wide.bias": "exact", "conv": "integers"
    }  # fmt: skip
    assert found.file_bytes == pytest.approx(compress_state(state, PLAIN, tmp_path / "m.dc").file_bytes, rel=0.2)
