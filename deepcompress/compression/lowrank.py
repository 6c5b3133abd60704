"""Layers as products of two thin ones, by truncated singular value decomposition (Denton et al. 2014, section 3.2)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import nn

from deepcompress.layers import buffers_of, check_finite, compressible
from deepcompress.networks.adapt import is_factorable, replace, thin

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class Factored:
    """One layer that became two: its name, how many units lie between them, and the weights before and after."""

    name: str
    rank: int
    before: int
    after: int

    def __str__(self) -> str:
        return f"{self.name}: a product of rank {self.rank}, {self.before:,} → {self.after:,} weights"


@torch.no_grad()
def factorize(model: nn.Module, energy: float) -> list[Factored]:
    """Replace layers by two thin ones, in place, where those have fewer weights.

    A linear layer is its matrix; a convolution that of filters by (inputs × kernel), so that it becomes one with fewer
    filters and one of 1 × 1. The rank is the least at which the squares of the singular values that are kept have
    `energy` of the sum of all: the relative error of the matrix, in the Frobenius norm, is at most sqrt(1 - energy).
    Grouped convolutions, tied weights, subclasses, and layers inside of torch's own modules (attention) stay.

    Args:
        model: whose layers ``name`` become ``name.0`` (without bias) and ``name.1``.
        energy: above 0, at most 1; 1 is exact, and makes layers smaller only if their matrix has not full rank.

    Raises:
        CheckpointError: a weight is NaN or infinite.
    """
    state = model.state_dict()
    check_finite(state, compressible(state, None, buffers_of(model)))
    owners = Counter(id(value) for _, value in model.named_parameters(remove_duplicate=False))
    found, modules = [], {}
    for name, module in model.named_modules():
        if not name or not is_factorable(module) or not _is_free(model, name):
            continue
        weight = module.get_parameter("weight")
        if any(owners[id(value)] > 1 for value in module.parameters()) or not weight.numel():
            continue
        pair = _product(module, energy)
        if pair is not None:
            modules[name] = pair
            after = sum(layer.get_parameter("weight").numel() for layer in pair)
            found.append(Factored(name, pair[0].get_parameter("weight").shape[0], weight.numel(), after))
    replace(model, modules)
    return found


def _is_free(model: nn.Module, name: str) -> bool:
    """Whether the module above is a container or somebody's own: torch's others read the weights of what they hold."""
    parent = model.get_submodule(name.rpartition(".")[0])
    return isinstance(parent, _CONTAINERS) or not type(parent).__module__.startswith("torch.nn")


def _product(module: nn.Module, energy: float) -> nn.Sequential | None:
    """The two layers, with their weights; None where they would have no fewer than the one."""
    weight = module.get_parameter("weight")
    matrix = weight.detach().flatten(1).to("cpu", torch.float64)
    rows, columns = matrix.shape
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    rank = rank_of(values, energy)
    if rank * (rows + columns) >= rows * columns:
        return None
    pair, root = thin(module, rank), values[:rank].sqrt()
    first, second = pair[0].get_parameter("weight"), pair[1].get_parameter("weight")
    first.copy_((root[:, None] * right[:rank]).reshape(first.shape))
    second.copy_((left[:, :rank] * root).reshape(second.shape))
    first.requires_grad_(weight.requires_grad)
    second.requires_grad_(weight.requires_grad)
    if module.bias is not None:
        bias = module.get_parameter("bias")
        pair[1].get_parameter("bias").copy_(bias).requires_grad_(bias.requires_grad)
    return pair


def rank_of(values: torch.Tensor, energy: float) -> int:
    """The least number of singular values (descending) whose squares have `energy` of the sum; at least 1.

    Values below the precision of their matrix, as matrices without full rank have, count as zero.
    """
    eps = torch.finfo(torch.float32).eps * len(values)
    squares = torch.where(values > eps * values[0], values, 0).square().cumsum(0)
    return min(int((squares < energy * squares[-1] * (1 - 1e-12)).sum()) + 1, len(values))
