"""The measured rise of the loss against a plain loop, and groups of a large layer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from samples import batches, evidence_of
from torch import nn

from deepcompress.prune.criteria import CRITERIA, empirical
from deepcompress.prune.criteria.base import judge
from deepcompress.prune.masks import Masks
from deepcompress.recipe import Recipe

TRAIN = batches(80, seed=1)


def mean_loss(model):
    model.eval()
    with torch.no_grad():
        return sum(float(nn.functional.cross_entropy(model(x), y, reduction="sum")) for x, y in TRAIN) / 80


def test_a_small_layer_is_measured_weight_by_weight(dense):
    evidence = evidence_of({"fc3.weight": dense.fc3.weight}, Recipe(), dense, TRAIN)
    found = CRITERIA["empirical"].judge(evidence)["fc3.weight"].flatten()
    flat, before = dense.fc3.weight.data.view(-1), mean_loss(dense)
    expected = []
    for index in range(len(flat)):
        value, flat[index] = flat[index].clone(), 0.0
        expected.append(mean_loss(dense) - before)
        flat[index] = value
    assert found.tolist() == pytest.approx(expected, abs=2e-6)
    assert found.min() < -1e-5  # some weights do harm
    assert found.max() > 1e-3


def test_groups_share_what_their_removal_costs(dense, monkeypatch):
    monkeypatch.setattr(empirical, "BUDGET", 5)
    weights = {"fc2.weight": dense.fc2.weight}
    evidence = evidence_of(weights, Recipe(), dense, TRAIN)
    found = CRITERIA["empirical"].judge(evidence)["fc2.weight"].flatten()
    order = CRITERIA["taylor1"].judge(evidence)["fc2.weight"].flatten().argsort(stable=True)
    before, dense_weight = mean_loss(dense), dense.fc2.weight.data.clone()
    groups = order.tensor_split(5)
    assert [len(group) for group in groups] == [103, 103, 102, 102, 102]
    for group in groups:
        dense.fc2.weight.data.view(-1)[group] = 0
        rise = mean_loss(dense) - before
        dense.fc2.weight.data.copy_(dense_weight)
        assert found[group].tolist() == pytest.approx([rise / len(group)] * len(group), abs=1e-7)


def test_the_budget_is_kept(dense, monkeypatch):
    monkeypatch.setattr(empirical, "BUDGET", 64)
    passes = []
    monkeypatch.setattr(empirical, "_mean_loss", lambda evidence, weights, batches: passes.append(list(weights)) or 0.0)
    weights = {name: value for name, value in dense.named_parameters() if value.ndim > 1}
    CRITERIA["empirical"].judge(evidence_of(weights, Recipe(), dense, TRAIN))
    assert passes == [[], *([[name] for name in weights for _ in range(64)])]


def test_what_is_pruned_is_not_measured(dense, monkeypatch):
    keep = torch.zeros(4, 16, dtype=torch.bool)
    keep[1, 2] = keep[3, 4] = True
    evidence = evidence_of({"fc3.weight": dense.fc3.weight}, Recipe(criterion="empirical"), dense, TRAIN)
    evidence = replace(evidence, masks=Masks({"fc3.weight": keep}))
    calls = []
    measure = empirical._mean_loss
    monkeypatch.setattr(empirical, "_mean_loss", lambda *arguments: calls.append(1) or measure(*arguments))
    scores = judge(evidence).scores["fc3.weight"]
    assert len(calls) == 3
    assert torch.equal(scores != 0, keep)


def test_a_layer_that_is_all_gone(dense):
    evidence = evidence_of({"fc3.weight": dense.fc3.weight}, Recipe(), dense, TRAIN)
    evidence = replace(evidence, masks=Masks({"fc3.weight": torch.zeros(4, 16, dtype=torch.bool)}))
    assert not CRITERIA["empirical"].judge(evidence)["fc3.weight"].any()


def test_a_weight_that_is_not_contiguous(image_train):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(32, 4))
    plain = CRITERIA["empirical"].judge(evidence_of({"1.weight": model[1].weight}, Recipe(), model, image_train))
    model.to(memory_format=torch.channels_last)
    assert not model[1].weight.is_contiguous()
    found = CRITERIA["empirical"].judge(evidence_of({"1.weight": model[1].weight}, Recipe(), model, image_train))
    assert torch.allclose(found["1.weight"], plain["1.weight"], atol=1e-6)
