"""Networks that run from the compressed form: positions and codebook indices, and never the dense weights.

`matrix` holds a weight matrix and multiplies by it, `kernels` are its inner loops, and `modules` are layers of torch
that use it.
"""
