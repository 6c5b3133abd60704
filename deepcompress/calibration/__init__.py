"""Rounding after training with a handful of samples: what each layer meets, and what its errors do to the output."""
