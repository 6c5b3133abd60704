"""Data sets that live as tensors, the one training loop, and evaluation."""
