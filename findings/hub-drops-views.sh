#!/usr/bin/env bash
# huggingface_hub: save_torch_state_dict leaves out a tensor that is a part of another one, and says that it is that one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if [ -z "${PYTHON:-}" ]; then # naming a Python that has torch 2.14.1 and its friends saves an installation of 5 GB
  python3 -m venv "$folder/venv"
  PYTHON="$folder/venv/bin/python"
  "$PYTHON" -m pip install -q torch==2.14.1 numpy safetensors==0.8.0 huggingface_hub==2.4.0
else
  "$PYTHON" -m pip install -q --no-deps --target "$folder/x" safetensors==0.8.0 huggingface_hub==2.4.0 2>/dev/null
fi
FOLDER="$folder" PYTHONPATH="$folder/x" "$PYTHON" -W ignore - 2>"$folder/log" <<'PY' || { cat "$folder/log" >&2; exit 1; }
import os
from importlib.metadata import version
from pathlib import Path

import torch
from huggingface_hub import load_state_dict_from_file, save_torch_state_dict
from safetensors import safe_open

print(*(f"{name} {version(name)}" for name in ("huggingface_hub", "safetensors", "torch")))
table = torch.arange(12.0).reshape(4, 3)
path = Path(os.environ["FOLDER"], "model.safetensors")


def saved(state):
    save_torch_state_dict(state, path.parent)
    with safe_open(path, "pt") as file:
        facts = file.metadata()
    return {name: tuple(value.shape) for name, value in load_state_dict_from_file(path).items()}, facts


for what, part in {"its first two rows": table[:2], "the same, flat": table.view(12)}.items():
    found, facts = saved({"table": table, "part": part})
    print(f"table of shape (4, 3), part = {what}, {tuple(part.shape)}: the file has {found}, and says {facts}")
    (kept,) = found
    (left_out,) = {"table", "part"} - {kept}
    assert facts[left_out] == kept and part.shape != table.shape
found, facts = saved({"table": table, "part": table[:2].clone()})
print(f"a copy of the rows: the file has {found}")
assert found == {"table": (4, 3), "part": (2, 3)}
try:
    saved({"part": table[:2], "rest": table[2:]})
except RuntimeError as error:
    print(f"two parts without the whole: RuntimeError: {str(error)[:80]} ...")
else:
    raise SystemExit("two parts are saved now: the behaviour has changed")
print(
    "seen: which rows the part was, and its shape, is lost; whoever follows the metadata takes the whole table for it"
)
PY
