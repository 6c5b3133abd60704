"""ONNX models in and out: the tensors of a graph as tensors of a .dc file, and the rest of it as an extension."""
