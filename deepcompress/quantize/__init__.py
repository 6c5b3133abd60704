"""Stage 2: weights of a layer share few values (Han et al. 2016, section 3).

`kmeans` or `grid` find the shared values, `rate` trades their error for bits, `choice` puts these together; `sharing`
ties weights to the values and tunes them by backpropagation; `vectors` does biases and scales.
"""
