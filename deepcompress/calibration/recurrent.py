"""torch's recurrent layers step by step, as their fused kernels do it, so that each product can be watched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Product = Callable[..., torch.Tensor]
State = tuple[torch.Tensor, ...]


def is_known(module: nn.RNNBase) -> bool:
    """Whether `run` can take the place of the forward of `module`."""
    return module.mode in _CELLS and not module.proj_size


def run(module: nn.RNNBase, x: Any, hx: Any, product: Product) -> tuple[torch.Tensor, Any]:
    """The outputs and last states of `module`; dropout, as in evaluation, is none.

    Args:
        module: an LSTM, GRU or RNN.
        x: (time, samples, features), or as ``batch_first`` says, or without samples.
        hx: first states, or None.
        product: as `torch.nn.functional.linear`, and told the whole parameter last.
    """
    if not isinstance(x, torch.Tensor):  # a packed sequence: not watched
        return type(module).forward(module, x, hx)  # type: ignore[no-any-return]
    single = x.ndim == 2
    x = x[:, None] if single else x.transpose(0, 1) if module.batch_first else x
    sides = 2 if module.bidirectional else 1
    first = _first_states(module, x, hx, sides * module.num_layers, single)
    last: list[State] = []
    for layer in range(module.num_layers):
        found = [_direction(module, x, layer, side, first[layer * sides + side], product) for side in range(sides)]
        x = torch.cat([out for out, _ in found], -1)
        last += [state for _, state in found]
    states = [torch.stack(parts) for parts in zip(*last, strict=True)]
    if single:
        x, states = x[:, 0], [state[:, 0] for state in states]
    elif module.batch_first:
        x = x.transpose(0, 1)
    return x, tuple(states) if module.mode == "LSTM" else states[0]


def _first_states(module: nn.RNNBase, x: torch.Tensor, hx: Any, count: int, single: bool) -> list[State]:
    kinds = 2 if module.mode == "LSTM" else 1
    if hx is None:
        zeros = x.new_zeros(x.shape[1], module.hidden_size)
        return [(zeros,) * kinds] * count
    given = hx if kinds == 2 else (hx,)
    return [tuple(part[place][None] if single else part[place] for part in given) for place in range(count)]


def _direction(
    module: nn.RNNBase, x: torch.Tensor, layer: int, side: int, state: State, product: Product
) -> tuple[torch.Tensor, State]:
    suffix = f"_l{layer}{'_reverse' if side else ''}"
    inner, outer = getattr(module, f"weight_ih{suffix}"), getattr(module, f"weight_hh{suffix}")
    biases = [getattr(module, f"bias_{kind}{suffix}") if module.bias else None for kind in ("ih", "hh")]
    given = product(x, inner, biases[0], inner)
    outs = []
    for time in range(len(x) - 1, -1, -1) if side else range(len(x)):
        back = product(state[0], outer, biases[1], outer)
        state = _CELLS[module.mode](given[time], back, state)
        outs.append(state[0])
    return torch.stack(outs[::-1] if side else outs), state


def _lstm(given: torch.Tensor, back: torch.Tensor, state: State) -> State:
    i, f, g, o = (given + back).chunk(4, -1)
    cell = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell


def _gru(given: torch.Tensor, back: torch.Tensor, state: State) -> State:
    r, z, n = given.chunk(3, -1)
    hr, hz, hn = back.chunk(3, -1)
    update = (z + hz).sigmoid()
    new = (n + (r + hr).sigmoid() * hn).tanh()
    return ((1 - update) * new + update * state[0],)


_CELLS: dict[str, Callable[[torch.Tensor, torch.Tensor, State], State]] = {
    "LSTM": _lstm,
    "GRU": _gru,
    "RNN_TANH": lambda given, back, state: ((given + back).tanh(),),
    "RNN_RELU": lambda given, back, state: ((given + back).relu(),),
}
