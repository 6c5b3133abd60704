"""What weights cost: exact on masks small enough to count by hand, sensible on others."""

from __future__ import annotations

import math

import pytest
import torch

from deepcompress.prune.costs import keeping_bits, mask_bits, survival, total_bits
from deepcompress.prune.masks import Masks


def crowded_and_lonely():
    """One row full, one weight alone in another."""
    mask = torch.zeros(20, 50, dtype=torch.bool)
    mask[3] = True
    mask[10, 7] = True
    return mask


def test_survival_by_hand():
    mask = torch.tensor([[True, True], [False, False]])
    row, column = (2 + 4 * 0.5) / 6, (1 + 4 * 0.5) / 6
    assert survival(mask)[0, 0].item() == pytest.approx(row * column / 0.5)
    assert survival(mask)[1, 1].item() == pytest.approx((4 * 0.5 / 6) * column / 0.5)


def test_a_lonely_weight_costs_more_than_one_in_a_crowd():
    bits = keeping_bits(crowded_and_lonely(), 2.0)
    assert bits[3, 30] < bits[10, 7]
    assert bits.min() >= 2.0


def test_every_shape_keeps_its_shape():
    for shape in ((6,), (4, 5), (3, 2, 3, 3), (2, 3, 4, 5, 6)):
        mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) > 0.5
        assert keeping_bits(mask).shape == shape
        assert survival(mask).numel() == mask.numel()


@pytest.mark.parametrize("fill", [False, True])
def test_nothing_and_everything_are_finite_and_almost_free(fill):
    mask = torch.full((100, 100), fill)
    assert 0 <= mask_bits(mask) < 0.02 * mask.numel()
    assert torch.isfinite(keeping_bits(mask)).all()


def test_rows_and_columns_are_worth_bits():
    """A mask of full rows takes far fewer bits than the entropy of its density."""
    mask = crowded_and_lonely()
    p = mask.float().mean().item()
    entropy = -mask.numel() * (p * math.log2(p) + (1 - p) * math.log2(1 - p))
    assert mask_bits(mask) < 0.3 * entropy


def test_a_random_mask_takes_about_its_entropy():
    mask = torch.rand(300, 300, generator=torch.Generator().manual_seed(1)) < 0.1
    p = mask.float().mean().item()
    entropy = -mask.numel() * (p * math.log2(p) + (1 - p) * math.log2(1 - p))
    assert mask_bits(mask) == pytest.approx(entropy, rel=0.03)


def test_total_adds_positions_and_values():
    masks = Masks({"a": crowded_and_lonely(), "b": torch.ones(3, 3, dtype=torch.bool)})
    positions = sum(mask_bits(mask) for mask in masks.keep.values())
    assert total_bits(masks, 3.0) == pytest.approx(positions + 3 * (51 + 9))
    assert total_bits(masks, {"a": 1.0, "b": 5.0}) == pytest.approx(positions + 51 + 45)


@pytest.mark.parametrize("shape", [(7,), (1, 9), (30, 40), (6, 5, 3, 3)])
@pytest.mark.parametrize("density", [0.0, 0.05, 0.5, 1.0])
def test_positions_are_counted_place_by_place(shape, density):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(2)) < density
    p = survival(mask).double()
    by_place = -torch.where(mask.reshape(p.shape), p, 1 - p).log2().sum().item()
    assert mask_bits(mask) == pytest.approx(by_place, rel=1e-5, abs=1e-3)
