"""Learning rates for a network and a loss that nobody has tried here: found by a few steps on a copy.

The default rates suit classifiers of images. Of another loss, gradients can be a hundred times as long, and the first
steps then destroy what was learned. So before anything is trained, a copy is pruned and trained for a moment, at the
default rate and at smaller ones: the largest that lowers the loss is taken.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import nn

from deepcompress.errors import DivergedError
from deepcompress.layers import live_tensors, tensors_of
from deepcompress.networks.batchnorm import freeze_norms, has_frozen_norms, let_train
from deepcompress.networks.copies import copied
from deepcompress.networks.inputs import Batches, count_samples, in_float32, predict, to_device
from deepcompress.prune.masks import Masks, keep_mask
from deepcompress.prune.stage import retrain_under
from deepcompress.recipe import SMALLEST, Recipe
from deepcompress.training import distributed
from deepcompress.training.journal import recording
from deepcompress.training.loop import count_batches
from deepcompress.training.objective import task_of
from deepcompress.training.retraining import Run
from deepcompress.training.snapshot import chance_kept
from deepcompress.training.tasks import CLASSIFICATION

FACTORS = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
STEPS = 16  # of a trial, at most
BATCHES = 8  # that it has, at most
DAMAGE = 0.5  # of the weights of each layer go before, if the recipe prunes no more


def suited(run: Run) -> Recipe:
    """The recipe of `run`, whose learning rates are lower where the default ones make the loss worse.

    Rates that somebody has set stay, and so do those of deepcompress's own networks with the usual losses. The network
    is left as it is, and so are the random numbers to come.
    """
    free = _free(run.recipe)
    if run.batches is None or not run.recipe.retrain or not free or _is_known(run):
        return run.recipe
    with chance_kept(next(run.model.parameters()).device, run.batches), recording(None):
        factor = _largest(run)
    if factor == 1:
        return run.recipe
    rates = {name: getattr(run.recipe, name) * factor for name in free}
    found = run.recipe.changed(**rates)
    shown = " and ".join(f"{name} {rate:.3g}" for name, rate in rates.items())
    run.watch.message(f"the default learning rate does not lower the loss of this network in a trial: it gets {shown}")
    return found


def _free(recipe: Recipe) -> list[str]:
    """The rates that training uses, the first of which is tried; none where somebody has set that one.

    Those of the settings for the smallest files are defaults, too.
    """
    used = [name for name, epochs in (("lr", recipe.epochs), ("finetune_lr", recipe.finetune_epochs)) if epochs]
    set_by_hand = [
        name
        for name in used
        if name in (recipe.given or ())
        and not (recipe.target_size is not None and getattr(recipe, name) == SMALLEST[name])
    ]
    return [] if used[:1] == set_by_hand[:1] else [name for name in used if name not in set_by_hand]


def _is_known(run: Run) -> bool:
    """Whether the default rates were found with such a network and loss, and with norms that follow the data."""
    own = type(run.model).__module__.startswith("deepcompress.")
    return own and not _is_frozen(run) and task_of(run.objective).loss is CLASSIFICATION.loss


def _is_frozen(run: Run) -> bool:
    """Whether norms keep their running statistics in training."""
    return run.recipe.freeze_bn or has_frozen_norms(run.model)


def _largest(run: Run) -> float:
    """The largest of the `FACTORS` that lowers the loss in a trial, or the one that comes nearest to it.

    Of a network with frozen norms it is the one that lowers the loss most. What is damaged does not fit their
    statistics any more, and its loss is so high that a rate that destroys the network lowers it, too.
    """
    assert run.batches is not None
    some = [(x, y) for x, y in itertools.islice(run.batches, BATCHES) if count_samples(y) > 1]
    if not some:
        return 1.0
    steps = min(STEPS, count_batches(run.batches) * (run.recipe.epochs or run.recipe.finetune_epochs))
    epochs = math.ceil(steps / len(some))
    pruned = copied(run.model)
    freeze_norms(pruned, every=run.recipe.freeze_bn)  # or measuring would move statistics that are to stay
    masks = _damage(pruned, run)
    before, frozen, found = _loss(pruned, run, some), _is_frozen(run), dict[float, float]()
    for factor in FACTORS:
        found[factor] = loss = _tried(pruned, run, some, masks, factor, epochs)
        settled = loss > min(found.values()) if frozen else loss < before
        if settled:
            break
    return min(found, key=found.__getitem__)


@torch.no_grad()
def _damage(model: nn.Module, run: Run) -> Masks:
    """Prune each layer in place by the sizes of its weights: what is trained on is damaged, too."""
    weights, part = _weights(model, run), max(run.recipe.prune, DAMAGE)
    masks = Masks(
        {name: keep_mask(weight.detach().abs(), int(part * (weight.numel() - 1))) for name, weight in weights.items()}
    )
    masks.apply(weights)
    return masks


def _tried(pruned: nn.Module, run: Run, some: Batches, masks: Masks, factor: float, epochs: int) -> float:
    """The loss of a copy after a trial; infinite where it is no longer a number."""
    twin = copied(pruned)
    rate = (run.recipe.lr if run.recipe.epochs else run.recipe.finetune_lr) * factor
    recipe = run.recipe.changed(epochs=epochs, lr=rate, lr_schedule="constant", warmup=None, regrow="none")
    try:
        retrain_under(Run(twin, _weights(twin, run), some, recipe, objective=run.objective), masks)
    except DivergedError:
        return math.inf
    return _loss(twin, run, some)


def _weights(model: nn.Module, run: Run) -> dict[str, torch.Tensor]:
    """Those of a copy of the network."""
    tensors = live_tensors(model, tensors_of(model))
    return {name: tensors[name] for name in run.weights}


def _loss(model: nn.Module, run: Run, some: Batches) -> float:
    """The mean over the batches, as training sees it; dropout drops the same each time. NaN is infinite.

    With gradients, as forwards in training may look at them.
    """
    device, losses = next(model.parameters()).device, []
    torch.manual_seed(0)
    let_train(model)
    for x, y in some:
        x, y = to_device(x, device), to_device(y, device)
        losses.append(float(run.objective(in_float32(predict(model, x)), x, y).detach()))
    mean = sum(losses) / len(losses)
    found: float = distributed.from_first(mean if math.isfinite(mean) else math.inf)
    return found
