#!/usr/bin/env bash
# bitsandbytes on the CPU: 8-bit blockwise quantization stores zero as another entry of its table than zero.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if [ -z "${PYTHON:-}" ]; then # naming a Python that has torch 2.14.1 and its friends saves an installation of 5 GB
  python3 -m venv "$folder/venv"
  PYTHON="$folder/venv/bin/python"
  "$PYTHON" -m pip install -q torch==2.14.1 numpy bitsandbytes==0.50.2
else
  "$PYTHON" -m pip install -q --no-deps --target "$folder" bitsandbytes==0.50.2 2>/dev/null
fi
CUDA_VISIBLE_DEVICES="" PYTHONPATH="$folder" "$PYTHON" - 2>"$folder/log" <<'PY' || { cat "$folder/log" >&2; exit 1; }
from importlib.metadata import version

import torch
from bitsandbytes import functional

print("bitsandbytes", version("bitsandbytes"), "torch", torch.__version__)
torch.manual_seed(0)
weight = torch.randn(64, 256)
weight[torch.rand(64, 256) < 0.8] = 0
zero = weight == 0
packed, state = functional.quantize_blockwise(weight, blocksize=256)
back = functional.dequantize_blockwise(packed, state)
index = int(packed.reshape(weight.shape)[zero].unique())
exact = int((state.code == 0).nonzero())
print(f"{int(zero.sum())} weights are zero; the table has zero as entry {exact}")
print(f"they are all stored as entry {index}, which is {float(state.code[index]):.3g} of the block's largest weight")
print(f"exact zeros after decoding: {int((back[zero] == 0).sum())}; smallest {float(back[zero].min()):.3g}")
assert exact == 127 and index == 131 and not (back[zero] == 0).any() and bool((back[zero] > 0).all())
for kind in ("nf4", "fp4"):  # the 4-bit kinds keep them
    four, scale = functional.quantize_4bit(weight, quant_type=kind)
    kept = int((functional.dequantize_4bit(four, scale)[zero] == 0).sum())
    print(f"{kind}: {kept} of {int(zero.sum())} zeros kept")
    assert kept == int(zero.sum())
print("seen: a pruned network has no exact zero left, so nothing finds its zeros afterwards")
PY
