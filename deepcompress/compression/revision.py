"""A file as it is revised: what changes, how large the update is, and what the network is then good for."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from deepcompress.compression.from_file import still_shared
from deepcompress.compression.stages import Job
from deepcompress.compression.writing import read_back
from deepcompress.networks.copies import copied
from deepcompress.prune.masks import Masks
from deepcompress.quantize.sharing import Codebook, finish, share
from deepcompress.quantize.sticky import StickyHooks
from deepcompress.training.evaluation import Evaluation, evaluate
from deepcompress.training.retraining import retrain
from deepcompress.training.rollback import taken
from deepcompress.training.snapshot import put_back_learned, tensors_of
from deepcompress.updates.differences import ordered, unordered
from deepcompress.updates.update import diff

BITS_OF_A_BYTE = 6.0  # as `StickyHooks` estimates them
NARROW = 0.97  # of the bits of changes are left by each step towards a size
SHIFT = 16  # bits of float32 that tensors beside the weights have in common with those of the file
SMALL_PART = 0.3  # of the update: where those tensors would take more, a byte an element, they stay as they are


def near(value: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    """float32 values, each moved by less than 1/256 of itself: only the upper bits of changes are left.

    Values of another dtype are as they are.
    """
    if value.dtype is not torch.float32:
        return value
    parts = [tensor.detach().cpu().contiguous().numpy().reshape(-1).view("<u4") for tensor in (value, old)]
    new, before = (ordered(part, 32) for part in parts)
    moved = before + (new - before + (1 << SHIFT - 1) >> SHIFT << SHIFT)
    found = torch.from_numpy(unordered(moved, parts[0].dtype).view("<f4").copy()).reshape(value.shape).to(value.device)
    return torch.where(torch.isfinite(found) & torch.isfinite(old), found, value)


@contextmanager
def frozen(tensors: Iterable[torch.Tensor]) -> Iterator[None]:
    """Parameters among these that do not learn, for a while."""
    learning = [tensor for tensor in tensors if tensor.is_leaf and tensor.requires_grad]
    for tensor in learning:
        tensor.requires_grad_(False)
    try:
        yield
    finally:
        for tensor in learning:
            tensor.requires_grad_(True)


@dataclass(frozen=True)
class Level:
    """How far a revision went.

    Attributes:
        bytes: of the update.
        changed: weights that have another value than in the base.
        found: what validation data said of the network, reloaded from the file; None where there is none.
        state: the network, and its weights behind the shared values, to go back to; None if that was given up.
    """

    bytes: int
    changed: int
    found: Evaluation | None
    state: Any

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        found = self.found
        loss, value = (None, None) if found is None else (found.loss, found.value)
        return {"bytes": self.bytes, "changed": self.changed, "val_loss": loss, "val_value": value}


class Revision:
    """The network of a file, whose weights take other shared values where that pays.

    Attributes:
        codebooks: with the weights that have their values now.
        is_fixed: whether tensors beside the weights stay as they are in the file.
    """

    def __init__(
        self,
        job: Job,
        base: Path,
        packed: Callable[[Sequence[Codebook]], bytes],
        given: Mapping[str, torch.Tensor],
        small: Mapping[str, torch.Tensor],
    ) -> None:
        """Start with the weights of the file, or, where nothing trains, with those of the network that was given.

        Args:
            job: what to work on; its weights are those of the file, and `job.former` are its codebooks.
            base: the file.
            packed: gives the new file as it would be if this were the end.
            given: the weights of the network that was given.
            small: tensors of the network beside its weights, as the file has them.
        """
        self.run, self.base, self.is_fixed = job.run, base, False
        self._packed, self._small = packed, dict(small)
        self._before = {name: value.detach().clone() for name, value in small.items()}
        weights, masks = job.run.weights, Masks.nonzero(job.run.weights)
        kept, left = still_shared(job.former, weights, job.layers, job.run.recipe)
        self._others = share(weights, left, job.run.recipe) if left else []
        self.epochs = job.run.recipe.finetune_epochs if job.run.batches is not None else 0
        if not self.epochs:
            with torch.no_grad():
                for name, weight in weights.items():
                    weight.copy_(given[name])
            masks.apply(weights)  # what they were worth when they were pruned, nobody knows
        self.hooks = StickyHooks(kept, weights, masks)
        self.finish()

    @property
    def codebooks(self) -> list[Codebook]:
        """All codebooks, with the weights that have their values."""
        return [*self.hooks.codebooks, *self._others]

    def train(self, epochs: int) -> None:
        """Train the network on, with its weights behind their shared values, if there is data."""
        if epochs:
            model, recipe = self.run.model, self.run.recipe
            optimizer = torch.optim.SGD(
                model.parameters(), lr=recipe.finetune_lr, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay
            )
            with frozen(self._small.values() if self.is_fixed else ()):
                retrain(self.run, optimizer, epochs, "quantize", self.hooks)
        self.finish()

    def finish(self) -> None:
        """Round what is no weight of the file as the update has it, and write the shared values."""
        weights = self.run.weights
        for book in self.hooks.codebooks:  # as the file has them, whatever the recipe's codebook_dtype
            book.write(weights)
        finish(self._others, weights, self.run.recipe)
        with torch.no_grad():
            for name, value in self._small.items():
                value.copy_(self._before[name] if self.is_fixed else near(value, self._before[name]))

    def aim_at(self, size: int) -> None:
        """Before anything has changed: let about as many changes come as fit into an update of this size."""
        self._fix_beside(size)
        small = 0 if self.is_fixed else self._small_elements
        self.hooks.allow(BITS_OF_A_BYTE * max(size - self.bytes() - small, 0))

    def cut_to(self, size: float) -> int:
        """Take changes back, those that gain least, until the update has no more bytes than this; returns how many.

        They are more only where not a single weight changes.
        """
        self._fix_beside(size)
        self.finish()
        room = self.hooks.bits
        while (found := self.bytes()) > size:
            if changed := self.hooks.changed:
                room = max(room * size / found, room - BITS_OF_A_BYTE * (found - size))
                while self.hooks.changed >= changed:
                    room *= NARROW
                    self.hooks.allow(room)
            elif not self.is_fixed:
                self.is_fixed = True  # the last that can be given up
            else:
                break
            self.finish()
        return found

    @property
    def is_same(self) -> bool:
        """Whether nothing has changed."""
        pairs = ((value, self._before[name]) for name, value in self._small.items())
        return not self.hooks.changed and all(torch.equal(now, then) for now, then in pairs)

    def bytes(self) -> int:
        """Bytes of the update to the file as it would be now."""
        with self._written() as new:
            return self.bytes_to(new)

    def bytes_to(self, new: Path) -> int:
        """Bytes of the update to a file."""
        with tempfile.TemporaryDirectory() as folder:
            return diff(self.base, new, Path(folder, "update.dcp")).file_bytes

    def level(self) -> Level:
        """How far this has come, measured on validation data if there is any."""
        with self._written() as new:
            size, found = self.bytes_to(new), None
            if self.run.val_batches is not None:
                network = copied(self.run.model)
                read_back(network, new, tensors_of(network))
                found = evaluate(network, self.run.val_batches, self.run.objective)
        return Level(size, self.hooks.changed, found, (taken(self.run, self.hooks), self.is_fixed))

    def go_back(self, level: Level) -> None:
        """Be again as at a former level."""
        state, self.is_fixed = level.state
        put_back_learned(self.run.model, self.hooks, state)

    @property
    def _small_elements(self) -> int:
        return sum(value.numel() for value in self._small.values())

    def _fix_beside(self, size: float) -> None:
        """Leave tensors beside the weights as they are in the file, if they would take much of the update."""
        self.is_fixed |= self._small_elements > size * SMALL_PART

    @contextmanager
    def _written(self) -> Iterator[Path]:
        """The file as it would be now."""
        with tempfile.TemporaryDirectory() as folder:
            new = Path(folder, "new.dc")
            new.write_bytes(self._packed(self.codebooks))
            yield new
