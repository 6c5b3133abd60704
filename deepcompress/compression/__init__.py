"""From a network, or bare tensors, to a .dc file: the stages chained."""
