"""Small networks, each odd in one way that users' networks are, all for inputs of (batch, 8) and CLASSES classes."""

from __future__ import annotations

import threading
import warnings

import torch
from samples import CLASSES
from torch import nn
from torch.nn.utils import parametrizations

WIDTH = 8


class Base(nn.Module):
    """Two linear layers; others below change one thing."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(WIDTH, 16), nn.Linear(16, CLASSES)

    def forward(self, x):
        return self.last(torch.relu(self.first(x)))


class Remembers(Base):
    """Keeps activations in an attribute, a list, a dictionary and a buffer that it replaces."""

    def __init__(self):
        super().__init__()
        self.seen, self.by_name, self.latest = [], {}, None
        self.register_buffer("hidden", torch.zeros(1, 16))

    def forward(self, x):
        self.latest = torch.relu(self.first(x))
        self.seen.append(self.latest)
        self.by_name["first"] = (self.latest, x)
        if isinstance(self.latest, torch.Tensor):
            self.hidden = self.latest.detach()[:1].clone()
        return self.last(self.latest)


class Batched(Base):
    """Its state has as many rows as the last batch."""

    def __init__(self):
        super().__init__()
        self.register_buffer("hidden", torch.zeros(2, 16))

    def forward(self, x):
        hidden = torch.relu(self.first(x))
        if isinstance(hidden, torch.Tensor):
            self.hidden = hidden.detach().clone()
        return self.last(hidden)


class Hooked(Base):
    """A hook keeps what a layer gives."""

    def __init__(self):
        super().__init__()
        self.kept = {}
        self.first.register_forward_hook(lambda module, inputs, output: self.kept.update(first=output))


class Registers(Base):
    """Registers what it computed as a buffer of its own."""

    def forward(self, x):
        hidden = torch.relu(self.first(x))
        self.register_buffer("cache", hidden.detach() if isinstance(hidden, torch.Tensor) else hidden, persistent=False)
        return self.last(hidden)


class Locked(Base):
    """Holds what cannot be copied."""

    def __init__(self):
        super().__init__()
        self.lock, self.stream = threading.Lock(), (number for number in range(3))
        self.layers = [self.first, self.last]

    def forward(self, x):
        with self.lock:
            return self.layers[1](torch.relu(self.layers[0](x)))


class Branches(Base):
    """What it does depends on values: it cannot be traced."""

    def forward(self, x):
        hidden = self.first(x)
        return self.last(torch.relu(hidden) if hidden.sum() > 0 else hidden)


class Shared(Base):
    """One module under two names."""

    def __init__(self):
        super().__init__()
        self.middle = nn.Linear(16, 16)
        self.again = self.middle

    def forward(self, x):
        return self.last(torch.relu(self.again(torch.relu(self.middle(torch.relu(self.first(x)))))))


class Tied(Base):
    """Two layers with one weight."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(16, 16), nn.Linear(16, 16)
        self.two.weight = self.one.weight

    def forward(self, x):
        return self.last(self.two(torch.relu(self.one(torch.relu(self.first(x))))))


class Collected(nn.Module):
    """A ParameterList and a ParameterDict."""

    def __init__(self):
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(0.3 * torch.randn(16, WIDTH))])
        self.more = nn.ParameterDict({"last": nn.Parameter(0.3 * torch.randn(CLASSES, 16))})

    def forward(self, x):
        return torch.relu(x @ self.weights[0].t()) @ self.more["last"].t()


class Renamed(Base):
    """Its state_dict has other names than its parameters, and it reads both."""

    def __init__(self):
        super().__init__()
        self._register_state_dict_hook(self._rename)
        self._register_load_state_dict_pre_hook(self._restore)

    @staticmethod
    def _rename(module, state, prefix, metadata):
        for name in [name for name in state if name.startswith(f"{prefix}first.")]:
            state[name.replace("first", "stem")] = state.pop(name)
        return state

    @staticmethod
    def _restore(state, prefix, *others):
        for name in [name for name in state if name.startswith(f"{prefix}stem.")]:
            state[name.replace("stem", "first")] = state.pop(name)


class Clips(Base):
    """Its forward changes a weight."""

    def forward(self, x):
        if isinstance(x, torch.Tensor):
            self.first.weight.data.clamp_(-0.2, 0.2)
        return super().forward(x)


class Renormalizes(nn.Module):
    """An embedding that shortens its rows whenever they are read, looked up by numbers made of the input."""

    def __init__(self, **settings):
        super().__init__()
        self.table, self.last = nn.Embedding(12, 16, **settings), nn.Linear(16, CLASSES)

    def forward(self, x):
        return self.last(self.table((x.abs() * 4).long().clamp(max=11)).mean(dim=1))


class Extra(Base):
    """Keeps plain data beside its tensors."""

    def __init__(self, extra=None):
        super().__init__()
        self.extra = extra

    def get_extra_state(self):
        return self.extra

    def set_extra_state(self, state):
        self.extra = state


class KeywordOnly(Base):
    """Takes its second input by name only, and has one."""

    def forward(self, x, *, scale=1.0):
        return super().forward(x) * scale


class Frozen(Base):
    """No parameter asks for gradients."""

    def __init__(self):
        super().__init__()
        self.requires_grad_(False)


class HalfFrozen(Base):
    """Its first layer does not learn."""

    def __init__(self):
        super().__init__()
        self.first.requires_grad_(False)


class FrozenNorm(Base):
    """Batch norm that stays in evaluation mode, whatever the network is told."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(16)

    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x):
        return self.last(torch.relu(self.norm(self.first(x))))


class Slotted(Base):
    """Slots, a property that fails, and a buffer that no file has."""

    __slots__ = ("note",)

    def __init__(self):
        super().__init__()
        self.note = "a note"
        self.register_buffer("scale", torch.tensor(1.0), persistent=False)

    @property
    def unset(self):
        raise RuntimeError("nobody asks for this")

    def forward(self, x):
        return super().forward(x) * self.scale


class Transposed(Base):
    """Weights whose memory is not contiguous."""

    def __init__(self):
        super().__init__()
        self.first.weight = nn.Parameter(0.3 * torch.randn(WIDTH, 16).t())


class Inferred(Base):
    """Made for inference."""

    def __new__(cls):
        return super().__new__(cls)

    def __init__(self):
        with torch.inference_mode():
            super().__init__()


class Compiled(Base):
    """A compiled part inside."""

    def __init__(self):
        super().__init__()
        self.first = torch.compile(self.first, backend="eager")


class Expanded(Base):
    """A buffer that is a view of one number, and one of whole numbers."""

    def __init__(self):
        super().__init__()
        self.register_buffer("ones", torch.ones(1).expand(16))
        self.register_buffer("order", torch.arange(16).flip(0))

    def forward(self, x):
        return self.last(torch.relu(self.first(x))[:, self.order] * self.ones)


class Counts(Base):
    """Counts its calls, by an integer parameter and by a number."""

    def __init__(self):
        super().__init__()
        self.calls = 0
        self.count = nn.Parameter(torch.zeros((), dtype=torch.int64), requires_grad=False)

    def forward(self, x):
        self.calls += 1
        if isinstance(x, torch.Tensor):
            self.count += 1
        return super().forward(x)


def weight_normed():
    """The older weight norm, after a forward: its weight hangs on a graph."""
    network = Base()
    with warnings.catch_warnings(action="ignore"):
        torch.nn.utils.weight_norm(network.first)
    parametrizations.spectral_norm(network.last)
    return network


ZOO = {
    "remembers": Remembers,
    "batched": Batched,
    "hooked": Hooked,
    "registers": Registers,
    "locked": Locked,
    "branches": Branches,
    "shared": Shared,
    "tied": Tied,
    "collected": Collected,
    "renamed": Renamed,
    "clips": Clips,
    "max_norm": lambda: Renormalizes(max_norm=0.5),
    "sparse gradients": lambda: Renormalizes(sparse=True),
    "extra state": lambda: Extra({"steps": 3, "names": ["a", "b"], "size": (2, 3), "none": None}),
    "keyword only": KeywordOnly,
    "frozen": Frozen,
    "half frozen": HalfFrozen,
    "frozen norm": FrozenNorm,
    "slotted": Slotted,
    "transposed": Transposed,
    "inferred": Inferred,
    "compiled": Compiled,
    "expanded": Expanded,
    "counts": Counts,
    "computed": weight_normed,
}
