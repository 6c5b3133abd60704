"""ThiNet (Luo, Wu and Lin 2017): of the units that a layer reads, those go whose loss its output feels least."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from deepcompress.errors import DataError
from deepcompress.networks.inputs import count_samples, predict
from deepcompress.prune.criteria.base import Evidence, Verdict, criterion, samples
from deepcompress.prune.criteria.gradients import evaluating
from deepcompress.prune.criteria.structured import Seen, observing, spread_units
from deepcompress.prune.masks import Masks
from deepcompress.prune.units import Group

PICKS = 10  # outputs that are looked at in each sample (there section 4.1: 10 instances of each image)
RIDGE = 1e-8  # of the mean diagonal, added to it: units that are always zero, or copies, leave it singular


@criterion("thinet", units="channels")
def thinet(evidence: Evidence) -> Verdict:
    """The relative error of the next layer's output when this unit goes as well as all that go before it.

    For outputs of the next layer that are picked at random (samples, positions, filters), its input is taken apart into
    what comes from each unit, x (there equation 4), so that the output is the sum over the units, but for the bias. The
    greedy choice (algorithm 1): the next to go is the unit with which the sum over all that are gone has the least
    squares. The score is their mean, over the mean square of the output; it never falls from one unit to the next, so
    that it orders units of different layers too. A unit that several layers read is judged by all of them.

    Afterwards the units that are kept are rescaled by least squares, so that they give the whole sum as well as they
    can (equation 8): the next layer's weights are multiplied by that, in place.

    Memory: units × units float64 numbers for each layer that reads.
    """
    grams = _grams(evidence)
    scores = [_greedy(sum(grams[number].values(), _none(group))) for number, group in enumerate(evidence.groups)]

    def correct(masks: Masks) -> None:
        for group, of_readers in zip(evidence.groups, grams, strict=True):
            kept = group.kept(masks)
            for name, gram in of_readers.items():
                _rescale(evidence.weights[name], group.columns[name], rescaling(gram, kept))

    return Verdict(spread_units(evidence, scores), correct)


def _none(group: Group) -> torch.Tensor:
    return torch.zeros(group.count, group.count, dtype=torch.float64)


def _grams(evidence: Evidence) -> list[dict[str, torch.Tensor]]:
    """For each group, and each layer that reads it: the mean of x xᵀ, over the mean square of the sum of x.

    x is what each unit contributes to an output of the layer; float64, (units, units).
    """
    totals = [{name: _none(group) for name in group.columns} for group in evidence.groups]
    generator = torch.Generator().manual_seed(evidence.recipe.seed)
    done = 0
    with evaluating(evidence):
        for x, y in samples(evidence):
            seen = Seen()
            with torch.no_grad(), observing(evidence, seen):
                predict(evidence.model, x)
            for name, value in zip(seen.names, seen.values, strict=True):
                layer = evidence.model.get_submodule(name.rpartition(".")[0])
                for parts in _contributions(layer, value.detach(), generator):
                    for group, total in zip(evidence.groups, totals, strict=True):
                        if name in total:
                            of_units = _by_unit(parts, group, name)
                            total[name].add_(of_units.T @ of_units)
            done += count_samples(y)
    if not done:
        raise DataError(f"criterion {evidence.recipe.criterion} looks at training samples, but the data has none")
    return [{name: gram / gram.sum().clamp_min(1e-300) for name, gram in of_readers.items()} for of_readers in totals]


def _contributions(layer: nn.Module, value: torch.Tensor, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """`PICKS` times, for one output of each sample picked at random: what each column of the input adds to it.

    (samples, columns), float64. The output is linear in the input: its derivative by it, times it. The layer may be of
    any stride, padding and dilation, and its bias is in none of them.
    """
    value = value.requires_grad_()
    with torch.enable_grad():
        output = layer(value).flatten(1)
    for pick in range(PICKS):
        where = torch.randint(output.shape[1], (len(output), 1), generator=generator).to(output.device)
        (gradient,) = torch.autograd.grad(output.gather(1, where).sum(), value, retain_graph=pick + 1 < PICKS)
        parts = value.detach().double() * gradient
        linear = isinstance(layer, nn.Linear)
        yield (parts.reshape(len(parts), -1, parts.shape[-1]).sum(1) if linear else parts.flatten(2).sum(2)).cpu()


def _by_unit(parts: torch.Tensor, group: Group, name: str) -> torch.Tensor:
    """(samples, columns) to the sum over the columns of each unit: (samples, units)."""
    units = group.columns[name]
    mine = units >= 0
    return parts.new_zeros(len(parts), group.count).index_add_(1, units[mine], parts[:, mine])


def _greedy(gram: torch.Tensor) -> torch.Tensor:
    """For each unit, what the sum of squares is when it goes next, in the order that keeps it least; never falling.

    gram (units, units). It takes units² steps.
    """
    scores = torch.zeros(len(gram), dtype=torch.float64)
    left = torch.ones(len(gram), dtype=torch.bool)
    shared, error, highest = torch.zeros(len(gram), dtype=torch.float64), 0.0, 0.0
    for place in range(len(gram)):
        rise = 2 * shared + gram.diagonal()
        unit = int(rise.masked_fill(~left, torch.inf).argmin())
        error += float(rise[unit])
        highest = max(highest, error)
        scores[unit] = highest * (1 + 1e-6 * place) + 1e-12 * place  # of equal ones the order decides
        left[unit] = False
        shared += gram[unit]
    return scores


def rescaling(gram: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Factors of the `kept` units (bool), by which their sum is nearest to the sum of all in squares; 1 of others.

    The normal equations of ThiNet's equation 8: G[kept, kept] w = G[kept, all] 1, with `RIDGE`.
    """
    factors = torch.ones(len(gram), dtype=torch.float64)
    mine = gram[kept][:, kept]
    if not mine.numel() or bool(kept.all()):
        return factors
    ridge = RIDGE * float(mine.diagonal().mean())
    if not ridge > 0:
        return factors
    towards = gram[kept].sum(dim=1) + ridge  # so that without a say of the data a unit stays as it is
    factors[kept] = torch.linalg.solve(mine + ridge * torch.eye(len(mine), dtype=torch.float64), towards)
    return factors


@torch.no_grad()
def _rescale(weight: torch.Tensor, units: torch.Tensor, factors: torch.Tensor) -> None:
    """Multiply the columns of a weight tensor by the factors of their units, in place."""
    of_columns = torch.cat([factors, factors.new_ones(1)])[units].to(weight.device, weight.dtype)
    weight.mul_(of_columns.reshape(1, -1, *[1] * (weight.ndim - 2)))
