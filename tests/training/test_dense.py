"""Training from scratch."""

from __future__ import annotations

import torch
from samples import SIDE, blobs, conv_net

from deepcompress.training.data import DataSet
from deepcompress.training.dense import DenseSettings, train_dense
from deepcompress.training.loop import evaluate
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
