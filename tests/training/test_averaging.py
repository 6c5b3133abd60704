"""Averaging along the way: by hand, and with masks, shared values and running statistics."""

from __future__ import annotations

import pytest
import torch
from samples import SIDE, Mlp, batches, conv_net
from torch import nn

import deepcompress as dc
from deepcompress.training.averaging import Average
from deepcompress.training.loop import Hooks, fit


def sgd(model, lr=0.1):
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)


def test_the_mean_by_hand():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 11.0)
    mean = Average(model, sgd(model), 0.5)
    for value in (0.0, 12.0):
        nn.init.constant_(model.weight, value)
        mean.look()
    # It stays by 1/11 in the first step, by 2/12 in the second: 11 -> 1 -> 1/6 + 10.
    assert float(mean.means[0]) == pytest.approx(1 / 6 + 10)
    mean.steps = 100
    nn.init.constant_(model.weight, 0.0)
    mean.look()
    assert float(mean.means[0]) == pytest.approx((1 / 6 + 10) / 2)
    mean.write()
    assert float(model.weight.detach()) == float(mean.means[0])


class Path(Hooks):
    """Keeps what each step leaves."""

    def __init__(self, values):
        self.values, self.steps = values, []

    def after_step(self):
        self.steps.append([value.detach().clone() for value in self.values()])


def averaged(start, steps, decay):
    found = [value.clone() for value in start]
    for number, values in enumerate(steps, 1):
        stays = min(decay, number / (number + 10))
        found = [stays * mean + (1 - stays) * value for mean, value in zip(found, values, strict=True)]
    return found


@pytest.mark.parametrize("norms", [False, True])
def test_training_ends_at_the_mean_of_weights_and_statistics(norms):
    torch.manual_seed(0)
    model, data = conv_net(batch_norm=norms), batches(96, 1, shape=(1, SIDE, SIDE))

    def moving():
        return [*model.parameters(), *(buffer for buffer in model.buffers() if buffer.is_floating_point())]

    start, path = [value.detach().clone() for value in moving()], Path(moving)
    fit(model, data, sgd(model), 2, stage="train", hooks=path, average=0.3)
    *steps, last = path.steps
    assert len(steps) == 2 * len(data)
    for mean, value, seen in zip(averaged(start, steps, 0.3), moving(), last, strict=True):
        assert torch.allclose(value, mean, atol=1e-6)
        assert torch.equal(value, seen)  # hooks have seen the mean
    assert not torch.allclose(steps[-1][0], last[0], atol=1e-4)


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    model = Mlp()
    fit(model, batches(256, 1), sgd(model), 3, stage="train")
    return model


def made(model, path, **settings):
    recipe = dc.Recipe(epochs=4, finetune_epochs=2, lr=0.05, **settings)
    return dc.compress(model, batches(256, 1), batches(128, 2), recipe, path)


WAYS = {
    "fraction": {"prune": 0.8, "bits": 2},
    "size": {"target_size": 640, "bits": 3, "quantizer": "uniform"},
    "surgery": {"prune": 0.8, "bits": 2, "regrow": "surgery"},
    "set": {"prune": 0.8, "bits": 2, "regrow": "set"},
    "lc": {"method": "lc", "prune": 0.8, "bits": 2},
    "latent": {"method": "latent", "prune": 0.5, "levels": 2},
    "variational": {"method": "variational", "optimizer": "adam", "prune": 0.5, "bits": 3},
}


@pytest.mark.parametrize("way", WAYS)
def test_what_is_pruned_and_shared_stays_so(trained, tmp_path, way):
    settings, path, files = WAYS[way], tmp_path / "m.dc", []
    for average in (0.0, 0.9):
        assert made(trained, path, **settings, average=average).accuracy_after > 60
        files.append(path.read_bytes())
    assert files[0] != files[1]
    layers = [value for value in dc.load_state_dict(path).values() if value.ndim > 1]
    most = settings.get("levels") or 2 ** settings["bits"]
    assert all(len(layer[layer != 0].unique()) <= most for layer in layers)
    if "target_size" in settings:
        assert len(files[1]) <= settings["target_size"]
    else:
        weights = sum(layer.numel() for layer in layers)
        assert sum(int((layer != 0).sum()) for layer in layers) <= round((1 - settings["prune"]) * weights)
