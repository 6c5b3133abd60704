#!/usr/bin/env bash
# torch: a deep copy of a scripted network has no parameters of its own that learn; its gradients land in the original.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if [ -z "${PYTHON:-}" ]; then # naming a Python that has torch 2.14.1 and its friends saves an installation of 5 GB
  python3 -m venv "$folder/venv"
  PYTHON="$folder/venv/bin/python"
  "$PYTHON" -m pip install -q torch==2.14.1 numpy
fi
"$PYTHON" -W ignore - <<'PY'
import copy

import torch
from torch import nn

print("torch", torch.__version__)


def gradients(network):
    twin = copy.deepcopy(network)
    twin(torch.ones(1, 2)).sum().backward()
    leaf = all(value.is_leaf for value in twin.parameters())
    return leaf, network.weight.grad is not None, leaf and twin.weight.grad is not None


plain, scripted = gradients(nn.Linear(2, 1)), gradients(torch.jit.script(nn.Linear(2, 1)))
for name, (leaf, original, own) in (("plain", plain), ("scripted", scripted)):
    print(f"{name}: the copy's parameters are leaves: {leaf}; after its backward, gradients are in the original: "
          f"{original}, in the copy: {own}")
assert plain == (True, False, True) and scripted == (False, True, False)
try:
    torch.optim.SGD(copy.deepcopy(torch.jit.script(nn.Linear(2, 1))).parameters(), lr=0.1)
except ValueError as error:
    print("an optimizer for the copy:", error)
else:
    raise SystemExit("an optimizer takes the copy's parameters")
with torch.no_grad():
    assert all(value.is_leaf and not value.requires_grad for value in
               copy.deepcopy(torch.jit.script(nn.Linear(2, 1))).parameters())
print("seen: copy under torch.no_grad() and set requires_grad again, or train the original by accident")
PY
