#!/usr/bin/env bash
# gguf: the block formats with an offset (Q4_1, Q5_1) have no level at zero, and waste their levels on a pruned tensor.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q gguf==0.19.0 numpy==2.4.6 2>/dev/null
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf import quants

print("gguf", version("gguf"), "numpy", np.__version__)
weight = np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)
weight[np.abs(weight) < 0.6745] = 0  # half of the weights pruned by magnitude
zero, error, size = weight == 0, {}, {}
print(f"{100 * zero.mean():.1f} % of the weights are zero")
for kind in (Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1):
    packed = quants.quantize(weight, kind)
    back = quants.dequantize(packed, kind)
    error[kind.name], size[kind.name] = float(((back - weight) ** 2).mean()), packed.nbytes
    kept = float((back[zero] == 0).mean())
    print(f"{kind.name}: {packed.nbytes} bytes, {100 * kept:5.1f} % of zeros kept, mean squared error {error[kind.name]:.6f}")
    assert (kept == 1.0) if kind.name.endswith("_0") else (kept < 0.01)
assert size["Q4_1"] > size["Q4_0"] and error["Q4_1"] > 1.5 * error["Q4_0"]
assert size["Q5_1"] > size["Q5_0"] and error["Q5_1"] > 1.5 * error["Q5_0"]
print("seen: the larger format loses the zeros, and errs more")
PY
