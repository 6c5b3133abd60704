"""Tasks: metrics by hand, shapes that tell which one it is, and compression of networks for each of them."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from listener import Listener
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import deepcompress as dc
from deepcompress import recipe
from deepcompress.errors import DataError, NetworkError, RecipeError
from deepcompress.recipe import Recipe
from deepcompress.training.batches import as_pairs, first_batch, pair_of
from deepcompress.training.check import settle
from deepcompress.training.evaluation import evaluate
from deepcompress.training.loop import fit
from deepcompress.training.objective import objective_of
from deepcompress.training.tasks import CLASSIFICATION, TASKS, detect, own_task

RECIPE = Recipe(prune=0.5, bits=4, epochs=1, iterations=1, finetune_epochs=1)


class Given(nn.Module):
    """Gives what it is fed, times one."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return x * self.scale


class Odd(Given):
    """Gives what it was made with."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, x):
        return self.output


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def labels(high, *shape, seed=1):
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(seed))


def measured(task, output, target, parts=(2, 3)):
    """Over batches of unequal sizes."""
    return evaluate(Given(), list(zip(output.split(parts), target.split(parts), strict=True)), TASKS[task])


# By hand ---------------------------------------------------------------------------------------------------------


def test_the_names_are_those_of_the_command_line():
    assert tuple(TASKS) == recipe.TASKS


def test_a_classifier_is_measured_as_ever_but_for_labels_that_do_not_count():
    output, target = random(5, 3), torch.tensor([0, 1, -100, 2, 1])
    found, counts = measured("classification", output, target), target >= 0
    right = int((output.argmax(1) == target)[counts].sum())
    assert (found.error, found.accuracy, found.value) == (100 * (4 - right) / 4, 100 * right / 4, found.error)
    assert found.loss == pytest.approx(float(F.cross_entropy(output[counts], target[counts])), rel=1e-6)
    assert found.samples == 5


def test_one_logit_tells_two_classes_apart():
    output, target = torch.tensor([[2.0], [-1.0], [0.5], [-3.0], [1.0]]), torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0])
    found = measured("classification", output, target)
    assert found.error == 20.0
    expected = F.binary_cross_entropy_with_logits(output[:, 0], target)
    assert found.loss == pytest.approx(float(expected), rel=1e-6)
    assert float(CLASSIFICATION(output, None, target)) == pytest.approx(float(expected), rel=1e-6)


def test_tokens():
    output, target = random(5, 4, 7), labels(7, 5, 4)
    target[0, 1:] = -100
    found, counts = measured("tokens", output, target), target >= 0
    assert found.loss == pytest.approx(float(F.cross_entropy(output[counts], target[counts])), rel=1e-6)
    assert found.error == pytest.approx(100 * float((output.argmax(-1) != target)[counts].float().mean()), rel=1e-6)


@pytest.mark.parametrize("void", [-100, 255])
def test_intersection_over_union_is_of_all_batches_together(void):
    output, target = random(5, 3, 4, 6), labels(3, 5, 4, 6)
    target[1, :2] = void
    said, counts = output.argmax(1), target != void
    overlaps = []
    for label in range(3):
        one, other = (said == label) & counts, (target == label) & counts
        overlaps.append(int((one & other).sum()) / int((one | other).sum()))
    found = measured("segmentation", output, target[:, None])  # masks with a channel, as images are
    assert found.value == pytest.approx(100 * sum(overlaps) / 3, rel=1e-9)
    assert found.accuracy == pytest.approx(100 * float((said == target)[counts].float().mean()), rel=1e-6)
    expected = F.cross_entropy(output, target.where(counts, -100))
    assert found.loss == pytest.approx(float(expected), rel=1e-6)
    assert float(TASKS["segmentation"](output, None, target)) == pytest.approx(float(expected), rel=1e-6)


def test_classes_that_nobody_says_or_means_do_not_count():
    output = torch.zeros(5, 3, 2, 2)
    output[:, 1] = 1.0
    assert measured("segmentation", output, torch.ones(5, 2, 2, dtype=torch.int64)).value == 100.0


def test_a_batch_in_which_nothing_counts_has_no_gradient_and_no_nan():
    output = random(2, 3, 4, 4).requires_grad_()
    loss = TASKS["segmentation"](output, None, torch.full((2, 4, 4), -100))
    loss.backward()
    assert loss.item() == 0
    assert not output.grad.any()


def test_numbers_are_not_broadcast():
    output, target = torch.tensor([[1.0], [2.0], [4.0], [0.0], [1.0]]), torch.tensor([1.0, 0.0, 4.0, 0.0, 0.0])
    found = measured("regression", output, target)
    assert (found.value, found.loss, found.accuracy) == (1.0, 1.0, None)
    assert float(TASKS["regression"](output, None, target)) == 1.0


def test_several_labels():
    output = torch.tensor([[1.0, -1.0], [2.0, 3.0], [-1.0, -2.0], [1.0, -1.0], [-1.0, 2.0]])
    target = torch.tensor([[1, 0], [0, 1], [1, 0], [1, -100], [0, 1]])
    found = measured("multilabel", output, target)  # right: 4; said 5, meant 5
    assert found.value == pytest.approx(100 * 2 * 4 / 10)
    counts = target >= 0
    expected = F.binary_cross_entropy_with_logits(output[counts], target[counts].float())
    assert found.loss == pytest.approx(float(expected), rel=1e-6)


def test_vectors():
    output, target = random(5, 6), random(5, 6, seed=2)
    found = measured("embedding", output, target)
    cosine = float(F.cosine_similarity(output, target).mean())
    assert (found.value, found.loss) == (pytest.approx(cosine, rel=1e-6), pytest.approx(1 - cosine, rel=1e-6))


def test_which_way_is_worse():
    assert CLASSIFICATION.lost(2.0, 3.5) == 1.5
    assert TASKS["segmentation"].lost(70.0, 68.0) == 2.0
    assert TASKS["regression"].lost(0.5, 0.55) == pytest.approx(10.0)  # percent of what it was
    assert TASKS["embedding"].lost(0.8, 0.6) == pytest.approx(25.0)


# Which task it is ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "target", "task"),
    [
        (random(4, 3), labels(3, 4), "classification"),
        (random(4, 3), labels(3, 4, 1), "classification"),
        (random(4, 1), labels(2, 4).float(), "classification"),
        (random(4), labels(2, 4), "classification"),
        (random(4, 1), labels(2, 4).bool(), "classification"),
        (SimpleNamespace(logits=random(4, 3)), labels(3, 4), "classification"),
        (random(4, 6, 9), labels(9, 4, 6), "tokens"),
        (random(4, 6, 9), labels(6, 4, 9), "segmentation"),
        (random(4, 3, 8, 8), labels(3, 4, 8, 8), "segmentation"),
        (random(4, 1, 8, 8), labels(2, 4, 1, 8, 8).float(), "segmentation"),
        (random(4, 3, 8, 8, 8), labels(3, 4, 8, 8, 8), "segmentation"),
        (random(4, 3), labels(2, 4, 3), "multilabel"),
        (random(4, 3), labels(2, 4, 3).float(), "multilabel"),
        (random(4, 1), random(4), "regression"),
        (random(4), random(4, 1), "regression"),
        (random(4, 3), random(4, 3), "regression"),
        (random(4, 3, 8, 8), random(4, 3, 8, 8), "regression"),
        ({"aux": random(4, 9), "out": random(4, 3)}, labels(3, 4), "classification"),
        ((random(4, 3), random(4, 9)), labels(3, 4), "classification"),
    ],
)
def test_shapes_tell_the_task(output, target, task):
    assert detect(output, target).name == task
    model = Odd(output)
    assert settle(model, [[(torch.zeros(4), target)]]) is TASKS[task]


@pytest.mark.parametrize(
    ("output", "target", "reason"),
    [
        (random(4, 6, 6), labels(6, 4, 6), "may be tokens or segmentation; say which with --task"),
        (
            random(4, 3, 8, 8),
            labels(3, 4, 5, 5),
            r"gives shape \(4, 3, 8, 8\), and the targets are int64 of",
        ),
        (random(4, 1), labels(9, 4), "name the task with --task"),
        (random(4, 3), {"boxes": random(4, 4)}, "the targets are dict, which fits no task"),
        ({"boxes": labels(3, 4)}, labels(3, 4), "gives dict, which holds no floating-point tensor"),
    ],
)
def test_what_fits_no_task_is_one_line(output, target, reason):
    with pytest.raises(DataError, match=reason) as caught:
        detect(output, target)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("task", "output", "target", "reason"),
    [
        ("segmentation", random(4, 3), labels(3, 4), r"task segmentation takes outputs \(N, C, ...\) and labels"),
        ("multilabel", random(4, 3), labels(3, 4, 3), "targets .* that are 0 or 1"),
        ("tokens", random(4, 6, 9), 3 * labels(9, 4, 6), "has 9 classes, but labels go from"),
        (
            "segmentation",
            random(4, 3, 8, 8),
            labels(3, 4, 8, 8) - 1,
            "has 3 classes, but labels go from -1",
        ),
        ("segmentation", random(4, 300, 2, 2), labels(3, 4, 2, 2) + 298, "labels go from 298 to 300"),
        ("classification", random(4, 1), 2 * labels(2, 4), "task classification takes"),
    ],
)
def test_what_is_not_of_the_named_task(task, output, target, reason):
    with pytest.raises(DataError, match=reason):
        settle(Given(), [[(output, target)]], task)


def test_void_is_a_class_where_the_network_has_it():
    target = torch.full((4, 2, 2), 255)
    assert settle(Given(), [[(random(4, 256, 2, 2), target)]]).name == "segmentation"
    assert evaluate(Given(), [(random(4, 256, 2, 2), target)], TASKS["segmentation"]).error == 100.0


def test_named_or_own_tasks():
    data = [(random(4, 3), random(4, 3))]
    assert settle(Given(), [data], "embedding") is TASKS["embedding"]
    with pytest.raises(RecipeError, match="unknown task 'detection'; known: classification, tokens"):
        settle(Given(), [data], "detection")
    with pytest.raises(RecipeError, match="task and loss are two ways"):
        settle(Given(), [data], "regression", loss=F.mse_loss)

    def worst(output, target):
        return (output - target).abs().max()

    found = settle(Given(), [data], metric=worst)
    assert (found.metric, found.higher_is_better, found.loss) == ("worst", True, TASKS["regression"].loss)
    worst.higher_is_better = False
    assert own_task(F.mse_loss, worst).higher_is_better is False
    assert own_task(F.mse_loss, None).metric == "Loss"
    twice = [(x.repeat(2, 1), y.repeat(2, 1)) for x, y in data]
    value = evaluate(Given(), [*data, *twice], found).value
    assert value == pytest.approx(float(worst(*data[0])))


@pytest.mark.parametrize(
    ("task", "output", "target"),
    [
        ("tokens", random(4, 6, 9), labels(9, 4, 6)),
        ("tokens", random(4, 1, 9), labels(9, 4, 1)),
        ("segmentation", random(4, 3, 5, 5), labels(3, 4, 5, 5)),
        ("multilabel", random(4, 3), labels(2, 4, 3)),
        ("regression", random(4, 3), random(4, 3, seed=4)),
        ("embedding", random(4, 3), random(4, 3, seed=4)),
    ],
)
def test_a_teacher_of_every_task(task, output, target):
    known = TASKS[task]
    objective = objective_of(Recipe(distill=0.25, temperature=2.0), Given(), known)
    x = output + 0.5 * random(*output.shape, seed=5)  # what the teacher gives
    if task in ("tokens", "segmentation"):
        one, two = (part if task == "tokens" else part.movedim(1, -1) for part in (x, output))
        taught = (one / 2).log_softmax(-1)
        told = 4 * (taught.exp() * (taught - (two / 2).log_softmax(-1))).sum(-1).mean()
    else:
        told = {
            "multilabel": lambda: F.binary_cross_entropy_with_logits(output, x.sigmoid()),
            "regression": lambda: F.mse_loss(output, x),
            "embedding": lambda: 1 - F.cosine_similarity(output, x).mean(),
        }[task]()
    expected = 0.75 * known(output, None, target) + 0.25 * told
    assert float(objective(output, x, target)) == pytest.approx(float(expected), rel=1e-5)
    with pytest.raises(RecipeError, match="label_smoothing is for classification, and the task is"):
        objective_of(Recipe(label_smoothing=0.1), Given(), known)


# Batches ---------------------------------------------------------------------------------------------------------


def test_batches_of_many_kinds():
    x, y = random(4, 3), labels(3, 4)
    assert pair_of((x, y)) == (x, y)
    assert pair_of([x, y, y]) == ((x, y), y)
    assert pair_of({"a": x, "labels": y, "b": x}) == ({"a": x, "b": x}, y)
    assert pair_of(OrderedDict(x=x, target=y)) == ({"x": x}, y)
    for batch, reason in ((x, "the data gives Tensor"), ({"x": x}, "a dictionary of x; its target must be under one of "
                          "labels"), ((x,), "the data gives tuple")):  # fmt: skip
        with pytest.raises(DataError, match=reason):
            pair_of(batch)


def test_looking_at_the_first_batch_leaves_no_trace():
    loader = DataLoader(TensorDataset(torch.arange(9)), batch_size=4, shuffle=True, generator=torch.Generator())
    first = first_batch(loader)[0].tolist()
    assert next(iter(loader))[0].tolist() == first
    with pytest.raises(DataError, match="the test data has no batches"):
        as_pairs([], "test data")


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(6, 4)

    def forward(self, x, mask):
        return self.head(x * mask)


@pytest.mark.parametrize("kind", ["three parts", "dictionary"])
def test_networks_with_several_inputs(kind, tmp_path):
    x, mask, y = random(24, 6), labels(2, 24, 6).float(), labels(4, 24)

    def collate(rows):
        parts = [torch.stack(part) for part in zip(*rows, strict=True)]
        return parts if kind == "three parts" else dict(zip(("x", "mask", "labels"), parts, strict=True))

    data = DataLoader(TensorDataset(x, mask, y), batch_size=8, shuffle=True, collate_fn=collate)
    result = dc.compress(TwoInputs(), data, data, RECIPE, tmp_path / "m.dc")
    again = dc.load(tmp_path / "m.dc", into=TwoInputs())
    assert result.accuracy_after == 100 * int((again(x, mask).argmax(1) == y).sum()) / 24
    compressor = dc.Compressor(TwoInputs(), Recipe(prune=0.5, criterion="taylor1"))
    compressor.prepare(epochs=0, batches=data).share()
    assert compressor.masks.sparsity == pytest.approx(0.5, abs=0.03)


def test_a_generator_is_spent_after_one_pass(tmp_path):
    data = [(random(8, 3), labels(2, 8))]
    with pytest.raises(DataError, match="the validation data is an iterator, spent after one pass; give a DataLoader"):
        dc.compress(nn.Linear(3, 2), data, (batch for batch in data), RECIPE, tmp_path / "m.dc")
    assert not (tmp_path / "m.dc").exists()


# Compressed, without a word about the task -----------------------------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.cell, self.head = nn.Embedding(9, 8), nn.GRU(8, 8, batch_first=True), nn.Linear(8, 9)

    def forward(self, tokens):
        return {"logits": self.head(self.cell(self.embed(tokens))[0])}


@pytest.mark.parametrize(
    ("make", "x", "y", "task", "metric"),
    [
        (lambda: nn.Conv2d(1, 3, 3, padding=1), random(24, 1, 6, 6), labels(3, 24, 6, 6), "segmentation", "mIoU"),
        (lambda: nn.Linear(6, 2), random(24, 6), random(24, 2), "regression", "MSE"),
        (lambda: nn.Linear(6, 5), random(24, 6), labels(2, 24, 5), "multilabel", "F1"),
        (Recurrent, labels(9, 24, 7), labels(9, 24, 7), "tokens", "Error"),
        (lambda: nn.Linear(6, 4), random(24, 6), random(24, 4), "embedding", "cosine"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_task_is_trained_and_measured(make, x, y, task, metric, tmp_path):
    torch.manual_seed(0)
    model, watch = make(), Listener()
    data = DataLoader(TensorDataset(x, y), batch_size=10)
    named = {"task": task} if task == "embedding" else {}
    result = dc.compress(model, data, data, RECIPE, tmp_path / "m.dc", watch=watch, **named)
    again = dc.load(tmp_path / "m.dc", into=make())
    found = evaluate(again, data, TASKS[task])
    assert (result.metric, result.metric_after, result.loss_after) == (metric, found.value, found.loss)
    assert result.accuracy_after == found.accuracy
    assert [text for text in watch.lines if text.startswith("task: ")] == (
        [] if named else [f"task: {task}, by the shapes of outputs and targets; {metric} is measured"]
    )
    before = evaluate(model, data, TASKS[task])
    guarded = Recipe(prune=0.3, bits=6, epochs=1, max_drop=0.0)
    kept = dc.compress(model, data, data, guarded, tmp_path / "kept.dc", **named)
    assert kept.stages[0].metric == before.value  # a budget works with every metric


def test_a_budget_of_your_own_loss(tmp_path):
    torch.manual_seed(0)
    model = nn.Linear(6, 2)
    x = random(24, 6)
    data = [(x, model(x).detach())]
    settings = Recipe(prune=0.9, bits="none", retrain=False, max_drop=5.0, schedule="circular", prune_step=0.1)
    watch = Listener()
    dc.compress(model, None, data, settings, tmp_path / "m.dc", loss=lambda out, y: 1 + F.mse_loss(out, y), watch=watch)
    state = dc.load_state_dict(tmp_path / "m.dc")
    lost = float(F.mse_loss(F.linear(x, state["weight"], state["bias"]), data[0][1]))
    assert 0 < lost <= 0.05
    assert any("more than 5 points worse than 1:" in text for text in watch.lines), watch.lines


# Trouble while training ------------------------------------------------------------------------------------------


def trained(model, data, **settings):
    watch = Listener()
    fit(model, data, torch.optim.SGD(model.parameters(), lr=0.1), 2, stage="prune", progress=watch, **settings)
    return watch.lines


@pytest.mark.parametrize("batch", [4, 5])
def test_a_last_batch_of_one_under_batch_norm(batch):
    torch.manual_seed(0)
    x, y = random(9, 3), labels(2, 9)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    loader = DataLoader(TensorDataset(x, y), batch_size=batch)
    left_out = ["prune: a batch of one sample is left out, as batch norm cannot train on it"]
    assert trained(model, loader) == (left_out if batch == 4 else [])
    assert int(model[1].num_batches_tracked) == (4 if batch == 5 else 6)


def test_batches_of_one_where_batch_norm_can_train_on_them():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(32, 2))
    assert trained(model, [(random(1, 1, 6, 6), labels(2, 1))] * 2) == []
    assert int(model[1].num_batches_tracked) == 4
    flat = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    with pytest.raises(DataError, match="batch norm cannot train on batches of one sample; use a larger batch size"):
        trained(flat, [(random(1, 3), labels(2, 1))] * 2)


Outputs = namedtuple("Outputs", ["logits", "aux_logits"])


class WithHelp(nn.Module):
    """As GoogLeNet: a second head in training only."""

    def __init__(self):
        super().__init__()
        self.body, self.head, self.aux = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x):
        hidden = self.body(x).relu()
        return Outputs(self.head(hidden), self.aux(hidden)) if self.training else self.head(hidden)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_auxiliary_outputs_in_training_only(smoothing, tmp_path):
    torch.manual_seed(0)
    x, y = random(24, 6), labels(3, 24)
    output = WithHelp()(x)
    expected = F.cross_entropy(output.logits, y) + 0.3 * F.cross_entropy(output.aux_logits, y)
    assert torch.equal(CLASSIFICATION(output, x, y), expected)
    settings = Recipe(prune=0.5, bits=4, epochs=1, finetune_epochs=1, label_smoothing=smoothing)
    result = dc.compress(WithHelp(), [(x, y)], [(x, y)], settings, tmp_path / "m.dc")
    assert 0 <= result.accuracy_after <= 100


class Fails(nn.Module):
    """In training, or in the gradient."""

    def __init__(self, where):
        super().__init__()
        self.layer, self.where = nn.Linear(3, 2), where

    def forward(self, x):
        if self.training and self.where == "forward":
            raise KeyError("hidden")
        out = self.layer(x)
        if self.training and self.where == "gradient":
            out.register_hook(self.refuse)
        return out

    def refuse(self, gradient):
        raise ZeroDivisionError("no gradient\nat all")


@pytest.mark.parametrize(
    ("where", "reason", "cause"),
    [
        (
            "forward",
            r"the network Fails cannot take .* \(3,\): KeyError: 'hidden' \(test_tasks.py:\d+\)$",
            KeyError,
        ),
        ("gradient", r"prune: the gradient of the loss fails: no gradient \(test_tasks.py:\d+\)$", ZeroDivisionError),
    ],
)
def test_what_the_users_code_raises_while_we_train_is_one_line_with_its_cause(where, reason, cause, tmp_path):
    data = [(random(8, 3), labels(2, 8))]
    with pytest.raises(NetworkError, match=reason) as caught:
        dc.compress(Fails(where), data, data, RECIPE, tmp_path / "m.dc")
    assert isinstance(caught.value.__cause__, cause)
