"""Rounding the weights of an ONNX model by what samples tell of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch

from deepcompress.calibration.checking import Check, Rounded
from deepcompress.calibration.grids import Calibrated
from deepcompress.graphs.feeds import Feeds
from deepcompress.graphs.model import OnnxModel
from deepcompress.graphs.product import Product
from deepcompress.graphs.products import products
from deepcompress.graphs.roles import weights_of
from deepcompress.graphs.sensing import Sensing
from deepcompress.graphs.trial import OnnxTrial
from deepcompress.graphs.turns import doubles, turns_of
from deepcompress.quantize.grid import short
from deepcompress.quantize.rows import LARGEST, LARGEST_SHARED, RowGrid, by_size, coarseness
from deepcompress.training.progress import Progress

_FED = (torch.float32, torch.float16, torch.float64)  # that numpy and onnxruntime have, too


class OnnxRounder:
    """Rounds the weights of an ONNX model at a step, as `calibration.rounding.Rounder` those of a network.

    Args:
        model: the model.
        batches: inputs: a tensor for the first input, a tuple in order, or a dictionary by name.
        watch: told which weights nothing is known of.

    Raises:
        DataError: there are fewer than `samples.FEWEST` samples, or NaN among them; or the output does not depend on
            them.
        NetworkError: the model does not take them.
    """

    def __init__(self, model: OnnxModel, batches: Iterable[Any], watch: Progress) -> None:
        weights = weights_of(model)
        stored = {name: each for name, each in model.tensors.stored.items() if name in weights}
        shapes = {name: each.shape for name, each in stored.items() if each.dtype in _FED}
        self._products = _of_each(products(model.proto(), shapes))
        self._tensors = model.tensors
        turned = {name: uses[0].turn(model.tensors[name].float()) for name, uses in self._products.items()}
        feeds = Feeds(model, batches)
        sensing = Sensing(model, feeds, self._products, turned, watch)
        own = {name: id(weight) for name, weight in turned.items()}
        statistics = sensing.statistics()
        self._calibrated = Calibrated(turned, statistics, own)
        self._turns, self._weights = turns_of(model, weights), sorted(weights)
        self._doubles = doubles(model, weights)
        self._coarser = coarseness({name: math.prod(model.tensors.stored[name].shape) for name in weights})
        self._check = Check(self._plain, OnnxTrial(model, feeds.kept, feeds.outputs, statistics.power).error)
        met = set(self._calibrated.met())
        if missing := sorted(weights - met):
            watch.message(f"rounded without calibration, as no product with them was seen: {', '.join(missing)}")

    def __call__(self, step: float) -> Rounded:
        """As finely as a `step` of the recipe says: the output may change by step^2 of its variance.

        Weights go by their sizes instead where these change the output for samples held out less in as many bits.
        """
        return self._check.better(self._predicted(step), step)

    def _predicted(self, step: float) -> Rounded:
        """By what samples tell, were they all there is."""
        found, corrected = dict[str, RowGrid](), {}
        for name, grid in self._calibrated.grids(step**2):
            first = self._doubles.get(name, name)
            if first in found:  # equal weights are rounded alike, as the file stores them once
                continue
            product = self._products[name][0]
            found[first] = _in_place(product, grid, self._tensors.stored[name].dtype)
            change = self._calibrated.bias_change(name, grid)
            if change is not None and product.bias and len(self._products[name]) == 1:
                bias = self._tensors[product.bias]
                if bias.shape == change.shape:
                    corrected[product.bias] = bias - change.to(bias)
        grids = {name: found[first] for name in self._weights if (first := self._doubles.get(name, name)) in found}
        rest = [name for name in self._weights if name not in grids]
        return Rounded({**self._by_size(step, rest), **grids}, corrected)

    def _plain(self, step: float) -> Rounded:
        return Rounded(self._by_size(step, self._weights), {}, is_plain=True)

    def _by_size(self, step: float, names: Iterable[str]) -> dict[str, RowGrid]:
        """As without samples."""
        return {name: by_size(self._tensors[name], step * self._coarser[name], self._turns.get(name)) for name in names}


def _of_each(found: Sequence[Product]) -> dict[str, list[Product]]:
    """The products of each weight that use it as the first of them does; a bias is only that of one product."""
    biases = Counter(product.bias for product in found)
    uses: dict[str, list[Product]] = {}
    for product in found:
        first = uses.setdefault(product.weight, [product])[0]
        alike = (first.groups, first.turn, first.is_lookup) == (product.groups, product.turn, product.is_lookup)
        if product is not first and alike:
            uses[product.weight].append(product)
    return {
        name: [replace(each, bias=each.bias if biases[each.bias] == 1 else "") for each in products]
        for name, products in uses.items()
    }


def _in_place(product: Product, grid: RowGrid, dtype: torch.dtype) -> RowGrid:
    """The grid of a weight as it lies in the graph, where each index of its first dimension has one step.

    Where its type is not float32, all of it has one.
    """
    shape = grid.integers.shape
    integers = product.back(grid.integers)
    steps = product.back(grid.steps.reshape(-1, *[1] * (len(shape) - 1)).expand(shape)).reshape(len(integers), -1)
    common, most = steps.amax(1), LARGEST
    if dtype is not torch.float32:
        common, most = torch.full_like(common, short(float(common.max()))), LARGEST_SHARED
    numbers = torch.round(integers.reshape(steps.shape) * (steps / common[:, None])).clamp(-most, most)
    return RowGrid(numbers.to(torch.int32).reshape(integers.shape), common)
