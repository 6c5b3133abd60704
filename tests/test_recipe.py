"""Settings: what is refused, which rule wins, and the way to TOML and back."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepcompress.errors import DeepCompressError, RecipeError
from deepcompress.recipe import BITS, CHOICES, MAX_BITS, PRUNE, LayerRule, Recipe, pattern_hint, read_toml

# TOML has no lone surrogates, as it is UTF-8.
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
fractions = st.floats(0, 1, exclude_max=True)
widths = st.integers(1, MAX_BITS) | st.just("none")
rules = st.builds(LayerRule, names, prune=st.none() | fractions, bits=st.none() | widths, group=st.none() | names)
#: Choices that some of the other settings exclude; "random" is an init as well, and tried with it below.
EXCLUSIVE = ("circular", "gap", "set", "deepr", "dsr", "start", "random", "rows")
recipes = st.builds(
    Recipe,
    prune=fractions,
    bits=st.none() | widths,
    conv_bits=st.none() | widths,
    rate=st.floats(0, 10),
    small_bits=st.none() | st.integers(1, MAX_BITS),
    iterations=st.integers(1, 50),
    epochs=st.integers(0, 500),
    retrain=st.booleans(),
    index_bits=st.none() | st.integers(1, MAX_BITS),
    lr=st.floats(0, 10),
    penalty_weight=st.floats(0, 1),
    label_smoothing=st.floats(0, 0.99),
    distill=st.floats(0, 1),
    temperature=st.floats(0.01, 1000),
    shift=st.none() | st.integers(0, 64),
    flip=st.none() | st.booleans(),
    seed=st.integers(0, 2**31 - 1),
    layers=st.lists(rules, max_size=3).map(tuple),
    **{field: st.sampled_from([value for value in allowed if value not in EXCLUSIVE])
       for field, allowed in CHOICES.items()},
)  # fmt: skip


@given(recipes)
def test_toml_round_trip(tmp_path_factory, recipe):
    path = tmp_path_factory.mktemp("toml") / "r.toml"
    path.write_text(recipe.to_toml(), encoding="utf-8")
    assert Recipe.load(path) == recipe


@given(recipes)
def test_dict_round_trip(recipe):
    assert Recipe.from_dict(recipe.as_dict()) == recipe


def test_every_field_comes_back_from_toml(tmp_path):
    """Each set to something else than its default: a field that is forgotten on the way would come back as that."""
    changes = {
        "prune": 0.5, "target_size": 1000, "regrow": "surgery", "regrow_fraction": 0.4, "regrow_every": 11,
        "deepr_alpha": 0.02, "deepr_temperature": 0.03,
        "scope": "global", "criterion": "magnitude", "score_samples": 7,
        "schedule": "linear", "iterations": 2, "epochs": 3, "prune_step": 0.3, "gap": 2.5,
        "bits": 4, "conv_bits": 6, "init": "density", "quantizer": "uniform", "step": 0.07,
        "weighting": "fisher", "rate": 0.04, "codebook_dtype": "float16", "small_bits": 6, "finetune_epochs": 1,
        "coder": "fixed", "index_bits": 5,
        "small_dtype": "float16", "batch_norm": "fold", "low_rank": 0.9, "retrain": False, "optimizer": "adam",
        "lr": 0.3, "finetune_lr": 0.4, "batch_size": 9, "penalty": "l1", "penalty_weight": 0.1, "lr_schedule": "step",
        "warmup": 1.5, "label_smoothing": 0.1, "distill": 0.7, "temperature": 2.5, "precision": "bfloat16", "shift": 3,
        "flip": False, "seed": 8, "layers": (LayerRule("a", prune=0.1, bits=2, group="g"),),
    }  # fmt: skip
    others = (Recipe(distribution="std", quality=0.5), Recipe(levels=3), Recipe(max_drop=0.5), Recipe(reload=True),
              Recipe(criterion="taylor2"), Recipe(rewind="start"), Recipe(rewind="random", init="random"))  # fmt: skip
    for recipe in (Recipe(**changes), *others):
        (tmp_path / "r.toml").write_text(recipe.to_toml(), encoding="utf-8")
        assert Recipe.load(tmp_path / "r.toml") == recipe
    alone = {"distribution", "quality", "levels", "max_drop", "reload", "rewind"}  # in recipes of their own
    assert {field.name for field in dataclasses.fields(Recipe)} - alone <= changes.keys()
    default = Recipe()
    # With a target_size there is but the one criterion.
    assert [key for key, value in changes.items() if value == getattr(default, key)] == ["criterion"]


def test_as_dict_leaves_out_what_is_not_set():
    plain = Recipe(layers=(LayerRule("conv*", prune=0.5),)).as_dict()
    assert plain["layer"] == [{"pattern": "conv*", "prune": 0.5}]
    assert not {"conv_bits", "quality", "index_bits", "shift", "flip", "layers"} & set(plain)
    assert None not in plain.values()


def test_without_retraining_nothing_is_pruned_or_shared_that_nobody_asked_for():
    plain = Recipe(retrain=False)
    assert (plain.prune, plain.quantizer) == (0.0, "rows")
    assert Recipe.from_dict(plain.as_dict()) == plain
    assert (Recipe().prune, Recipe().quantizer, Recipe().bits) == (PRUNE, "kmeans", BITS)
    asked = [
        *({"bits": 5}, {"bits": "none"}, {"levels": 3}, {"conv_bits": 4}, {"rate": 0.1}),
        *({"layers": (LayerRule("a", bits=4),)}, {"layers": (LayerRule("a", prune=0.5),)}),
        {"quality": 1.0, "distribution": "std"},
    ]
    for settings in asked:
        recipe = Recipe(retrain=False, **settings)
        assert (recipe.prune, recipe.quantizer) == (0.0, "kmeans"), settings
    kept = Recipe(retrain=False, layers=(LayerRule("a", keep=True),))
    assert kept.quantizer == "rows"


@pytest.mark.parametrize("settings", [{}, {"retrain": False, "levels": 4}, {"retrain": False, "low_rank": 0.5}])
def test_rows_are_for_networks_as_they_were_trained(settings):
    with pytest.raises(RecipeError, match="quantizer 'rows'"):
        Recipe(quantizer="rows", **settings)


def test_none_and_the_word_none_are_the_same_bits():
    assert Recipe(bits=None) == Recipe(bits="none")
    assert Recipe.from_dict(Recipe(bits=None).as_dict()).levels_of("w", False) is None


REFUSED = [
    ("prune", 1.2), ("prune", 1), ("prune", -0.1), ("prune", math.nan), ("prune", "0.5"), ("prune", True),
    ("bits", 0), ("bits", MAX_BITS + 1), ("bits", 2.5), ("bits", "5"), ("bits", True), ("bits", "all"),
    ("conv_bits", 0), ("conv_bits", "some"), ("iterations", 0), ("iterations", 1.5), ("epochs", -1),
    ("finetune_epochs", -1), ("batch_size", 0), ("seed", -1), ("seed", 2**31), ("shift", -1), ("shift", 65),
    ("lr", -1.0), ("lr", math.inf), ("lr", math.nan), ("lr", "fast"), ("lr", [1]), ("finetune_lr", -1.0),
    ("penalty_weight", -1.0), ("quality", -0.5), ("quality", math.nan),
    *((field, value) for field in ("label_smoothing", "distill", "temperature")
      for value in (-0.1, math.nan, math.inf, -math.inf, True, "0.1", None, [0.1])),
    ("label_smoothing", 1), ("warmup", -1), ("warmup", math.nan), ("warmup", True), ("distill", 1.01),
    ("temperature", 0),
    *(("index_bits", value) for value in (0, -1, MAX_BITS + 1, 2.5, 4.0, True, "4", math.nan)),
    *((field, value) for field in ("levels", "small_bits") for value in (0, -1, 2.5, True, "4", 4097)),
    *((field, value) for field in ("regrow_every", "regrow_fraction") for value in (-1, math.nan, True, "4")),
    ("regrow_fraction", 1), ("regrow_every", 0), ("regrow_every", 2.5), ("regrow", True), ("regrow", None),
    *((field, value) for field in ("deepr_alpha", "deepr_temperature") for value in (-0.1, math.inf, True, "0.1")),
    *(("rate", value) for value in (-0.1, math.nan, math.inf, True, "0.1")),
    *((field, value) for field in ("lr_schedule", "precision", "batch_norm") for value in (None, True, "", "Step", 16)),
    *((field, "nonsense") for field in CHOICES),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), REFUSED)
def test_refused_values_name_the_setting_and_what_was_found(field, value):
    settings = {"distribution": "std"} if field == "quality" else {}
    with pytest.raises(RecipeError) as caught:
        Recipe(**{**settings, field: value})
    assert str(caught.value).startswith(f"{field} is {value!r}")
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, DeepCompressError)


@pytest.mark.parametrize("field", CHOICES)
def test_a_wrong_choice_lists_the_right_ones(field):
    with pytest.raises(RecipeError) as caught:
        Recipe(**{field: "nonsense"})
    assert all(choice in str(caught.value) for choice in CHOICES[field])


@pytest.mark.parametrize(
    ("field", "value"),
    [("prune", 0), ("prune", 0.999), ("bits", 1), ("bits", MAX_BITS), ("bits", "none"), ("bits", None),
     ("conv_bits", "none"), ("epochs", 0), ("lr", 0), ("seed", 2**31 - 1), ("shift", 0), ("label_smoothing", 0),
     ("label_smoothing", 0.99), ("distill", 0), ("distill", 1), ("temperature", 0.01), ("index_bits", 1),
     ("index_bits", MAX_BITS), ("index_bits", None), ("flip", None), ("flip", False), ("flip", True)],
)  # fmt: skip
def test_the_limits_themselves_are_allowed(field, value):
    assert dataclasses.replace(Recipe(), **{field: value}) is not None


def test_quality_is_only_for_std():
    assert Recipe(distribution="std", quality=1.0).quality == 1.0
    assert Recipe(distribution="std", quality=1.0, scope="global").scope == "global"
    with pytest.raises(RecipeError, match="quality is for distribution 'std'"):
        Recipe(quality=1.0)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("conv*:prune=0.6,bits=8", LayerRule("conv*", prune=0.6, bits=8)),
        ("fc1: prune = 0.5 , group = a", LayerRule("fc1", prune=0.5, group="a")),
        ("fc?:bits=none", LayerRule("fc?", bits="none")),
        ("*:prune=0", LayerRule("*", prune=0)),
        ("fc1:levels=3", LayerRule("fc1", levels=3)),
    ],
)
def test_parse(text, rule):
    assert LayerRule.parse(text) == rule


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("conv1", "write PATTERN"),
        ("conv1:", "write PATTERN"),
        (":prune=0.5", "needs a pattern"),
        ("conv1:sparsity=0.5", "unknown setting 'sparsity'"),
        ("conv1:prune", "prune"),
        ("conv1:prune=", "prune"),
        ("conv1:prune=1.2", "prune is 1.2"),
        ("conv1:prune=much", "prune is 'much'"),
        ("conv1:bits=0", "bits is 0"),
        ("conv1:bits=2.5", "bits is 2.5"),
        ("conv1:bits=many", "bits is 'many'"),
        ("conv1:levels=0", "levels is 0"),
        ("conv1:levels=none", "levels is 'none'"),
    ],
)
def test_parse_refuses(text, reason):
    with pytest.raises(RecipeError, match=reason) as caught:
        LayerRule.parse(text)
    assert f"--layer {text!r}" in str(caught.value)


def test_a_rule_matches_the_tensor_and_its_module():
    assert LayerRule("conv1").matches("conv1.weight")
    assert LayerRule("conv1.weight").matches("conv1.weight")
    assert LayerRule("*.weight").matches("a.b.weight")
    assert LayerRule("a.[bc]").matches("a.c.weight")
    assert not LayerRule("conv").matches("conv1.weight")
    assert not LayerRule("CONV1").matches("conv1.weight")


def test_a_later_rule_wins_setting_by_setting():
    recipe = Recipe(
        bits=5,
        layers=(
            LayerRule("*", prune=0.5, bits=4, group="all"),
            LayerRule("fc*", prune=0.9),
            LayerRule("fc2", bits="none", group="own"),
        ),
    )
    assert [recipe.prune_of(f"{name}.weight") for name in ("conv", "fc1", "fc2")] == [0.5, 0.9, 0.9]
    assert [recipe.levels_of(f"{name}.weight", False) for name in ("conv", "fc1", "fc2")] == [16, 16, None]
    assert [recipe.group_of(f"{name}.weight") for name in ("conv", "fc1", "fc2")] == ["all", "all", "own"]
    assert Recipe().prune_of("fc1.weight") is None
    assert Recipe().group_of("fc1.weight") is None


def test_conv_bits_are_for_convolutions_and_rules_beat_them():
    recipe = Recipe(bits=5, conv_bits=8, layers=(LayerRule("last", bits=3),))
    assert recipe.levels_of("a.weight", is_conv=True) == 256
    assert recipe.levels_of("a.weight", is_conv=False) == 32
    assert recipe.levels_of("last.weight", is_conv=True) == 8
    assert Recipe(bits=5, conv_bits="none").levels_of("a.weight", is_conv=True) is None
    assert Recipe(bits="none", conv_bits=8).levels_of("a.weight", is_conv=False) is None


def test_levels_are_in_place_of_bits():
    recipe = Recipe(levels=3, conv_bits=4, layers=(LayerRule("a", bits=1), LayerRule("[ab]*", levels=6)))
    assert recipe.levels_of("c.weight", is_conv=False) == 3
    assert recipe.levels_of("c.weight", is_conv=True) == 16
    assert recipe.levels_of("a.weight", is_conv=True) == 6
    later = Recipe(layers=(LayerRule("a", levels=6), LayerRule("a", bits="none"), LayerRule("a", prune=0.5)))
    assert later.levels_of("a.weight", is_conv=False) is None
    assert "bits" not in recipe.as_dict()
    assert Recipe.from_dict(recipe.as_dict()) == recipe


@pytest.mark.parametrize(
    "make",
    [
        lambda: Recipe(bits=4, levels=3),
        lambda: Recipe(bits=None, levels=3),
        lambda: LayerRule("a", bits=5, levels=3),
        lambda: LayerRule.parse("a:bits=none,levels=3"),
        lambda: Recipe.from_dict({"bits": 5, "levels": 3}),
        lambda: Recipe.from_dict({"layer": [{"pattern": "a", "bits": 5, "levels": 3}]}),
    ],
)
def test_bits_and_levels_together_are_refused(make):
    with pytest.raises(RecipeError, match="bits and levels are two ways"):
        make()


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"prun": 0.5}, "unknown setting 'prun'; known are prune, scope"),
        ({"prune": "0.5"}, "prune is '0.5'; expected float"),
        ({"prune": True}, "prune is True; expected float"),
        ({"retrain": 1}, "retrain is 1; expected bool"),
        ({"flip": "yes"}, r"flip is 'yes'; expected bool \| None"),
        ({"flip": 1}, "flip is 1; expected bool"),
        ({"index_bits": True}, "index_bits is True; expected int"),
        ({"index_bits": "4"}, "index_bits is '4'; expected int"),
        ({"label_smoothing": True}, "label_smoothing is True; expected float"),
        ({"distill": "half"}, "distill is 'half'; expected float"),
        ({"temperature": False}, "temperature is False; expected float"),
        ({"lr_schedule": True}, "lr_schedule is True; expected str"),
        ({"precision": 16}, "precision is 16; allowed are float32, bfloat16"),
        ({"batch_norm": False}, "batch_norm is False; expected str"),
        ({"scope": 3}, "scope is 3"),
        ({"epochs": 2.5}, "epochs is 2.5"),
        ({"epochs": [3]}, r"epochs is \[3\]"),
        ({"lr": {}}, "lr is {}"),
        ({"layer": 5}, "layer must be a list of tables"),
        ({"layer": [5]}, "layer must be a list of tables"),
        ({"layer": [{"prune": 0.5}]}, r"\[\[layer\]\]: a layer rule needs a pattern"),
        ({"layer": [{"pattern": 5}]}, r"\[\[layer\]\]: a layer rule needs a pattern"),
        ({"layer": [{"pattern": "a", "group": 5}]}, "group is 5"),
        ({"layer": [{"pattern": "a", "layers": 1}]}, "unknown setting 'layers'"),
    ],
)
def test_from_dict_refuses(values, reason):
    with pytest.raises(RecipeError, match=reason) as caught:
        Recipe.from_dict(values, "here")
    assert str(caught.value).startswith("here: ")


def test_load_says_which_file(tmp_path):
    with pytest.raises(RecipeError, match=r"missing.toml: No such file"):
        Recipe.load(tmp_path / "missing.toml")
    bad = tmp_path / "bad.toml"
    for content in (b"prune = = 3", b"\xff\xfe"):
        bad.write_bytes(content)
        with pytest.raises(RecipeError, match=r"bad.toml: not valid TOML"):
            read_toml(bad)
    bad.write_text("prune = 1.5")
    with pytest.raises(RecipeError, match=r"bad.toml: prune is 1.5"):
        Recipe.load(bad)


@pytest.mark.parametrize("method", ["set", "deepr", "dsr"])
@pytest.mark.parametrize("settings", [{"target_size": 1000}, {"retrain": False}, {"epochs": 0}])
def test_regrowth_that_keeps_the_number_needs_a_number_and_training(method, settings):
    with pytest.raises(RecipeError, match=f"regrow '{method}'"):
        Recipe(regrow=method, **settings)
    assert Recipe(regrow=method).keeps_count
    assert not Recipe(regrow="surgery", **settings).keeps_count


def test_rules_that_keep():
    assert LayerRule.parse("embed*:keep") == LayerRule("embed*", keep=True)
    recipe = Recipe(layers=(LayerRule("embed*", keep=True), LayerRule("fc", prune=0.5)))
    assert recipe.as_dict()["layer"] == [{"pattern": "embed*", "keep": True}, {"pattern": "fc", "prune": 0.5}]
    assert Recipe.from_dict(recipe.as_dict()) == recipe
    assert (recipe.keeps("embed.weight"), recipe.keeps("fc.weight"), recipe.keeps("other")) == (True, False, None)
    with pytest.raises(RecipeError, match="keep leaves the layer alone"):
        LayerRule("fc", keep=True, prune=0.0)
    with pytest.raises(RecipeError, match="keep is 'no'"):
        LayerRule.parse("fc:keep=no")


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("blocks:0.weight:prune=0.5", "blocks:0.weight"),
        ("a:b:c:keep", "a:b:c"),
        ("a:bits=3,group=x:y", "a"),
        ("layers[0].weight:bits=3", "layers[0].weight"),
    ],
)
def test_names_with_colons_and_brackets(text, pattern):
    assert LayerRule.parse(text).pattern == pattern


def test_a_whole_name_matches_itself_and_brackets_can_be_written():
    assert LayerRule("layers[0].weight").matches("layers[0].weight")
    assert LayerRule("layers[0]").matches("layers[0].weight")
    assert LayerRule("layers[[]*].weight").matches("layers[0].weight")
    assert not LayerRule("layers[[]1].weight").matches("layers[0].weight")
    assert LayerRule("conv[12]").matches("conv2.weight")
    assert pattern_hint(["conv1.weight"]) == ""
    assert "[[]" in pattern_hint(["layers[0].weight"])
