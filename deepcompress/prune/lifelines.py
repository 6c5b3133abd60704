"""A path through layers that pruning would cut: without one, no input reaches the output any more.

Every layer may keep weights, and still nothing flows, where those of one layer lead to neurons that the next does not
read. Then the layers die together. What they keep instead is one weight of each, in a row from input to output: the
path whose least weight is worth most, which a rising threshold would cut last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from deepcompress.prune.masks import Masks
from deepcompress.prune.neurons import Connection


def with_paths(masks: Masks, names: Sequence[str], worth: Mapping[str, torch.Tensor], links: list[Connection]) -> Masks:
    """`masks` with a path through the layers `names`, and through all that are connected with them.

    Args:
        masks: what is kept.
        names: of layers.
        worth: what each weight is worth, in one unit; those of weights that must not come back are negative.
        links: which layer feeds which.
    """
    following = {link.source: link for link in links if {link.source, link.target} <= masks.keep.keys()}
    targets = {link.target for link in following.values()}
    keep = dict(masks.keep)
    for first in [name for name in masks.keep if name not in targets]:
        chain = _chain(first, following)
        if not {first, *(link.target for link in chain)} & set(names):
            continue
        for name, position in _widest(first, chain, worth).items():
            flat = keep[name].clone().reshape(-1)
            flat[position] = True
            keep[name] = flat.reshape(keep[name].shape)
    return Masks(keep)


def _chain(first: str, following: Mapping[str, Connection]) -> list[Connection]:
    """The connections from layer to layer, in order."""
    chain, name = [], first
    while name in following:
        chain.append(following[name])
        name = following[name].target
    return chain


def _widest(first: str, chain: Sequence[Connection], worth: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """For each layer of a chain, the flat position of its weight on the path whose least weight is worth most.

    Nothing, where all paths lead through weights that must not come back.
    """
    layer = worth[first].float().flatten(1)
    reached, at = layer.max(dim=1)  # what the best path to each neuron is worth, and where it comes in
    steps = [(first, layer.shape[1], at)]
    for link in chain:
        layer = worth[link.target].float().flatten(1)
        if link.depthwise:
            best, at = layer.max(dim=1)
            reached = torch.minimum(best, reached)
            steps.append((link.target, layer.shape[1], at))
            continue
        size = layer.shape[1] // (len(reached) * link.repeat)  # weights of each input, and of its positions
        reached, at = torch.minimum(layer, reached.repeat_interleave(link.repeat * size)).max(dim=1)
        steps.append((link.target, layer.shape[1], at))
    if reached.max() < 0:
        return {}
    found, neuron = {}, int(reached.argmax())
    for back, (name, width, at) in enumerate(reversed(steps), 1):
        column = int(at[neuron])
        found[name] = neuron * width + column
        if back <= len(chain) and not chain[-back].depthwise:
            size = width // worth[name].shape[1]
            neuron = column // size // chain[-back].repeat
    return found
