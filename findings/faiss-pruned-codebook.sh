#!/usr/bin/env bash
# faiss: the codebook of a pruned tensor holds zero many times, and no iteration ever takes the copies apart.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-deps faiss-cpu==1.15.1 numpy==2.4.6 packaging==26.4 kmeans1d==0.5.0 2>/dev/null
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

import faiss
import kmeans1d
import numpy as np

print("faiss-cpu", version("faiss-cpu"), "kmeans1d", version("kmeans1d"), "numpy", np.__version__)
normal = (
    np.random.default_rng(0).standard_normal(4000).astype(np.float32)
)  # fewer than the 256 for a centroid it samples
zeros, ratio = {}, {}
for percent, threshold in ((0, 0.0), (50, 0.6745), (80, 1.2816), (90, 1.645)):
    weight = np.where(np.abs(normal) < threshold, np.float32(0), normal)
    model = faiss.Kmeans(1, 16, niter=100)
    model.train(weight[:, None])
    codebook = model.centroids.ravel()
    error = float(np.mean(np.min((weight[:, None] - codebook) ** 2, axis=1)))
    labels, best = kmeans1d.cluster(weight.astype(np.float64), 16)
    optimum = float(np.mean((weight - np.asarray(best)[labels]) ** 2))
    zeros[percent], ratio[percent] = int(np.sum(codebook == 0)), error / optimum
    print(f"{percent} % pruned: {zeros[percent]} of 16 centroids are 0, error {ratio[percent]:.2f} times the optimum")
    print("    codebook:", " ".join(f"{value:.2f}" for value in np.sort(codebook)))
assert zeros[0] == 0 and ratio[0] < 1.3
assert zeros[50] >= 2 and zeros[80] >= 4 and zeros[90] >= 6 and ratio[90] > 4
print("seen: an empty cluster gets a centroid of another one times 1 ± 1/1024, and zero stays zero")
PY
