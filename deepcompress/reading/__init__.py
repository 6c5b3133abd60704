"""Out of a .dc file: tensors, arrays, networks and ONNX. Nothing here knows how a file is made."""
