"""What training minimizes, against its formulas."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deepcompress.training.objective import Classification, cross_entropy

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 1.0, 3.0]])
Y = torch.tensor([0, 1])
X = torch.zeros(2, 1)


class Teacher(nn.Module):
    """Always of the same opinion, which it can be asked how often it gave."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)
        self.asked = []

    def forward(self, x):
        self.asked.append(x)
        return self.logits * 1.0


def teacher():
    return Teacher(torch.tensor([[1.0, 1.5, 0.0], [-2.0, 0.0, 2.0]]))


def probabilities(row, temperature=1.0):
    raised = [math.exp(value / temperature) for value in row]
    return [value / sum(raised) for value in raised]


def labels_loss(smoothing):
    """Mean over the batch of - sum q log p, in plain Python; q is the smoothed label."""
    total = 0.0
    for row, label in zip(LOGITS.tolist(), Y.tolist(), strict=True):
        for index, p in enumerate(probabilities(row)):
            q = smoothing / 3 + (1 - smoothing) * (index == label)
            total -= q * math.log(p)
    return total / 2


def divergence(temperature):
    """Mean over the batch of KL(teacher || student) at this temperature, in plain Python."""
    total = 0.0
    for row, taught in zip(LOGITS.tolist(), teacher().logits.tolist(), strict=True):
        for p, q in zip(probabilities(taught, temperature), probabilities(row, temperature), strict=True):
            total += p * math.log(p / q)
    return total / 2


def test_the_plain_objective():
    assert float(cross_entropy(LOGITS, X, Y)) == pytest.approx(labels_loss(0), rel=1e-6)
    assert torch.equal(Classification()(LOGITS, X, Y), cross_entropy(LOGITS, X, Y))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5, 0.99])
def test_label_smoothing(smoothing):
    assert float(Classification(smoothing)(LOGITS, X, Y)) == pytest.approx(labels_loss(smoothing), rel=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("distill", [0.25, 1.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_distillation(distill, temperature, smoothing):
    found = Classification(smoothing, teacher(), distill, temperature)(LOGITS, X, Y)
    expected = (1 - distill) * labels_loss(smoothing) + distill * temperature**2 * divergence(temperature)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_with_all_weight_on_the_teacher_labels_say_nothing():
    objective = Classification(0.0, teacher(), 1.0, 4.0)
    assert torch.equal(objective(LOGITS, X, Y), objective(LOGITS, X, 2 - Y))


def test_with_no_weight_on_the_teacher_it_is_not_asked():
    silent = teacher()
    assert torch.equal(Classification(0.1, silent, 0.0)(LOGITS, X, Y), Classification(0.1)(LOGITS, X, Y))
    assert silent.asked == []


def test_the_teacher_sees_what_the_student_sees():
    asked = teacher()
    x = torch.randn(2, 5)
    Classification(0.0, asked, 0.5)(LOGITS, x, Y)
    assert len(asked.asked) == 1
    assert asked.asked[0] is x


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_gradient_and_that_none_reaches_the_teacher(temperature):
    """By the logits, T^2 KL has the gradient T (softmax(student / T) - softmax(teacher / T)): of one size for all T."""
    logits, other = LOGITS.clone().requires_grad_(), teacher()
    Classification(0.0, other, 1.0, temperature)(logits, X, Y).backward()
    expected = F.softmax(LOGITS / temperature, 1) - F.softmax(other.logits.detach() / temperature, 1)
    torch.testing.assert_close(logits.grad, temperature * expected / 2)
    assert other.logits.grad is None


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_student_that_agrees_has_nothing_to_learn(temperature):
    logits = LOGITS.clone().requires_grad_()
    loss = Classification(0.0, Teacher(LOGITS.clone()), 1.0, temperature)(logits, X, Y)
    loss.backward()
    assert loss.item() == 0
    assert torch.allclose(logits.grad, torch.zeros_like(logits), atol=1e-7)


def test_divergence_of_logits_that_are_far_apart_is_finite():
    certain = torch.tensor([[1e4, 0.0, -1e4], [0.0, 0.0, 1e4]])
    loss = Classification(0.0, Teacher(certain), 0.5, 1.0)(-certain, X, Y)
    assert torch.isfinite(loss)


def test_a_teacher_of_low_precision_is_compared_in_float32():
    low = Teacher(teacher().logits.detach().bfloat16())
    loss = Classification(0.0, low, 1.0)(LOGITS, X, Y)
    assert loss.dtype is torch.float32
    assert float(loss) == pytest.approx(16 * divergence(4.0), rel=1e-2)
