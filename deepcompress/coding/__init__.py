"""Stage 3: arrays to bytes and back, without torch.

`tensors` turns one array into the parts that the container stores, and is the only module that others
need; it stands on `offsets` (gaps between surviving weights), `huffman` (canonical codes), `streams`
(sequences of symbols) and `bits` (integers and bounds-checked reading).
"""
