"""AMC: an agent shares out what is pruned, layer by layer, and learns from what its trials cost (He et al. 2018).

A trial is an episode: the agent meets one layer after the other and answers each with a fraction to prune. Then the
network is pruned so, not retrained, and measured on validation data. `prune.ddpg` has the agent; here is what it sees
and what it may do. Layers then have those fractions as if somebody had set them.
"""

from __future__ import annotations

import glob
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from deepcompress.errors import RecipeError
from deepcompress.networks.inputs import tensors_in
from deepcompress.prune.criteria.base import find
from deepcompress.prune.ddpg import Agent, Step
from deepcompress.prune.masks import Masks
from deepcompress.prune.trials import Trials
from deepcompress.recipe import LayerRule, Recipe
from deepcompress.recipe.uses import check_unsearched
from deepcompress.training.evaluation import evaluate
from deepcompress.training.retraining import Run
from deepcompress.training.snapshot import chance_kept

OTHERS = ("uniform", "lamp")  # distributions that are measured beside the agent's
LINES = 10  # of progress
WARMING = 0.25  # of the trials explore, and nothing is learned: 100 of 400 in the paper
SIGMA = 0.5  # of the noise of an action while it explores
DECAY = 0.95**300  # of the noise over the trials after that


@dataclass(frozen=True)
class Allocation:
    """What came of the trials.

    A reward is minus the error, as a fraction of 1; of a task without errors, it is minus the loss, over that of the
    network with every layer pruned alike.

    Attributes:
        measure: what rewards are of: ``error`` or ``loss``.
        fractions: what each layer loses, by name.
        trial: in which the agent came to them, from 1.
        rewards: of all trials.
        others: the rewards of other distributions, by name.
    """

    measure: str
    fractions: dict[str, float]
    trial: int
    rewards: list[float]
    others: dict[str, float]

    def __str__(self) -> str:
        reward, best = max(self.rewards), max(self.others, key=self.others.__getitem__)
        others = ", ".join(f"{name} {other:.4f}" for name, other in self.others.items())
        text = f"amc: trial {self.trial} of {len(self.rewards)} has the best reward, {reward:.4f} ({others})"
        return text if reward >= self.others[best] else f"{text}: distribution {best} is better here"


@dataclass(frozen=True)
class Budget:
    """How many weights go: layers in the order in which the agent meets them.

    Attributes:
        sizes: weights of each layer that the agent decides on, by name. Each keeps one at least.
        target: how many of all these go together.
        own: how many weights the other layers lose, which have fractions of their own.
        zeros: how many weights of a layer are zero already, and stay so.
    """

    sizes: dict[str, int]
    target: int
    own: dict[str, int] = field(default_factory=dict)
    zeros: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, weights: Mapping[str, torch.Tensor], recipe: Recipe) -> Budget:
        """What the recipe asks."""
        sizes, own = {name: weight.numel() for name, weight in weights.items()}, {}
        for name, size in sizes.items():
            fraction = recipe.prune_of(name)
            if fraction is not None:
                own[name] = min(round(fraction * size), size - 1)
        free, there = {name: size for name, size in sizes.items() if name not in own}, Masks.nonzero(weights)
        zeros = {name: size - there.kept(name) for name, size in free.items()}
        most, left = sum(size - 1 for size in free.values()), round(recipe.prune * sum(sizes.values()))
        return cls(free, min(max(left - sum(own.values()), sum(zeros.values())), most), own, zeros)

    @property
    def has_choice(self) -> bool:
        """Whether there is more than one way to meet it."""
        ranges = [size - 1 - self.zeros.get(name, 0) for name, size in self.sizes.items()]
        left = self.target - sum(self.zeros.values())
        return sum(count > 0 for count in ranges) > 1 and 0 < left < sum(ranges)

    def bounds(self, gone: Sequence[int]) -> tuple[int, int]:
        """The fewest and the most weights of the next layer, after so many are `gone` of those before it.

        The fewest are what is left to do if all later layers lose as much as they can (He et al. 2018, algorithm 1).
        The most are what is left to do at all: the budget is met exactly.
        """
        left, (name, *later) = self.target - sum(gone), list(self.sizes)[len(gone) :]
        fewest = left - sum(self.sizes[other] - 1 for other in later)
        most = left - sum(self.zeros.get(other, 0) for other in later)
        return max(fewest, self.zeros.get(name, 0)), min(self.sizes[name] - 1, most)

    def least(self) -> dict[str, int]:
        """The way to meet it in which first layers lose the fewest."""
        gone: list[int] = []
        for _ in self.sizes:
            gone.append(self.bounds(gone)[0])
        return dict(zip(self.sizes, gone, strict=True))


def allocate(run: Run) -> tuple[Recipe, Allocation | None]:
    """The recipe with a fraction for each layer, as the agent has found them in `recipe.episodes` trials.

    The network is the same afterwards, and so are all random generators. Layers that have fractions of their own keep
    those. Where that leaves no choice, there is no trial.

    Raises:
        RecipeError: there is no validation data, or the criterion removes whole units.
    """
    recipe = run.recipe
    if run.val_batches is None:
        check_unsearched(recipe)
    if find(recipe.criterion).units is not None:
        raise RecipeError(
            f"criterion {recipe.criterion} removes whole units, and distribution 'amc' is for single weights: choose "
            "one"
        )
    budget = Budget.of(run.weights, recipe)
    if not budget.has_choice:
        run.watch.message("amc: there is one way to prune so much, and nothing is tried")
        return _with_fractions(recipe, budget, budget.least()), None
    with chance_kept(next(run.model.parameters()).device, run.batches, run.val_batches):
        torch.manual_seed(recipe.seed)
        trials = Trials(run)
        found, losses = _search(run, budget, trials)
    run.watch.message(str(found))
    return _with_fractions(recipe, budget, losses), found


def _with_fractions(recipe: Recipe, budget: Budget, losses: Mapping[str, int]) -> Recipe:
    rules = [LayerRule(glob.escape(name), prune=losses[name] / size) for name, size in budget.sizes.items()]
    return replace(recipe, layers=(*recipe.layers, *rules))


def _search(run: Run, budget: Budget, trials: Trials) -> tuple[Allocation, dict[str, int]]:
    """All trials, and how many weights each layer loses in the best of them."""
    episodes, layers = run.recipe.episodes, features(run, budget.sizes, trials.batches[0])
    others = {name: -trials.cost(trials.shares(name)) for name in OTHERS}
    agent = Agent(layers.shape[1] + 3)
    rewards: list[float] = []
    best: dict[str, int] = {}
    for episode in range(episodes):
        path, losses = walk(budget, layers, partial(agent.act, sigma=noise(episode, episodes)))
        reward = -trials.cost({**budget.own, **losses})
        if reward > max(rewards, default=-math.inf):
            best = losses
        rewards.append(reward)
        _learn(agent, path, reward, resting=episode < episodes * WARMING)
        if (episode + 1) % max(episodes // LINES, 1) == 0:
            run.watch.message(f"amc: trial {episode + 1} of {episodes}: reward {reward:.4f}, best {max(rewards):.4f}")
    fractions = {name: losses / budget.sizes[name] for name, losses in best.items()}
    return Allocation(trials.measure, fractions, rewards.index(max(rewards)) + 1, rewards, others), best


def noise(episode: int, episodes: int) -> float:
    """The deviation of an action: constant in the first `WARMING` of the episodes, then falling exponentially."""
    past = max((episode / episodes - WARMING) / (1 - WARMING), 0.0)
    return float(SIGMA * DECAY**past)


def walk(
    budget: Budget, layers: torch.Tensor, act: Callable[[torch.Tensor], float]
) -> tuple[list[tuple[torch.Tensor, float]], dict[str, int]]:
    """One episode: the states and actions, and how many weights each layer loses.

    A state is what is known of the layer, then the fraction of all weights that is gone, the fraction that is in later
    layers, and what was pruned of the layer before. An action is a place between the bounds of the budget, from 0 to 1:
    the paper's is the fraction itself, held between them, and at high sparsity nearly all actions then are one.
    """
    path, gone, total, last = [], list[int](), sum(budget.sizes.values()), 0.0
    later = total
    for known, size in zip(layers, budget.sizes.values(), strict=True):
        later -= size
        state = torch.cat((known, torch.tensor([sum(gone) / total, later / total, last])))
        action = act(state)
        low, high = budget.bounds(gone)
        gone.append(low + round(action * (high - low)))
        last = gone[-1] / size
        path.append((state, action))
    return path, dict(zip(budget.sizes, gone, strict=True))


def features(run: Run, names: Collection[str], example: tuple[Any, Any]) -> torch.Tensor:
    """What the agent knows of each layer, scaled to 0..1 over the layers: float32 (layers, 8).

    That is its place, outputs, inputs, height and width of the input, stride, kernel size and multiplications for a
    sample (He et al. 2018, equation 1). What a layer has not, or no module tells, is 1.
    """
    seen, found = _looked_at(run, names, example), []
    for place, name in enumerate(names):
        weight, (height, width, stride, places) = run.weights[name], seen[name]
        kernel = weight.shape[2] if weight.ndim > 2 else 1
        found.append([place, *weight.shape[:2], height, width, stride, kernel, weight.numel() * places])
    known = torch.tensor(found, dtype=torch.float32)
    least, most = known.min(dim=0).values, known.max(dim=0).values
    return (known - least) / (most - least).where(most > least, 1.0)


def _looked_at(run: Run, names: Collection[str], example: tuple[Any, Any]) -> dict[str, tuple[float, ...]]:
    """Height and width of each layer's input, its stride, and how often a sample meets each of its weights."""
    owners = {id(run.weights[name]): name for name in names}
    seen: dict[str, tuple[float, ...]] = dict.fromkeys(names, (1.0,) * 4)

    def look(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        given, made = next(tensors_in(inputs), None), next(tensors_in(output), None)
        if given is None or made is None or not made.ndim:
            return
        space = list(given.shape[2:]) if run.weights[name].ndim > 2 else []
        height, width, *_ = (*space, 1, 1)
        stride = module.stride if isinstance(module, _ConvNd) else (1,)
        seen[name] = (height, width, stride[0], made.numel() / (len(made) * len(run.weights[name])))

    modules = [(module, owners.get(id(own))) for module in run.model.modules() for own in module._parameters.values()]
    handles = [module.register_forward_hook(partial(look, name)) for module, name in modules if name is not None]
    try:
        evaluate(run.model, [example], run.objective)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _learn(agent: Agent, path: Sequence[tuple[torch.Tensor, float]], reward: float, resting: bool) -> None:
    """Remember an episode, and learn from all that is remembered, once for each of its steps."""
    after = [*(state for state, _ in path[1:]), None]
    for (state, action), following in zip(path, after, strict=True):
        agent.remember(Step(state, action, reward, following))
        if not resting:
            agent.learn()
