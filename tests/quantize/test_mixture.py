"""The mixture of Gaussians: density and gradients against closed forms, choices and merging by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from deepcompress.quantize.line import Line
from deepcompress.quantize.mixture import Components, Mixture, begin


def mixture(means, deviations, zero=0.9, seen=0.0, deviation=0.02):
    """One with these means and deviations, that at zero first among the latter, and equal parts of the others."""
    logs = -2 * torch.tensor(deviations).log()
    count = torch.full((len(deviations),), seen, dtype=torch.float64)
    return Mixture(
        nn.Parameter(torch.tensor(means)), nn.Parameter(logs), nn.Parameter(torch.zeros(len(means))), zero, count,
        deviation,
    )  # fmt: skip


def normal(w, mean, deviation):
    return math.exp(-(((w - mean) / deviation) ** 2) / 2) / (deviation * math.sqrt(2 * math.pi))


def test_the_density_by_hand():
    terms = mixture([0.5, -1.0], [0.1, 0.2, 0.4]).components().log_terms(torch.tensor([0.25, -1.5]))
    wanted = [[normal(w, 0.0, 0.1), 0.5 * normal(w, 0.5, 0.2), 0.5 * normal(w, -1.0, 0.4)] for w in (0.25, -1.5)]
    assert terms.exp().T.tolist() == [[pytest.approx(term, rel=1e-5) for term in terms] for terms in wanted]


def test_the_gradients_of_one_weight_by_hand():
    made = mixture([0.5], [0.2, 0.1], zero=0.75, seen=8.0, deviation=0.05)
    weight = torch.tensor([[0.3]])
    (pull,) = made.gradients([weight], 2.0)
    zero, other = 0.75, 0.25  # responsibilities: all weights together have these
    assert float(pull) == pytest.approx(2 * (zero * 25 * 0.3 + other * 100 * (0.3 - 0.5)), rel=1e-4)
    assert made.means.grad.tolist() == [pytest.approx(2 * other * 100 * (0.5 - 0.3), rel=1e-4)]
    assert made.log_precisions.grad.tolist() == [
        pytest.approx(zero * (25 * 0.09 - 1) + 8 * (25 * 0.0025 - 1), rel=1e-4),
        pytest.approx(other * (100 * 0.04 - 1) + 8 * (100 * 0.0025 - 1), rel=1e-4),
    ]
    assert made.logits.grad.tolist() == [0.0]  # there is no other component to give to, or take from


def test_the_gradients_are_those_of_autograd():
    torch.manual_seed(0)
    weights = [torch.randn(50, 40) * 0.05, torch.randn(30) * 0.2]
    made = begin(weights, 5, 0.9)
    with torch.no_grad():
        made.means.add_(torch.randn(5) * 0.02)
        made.log_precisions.copy_(torch.tensor([7.0, 6.0, 5.0, 8.0, 6.0, 7.0]))
        made.logits.copy_(torch.randn(5))
    found = made.gradients(weights, 3.0)

    free = [value.detach().double().requires_grad_() for value in (made.means, made.log_precisions, made.logits)]
    copies = [weight.double().requires_grad_() for weight in weights]
    means, logs, logits = free
    every = torch.cat([weight.reshape(-1) for weight in weights]).double()
    zero = made.components().balanced(every, torch.ones_like(every), 0.9).log_parts[:1]
    parts = torch.cat([zero.exp(), logits.softmax(0)])
    gaussians = torch.distributions.Normal(torch.cat([torch.zeros(1), means]), (-logs / 2).exp())
    terms = [parts.log() + gaussians.log_prob(copy.reshape(-1, 1)) for copy in copies]
    prior = torch.distributions.Gamma(1 + made.seen / 2, made.seen * made.deviation**2 / 2).log_prob(logs.exp())
    (-3 * (sum(term.logsumexp(1).sum() for term in terms) + prior.sum())).backward()
    learned = [made.means.grad, made.log_precisions.grad, made.logits.grad]
    for own, other in zip([*learned, *found], [*free, *copies], strict=True):
        assert float((own - other.grad).abs().max()) < 2e-3 * float(other.grad.abs().max())


@pytest.mark.parametrize("part", [0.0, 0.3, 0.957])
def test_the_component_at_zero_has_its_part_of_the_weights(part):
    weights, counts = torch.tensor([-0.4, 0.01, 0.2, 0.6]).double(), torch.tensor([1.0, 7.0, 2.0, 3.0]).double()
    found = mixture([0.5, -0.4], [0.1, 0.2, 0.3]).components().balanced(weights, counts, part)
    shares = found.log_terms(weights).softmax(dim=0)
    assert float(shares[0] @ counts) == pytest.approx(part * 13, abs=1e-5)
    assert found.log_parts[1:].exp().tolist() == [pytest.approx(0.5)] * 2


def test_a_weight_is_of_the_most_probable_component():
    chosen, odds = mixture([0.5, -1.0], [0.1, 0.1, 0.1]).components().chosen(torch.tensor([0.0, 0.27, 2.0, -0.9]))
    assert chosen.tolist() == [1, 1, 1, 2]
    assert odds.tolist() == [
        pytest.approx((w**2 - (w - mean) ** 2) / 0.02 + math.log(0.5), abs=1e-4)
        for w, mean in ((0.0, 0.5), (0.27, 0.5), (2.0, 0.5), (-0.9, -1.0))
    ]


def test_components_that_are_the_same_are_one():
    means = torch.tensor([0.0, 0.5, 0.5, -1.0, 1e-9, 0.5], dtype=torch.float64)
    logs = torch.tensor([4.0, 2.0, 2.0, 2.0, 4.0, 3.0], dtype=torch.float64)
    parts = torch.tensor([0.8, 0.05, 0.03, 0.06, 0.04, 0.02], dtype=torch.float64)
    found = Components(means, logs, parts.log()).merged()
    assert found.means.tolist() == [0.0, pytest.approx(0.5), -1.0, 0.5]
    assert found.log_precisions.tolist() == [pytest.approx(4), pytest.approx(2), pytest.approx(2), pytest.approx(3)]
    assert found.log_parts.exp().tolist() == [pytest.approx(part) for part in (0.84, 0.08, 0.06, 0.02)]


def test_it_begins_over_the_range_of_the_weights():
    made = begin([torch.tensor([-0.5, 0.0]), torch.tensor([[1.0]])], 4, 0.99)
    assert made.means.tolist() == [-0.5, 0.0, 0.5, 1.0]
    size = math.sqrt((0.25 + 1) / 3)
    assert made.log_precisions.tolist() == [pytest.approx(-2 * math.log(size))] * 5
    assert made.seen.tolist() == [3 / 64, *[pytest.approx(3 / 1280)] * 4]
    assert made.deviation == pytest.approx(0.2 * size)


@pytest.mark.parametrize("value", [0.0, 0.3, -2.0])
def test_weights_that_are_all_the_same(value):
    weight = torch.full((4, 3), value)
    made = begin([weight], 2, 0.5)
    (pull,) = made.gradients([weight], 1.0)
    gradients = (pull, made.means.grad, made.log_precisions.grad, made.logits.grad)
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_weights_are_counted_on_a_line_and_have_its_values():
    weight = torch.tensor([[0.0, 1.0], [0.25, 0.3]])
    line = Line(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
    places = line.places(weight)
    assert line.counts([places]).tolist() == [pytest.approx(1 + 0.5 + 0.4), pytest.approx(0.5 + 0.6), pytest.approx(1)]
    assert places.values(torch.tensor([2.0, 4.0, 0.0])).tolist() == [pytest.approx(v) for v in (2, 0, 3, 3.2)]
    assert line.counts([places, places]).sum() == 8


def test_a_line_has_points_enough():
    wide = [torch.tensor([-1.0, 3.0])]
    assert len(Line.through(wide, 1.0).points) == 16 * 4 + 2
    assert len(Line.through(wide, 1e-9).points) == (1 << 15) + 2
