"""Folding running statistics into scale and shift: the same outputs, in fewer bytes."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import save_file
from samples import batches, conv_net
from torch import nn

import deepcompress as dc
from deepcompress.checkpoint import load_checkpoint
from deepcompress.compression.pipeline import compress
from deepcompress.networks import build, match
from deepcompress.networks.batchnorm import fold_statistics
from deepcompress.reading.fitting import fill
from deepcompress.recipe import Recipe
from deepcompress.training.evaluation import evaluate
from deepcompress.training.loop import fit

SHAPES = {nn.BatchNorm1d: (6, 5), nn.BatchNorm2d: (6, 5, 4, 3), nn.BatchNorm3d: (6, 5, 4, 3, 2)}
UNTRAINED = Recipe(prune=0.5, bits=4, retrain=False)


def randomized(network, seed=0):
    """As if trained: every batch norm has statistics, scales and shifts of its own."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for name, value in module.state_dict().items():
                drawn = torch.rand(value.shape, generator=generator, dtype=torch.float64)
                value.copy_(7 if name == "num_batches_tracked" else 0.1 + 3 * drawn if "var" in name else 4 * drawn - 2)
    return network.eval()


def snapshot(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def untouched(network, before):
    return all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_outputs_in_evaluation_stay(kind, eps):
    norm = randomized(kind(5, eps=eps).double())
    norm.weight.data[0], norm.running_var[1] = 0, 0  # a channel that is switched off, and one that never varied
    x = torch.randn(SHAPES[kind], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    before = norm(x)
    assert fold_statistics(norm) == ["num_batches_tracked"]
    assert (norm.running_mean == 0).all()
    assert (norm.running_var == 1).all()
    assert norm.num_batches_tracked == 7
    assert not torch.equal(before, x)
    torch.testing.assert_close(norm(x), before, rtol=1e-12, atol=1e-12)


def test_the_formula_by_hand():
    norm = randomized(nn.BatchNorm1d(1, eps=3.0).double())
    norm.running_mean[0], norm.running_var[0], norm.weight.data[0], norm.bias.data[0] = 5.0, 1.0, 8.0, 1.0
    fold_statistics(norm)  # y = (x - 5) / 2 * 8 + 1 = 4 x - 19 = x / 2 * 8 - 19
    assert (norm.weight.item(), norm.bias.item()) == (8.0, -19.0)


def test_a_whole_network_and_the_names_of_its_counters():
    network = randomized(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Sequential(nn.BatchNorm1d(5)))).double()
    x = torch.randn(9, 4, dtype=torch.float64)
    before = network(x)
    assert fold_statistics(network) == ["1.num_batches_tracked", "2.0.num_batches_tracked"]
    torch.testing.assert_close(network(x), before, rtol=1e-12, atol=1e-12)
    again = snapshot(network)
    fold_statistics(network)
    assert all(torch.allclose(value, again[name], rtol=1e-15) for name, value in network.state_dict().items())


@pytest.mark.parametrize("settings", [{"affine": False}, {"track_running_stats": False}])
def test_batch_norms_with_nowhere_to_put_it_stay(settings):
    network = randomized(nn.Sequential(nn.BatchNorm2d(5, **settings)))
    before = snapshot(network)
    assert fold_statistics(network) == []
    assert untouched(network, before)


def test_other_norms_stay():
    network = nn.Sequential(
        nn.GroupNorm(1, 4), nn.LayerNorm(4), nn.InstanceNorm1d(4, affine=True, track_running_stats=True)
    )
    before = snapshot(network)
    assert fold_statistics(network) == []
    assert untouched(network, before)


def test_a_cumulative_average_keeps_its_counter():
    """With momentum None the counter is needed to train on."""
    network = randomized(nn.Sequential(nn.BatchNorm1d(5, momentum=None), nn.BatchNorm1d(5)))
    assert fold_statistics(network) == ["1.num_batches_tracked"]
    assert (network[0].running_mean == 0).all()


def test_a_batch_norm_without_a_counter():
    norm = randomized(nn.BatchNorm1d(5))
    norm.num_batches_tracked = None
    assert fold_statistics(norm) == []
    assert (norm.running_mean == 0).all()


def test_one_module_in_two_places_is_folded_once():
    norm = nn.BatchNorm1d(5)
    network = randomized(nn.Sequential(norm, nn.Linear(5, 5), norm)).double()
    x = torch.randn(9, 5, dtype=torch.float64)
    before = network(x)
    fold_statistics(network)
    torch.testing.assert_close(network(x), before, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_scales_that_two_batch_norms_share_stay(name):
    """Folding would multiply them by both deviations."""
    network = nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 5), nn.BatchNorm1d(5), nn.BatchNorm1d(5))
    setattr(network[2], name, getattr(network[0], name))
    network = randomized(network).double()
    x = torch.randn(9, 5, dtype=torch.float64)
    before = network(x)
    assert fold_statistics(network) == ["3.num_batches_tracked"]
    torch.testing.assert_close(network(x), before, rtol=1e-12, atol=1e-12)


# In files ----------------------------------------------------------------------------------------------------


@pytest.fixture
def trained(image_train):
    torch.manual_seed(0)
    network = conv_net(batch_norm=True)
    fit(network, image_train, torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9), 2, stage="train")
    return network


def test_the_file_of_a_folded_network(trained, image_test, tmp_path):
    before = snapshot(trained)
    kept = compress(trained, None, image_test, UNTRAINED, tmp_path / "keep.dc")
    folded = compress(
        trained, None, image_test, Recipe(**{**vars(UNTRAINED), "batch_norm": "fold"}), tmp_path / "fold.dc"
    )
    assert untouched(trained, before)
    assert folded.file_bytes < kept.file_bytes
    assert folded.stages[2].bytes < kept.stages[2].bytes
    assert folded.stages[1].bytes == kept.stages[1].bytes
    state = dc.load_state_dict(tmp_path / "fold.dc")
    assert list(state) == [name for name in before if name != "1.num_batches_tracked"]
    assert (state["1.running_mean"] == 0).all()
    assert (state["1.running_var"] == 1).all()
    one, other = (dc.load(tmp_path / name, into=conv_net(batch_norm=True)) for name in ("keep.dc", "fold.dc"))
    for x, _ in image_test:
        torch.testing.assert_close(other(x), one(x), rtol=1e-5, atol=1e-5)
    assert folded.accuracy_after == evaluate(other, image_test).accuracy == kept.accuracy_after


def test_keep_leaves_everything_bit_for_bit(trained, tmp_path):
    compress(trained, None, None, UNTRAINED, tmp_path / "keep.dc")
    state = dc.load_state_dict(tmp_path / "keep.dc")
    before = trained.state_dict()
    assert list(state) == list(before)
    assert all(torch.equal(state[name], before[name]) for name in before if before[name].ndim < 2)


def test_retrained_networks_are_folded_at_the_end(trained, image_train, image_test, tmp_path):
    recipe = Recipe(prune=0.5, bits=4, epochs=2, iterations=1, finetune_epochs=1)
    results = {}
    for choice in ("keep", "fold"):
        path = tmp_path / f"{choice}.dc"
        compress(trained, image_train, image_test, Recipe(**{**vars(recipe), "batch_norm": choice}), path)
        results[choice] = dc.load(path, into=conv_net(batch_norm=True)), dc.load_state_dict(path)
    (one, kept), (other, folded) = results["keep"], results["fold"]
    assert all(torch.equal(folded[name], kept[name]) for name in folded if not name.startswith("1."))
    for x, _ in image_test:
        torch.testing.assert_close(other(x), one(x), rtol=1e-4, atol=1e-5)


def test_resnet20_by_name(tmp_path):
    torch.manual_seed(0)
    network = randomized(build("resnet20"))
    data = batches(8, seed=1, shape=(3, 32, 32))
    recipe = Recipe(prune=0.3, bits=8, retrain=False, batch_norm="fold")
    result = compress(network, None, data, recipe, tmp_path / "m.dc", network="resnet20")
    again = dc.load(tmp_path / "m.dc")
    assert type(again) is type(network)
    assert not any("num_batches_tracked" in name for name in dc.load_state_dict(tmp_path / "m.dc"))
    assert result.accuracy_after == evaluate(again, data).accuracy
    assert match(dc.load_state_dict(tmp_path / "m.dc")) == "resnet20"
    unfolded = compress(copy.deepcopy(network), None, None, Recipe(prune=0.3, bits=8, retrain=False), tmp_path / "k.dc")
    assert result.file_bytes < unfolded.file_bytes - 2000  # of 1,376 statistics and 19 counters
    x = data[0][0]
    torch.testing.assert_close(again(x), dc.load(tmp_path / "k.dc", into=build("resnet20"))(x), rtol=1e-4, atol=1e-3)


def test_old_checkpoints_without_counters(tmp_path):
    """Those of torch before 0.4.1."""
    torch.manual_seed(0)
    network = randomized(build("resnet20"))
    old = {name: value for name, value in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    assert len(network.state_dict()) - len(old) == 19
    save_file(old, tmp_path / "old.safetensors")
    torch.save({"state_dict": {f"module.{name}": value for name, value in old.items()}}, tmp_path / "old.pt")
    for name in ("old.safetensors", "old.pt"):
        state = load_checkpoint(tmp_path / name).state
        assert match(state) == "resnet20"
        fresh = build("resnet20")
        fill(fresh, dict(state), name)
        assert all(torch.equal(fresh.state_dict()[key], value) for key, value in old.items())
        assert fresh.bn1.num_batches_tracked == 0


def test_a_rounded_scale_gives_the_same_for_the_mean():
    norm, told = randomized(nn.BatchNorm1d(5).double()), []
    mean, variance = norm.running_mean.clone()[None], norm.running_var.clone()
    before = norm(mean)

    def rounding(scale, spread):
        told.append(spread.clone())
        scale.data.round_()

    fold_statistics(norm, rounding)
    assert torch.equal(norm.weight, norm.weight.round())
    assert torch.equal(told[0], variance)
    torch.testing.assert_close(norm(mean), before, rtol=1e-12, atol=1e-12)


def test_channels_without_input_cost_the_others_nothing(tmp_path):
    """Their variance is 0, so that folding makes their scale hundreds of times as large as that of others."""
    torch.manual_seed(0)
    network, data = conv_net(batch_norm=True), batches(256, 1, (1, 8, 8))
    fit(network, data, torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9), 2, stage="train")
    with torch.no_grad():
        network[0].weight[:3], network[0].bias[:3] = 0, 0
        network[1].running_mean[:3], network[1].running_var[:3] = 0, 0
    network.eval()
    settings = {"prune": 0.1, "bits": None, "retrain": False, "batch_norm": "fold"}
    logits = []
    for bits in (None, 6):
        compress(network, None, None, Recipe(**settings, small_bits=bits), tmp_path / "m.dc")
        with torch.no_grad():
            logits.append(dc.load(tmp_path / "m.dc", into=conv_net(batch_norm=True))(data[0][0]))
    torch.testing.assert_close(logits[1], logits[0], rtol=0, atol=0.05 * float(logits[0].abs().max()))
