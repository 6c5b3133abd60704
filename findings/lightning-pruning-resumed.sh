#!/usr/bin/env bash
# Lightning: ModelPruning(amount=0.5) compounds from epoch to epoch, and a resumed run has forgotten its masks.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if [ -z "${PYTHON:-}" ]; then # naming a Python that has torch 2.14.1 and its friends saves an installation of 5 GB
  python3 -m venv "$folder/venv"
  PYTHON="$folder/venv/bin/python"
  "$PYTHON" -m pip install -q torch==2.14.1 numpy pytorch-lightning==2.6.6 lightning-utilities==0.15.3 torchmetrics==1.9.0
else
  "$PYTHON" -m pip install -q --no-deps --target "$folder" pytorch-lightning==2.6.6 lightning-utilities==0.15.3 torchmetrics==1.9.0 2>/dev/null
fi
FOLDER="$folder" PYTHONPATH="$folder" "$PYTHON" -W ignore - 2>"$folder/log" <<'PY' || { cat "$folder/log" >&2; exit 1; }
import os
from importlib.metadata import version

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, ModelPruning
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

print("pytorch-lightning", version("pytorch-lightning"), "torch", torch.__version__)
root = os.environ["FOLDER"]


class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, 4))

    def training_step(self, batch, _):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def fit(epochs, checkpoint=None):
    model = Module()
    callbacks = [ModelPruning("l1_unstructured", amount=0.5), ModelCheckpoint(f"{root}/{epochs}", "{epoch}", save_top_k=-1)]
    trainer = pl.Trainer(
        max_epochs=epochs,
        callbacks=callbacks,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, data, ckpt_path=checkpoint)
    values = [value for name, value in model.state_dict().items() if name.endswith(("weight", "bias"))]
    return 100 * sum(int((value == 0).sum()) for value in values) / sum(value.numel() for value in values)


generator = torch.Generator().manual_seed(0)
x, y = torch.randn(64, 20, generator=generator), torch.randint(0, 4, (64,), generator=generator)
data = DataLoader(TensorDataset(x, y), batch_size=16)
one, two, four = fit(1), fit(2), fit(4)
print(f"amount=0.5: {one:.1f} % pruned after one epoch, {two:.1f} % after two, {four:.1f} % after four")
resumed = fit(4, f"{root}/2/epoch=1.ckpt")
print(f"four epochs, of which two go on from the checkpoint after the second: {resumed:.1f} %")
assert [round(value) for value in (one, two, four)] == [50, 75, 94] and round(resumed) == 75
print("seen: half is half of the rest, every epoch; a resumed run begins its masks anew")
PY
