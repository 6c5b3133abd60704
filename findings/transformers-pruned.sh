#!/usr/bin/env bash
# transformers: save_pretrained of a network under torch.nn.utils.prune, and from_pretrained of what it wrote.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if [ -z "${PYTHON:-}" ]; then # naming a Python that has torch 2.14.1 and its friends saves an installation of 5 GB
  python3 -m venv "$folder/venv"
  PYTHON="$folder/venv/bin/python"
  "$PYTHON" -m pip install -q torch==2.14.1 numpy transformers==5.24.0
else
  "$PYTHON" -m pip install -q --no-deps --target "$folder" transformers==5.24.0 2>/dev/null
fi
PYTHONPATH="$folder" "$PYTHON" -W ignore - 2>"$folder/log" <<'PY' || { cat "$folder/log" >&2; exit 1; }
import tempfile
from importlib.metadata import version

import torch
import transformers
from torch.nn.utils import prune

print("transformers", version("transformers"), "torch", torch.__version__)
torch.manual_seed(0)
config = transformers.BertConfig(
    vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
)
model = transformers.BertForSequenceClassification(config).eval()
layer = model.bert.encoder.layer[0].intermediate.dense
prune.l1_unstructured(layer, "weight", 0.5)
loaded = []
with tempfile.TemporaryDirectory() as path:
    model.save_pretrained(path)
    for _ in range(2):
        again = transformers.BertForSequenceClassification.from_pretrained(path)
        loaded.append(again.bert.encoder.layer[0].intermediate.dense.weight)
print(f"zeros: {int((layer.weight == 0).sum())} of {layer.weight.numel()} when saved, {int((loaded[0] == 0).sum())} when loaded")
print("loaded weights are those that were saved:", torch.equal(layer.weight, loaded[0]))
print("loading twice gives the same weights:", torch.equal(*loaded))
assert int((layer.weight == 0).sum()) == 256 and not (loaded[0] == 0).any()
assert not torch.equal(*loaded)
print("seen: the pruned layer is random after loading; a report says MISSING, and that UNEXPECTED can be ignored")
PY
