"""Optimal Brain Surgeon, layer by layer: what the layer's output loses, and how the weights that stay make up for it.

Hassibi and Stork 1993 remove the weight whose loss costs least by the whole Hessian, and move all others to the new
minimum. The Hessian of a network is too large for that; that of one layer's squared output error is not: it is the
second moment of the layer's inputs, the same for each output (Dong, Chen and Pan 2017, L-OBS, section 3.2).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import nn

from deepcompress.errors import RecipeError
from deepcompress.networks.inputs import predict
from deepcompress.prune.criteria.base import Evidence, Verdict, criterion, samples
from deepcompress.prune.criteria.gradients import evaluating
from deepcompress.prune.masks import Masks

BLOCK = 1024  # most inputs of which one matrix is formed; the inputs of wider layers are split evenly
DAMPING = 0.01  # what is added to the diagonal, in means of it
ELEMENTS = 1 << 24  # most numbers of a convolution's patches at once, where one sample has not more

Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


@criterion("obs", scope="layer")
def obs(evidence: Evidence) -> Verdict:
    """What the layer's output error grows by without the weight: ``w^2 / (2 [H^-1]_qq)``, H the inputs' second moment.

    Weights that are pruned already do not make up for others: H is that of the inputs that an output still has. Once
    it is decided who stays, the correction is exact for all that is removed at once (`compensated`). In layers of more
    than `BLOCK` inputs, second moments between its blocks are left out.

    Memory: 8 bytes × inputs × min(inputs, BLOCK) for each layer, whatever the number of its outputs. Weights that are
    none of a Linear or Conv layer, or of one that never ran (attention uses some of its own without running them),
    have no inputs to look at: they are judged by ``w^2 / 2``, as if inputs were of variance 1, and are not corrected.

    Raises:
        RecipeError: there is no training data, or a layer's inputs are NaN or infinite.
        DataError: it has no samples.
    """
    moments = second_moments(evidence)
    scores = {}
    for name, weight in evidence.weights.items():
        if name not in moments:
            scores[name] = weight.detach().float().square() / 2
            continue
        values, alive = moments[name].rows(weight.detach()), moments[name].rows(evidence.masks.keep[name])
        parts = [saliency(*block) for block in zip(moments[name].matrices(), values, alive, strict=True)]
        scores[name] = moments[name].joined(parts, weight)
    strange = [name for name in evidence.weights if name not in moments]
    notes = (f"obs sees no inputs of {', '.join(strange)}: judged by magnitude, and not corrected",) if strange else ()

    def correct(masks: Masks) -> None:
        for name, moment in moments.items():
            weight = evidence.weights[name]
            blocks = zip(moment.matrices(), moment.rows(weight.detach()), moment.rows(masks.keep[name]), strict=True)
            with torch.no_grad():
                weight.copy_(moment.joined([compensated(*block) for block in blocks], weight))

    return Verdict(scores, correct, notes)


@torch.no_grad()
def saliency(hessian: torch.Tensor, weight: torch.Tensor, alive: torch.Tensor) -> torch.Tensor:
    """What ``1/2 d^T H d`` is where one weight of a row goes to 0 and the others that are alive move to the best place.

    Hassibi and Stork 1993, equation 5: ``w^2 / (2 [H^-1]_qq)``, H being that of the row's weights that are alive.

    Args:
        hessian: (groups, inputs, inputs), positive definite.
        weight: (groups, rows, inputs).
        alive: bool, like `weight`.

    Returns:
        like `weight`, float64; 0 where it is not alive.
    """
    result = torch.zeros_like(weight, dtype=hessian.dtype)
    for group, whole in enumerate(hessian):
        full = alive[group].all(dim=1)
        if bool(full.any()):
            result[group, full] = weight[group, full].to(whole.dtype).square() / (2 * inverse_diagonal(whole))
        for row in (~full).nonzero().flatten().tolist():
            at = alive[group, row].nonzero().flatten()
            inverse = inverse_diagonal(whole[at[:, None], at])
            result[group, row, at] = weight[group, row, at].to(whole.dtype).square() / (2 * inverse)
    return result


@torch.no_grad()
def compensated(hessian: torch.Tensor, weight: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """The rows of `weight` with those that are kept moved to where ``1/2 d^T H d`` is least, the others being 0.

    That is Hassibi and Stork's correction for all that is removed at once, ``-[H^-1]_SP ([H^-1]_PP)^-1 w_P``, in the
    form ``(H_SS)^-1 H_SP w_P``, which needs no inverse: S are the kept, P the removed. Rows that lose nothing do not
    move.

    Arguments and result as in `saliency`, `keep` as `alive` there.
    """
    result = (weight * keep).to(hessian.dtype)
    lost = (weight * ~keep).to(hessian.dtype)
    for group, row in lost.any(dim=2).nonzero().tolist():
        at = keep[group, row].nonzero().flatten()
        pull = hessian[group, at] @ lost[group, row]
        factor = torch.linalg.cholesky(hessian[group][at[:, None], at])
        result[group, row, at] += torch.cholesky_solve(pull[:, None], factor)[:, 0]
    return result


def inverse_diagonal(matrix: torch.Tensor) -> torch.Tensor:
    """The diagonal of the inverse of a positive definite matrix (..., n, n), or several: (..., n)."""
    return torch.cholesky_inverse(torch.linalg.cholesky(matrix)).diagonal(dim1=-2, dim2=-1)


class Moments:
    """The mean of ``x x^T`` over vectors x, in blocks along its diagonal; one for each group.

    Args:
        groups: of a convolution; 1 for a Linear.
        width: the length of an x.
    """

    def __init__(self, groups: int, width: int) -> None:
        self.groups, self.width = groups, width
        self.count = -(-self.width // BLOCK)
        self.totals: list[torch.Tensor] = []
        self.seen = 0

    def add(self, inputs: torch.Tensor) -> None:
        """Count vectors in: (groups, number, width)."""
        inputs = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
        for index, part in enumerate(inputs.tensor_split(self.count, dim=2)):
            product = _precise(part.mT @ part)
            if index == len(self.totals):
                self.totals.append(product)
            else:
                self.totals[index] += product
        self.seen += inputs.shape[1]

    def matrices(self) -> Iterable[torch.Tensor]:
        """The blocks, each (groups, inputs, inputs), float64, damped; 1 on the diagonal of one without any input."""
        for total in self.totals:
            diagonal = total.diagonal(dim1=1, dim2=2)
            mean = diagonal.mean(dim=1, keepdim=True)
            more = torch.where(mean > 0, DAMPING * mean, self.seen)
            yield (total + torch.diag_embed(more.expand_as(diagonal))) / self.seen

    def rows(self, tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """A tensor of the weight's shape as blocks (groups, outputs of a group, inputs), where the matrices are."""
        rows = tensor.reshape(self.groups, -1, self.width)
        return rows.to(self.totals[0].device).tensor_split(self.count, dim=2)

    def joined(self, blocks: list[torch.Tensor], weight: torch.Tensor) -> torch.Tensor:
        """The inverse of `rows`, on the device of `weight` and with its shape."""
        return torch.cat(blocks, dim=2).reshape(weight.shape).to(weight.device, torch.float32)


def _precise(tensor: torch.Tensor) -> torch.Tensor:
    """In float64; Apple's GPUs have none, so there on the CPU."""
    return tensor.cpu().double() if tensor.device.type == "mps" else tensor.double()


def second_moments(evidence: Evidence) -> dict[str, Moments]:
    """By name of the weight, for those of layers of which inputs were seen; of tied layers all inputs count.

    Raises:
        RecipeError: there is no training data, or a layer's inputs are NaN or infinite.
    """
    names = {id(weight): name for name, weight in evidence.weights.items()}
    found: dict[str, Moments] = {}

    def look(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        assert isinstance(layer, Layer)
        name = names[id(layer.weight)]
        for patches in inputs_of(layer, inputs[0]):
            found.setdefault(name, Moments(groups_of(layer), layer.weight[0].numel())).add(patches)

    with evaluating(evidence), torch.no_grad():
        handles = [
            layer.register_forward_pre_hook(look)
            for layer in evidence.model.modules()
            if isinstance(layer, Layer) and id(layer.weight) in names
        ]
        try:
            for x, _ in samples(evidence):
                predict(evidence.model, x)
        finally:
            for handle in handles:
                handle.remove()
    for name, moments in found.items():
        if not all(bool(torch.isfinite(total).all()) for total in moments.totals):
            raise RecipeError(
                f"criterion {evidence.recipe.criterion}: inputs of the layer of {name} are NaN or infinite: look at "
                "the data"
            )
    return found


def groups_of(layer: Layer) -> int:
    """Into how many groups the layer's outputs are divided, each of which meets inputs of its own."""
    return 1 if isinstance(layer, nn.Linear) else layer.groups


def inputs_of(layer: Layer, x: torch.Tensor) -> Iterable[torch.Tensor]:
    """What each output of the layer is a weighted sum of, for its input `x`: (groups, number, inputs of an output).

    Patches of a convolution are in the order of its weight's last dimensions. They come in parts of some samples.
    """
    if isinstance(layer, nn.Linear):
        yield x.reshape(1, -1, layer.in_features)
        return
    if x.ndim == len(layer.kernel_size) + 1:
        x = x[None]
    size = max(1, ELEMENTS // max(x[0].numel() * math.prod(layer.kernel_size), 1))
    for part in torch.split(x, size):
        yield _patches(layer, part)


def _patches(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, x: torch.Tensor) -> torch.Tensor:
    space = len(layer.kernel_size)
    x = F.pad(x, _margins(layer), mode="constant" if layer.padding_mode == "zeros" else layer.padding_mode)
    for axis in range(space):
        reach = layer.dilation[axis] * (layer.kernel_size[axis] - 1) + 1
        x = x.unfold(2 + axis, reach, layer.stride[axis])[..., :: layer.dilation[axis]]
    x = torch.unflatten(x, 1, (layer.groups, -1))  # samples, groups, channels, *positions, *kernel
    x = x.permute(1, 0, *range(3, 3 + space), 2, *range(3 + space, 3 + 2 * space))
    return x.reshape(layer.groups, -1, layer.weight[0].numel())


def _margins(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> list[int]:
    """Padding before and after each dimension, the last dimension first, as `F.pad` takes it."""
    margins = []
    for axis in reversed(range(len(layer.kernel_size))):
        if layer.padding == "same":
            total = layer.dilation[axis] * (layer.kernel_size[axis] - 1)
            margins += [total // 2, total - total // 2]
        else:
            margins += [0, 0] if layer.padding == "valid" else [int(layer.padding[axis])] * 2
    return margins
