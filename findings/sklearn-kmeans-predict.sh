#!/usr/bin/env bash
# scikit-learn: KMeans.predict puts float32 weights near 1 into other clusters than fit did, and MiniBatchKMeans learns from that.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q scikit-learn==1.9.1 numpy==2.4.6 2>/dev/null
OMP_NUM_THREADS=1 "$folder/venv/bin/python" -W ignore - <<'PY'
import numpy as np
import sklearn
from sklearn.cluster import KMeans, MiniBatchKMeans

print("scikit-learn", sklearn.__version__, "numpy", np.__version__)
spread = np.float32(0.001) * np.random.default_rng(0).standard_normal((4096, 1)).astype(np.float32)
moved, ratio, mini = {}, {}, {}


def error(model, weights, labels):
    return float(((weights.astype(np.float64) - model.cluster_centers_.astype(np.float64)[labels]) ** 2).mean())


for name, weights in {
    "float32, around 0": spread,
    "float32, around 1 (gains of a normalization)": 1 + spread,
    "float64, around 1": 1 + spread.astype(np.float64),
}.items():
    model = KMeans(16, n_init=1, random_state=0).fit(weights)
    labels = model.predict(weights)
    nearest = np.abs(weights.astype(np.float64) - model.cluster_centers_.astype(np.float64).T).argmin(1)
    assert (nearest == model.labels_).mean() > 0.99  # fit was right
    moved[name], ratio[name] = (
        float((labels != model.labels_).mean()),
        error(model, weights, labels) / error(model, weights, model.labels_),
    )
    small = MiniBatchKMeans(16, n_init=1, random_state=0).fit(weights)
    mini[name] = error(small, weights, small.labels_) / error(model, weights, model.labels_)
    print(
        f"{name}: predict moves {100 * moved[name]:.1f} % of the weights, and errs {ratio[name]:.2f} times as much;"
    )
    print(f"    MiniBatchKMeans errs {mini[name]:.2f} times as much")
low, high, double = moved
assert moved[low] == moved[double] == 0 and moved[high] > 0.1 and ratio[high] > 1.5
assert mini[low] < 1.3 and mini[double] < 1.3 and mini[high] > 1.5
print("seen: fit takes the mean away first, predict and MiniBatchKMeans do not, and x*x - 2xc + c*c has no digits left")
PY
