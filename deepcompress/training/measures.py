"""Losses and metrics of known tasks, from what a network gave and the targets.

Of each batch there is a loss, for training, and there are sums (float64, on the CPU) that are added up over batches: a
metric such as intersection over union is no mean over batches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F

from deepcompress.errors import DataError
from deepcompress.training.outputs import main_of

#: The label of what does not count, as in torch's cross entropy.
IGNORED = -100
#: The same in masks of segmentation, as in Pascal VOC, where the network has no such class.
VOID = 255


@dataclass(frozen=True)
class Figures:
    """What the sums over all batches come to: the mean loss, the metric, and what is right in percent."""

    loss: float
    value: float
    accuracy: float | None = None
    error: float | None = None


def sums_of(*values: float | torch.Tensor) -> torch.Tensor:
    """Numbers of a batch in double precision, on the CPU: not every device has that."""
    return torch.tensor([float(value) for value in values], dtype=torch.float64)


# Classes: of samples, of tokens, of pixels -----------------------------------------------------------------------


def two_classes(logits: torch.Tensor) -> torch.Tensor:
    """Logits (n, 2, ...) of the one (n, 1, ...) or (n,) by which a network tells two classes apart."""
    one = logits[:, None] if logits.ndim == 1 else logits
    return torch.cat([torch.zeros_like(one), one], dim=1) if one.shape[1] == 1 else one


def of_samples(output: Any, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (n, classes) and labels (n,) of a classifier."""
    logits = two_classes(main_of(output))
    return logits, target if target.ndim == 1 and target.dtype is torch.int64 else target.flatten().long()


def of_tokens(output: Any, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same of outputs (n, t, classes)."""
    return _counted(main_of(output).flatten(0, 1), target.flatten().long())


def of_pixels(output: Any, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same of outputs (n, classes, ...)."""
    logits, labels = two_classes(main_of(output)), target.flatten().long()
    return _counted(logits.movedim(1, -1).flatten(0, -2), labels, VOID)


def _counted(logits: torch.Tensor, labels: torch.Tensor, void: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (n, classes) and labels (n,) of what counts."""
    counts = labels != IGNORED
    if void is not None and logits.shape[1] <= void:
        counts &= labels != void
    return (logits, labels) if bool(counts.all()) else (logits[counts], labels[counts])


Arranged = Callable[[Any, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def class_loss(arrange: Arranged, output: Any, target: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy in nats."""
    logits, labels = arrange(output, target)
    if not len(labels):  # nothing in this batch counts: neither a gradient nor NaN
        return logits.sum() * 0
    return F.cross_entropy(logits, labels)


def class_tally(arrange: Arranged, output: Any, target: torch.Tensor) -> torch.Tensor:
    """Sum of the cross entropy, how many count, and how many are right."""
    logits, labels = arrange(output, target)
    right = (logits.argmax(dim=1) == labels).sum()
    return sums_of(F.cross_entropy(logits, labels, reduction="sum"), (labels != IGNORED).sum(), right)


def class_result(sums: torch.Tensor) -> Figures:
    """The metric is the error in percent."""
    loss, count, right = sums.tolist()
    if not count:
        raise DataError("there are no samples to evaluate on: no label counts")
    error = 100.0 * (count - right) / count
    return Figures(loss / count, error, 100.0 * right / count, error)


def pixel_tally(output: Any, target: torch.Tensor) -> torch.Tensor:
    """As `class_tally`, and for each class the pixels that both prediction and label call so, and that either does."""
    logits, labels = of_pixels(output, target)
    found, classes = logits.argmax(dim=1), logits.shape[1]
    both, one, other = (
        part.bincount(minlength=classes).double().cpu() for part in (labels[found == labels], found, labels)
    )
    return torch.cat([class_tally(of_pixels, output, target), both, one + other - both])


def pixel_result(sums: torch.Tensor) -> Figures:
    """The metric is the mean over classes of intersection over union (Everingham et al. 2015), in percent."""
    figures = class_result(sums[:3])
    both, either = sums[3:].chunk(2)
    overlap = both[either > 0] / either[either > 0]
    return replace(figures, value=100.0 * float(overlap.mean()))


# Numbers ---------------------------------------------------------------------------------------------------------


def _alike(output: Any, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both in one shape: (n,) beside (n, 1) would be broadcast to (n, n)."""
    found = main_of(output)
    return found, target.to(found.dtype).reshape(found.shape)


def square_loss(output: Any, target: torch.Tensor) -> torch.Tensor:
    """Mean squared error."""
    return F.mse_loss(*_alike(output, target))


def square_tally(output: Any, target: torch.Tensor) -> torch.Tensor:
    """Sum of the squares, and how many there are."""
    found, wanted = _alike(output, target)
    return sums_of(F.mse_loss(found, wanted, reduction="sum"), found.numel())


def square_result(sums: torch.Tensor) -> Figures:
    """The metric is the mean squared error."""
    loss, count = sums.tolist()
    return Figures(loss / count, loss / count)


def labels_loss(output: Any, target: torch.Tensor) -> torch.Tensor:
    """Mean binary cross entropy in nats, from logits."""
    logits, wanted = _alike(output, target)
    counts = wanted != IGNORED
    return (
        F.binary_cross_entropy_with_logits(logits[counts], wanted[counts]) if bool(counts.any()) else logits.sum() * 0
    )


def labels_tally(output: Any, target: torch.Tensor) -> torch.Tensor:
    """Sum of the loss, how many labels count, and true positives, and labels that are said or wanted."""
    logits, wanted = _alike(output, target)
    counts = wanted != IGNORED
    logits, wanted = logits[counts], wanted[counts]
    said = logits > 0
    loss = F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")
    return sums_of(loss, wanted.numel(), (said & (wanted > 0)).sum(), said.sum() + (wanted > 0).sum())


def labels_result(sums: torch.Tensor) -> Figures:
    """The metric is F1 over all labels of all samples (micro average) in percent; said is what has a logit above 0."""
    loss, count, right, both = sums.tolist()
    return Figures(loss / max(count, 1), 100.0 * 2 * right / both if both else 100.0)


def _cosine(output: Any, target: torch.Tensor) -> torch.Tensor:
    return F.cosine_similarity(*_alike(output, target), dim=-1)


def labels_taught(output: Any, taught: torch.Tensor) -> torch.Tensor:
    """As `labels_loss`, with the probabilities of a teacher in place of labels, from its logits."""
    return labels_loss(output, taught.sigmoid())


def cosine_loss(output: Any, target: torch.Tensor) -> torch.Tensor:
    """One less the mean cosine."""
    return 1 - _cosine(output, target).mean()


def cosine_tally(output: Any, target: torch.Tensor) -> torch.Tensor:
    """Sum of the cosines, and how many there are."""
    cosines = _cosine(output, target)
    return sums_of(cosines.sum(), cosines.numel())


def cosine_result(sums: torch.Tensor) -> Figures:
    """The metric is the mean cosine."""
    total, count = sums.tolist()
    return Figures(1 - total / count, total / count)


# Which outputs and targets are of which task ---------------------------------------------------------------------


def is_whole(y: torch.Tensor) -> bool:
    """Whether these are whole numbers."""
    return not y.is_floating_point() and not y.is_complex()


def _binary(y: torch.Tensor) -> bool:
    return bool(((y == 0) | (y == 1) | (y == IGNORED)).all())


def is_samples(o: torch.Tensor, y: torch.Tensor) -> bool:
    """Logits of classes, or one for two classes, and a label each."""
    if o.ndim == 2 and o.shape[1] > 1:
        return y.numel() == len(o) == len(y) and is_whole(y)
    return o.ndim in (1, 2) and y.numel() == len(o) and _binary(y)


def is_tokens(o: torch.Tensor, y: torch.Tensor) -> bool:
    """Logits of each token, and its label."""
    return o.ndim == 3 and o.shape[:2] == y.shape and is_whole(y)


def is_pixels(o: torch.Tensor, y: torch.Tensor) -> bool:
    """Logits of each pixel, and its label."""
    if o.ndim < 3 or len(o) != len(y) or not (is_whole(y) or _binary(y)):
        return False
    one = y.squeeze(1) if y.ndim == o.ndim and y.shape[1] == 1 else y
    return o.shape[2:] == one.shape[1:] and (o.shape[1] > 1 or _binary(y))


def is_labels(o: torch.Tensor, y: torch.Tensor) -> bool:
    """A logit for each label, which is there or not."""
    return o.ndim == 2 and o.shape == y.shape and _binary(y)


def is_numbers(o: torch.Tensor, y: torch.Tensor) -> bool:
    """Numbers, and as many."""
    return bool(o.ndim) and len(o) == len(y) and o.squeeze().shape == y.squeeze().shape


def is_vectors(o: torch.Tensor, y: torch.Tensor) -> bool:
    """Vectors, and as many."""
    return o.ndim >= 2 and o.shape == y.shape and y.is_floating_point()
