"""Vectors tuned on their grids: scales and shifts of folded batch norms are few, and each moves a whole channel.

They are rounded when the weights are as the file has them, and no training made up for that so far. Here the vectors
learn behind their grids, as weights do in `latent`, while all weights stay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from deepcompress.networks.batchnorm import freeze_norms
from deepcompress.prune.masks import Masks
from deepcompress.quantize.latent import LatentHooks
from deepcompress.quantize.sharing import Codebook, finish
from deepcompress.training.retraining import Run
from deepcompress.training.rollback import fine_tune

PART = 0.25  # of the epochs of fine-tuning, as many more
RATE_PART = 0.2  # of the rate of fine-tuning: no statistics follow what a step does to a channel


def tune_vectors(run: Run, codebooks: Sequence[Codebook], vectors: Mapping[str, torch.Tensor]) -> list[Codebook] | None:
    """Train `vectors` behind the shared values that they have from `codebooks`, in place; returns those as they end.

    Batch norms are folded: they keep their statistics. Nothing happens without training data, or where they are not
    folded, and the answer is None then. It is undone where it harms, see `rollback.fine_tune`.

    Args:
        run: the network, all of it as the file is to have it.
        codebooks: as `vectors.share_vectors` gives them, each for one vector.
        vectors: the parameters of the network that are members of them, by name; others are not looked at.
    """
    recipe = run.recipe
    if run.batches is None or not recipe.finetune_epochs or recipe.batch_norm != "fold" or not codebooks:
        return None
    freeze_norms(run.model, every=True)
    members = {member.name: vectors[member.name] for book in codebooks for member in book.members}
    hooks = LatentHooks(codebooks, members, Masks.nonzero(members))
    groups: list[dict[str, Any]] = [
        {"params": list(members.values())},
        {"params": [book.parameter for book in codebooks]},
    ]
    gentler = replace(
        recipe, finetune_epochs=math.ceil(PART * recipe.finetune_epochs), finetune_lr=RATE_PART * recipe.finetune_lr
    )
    fine_tune(replace(run, recipe=gentler), hooks, groups)
    finish(hooks.codebooks, members, recipe)
    return hooks.codebooks
