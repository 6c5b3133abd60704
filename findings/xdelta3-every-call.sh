#!/usr/bin/env bash
# xdelta3 0.0.5 (PyPI): it installs and imports on Python 3.10 and later, and then every call of it fails.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python=${PYTHON:-python3}
"$python" -m pip install -q --no-deps --target "$folder/x" xdelta3==0.0.5 2>/dev/null
PYTHONPATH="$folder/x" "$python" - <<'PY'
import sys
from importlib.metadata import version

import xdelta3

print("xdelta3", version("xdelta3"), "on Python", sys.version.split()[0])
assert sys.version_info >= (3, 10), "older versions of Python only warn"
old, new = b"the weights of yesterday, and a few more", b"the weights of today, and a few more"
try:
    found = xdelta3.encode(old, new)
except SystemError as error:
    print(f"encode of {len(old)} and {len(new)} bytes: SystemError: {error}")
    assert "PY_SSIZE_T_CLEAN" in str(error)
else:
    sys.exit(f"encode works now: {len(found)} bytes")
PY
echo "A difference cannot be made with this package; the command xdelta3 is another program, and works."
