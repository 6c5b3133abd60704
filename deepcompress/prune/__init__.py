"""Stage 1: which weights go, and retraining of those that stay.

`criteria` say what a weight is worth, `scores` how layers compare, `schedule` how fast sparsity rises, `masks` makes
and holds the decision, `neurons` removes what became useless by it, `stage` chains them with the training loop.
"""
