#!/bin/sh
# PYTHON=python with torch 2.14.1 runs it at once; without, a virtual environment is made for it.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
if [ -z "${PYTHON:-}" ]; then
    python3 -m venv "$folder/venv"; PYTHON="$folder/venv/bin/python"
    "$PYTHON" -m pip install -q torch==2.14.1 numpy safetensors==0.8.0
fi
case "$PYTHON" in /*) ;; *) PYTHON="$PWD/$PYTHON" ;; esac
cd "$folder"
"$PYTHON" -W ignore - <<'END'
"""A mask of torch.nn.utils.prune on weight_v: remove_weight_norm fails half-way and leaves a layer that cannot run.

Expected: the weight is made plain, or the layer is left as it was.
"""
import torch
from torch import nn
from torch.nn.utils import prune, remove_weight_norm, weight_norm

print("torch", torch.__version__)
layer = prune.l1_unstructured(weight_norm(nn.Linear(3, 2)), "weight_v", 0.5)
layer(torch.ones(1, 3))
try:
    remove_weight_norm(layer)
except KeyError as error:
    print("remove_weight_norm: KeyError", error)
else:
    raise SystemExit("it is removed now: the behaviour has changed")
try:
    layer(torch.ones(1, 3))
except AttributeError as error:
    print("forward:", error)
else:
    raise SystemExit("the layer runs now: the behaviour has changed")
END
