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
"""torch.save in the format before 1.6 writes float8 and uint16 tensors that torch.load cannot read.

Expected: an error when it is saved, or the same tensor back. Nothing is said, and the weights are lost.
"""
import torch

print("torch", torch.__version__)
for dtype in (torch.uint16, torch.float8_e4m3fn):
    tensor = torch.arange(8, dtype=torch.uint8).view(dtype)
    torch.save({"w": tensor}, "x.pt", _use_new_zipfile_serialization=False)
    try:
        torch.load("x.pt", weights_only=False)
    except AttributeError as error:
        print(dtype, "was saved without an error; loading:", error)
    else:
        raise SystemExit(f"{dtype} is read now: the behaviour has changed")
END
