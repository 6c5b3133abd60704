"""Trained quantization that keeps what an earlier file has where it still serves.

Each element of a layer has a latent value that learns (`latent`), zeros too, and takes another of the layer's values
than it had, zero among them, only if that brings it nearer to its latent by more than the bits of the change are worth:
the rate term of entropy-constrained quantization (`rate`), on changes instead of indices. Shared values stay.

A latent that is held at its old value moves by the sum of the gradients there, times the learning rate, so that the
square of the distance is the loss that the change would save, but for a factor that all layers share.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from deepcompress.prune.masks import Masks
from deepcompress.quantize.sharing import Codebook, Member
from deepcompress.training.loop import Hooks

Weights = Mapping[str, torch.Tensor]

EVERY = 20  # steps after which the price of a bit is found anew
USUAL_BITS = 8.0  # that a change takes, about
ROUNDED_UP = 1 + 1e-5  # a price that is rounded to float32 is still one that the next change does not pay
MOVE_BITS = 2.0  # which value a weight becomes: mostly a neighbour of the one that it was


@dataclass(frozen=True)
class Layer:
    """A tensor of the earlier file.

    Attributes:
        name: of the tensor.
        values: that there are, sorted, zero among them (float32, k + 1).
        order: of each value, its index in the codebook; that of zero means nothing.
        zero: the index of zero.
        first: of each element, flat, the index of the value that it has in the file (int64).
        price: what a bit is worth where no room for changes is given.
    """

    name: str
    values: torch.Tensor
    order: torch.Tensor
    zero: int
    first: torch.Tensor
    price: float

    @classmethod
    def of(cls, book: Codebook, member: Member, size: int) -> Layer:
        """A member of a codebook, whose tensor has `size` elements."""
        centroids = book.centroids.detach()
        values, order = torch.cat([centroids, centroids.new_zeros(1)]).sort(stable=True)
        place = order.argsort()
        zero = int(place[-1])
        first = torch.full((size,), zero, device=centroids.device)
        first[member.positions] = place[member.assignment]
        return cls(member.name, values, order, zero, first, hysteresis(book) / USUAL_BITS)

    def wanted(self, latents: torch.Tensor) -> torch.Tensor:
        """The index of the value that is nearest to each latent."""
        midpoints = (self.values[1:] + self.values[:-1]) / 2
        return torch.bucketize(latents.to(midpoints.dtype), midpoints)

    def gains(self, latents: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """By how much the squared error of each element falls if it takes the value that is wanted."""
        values = self.values.to(latents.dtype)
        return (latents - values[self.first]).square() - (latents - values[wanted]).square()

    def bits(self, wanted: torch.Tensor, now: torch.Tensor) -> torch.Tensor:
        """About what each change takes in the update, beside those that are made `now`."""
        was_zero, falls, changed = self.first == self.zero, wanted == self.zero, now != self.first
        zeros = int(was_zero.sum())
        back, fell = int((changed & was_zero).sum()), int((changed & (now == self.zero)).sum())
        moved, weights = int(changed.sum()) - back - fell, len(now) - zeros
        comes = one_more(back, zeros) + math.log2(max(len(self.values) - 1, 1))
        moves = torch.full_like(self.values[:1], one_more(moved, weights) + MOVE_BITS)
        found = torch.where(falls, moves.new_full((1,), one_more(fell, weights)), moves)
        return torch.where(was_zero, moves.new_full((1,), comes), found)


class StickyHooks(Hooks):
    """Gives the network the values of an earlier file before each batch, and the optimizer latent ones.

    Attributes:
        layers: what the file has.
        latents, symbols: of each layer, flat: what learns, and the index of the value that the network computes with.
        room: bits that changes may take, about; None leaves that to `Layer.price`.
    """

    changing = ("latents", "symbols", "price", "step")

    def __init__(self, codebooks: Sequence[Codebook], weights: Weights, masks: Masks) -> None:
        """`weights` may be other values already: those are the first latents; codebooks are where they come from.

        Args:
            codebooks: as the earlier file has them.
            weights: of the network.
            masks: which weights there are of the layers that share no values.
        """
        self.books, self.weights = list(codebooks), weights
        self.room: float | None = None
        self.layers = [
            Layer.of(book, member, weights[member.name].numel()) for book in codebooks for member in book.members
        ]
        shared = {layer.name for layer in self.layers}
        self._others = Masks({name: mask for name, mask in masks.keep.items() if name not in shared})
        self.symbols = {layer.name: layer.first for layer in self.layers}
        self.latents: dict[str, torch.Tensor] = {}
        self.price, self.step = 0.0, 0
        self.after_step()

    def after_backward(self) -> None:
        """Bring the latents back for the step; shared values do not learn."""
        self._write(self.latents)

    @torch.no_grad()
    def after_step(self) -> None:
        """Take the latents as the step left them, and let each take the value that pays."""
        self.latents = {layer.name: self.weights[layer.name].detach().reshape(-1).clone() for layer in self.layers}
        self._others.apply(self.weights)
        self._assign()

    @torch.no_grad()
    def allow(self, room: float | None) -> None:
        """Let changes take so many bits, about, those that gain most for them, and write them."""
        self.room, self.step = room, 0
        self._assign()

    @property
    def changed(self) -> int:
        """How many elements have another value than in the file."""
        return sum(int((self.symbols[layer.name] != layer.first).sum()) for layer in self.layers)

    @property
    def wanting(self) -> int:
        """How many elements would have another value than in the file if bits cost nothing."""
        return sum(int((layer.wanted(self.latents[layer.name]) != layer.first).sum()) for layer in self.layers)

    @property
    def bits(self) -> float:
        """About what the changes take."""
        total = 0.0
        for layer in self.layers:
            now = self.symbols[layer.name]
            total += float(layer.bits(now, now)[now != layer.first].sum())
        return total

    @property
    def codebooks(self) -> list[Codebook]:
        """The codebooks with the weights that have their values now."""
        members = {layer.name: self._member(layer) for layer in self.layers}
        return [replace(book, members=tuple(members[part.name] for part in book.members)) for book in self.books]

    @property
    def masks(self) -> Masks:
        """Which weights there are."""
        kept = {
            layer.name: (self.symbols[layer.name] != layer.zero).reshape(self.weights[layer.name].shape)
            for layer in self.layers
        }
        return Masks({**kept, **self._others.keep})

    def _member(self, layer: Layer) -> Member:
        symbols = self.symbols[layer.name]
        positions = torch.nonzero(symbols != layer.zero, as_tuple=True)[0]
        return Member(layer.name, positions, layer.order[symbols[positions]])

    def _assign(self) -> None:
        wanted = {layer.name: layer.wanted(self.latents[layer.name]) for layer in self.layers}
        gains = {layer.name: layer.gains(self.latents[layer.name], wanted[layer.name]) for layer in self.layers}
        bits = {layer.name: layer.bits(wanted[layer.name], self.symbols[layer.name]) for layer in self.layers}
        if self.room is not None and self.step % EVERY == 0:
            self.price = _price(gains, bits, self.room)
        self.step += 1
        for layer in self.layers:
            price = layer.price if self.room is None else max(self.price, layer.price)
            pays = gains[layer.name] > price * bits[layer.name]
            self.symbols[layer.name] = torch.where(pays, wanted[layer.name], layer.first)
        self._write({layer.name: layer.values[self.symbols[layer.name]] for layer in self.layers})

    @torch.no_grad()
    def _write(self, values: Weights) -> None:
        for name, value in values.items():
            self.weights[name].copy_(value.reshape(self.weights[name].shape))


def hysteresis(book: Codebook) -> float:
    """What a change is worth where no room for them is given: a quarter of the mean square between neighbours."""
    values = book.centroids.detach().sort().values
    return float((values[1:] - values[:-1]).square().mean() / 4) if len(values) > 1 else 0.0


def one_more(changes: int, elements: int) -> float:
    """Bits that say of one more element that it changes, beside those that do: the derivative of log2 of "n over k".

    They are never less than one: where most elements change, it would cost as much to say which stay.
    """
    return max(math.log2((elements - changes + 1) / (changes + 1)), 1.0)


def _price(gains: Weights, bits: Weights, room: float) -> float:
    """The price of a bit at which the changes that gain more take no more than `room`."""
    everything = torch.cat(list(gains.values()))
    found = torch.nonzero(everything > 0, as_tuple=True)[0]
    cost = torch.cat(list(bits.values()))[found].double()
    worth, order = (everything[found].double() / cost).sort(descending=True)
    fits = int((cost[order].cumsum(0) <= room).sum())
    return float(worth[fits]) * ROUNDED_UP if fits < len(worth) else 0.0
