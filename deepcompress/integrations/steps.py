"""A `Compressor` that follows a trainer: pruning, tuning and the file, by the trainer's count of optimizer steps."""

from __future__ import annotations

import tempfile
from pathlib import Path

from torch import nn

from deepcompress.compression.own_loop import Compressor
from deepcompress.compression.result import Result
from deepcompress.errors import DeepCompressError, RecipeError
from deepcompress.files import check_writable
from deepcompress.networks.inputs import Batches
from deepcompress.recipe import Recipe
from deepcompress.training.progress import Progress
from deepcompress.training.tasks import Loss


class CompressionSteps:
    """What the callbacks for all trainers share. They translate their trainer's hooks into its methods.

    The trainer says how long training is. The first part prunes, and the last part tunes shared values: the parts are
    to each other as the recipe's ``epochs`` and ``finetune_epochs``.

    Attributes:
        compressor: None before training begins; then it has the masks, and says the ``sparsity``.
        result: None until the file is written.
    """

    def __init__(
        self,
        path: str | Path = "model.dc",
        recipe: Recipe | None = None,
        *,
        submodule: str = "",
        network: str = "",
        data: str = "",
        batches: Batches | None = None,
        loss: Loss | None = None,
        watch: Progress | None = None,
    ) -> None:
        """Say what to write at the end of training.

        Args:
            path: the file.
            recipe: what to prune and to share.
            submodule: fully qualified name of the module that is compressed; the whole network where it is empty.
            network, data: names to store in the file.
            batches, loss: training data (input, target) for criteria and weightings that look at it, and its loss.
            watch: told what happens.
        """
        self.path, self.recipe, self.submodule = Path(path), recipe or Recipe(), submodule
        self.network, self.data, self.watch = network, data, watch
        self.batches, self.loss = batches, loss
        self.compressor: Compressor | None = None
        self.result: Result | None = None
        self._done = self._total = self._tuning_from = 0

    def begin(self, model: nn.Module, total: float, done: int = 0) -> None:
        """Training begins, or is resumed at optimizer step `done` of `total`.

        Raises:
            DeepCompressError: the trainer does not know how long training is, or `model` has no such submodule.
            OutputError: the file could not be written at the end.
            RecipeError: the recipe needs batches, or a loop of deepcompress's own.
        """
        check_writable(self.path)
        if not 0 < total < float("inf"):
            raise DeepCompressError(
                "pruning follows a schedule, and the trainer does not say how many steps there are: set its max_steps"
            )
        if self.recipe.weighting != "none" and self.batches is None:
            raise RecipeError(f"weighting {self.recipe.weighting!r} needs training data: give the callback batches")
        self._done, self._total = done, int(total)
        recipe, span = self.recipe, self.recipe.epochs + self.recipe.finetune_epochs
        self._tuning_from = round(self._total * recipe.epochs / span) if span else self._total
        part = _submodule(model, self.submodule)
        compressor = Compressor(part, recipe, network=self.network, data=self.data, watch=self.watch)
        self.compressor = compressor.prepare(steps=self._tuning_from, done=done, batches=self.batches, loss=self.loss)
        self._share_if_due()

    def before_step(self) -> None:
        """Gradients are there. Those of shared values are read after the step: a scaler has unscaled them by then."""
        if not self._begun.shared:
            self._begun.after_backward()

    def after_step(self) -> None:
        """The optimizer has stepped, and its gradients are still there."""
        self._begun.step()
        self._done += 1
        self._share_if_due()

    def end(self, writes: bool = True) -> None:
        """Training has ended: store the network, which then holds the very tensors of the file.

        Of several processes one `writes`; the others bring their network to the same end.
        """
        if writes:
            self.result = self._begun.finalize(self.path)
            return
        with tempfile.TemporaryDirectory() as folder:
            self.result = self._begun.finalize(Path(folder) / self.path.name)

    def _share_if_due(self) -> None:
        if self._done >= self._tuning_from and not self._begun.shared:
            self._begun.share(steps=self._total - self._tuning_from, batches=self.batches, loss=self.loss)

    @property
    def _begun(self) -> Compressor:
        if self.compressor is None:
            raise DeepCompressError("training has not started: the callback makes its compressor at the start")
        return self.compressor


def _submodule(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        raise DeepCompressError(f"submodule {name!r} is not in {type(model).__name__}: {error}") from None
