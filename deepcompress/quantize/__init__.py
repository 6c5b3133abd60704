"""Stage 2: weights of a layer share 2^bits values (Han et al. 2016, section 3).

`kmeans` finds the shared values, `sharing` ties weights to them and tunes them by backpropagation.
"""
