#!/usr/bin/env bash
# fpzip: compress() of a transposed (Fortran-ordered) array with the default order reads its memory as it lies.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q fpzip==1.2.5 numpy==2.4.6 2>/dev/null
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

import fpzip
import numpy as np

print("fpzip", version("fpzip"), "numpy", np.__version__)
weight = np.arange(6, dtype=np.float32).reshape(2, 3)
layouts = {
    "contiguous": weight,
    "every second row": np.repeat(weight, 2, axis=0)[::2],
    "rows reversed": weight[::-1],
    "transposed": weight.T,
}
same = {}
for name, array in layouts.items():
    back = fpzip.decompress(fpzip.compress(array)).reshape(array.shape)
    same[name] = bool(np.array_equal(back, array))
    print(f"{name:<18} {'equal' if same[name] else 'DIFFERENT'}  {array.tolist()} -> {back.tolist()}")
assert same == {"contiguous": True, "every second row": True, "rows reversed": True, "transposed": False}
print("seen: lossless compression of a transposed weight gives other weights back, without an error")
PY
