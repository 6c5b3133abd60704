"""Snapshots of what training changes: taken, written, read, and put back."""

from __future__ import annotations

import io
import random
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from deepcompress.prune.hooks import MaskHooks
from deepcompress.prune.masks import Masks
from deepcompress.recipe import Recipe
from deepcompress.training.loop import Hooks
from deepcompress.training.snapshot import (
    fill_tensors,
    generators,
    names,
    promises,
    put_back,
    put_back_chance,
    take,
    take_chance,
    tensors_of,
)

CPU = torch.device("cpu")


class Part:
    changing: ClassVar[tuple[str, ...]] = ("count",)

    def __init__(self, count):
        self.count = count


@dataclass(frozen=True)
class Row:
    name: str
    values: torch.Tensor


class First(Hooks):
    changing: ClassVar[tuple[str, ...]] = ("step", "part")

    def __init__(self, step=0):
        self.step, self.part, self.constant = step, Part(step), object()


class Second(First):
    changing = ("rows", "table", "parameter", "generator", "maybe", "names")

    def __init__(self, step=0):
        super().__init__(step)
        self.rows = [Row("a", torch.full((2,), float(step)))]
        self.table = {"x": torch.tensor(step), 3: (step, step + 0.5)}
        self.parameter = nn.Parameter(torch.full((3,), float(step)))
        self.generator = torch.Generator().manual_seed(step)
        self.maybe = None if step == 0 else torch.tensor([True])
        self.names = [] if step == 0 else ["q", np.float64(0.25)]


class Silent(First):
    """A class that says nothing of itself."""


def written(plain):
    """As it comes from a file that no code is run of."""
    buffer = io.BytesIO()
    torch.save(plain, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def test_attributes_of_all_classes_are_named():
    assert names(Second()) == ["step", "part", "rows", "table", "parameter", "generator", "maybe", "names"]
    assert promises(Second()) and promises(Hooks())
    assert not promises(Silent())


def test_there_and_back():
    old, new = Second(7), Second(0)
    parameter, generator, rows = new.parameter, new.generator, new.rows
    drawn = torch.rand(3, generator=torch.Generator().manual_seed(7))
    put_back(new, written(take(old)), CPU)
    assert (new.step, new.part.count, new.maybe.tolist(), new.names) == (7, 7, [True], ["q", 0.25])
    assert isinstance(new.rows[0], Row) and new.rows[0].values.tolist() == [7.0, 7.0]
    assert new.table["x"].item() == 7 and tuple(new.table[3]) == (7, 7.5)
    assert new.parameter is parameter and parameter.tolist() == [7.0] * 3
    assert new.rows is rows
    assert new.generator is generator and torch.equal(torch.rand(3, generator=generator), drawn)


def test_what_cannot_be_kept_is_an_error_at_once():
    hooks = First()
    hooks.step = {1, 2}
    with pytest.raises(TypeError, match="a set cannot be part of a snapshot"):
        take(hooks)


def test_masks_are_replaced_and_their_costs_and_dropouts_follow(mlp):
    weights = {f"{name}.weight": getattr(mlp, name).weight for name in ("fc1", "fc2", "fc3")}
    recipe = Recipe(penalty="rate", regrow="surgery")
    old, kept = MaskHooks(mlp, weights, recipe), Masks({name: weight > 0 for name, weight in weights.items()})
    old.take(kept)
    old.shadow.dense["fc1.weight"][0, 0] = 5.0
    saved, rate = written(take(old)), mlp.drop.p
    assert rate < 0.4
    mlp.drop.p = 0.4
    new = MaskHooks(mlp, weights, recipe)
    before = new.masks
    put_back(new, saved, CPU)
    new.restored()
    assert all(torch.equal(new.masks.keep[name], mask) for name, mask in kept.keep.items())
    assert all(mask.all() for mask in before.keep.values())
    assert all(torch.equal(new.penalty.costs[name], cost) for name, cost in old.penalty.costs.items())
    assert len(new.penalty.costs) == 3
    assert new.shadow.dense["fc1.weight"][0, 0] == 5.0
    assert mlp.drop.p == rate


def test_tensors_of_a_network_with_tied_and_unsaved_ones():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(2, 2)
            self.b = nn.Linear(2, 2)
            self.b.weight = self.a.weight
            self.register_buffer("seen", torch.zeros(1), persistent=False)

    net = Net()
    saved = written(tensors_of(net))
    assert sorted(saved) == ["a.bias", "a.weight", "b.bias", "seen"]
    memory = net.a.weight.data_ptr()
    expected = net.a.weight.tolist()
    with torch.no_grad():
        net.a.weight.zero_()
        net.seen = torch.ones(4)
    fill_tensors(net, saved)
    assert net.b.weight.tolist() == expected
    assert net.a.weight.data_ptr() == memory
    assert net.seen.tolist() == [0.0]


def draw():
    return random.random(), float(np.random.rand()), float(np.random.randn()), torch.rand(2).tolist()


def test_chance_of_every_kind():
    own = torch.Generator().manual_seed(3)
    loader = DataLoader(TensorDataset(torch.arange(20.0)), 4, shuffle=True, generator=own)
    np.random.randn()  # one of a pair is left, and must come back
    saved = written(take_chance(CPU, loader, None))
    first = draw(), [batch[0].tolist() for batch in loader]
    assert (draw(), [batch[0].tolist() for batch in loader]) != first
    put_back_chance(saved, CPU, loader, None)
    assert (draw(), [batch[0].tolist() for batch in loader]) == first


def test_generators_are_found_once():
    own = torch.Generator()
    loader = DataLoader(TensorDataset(torch.arange(4.0)), 2, shuffle=True, generator=own)
    assert list(generators((loader, loader, [1], None))) == [own]
