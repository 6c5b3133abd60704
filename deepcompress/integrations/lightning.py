"""For Lightning: a callback that prunes, shares weights and writes a .dc file while a Trainer trains.

trainer = Trainer(max_epochs=20, callbacks=[CompressCallback("model.dc", dc.Recipe(prune=0.9, bits=5))])
trainer.fit(module, loader)
"""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

from deepcompress.integrations.steps import CompressionSteps

try:
    from lightning.pytorch import Callback
except ImportError:
    try:
        from pytorch_lightning import Callback
    except ImportError:
        raise ImportError("Lightning is not installed: pip install 'deepcompress[lightning]'") from None


class CompressCallback(CompressionSteps, Callback):  # type: ignore[misc]
    """Compresses a LightningModule, or one of its submodules, during ``fit``; see `CompressionSteps` for arguments.

    It works with automatic and manual optimization, accumulated gradients, gradient clipping and mixed precision, and
    in several processes that each hold the whole network (ddp). A run that is resumed from a checkpoint (``ckpt_path``)
    is pruned as it was. Strategies that divide the network (fsdp, deepspeed stage 3) are refused.
    """

    _stepped = False

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """The network is where it is trained, and a checkpoint has been restored."""
        done = trainer.global_step // max(len(trainer.optimizers), 1)
        self.begin(pl_module, trainer.estimated_stepping_batches, done)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Optimizer) -> None:
        """Called once for each optimizer and step, and not for batches whose gradients are accumulated."""
        ours = {id(weight) for weight in self._begun.weights.values()}
        if any(id(weight) in ours for group in optimizer.param_groups for weight in group["params"]):
            self.before_step()
            self._stepped = True

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Gradients are kept until the next batch."""
        if self._stepped:
            self._stepped = False
            self.after_step()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Write the file."""
        self.end(trainer.is_global_zero)
