#!/usr/bin/env bash
# torchao: int8 weights of an output layer that is tied to the embedding are stored beside the float ones.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if [ -z "${PYTHON:-}" ]; then # naming a Python that has torch 2.14.1 and its friends saves an installation of 5 GB
  python3 -m venv "$folder/venv"
  PYTHON="$folder/venv/bin/python"
  "$PYTHON" -m pip install -q torch==2.14.1 numpy torchao==0.18.0
else
  "$PYTHON" -m pip install -q --no-deps --target "$folder" torchao==0.18.0 2>/dev/null
fi
PYTHONPATH="$folder" "$PYTHON" -W ignore - 2>"$folder/log" <<'PY' || { cat "$folder/log" >&2; exit 1; }
import io
from importlib.metadata import version

import torch
from torch import nn
from torchao.quantization import Int8WeightOnlyConfig, quantize_

print("torchao", version("torchao"), "torch", torch.__version__)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(512, 128)
        self.head = nn.Linear(128, 512, bias=False)
        self.head.weight = self.embedding.weight


def size(model):
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    return buffer.tell()


model = Net()
before = size(model)
quantize_(model, Int8WeightOnlyConfig())
after, tied = size(model), model.head.weight is model.embedding.weight
print(f"float32, tied: {before} bytes; after int8 quantization: {after} bytes, tied: {tied}")
assert 1.2 * before < after < 1.3 * before and not tied
print("seen: quantization to a quarter of the bits makes the file a quarter larger, without a warning")
PY
