"""torch's multi-head attention with its packed projections in sight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


def attend(
    module: nn.MultiheadAttention,
    product: Callable[..., torch.Tensor],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    key_padding_mask: torch.Tensor | None = None,
    need_weights: bool = True,
    attn_mask: torch.Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[torch.Tensor, Any]:
    """As the forward of `module` in evaluation, but for the attention weights, in place of which there is None.

    `product` is as `torch.nn.functional.linear`, and told the whole parameter and the first row last.
    """
    single = query.ndim == 2
    parts = [part[:, None] if single else part.transpose(0, 1) if module.batch_first else part
             for part in (query, key, value)]  # fmt: skip
    width, heads, packed, bias = module.embed_dim, module.num_heads, module.in_proj_weight, module.in_proj_bias
    projected = []
    for place, part in enumerate(parts):
        rows = slice(place * width, (place + 1) * width)
        made = product(part, packed[rows], None if bias is None else bias[rows], packed, place * width)
        projected.append(made.reshape(*made.shape[:2], heads, -1).permute(1, 2, 0, 3))
    mask = _mask(attn_mask, key_padding_mask, projected[0], heads, single)
    q, k, v = projected
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    out = module.out_proj(out.permute(2, 0, 1, 3).flatten(2))
    return (out[:, 0] if single else out.transpose(0, 1) if module.batch_first else out), None


def _mask(
    attention: torch.Tensor | None, padding: torch.Tensor | None, like: torch.Tensor, heads: int, single: bool
) -> torch.Tensor | None:
    """Both masks as numbers to add to the scores; those of torch that are bool are True where nothing is seen."""
    total = None
    for mask, is_padding in ((attention, False), (padding, True)):
        if mask is None:
            continue
        if mask.dtype is torch.bool:
            mask = torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, -torch.inf)
        if is_padding:
            mask = (mask[None] if single else mask)[:, None, None]
        elif mask.ndim == 3:
            mask = mask.reshape(-1, heads, *mask.shape[1:])
        total = mask if total is None else total + mask
    return total
