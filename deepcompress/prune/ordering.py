"""Neurons next to others like them: the network computes the same, and the coder of the file has less to say.

The order of the neurons of a hidden layer is free: whoever moves their rows, their biases and what reads them has the
same network. Where most weights are pruned, positions take most of the file, and the coder expects a weight where there
are some near it. So neurons that are left come first, each followed by the one that is read most alike, and those that
nothing reads come last.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn

from deepcompress.prune.masks import Masks
from deepcompress.prune.neurons import Connection

Weights = Mapping[str, torch.Tensor]

_PARTS = ("weight", "bias", "running_mean", "running_var")  # of layers and batch norms, one for each neuron


@torch.no_grad()
def sort_neurons(model: nn.Module, weights: Weights, masks: Masks, links: Sequence[Connection]) -> Masks:
    """Sort the neurons (filters, channels) between two layers that are both pruned, in place.

    Args:
        model: the network, with its pruned weights at zero.
        weights: those of its parameters that are pruned.
        masks: which of them are kept.
        links: which layer feeds which (`neurons.connections`).

    Returns:
        The masks in the new order.
    """
    live, keep = _tensors(model), dict(masks.keep)
    owners = Counter(map(id, live.values()))
    for chain in _chains([link for link in links if _is_pruned(link, live, weights)]):
        order = alike(_readers(weights[chain[-1].target], chain[-1]))
        places = [(name, dimension) for name, dimension in _places(chain) if name in live]
        if any(owners[id(live[name])] > 1 for name, _ in places):  # what else has it would have to move as well
            continue
        for name, dimension in places:
            live[name].copy_(moved(live[name], dimension, order))
            if name in keep:
                keep[name] = moved(keep[name], dimension, order)
    return Masks(keep)


def alike(rows: torch.Tensor) -> torch.Tensor:
    """An order of `rows` (n, features): the fullest first, then always the one of the least angle to the last.

    Rows of zeros come last, as they were. int64 (n).
    """
    rows = rows.float()
    full = (rows != 0).sum(1)
    alive = torch.nonzero(full, as_tuple=True)[0]
    if not len(alive):
        return torch.arange(len(rows), device=rows.device)
    units = nn.functional.normalize(rows[alive])
    left = torch.ones(len(alive), device=rows.device)
    at, found = full[alive].argmax(), []
    for _ in range(len(alive)):
        found.append(at)
        left[at] = -torch.inf
        at = (units @ units[at] + left).argmax()
    return torch.cat([alive[torch.stack(found)], torch.nonzero(full == 0, as_tuple=True)[0]])


def _chains(links: Sequence[Connection]) -> Iterator[list[Connection]]:
    """Connections from a layer, through those that work on each channel by itself, to the one that mixes channels."""
    following = {link.source: link for link in links}
    inner = {link.target for link in links if link.depthwise}
    for link in links:
        chain = [link]
        while chain[-1].depthwise and chain[-1].target in following:
            chain.append(following[chain[-1].target])
        norms = [link.norms for link in chain]
        if link.source not in inner and not chain[-1].depthwise and None not in norms:
            yield chain


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by all their names."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def _is_pruned(link: Connection, live: Weights, weights: Weights) -> bool:
    """Whether both ends are pruned; the state_dict of a network may give the name of a parameter to another one."""
    return all(name in weights and weights[name] is live.get(name) for name in (link.source, link.target))


def _readers(weight: torch.Tensor, link: Connection) -> torch.Tensor:
    """For each output of the source, the signs of the target's weights that read it (outputs, readers)."""
    columns = weight.transpose(0, 1).flatten(1).sign()
    return columns.reshape(len(columns) // link.repeat, -1)


def _places(chain: Sequence[Connection]) -> list[tuple[str, int]]:
    """The tensors that may have the outputs of a chain's first layer, and along which dimension each has them."""
    modules = [name for link in chain for name in (link.source.removesuffix(".weight"), *(link.norms or ()))]
    return [*((f"{module}.{part}", 0) for module in modules for part in _PARTS), (chain[-1].target, 1)]


def moved(value: torch.Tensor, dimension: int, order: torch.Tensor) -> torch.Tensor:
    """`value` with the neurons along a dimension in a new `order`: each has one place there, or several in a row."""
    repeat = value.shape[dimension] // len(order)
    index = (order[:, None] * repeat + torch.arange(repeat, device=order.device)).flatten()
    return value.index_select(dimension, index.to(value.device))
