"""An agent that answers states with actions from 0 to 1, and learns from rewards (DDPG, Lillicrap et al. 2016).

An actor maps a state to an action, a critic predicts what is still to be won by an action in a state, and slow copies
of both give the targets. Sizes, rates and noise are those of AMC (He et al. 2018, section 4, and the authors' code).
The networks are so small that they stay on the CPU.
"""

from __future__ import annotations

import copy
from collections import deque
from dataclasses import dataclass

import torch
from torch import nn

HIDDEN = 300  # units of each of two layers
BATCH, REPLAY = 64, 2000  # steps that are learned from at a time, and that are remembered
ACTOR_RATE, CRITIC_RATE = 1e-4, 1e-3  # of Adam
TAU = 0.01  # how far the slow copies move at a time
BASELINE = 0.5  # how far the baseline of rewards moves at a time


@dataclass(frozen=True)
class Step:
    """A state (float32 vector), the action that was taken in it, the reward, and the next state; None after the last.

    All steps of an episode have the same reward, that of its end.
    """

    state: torch.Tensor
    action: float
    reward: float
    after: torch.Tensor | None


class Agent:
    """Draws from torch's own generator: seed that."""

    def __init__(self, features: int) -> None:
        """`features`: elements of a state."""
        self.actor = nn.Sequential(*_hidden(features), nn.Linear(HIDDEN, 1), nn.Sigmoid())
        self.critic = nn.Sequential(*_hidden(features + 1), nn.Linear(HIDDEN, 1))
        self.slow_actor, self.slow_critic = copy.deepcopy(self.actor), copy.deepcopy(self.critic)
        self._actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr=ACTOR_RATE)
        self._critic_optimizer = torch.optim.Adam(self.critic.parameters(), lr=CRITIC_RATE)
        self._memory: deque[Step] = deque(maxlen=REPLAY)
        self._baseline: float | None = None

    @torch.no_grad()
    def act(self, state: torch.Tensor, sigma: float) -> float:
        """An action from 0 to 1, from the normal distribution around the actor's, truncated to that range."""
        return float(nn.init.trunc_normal_(torch.empty(1), float(self.actor(state)), sigma, 0.0, 1.0))

    def remember(self, step: Step) -> None:
        """Keep a step to learn from."""
        self._memory.append(step)

    def learn(self) -> None:
        """One step of both optimizers on steps drawn from memory (He et al. 2018, equations 2 and 3; no discount)."""
        drawn = [self._memory[place] for place in torch.randint(len(self._memory), (BATCH,)).tolist()]
        states = torch.stack([step.state for step in drawn])
        actions = torch.tensor([[step.action] for step in drawn])
        with torch.no_grad():
            targets = self._rewards(drawn) + self._promised(drawn)
        _minimize(self._critic_optimizer, (self._judged(self.critic, states, actions) - targets).square().mean())
        _minimize(self._actor_optimizer, -self._judged(self.critic, states, self.actor(states)).mean())
        _follow(self.slow_actor, self.actor)
        _follow(self.slow_critic, self.critic)

    def _rewards(self, drawn: list[Step]) -> torch.Tensor:
        """Rewards (batch, 1) less their baseline, a moving average."""
        rewards = torch.tensor([[step.reward] for step in drawn])
        mean = float(rewards.mean())
        self._baseline = mean if self._baseline is None else self._baseline + BASELINE * (mean - self._baseline)
        return rewards - self._baseline

    def _promised(self, drawn: list[Step]) -> torch.Tensor:
        """What the slow copies expect of the next states (batch, 1); nothing after the last."""
        after = torch.stack([step.state if step.after is None else step.after for step in drawn])
        goes_on = torch.tensor([[float(step.after is not None)] for step in drawn])
        return goes_on * self._judged(self.slow_critic, after, self.slow_actor(after))

    @staticmethod
    def _judged(critic: nn.Module, states: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        value: torch.Tensor = critic(torch.cat((states, actions), dim=1))
        return value


def _hidden(inputs: int) -> list[nn.Module]:
    return [nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU()]


def _minimize(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


@torch.no_grad()
def _follow(slow: nn.Module, fast: nn.Module) -> None:
    for one, other in zip(slow.parameters(), fast.parameters(), strict=True):
        one.lerp_(other, TAU)
