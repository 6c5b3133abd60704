#!/usr/bin/env bash
# zstandard: with yesterday's network as the dictionary, the update of a small part takes as much as the whole network.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q zstandard==0.25.0 numpy==2.4.6 2>/dev/null
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

import numpy as np
import zstandard as zstd

print("zstandard", version("zstandard"), "with libzstd", ".".join(map(str, zstd.ZSTD_VERSION)), "numpy", np.__version__)
random, share = np.random.default_rng(0), {}
for megabytes in (1, 2, 4, 8):
    weights = random.standard_normal(megabytes << 18).astype(np.float32)
    old = weights.tobytes()
    weights[-1000:] += 1  # the last layer has been trained on, 4,000 bytes
    new = weights.tobytes()
    known = zstd.ZstdCompressionDict(old, dict_type=zstd.DICT_TYPE_RAWCONTENT)
    made = {
        f"level {level}": zstd.ZstdCompressor(level=level, dict_data=known).compress(new) for level in (1, 3, 9, 19)
    }
    for more in ({"window_log": 25}, {"window_log": 25, "hash_log": 23}):
        settings = zstd.ZstdCompressionParameters.from_level(3, **more)
        made[f"level 3, {', '.join(more)}"] = zstd.ZstdCompressor(
            compression_params=settings, dict_data=known
        ).compress(new)
    for packed in made.values():
        assert zstd.ZstdDecompressor(dict_data=known, max_window_size=1 << 26).decompress(packed) == new
    print(
        f"{len(new)} bytes, without the dictionary {len(zstd.compress(new, 3))}:",
        {name: len(packed) for name, packed in made.items()},
    )
    share[megabytes] = {name: round(len(packed) / len(new), 2) for name, packed in made.items()}
assert share[1]["level 3"] < 0.01 and share[4]["level 3"] > 0.9 and share[8]["level 9"] > 0.9
assert share[1]["level 1"] > 0.9  # the default of level 1 does not see even one megabyte
assert (
    share[8]["level 3, window_log"] > 0.7
)  # a window over both is not enough: only the end of the dictionary is indexed
assert all(row["level 3, window_log, hash_log"] < 0.01 and row["level 19"] < 0.01 for row in share.values())
print("seen: a dictionary that is too large for the level is forgotten without a word")
PY
