"""`Compressor` beside what else is found in loops: Accelerate, averages of weights, sharded networks."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from samples import Mlp, blobs
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.utils.data import DataLoader, TensorDataset

import deepcompress as dc
from deepcompress.errors import CheckpointError, NetworkError

RECIPE = dc.Recipe(prune=0.75, bits=3)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_accelerate_as_it_is(dense, tmp_path, precision):
    accelerate = pytest.importorskip("accelerate", reason="Accelerate is not installed")
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)  # other tests have set it up, too
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision=precision, gradient_accumulation_steps=2)
    loader = DataLoader(TensorDataset(*blobs(256, seed=1)), batch_size=32)
    optimizer = torch.optim.SGD(dense.parameters(), lr=0.05, momentum=0.9)
    model, optimizer, loader = accelerator.prepare(dense, optimizer, loader)
    compressor = dc.Compressor(accelerator.unwrap_model(model), RECIPE).prepare(steps=8)
    for epoch in range(3):
        if epoch == 2:
            compressor.share(steps=4)
        for x, y in loader:
            with accelerator.accumulate(model):
                accelerator.backward(F.cross_entropy(model(x), y))
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                if accelerator.sync_gradients:
                    compressor.step()
                optimizer.zero_grad()
    compressor.finalize(tmp_path / "m.dc")
    stored = dc.load_state_dict(tmp_path / "m.dc")
    assert all(torch.equal(stored[name], value) for name, value in dense.state_dict().items())
    assert compressor.sparsity >= 0.75
    x, y = blobs(128, seed=2)
    assert (dc.load(tmp_path / "m.dc", into=Mlp()).eval()(x).argmax(1) == y).float().mean() > 0.9


class Ema(nn.Module):
    """As timm's ModelEmaV2 and V3: the average is a child called ``module``."""

    def __init__(self, model):
        super().__init__()
        self.module = copy.deepcopy(model).eval()
        for weight in self.module.parameters():
            weight.requires_grad_(False)

    @torch.no_grad()
    def update(self, model):
        for average, weight in zip(self.module.state_dict().values(), model.state_dict().values(), strict=True):
            average.lerp_(weight, 0.1)


def test_an_average_in_a_wrapper_is_pruned_and_delivered(dense, flat_train, tmp_path):
    compressor, average = dc.Compressor(dense, RECIPE).prepare(steps=len(flat_train)), Ema(dense)
    optimizer = torch.optim.SGD(dense.parameters(), lr=0.05)
    for x, y in flat_train * 4:
        F.cross_entropy(dense(x), y).backward()
        optimizer.step()
        compressor.step()
        average.update(dense)
        compressor.apply(average)
        optimizer.zero_grad()
    for name in compressor.weights:
        assert torch.equal(average.module.state_dict()[name] == 0, dense.state_dict()[name] == 0)
    delivered = dc.Compressor(average.module, RECIPE)
    assert delivered.sparsity == compressor.sparsity
    delivered.finalize(tmp_path / "m.dc")
    again = dc.load(tmp_path / "m.dc", into=Mlp()).eval()
    assert torch.equal(again(flat_train[0][0]), average.module(flat_train[0][0]))


def test_an_average_of_another_network(dense):
    other = Ema(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(NetworkError, match=r"the network Ema has no tensor fc1.weight of shape"):
        dc.Compressor(dense, RECIPE).apply(other)


def test_a_network_that_is_divided_between_processes(dense, tmp_path):
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        fully_shard(dense, mesh=init_device_mesh("cpu", (1,)))
        with pytest.raises(CheckpointError, match=r"tensor fc1.weight is divided between processes \(DTensor\)"):
            dc.Compressor(dense, RECIPE)
    finally:
        dist.destroy_process_group()
