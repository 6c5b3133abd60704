"""Weights tied to shared values, and the tuning of those values by backpropagation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from deepcompress.layers import Layer
from deepcompress.prune.masks import Masks
from deepcompress.quantize.kmeans import assign, cluster
from deepcompress.recipe import Recipe
from deepcompress.training.loop import Batches, Hooks, fit
from deepcompress.training.objective import Objective, cross_entropy
from deepcompress.training.progress import Progress

Array = np.ndarray[Any, np.dtype[Any]]
Weights = Mapping[str, torch.Tensor]

CHUNK = 1 << 20


@dataclass(frozen=True)
class Member:
    """One layer of a codebook: where its surviving weights lie (flat, int64) and which centroid each has (int64)."""

    name: str
    positions: torch.Tensor
    assignment: torch.Tensor


@dataclass(frozen=True)
class Codebook:
    """Shared values (float32, at most 2^bits, none zero) and the layers that use them."""

    bits: int
    centroids: nn.Parameter
    members: tuple[Member, ...]

    @torch.no_grad()
    def write(self, weights: Weights) -> None:
        """Give every member weight the value of its centroid, in place."""
        for member in self.members:
            flat = weights[member.name].view(-1)
            flat[member.positions] = self.centroids[member.assignment].to(flat.dtype)

    def counts(self) -> torch.Tensor:
        """How many weights each centroid has (float32, k), all members together."""
        assignments = torch.cat([member.assignment for member in self.members])
        return torch.bincount(assignments, minlength=len(self.centroids)).float()

    @torch.no_grad()
    def collect_gradient(self, weights: Weights, decay: float = 0.0) -> None:
        """Set the gradient of each centroid to the sum over its weights' (Han et al. 2016, equation 3).

        `decay` adds the gradient of an L2 penalty on the weights, decay times the weight, to each of them.
        """
        total = torch.zeros_like(self.centroids)
        for member in self.members:
            parameter = weights[member.name]
            if parameter.grad is not None:
                gradient = torch.add(parameter.grad, parameter, alpha=decay).reshape(-1)[member.positions]
                total.index_add_(0, member.assignment, gradient.to(total.dtype))
        self.centroids.grad = total


@torch.no_grad()
def share(weights: Weights, layers: list[Layer], recipe: Recipe) -> list[Codebook]:
    """Cluster the non-zero weights of each layer, or group of layers, and write the shared values into `weights`.

    Layers whose bits are ``none`` are left as they are.
    """
    codebooks = []
    for names, bits in groups(layers, recipe):
        flats = [weights[name].detach().reshape(-1) for name in names]
        positions = [torch.nonzero(flat, as_tuple=True)[0] for flat in flats]
        values = [flat[place].float().cpu().numpy() for flat, place in zip(flats, positions, strict=True)]
        pooled = np.concatenate(values)
        centroids = cluster(pooled, 1 << bits, recipe.init, recipe.seed)
        device = flats[0].device
        members = tuple(
            Member(name, place, torch.from_numpy(assign(value, centroids)).to(device))
            for name, place, value in zip(names, positions, values, strict=True)
        )
        codebook = Codebook(bits, nn.Parameter(torch.from_numpy(centroids).float().to(device)), members)
        codebook.write(weights)
        codebooks.append(codebook)
    return codebooks


def survivors(weight: torch.Tensor) -> Array:
    """The non-zero values of a layer, in order, as float32 (float64 stays so); gathered in chunks."""
    flat = weight.detach().reshape(-1)
    dtype = torch.float64 if flat.dtype is torch.float64 else torch.float32
    parts = [torch.zeros(0, dtype=dtype).numpy()]
    for start in range(0, len(flat), CHUNK):
        part = flat[start : start + CHUNK]
        parts.append(part[part != 0].to(dtype).cpu().numpy())
    return np.concatenate(parts)


@torch.no_grad()
def snap(weight: torch.Tensor, centroids: Array) -> None:
    """Move each non-zero value of `weight`, contiguous, to the nearest of the sorted `centroids`, in place."""
    flat, exact = weight.view(-1), torch.from_numpy(centroids)
    shared = exact.to(weight.dtype)
    for start in range(0, len(flat), CHUNK):
        part = flat[start : start + CHUNK]
        alive = part != 0
        values = part[alive].to(exact.dtype).cpu().numpy()
        part[alive] = shared[torch.from_numpy(assign(values, centroids))].to(weight.device)


def groups(layers: list[Layer], recipe: Recipe) -> list[tuple[list[str], int]]:
    """Names of the layers that share a codebook, and its bits; layers that are not shared are in none."""
    groups: dict[str, list[str]] = {}
    bits: dict[str, int] = {}
    for layer in layers:
        width = recipe.bits_of(layer.name, layer.is_conv)
        if width is None:
            continue
        key = recipe.group_of(layer.name)
        key = f"group {key}" if key else f"layer {layer.name}"
        groups.setdefault(key, []).append(layer.name)
        # Convolutions and fully connected layers may differ in bits: a shared codebook has the larger.
        bits[key] = max(width, bits.get(key, 0))
    return [(names, bits[key]) for key, names in groups.items()]


class TuningHooks(Hooks):
    """Moves centroids instead of weights: gradients are summed into them, and every step is written back."""

    def __init__(self, codebooks: list[Codebook], weights: Weights, masks: Masks, decay: float = 0.0) -> None:
        self.codebooks, self.weights, self.masks, self.decay = codebooks, weights, masks, decay
        self.counts = [codebook.counts() for codebook in codebooks]

    def after_backward(self) -> None:
        """Sum the weights' gradients into the centroids', then divide by how many weights each centroid has.

        The loss bends along a centroid as many times more sharply as it has weights, so this makes one learning
        rate fit all: a centroid moves as far as its weights would have moved on average.
        """
        for codebook, counts in zip(self.codebooks, self.counts, strict=True):
            codebook.collect_gradient(self.weights, self.decay)
            assert codebook.centroids.grad is not None
            codebook.centroids.grad /= counts

    def after_step(self) -> None:
        """Write the moved centroids into the weights; weights that are not shared stay masked."""
        for codebook in self.codebooks:
            codebook.write(self.weights)
        self.masks.apply(self.weights)


def tune(
    model: nn.Module,
    weights: Weights,
    masks: Masks,
    codebooks: list[Codebook],
    batches: Batches,
    recipe: Recipe,
    val_batches: Batches | None = None,
    watch: Progress | None = None,
    objective: Objective = cross_entropy,
) -> None:
    """Fine-tune the centroids, and all parameters that are not shared, with the assignments fixed, in place."""
    if recipe.finetune_epochs == 0 or not codebooks:
        return
    shared = {id(weights[member.name]) for codebook in codebooks for member in codebook.members}
    free = [parameter for parameter in model.parameters() if id(parameter) not in shared]
    # The penalty of retraining goes on.
    decay = recipe.penalty_weight if recipe.penalty == "l2" else 0.0
    groups: list[dict[str, Any]] = [
        {"params": [codebook.centroids for codebook in codebooks]},
        {"params": free, "weight_decay": decay},
    ]
    optimizer = torch.optim.SGD(groups, lr=recipe.finetune_lr, momentum=0.9, nesterov=True)
    hooks = TuningHooks(codebooks, weights, masks, decay)
    fit(
        model,
        batches,
        optimizer,
        recipe.finetune_epochs,
        stage="quantize",
        hooks=hooks,
        val_batches=val_batches,
        objective=objective,
        lr_schedule=recipe.lr_schedule,
        precision=recipe.precision,
        progress=watch,
    )
