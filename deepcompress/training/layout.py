"""How the weights of convolutions lie in memory while a network is trained: channels last, where that is faster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from deepcompress.errors import DeepCompressError
from deepcompress.networks.copies import copied
from deepcompress.training.snapshot import chance_kept

#: Channels up to which float32 convolutions are faster with channels last on a CPU, by up to 1.6 times with pooling.
#: Wider ones are up to 15 % slower.
NARROW = 128

#: A training step of a network.
Step = Callable[[nn.Module], object]


@contextmanager
def laid_out(model: nn.Module, precision: str, teacher: nn.Module | None = None) -> Iterator[Callable[[Step], None]]:
    """Keeps the weights of 2-D convolutions channels last meanwhile, where that is faster.

    That is in bfloat16, and in float32 on a CPU if no convolution is wide. Afterwards each parameter has its own memory
    again, with the new values.

    Args:
        model: the network, which is trained meanwhile.
        precision: in which it computes (`training.loop.fit`).
        teacher: a network beside it, in the same precision.

    Yields:
        what is to be called with a training step before the first one. It tries the step on a copy of the network, and
        gives up the layout if the step fails. Networks that flatten with ``view`` fail so.
    """
    weights = [weight for network in (model, teacher) if network is not None for weight in _four_dimensional(network)]
    if precision != "bfloat16" and not _are_narrow(weights):
        weights = []
    before = {weight: weight.data for weight in weights}
    for weight in weights:
        weight.data = weight.data.to(memory_format=torch.channels_last)

    def put_back() -> None:
        for weight, own in before.items():
            weight.data = own.copy_(weight.data)
        before.clear()

    def check(step: Step) -> None:
        if weights and not _works(model, step):
            put_back()
        weights.clear()

    try:
        yield check
    finally:
        put_back()


def _four_dimensional(network: nn.Module) -> list[nn.Parameter]:
    return [weight for weight in network.parameters() if weight.ndim == 4]


def _are_narrow(weights: list[nn.Parameter]) -> bool:
    return all(weight.device.type == "cpu" and max(weight.shape[:2]) <= NARROW for weight in weights)


def _works(model: nn.Module, step: Step) -> bool:
    """Whether a step on a copy of `model` works, as it is laid out now. Chance is set back."""
    with chance_kept(next(model.parameters()).device):
        try:
            twin = copied(model)
            twin.train(model.training)
            step(twin)
        except DeepCompressError:
            return False
    return True
