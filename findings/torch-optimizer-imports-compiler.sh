#!/bin/sh
# PYTHON=python with torch 2.14.1 runs it at once; without, a virtual environment is made for it.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
if [ -z "${PYTHON:-}" ]; then
    python3 -m venv "$folder/venv"; PYTHON="$folder/venv/bin/python"
    "$PYTHON" -m pip install -q torch==2.14.1 numpy
fi
case "$PYTHON" in /*) ;; *) PYTHON="$PWD/$PYTHON" ;; esac
cd "$folder"
"$PYTHON" -W ignore - <<'END'
"""Making any optimizer of torch imports torch's compiler, in a program that compiles nothing.

Expected: the import of the compiler waits until something is compiled. It takes longer than many trainings of small
networks need for an epoch.
"""
import sys
import time

import torch

print("torch", torch.__version__)
before, began = len(sys.modules), time.process_time()
assert "torch._dynamo" not in sys.modules
torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
seconds, more = time.process_time() - began, len(sys.modules) - before
print(f"SGD of one number: {seconds:.1f} s of processor time, {more} modules more")
if "torch._dynamo" not in sys.modules or more < 100:
    raise SystemExit("the compiler is not imported now: the behaviour has changed")
END
