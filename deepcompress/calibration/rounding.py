"""A network and samples in, weights as whole numbers and corrected biases out, at any fineness."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from deepcompress.calibration.checking import Check, Rounded
from deepcompress.calibration.collect import collect
from deepcompress.calibration.grids import Calibrated
from deepcompress.calibration.samples import check_enough, parted
from deepcompress.calibration.teaching import taught
from deepcompress.calibration.trial import Trial, coarsest
from deepcompress.layers import live_tensors, tensors_of
from deepcompress.networks.copies import copied
from deepcompress.networks.inputs import count_samples
from deepcompress.networks.precision import stored_of
from deepcompress.quantize.rows import RowGrid, by_size, coarseness
from deepcompress.training.progress import Progress

_TAUGHT = 2.0  # times the loss that is allowed: so much teaching is trusted to make good
#: Modules that add a bias to what they multiply, both of one name: weight and bias, weight_ih_l0 and bias_ih_l0.
_BIASED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.RNNBase, nn.MultiheadAttention)


class Rounder:
    """Rounds the weights of a network by what samples tell of them, or by their sizes where that works better.

    Three quarters of the samples tell what each weight matters, and the others what rounding does to the output.

    Args:
        model: the network, which is not changed.
        names: of the weights that are to be rounded.
        batches: inputs (see `networks.inputs.predict`).
        watch: told which weights nothing is known of, and what rounding does.
        teach: tune what is rounded by the outputs of `model`, and round more coarsely as far as that makes it good.

    Raises:
        DataError: there are fewer than `samples.FEWEST` samples; or as `collect`.
        NetworkError: as `collect`.
    """

    def __init__(
        self, model: nn.Module, names: Iterable[str], batches: Iterable[Any], watch: Progress, teach: bool = False
    ) -> None:
        self._model, self._teach = model, teach
        self._learned, kept = parted(batches)
        check_enough(sum(map(count_samples, (*self._learned, *kept))))
        twin = copied(model).eval()
        for parameter in twin.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        tensors, own = live_tensors(model, tensors_of(model)), live_tensors(twin, tensors_of(twin))
        self._stored = stored_of(model)
        self.weights = {name: self._stored.cast(name, tensors[name].detach()) for name in names}
        statistics = collect(twin, self._learned, watch)
        self._calibrated = Calibrated(self.weights, statistics, {name: id(own[name]) for name in self.weights})
        self._biases = _biases(model, tensors)
        self._watch, self._trial = watch, Trial(model, twin, kept, statistics.power)
        self._check = Check(self._plain, self._trial.error)
        if missing := sorted(self.weights.keys() - self._calibrated.met()):
            watch.message(f"the output feels nothing of them, so they are rounded by their sizes: {', '.join(missing)}")
        if hidden := self._calibrated.out_of_sight():
            watch.message(
                f"no layer shows its products with them, so their errors are not made good: {', '.join(hidden)}"
            )

    def predicted(self, step: float) -> Rounded:
        """Weights so rounded that the output should change by step^2 of its variance, were the samples all there is."""
        grids, corrected = {}, {}
        for name, grid in self._calibrated.grids(step**2):
            grids[name] = grid
            change = self._calibrated.bias_change(name, grid)
            if change is not None and name in self._biases:
                own, bias = self._biases[name]
                corrected[own] = self._stored.cast(own, bias.detach() - change.to(bias))
        return Rounded({**self._by_size(step, self.weights.keys() - grids), **grids}, corrected)

    def checked(self, step: float) -> Rounded:
        """As `predicted`; or, where that is better on samples held out, by their sizes in about as many bits."""
        return self._check.better(self.predicted(step), step)

    def measured(self, step: float) -> Rounded:
        """As `checked`, so that the output for samples held out changes by step^2 of its variance, or a little less."""
        return self._check.tried(self._within(step**2, self._error_of, self.checked, step))

    def kept_by(self, lost: Callable[[nn.Module], float], most: float, start: float) -> Rounded:
        """Weights rounded as coarsely as a metric of the whole network allows.

        Args:
            lost: points that a network has lost of the metric.
            most: as many may be.
            start: the step to look at first.
        """

        def points_of(rounded: Rounded) -> float:
            self._trial.fill(rounded.values())
            points = lost(self._trial.network)
            self._watch.message(f"about {rounded.bits() / 8:,.0f} bytes of weights: {points:.3g} points lost")
            return points

        found = self._within(most, points_of, self.checked, start)
        if (points := points_of(found)) > most:
            self._watch.message(f"warning: {points:.3g} points are lost, and no finer step loses as few as {most:g}")
        return found

    def tuned(self, rounded: Rounded) -> Rounded:
        """As taught by the dense network's outputs, where that brings it nearer to them (see `teaching`)."""
        grids, vectors = taught(self._model, rounded.grids, rounded.corrected, self._learned, self._trial, self._watch)
        return Rounded(grids, {name: self._stored.cast(name, value) for name, value in vectors.items()})

    def _within(
        self, allowed: float, loss_of: Callable[[Rounded], float], make: Callable[[float], Rounded], start: float
    ) -> Rounded:
        """What `make` gives for the coarsest step whose loss is allowed; with teaching, after it."""
        if self._teach:
            found = self.tuned(self._coarsest(_TAUGHT * allowed, loss_of, make, start))
            if loss_of(found) <= allowed:
                return found
        found = self._coarsest(allowed, loss_of, make, start)
        return self.tuned(found) if self._teach else found

    def _coarsest(
        self, allowed: float, loss_of: Callable[[Rounded], float], make: Callable[[float], Rounded], start: float
    ) -> Rounded:
        def tried(step: float) -> tuple[float, Rounded]:
            made = make(step)
            return loss_of(made), made

        return coarsest(allowed, tried, start)

    def _error_of(self, rounded: Rounded) -> float:
        error = self._check.tried(rounded).error
        assert error is not None
        return error

    def _plain(self, step: float) -> Rounded:
        biases = {name: self._stored.cast(name, bias.detach()) for name, bias in self._biases.values()}
        return Rounded(self._by_size(step, self.weights), biases, is_plain=True)

    def _by_size(self, step: float, names: Iterable[str]) -> dict[str, RowGrid]:
        """As without samples."""
        coarser = coarseness({name: weight.numel() for name, weight in self.weights.items()})
        return {name: by_size(self.weights[name], step * coarser[name]) for name in names}


def _biases(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[str, torch.Tensor]]:
    """By the name of a weight, the name and values of the bias that its module adds to its products."""
    name_of = {id(value): name for name, value in tensors.items()}
    found = {}
    for module in model.modules():
        for own, parameter in module.named_parameters(recurse=False):
            bias = getattr(module, own.replace("weight", "bias"), None) if isinstance(module, _BIASED) else None
            known = "weight" in own and isinstance(bias, torch.Tensor) and {id(parameter), id(bias)} <= name_of.keys()
            if known and isinstance(bias, torch.Tensor):
                found[name_of[id(parameter)]] = name_of[id(bias)], bias
    return found
