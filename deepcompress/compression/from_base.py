"""A file that is a small update of another: masks and shared values stay, and so do assignments that still serve."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from deepcompress.coding.layouts.ranked import Multiples
from deepcompress.compression.from_file import still_shared
from deepcompress.compression.stages import Job
from deepcompress.container.reader import ModelFile
from deepcompress.errors import RecipeError
from deepcompress.prune.masks import Masks
from deepcompress.quantize.latent import train_shared
from deepcompress.quantize.sharing import Codebook, finish, share
from deepcompress.quantize.sticky import StickyHooks
from deepcompress.recipe import Recipe
from deepcompress.recipe.conflicts import check_stages
from deepcompress.updates.differences import ordered, unordered
from deepcompress.updates.update import diff

BITS = 8.0  # that a change takes, about
A_BYTE = 1.5  # changes that a byte tells, about
NARROW = 0.97  # of the changes, at most, are left by each trial
TRIALS = 20
SHIFT = 16  # bits of float32 that tensors beside the weights have in common with those of the file
SMALL_PART = 0.3  # of the update: where those tensors would take more, a byte an element, they stay as they are


def check_base(recipe: Recipe, base: str | Path | None, update_size: int | None, others: bool) -> None:
    """Refuse what does not go together with a base, and a size of the update without one.

    Raises:
        RecipeError: saying which.
    """
    if base is None and update_size is not None:
        raise RecipeError("update_size is the size of an update to a file: name that file with base")
    if base is None:
        return
    decides = "base says what is pruned and which values are shared"
    check_stages(recipe, decides)
    if others or recipe.low_rank is not None or recipe.target_size is not None or recipe.max_drop is not None:
        raise RecipeError(f"{decides}: leave out masks, start, low_rank, target_size and max_drop")
    if update_size is not None and update_size < 1:
        raise RecipeError(f"update_size is {update_size}; it must be at least 1 byte")
    _check_shared(base)


def _check_shared(base: str | Path) -> None:
    """Refuse a file whose weights are rounded row by row: it has no shared values to keep (`RecipeError`)."""
    with ModelFile(base) as file:
        for entry in file.header.entries:
            if isinstance(entry.info.layout, Multiples):
                raise RecipeError(
                    f"base {base}: {entry.name} is rounded row by row (compress --no-retrain, --calibrate), and has no "
                    "shared values to keep: leave base out, and make the difference of the two files (diff)"
                )


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


class FromBase:
    """The way of ``--base``: a `compression.stages.Route` that starts from the tensors of a file.

    With data, the network of the file is trained on with its weights behind their shared values; without, weights move
    towards those of the network that was given.
    """

    def __init__(
        self,
        job: Job,
        base: str | Path,
        packed: Callable[[Sequence[Codebook]], bytes],
        given: Mapping[str, torch.Tensor],
        small: Mapping[str, torch.Tensor],
        most: int | None,
    ) -> None:
        """Start.

        Args:
            job: what to work on; its weights are those of the file, and `job.former` are its codebooks.
            base: the file.
            packed: gives the new file as it would be now.
            given: the weights of the network that was given.
            small: tensors of the network beside its weights, as the file has them.
            most: bytes that the update may have; None leaves it to what pays.
        """
        self.job, self.base, self.most = job, Path(base), most
        self.masks = Masks.nonzero(job.run.weights)
        self.codebooks: list[Codebook] = []
        self.held: list[str] = []
        self._packed, self._given = packed, given
        self._hooks: StickyHooks | None = None
        self._others: list[Codebook] = []
        self._small = dict(small)
        self._before = {name: value.detach().clone() for name, value in self._small.items()}
        size = sum(value.numel() for value in self._small.values())
        self._is_fixed = most is not None and size > most * SMALL_PART

    def prune(self) -> None:
        """Stage 1: what is pruned in the file stays so."""
        self.masks.apply(self.job.run.weights)

    def share(self) -> None:
        """Stage 2: weights behind the shared values of the file."""
        run = self.job.run
        kept, left = still_shared(self.job.former, run.weights, self.job.layers, run.recipe)
        self._others = share(run.weights, left, run.recipe) if left else []
        if run.batches is None:
            with torch.no_grad():
                for name, weight in run.weights.items():
                    weight.copy_(self._given[name])
            self.masks.apply(run.weights)
        weights = sum(len(member.positions) for book in kept for member in book.members)
        most = None if self.most is None else min(int(8 * self.most / BITS), weights)
        self._hooks = StickyHooks(kept, run.weights, self.masks, most)
        if run.batches is not None:
            with frozen(self._small.values() if self._is_fixed else ()):
                train_shared(run, self._hooks)
        self._finish()

    def settle(self, size: Callable[[], int]) -> None:
        """Take changes back, those that gain least, until the update has no more bytes than asked.

        Raises:
            RecipeError: it has more even without one.
        """
        if self.most is None:
            return
        assert self._hooks is not None
        allowed = self._hooks.changed
        for _ in range(TRIALS):
            if (found := self._update_bytes()) <= self.most:
                return
            if not allowed:
                if self._is_fixed:
                    break
                self._is_fixed = True  # the last that can be given up
                self._finish()
                continue
            allowed = max(min(int(allowed * NARROW), allowed - int(A_BYTE * (found - self.most))), 0)
            self._hooks.allow(allowed)
            self._finish()
        raise RecipeError(
            f"update_size is {self.most} bytes, but the update has {found} without a weight that changes: ask for more"
        )

    def _finish(self) -> None:
        assert self._hooks is not None
        self.codebooks = [*self._hooks.codebooks, *self._others]
        for book in self._hooks.codebooks:  # as the file has them, whatever the recipe's codebook_dtype
            book.write(self.job.run.weights)
        finish(self._others, self.job.run.weights, self.job.run.recipe)
        with torch.no_grad():
            for name, value in self._small.items():
                value.copy_(self._before[name] if self._is_fixed else near(value, self._before[name]))

    def _update_bytes(self) -> int:
        """Bytes of the update to the file as it would be now."""
        with tempfile.TemporaryDirectory() as folder:
            new = Path(folder, "new.dc")
            new.write_bytes(self._packed(self.codebooks))
            return diff(self.base, new, Path(folder, "update.dcp")).file_bytes
