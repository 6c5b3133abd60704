#!/usr/bin/env bash
# onnxslim and onnxsim compute whatever is constant: indices become the values of the codebook, int8 and float16 become float32.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q onnx==1.23.2 onnxslim==0.1.98 onnxsim==0.8.1 numpy==2.4.6 2>/dev/null
cat >"$folder/program.py" <<'PY'
import sys
from importlib.metadata import version

import numpy as np
import onnx
import onnxsim
import onnxslim
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

with_runtime = sys.argv[1:] == ["onnxruntime"]
print(*(f"{name} {version(name)}" for name in ("onnxslim", "onnxsim", "onnx", "numpy", *sys.argv[1:])))
random = np.random.default_rng(0)
weight = random.standard_normal((256, 256)).astype(np.float32)
step = np.float32(np.abs(weight).max() / 127)
x = random.standard_normal((4, 256)).astype(np.float32)
multiply = helper.make_node("MatMul", ["x", "w"], ["y"])
to_float = helper.make_node("Cast", ["stored"], ["w"], to=TensorProto.FLOAT)
models = {
    "codebook of 16, indices of 1 byte": (
        {
            "codebook": np.linspace(-3, 3, 16, dtype=np.float32),
            "indices": random.integers(0, 16, (256, 256)).astype(np.uint8),
        },
        [
            helper.make_node("Cast", ["indices"], ["wide"], to=TensorProto.INT64),
            helper.make_node("Gather", ["codebook", "wide"], ["w"]),
            multiply,
        ],
    ),
    "int8 times a step": (
        {"stored": np.rint(weight / step).astype(np.int8), "step": step},
        [
            helper.make_node("Cast", ["stored"], ["whole"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["whole", "step"], ["w"]),
            multiply,
        ],
    ),
    "int8, DequantizeLinear": (
        {"stored": np.rint(weight / step).astype(np.int8), "step": step},
        [helper.make_node("DequantizeLinear", ["stored", "step"], ["w"]), multiply],
    ),
    "float16": ({"stored": weight.astype(np.float16)}, [to_float, multiply]),
    "one weight, used twice, once transposed": (
        {"w": weight},
        [
            helper.make_node("MatMul", ["x", "w"], ["a"]),
            helper.make_node("Transpose", ["w"], ["turned"], perm=[1, 0]),
            helper.make_node("MatMul", ["a", "turned"], ["y"]),
        ],
    ),
}


def model_of(tensors, nodes):
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 256]) for name in "xy"]
    held = [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    return model


times = {}
for name, parts in models.items():
    made = {
        "": model_of(*parts),
        "onnxslim": onnxslim.slim(model_of(*parts)),
        "onnxsim": onnxsim.simplify(model_of(*parts))[0],
    }
    outputs = [ReferenceEvaluator(model).run(None, {"x": x})[0] for model in made.values()]
    assert all(np.allclose(output, outputs[0], rtol=1e-4, atol=1e-4) for output in outputs)
    whole, *after = (model.ByteSize() for model in made.values())
    times[name] = [round(size / whole, 1) for size in after]
    print(f"{name}: {whole} bytes; after onnxslim {after[0]}, after onnxsim {after[1]}")
slim, sim = zip(*times.values(), strict=True)
assert sim == (4, 4, 1, 2, 2) and slim == (sim if with_runtime else (1, 1, 1, 1, 1)), times
PY
"$folder/venv/bin/python" -W ignore "$folder/program.py"
"$folder/venv/bin/pip" install -q onnxruntime==1.32.0 2>/dev/null
"$folder/venv/bin/python" -W ignore "$folder/program.py" onnxruntime
echo "seen: weights stay small only behind a DequantizeLinear; onnxslim does the same as onnxsim once onnxruntime is installed"
