"""The .dc file: one header, one section a tensor, checksums. docs/format.md is its specification.

`format` writes and reads the header, `writer` makes files, `reader` opens them, `breakdown` says where the
bytes of one are. Nothing here imports torch.
"""
