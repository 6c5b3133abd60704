"""The one loop: what is called when, what is measured, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from samples import CLASSES, Mlp, conv_net
from torch import nn

from deepcompress.errors import DataError, DeepCompressError, NetworkError
from deepcompress.recipe import CHOICES
from deepcompress.training.check import settle
from deepcompress.training.evaluation import evaluate
from deepcompress.training.loop import (
    LR_SCHEDULES,
    Hooks,
    fit,
    pick_device,
    rate_factor,
    seed_everything,
    warmup_cosine,
)
from deepcompress.training.progress import EpochResult, Progress
from deepcompress.training.tasks import CLASSIFICATION


class Fixed(nn.Module):
    """Gives the logits that it is fed."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return x * self.scale


def test_evaluate_by_hand():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 1.0]])
    y = torch.tensor([0, 1, 1])
    found = evaluate(Fixed(), [(logits[:2], y[:2]), (logits[2:], y[2:])])
    assert (found.samples, found.accuracy, found.error) == (3, 100 * 2 / 3, 100 / 3)
    assert found.loss == pytest.approx(float(F.cross_entropy(logits, y)))


def test_evaluate_leaves_the_mode_and_the_gradients(mlp, flat_test):
    for training in (True, False):
        mlp.train(training)
        first, second = evaluate(mlp, flat_test), evaluate(mlp, flat_test)
        assert first == second  # no dropout
        assert mlp.training is training
        assert all(parameter.grad is None for parameter in mlp.parameters())


def test_no_samples():
    with pytest.raises(DataError, match="no samples to evaluate on"):
        evaluate(Fixed(), [])


class Diary(Hooks, Progress):
    """Writes down every call."""

    def __init__(self, model):
        self.model, self.lines = model, []

    def begin(self, stage, epochs):
        self.lines.append(f"begin {stage} {epochs}")

    def before_epoch(self, epoch):
        self.lines.append(f"before {epoch}")
        return f"note {epoch}"

    def after_backward(self):
        assert self.model.scale.grad is not None
        self.before = self.model.scale.detach().clone()
        self.lines.append("backward")

    def after_step(self):
        assert not torch.equal(self.before, self.model.scale)
        self.lines.append("step")

    def epoch(self, result):
        self.lines.append((result.epoch, result.epochs, result.val_error, result.note))


def test_the_order_of_calls():
    model = Fixed()
    batch = (torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([1, 1]))
    diary = Diary(model)
    fit(
        model, [batch, batch], torch.optim.SGD(model.parameters(), lr=0.1), 2,
        stage="train", hooks=diary, val_batches=[batch], progress=diary,
    )  # fmt: skip
    epoch = ["backward", "step"] * 2
    assert diary.lines == [
        "begin train 2", "before 0", *epoch, (1, 2, 50.0, "note 0"), "before 1", *epoch, (2, 2, 50.0, "note 1"),
    ]  # fmt: skip


def test_the_learning_rate_of_every_group_follows_the_factor(monkeypatch):
    monkeypatch.setitem(LR_SCHEDULES, "rising", lambda part: part)
    model = Fixed()
    other = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([{"params": [model.scale]}, {"params": [other], "lr": 3.0}], lr=1.0)
    seen = []

    class Watch(Hooks):
        def after_step(self):
            seen.append([group["lr"] for group in optimizer.param_groups])

    batch = (torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    fit(model, [batch] * 2, optimizer, 2, stage="x", hooks=Watch(), lr_schedule="rising")
    assert seen == [[part, 3 * part] for part in (0.125, 0.375, 0.625, 0.875)]


@pytest.mark.parametrize("schedule", LR_SCHEDULES)
def test_a_warmup_of_ones_own_rises_to_the_schedule(schedule):
    assert [rate_factor(schedule, done, 10, 4.0) for done in (0, 1, 2)] == [0, 0.25, 0.5]
    assert rate_factor(schedule, 4, 10, 4.0) == 1
    assert rate_factor(schedule, 0.1, 10) == LR_SCHEDULES[schedule](0.01)
    after = 0.5 if schedule == "cosine" else LR_SCHEDULES[schedule](0.7)  # half way down from the end of the rise
    assert rate_factor(schedule, 7, 10, 4.0) == pytest.approx(after)
    assert rate_factor(schedule, 0, 10, 0.0) == 1
    last = 1 if schedule == "cosine" else LR_SCHEDULES[schedule](1)
    assert rate_factor(schedule, 3, 3, 6.0) == pytest.approx(0.5 * last)


def test_warmup_and_cosine():
    assert warmup_cosine(0) == 0
    assert warmup_cosine(0.01) == 0.5
    assert warmup_cosine(0.02) == 1
    assert warmup_cosine(0.51) == pytest.approx(0.5)
    assert warmup_cosine(1) == pytest.approx(0)
    assert warmup_cosine(0.25, warmup=0) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))


def cosine(progress):
    return 0.5 * (1 + math.cos(math.pi * (progress - 0.02) / 0.98))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("step", [1, 1, 0.1, 0.01, 0.01]),
        ("constant", [1, 1, 1, 1, 1]),
        ("cosine", [0, cosine(0.49), cosine(0.5), cosine(0.75), 0]),
    ],
)
def test_schedules(name, values):
    points = [0, 0.49, 0.5, 0.75, 1]
    assert [LR_SCHEDULES[name](point) for point in points] == pytest.approx(values, abs=1e-15)


def test_every_schedule_is_one_that_a_recipe_may_name():
    assert sorted(LR_SCHEDULES) == sorted(CHOICES["lr_schedule"])


@pytest.mark.parametrize("name", LR_SCHEDULES)
def test_schedules_reach_the_optimizer(name):
    model = Fixed()
    optimizer = torch.optim.SGD(model.parameters(), lr=3.0)
    seen = []

    class Watch(Hooks):
        def after_step(self):
            seen.append(optimizer.param_groups[0]["lr"])

    batch = (torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    fit(model, [batch] * 5, optimizer, 4, stage="x", hooks=Watch(), lr_schedule=name)
    assert seen == [3.0 * LR_SCHEDULES[name]((step + 0.5) / 20) for step in range(20)]


def test_the_objective_sees_logits_inputs_and_labels():
    model = Fixed()
    x, y = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
    seen = []

    def objective(*arguments):
        seen.append(arguments)
        return arguments[0].sum()

    fit(model, [(x, y)], torch.optim.SGD(model.parameters(), lr=0.5), 1, stage="x", objective=objective)
    ((logits, inputs, labels),) = seen
    assert torch.equal(logits, x)
    assert torch.equal(inputs, x)
    assert torch.equal(labels, y)
    assert 0 < model.scale.item() < 1  # it went down along this objective, whatever the labels say


def fitted(precision, data, seed=0, **how):
    """A network with batch norm after two epochs, the types that its layers computed in, and those of the loss."""
    torch.manual_seed(seed)
    model = conv_net(batch_norm=True)
    types, losses = {}, []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda _, __, out, name=name: types.setdefault(name, set()).add(out.dtype))

    def objective(logits, x, y):
        loss = F.cross_entropy(logits, y)
        losses.append((logits.dtype, loss.dtype, x.dtype))
        return loss

    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    fit(model, data, optimizer, 2, stage="x", objective=objective, precision=precision, **how)
    return model, types, set(losses)


def test_bfloat16_computes_in_it_and_keeps_everything_else(image_train):
    model, types, losses = fitted("bfloat16", image_train)
    assert set(types) == {"0", "3", "7", "9"}
    assert all(found == {torch.bfloat16} for found in types.values())
    assert losses == {(torch.float32,) * 3}
    assert all(parameter.dtype is torch.float32 for parameter in model.parameters())
    assert all(parameter.grad.dtype is torch.float32 for parameter in model.parameters())
    assert {value.dtype for value in model.buffers()} == {torch.float32, torch.int64}
    # No weight was rounded to the 8 bits of bfloat16's mantissa.
    assert not torch.equal(model[3].weight, model[3].weight.bfloat16().float())


def test_float32_is_the_default_and_computes_in_nothing_else(image_train):
    model, types, losses = fitted("float32", image_train)
    assert all(found == {torch.float32} for found in types.values())
    assert losses == {(torch.float32,) * 3}
    other, _, _ = fitted("bfloat16", image_train)
    assert not torch.equal(model[0].weight, other[0].weight)
    torch.testing.assert_close(model[0].weight, other[0].weight, rtol=0.1, atol=0.05)


def test_bfloat16_repeats_by_seed(image_train):
    first, again, other = (fitted("bfloat16", image_train, seed)[0].state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["0.weight"], other["0.weight"])


def test_validation_is_in_float32_whatever_training_is_in(image_train, image_test):
    seen = []

    class Recorder(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(64, CLASSES)

        def forward(self, x):
            out = self.fc(x.flatten(1))
            seen.append((self.training, out.dtype))
            return out

    model = Recorder()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    fit(model, image_train, optimizer, 1, stage="x", val_batches=image_test, precision="bfloat16")
    assert set(seen) == {(True, torch.bfloat16), (False, torch.float32)}


def test_gradients_start_from_nothing_at_every_step():
    """Also those of parameters that the optimizer does not have: weights that share values are moved by others."""
    model = nn.Linear(2, 2)
    seen = []

    class Watch(Hooks):
        def after_backward(self):
            seen.append(model.weight.grad.clone())

    batch = (torch.ones(1, 2), torch.tensor([0]))
    fit(model, [batch] * 3, torch.optim.SGD([model.bias], lr=0.0), 1, stage="x", hooks=Watch())
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])


def test_training_mode_is_on_while_training(mlp, flat_train):
    modes = []

    class Watch(Hooks):
        def after_backward(self):
            modes.append(mlp.training)

    mlp.eval()
    fit(
        mlp,
        flat_train[:2],
        torch.optim.SGD(mlp.parameters(), lr=0.1),
        1,
        stage="x",
        hooks=Watch(),
        val_batches=flat_train,
    )
    assert modes == [True, True]


class Endless:
    """Batches without a length, as a streaming data set gives them; each pass starts anew."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        yield from self.batches


def test_batches_without_a_length(flat_train):
    def weights(batches):
        torch.manual_seed(0)
        model = Mlp()
        fit(model, batches, torch.optim.SGD(model.parameters(), lr=0.1), 2, stage="x")
        return model.fc1.weight

    assert torch.equal(weights(flat_train), weights(Endless(flat_train)))


def test_an_iterator_is_refused_before_it_is_spent(mlp, flat_train):
    batches = iter(flat_train)
    with pytest.raises(DataError, match="is an iterator, spent after one pass"):
        fit(mlp, batches, torch.optim.SGD(mlp.parameters(), lr=0.1), 2, stage="x")
    assert next(batches) is flat_train[0]


@pytest.mark.parametrize("batches", [[], Endless([])])
def test_no_batches(mlp, batches):
    with pytest.raises(DataError, match="prune: the training data has no batches"):
        fit(mlp, batches, torch.optim.SGD(mlp.parameters(), lr=0.1), 1, stage="prune")


@pytest.mark.parametrize("rate", [1e30, math.nan])
def test_a_loss_that_is_not_finite(mlp, flat_train, rate):
    with pytest.raises(DeepCompressError, match=r"prune: the loss is (nan|inf) in epoch \d; lower the learning rate"):
        fit(mlp, flat_train, torch.optim.SGD(mlp.parameters(), lr=rate), 3, stage="prune")


def test_seed_everything():
    def draws():
        import random

        import numpy as np

        return random.random(), float(np.random.rand()), float(torch.rand(1))

    seed_everything(5)
    first = draws()
    seed_everything(5)
    assert draws() == first
    seed_everything(6)
    assert all(a != b for a, b in zip(draws(), first, strict=True))


def test_pick_device():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type in ("cpu", "cuda", "mps")
    for name in ("cuda", "mps"):
        if not {"cuda": torch.cuda, "mps": torch.backends.mps}[name].is_available():
            with pytest.raises(DeepCompressError, match=f"--device {name}: this machine has no such device"):
                pick_device(name)


class Odd(nn.Module):
    """Returns what it is told to, or raises it."""

    def __init__(self, result):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.result = result

    def forward(self, x):
        if isinstance(self.result, Exception):
            raise self.result
        return self.result(x)


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (
            RuntimeError("mat1 and mat2\nmore"),
            r"the network Odd cannot take .* \(12,\): mat1 and mat2 \(test_loop.py:\d+\)$",
        ),
        (IndexError("Dimension out of range"), r"cannot take samples of shape \(12,\): Dimension out of range"),
        (AssertionError(), r"cannot take samples of shape \(12,\): AssertionError"),
    ],
)
def test_networks_that_are_not_for_the_data(flat_train, result, reason):
    with pytest.raises(NetworkError, match=reason):
        settle(Odd(result), [flat_train], "classification")


def test_labels_beyond_the_outputs_wherever_they_are(flat_train):
    x, y = flat_train[-1]
    for label, found in ((CLASSES, f"from 0 to {CLASSES}"), (-1, f"from -1 to {CLASSES - 1}")):
        bad = torch.cat([torch.tensor([label]), y[1:]])
        with pytest.raises(DataError, match=f"has {CLASSES} classes, but labels go {found}"):
            settle(Mlp(), [[*flat_train, (x, bad)]], "classification")


def test_data_that_fits(mlp, flat_train):
    mlp.train()
    assert settle(mlp, [flat_train]) is CLASSIFICATION
    assert mlp.training
    assert settle(Mlp(classes=CLASSES + 3), [flat_train], "classification") is CLASSIFICATION
    with pytest.raises(DataError, match="the data has no batches"):
        settle(mlp, [[]])


def test_the_default_progress_ignores_everything(capsys):
    quiet = Progress()
    quiet.begin("x", 1)
    quiet.batch(0.5, 1.0)
    quiet.epoch(EpochResult("x", 1, 1, 0.5, None))
    quiet.message("hello")
    assert vars(quiet) == {}
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("limit", "length"), [(None, 5.0), (0.0, 5.0), (10.0, 5.0), (0.5, 0.5)])
def test_a_long_gradient_is_scaled_down(limit, length):
    """The gradient of what the optimizer moves is (3, 4); others do not count, however long."""
    moved, other = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))

    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.moved, self.other = moved, other

        def forward(self, x):
            return (self.moved * x).sum() + 100 * self.other.sum()

    batch = (torch.tensor([[3.0, 4.0]]), torch.tensor([0]))
    fit(
        Linear(), [batch], torch.optim.SGD([moved], lr=1.0), 1, stage="x", objective=lambda output, x, y: output,
        lr_schedule="constant", clip_norm=limit,
    )  # fmt: skip
    torch.testing.assert_close(moved.detach(), -torch.tensor([0.6, 0.8]) * length)
