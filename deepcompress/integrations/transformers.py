"""For Hugging Face transformers: a callback that prunes, shares weights and writes a .dc file while a Trainer trains.

trainer = Trainer(model, arguments, train_dataset=data)
trainer.add_callback(CompressCallback("model.dc", dc.Recipe(prune=0.9, bits=5)))
trainer.train()
"""

from __future__ import annotations

from typing import Any

from deepcompress.errors import DeepCompressError
from deepcompress.integrations.steps import CompressionSteps

try:
    from transformers import TrainerCallback
except ImportError:
    raise ImportError("transformers is not installed: pip install 'deepcompress[transformers]'") from None


class CompressCallback(CompressionSteps, TrainerCallback):  # type: ignore[misc]
    """Compresses the network of a Trainer during ``train``; see `CompressionSteps` for arguments.

    It works with accumulated gradients, gradient clipping and mixed precision, and in several processes that each hold
    the whole network. A run that is resumed from a checkpoint (``resume_from_checkpoint``) is pruned as it was.
    Networks that are divided between processes (fsdp, deepspeed stage 3) are refused.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The network is where it is trained, and a checkpoint has been loaded."""
        if args.load_best_model_at_end:
            raise DeepCompressError(
                "load_best_model_at_end puts back weights from before they were pruned or shared: set it to False"
            )
        self.begin(kwargs["model"], state.max_steps, state.global_step)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called when all gradients of a step are there."""
        self.before_step()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called before the gradients are cleared."""
        self.after_step()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the file."""
        self.end(state.is_world_process_zero)
