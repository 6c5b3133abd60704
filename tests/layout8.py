"""Small files of layout 8: the command line codes small tensors otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from deepcompress.coding.layouts.ranked import Numbers, Ranks
from deepcompress.compression.tensors_only import compress_state
from deepcompress.container import writer
from deepcompress.container.reader import ModelFile
from deepcompress.recipe import Recipe
from deepcompress.updates.content import content_of
from deepcompress.updates.sections import Shared, shared_section


def rounded(tensors: Mapping[str, torch.Tensor], path: Path) -> Path:
    """A step for each row, and nothing pruned."""
    compress_state(tensors, Recipe(retrain=False), path)
    return path


def ranked(tensors: Mapping[str, torch.Tensor], path: Path, prune: float = 0.7, bits: int = 3) -> Path:
    """Shared weights by their ranks."""
    compress_state(tensors, Recipe(prune=prune, bits=bits, retrain=False), path)
    found = []
    with ModelFile(path) as file:
        for entry in file.header.entries:
            encoded = writer.EncodedTensor(entry.info, file.section(entry))
            if entry.info.is_shared:
                content = content_of(file, entry)
                info = replace(entry.info, layout=Ranks(content.stored, 0, Numbers(0, 0)))
                encoded = shared_section(info, Shared(content.symbols, content.codebook, content.raw))
            found.append((entry.name, encoded))
    writer.save(path, found)
    return path
