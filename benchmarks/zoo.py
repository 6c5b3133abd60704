"""Networks of torchvision's: planned, compressed without data, reloaded, and run, with equal outputs. Random weights.

Arguments: names of torchvision's models; by default a residual network, one of depthwise convolutions, one of large
linear layers with batch norm, and a vision transformer.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import torch
from measure import machine
from torch import nn
from torchvision import models

import deepcompress as dc
from deepcompress.compression.plan import kinds_of, plan

NAMES = ("resnet18", "mobilenet_v3_small", "vgg11_bn", "vit_b_16")
RECIPE = dc.Recipe(prune=0.9, bits=5, retrain=False, batch_norm="fold")
SIDE = 224


def lived_in(name: str) -> nn.Module:
    """A network with random weights, and running statistics and norms of its own."""
    torch.manual_seed(0)
    model = models.get_model(name, weights=None)
    for key, value in model.named_parameters():
        if value.ndim == 1:
            nn.init.normal_(value, mean=float(key.endswith("weight")), std=0.1)
        elif not value.any():  # some begin with a last layer of zeros
            nn.init.normal_(value, std=0.02)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.1, 0.3)
    return model.eval()


@torch.no_grad()
def go_through(name: str, folder: Path) -> tuple[str, ...]:
    """The row of one network."""
    model, x = lived_in(name), torch.randn(1, 3, SIDE, SIDE)
    started = time.perf_counter()
    expected = plan(model, RECIPE)
    planned = time.perf_counter()
    result = dc.compress(model, None, None, RECIPE, folder / "m.dc", network=f"torchvision:{name}")
    compressed = time.perf_counter()
    again = dc.load(result.file)
    loaded = time.perf_counter()
    kinds = kinds_of(model)
    spared = [kept for layer, kept in result.kept.items() if kinds[layer].startswith("depthwise")]
    # The same tensors in the network that was compressed: what was folded must come to the same.
    unfolded = dc.compress(model, None, None, dc.Recipe(prune=0.9, bits=5, retrain=False), folder / "u.dc")
    model.load_state_dict(dc.load_state_dict(unfolded.file))
    outputs, reference = again(x), model(x)
    assert not torch.equal(model(x / 2), reference)  # there is something to compare
    scale = float(reference.abs().max())
    difference = float((outputs - reference).abs().max()) / scale
    assert torch.equal(dc.load(unfolded.file, into=lived_in(name))(x), reference)
    return (
        name,
        f"{result.dense_bytes / 1e6:.1f}",
        f"{result.file_bytes / 1e6:.2f}",
        f"{result.ratio:.1f}×",
        f"{expected.file_bytes / result.file_bytes:.2f}",
        f"{min(spared):.2f}" if spared else "–",
        f"{difference:.1e}",
        f"{planned - started:.1f}",
        f"{compressed - planned:.1f}",
        f"{loaded - compressed:.1f}",
    )


def main() -> None:
    """One row each."""
    print(machine(), f"torch {torch.__version__}", sep=", ")
    print(f"{RECIPE.prune:.0%} pruned, {RECIPE.bits} bits, random weights; MB are 10^6 bytes, s are seconds\n")
    head = (
        "network", "dense MB", "file MB", "ratio", "plan ÷ file", "depthwise kept, least", "folded: difference",
        "plan s", "compress s", "load s",
    )  # fmt: skip
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    with tempfile.TemporaryDirectory() as folder:
        for name in sys.argv[1:] or NAMES:
            print(f"| {' | '.join(go_through(name, Path(folder)))} |", flush=True)


if __name__ == "__main__":
    main()
