"""AMC: budget, states, rewards and the agent against hand calculations, and what ends in the file."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from commands import fail, from_json
from hypothesis import given
from hypothesis import strategies as st
from listener import Listener
from samples import Mlp, batches
from test_guard import TwoLayers
from torch import nn

from deepcompress.checkpoint import Checkpoint, save_checkpoint
from deepcompress.compression.own_loop import Compressor
from deepcompress.compression.pipeline import compress
from deepcompress.compression.plan import plan
from deepcompress.compression.tensors_only import compress_state
from deepcompress.container.breakdown import inspect
from deepcompress.errors import RecipeError
from deepcompress.networks import build
from deepcompress.prune import trials
from deepcompress.prune.amc import Budget, allocate, features, noise, walk
from deepcompress.prune.ddpg import Agent, Step
from deepcompress.prune.trials import WORST, Trials, spread
from deepcompress.reading.loader import load_state_dict
from deepcompress.recipe import LayerRule, Recipe
from deepcompress.training.evaluation import evaluate
from deepcompress.training.objective import objective_of
from deepcompress.training.retraining import Run
from deepcompress.training.tasks import find

RECIPE = Recipe(prune=0.5, distribution="amc", episodes=24)


@pytest.fixture(scope="module")
def signs():
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    return [(x, (x.sum(1) > 0).long())]


def run_of(model, val, recipe=RECIPE, **more):
    weights = {name: value for name, value in model.named_parameters() if value.ndim > 1}
    return Run(model, weights, None, recipe, val, **more)


# The budget ---------------------------------------------------------------------------------------------------


def test_the_bounds_of_an_action_by_hand():
    budget = Budget({"a": 10, "b": 6, "c": 4}, 12)
    assert budget.bounds([]) == (12 - 5 - 3, 9)  # the others keep one weight each, and so does the layer
    assert budget.bounds([4]) == (5, 5)
    assert budget.bounds([9]) == (0, 3)
    assert budget.bounds([9, 1]) == (2, 2)
    assert budget.least() == {"a": 4, "b": 5, "c": 3}


FRACTIONS = st.floats(0, 1)


@given(st.lists(st.tuples(st.integers(1, 40), FRACTIONS, FRACTIONS), min_size=1, max_size=6), FRACTIONS)
def test_whatever_the_agent_says_the_budget_is_met_exactly(layers, part):
    weights = {str(place): (torch.arange(size) >= zero * (size - 1)) for place, (size, zero, _) in enumerate(layers)}
    budget = Budget.of(weights, Recipe(prune=0.99 * part))
    actions = iter([action for *_, action in layers])
    _, losses = walk(budget, torch.zeros(len(weights), 8), lambda _: next(actions))
    assert sum(losses.values()) == budget.target
    zeros = {name: int((weight == 0).sum()) for name, weight in weights.items()}
    asked = round(0.99 * part * sum(map(len, weights.values())))
    assert budget.target == max(sum(zeros.values()), min(asked, sum(len(weight) - 1 for weight in weights.values())))
    assert all(zeros[name] <= losses[name] < len(weight) for name, weight in weights.items())


def test_fractions_of_their_own_count():
    weights = {"a": torch.ones(10, 10), "b": torch.ones(5, 10), "c": torch.ones(5, 10)}
    budget = Budget.of(weights, Recipe(prune=0.5, layers=(LayerRule("b", prune=0.8),)))
    assert budget == Budget({"a": 100, "c": 50}, 100 - 40, {"b": 40}, {"a": 0, "c": 0})
    assert budget.has_choice
    assert Budget.of(weights, Recipe(prune=0.1, layers=(LayerRule("b", prune=0.8),))).target == 0  # none can come back
    assert Budget.of(weights, Recipe(prune=0.999)).target == 99 + 49 + 49


def test_what_is_zero_already_counts():
    budget = Budget({"a": 10, "b": 6, "c": 4}, 14, {}, {"a": 6, "b": 0, "c": 3})
    assert budget.bounds([]) == (6, 9)  # c loses its three whatever happens
    assert budget.bounds([9]) == (2, 2)
    assert budget.bounds([7]) == (4, 4)
    assert budget.has_choice
    assert not replace(budget, target=9).has_choice


@pytest.mark.parametrize(
    ("sizes", "target", "choice"),
    [([9], 4, False), ([9, 1], 4, False), ([9, 5], 0, False), ([9, 5], 12, False), ([9, 5], 11, True)],
)
def test_where_there_is_a_choice(sizes, target, choice):
    assert Budget({str(place): size for place, size in enumerate(sizes)}, target).has_choice == choice


# What the agent sees, and how it acts -------------------------------------------------------------------------


def test_states_by_hand():
    model = nn.Sequential(nn.Conv2d(1, 2, 3, stride=2), nn.Flatten(), nn.Linear(32, 4), nn.ReLU(), nn.Linear(4, 2))
    val = [(torch.randn(5, 1, 9, 9), torch.zeros(5, dtype=torch.long))]
    run = run_of(model, val)
    known = features(run, run.weights, val[0])
    wanted = [  # place, outputs, inputs, height, width, stride, kernel, multiplications
        [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0],
        [0.5, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, (128 - 8) / (18 * 16 - 8)],
        [1.0, 0.0, 3 / 31, 0.0, 0.0, 0.0, 0.0, 0.0],
    ]
    assert torch.allclose(known, torch.tensor(wanted))
    assert not any(module._forward_hooks for module in model.modules())
    path, losses = walk(Budget.of(run.weights, RECIPE), known, lambda _: 0.5)
    assert losses == {"0.weight": 8, "2.weight": 62 + 4, "4.weight": 77 - 8 - 66}  # half of 0..17, and of 62..69
    ends = [state[8:].tolist() for state, _ in path]
    assert ends[0] == pytest.approx([0, 136 / 154, 0])
    assert ends[1] == pytest.approx([8 / 154, 8 / 154, 8 / 18])
    assert ends[2] == pytest.approx([74 / 154, 0, 66 / 128])


def test_a_layer_that_no_module_tells_of_has_a_state():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Parameter(torch.ones(3, 2)), nn.Linear(3, 2)

        def forward(self, x):
            return self.last(x @ self.first.T)

    run = run_of(Bare(), [(torch.ones(4, 2), torch.zeros(4, dtype=torch.long))])
    assert features(run, run.weights, run.val_batches[0]).isfinite().all()


def test_noise_is_constant_and_then_falls():
    assert [noise(episode, 400) for episode in (0, 99, 100)] == [0.5] * 3
    assert noise(250, 400) == pytest.approx(0.5 * 0.95**150)
    assert noise(30, 40) == pytest.approx(0.5 * 0.95**200)  # fewer trials, the same way


def test_actions_are_drawn_from_the_truncated_normal():
    torch.manual_seed(0)
    agent, mean, sigma = Agent(2), 0.2, 0.5
    agent.actor = nn.Linear(2, 1)
    nn.init.zeros_(agent.actor.weight)
    nn.init.constant_(agent.actor.bias, mean)
    drawn = torch.tensor([agent.act(torch.zeros(2), sigma) for _ in range(600)])
    assert 0 <= drawn.min() < 0.02
    assert 0.98 < drawn.max() <= 1
    low, high = ((edge - mean) / sigma for edge in (0, 1))
    normal = torch.distributions.Normal(0.0, 1.0)
    density = [math.exp(float(normal.log_prob(torch.tensor(edge)))) for edge in (low, high)]
    mass = float(normal.cdf(torch.tensor(high)) - normal.cdf(torch.tensor(low)))
    assert float(drawn.mean()) == pytest.approx(mean + sigma * (density[0] - density[1]) / mass, abs=0.03)
    assert agent.act(torch.zeros(2), 1e-7) == pytest.approx(mean, abs=1e-5)


# How it learns ------------------------------------------------------------------------------------------------


def test_targets_are_rewards_less_their_mean_and_what_comes_after():
    torch.manual_seed(0)
    agent, state, after = Agent(3), torch.zeros(3), torch.ones(3)
    drawn = [Step(state, 0.5, -1.0, after), Step(after, 0.5, -3.0, None)]
    assert agent._rewards(drawn).flatten().tolist() == [1.0, -1.0]  # the baseline begins at their mean
    assert agent._rewards([Step(state, 0.5, 0.0, None)]).item() == 1.0  # and goes half of the way, to -1
    promised = agent._promised(drawn)
    with torch.no_grad():
        value = agent.slow_critic(torch.cat((after, agent.slow_actor(after))))
    assert promised.flatten().tolist() == pytest.approx([float(value), 0.0])


def test_slow_networks_follow_by_a_hundredth():
    torch.manual_seed(0)
    agent = Agent(2)
    agent.remember(Step(torch.zeros(2), 0.5, -1.0, None))
    before = [parameter.clone() for parameter in agent.slow_actor.parameters()]
    agent.learn()
    for old, slow, fast in zip(before, agent.slow_actor.parameters(), agent.actor.parameters(), strict=True):
        assert torch.allclose(slow, old + 0.01 * (fast - old), atol=1e-8)


def test_it_learns_which_action_is_rewarded():
    torch.manual_seed(0)
    agent, state = Agent(2), torch.tensor([0.5, 1.0])
    for action in torch.rand(300).tolist():
        agent.remember(Step(state, action, -((action - 0.8) ** 2), None))
    for _ in range(200):
        agent.learn()
    with torch.no_grad():
        assert float(agent.actor(state)) == pytest.approx(0.8, abs=0.1)  # from 0.5


# What a trial costs -------------------------------------------------------------------------------------------


def test_a_trial_is_the_error_of_the_pruned_network_and_leaves_it_alone(signs, monkeypatch):
    model = TwoLayers()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = Trials(run_of(model, signs))
    cost = found.cost({"needed.weight": 2, "idle.weight": 0})
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    monkeypatch.setattr(trials, "evaluate", None)  # what was measured is not measured again
    assert found.cost({"needed.weight": 2, "idle.weight": 0}) == cost
    pruned = TwoLayers()
    pruned.needed.weight.data = torch.tensor([[0.0, -1.01], [0.0, 1.01]])  # of equal weights the first goes first
    assert cost == pytest.approx(evaluate(pruned, signs).error / 100)
    assert 0.1 < cost < 0.5
    assert found.measure == "error"


def test_the_loss_of_other_tasks_is_a_part_of_the_first_one():
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    run = run_of(model, [(x, x.sum(1, keepdim=True))], objective=objective_of(RECIPE, model, find("regression")))
    found = Trials(run)
    assert found.cost(found.shares("uniform")) == 1.0
    losses = {"0.weight": 11, "1.weight": 0}
    wanted = evaluate(model, run.val_batches, run.objective).loss
    assert found.cost({"0.weight": 0, "1.weight": 0}) == pytest.approx(wanted / found._scale)
    with torch.no_grad():
        model[0].bias.fill_(math.inf)
    assert found.cost(losses) == WORST
    assert found.measure == "loss"


def test_samples_are_taken_from_all_batches(monkeypatch):
    monkeypatch.setattr(trials, "SAMPLES", 10)
    sorted_by_class = [(torch.full((8, 2), float(label)), torch.full((8,), label)) for label in range(4)]
    taken = spread(sorted_by_class, torch.device("cpu"))
    assert [y.tolist() for _, y in taken] == [[0] * 3, [1] * 3, [2] * 3, [3] * 3]


# All of it ----------------------------------------------------------------------------------------------------


def test_the_agent_finds_the_layer_that_does_not_matter(signs):
    watch = Listener()
    recipe, found = allocate(run_of(TwoLayers(), signs, watch=watch))
    assert found.fractions == {"needed.weight": 0.0, "idle.weight": 6 / 8}
    assert found.rewards[found.trial - 1] == max(found.rewards) == 0.0
    assert found.others["uniform"] < 0
    assert [recipe.prune_of(name) for name in found.fractions] == list(found.fractions.values())
    assert watch.lines[-1].startswith(f"amc: trial {found.trial} of 24 has the best reward, -0.0000 (uniform -0.")


def test_it_says_so_where_another_distribution_is_better(signs):
    _, found = allocate(run_of(TwoLayers(), signs))
    worse = replace(found, rewards=[-0.5], trial=1, others={"uniform": -0.6, "lamp": -0.25})
    assert str(worse) == (
        "amc: trial 1 of 1 has the best reward, -0.5000 (uniform -0.6000, lamp -0.2500): distribution lamp is better "
        "here"
    )


def test_the_seed_decides_and_nothing_else(dense, flat_test):
    state = torch.get_rng_state()
    first, again, other = (
        allocate(run_of(dense, flat_test, replace(RECIPE, prune=0.8, episodes=8, seed=seed)))[1] for seed in (0, 0, 1)
    )
    assert torch.equal(state, torch.get_rng_state())
    assert first == again
    assert first.rewards != other.rewards


def test_the_file_has_the_sparsity_that_was_asked_for(dense, flat_train, flat_test, tmp_path):
    recipe = Recipe(prune=0.8, bits="none", distribution="amc", episodes=12, epochs=2)
    result = compress(dense, flat_train, flat_test, recipe, tmp_path / "m.dc")
    layers = {name: value for name, value in load_state_dict(tmp_path / "m.dc").items() if value.ndim > 1}
    total = sum(value.numel() for value in layers.values())
    assert sum(int((value == 0).sum()) for value in layers.values()) >= round(0.8 * total)
    for name, fraction in result.allocation["fractions"].items():
        assert result.kept[name] <= 1 - fraction + 1e-9
    assert len(result.allocation["rewards"]) == 12
    assert result.recipe["distribution"] == "amc"
    assert "layer" not in result.recipe  # what was asked, and not what was found


def test_methods_take_the_fractions(dense, flat_train, flat_test, tmp_path):
    recipe = Recipe(method="latent", prune=0.6, levels=2, distribution="amc", episodes=4, epochs=1, finetune_epochs=0)
    result = compress(dense, flat_train, flat_test, recipe, tmp_path / "m.dc")
    found = load_state_dict(tmp_path / "m.dc")
    for name, fraction in result.allocation["fractions"].items():
        assert int((found[name] == 0).sum()) == round(fraction * found[name].numel())


@pytest.mark.parametrize("layers", [(), (LayerRule("fc1.weight", prune=0.9), LayerRule("fc2.weight", prune=0.5))])
def test_where_there_is_no_choice_nothing_is_tried(layers, flat_test):
    model = Mlp() if layers else nn.Linear(12, 4)
    watch = Listener()
    recipe, found = allocate(run_of(model, flat_test, replace(RECIPE, layers=layers), watch=watch))
    assert found is None
    assert watch.lines == ["amc: there is one way to prune so much, and nothing is tried"]
    if not layers:
        assert recipe.prune_of("weight") == 24 / 48


def test_a_network_whose_loss_is_no_number_is_not_the_end(flat_test):
    model = Mlp()
    with torch.no_grad():
        model.fc3.bias.fill_(math.nan)
    _, found = allocate(run_of(model, flat_test))
    assert len(found.rewards) == 24


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: compress(Mlp(), None, None, Recipe(**SMALL), path), "here is none to measure on: .*val_loader"),
        (
            lambda path: compress(Mlp(), None, batches(32, 1), Recipe(**SMALL, criterion="filters-l1"), path),
            "removes whole units, and distribution 'amc'",
        ),
        (lambda path: compress_state(Mlp().state_dict(), Recipe(**SMALL), path), "here is none to measure on"),
        (lambda path: plan(Mlp(), Recipe(**SMALL)), "here is none to measure on"),
        (lambda path: Compressor(Mlp(), Recipe(prune=0.5, distribution="amc")), "here is none to measure on"),
        (lambda path: Recipe(target_size=900, distribution="amc"), "target_size decides by bytes"),
        (lambda path: Recipe(prune=0.5, episodes=9), "episodes is only for distribution amc"),
        (lambda path: Recipe(**SMALL, scope="global"), "one threshold for all"),
    ],
    ids=["no data", "units", "tensors", "plan", "own loop", "size", "episodes", "global"],
)
def test_what_it_needs(make, reason, tmp_path):
    with pytest.raises(RecipeError, match=reason):
        make(tmp_path / "m.dc")


SMALL = {"prune": 0.5, "bits": "none", "distribution": "amc", "retrain": False}


def test_from_the_command_line(npz, network_file, tmp_path):
    name = f"{network_file}:small"
    save_checkpoint(tmp_path / "net.pt", Checkpoint(build(name).state_dict(), None, None))
    asked = (tmp_path / "net.pt", "--network", name, "--data", npz, "--prune", 0.7, "--bits", "none", "-o")
    amc = ("--distribution", "amc", "--episodes", 6)
    found = from_json("compress", *asked, tmp_path / "m.dc", *amc, "--no-retrain")
    assert len(found["allocation"]["rewards"]) == 6
    assert found["allocation"]["measure"] == "error"
    lost = sum(layer["weights"] - layer["nonzeros"] for layer in inspect(tmp_path / "m.dc").as_dict()["layers"])
    assert lost >= round(0.7 * (54 + 1080 + 80))
    assert from_json("compress", *asked, tmp_path / "l.dc", "--no-retrain")["allocation"] is None
    bare = fail("compress", tmp_path / "net.pt", "--prune", 0.7, *amc, "--no-retrain", "-o", tmp_path / "n.dc")
    assert "so it cannot be measured on data (--data, --max-drop and --distribution amc ask for that)" in bare
    assert "--network" in bare


def test_what_other_distributions_cannot_reach_is_refused_here_too(npz, network_file, tmp_path):
    name = f"{network_file}:small"
    model = build(name)
    save_checkpoint(tmp_path / "net.pt", Checkpoint(model.state_dict(), None, None))
    largest = max(
        (each for each, value in model.state_dict().items() if value.ndim > 1),
        key=lambda each: model.state_dict()[each].numel(),
    )
    asked = ("compress", tmp_path / "net.pt", "--network", name, "--data", npz, "--prune", 0.9, "--bits", "none")
    more = ("--layer", f"{largest}:prune=0.1", "--distribution", "amc", "--episodes", 3, "--no-retrain", "-q")
    assert "fractions of their own lose only" in fail(*asked, *more, "-o", tmp_path / "m.dc", code=2)
    assert not (tmp_path / "m.dc").exists()
