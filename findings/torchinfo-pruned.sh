#!/usr/bin/env bash
# torchinfo: the size of a network under torch.nn.utils.prune is told as if the pruned weights took no bytes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if [ -z "${PYTHON:-}" ]; then # naming a Python that has torch 2.14.1 saves an installation of 5 GB
  python3 -m venv "$folder/venv"
  PYTHON="$folder/venv/bin/python"
  "$PYTHON" -m pip install -q torch==2.14.1 numpy
fi
"$PYTHON" -m pip install -q --no-deps --target "$folder/x" torchinfo==1.8.0 2>/dev/null
PYTHONPATH="$folder/x" "$PYTHON" -W ignore - <<'PY'
import io
from importlib.metadata import version

import torch
import torchinfo
from torch import nn
from torch.nn.utils import prune

print("torchinfo", version("torchinfo"), "torch", torch.__version__)
torch.manual_seed(0)
network = nn.Sequential(nn.Linear(1000, 1000), nn.ReLU(), nn.Linear(1000, 10))
layers, seen = [network[0], network[2]], []


def show(state):
    summary, stream = torchinfo.summary(network, input_size=(1, 1000), verbose=0), io.BytesIO()
    torch.save(network.state_dict(), stream)
    held = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    row = next(line for line in str(summary).splitlines() if line.startswith("Params size"))
    seen.append((summary.total_params, summary.total_param_bytes, held))
    print(f"{state}: {summary.total_params} params, '{row}'; tensors {held} bytes, saved {len(stream.getvalue())}")


show("dense")
for layer in layers:
    prune.l1_unstructured(layer, "weight", 0.9)
show("90 % pruned, masks on")
for layer in layers:
    prune.remove(layer, "weight")
show("90 % pruned, made permanent")
print("zeros in the last:", sum(int((layer.weight == 0).sum()) for layer in layers))
dense, masked, permanent = seen
assert dense == permanent == (1011010, 4044040, 4044040)
assert masked == (102010, 408040, 8084040)
print("seen: a tenth of the size is told where it has doubled; the same weights count in full after prune.remove")
PY
