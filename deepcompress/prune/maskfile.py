"""Masks and scores as files: one tensor for each layer, under the name of its weights, in .safetensors or .pt.

A mask is boolean, True where a weight is kept; scores are floating-point numbers, as they were compared. Either is what
`checkpoint.load_checkpoint` reads, with what was said of it as metadata.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from deepcompress.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from deepcompress.errors import CheckpointError
from deepcompress.prune.masks import Masks

Facts = Mapping[str, str | int | float]
Tensors = Mapping[str, torch.Tensor]


def save_masks(path: str | Path, masks: Masks, facts: Facts | None = None) -> None:
    """Write masks to a file, with what there is to say of them.

    Raises:
        CheckpointError: the ending is neither .safetensors nor .pt.
        OutputError: the file cannot be written.
    """
    _save(path, masks.keep, {"holds": "masks", **(facts or {})})


def load_masks(path: str | Path) -> Masks:
    """The inverse of `save_masks`.

    Raises:
        CheckpointError: the file is missing or damaged, or a tensor in it is no mask.
    """
    return Masks(_load(path, "mask", lambda tensor: tensor.dtype is torch.bool))


def save_scores(path: str | Path, scores: Tensors, facts: Facts | None = None) -> None:
    """Write the scores of a criterion to a file, with what there is to say of them; raises as `save_masks`."""
    _save(path, scores, {"holds": "scores", **(facts or {})})


def load_scores(path: str | Path) -> dict[str, torch.Tensor]:
    """The inverse of `save_scores`.

    Raises:
        CheckpointError: the file is missing or damaged, or a tensor in it holds no scores.
    """
    return _load(path, "score", torch.Tensor.is_floating_point)


def fitted(masks: Masks, weights: Tensors) -> Masks:
    """The masks of a file in the order of `weights`, and on their device.

    Raises:
        CheckpointError: they are not for these weights: a name is missing or is too many, or a shape differs.
    """
    keep = masks.keep
    if not keep.keys() & weights.keys():  # a name that all tensors begin with may have been taken for DataParallel's
        keep = {f"module.{name}": mask for name, mask in keep.items()}
    for name in weights:
        if name not in keep:
            raise CheckpointError(f"there is no mask for {name}; there are masks for {_some(masks.keep)}")
    for name, mask in keep.items():
        if name not in weights:
            raise CheckpointError(f"there is a mask for {name}, which is not pruned here; what is: {_some(weights)}")
        if mask.shape != weights[name].shape:
            raise CheckpointError(
                f"the mask of {name} has shape {tuple(mask.shape)}, and its weights {tuple(weights[name].shape)}"
            )
    return Masks({name: keep[name].to(weight.device) for name, weight in weights.items()})


def _save(path: str | Path, tensors: Tensors, facts: Facts) -> None:
    save_checkpoint(path, Checkpoint({name: value.detach().cpu() for name, value in tensors.items()}, facts={**facts}))


def _load(path: str | Path, what: str, fits: Callable[[torch.Tensor], bool]) -> dict[str, torch.Tensor]:
    state = load_checkpoint(path).state
    for name, value in state.items():
        if not fits(value):
            raise CheckpointError(f"{path}: tensor {name} is {value.dtype}: this is not a file of {what}s")
    return dict(state)


def _some(names: Mapping[str, object], most: int = 8) -> str:
    more = [f"{len(names) - most} more"] if len(names) > most else []
    return ", ".join([*list(names)[:most], *more])
