"""Weights tied to shared values, and the tuning of those values by backpropagation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from deepcompress.layers import Layer
from deepcompress.prune.masks import Masks
from deepcompress.quantize.choice import Demand, SharedValues, choose, price_of, rounded
from deepcompress.quantize.grid import short
from deepcompress.quantize.kmeans import assign
from deepcompress.quantize.rate import Part
from deepcompress.recipe import Recipe
from deepcompress.training.loop import Hooks
from deepcompress.training.retraining import Run
from deepcompress.training.rollback import fine_tune

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
    """Shared values (float32, at most `levels`, none zero) and the layers that use them."""

    levels: int
    centroids: nn.Parameter
    members: tuple[Member, ...]

    @property
    def parameter(self) -> nn.Parameter:
        """What tuning moves."""
        return self.centroids

    @torch.no_grad()
    def write(self, weights: Weights) -> None:
        """Give every member weight the value of its centroid, in place."""
        for member in self.members:
            scatter(weights[member.name], member.positions, self.centroids[member.assignment])

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
                gradient = torch.add(parameter.grad.to_dense(), parameter, alpha=decay).reshape(-1)[member.positions]
                total.index_add_(0, member.assignment, gradient.to(total.dtype))
        self.centroids.grad = total

    @torch.no_grad()
    def average_gradient(self, counts: torch.Tensor) -> None:
        """Divide the gradient of each centroid by how many weights it has (`counts`).

        The loss bends along a centroid as many times more sharply as it has weights, so this makes one learning
        rate fit all: a centroid moves as far as its weights would have moved on average.
        """
        assert self.centroids.grad is not None
        self.centroids.grad /= counts

    @torch.no_grad()
    def finish(self, dtype: str, weights: Weights) -> None:
        """Round the values to those of `dtype` (see `choice.rounded`) and write them: what the file will hold."""
        self.centroids.copy_(torch.from_numpy(rounded(self.centroids.cpu().numpy(), dtype)))
        self.write(weights)


@dataclass(frozen=True)
class Grid(Codebook):
    """Shared values that are `step` times whole numbers (`multiples`, float32): tuning moves nothing but the step."""

    step: nn.Parameter
    multiples: torch.Tensor

    @property
    def parameter(self) -> nn.Parameter:
        """The step, a float32 of no dimensions."""
        return self.step

    @torch.no_grad()
    def write(self, weights: Weights) -> None:
        """As `Codebook.write`, with the centroids that the step makes."""
        self.centroids.copy_(self.step * self.multiples)
        super().write(weights)

    @torch.no_grad()
    def average_gradient(self, counts: torch.Tensor) -> None:
        """The gradient of the step: the sum over the weights of gradient * multiple, by the sum of multiple squared.

        So a step moves the grid to where it lies nearest, by least squares, to where its weights would have moved: the
        same learning rate fits it as fits centroids.
        """
        assert self.centroids.grad is not None
        power = (counts * self.multiples.square()).sum()
        self.step.grad = (self.centroids.grad * self.multiples).sum() / power

    @torch.no_grad()
    def finish(self, dtype: str, weights: Weights) -> None:
        """Round the step to a bfloat16, whatever the `dtype`, and write its multiples."""
        self.step.fill_(short(float(self.step.detach())))
        self.write(weights)


@torch.no_grad()
def share(weights: Weights, layers: list[Layer], recipe: Recipe, importance: Weights | None = None) -> list[Codebook]:
    """Cluster the non-zero weights of each layer, or group of layers, and write the shared values into `weights`.

    Layers whose bits are ``none`` are left as they are. With a rate, weights may become zero.

    Args:
        weights: tensors by name, changed in place.
        layers: those of them that are pruned.
        recipe: how many values, and how they are found.
        importance: what the squared error of each weight counts (`prune.fisher`); None counts all alike.
    """
    codebooks = []
    for names, levels in groups(layers, recipe):
        parts = [_part(weights[name], None if importance is None else importance[name]) for name in names]
        limit = min(torch.finfo(weights[name].dtype).max for name in names)
        demand = Demand(recipe, levels, limit, price_of(recipe.rate, parts))
        shared, choices = choose(parts, demand)
        device = weights[names[0]].device
        members = tuple(
            member_of(name, part, choice, device) for name, part, choice in zip(names, parts, choices, strict=True)
        )
        for name, part, choice in zip(names, parts, choices, strict=True):
            weights[name].view(-1)[torch.from_numpy(part.positions[choice < 0]).to(device)] = 0.0
        codebooks.append(codebook_of(levels, shared, members, device))
        codebooks[-1].write(weights)
    return codebooks


def codebook_of(levels: int, shared: SharedValues, members: tuple[Member, ...], device: torch.device) -> Codebook:
    """Shared values with the weights that take them, ready to be tuned."""
    centroids = nn.Parameter(torch.from_numpy(shared.centroids).float().to(device))
    if shared.multiples is None or not len(shared.multiples):
        return Codebook(levels, centroids, members)
    step = nn.Parameter(torch.tensor(shared.step, device=device))
    return Grid(levels, centroids, members, step, torch.from_numpy(shared.multiples).float().to(device))


def _part(weight: torch.Tensor, importance: torch.Tensor | None) -> Part:
    flat = weight.detach().reshape(-1)
    positions = torch.nonzero(flat, as_tuple=True)[0]
    counts = None if importance is None else importance.reshape(-1)[positions].cpu().numpy()
    return Part(tuple(weight.shape), positions.cpu().numpy(), flat[positions].float().cpu().numpy(), counts)


def member_of(name: str, part: Part, choice: Array, device: torch.device) -> Member:
    """The weights of `part` that `choice` (-1: zero) gives a value, as a member of a codebook."""
    alive = choice >= 0
    where = torch.from_numpy(part.positions[alive]).to(device)
    return Member(name, where, torch.from_numpy(choice[alive]).to(device))


@torch.no_grad()
def scatter(weight: torch.Tensor, positions: torch.Tensor, values: torch.Tensor) -> None:
    """Put `values` at flat `positions` (row-major) of `weight`, in place, however its memory is laid out."""
    flat = weight.detach().contiguous().view(-1)
    flat[positions] = values.to(flat.dtype)
    if not weight.is_contiguous():
        weight.copy_(flat.view(weight.shape))


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
def snap(weight: torch.Tensor, centroids: Array, values: Array | None = None) -> None:
    """Move each non-zero value of `weight`, contiguous, to the nearest of the sorted `centroids`, in place.

    Where `values` are given it takes the one in the place of that centroid.
    """
    flat, exact = weight.view(-1), torch.from_numpy(centroids)
    shared = (exact if values is None else torch.from_numpy(values)).to(weight.dtype)
    for start in range(0, len(flat), CHUNK):
        part = flat[start : start + CHUNK]
        alive = part != 0
        found = part[alive].to(exact.dtype).cpu().numpy()
        part[alive] = shared[torch.from_numpy(assign(found, centroids))].to(weight.device)


@torch.no_grad()
def place(weight: torch.Tensor, values: Array, choice: Array) -> None:
    """Give the non-zero elements of `weight`, contiguous, in their order the values that `choice` (-1: zero) says."""
    shared = torch.from_numpy(np.append(values, 0)).to(weight.dtype)
    flat, done = weight.view(-1), 0
    for start in range(0, len(flat), CHUNK):
        part = flat[start : start + CHUNK]
        alive = part != 0
        count = int(alive.sum())
        # As indices into numpy's append: -1 is the zero at the end.
        part[alive] = shared[torch.from_numpy(choice[done : done + count].astype(np.int64))].to(weight.device)
        done += count


def groups(layers: Sequence[Layer], recipe: Recipe) -> list[tuple[list[str], int]]:
    """Names of the layers that share a codebook, and its most values; layers that are not shared are in none."""
    groups: dict[str, list[str]] = {}
    levels: dict[str, int] = {}
    for layer in layers:
        most = recipe.levels_of(layer.name, layer.is_conv)
        if most is None:
            continue
        key = recipe.group_of(layer.name)
        key = f"group {key}" if key else f"layer {layer.name}"
        groups.setdefault(key, []).append(layer.name)
        # Convolutions and fully connected layers may differ in bits: a shared codebook has the larger.
        levels[key] = max(most, levels.get(key, 0))
    return [(names, levels[key]) for key, names in groups.items()]


def still_kept(masks: Masks, codebooks: Sequence[Codebook], weights: Weights) -> Masks:
    """Masks without the weights of shared layers that have become zero, as a rate may make them."""
    shared = {member.name for codebook in codebooks for member in codebook.members}
    kept = {name: mask & (weights[name] != 0) if name in shared else mask for name, mask in masks.keep.items()}
    return Masks(kept)


class TuningHooks(Hooks):
    """Moves centroids instead of weights: gradients are summed into them, and every step is written back."""

    changing = ("codebooks",)

    def __init__(self, codebooks: list[Codebook], weights: Weights, masks: Masks, decay: float = 0.0) -> None:
        self.codebooks, self.weights, self.masks, self.decay = codebooks, weights, masks, decay
        self.counts = [codebook.counts() for codebook in codebooks]

    def after_backward(self) -> None:
        """Sum the weights' gradients into those of the shared values, or of their step, and scale them."""
        for codebook, counts in zip(self.codebooks, self.counts, strict=True):
            codebook.collect_gradient(self.weights, self.decay)
            codebook.average_gradient(counts)

    def after_step(self) -> None:
        """Write the moved centroids into the weights; weights that are not shared stay masked."""
        for codebook in self.codebooks:
            codebook.write(self.weights)
        self.masks.apply(self.weights)


def finish(codebooks: Sequence[Codebook], weights: Weights, recipe: Recipe) -> None:
    """Round the shared values, tuned or not, to what the recipe wants the file to hold, and write them."""
    for codebook in codebooks:
        codebook.finish(recipe.codebook_dtype, weights)


def tune(run: Run, masks: Masks, codebooks: list[Codebook]) -> None:
    """Fine-tune the centroids, and all parameters that are not shared, with the assignments fixed, in place.

    It is undone where it harms: see `rollback.fine_tune`.
    """
    recipe = run.recipe
    if recipe.finetune_epochs == 0 or not codebooks:
        return
    shared = {id(run.weights[member.name]) for codebook in codebooks for member in codebook.members}
    free = [parameter for parameter in run.model.parameters() if id(parameter) not in shared]
    # The penalty of retraining goes on.
    decay = recipe.weight_decay
    groups: list[dict[str, Any]] = [
        {"params": [codebook.parameter for codebook in codebooks]},
        {"params": free, "weight_decay": decay},
    ]
    fine_tune(run, TuningHooks(codebooks, run.weights, masks, decay), groups)
