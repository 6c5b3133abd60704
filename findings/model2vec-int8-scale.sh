#!/usr/bin/env bash
# model2vec: quantize_to="int8" divides the embeddings by a step that is stored nowhere.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q model2vec==0.10.0 tokenizers==0.23.3 numpy==2.4.6 2>/dev/null
FOLDER="$folder" "$folder/venv/bin/python" -W ignore - 2>"$folder/log" <<'PY' || { cat "$folder/log" >&2; exit 1; }
import os
from importlib.metadata import version
from pathlib import Path

import numpy as np
from model2vec import StaticModel
from tokenizers import Tokenizer, models, pre_tokenizers

print("model2vec", version("model2vec"), "numpy", np.__version__)
random = np.random.default_rng(0)
words = ["[UNK]", "[PAD]", *(f"w{number}" for number in range(50))]
tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
table = (0.02 * random.standard_normal((len(words), 16))).astype(np.float32)
head = random.standard_normal(16), 0.02  # of a classifier that was trained on the float32 embeddings: positive or not
texts = [" ".join(random.choice(words[2:], 5)) for _ in range(200)]
folder, found = Path(os.environ["FOLDER"], "model"), {}
StaticModel(table, tokenizer, normalize=False).save_pretrained(folder)
for kind in (None, "float16", "int8"):
    small = StaticModel.from_pretrained(folder, quantize_to=kind)
    small.save_pretrained(folder.parent / "small")
    model = StaticModel.from_pretrained(folder.parent / "small")
    out = model.encode(texts)
    positive = int((out @ head[0] > head[1]).sum())
    found[kind] = float(np.abs(out).mean()), positive
    size = (folder.parent / "small" / "model.safetensors").stat().st_size
    print(f"{kind or 'float32'}: {size} bytes, mean magnitude {found[kind][0]:.4g}, {positive} of 200 texts positive")
step = float(np.abs(table).max() / 127)
print(f"the step was {step:.4g}: with it the mean magnitude is {found['int8'][0] * step:.4g}")
assert abs(found["float16"][0] / found[None][0] - 1) < 0.01 and abs(found["float16"][1] - found[None][1]) <= 1
assert found["int8"][0] > 1000 * found[None][0] and abs(found["int8"][0] * step / found[None][0] - 1) < 0.02
assert found["int8"][1] > found[None][1] + 40
names = [path.name for path in (folder.parent / "small").iterdir() if f"{step:.4f}" in path.read_text(errors="ignore")]
assert not names, names
print(
    "seen: only the direction of the embeddings is kept; a model that does not normalize gives others, without a word"
)
PY
