"""First and second derivatives against hand calculations and the whole Hessian of tiny networks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from samples import batches, conv_net, evidence_of
from torch import nn

from deepcompress.errors import NetworkError
from deepcompress.prune.criteria import CRITERIA, taylor
from deepcompress.prune.criteria.base import Evidence
from deepcompress.prune.masks import Masks
from deepcompress.recipe import Recipe


def half_squared_error(output, x, y):
    """½·|output - y|² of a sample, averaged over samples."""
    return (output - y).square().sum() / (2 * len(y))


def least_squares(x, y, weight):
    """A linear layer with these weights, and the evidence for it."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data.copy_(weight)
    weights = {"weight": layer.weight}
    return Evidence(layer, weights, Masks.full(weights), Recipe(), [(x, y)], half_squared_error)


def hessian(evidence, x, y):
    """All of it, for one weight tensor, row by row."""
    ((name, weight),) = evidence.weights.items()
    flat = weight.detach().flatten().requires_grad_()
    output = torch.func.functional_call(evidence.model, {name: flat.view(weight.shape)}, (x,))
    (slope,) = torch.autograd.grad(evidence.objective(output, x, y), flat, create_graph=True)
    return torch.stack([torch.autograd.grad(entry, flat, retain_graph=True)[0] for entry in slope])


X = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
Y = torch.tensor([[0.0], [1.0]])
WEIGHT = torch.tensor([[0.5, -0.25]])
# Residuals are 1·0.5 + 2·(-0.25) - 0 = 0 and 3·0.5 + 0.25 - 1 = 0.75, so the gradient is
# ½·(0·(1, 2) + 0.75·(3, -1)) = (1.125, -0.375); the second moments are ½·(1 + 9) = 5 and ½·(4 + 1) = 2.5.


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("taylor1", [1.125 * 0.5, 0.375 * 0.25]),
        ("taylor2", [0.5 * 5 * 0.25, 0.5 * 2.5 * 0.0625]),
        ("taylor12", [abs(-1.125 * 0.5 + 0.625), abs(-0.375 * 0.25 + 0.078125)]),
    ],
)
def test_by_hand(name, expected, monkeypatch):
    evidence = least_squares(X, Y, WEIGHT)
    if name != "taylor1":  # the diagonal itself, not an estimate
        monkeypatch.setattr(taylor, "diagonal", lambda evidence: {"weight": hessian(evidence, X, Y).diag().view(1, 2)})
    assert CRITERIA[name].judge(evidence)["weight"].tolist() == [pytest.approx(expected)]


def test_both_terms_are_what_the_loss_changes_by_on_a_quadratic():
    """Inputs of one feature each make the Hessian diagonal, where the estimate is exact."""
    x, y = torch.diag(torch.tensor([1.0, 2.0, 3.0])), torch.tensor([[1.0], [-1.0], [2.0]])
    evidence = least_squares(x, y, torch.tensor([[0.3, 0.7, -0.2]]))
    found = CRITERIA["taylor12"].judge(evidence)["weight"]
    for index in range(3):
        without = evidence.weights["weight"].detach().clone()
        without[0, index] = 0
        change = half_squared_error(x @ without.T, x, y) - half_squared_error(evidence.model(x), x, y)
        assert found[0, index].item() == pytest.approx(abs(change.item()), rel=1e-5)


@pytest.fixture
def twice(monkeypatch):
    """As if the output were more than one tensor."""
    monkeypatch.setattr(taylor, "is_plain", lambda output: False)


@pytest.fixture(params=["gauss-newton", "hutchinson"])
def way(request):
    """Both estimators."""
    if request.param == "hutchinson":
        request.getfixturevalue("twice")
    return request.param


def test_the_diagonal_is_exact_where_the_hessian_is_diagonal(way):
    x = torch.diag(torch.tensor([1.0, 2.0, 3.0]))
    evidence = least_squares(x, torch.zeros(3, 1), torch.ones(1, 3))
    found = taylor.diagonal(evidence, probes=1)["weight"]
    assert torch.allclose(found, torch.tensor([[1.0, 4.0, 9.0]]) / 3, rtol=1e-5)


class Net(nn.Module):
    """Of one weight tensor that counts as such, a ReLU, and three classes."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.last(torch.relu(self.first(x)))


@pytest.mark.parametrize("layer", ["first.weight", "last.weight"])
def test_the_diagonal_is_that_of_the_whole_hessian_but_for_sampling(layer, way):
    torch.manual_seed(1)
    model, x, y = Net(), torch.randn(30, 4), torch.randint(0, 3, (30,))
    weights = {layer: model.get_parameter(layer)}
    evidence = evidence_of(weights, Recipe(), model, [(x[:20], y[:20]), (x[20:], y[20:])])
    exact = hessian(evidence, x, y).diag()
    found = taylor.diagonal(evidence, probes=100)[layer].flatten()
    assert exact.min() >= 0
    error = (found - exact).abs()
    if way == "gauss-newton":  # the error of each entry is in proportion to it, whatever the others
        assert found.min() >= 0
        assert (error <= 0.4 * exact + 1e-7).all()
    else:
        assert error.norm() <= 0.7 * exact.norm()
    few = taylor.diagonal(evidence, probes=1)[layer].flatten()
    assert (few - exact).norm() > error.norm()


@pytest.mark.parametrize("outputs", [1, 5, taylor.KRYLOV])
def test_the_root_of_a_matrix_times_a_vector(outputs):
    """Each row has a matrix of its own, of very different scales, one of rank 1 and one of zeros."""
    torch.manual_seed(0)
    factors = torch.randn(5, outputs, outputs) * torch.tensor([1.0, 1e-3, 30.0, 1.0, 0.0])[:, None, None]
    factors[3] = factors[3, :, :1] @ factors[3, :1]
    matrices, vector = factors @ factors.mT, torch.randn(5, outputs).sign()
    found = taylor._root_times(lambda v: (matrices @ v[..., None])[..., 0], vector)
    values, vectors = torch.linalg.eigh(matrices.double())
    roots = (vectors * values.clamp_min(0).sqrt()[:, None]) @ vectors.mT
    exact = (roots @ vector.double()[..., None])[..., 0]
    assert ((found - exact).norm(dim=1) <= 2e-3 * exact.norm(dim=1)).all()


def test_many_outputs_are_nearly_exact():
    """A thousand classes: h of a weight with input 1 is p·(1 - p), exactly."""
    torch.manual_seed(0)
    model = nn.Linear(1, 1000, bias=False)
    model.weight.data = 3 * torch.randn(1000, 1)
    evidence = evidence_of({"weight": model.weight}, Recipe(), model, [(torch.ones(1, 1), torch.tensor([0]))])
    p = model.weight.detach().flatten().softmax(0)
    found = taylor.diagonal(evidence, probes=100)["weight"].flatten()
    exact = p - p.square()
    assert found.sum().item() == pytest.approx(exact.sum().item(), rel=0.05)
    large = exact > exact.mean()
    assert ((found - exact)[large].abs() <= 0.6 * exact[large]).all()


def test_the_mean_over_samples_does_not_depend_on_batches():
    torch.manual_seed(0)
    model, x, y = Net(), torch.randn(30, 4), torch.randint(0, 3, (30,))
    weights = {"first.weight": model.first.weight}
    whole, parts = (
        CRITERIA["taylor1"].judge(evidence_of(weights, Recipe(), model, list(zip(x.split(n), y.split(n), strict=True))))
        for n in (30, 7)
    )
    assert torch.allclose(whole["first.weight"], parts["first.weight"], rtol=1e-4, atol=1e-8)


def test_vectors_are_the_seeds():
    torch.manual_seed(0)
    model, data = Net(), [(torch.randn(9, 4), torch.arange(9) % 3)]
    weights = {"first.weight": model.first.weight}
    first, again, other = (
        taylor.diagonal(evidence_of(weights, Recipe(seed=seed), model, data))["first.weight"] for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


class Once(torch.autograd.Function):
    """An operation without a second derivative."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return gradient * 2 * ctx.saved_tensors[0]


class Square(nn.Linear):
    def forward(self, x):
        return Once.apply(super().forward(x))


def test_operations_that_cannot_be_differentiated_twice(request):
    model = Square(4, 3)
    evidence = evidence_of(
        {"weight": model.weight}, Recipe(criterion="taylor2"), model, [(torch.randn(5, 4), torch.arange(5) % 3)]
    )
    assert CRITERIA["taylor2"].judge(evidence)["weight"].isfinite().all()  # once is enough
    request.getfixturevalue("twice")
    with pytest.raises(NetworkError, match=r"needs second derivatives.*choose .* taylor1"):
        CRITERIA["taylor2"].judge(evidence)


def test_a_loss_without_curvature_and_weights_without_use(way):
    model, x = nn.Linear(2, 1, bias=False), torch.ones(3, 2)
    weights = {"weight": model.weight, "unused": torch.ones(2, 2)}
    model.register_buffer("unused", weights["unused"])
    linear = Evidence(model, weights, Masks.full(weights), Recipe(), [(x, x)], lambda output, x, y: output.mean())
    assert not any(value.any() for value in taylor.diagonal(linear).values())
    slope = CRITERIA["taylor1"].judge(linear)
    assert torch.equal(slope["weight"], model.weight.detach().abs())
    assert not slope["unused"].any()


def test_half_precision_is_summed_in_float32():
    model = nn.Linear(4, 3).bfloat16()
    data = [(torch.randn(8, 4, generator=torch.Generator().manual_seed(0)).bfloat16(), torch.arange(8) % 3)]
    evidence = evidence_of({"weight": model.weight}, Recipe(), model, data)
    exact = F.softmax(model(data[0][0]).float(), dim=1)
    expected = ((exact - exact.square()).T @ data[0][0].float().square() / 8).detach()
    found = taylor.diagonal(evidence, probes=200)["weight"]
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, rtol=0.4, atol=1e-3)


def test_batch_norm_pooling_and_attention_can_be_differentiated_twice(twice):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.Sequential(conv_net(batch_norm=True), nn.Unflatten(1, (1, 4)), nn.Linear(4, 8), layer, nn.Flatten())
    weights = {name: value for name, value in model.named_parameters() if value.ndim > 1}
    data = batches(8, seed=1, shape=(1, 8, 8))
    found = taylor.diagonal(evidence_of(weights, Recipe(), model, data))
    assert all(value.isfinite().all() for value in found.values())
    assert all(value.any() for name, value in found.items() if "in_proj" not in name)


class Pair(nn.Module):
    """Gives two tensors, of which the loss takes the sum."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 1, bias=False), nn.Linear(3, 1, bias=False)

    def forward(self, x):
        return {"a": self.a(x), "b": [self.b(x)]}


def test_an_output_of_several_tensors():
    model, x = Pair(), torch.diag(torch.tensor([1.0, 2.0, 3.0]))
    weights = {"a.weight": model.a.weight, "b.weight": model.b.weight}
    loss = lambda output, x, y: (output["a"].square() + 2 * output["b"][0].square()).mean() / 2  # noqa: E731
    found = taylor.diagonal(Evidence(model, weights, Masks.full(weights), Recipe(), [(x, x)], loss))
    assert found["a.weight"].tolist() == [pytest.approx([1 / 3, 4 / 3, 3])]
    assert found["b.weight"].tolist() == [pytest.approx([2 / 3, 8 / 3, 6])]
