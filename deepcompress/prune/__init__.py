"""Stage 1: which weights go, and retraining of those that stay.

`scores` says what a weight is worth, `schedule` how fast sparsity rises, `masks` makes and holds the
decision, `neurons` removes what became useless by it, `stage` chains them with the training loop.
"""
