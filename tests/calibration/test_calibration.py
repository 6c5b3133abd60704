"""Rounding by samples: what layers meet, error feedback, and the way from a network to its file."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from listener import Listener
from torch import nn
from torch.nn import functional as F

import deepcompress as dc
from deepcompress.calibration.collect import collect
from deepcompress.calibration.feedback import Curvature, rounded
from deepcompress.calibration.hooks import patches, watched
from deepcompress.calibration.rounding import Rounder
from deepcompress.calibration.samples import FEWEST, MOST, load_samples, parted
from deepcompress.calibration.statistics import Lookups, Statistics, parts_of
from deepcompress.calibration.trial import Trial
from deepcompress.errors import DataError, NetworkError, RecipeError
from deepcompress.networks.copies import copied
from deepcompress.networks.precision import remember
from deepcompress.recipe import Recipe
from deepcompress.training.progress import Progress

PLAIN = Recipe(retrain=False)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(4, 6, 3, padding=1, stride=2, groups=2), (5, 4, 11)),
        (nn.Conv1d(3, 3, 5, padding="same", groups=3), (5, 3, 9)),
        (nn.Conv2d(3, 5, (3, 2), dilation=(2, 1), padding=(1, 2)), (4, 3, 9, 8)),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect", groups=4), (4, 4, 6, 6)),
        (nn.Conv3d(2, 4, 2, stride=2), (3, 2, 4, 6, 4)),
    ],
    ids=str,
)
def test_patches_times_weights_is_the_convolution(layer, shape):
    x = torch.randn(shape)
    found = patches(layer, x)
    weight = layer.weight.reshape(layer.groups, len(layer.weight) // layer.groups, -1)
    products = torch.einsum("pgi,gri->pgr", found, weight).flatten(1) + layer.bias
    torch.testing.assert_close(products, layer(x).movedim(1, -1).reshape(len(products), -1))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize(
    "options", [{}, {"bidirectional": True, "num_layers": 2, "batch_first": True}, {"bias": False}]
)
def test_recurrent_layers_give_what_they_gave(kind, options):
    torch.manual_seed(0)
    layer = kind(3, 4, **options)
    first = torch.randn(layer.num_layers * (2 if layer.bidirectional else 1), 5, 4)
    x = torch.randn((5, 7, 3) if layer.batch_first else (7, 5, 3))
    state = (first, first + 1) if kind is nn.LSTM else first
    single = torch.randn(7, 3)
    expected = [layer(x), layer(x, state), layer(single)]
    statistics = Statistics()
    with watched(layer, statistics):
        found = [layer(x), layer(x, state), layer(single)]
        found[1][0].sum().backward()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(layer(x), expected[0])
    weights = {id(value) for name, value in layer.named_parameters() if name.startswith("weight")}
    assert set(statistics.of) == weights


@pytest.mark.parametrize("first", [True, False])
def test_attention_gives_what_it_gave(first):
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(8, 2, batch_first=first)
    x, padding = torch.randn(3, 5, 8), torch.zeros(3, 5, dtype=torch.bool)
    padding[0, 3:] = True
    mask = torch.triu(torch.full((5, 5), -torch.inf), 1)
    x = x if first else x.transpose(0, 1)
    calls = [{}, {"attn_mask": mask}, {"key_padding_mask": padding}, {"attn_mask": mask < 0}]
    expected = [layer(x, x, x, need_weights=False, **named)[0] for named in calls]
    statistics = Statistics()
    with watched(layer, statistics):
        found = [layer(x, x, x, **named)[0] for named in calls]
        found[0].square().sum().backward()
    torch.testing.assert_close(found, expected)
    assert set(statistics.of) == {id(layer.in_proj_weight), id(layer.out_proj.weight)}


def test_statistics_of_a_linear_layer():
    torch.manual_seed(0)
    layer, x = nn.Linear(3, 2), torch.randn(40, 3)
    found = collect(layer, [x[:30], x[30:]])
    moments = found.of[id(layer.weight)]
    assert (found.samples, moments.positions) == (40, 40)
    torch.testing.assert_close(moments.first, x.sum(0)[None])
    assert found.power == pytest.approx(float(layer(x).detach().double().var(0).sum()), rel=1e-5)
    # The output is the product itself: the gradients are the noise, and positions count by its square.
    assert float(moments.gradient.sum()) == pytest.approx(80, rel=0.5)
    assert moments.second.shape == (1, 3, 3)
    assert float(moments.second.diagonal(dim1=1, dim2=2).sum()) == pytest.approx(float(x.square().sum()), rel=0.6)


def test_embeddings_count_look_ups_and_padding_tells_nothing():
    network = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(8, 2))
    x = torch.tensor([[1, 2], [1, 3]] * 5)
    lookups = collect(network, [x]).of[id(network[0].weight)]
    assert isinstance(lookups, Lookups)
    assert lookups.counts.tolist() == [0, 10, 5, 5, 0, 0, 0, 0, 0]


def test_rows_are_taken_apart_where_they_are_long():
    assert [parts_of(count) for count in (10, 2048, 4096, 8192, 2053)] == [1, 1, 4, 8, 1]


def test_feedback_beats_rounding_where_inputs_are_alike():
    torch.manual_seed(0)
    mix = torch.randn(24, 24) @ torch.diag(torch.logspace(0, -2, 24)) @ torch.randn(24, 24)
    h, weight = mix @ mix.T, torch.randn(1, 16, 24)
    steps = torch.full((1, 16), 0.4)
    curvature = Curvature.of(h)

    def error(integers):
        off = (integers * steps[..., None] - weight)[0]
        return float((off @ h * off).sum())

    found = rounded(weight, steps, [curvature], 1000)
    plain = rounded(weight, steps, (), 1000)
    assert torch.equal(found, found.round())
    assert error(found) < 0.5 * error(plain)
    assert rounded(weight, steps, [curvature], 2).abs().max() == 2


def test_coarse_numbers_keep_outputs_as_strong_as_they_were():
    """What pulls numbers towards zero makes the outputs of each layer smaller, which adds up from layer to layer."""
    torch.manual_seed(0)
    inputs = torch.randn(4096, 32).relu()
    h, weight = inputs.T @ inputs, torch.randn(1, 256, 32)
    found = rounded(weight, torch.full((1, 256), 1.5), [Curvature.of(h)], 1000) * 1.5
    before, after = inputs @ weight[0].T, inputs @ found[0].T
    assert float((before * after).sum() / before.square().sum()) == pytest.approx(1, abs=0.03)
    assert (found == 0).float().mean() > 0.3


def test_inputs_with_nothing_in_common_make_nothing_good():
    torch.manual_seed(0)
    weight, steps = torch.randn(2, 5, 7), torch.rand(2, 5) + 0.1
    found = rounded(weight, steps, [Curvature.of(torch.diag(torch.rand(7) + 0.1))] * 2, 1000)
    assert torch.equal(found, (weight / steps[..., None]).round())
    assert torch.equal(found, rounded(weight, steps, (), 1000))
    assert rounded(weight, steps, (), 1).abs().max() == 1


@pytest.mark.parametrize("sizes", [[8], [7, 1], [3, 5], [3, 3, 2], [1] * 8, [0, 8], [3] * 5])
def test_as_few_samples_as_are_needed_are_parted(sizes):
    x = torch.arange(sum(sizes), dtype=torch.float32)[:, None]
    learned, kept = parted(x.split(sizes))
    assert len(x) >= FEWEST
    assert learned
    assert kept
    assert torch.equal(torch.cat([*learned, *kept]).sort(0).values, x)


def test_dead_inputs_have_no_weights():
    h = torch.diag(torch.tensor([1.0, 0.0, 2.0]))
    curvature = Curvature.of(h)
    found = rounded(torch.full((1, 4, 3), 3.0), torch.ones(1, 4), [curvature], 100)
    assert not found[:, :, 1].any()
    assert (found[:, :, [0, 2]] == 3).all()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.deep = nn.Conv1d(2, 6, 3, padding=1), nn.Conv1d(6, 6, 3, groups=6)
        self.rnn, self.head = nn.GRU(6, 5, batch_first=True), nn.Linear(5, 3)
        self.back = nn.ConvTranspose1d(6, 6, 2)

    def forward(self, x):
        x = self.back(self.deep(F.relu(self.conv(x))))
        return self.head(self.rnn(x.transpose(1, 2))[0][:, -1])


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(1)
    return Net().eval()


@pytest.fixture(scope="module")
def samples():
    torch.manual_seed(2)
    return list(torch.randn(96, 2, 12).split(32))


@torch.no_grad()
def change(network, path, x):
    expected = network(x)
    found = dc.load(path, into=Net())(x)
    return float((found - expected).square().sum() / (expected - expected.mean(0)).square().sum())


def test_a_network_keeps_its_output_in_fewer_bytes(network, samples, tmp_path):
    watch, fresh = Listener(), torch.randn(200, 2, 12, generator=torch.Generator().manual_seed(3))
    size = dc.compress(network, None, None, PLAIN, tmp_path / "a.dc", calibrate=samples, watch=watch).file_bytes
    assert any(
        line.startswith("no layer shows its products") and line.endswith(": back.weight") for line in watch.lines
    )
    assert any(line.startswith("the output for samples held out changes by") for line in watch.lines)
    assert change(network, tmp_path / "a.dc", fresh) < 2 * PLAIN.step**2
    plain = Recipe(retrain=False, target_size=size)
    dc.compress(network, None, None, plain, tmp_path / "b.dc")
    assert change(network, tmp_path / "a.dc", fresh) < change(network, tmp_path / "b.dc", fresh)
    again = dc.compress(network, None, None, PLAIN, tmp_path / "c.dc", calibrate=samples)
    assert (tmp_path / "a.dc").read_bytes() == (tmp_path / "c.dc").read_bytes()
    assert again.errors.keys() == {name for name, value in network.state_dict().items() if value.ndim > 1}
    assert "forward" not in vars(network.rnn)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_keep_what_samples_held_out_say(dtype, network, samples, tmp_path):
    """Their tensors have one step, and are rounded to their type: that is what is measured, and what the file has."""
    given, watch = copied(network).to(dtype).state_dict(), Listener()
    dense = copied(network)
    dense.load_state_dict(given)
    remember(dense, given)
    dc.compress(dense, None, None, replace(PLAIN, step=0.1), tmp_path / "m.dc", calibrate=samples, watch=watch)
    found = dc.load_state_dict(tmp_path / "m.dc")
    assert {name: value.dtype for name, value in found.items()} == dict.fromkeys(given, dtype)
    said = [line for line in watch.lines if line.startswith("the output for samples held out changes by")]
    learned, kept = parted(samples)
    power = collect(copied(dense).eval(), learned).power
    trial = Trial(dense, copied(dense), kept, power)
    error = trial.error({name: value.float() for name, value in found.items()})
    assert said == [f"the output for samples held out changes by {100 * error:.2g} % of its variance"]
    assert 0.3 * 0.1**2 < error <= 0.1**2


def test_a_size_is_kept_and_used_with_samples(network, samples, tmp_path):
    recipe = Recipe(retrain=False, target_size=1100)
    found = dc.compress(network, None, None, recipe, tmp_path / "m.dc", calibrate=samples)
    assert 1000 <= found.file_bytes <= 1100


@pytest.fixture(scope="module")
def mute():
    """Samples in which one channel is silent, but for those that are held out, each fourth batch."""
    x = torch.randn(8, 8, 2, 12, generator=torch.Generator().manual_seed(4))
    x[[0, 1, 2, 4, 5, 6], :, 1] = 0
    return list(x)


@pytest.mark.parametrize("step", [0.05, 0.2])
def test_no_size_is_worse_on_samples_held_out_than_without_samples(step, network, samples, mute):
    names = [name for name, value in network.state_dict().items() if value.ndim > 1]
    for batches in (samples, mute):
        rounder = Rounder(network, names, batches, Progress())
        found, predicted = rounder.checked(step), rounder.predicted(step)
        plain = rounder._check.of_bits(predicted.bits(), step)
        trial = rounder._trial
        assert abs(plain.bits() / predicted.bits() - 1) < 0.1
        assert found.error == trial.error(found.values())
        assert found.error == min(trial.error(predicted.values()), trial.error(plain.values()))
        assert found.is_plain == (batches is mute)


def test_a_step_gives_the_same_whatever_was_tried_before(network, mute):
    names = [name for name, value in network.state_dict().items() if value.ndim > 1]
    rounder = Rounder(network, names, mute, Progress())
    first = rounder.checked(0.3)
    assert first.is_plain
    for other in (0.31, 0.05, 0.9):
        rounder.checked(other)
        again = rounder.checked(0.3)
        assert all(torch.equal(grid.values(), again.grids[name].values()) for name, grid in first.grids.items())


def test_a_file_that_goes_by_sizes_alone_says_so(network, samples, mute, tmp_path):
    recipe, watch = Recipe(retrain=False, target_size=900), Listener()
    for batches in (samples, mute):
        made = dc.compress(network, None, None, recipe, tmp_path / "m.dc", calibrate=batches, watch=watch)
        assert made.file_bytes <= 900
        said = [line for line in watch.lines if line.startswith("the weights are rounded by their sizes alone")]
        assert len(said) == (batches is mute)
    assert sum(line.startswith("the output for samples held out changes by") for line in watch.lines) == 2


def test_teaching_fits_into_a_size(network, samples, tmp_path):
    recipe, watch = Recipe(retrain=False, target_size=900), Listener()
    made = dc.compress(network, None, None, recipe, tmp_path / "m.dc", calibrate=samples, teach=True, watch=watch)
    assert 800 <= made.file_bytes <= 900
    assert any(line.startswith("taught: ") for line in watch.lines)


def test_teaching_keeps_zeros_and_whole_numbers(network, samples):
    before = [value.clone() for value in network.state_dict().values()]
    rounder = Rounder(network, ["conv.weight", "head.weight"], samples, Progress())
    found = rounder.predicted(0.3)
    tuned = rounder.tuned(found)
    for name, grid in found.grids.items():
        assert torch.equal(tuned.grids[name].integers == 0, grid.integers == 0)
        assert tuned.grids[name].integers.abs().max() <= grid.integers.abs().max()
        assert torch.equal(tuned.grids[name].steps, grid.steps)
    assert not torch.equal(tuned.grids["conv.weight"].integers, found.grids["conv.weight"].integers)
    assert {"head.bias", "conv.bias", "rnn.bias_ih_l0"} <= tuned.corrected.keys()
    assert all(map(torch.equal, before, network.state_dict().values()))
    fresh = torch.randn(200, 2, 12, generator=torch.Generator().manual_seed(3))
    trial = Trial(network, copied(network), [fresh], 1.0)
    assert trial.error(tuned.values()) < 0.9 * trial.error(found.values())
    assert trial.error({}) == 0.0


def test_samples_that_tell_nothing_are_refused(network, samples, tmp_path):
    def run(batches, recipe=PLAIN):
        dc.compress(network, None, None, recipe, tmp_path / "m.dc", calibrate=batches)

    with pytest.raises(DataError, match="2 samples to calibrate on"):
        run([samples[0][:2]])
    with pytest.raises(DataError, match="0 samples to calibrate on"):
        run([torch.zeros(0, 2, 12)])
    with pytest.raises(DataError, match="NaN or infinity in the samples"):
        run([torch.full((32, 2, 12), math.nan)])
    with pytest.raises(DataError, match="the same for all samples"):
        run([torch.zeros(32, 2, 12)])
    with pytest.raises(NetworkError, match="cannot take samples of shape \\(7,\\)"):
        run([torch.zeros(32, 7)])
    with pytest.raises(RecipeError, match="quantizer 'rows'"):
        run(samples, Recipe(retrain=False, bits=4))
    assert not list(tmp_path.iterdir())


def test_samples_of_files(tmp_path):
    x = np.arange(80, dtype=np.float64).reshape(40, 2)
    np.savez(tmp_path / "one.npz", x)
    np.savez(tmp_path / "two.npz", ids=x.astype(np.int64), mask=x)
    np.savez(tmp_path / "set.npz", x_train=x, y_train=x[:, 0], x_test=x[:3], y_test=x[:3, 0])
    np.save(tmp_path / "more.npy", np.ones((MOST + 5, 1), dtype=np.float32))
    (tmp_path / "own.py").write_text("import torch\ndef two(): return [(torch.ones(4, 1), torch.ones(4, 2))]\n"
                                     "def one(): return torch.ones(50, 3)\ndef wrong(): return [3]\n"
                                     "def number(): return 3\ndef fails(): yield 1 / 0\n")  # fmt: skip
    (tmp_path / "sub").mkdir()
    (tmp_path / "bad.npz").write_text("no")
    first = load_samples(str(tmp_path / "one.npz"))
    assert [batch.dtype for batch in first] == [torch.float32] * 2
    assert torch.cat(first).tolist() == x.tolist()
    assert load_samples(str(tmp_path / "two.npz"))[1]["ids"].tolist() == x[32:].tolist()
    assert sum(map(len, load_samples(str(tmp_path / "set.npz")))) == 40
    assert sum(map(len, load_samples(str(tmp_path / "more.npy")))) == MOST
    assert [len(part) for part in load_samples(f"{tmp_path}/own.py:two")[0]] == [4, 4]
    assert [len(batch) for batch in load_samples(f"{tmp_path}/own.py:one")] == [32, 18]
    for name, message in {
        "none.npz": "No such file", "sub": "has no .npz", "bad.npz": "no .npz file of plain numbers",
        "own.py:wrong": "a batch is a int", "own.py:number": "it gives a int",
        "own.py:fails": "fails with ZeroDivisionError", "own.py:absent": "absent",
    }.items():  # fmt: skip
        with pytest.raises(DataError, match=message):
            load_samples(f"{tmp_path}/{name}")


def test_a_folder_says_which_file_is_wrong(tmp_path):
    good, bad = np.ones((20, 3), np.float32), np.ones((20, 3), np.float32)
    bad[7, 1] = np.nan
    np.savez(tmp_path / "a.npz", good)
    np.savez(tmp_path / "b.npz", x=bad)
    with pytest.raises(DataError, match=r"b.npz: x: there is NaN or infinity in sample 7 \(from 0\)"):
        load_samples(str(tmp_path))
    np.savez(tmp_path / "b.npz", x=bad.astype(np.float64) * 0 + 1e300)  # beyond float32
    with pytest.raises(DataError, match=r"b.npz: x: there is NaN or infinity in sample 0"):
        load_samples(str(tmp_path))
    content = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "b.npz").write_bytes(content[:200] + bytes(50) + content[250:])
    with pytest.raises(DataError, match=r"b.npz: it is no .npz file"):
        load_samples(str(tmp_path))
    np.save(tmp_path / "b.npz.npy", good.astype(">f8"))
    (tmp_path / "b.npz").unlink()
    assert torch.cat(load_samples(str(tmp_path))).tolist() == np.ones((40, 3)).tolist()
