"""Stage 3: arrays to bytes and back, without torch.

`encoder` turns one array into the section that the container stores and `tensors` turns it back; both stand on
`offsets` (gaps between surviving weights), `streams` (sequences of symbols), `lanes` and `huffman` (canonical codes),
`kernels` (the compiled inner loops) and `bits` (integers and bounds-checked reading).
"""
