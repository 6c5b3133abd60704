#!/usr/bin/env bash
# safetensors 0.8.0: `safetensors.torch.save` writes float8_e8m0fnu and float4_e2m1fn_x2, and the same module's
# `load` cannot read the bytes back (KeyError), while `safe_open` reads them from a file.
# One would expect that what `save` accepts, `load` reads.
# Use: PYTHON=python3 ./safetensors-bytes-loader-misses-dtypes.sh    (PYTHON needs torch >= 2.8)
set -euo pipefail
python=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m pip install --quiet --disable-pip-version-check --no-deps --target "$folder/packages" safetensors==0.8.0
cd "$folder"
PYTHONPATH="$folder/packages" "$python" - <<'PYTHON'
import safetensors
import torch
from safetensors import safe_open
from safetensors.torch import load, save

print("safetensors", safetensors.__version__, "torch", torch.__version__)
seen = {}
for dtype in (torch.float8_e4m3fn, torch.float8_e8m0fnu, torch.float4_e2m1fn_x2):
    value = torch.arange(16, dtype=torch.uint8).view(dtype)
    data = save({"w": value})
    with open("w.safetensors", "wb") as stream:
        stream.write(data)
    with safe_open("w.safetensors", "pt") as opened:
        by_file = torch.equal(opened.get_tensor("w").view(torch.uint8), value.view(torch.uint8))
    try:
        load(data)
        outcome = "read"
    except KeyError as error:
        outcome = f"KeyError {error}"
    seen[str(dtype)] = (by_file, outcome)
    print(f"{dtype}: written; safe_open gives the same bits: {by_file}; load: {outcome}")
assert seen == {
    "torch.float8_e4m3fn": (True, "read"),
    "torch.float8_e8m0fnu": (True, "KeyError 'F8_E8M0'"),
    "torch.float4_e2m1fn_x2": (True, "KeyError 'F4'"),
}, "the behaviour changed"
PYTHON
