import torch
from sklearn.datasets import load_digits
from torch import nn

import deepcompress as dc

torch.manual_seed(0)
x, y = map(torch.tensor, load_digits(return_X_y=True))
batches = list(zip((x.float() / 16).split(64), y.split(64), strict=True))
model = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
compressor = dc.Compressor(model, dc.Recipe(prune=0.8, bits=4)).prepare(epochs=12)
for epoch in range(16):
    compressor.epoch()  # prunes, in the first part of the 12 epochs
    if epoch == 12:
        compressor.share()  # from here on, the shared values are tuned
    for inputs, labels in batches:
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        compressor.step()
        optimizer.zero_grad()
result = compressor.finalize("model.dc")
correct = (model(x.float() / 16).argmax(1) == y).float().mean()
print(f"{result.file_bytes} bytes, {result.ratio:.1f}x smaller, {100 * correct:.1f} % of the training data correct")
