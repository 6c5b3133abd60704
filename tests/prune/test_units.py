"""The cut of whole units: which go, how many, and what goes with them."""

from __future__ import annotations

import pytest
import torch

from deepcompress.errors import RecipeError
from deepcompress.prune.masks import Masks
from deepcompress.prune.units import Group, cut_units, may_be_empty, silence_units, silenced
from deepcompress.recipe import LayerRule, Recipe

# Two layers, a (4 rows of 3) read by b (2 rows of 4): each of a's units has 3 + 2 weights, of 20 in all.
SHAPES = {"a": (4, 3), "b": (2, 4)}
CHAIN = Group(4, {"a": torch.arange(4)}, {"b": torch.arange(4)}, {"a.bias": torch.arange(4)})


def full():
    return Masks({name: torch.ones(shape, dtype=torch.bool) for name, shape in SHAPES.items()})


def scores(of_rows):
    return {"a": torch.tensor(of_rows)[:, None].expand(4, 3), "b": torch.ones(2, 4)}


def cut(of_rows, groups=(CHAIN,), before=None, progress=1.0, scope="global", held=(), **settings):
    return cut_units(scores(of_rows), groups, before or full(), Recipe(**settings), progress, scope, held)


def test_a_unit_takes_its_row_and_what_reads_it():
    masks = cut([3.0, 1.0, 2.0, 4.0], prune=0.5)
    expected = torch.tensor([True, False, False, True])
    assert torch.equal(masks.keep["a"], expected[:, None].expand(4, 3))
    assert torch.equal(masks.keep["b"], expected[None].expand(2, 4))
    assert masks.sparsity == 0.5
    assert CHAIN.weights({name: torch.Size(shape) for name, shape in SHAPES.items()}).tolist() == [5] * 4


@pytest.mark.parametrize(("prune", "gone"), [(0.0, 0), (0.2, 0), (0.25, 1), (0.45, 1), (0.5, 2), (0.7, 2), (0.75, 3)])
def test_the_fraction_is_met_from_below_to_within_a_unit(prune, gone):
    masks = cut([3.0, 1.0, 2.0, 4.0], prune=prune)
    assert int((~CHAIN.kept(masks)).sum()) == gone
    assert masks.sparsity <= prune


def test_progress_and_what_is_gone_already():
    half = cut([3.0, 1.0, 2.0, 4.0], prune=0.5, progress=0.5)
    assert CHAIN.kept(half).tolist() == [True, False, True, True]
    # What is gone scores 0, so it goes first; a single weight that is gone stays so, and counts.
    before = Masks({**half.keep, "a": half.keep["a"] & (torch.arange(12).reshape(4, 3) != 0)})
    of_rows = torch.tensor([1.0, 0.0, 2.0, 4.0])
    later = cut_units({**scores([1.0, 0.0, 2.0, 4.0]), "a": of_rows[:, None] * before.keep["a"]}, [CHAIN], before,
                      Recipe(prune=0.5), 1.0, "global")  # fmt: skip
    assert CHAIN.kept(later).tolist() == [False, False, True, True]


def test_the_best_unit_stays_and_more_than_there_is_is_refused():
    with pytest.raises(
        RecipeError, match=r"prune is 0.9, but the units that can go have only 15 of 20 weights \(75.0 %\)"
    ):
        cut([3.0, 1.0, 2.0, 4.0], prune=0.9)
    whole = Group(4, CHAIN.rows, CHAIN.columns, whole=True)
    assert not whole.kept(cut([3.0, 1.0, 2.0, 4.0], [whole], prune=0.999)).all()
    assert may_be_empty([whole, CHAIN]) == {"a"}


def test_ties_go_by_position():
    assert CHAIN.kept(cut([1.0, 1.0, 1.0, 1.0], prune=0.5)).tolist() == [False, False, True, True]


def test_a_layer_rule_is_a_fraction_of_the_units():
    masks = cut([3.0, 1.0, 2.0, 4.0], prune=0.1, layers=(LayerRule("a", prune=0.75),))
    assert CHAIN.kept(masks).tolist() == [False, False, False, True]
    masks = cut([3.0, 1.0, 2.0, 4.0], prune=0.1, layers=(LayerRule("a", prune=0.99),))
    assert CHAIN.kept(masks).tolist() == [False, False, False, True]


def test_coupled_layers_go_together_by_their_mean():
    shapes = {"a": (3, 2), "b": (3, 1)}
    before = Masks({name: torch.ones(shape, dtype=torch.bool) for name, shape in shapes.items()})
    group = Group(3, {"a": torch.arange(3), "b": torch.tensor([2, 1, 0])})
    of_a, of_b = torch.tensor([5.0, 1.0, 4.0]), torch.tensor([0.0, 9.0, 6.0])  # units 0, 1, 2: 5.5, 5 and 2
    found = cut_units(
        {"a": of_a[:, None].expand(3, 2), "b": of_b[:, None]}, [group], before, Recipe(prune=0.4), 1, "global"
    )
    assert group.kept(found).tolist() == [True, True, False]
    assert found.keep["b"].flatten().tolist() == [False, True, True]


def test_rows_and_columns_of_no_unit_are_left():
    group = Group(1, {"a": torch.tensor([-1, 0, -1, -1])}, {"b": torch.tensor([-1, 0, -1, -1])}, whole=True)
    found = cut([3.0, 1.0, 2.0, 4.0], [group], prune=0.25)
    assert found.keep["a"].any(dim=1).tolist() == found.keep["b"].any(dim=0).tolist() == [True, False, True, True]


def test_groups_with_a_held_tensor_stay_as_they_are():
    before = cut([3.0, 1.0, 2.0, 4.0], prune=0.25)
    for name in ("a", "b"):
        found = cut([3.0, 0.0, 2.0, 4.0], before=before, held=[name], prune=0.75)
        assert all(torch.equal(found.keep[key], before.keep[key]) for key in SHAPES)


def test_quality_is_a_threshold_in_standard_deviations():
    # The root mean square of 1, 1, 1, 5 is sqrt(7): with quality 1 the three are below it.
    for scope in ("layer", "global"):
        masks = cut([1.0, 1.0, 1.0, 5.0], scope=scope, distribution="std", quality=1.0)
        assert CHAIN.kept(masks).tolist() == [False, False, False, True]
        assert CHAIN.kept(cut([1.0, 1.0, 1.0, 5.0], scope=scope, distribution="std", quality=0.3)).all()


def test_biases_of_units_that_are_gone_are_zero():
    bias = torch.ones(4)
    silent = silenced([CHAIN], cut([3.0, 1.0, 2.0, 4.0], prune=0.5), {"a.bias": bias})
    silence_units(silent)
    assert bias.tolist() == [1, 0, 0, 1]
    assert silenced([CHAIN], full(), {"a.bias": bias}) == []
