"""Stage 3: arrays to bytes and back, without torch.

`encoder` turns one array into the section that the container stores, in the smallest of the `layouts`, and `tensors`
turns it back. They stand on `survey` (what a tensor is made of), `codebooks`, `offsets` (gaps between surviving
weights), `streams` (sequences of symbols), `lanes` and `huffman` (canonical codes), `planes` (bytes of elements),
`adaptive` and `rans` (the other coders), `kernels` (the inner loops that are `compiled`) and `bits` (integers and
bounds-checked reading).
"""
