#!/usr/bin/env bash
# torch.onnx's exporter leaves a Python stack trace at every node: a fifth of a released model of 2.8 MB.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if [ -z "${PYTHON:-}" ]; then
  python3 -m venv "$folder/venv"
  PYTHON="$folder/venv/bin/python"
  "$PYTHON" -m pip install -q onnx==1.23.2 numpy
fi
"$PYTHON" -m pip install -q --no-deps --target "$folder/x" silero-vad==6.2.3 2>/dev/null
"$PYTHON" -W ignore - "$folder/x" <<'PY'
import sys
from importlib.metadata import version
from pathlib import Path

import onnx

path = Path(sys.argv[1], "silero_vad", "data", "silero_vad_op18_ifless.onnx")
model = onnx.load(path)
print("silero-vad 6.2.3, onnx", version("onnx"), "exported by", model.producer_name, model.producer_version)


def nodes(graph):
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from nodes(attribute.g)


traces, count = 0, 0
for node in nodes(model.graph):
    count += 1
    traces += sum(len(entry.value) for entry in node.metadata_props if entry.key == "pkg.torch.onnx.stack_trace")
    del node.metadata_props[:]
whole = path.stat().st_size
print(f"{path.name}: {whole} bytes, of which {traces} are stack traces of {count} nodes")
print(f"without the metadata of nodes: {model.ByteSize()} bytes")
assert traces > 0.2 * whole
print("seen: a fifth of the file is source lines and paths of the machine that exported it")
PY
