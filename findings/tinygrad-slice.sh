#!/usr/bin/env bash
# tinygrad: torch_load of a weight that was saved as a slice of a larger one reads its memory as it lies.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if [ -z "${PYTHON:-}" ]; then # naming a Python that has torch 2.14.1 saves an installation of 5 GB
  python3 -m venv "$folder/venv"
  PYTHON="$folder/venv/bin/python"
  "$PYTHON" -m pip install -q torch==2.14.1 numpy
fi
"$PYTHON" -m pip install -q --no-deps --target "$folder/x" tinygrad==0.14.0 2>/dev/null
FOLDER="$folder" DEV=PYTHON PYTHONPATH="$folder/x" "$PYTHON" -W ignore - <<'PY'
import os
from importlib.metadata import version
from pathlib import Path

import torch
from tinygrad.nn.state import torch_load

print("tinygrad", version("tinygrad"), "torch", torch.__version__)
path = Path(os.environ["FOLDER"], "weights.pt")
whole = torch.arange(12.0).reshape(3, 4)
views = {
    "rows 1 and 2": whole[1:],
    "transposed": whole.T,
    "first two columns": whole[:, :2],
    "every second row": whole[::2],
    "one column": whole[:, 0],
}
torch.save(views, path)
assert all(torch.equal(value, views[name]) for name, value in torch.load(path).items())
same = {}
for name, tensor in torch_load(path).items():
    found = tensor.tolist()
    same[name] = found == views[name].tolist()
    print(f"{name:<18} {'equal' if same[name] else 'DIFFERENT'}  {views[name].tolist()} -> {found}")
assert same == dict(zip(views, (True, True, False, False, False), strict=True))
torch.save(whole[:, :2].T, path)
try:
    torch_load(path)
except AssertionError as error:
    print("the first two columns, transposed: AssertionError:", error)
else:
    raise SystemExit("a transposed slice is read now: the behaviour has changed")
print("seen: strides are looked at only where they do not fall; other slices come back as other weights")
PY
