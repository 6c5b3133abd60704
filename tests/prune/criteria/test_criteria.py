"""What a criterion is: the table, what is asked of scores, what is left as it was, and a user's own from end to end."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from commands import fail, from_json, succeed
from samples import Mlp, batches, conv_net, evidence_of, network_and_data
from torch import nn

import deepcompress as dc
from deepcompress import networks
from deepcompress import recipe as recipes
from deepcompress.errors import DataError, RecipeError
from deepcompress.prune.criteria import CRITERIA
from deepcompress.prune.criteria.base import Criterion, find, judge, samples
from deepcompress.prune.masks import Masks, cut
from deepcompress.recipe import Recipe
from deepcompress.studies.sensitivity import sensitivity
from deepcompress.training.evaluation import evaluate

WITH_DATA = ("taylor1", "taylor2", "taylor12", "l1-factor", "l2-factor", "empirical")
TRAIN = batches(64, seed=1)


def weights_of(model):
    return {name: value for name, value in model.named_parameters() if value.ndim > 1}


@pytest.fixture
def own():
    """Criteria that a test registers are forgotten afterwards."""
    known = dict(CRITERIA)
    yield
    CRITERIA.clear()
    CRITERIA.update(known)


@pytest.fixture
def small_checkpoint(tmp_path, monkeypatch):
    """A user's small network in dense.pt, here: its tensors, and the options that name it and its data."""
    monkeypatch.chdir(tmp_path)
    network, data = network_and_data(tmp_path)
    torch.manual_seed(0)
    state = networks.build(network).state_dict()
    torch.save(state, "dense.pt")
    return state, ["--network", network, "--data", data]


def test_the_names_that_help_shows_are_those_in_the_table():
    ours = [name for name, known in CRITERIA.items() if known.judge.__module__.startswith("deepcompress.")]
    assert sorted(recipes.CRITERIA) == sorted(ours)
    assert len(set(recipes.CRITERIA)) == len(recipes.CRITERIA)


def test_random_is_the_seeds_and_uniform():
    weights = {"a": torch.zeros(50, 40), "b": torch.zeros(30)}
    first, again = (CRITERIA["random"].judge(evidence_of(weights, Recipe(seed=3))) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in weights)
    assert not torch.equal(first["a"], CRITERIA["random"].judge(evidence_of(weights, Recipe(seed=4)))["a"])
    assert abs(float(first["a"].mean()) - 0.5) < 0.03
    assert abs(float(first["a"].square().mean()) - 1 / 3) < 0.03


# Scores, as they go into a cut -----------------------------------------------------------------------------------


def judged(scores, keep=None):
    weights = {name: torch.ones_like(value) for name, value in scores.items()}
    CRITERIA["mine"] = Criterion(lambda evidence: scores, "global")
    evidence = dc.Evidence(nn.Module(), weights, Masks(keep or Masks.full(weights).keep), Recipe(criterion="mine"))
    return judge(evidence).scores


def test_scores_without_a_sign_are_taken_as_they_are(own):
    found = judged({"a": torch.tensor([[0.0, 2.0, 1e-30]], dtype=torch.float64)})["a"]
    assert found.dtype == torch.float32
    assert found[0, 1:].tolist() == [2.0, torch.tensor(1e-30).item()]
    assert 0 < found[0, 0] < 1e-37  # what is there goes after what is pruned


def test_scores_with_a_sign_become_ranks_over_the_network(own):
    scores = {"a": torch.tensor([[-1e6, 1e-9], [-1e-9, 0.0]]), "b": torch.tensor([2e-9, 1e-9, -5.0])}
    keep = {"a": torch.tensor([[True, True], [True, True]]), "b": torch.tensor([True, True, False])}
    found = judged(scores, keep)
    assert found["a"].tolist() == [[1.0, 4.0], [2.0, 3.0]]
    assert found["b"].tolist() == [5.0, 4.0, 0.0]


@pytest.mark.parametrize(
    ("scores", "reason"),
    [({}, "no scores for a"), ({"a": torch.ones(3)}, r"shape \(3,\), not \(2, 2\)"),
     ({"a": torch.tensor([[1.0, torch.nan], [1, 1]])}, "scores of a are NaN or infinite")],
)  # fmt: skip
def test_scores_that_are_none(own, scores, reason):
    CRITERIA["mine"] = Criterion(lambda evidence: scores, "global")
    with pytest.raises(RecipeError, match=f"criterion mine: .*{reason}"):
        judge(evidence_of({"a": torch.ones(2, 2)}, Recipe(criterion="mine")))


def test_samples_are_as_many_as_the_recipe_says(mlp):
    evidence = evidence_of(weights_of(mlp), Recipe(criterion="taylor1", score_samples=40), mlp, TRAIN)
    assert [len(y) for _, y in samples(evidence)] == [32, 8]
    assert torch.equal(torch.cat([x for x, _ in samples(evidence)]), torch.cat([x for x, _ in TRAIN])[:40])
    with pytest.raises(DataError, match="it has none"):
        list(samples(evidence_of(weights_of(mlp), Recipe(), mlp, [])))


@pytest.mark.parametrize("name", WITH_DATA)
def test_without_data(mlp, name):
    with pytest.raises(RecipeError, match=f"criterion {name} looks at training data.*--epochs 0 --finetune-epochs 0"):
        judge(evidence_of(weights_of(mlp), Recipe(criterion=name), mlp))


# What every criterion leaves as it was, and what it can stand ---------------------------------------------------


@pytest.mark.parametrize("name", WITH_DATA)
def test_the_network_is_left_as_it_was(name, monkeypatch):
    quick(monkeypatch)
    torch.manual_seed(0)
    model = conv_net(batch_norm=True)
    model[1].eval()  # a user may have frozen it alone
    model[0].weight.requires_grad_(False)
    model[3].weight.grad = torch.ones_like(model[3].weight)
    before = copy.deepcopy(model.state_dict())
    random_state = torch.get_rng_state()
    train = batches(40, seed=1, shape=(1, 8, 8))
    scores = judge(evidence_of(weights_of(model), Recipe(criterion=name), model, train)).scores
    assert model.training
    assert model[3].training
    assert not model[1].training
    assert [parameter.requires_grad for parameter in model.parameters()] == [False] + [True] * 9
    assert torch.equal(model[3].weight.grad, torch.ones_like(model[3].weight))
    assert model[0].bias.grad is None
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert scores["0.weight"].max() > 1e-30  # the frozen layer is judged as well


def quick(monkeypatch):
    monkeypatch.setattr("deepcompress.prune.criteria.empirical.BUDGET", 8)
    monkeypatch.setattr("deepcompress.prune.criteria.factors.STEPS", 3)


@pytest.mark.parametrize("name", WITH_DATA)
def test_dropout_is_off_and_scores_repeat(mlp, name, monkeypatch):
    quick(monkeypatch)
    evidence = evidence_of(weights_of(mlp), Recipe(criterion=name), mlp, TRAIN)
    first, again = judge(evidence).scores, judge(evidence).scores
    assert all(torch.equal(first[layer], again[layer]) for layer in first)


@pytest.mark.parametrize("name", WITH_DATA)
def test_a_weight_that_is_a_buffer_has_the_scores_of_a_parameter(mlp, name, monkeypatch):
    quick(monkeypatch)
    recipe = Recipe(criterion=name)
    expected = judge(evidence_of(weights_of(mlp), recipe, mlp, TRAIN)).scores
    value = mlp.fc2.weight.data
    del mlp.fc2.weight
    mlp.fc2.register_buffer("weight", value)
    weights = {key: mlp.get_parameter(key) if key != "fc2.weight" else value for key in expected}
    found = judge(evidence_of(weights, recipe, mlp, TRAIN)).scores
    assert all(torch.equal(found[key], expected[key]) for key in expected)


class Tied(nn.Module):
    """The output layer reads out with the very weight of the first."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
        self.last.weight = self.first.weight

    def forward(self, x):
        return self.last(torch.tanh(self.first(x)))


def test_tied_weights_count_all_their_uses():
    torch.manual_seed(0)
    model, x = Tied(), torch.randn(20, 6)
    data = [(x, torch.arange(20) % 6)]
    scores = CRITERIA["taylor1"].judge(evidence_of({"first.weight": model.first.weight}, Recipe(), model, data))
    nn.functional.cross_entropy(model(x), data[0][1]).backward()
    expected = (model.first.weight.grad * model.first.weight).abs()
    assert torch.allclose(scores["first.weight"], expected, rtol=1e-5)


@pytest.mark.parametrize("name", WITH_DATA)
def test_an_lstm_and_attention_can_be_judged(name, monkeypatch):
    """Their forwards take weights by other ways than a Linear's."""
    quick(monkeypatch)
    torch.manual_seed(0)

    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.words = nn.Embedding(11, 8)
            self.lstm = nn.LSTM(8, 8, batch_first=True)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.out = nn.Linear(8, 3)

        def forward(self, x):
            hidden = self.lstm(self.words(x))[0]
            return self.out(self.attention(hidden, hidden, hidden, need_weights=False)[0]).mean(dim=1)

    model = Tagger()
    data = [(torch.randint(0, 11, (16, 5)), torch.randint(0, 3, (16,)))]
    scores = judge(evidence_of(weights_of(model), Recipe(criterion=name), model, data)).scores
    assert all(value.max() > 1e-12 for value in scores.values())


# A user's own ----------------------------------------------------------------------------------------------------

OWN = """
import deepcompress as dc


def scores(evidence):
    return {name: -weight.detach().abs() for name, weight in evidence.weights.items()}


@dc.criterion("from a file", scope="layer")
def registered(evidence):
    return scores(evidence)


def fails(evidence):
    return {}
"""


def test_a_users_own_function_decides_what_the_file_keeps(own, tmp_path):
    @dc.criterion("mine")
    def largest_first(evidence: dc.Evidence):
        return {name: -weight.detach().abs() for name, weight in evidence.weights.items()}

    torch.manual_seed(0)
    model = Mlp()
    recipe = dc.Recipe(prune=0.75, criterion="mine", retrain=False, bits=None)
    dc.compress(model, None, None, recipe, tmp_path / "m.dc")
    kept = dc.load_state_dict(tmp_path / "m.dc")
    all_of_them = torch.cat([weight.detach().abs().flatten() for weight in weights_of(model).values()]).sort().values
    limit = all_of_them[round(0.25 * len(all_of_them))]
    for name, weight in weights_of(model).items():
        small = weight.detach().abs() < limit
        assert small.any()
        assert torch.equal(kept[name], weight.detach() * small)


def test_a_users_own_file_from_the_command_line(own, small_checkpoint):
    dense, options = small_checkpoint
    Path("my.py").write_text(OWN)
    succeed("compress", "dense.pt", *options, "--criterion", "my.py:scores", "--prune", "0.25", "--bits", "none",
            "--epochs", "0", "--finetune-epochs", "0", "-q", "-o", "m.dc")  # fmt: skip
    packed = dc.load_state_dict("m.dc")
    weights = {name: value for name, value in dense.items() if value.ndim > 1}
    limit = torch.cat([value.abs().flatten() for value in weights.values()]).quantile(0.75)
    for name, value in weights.items():
        large = value.abs() > limit
        assert large.any()
        assert not packed[name][large].any()
        assert (packed[name][~large] != 0).float().mean() > 0.9  # but for dead neurons


def test_a_function_in_a_file_has_the_scope_it_was_registered_with(own, tmp_path):
    (tmp_path / "my.py").write_text(OWN)
    assert find(f"{tmp_path / 'my.py'}:registered").scope == "layer"
    assert find(f"{tmp_path / 'my.py'}:scores").scope == "global"


def test_names_that_are_taken_and_scopes_that_are_none():
    with pytest.raises(ValueError, match="there is a criterion 'magnitude' already"):
        dc.criterion("magnitude")(lambda evidence: {})
    with pytest.raises(ValueError, match="scope of criterion 'x' is 'row'"):
        dc.criterion("x", scope="row")


@pytest.mark.parametrize(
    ("name", "reason"),
    [("nonsense", "allowed are magnitude, .*taylor1"), ("no.py:f", "no.py does not exist"),
     ("{}/my.py:absent", "defines no function named 'absent'"), ("{}/bad.py:f", "fails with ZeroDivisionError")],
)  # fmt: skip
def test_criteria_that_cannot_be_found(tmp_path, name, reason, own):
    (tmp_path / "my.py").write_text(OWN)
    (tmp_path / "bad.py").write_text("1 / 0")
    with pytest.raises(RecipeError, match=reason):
        find(name.format(tmp_path))


def test_an_unknown_name_is_wrong_usage():
    assert "'nonsense' is unknown; known are magnitude, random, taylor1" in fail(
        "compress", "none.pt", "--criterion", "nonsense", code=2
    )


def test_sensitivity_has_data_to_judge_by(dense, flat_train, flat_test):
    recipe = Recipe(criterion="taylor1", epochs=0)
    rows = sensitivity(dense, flat_test, [0.75], flat_train, recipe, ["fc2"])
    evidence = evidence_of({"fc2.weight": dense.fc2.weight}, recipe, dense, flat_train)
    work = copy.deepcopy(dense)
    cut(judge(evidence).scores, Recipe(prune=0.75)).masks.apply({"fc2.weight": work.fc2.weight})
    assert rows[1].loss == evaluate(work, flat_test).loss
    assert rows[1].loss != rows[0].loss
    with pytest.raises(RecipeError, match="looks at training data"):
        sensitivity(dense, flat_test, [0.75], None, recipe)


def test_sensitivity_by_a_criterion_from_the_command_line(small_checkpoint):
    _, options = small_checkpoint
    found = from_json("sensitivity", "dense.pt", *options, "--prune", "0.9", "--criterion", "taylor1",
                      "--score-samples", "64")  # fmt: skip
    assert [row["sparsity"] > 0.85 for row in found["rows"]] == [False, True] * 3


@pytest.mark.parametrize("named", [True, False])
def test_no_retrain_says_what_to_do_instead(small_checkpoint, named):
    _, options = small_checkpoint
    line = fail(
        "compress", "dense.pt", "--criterion", "taylor2", "--no-retrain", "-q", *(options if named else []), code=2
    )
    assert "--epochs 0 --finetune-epochs 0" in line
    succeed("compress", "dense.pt", "--criterion", "taylor2", "--epochs", "0", "--finetune-epochs", "0", *options, "-q")
