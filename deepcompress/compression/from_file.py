"""Going on from a .dc file: which values its weights share, and the settings that it was made by.

Which weights are pruned needs no record: they are zero. Which values are shared, and who takes which, is read off the
file exactly, so that tuning continues where it ended, and compressing again without training gives the same tensors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepcompress.coding.dtypes import DType
from deepcompress.coding.forms import MAX_CODEBOOK
from deepcompress.coding.layouts.coded import Coded
from deepcompress.coding.layouts.ranked import Multiples
from deepcompress.coding.tensors import Encoding, TensorInfo
from deepcompress.container.reader import ModelFile
from deepcompress.layers import Layer
from deepcompress.prune.masks import share_out
from deepcompress.prune.scores import profile
from deepcompress.quantize.choice import SharedValues, found_grid
from deepcompress.quantize.sharing import Codebook, Member, Weights, codebook_of, groups
from deepcompress.reading.arrays import to_torch
from deepcompress.recipe import Recipe

Array = np.ndarray[Any, np.dtype[Any]]


def restore(
    path: str | Path, tensors: Mapping[str, torch.Tensor], called: Mapping[str, str] | None = None
) -> list[Codebook]:
    """The codebooks of a file, for tensors that hold its values: grids as grids, of layers and vectors alike.

    A vector that is stored as it is has one of its own values: it may have been shared before.

    Args:
        path: the file.
        tensors: by name, on their device. Those that the file does not have are passed over, and so is a codebook whose
            values are not those of its tensors.
        called: the file's name of each, where they differ (`reading.loader.names_in`).

    Raises:
        FormatError: the file is missing or damaged.
    """
    with ModelFile(path) as file:
        held, called = _stored(file), called or {}
        names = {name: called.get(name, name) for name in tensors}
        stored = {name: held[full] for name, full in names.items() if full in held}
        tables: dict[int | str, SharedValues] = {}
        members: dict[int | str, list[str]] = {}
        for name, info in stored.items():
            if not info.is_shared:
                continue
            owner, source = _owner(file, names[name])
            if owner not in tables:
                tables[owner] = _table(*file.codebook(source))
            members.setdefault(owner, []).append(name)
    for name, info in stored.items():
        table = _own_table(info, tensors[name])
        if table is not None:
            members[name], tables[name] = [name], table
    found = [_book(tables[key], names, tensors) for key, names in members.items()]
    return [book for book in found if book is not None and unmoved(book, tensors) is not None]


def steps_in(path: str | Path, called: Mapping[str, str] | None = None) -> dict[str, Array]:
    """The step of each row (float32) of the tensors that a file has as whole numbers times these, by name.

    Args:
        path: the file.
        called: the file's names of tensors that have others elsewhere, by these (`reading.loader.names_in`).

    Raises:
        FormatError: the file is missing or damaged.
    """
    found = {}
    with ModelFile(path) as file:
        for entry in file.header.entries:
            stored = file.stored(entry)
            if isinstance(stored.info.layout, Multiples):
                found[entry.name] = stored.info.layout.steps_in(stored.info, file.section(stored))
    return found | {own: found[full] for own, full in (called or {}).items() if full in found}


def still_shared(
    former: Sequence[Codebook], weights: Weights, layers: Sequence[Layer], recipe: Recipe
) -> tuple[list[Codebook], list[Layer]]:
    """Which of the `former` codebooks hold on, and the layers that are left to be shared anew.

    A codebook holds on if the recipe has the same layers share one, with as many values or more, and if none of their
    weights has moved since. Weights may have become zero; those have left it.
    """
    wanted = {frozenset(names): levels for names, levels in groups(list(layers), recipe)}
    kept = []
    for book in former:
        names = frozenset(member.name for member in book.members)
        if len(book.centroids) <= wanted.get(names, -1) and (found := unmoved(book, weights)) is not None:
            kept.append(found)
    taken = {member.name for book in kept for member in book.members}
    return kept, [layer for layer in layers if layer.name not in taken]


@torch.no_grad()
def unmoved(book: Codebook, weights: Weights) -> Codebook | None:
    """The codebook with those of its weights that are not zero; None if one of them has another value than its own."""
    members = []
    for member in book.members:
        flat = weights[member.name].detach().contiguous().view(-1)
        alive = flat[member.positions] != 0
        positions, assignment = member.positions[alive], member.assignment[alive]
        same = torch.equal(book.centroids[assignment].to(flat.dtype), flat[positions])
        if not same or int(torch.count_nonzero(flat)) != len(positions):
            return None
        members.append(Member(member.name, positions, assignment))
    return replace(book, members=tuple(members))


def asks_for_more(weights: Weights, recipe: Recipe) -> bool:
    """Whether the recipe prunes weights that are not zero already, going by their magnitudes."""
    if recipe.target_size is not None or recipe.max_drop is not None or recipe.quality is not None or recipe.searches:
        return True
    profiles = {name: profile(weight) for name, weight in weights.items()}
    losses, _ = share_out(profiles, recipe)
    return any(lost > int((weights[name] == 0).sum()) for name, lost in losses.items())


def settings_of(path: str | Path) -> dict[str, Any]:
    """Settings under which compressing the network of a file again gives that file's tensors: for `Recipe.from_dict`.

    Nothing is pruned beyond what is, nothing retrained or tuned, each layer has as many shared values as there are, in
    the same groups, and precision and coder are those of the file. Settings that differ are put on top.

    Raises:
        FormatError: the file is missing or damaged.
    """
    with ModelFile(path) as file:
        stored = _stored(file)
        layers = {name: info for name, info in stored.items() if _is_layer(info)}
        owners = {name: _owner(file, name)[0] for name, info in layers.items() if info.is_shared}
        sharing = Counter(owners.values())
        rules = []
        for name, info in layers.items():
            together = sharing[owners[name]] > 1 if info.is_shared else False
            rules.append(_rule(name, info, file.header.entries[owners[name]].name if together else None))
        compact = file.header.version > 1
    found: dict[str, Any] = {"prune": 0.0, "epochs": 0, "finetune_epochs": 0, "layer": rules}
    coders = {info.layout.coder for info in stored.values() if info.is_shared}
    named = "ans" if coders <= {"ans"} else "rans" if coders == {"rans"} else "auto"
    found["coder"] = named if compact else "huffman"
    small = [info for info in stored.values() if len(info.shape) < 2]
    most = max((info.layout.codebook.count for info in small if isinstance(info.layout, Coded)), default=None)
    if most is not None:
        found["small_bits"] = max(most.bit_length(), 1)
    types = {info.dtype for info in small}
    if (
        DType.FLOAT16 in types
        and DType.FLOAT32 not in types
        and DType.FLOAT32 in {info.dtype for info in layers.values()}
    ):
        found["small_dtype"] = "float16"
    names = {name.rpartition(".")[2] for name in stored}
    if "running_mean" in names and "num_batches_tracked" not in names:
        found["batch_norm"] = "fold"
    return found


def renamed(recipe: Recipe, called: Mapping[str, str]) -> Recipe:
    """A recipe whose rules for single tensors of a file (`settings_of`) are for those of a network.

    Args:
        recipe: the settings.
        called: the names of the network's tensors, each with that in the file.
    """
    patterns = {_pattern(full): _pattern(own) for own, full in called.items() if own != full}
    rules = (replace(rule, pattern=patterns.get(rule.pattern, rule.pattern)) for rule in recipe.layers)
    return replace(recipe, layers=tuple(rules)) if patterns else recipe


def _stored(file: ModelFile) -> dict[str, TensorInfo]:
    """Of each tensor that is not tied to an earlier one: how its values are stored, there or where it is a copy of."""
    entries = (entry for entry in file.header.entries if entry.info.encoding is not Encoding.ALIAS)
    return {entry.name: file.stored(entry).info for entry in entries}


def _is_layer(info: TensorInfo) -> bool:
    """Whether a tensor may be a layer (as `layers.is_layer`)."""
    return info.dtype.is_float and len(info.shape) > 1 and info.size > 0


def _owner(file: ModelFile, name: str) -> tuple[int, int]:
    """The tensor whose codebook a tensor has, by its number, and the one that stores it: another one for a copy."""
    source = file.stored(file.entry(name))
    if source.info.target is not None:
        return source.info.target, source.info.target
    return file.number(name), file.number(source.name)


def _rule(name: str, info: TensorInfo, group: str | None) -> dict[str, Any]:
    """The layer rule for one tensor."""
    if not info.is_shared:
        return {"pattern": _pattern(name), "bits": "none"}
    assert isinstance(info.layout, Coded)
    rule: dict[str, Any] = {"pattern": _pattern(name), "levels": max(info.layout.codebook.count, 1)}
    return rule if group is None else rule | {"group": group}


def _pattern(name: str) -> str:
    """What matches this name alone, which may hold what is special in a pattern."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _table(values: Array, dtype: DType) -> SharedValues:
    """The entries of a codebook, sorted; on a grid, if they are what a step of two bytes makes of whole numbers."""
    entries = to_torch(values, dtype)
    centroids = np.sort(entries.numpy() if dtype is DType.FLOAT64 else entries.float().numpy())
    return found_grid(centroids) or SharedValues(centroids)


def _own_table(info: TensorInfo, vector: torch.Tensor) -> SharedValues | None:
    """The values of a float32 vector that is stored as it is, as if it shared them; None if they are too many."""
    plain = info.encoding in (Encoding.RAW, Encoding.PLANES, Encoding.CONSTANT) and len(info.shape) == 1
    if not plain or info.dtype is not DType.FLOAT32 or vector.dtype is not torch.float32:
        return None
    values = torch.unique(vector.detach().cpu())
    values = values[values != 0]
    if len(values) > MAX_CODEBOOK or not torch.isfinite(values).all():
        return None
    return _table(values.numpy(), DType.FLOAT32)


def _book(table: SharedValues, names: Sequence[str], tensors: Mapping[str, torch.Tensor]) -> Codebook | None:
    """Shared values with the weights that take them; None if there are none for some weight."""
    device, members = tensors[names[0]].device, []
    entries = torch.from_numpy(table.centroids).to(device)
    for name in names:
        flat = tensors[name].detach().reshape(-1)
        positions = torch.nonzero(flat, as_tuple=True)[0]
        found = torch.searchsorted(entries, flat[positions].to(entries.dtype))
        if len(found) and int(found.max()) >= len(entries):
            return None
        members.append(Member(name, positions, found))
    return codebook_of(len(table.centroids), table, tuple(members), device)
