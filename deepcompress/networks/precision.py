"""Networks compute in float32 here, and their files keep the types that their tensors came in.

float32 holds float16, bfloat16 and float8 exactly. Of float64 the tensors themselves are remembered, so that what
does not move keeps its digits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from deepcompress.layers import tensors_of, tied_to

_PLACE = "deepcompress_stored"  # an attribute, which goes along when the network is copied or sent to a process


@dataclass(frozen=True)
class Stored:
    """The types of a network's tensors in its file, where they are not those that it computes in.

    `doubles` are the float64 tensors as they came.
    """

    dtypes: dict[str, torch.dtype] = field(default_factory=dict)
    doubles: dict[str, torch.Tensor] = field(default_factory=dict)

    def cast(self, name: str, value: torch.Tensor, shared: bool = False) -> torch.Tensor:
        """A tensor in its type in the file; if that cannot hold all of its numbers, as it is.

        Elements of a float64 tensor that have not moved get their digits back, unless they are `shared` values.
        """
        if name not in self.dtypes:
            return value
        found = value.detach().to(self.dtypes[name])
        if name in self.doubles and self.doubles[name].shape == value.shape and not shared:
            before = self.doubles[name].to(value.device)
            return torch.where(value == before.to(value.dtype), before, found)
        lost = torch.isfinite(value) & ~torch.isfinite(found.float())
        return value if bool(lost.any()) else found


def remember(network: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Note the types that the tensors of `network` have in `state`, its checkpoint."""
    computed = network.state_dict()
    other = {
        name: value
        for name, value in state.items()
        if name in computed and value.is_floating_point() and value.dtype is not computed[name].dtype
    }
    doubles = {name: value for name, value in other.items() if value.dtype is torch.float64}
    setattr(network, _PLACE, Stored({name: value.dtype for name, value in other.items()}, doubles))


def given_bytes(network: nn.Module) -> int:
    """Bytes of the network's tensors in the types that they came in; tied ones count once."""
    types, state = stored_of(network).dtypes, tensors_of(network)
    tied = tied_to(state)
    return sum(
        value.numel() * types.get(name, value.dtype).itemsize for name, value in state.items() if name not in tied
    )


def stored_of(network: nn.Module) -> Stored:
    """What `remember` noted."""
    found = getattr(network, _PLACE, None)
    return found if isinstance(found, Stored) else Stored()
