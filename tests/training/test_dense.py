"""Training from scratch."""

from __future__ import annotations

from dataclasses import replace

import torch
from samples import SIDE, blobs, conv_net

from deepcompress.training.data import DataSet
from deepcompress.training.dense import DenseSettings, train_dense
from deepcompress.training.evaluation import evaluate
from deepcompress.training.objective import Classification
from deepcompress.training.progress import Progress


def data():
    parts = [blobs(n, seed, (1, SIDE, SIDE)) for n, seed in ((300, 1), (50, 2), (100, 3))]
    return DataSet("blobs", *(tensor for part in parts for tensor in part))


def trained(settings, watch=None):
    torch.manual_seed(0)
    return train_dense(conv_net(), data(), settings, torch.device("cpu"), watch)


def test_it_learns_and_reports_each_epoch():
    results = []

    class Watch(Progress):
        def epoch(self, result):
            results.append((result.stage, result.epoch, result.epochs, result.val_error))

    model = trained(DenseSettings(epochs=4, batch_size=32, lr=0.05), Watch())
    assert evaluate(model, data().test_loader()).error < 5
    assert [result[:3] for result in results] == [("train", epoch, 4) for epoch in (1, 2, 3, 4)]
    assert results[-1][3] == evaluate(model, data().val_loader()).error


def test_the_seed_decides():
    first, again, other = (
        trained(DenseSettings(epochs=1, batch_size=64, shift=1, seed=seed)).state_dict()["0.weight"]
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_settings_reach_the_loop(monkeypatch):
    calls = []
    monkeypatch.setattr("deepcompress.training.dense.fit", lambda *where, **how: calls.append((where, how)))
    settings = DenseSettings(
        epochs=7, batch_size=25, lr=0.3, weight_decay=0.02, shift=2, flip=True, label_smoothing=0.1,
        lr_schedule="step", precision="bfloat16", seed=5,
    )  # fmt: skip
    trained(settings)
    (((_, loader, optimizer, epochs), how),) = calls
    assert (epochs, loader.batch_size, loader.shift, loader.flip) == (7, 25, 2, True)
    assert (how["lr_schedule"], how["precision"]) == ("step", "bfloat16")
    assert how["objective"] == Classification(0.1)
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"], group["nesterov"]) == (0.3, 0.02, True)


def test_the_datas_own_shift_and_flip_are_the_default(monkeypatch):
    loaders = []
    monkeypatch.setattr("deepcompress.training.dense.fit", lambda model, loader, *_, **__: loaders.append(loader))
    own = replace(data(), shift=3, flip=True)
    for changes in ({}, {"shift": 0, "flip": False}):
        train_dense(conv_net(), own, DenseSettings(**changes), torch.device("cpu"))
    assert [(loader.shift, loader.flip) for loader in loaders] == [(3, True), (0, False)]
