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
"""torch.load goes by the ending: what torch.save wrote as NAME.safetensors it cannot read under its own name.

Expected: the content decides, as it does for a stream of the very same bytes, or torch.save refuses the name.
"""
import torch
from safetensors import SafetensorError

print("torch", torch.__version__)
torch.save({"w": torch.ones(2)}, "x.safetensors")
with open("x.safetensors", "rb") as stream:
    print("the same bytes as a stream:", torch.load(stream))
try:
    torch.load("x.safetensors")
except SafetensorError as error:
    print("by name:", error)
else:
    raise SystemExit("it is read now: the behaviour has changed")
END
