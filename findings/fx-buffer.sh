#!/usr/bin/env bash
# torch.fx: tracing a network that keeps its last activation in a buffer replaces that buffer by a placeholder, for good.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if [ -z "${PYTHON:-}" ]; then # naming a Python that has torch 2.14.1 and its friends saves an installation of 5 GB
  python3 -m venv "$folder/venv"
  PYTHON="$folder/venv/bin/python"
  "$PYTHON" -m pip install -q torch==2.14.1 numpy
fi
FOLDER="$folder" "$PYTHON" -W ignore - <<'PY'
import os
from pathlib import Path

import torch
import torch.fx
from torch import nn


class Keeps(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.register_buffer("last", torch.zeros(2))

    def forward(self, x):
        self.last = self.layer(x)
        return self.last


print("torch", torch.__version__)
network, path = Keeps(), Path(os.environ["FOLDER"]) / "network.pt"
before = [type(value).__name__ for value in network.state_dict().values()]
torch.fx.symbolic_trace(network)
after = [type(value).__name__ for value in network.state_dict().values()]
print("state_dict before:", before, "after:", after)
assert before == ["Tensor"] * 3 and after == ["Proxy", "Tensor", "Tensor"]
try:
    torch.save(network.state_dict(), path)
except Exception as error:
    print(f"saving: {type(error).__name__}: {error}; it leaves a file of {path.stat().st_size} bytes")
else:
    raise SystemExit("the state_dict can be saved")
try:
    torch.load(path)
except Exception as error:
    print(f"loading that file: {type(error).__name__}")
else:
    raise SystemExit("the file can be loaded")
print("seen: whoever only looks at a network by torch.fx must look at a copy")
PY
