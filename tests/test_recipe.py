"""Settings: what is refused, which rule wins, and the way to TOML and back."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepcompress.errors import DeepCompressError, RecipeError
from deepcompress.recipe import (
    CHOICES,
    DEFAULTS,
    MAX_BITS,
    Circular,
    DeepR,
    Drop,
    Dsr,
    Fraction,
    Gap,
    LayerRule,
    Quality,
    Recipe,
    Rewind,
    Set,
    Size,
    Steps,
    Surgery,
    on_top,
    pattern_hint,
    read_toml,
)  # fmt: skip
from deepcompress.recipe.effects import unused

# TOML has no lone surrogates, as it is UTF-8.
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
fractions = st.floats(0, 1, exclude_max=True)
widths = st.integers(1, MAX_BITS) | st.just("none")
rules = st.builds(LayerRule, names, prune=st.none() | fractions, bits=st.none() | widths, group=st.none() | names)
#: Choices that some of the other settings exclude; "random" is an init as well, and tried with it below.
EXCLUSIVE = ("lc", "latent", "variational", "sws", "circular", "gap", "set", "deepr", "dsr", "start", "random", "rows")
settings = st.builds(
    dict,
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


def with_effect(settings):
    """Without what the others leave no effect."""
    idle = unused({**DEFAULTS, **settings})
    return {name: value for name, value in settings.items() if name not in idle}


recipes = settings.map(lambda settings: Recipe(**with_effect(settings)))


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
        "prune": 0.5, "regrow": "surgery", "distribution": "uniform", "criterion": "taylor2",
        "score_samples": 7, "schedule": "linear", "iterations": 2, "epochs": 3,
        "bits": 4, "conv_bits": 6, "init": "density",
        "weighting": "fisher", "rate": 0.04, "codebook_dtype": "float16", "small_bits": 6, "finetune_epochs": 1,
        "coder": "fixed", "index_bits": 5,
        "small_dtype": "float16", "batch_norm": "fold", "low_rank": 0.9, "optimizer": "adam",
        "lr": 0.3, "finetune_lr": 0.4, "batch_size": 9, "penalty": "l1", "penalty_weight": 0.1, "lr_schedule": "step",
        "warmup": 1.5, "label_smoothing": 0.1, "distill": 0.7, "temperature": 2.5, "precision": "bfloat16", "shift": 3,
        "flip": False, "clip_norm": 0.7, "freeze_bn": True, "seed": 8,
        "layers": (LayerRule("a", prune=0.1, bits=2, group="g"),),
    }  # fmt: skip
    others = [
        {"distribution": "std", "quality": 0.5}, {"levels": 3, "quantizer": "uniform"}, {"max_drop": 0.5},
        {"reload": True}, {"target_size": 1000, "sort_neurons": True}, {"rewind": "random", "init": "random"},
        {"early_stop": False},
        {"epochs": 9, "early_stop": True}, {"epochs": 18, "early_stop": True}, {"epochs": 18}, {"epochs": 9},
        {"retrain": False, "quantizer": "rows", "step": 0.07}, {"scope": "global"},
        {"schedule": "gap", "gap": 2.5, "prune_step": 0.3}, {"regrow": "set", "regrow_fraction": 0.4},
        {"regrow": "dsr", "regrow_every": 11}, {"regrow": "deepr", "deepr_alpha": 0.02, "deepr_temperature": 0.03},
        {"method": "lc", "lc_mu": 0.02, "lc_growth": 1.5}, {"distribution": "amc", "episodes": 9},
        {"method": "variational", "optimizer": "adam", "kl_weight": 0.2},
        {"method": "sws", "optimizer": "adam", "sws_tau": 0.2},
    ]  # fmt: skip
    for settings in (changes, *others):
        recipe = Recipe(**settings)
        (tmp_path / "r.toml").write_text(recipe.to_toml(), encoding="utf-8")
        assert Recipe.load(tmp_path / "r.toml") == recipe
        assert {name: getattr(recipe, name) for name in settings} == settings
    alone = {name for settings in others for name in settings}  # in recipes of their own
    assert DEFAULTS.keys() - alone <= changes.keys()
    assert not [key for key, value in changes.items() if value == getattr(Recipe(), key)]


def test_without_retraining_nothing_is_pruned_or_shared_that_nobody_asked_for():
    plain = Recipe(retrain=False)
    assert (plain.prune, plain.quantizer) == (0.0, "rows")
    assert Recipe.from_dict(plain.as_dict()) == plain
    assert (Recipe().prune, Recipe().quantizer, Recipe().bits) == (0.9, "kmeans", 5)
    asked = [
        *({"bits": 5}, {"bits": "none"}, {"levels": 3}, {"conv_bits": 4}, {"rate": 0.1}),
        *({"layers": (LayerRule("a", bits=4),)}, {"layers": (LayerRule("a", prune=0.5),)}),
    ]
    for settings in asked:
        recipe = Recipe(retrain=False, **settings)
        assert (recipe.prune, recipe.quantizer) == (0.0, "kmeans"), settings
    assert Recipe(retrain=False, prune=0.5).quantizer == "kmeans"
    kept = Recipe(retrain=False, layers=(LayerRule("a", keep=True),))
    assert kept.quantizer == "rows"
    sized = dataclasses.replace(plain, target_size=1000)
    assert (sized.prune, sized.quantizer, sized.target_size) == (0.0, "rows", 1000)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"seed": 3}, ("rows", 0.0)), ({"step": 0.1}, ("rows", 0.0)), ({"retrain": True}, ("kmeans", 0.9)),
        ({"quantizer": "kmeans"}, ("kmeans", 0.0)), ({"prune": 0.5}, ("kmeans", 0.5)), ({"bits": 4}, ("kmeans", 0.0)),
    ],
)  # fmt: skip
def test_changes_decide_anew_on_what_nobody_gave(changes, expected):
    copy = dataclasses.replace(Recipe(retrain=False), **changes)
    assert (copy.quantizer, copy.prune) == expected
    again = dataclasses.replace(copy, seed=7)
    assert (again.quantizer, again.prune) == expected


@pytest.mark.parametrize("settings", [{}, {"bits": 5}, {"quantizer": "kmeans"}, {"bits": 4}])
def test_a_size_without_retraining_comes_back_from_plain_data(settings):
    recipe = Recipe(retrain=False, target_size=1000, **settings)
    assert Recipe.from_dict(recipe.as_dict()) == recipe
    assert Recipe.from_dict({**recipe.as_dict(), "prune": 0.9}).prune == 0.0  # as older versions wrote it


@pytest.mark.parametrize("settings", [{}, {"retrain": False, "levels": 4}, {"retrain": False, "low_rank": 0.5}])
def test_rows_are_for_networks_as_they_were_trained(settings):
    with pytest.raises(RecipeError, match="quantizer 'rows'"):
        Recipe(quantizer="rows", **settings)


def test_as_dict_leaves_out_what_is_not_set():
    plain = Recipe(layers=(LayerRule("conv*", prune=0.5),)).as_dict()
    assert plain["layer"] == [{"pattern": "conv*", "prune": 0.5}]
    assert not {"conv_bits", "quality", "index_bits", "shift", "flip", "layers"} & set(plain)
    assert None not in plain.values()


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
    with pytest.raises(RecipeError) as caught:
        Recipe(**{field: value})
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
    settings = {"distill": 0.5} if field == "temperature" else {}
    expected = "none" if (field, value) == ("bits", None) else value
    assert getattr(dataclasses.replace(Recipe(), **{**settings, field: value}), field) == expected


def test_quality_is_only_for_std():
    assert Recipe(distribution="std", quality=1.0).quality == 1.0
    assert Recipe(distribution="std", quality=1.0, scope="global").scope == "global"
    with pytest.raises(RecipeError, match="quality is only for distribution std, and distribution is 'lamp'"):
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
        ({"prun": 0.5}, "unknown setting 'prun'; known are prune, bits"),
        ({"prune": "0.5"}, "prune is '0.5'; it must be a finite number"),
        ({"prune": True}, "prune is True; it must be a finite number"),
        ({"retrain": 1}, "retrain is 1; it must be true"),
        ({"flip": "yes"}, r"flip is 'yes'; it must be true or false"),
        ({"flip": 1}, "flip is 1; it must be true"),
        ({"index_bits": True}, "index_bits is True; it must be a whole number"),
        ({"index_bits": "4"}, "index_bits is '4'; it must be a whole number"),
        ({"label_smoothing": True}, "label_smoothing is True; it must be a finite number"),
        ({"distill": "half"}, "distill is 'half'; it must be a finite number"),
        ({"temperature": False}, "temperature is False; it must be a finite number"),
        ({"lr_schedule": True}, "lr_schedule is True; allowed are cosine"),
        ({"precision": 16}, "precision is 16; allowed are float32, bfloat16"),
        ({"batch_norm": False}, "batch_norm is False; allowed are keep"),
        ({"scope": 3}, "scope is 3"),
        ({"epochs": 2.5}, "epochs is 2.5"),
        ({"epochs": [3]}, r"epochs is \[3\]"),
        ({"lr": {}}, "lr is {}"),
        ({"layers": []}, "unknown setting 'layers'"),
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
    assert not Recipe(regrow="surgery", target_size=1000).keeps_count


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


#: What makes no sense beside each other, and what the message says.
CONTRADICTIONS = [
    ({"bits": 5, "levels": 3}, "bits and levels are two ways"),
    ({"bits": "none", "levels": 3}, "bits and levels are two ways"),
    ({"target_size": 1000, "prune": 0.9}, "target_size and prune are two ways"),
    ({"target_size": 1000, "prune": 0}, "target_size and prune are two ways"),
    ({"target_size": 1000, "distribution": "std", "quality": 1.0}, "target_size and quality are two ways"),
    ({"prune": 0.9, "distribution": "std", "quality": 1.0}, "prune and quality are two ways"),
    ({"target_size": 1000, "max_drop": 1.0}, "two budgets"),
    ({"target_size": 1000, "criterion": "magnitude"}, "target_size ranks weights by bytes"),
    ({"target_size": 1000, "scope": "layer"}, "scope is for prune"),
    ({"target_size": 1000, "layers": (LayerRule("fc", prune=0.5),)}, "prune of layer 'fc'"),
    ({"gap": 1.0}, "gap is only for schedule gap, and schedule is 'cubic'"),
    ({"gap": 2.0, "schedule": "circular", "max_drop": 1.0}, "gap is only for schedule gap"),
    ({"prune_step": 0.2, "schedule": "linear"}, "prune_step is only for schedule circular or gap"),
    ({"iterations": 3, "schedule": "gap"}, "iterations is only for another schedule than circular or gap"),
    ({"quality": 1.0}, "quality is only for distribution std"),
    ({"deepr_alpha": 1e-5}, "deepr_alpha is only for regrow deepr, and regrow is 'none'"),
    ({"deepr_temperature": 0.1, "regrow": "set"}, "deepr_temperature is only for regrow deepr"),
    ({"regrow_fraction": 0.3, "regrow": "deepr"}, "regrow_fraction is only for regrow set or dsr"),
    ({"regrow_every": 3, "regrow": "surgery"}, "regrow_every is only for regrow set or dsr"),
    ({"init": "linear", "quantizer": "uniform"}, "init is only for quantizer kmeans"),
    ({"temperature": 2.0}, "temperature is only for another distill than 0"),
    ({"regrow": "surgery", "max_drop": 1.0}, "max_drop rolls back"),
    ({"regrow": "surgery", "epochs": 0}, "nothing is pruned and retrained"),
    ({"regrow": "surgery", "prune": 0}, "nothing is pruned and retrained"),
    ({"regrow": "set", "prune": 0}, "regrow 'set' brings pruned weights back"),
]


@pytest.mark.parametrize(("settings", "reason"), CONTRADICTIONS)
def test_contradictions_are_refused_wherever_they_are_given(settings, reason):
    """Also where a value that is given is the default: it is the giving that contradicts."""
    with pytest.raises(RecipeError, match=reason):
        Recipe(**settings)
    if "layers" not in settings:
        with pytest.raises(RecipeError, match=f"here: .*{reason}"):
            Recipe.from_dict(settings, "here")


def test_what_is_given_is_known_and_kept_in_copies():
    assert Recipe().given == set()
    recipe = Recipe(prune=0.9, bits=None, max_drop=None)
    assert recipe.given == {"prune", "bits"}
    assert dataclasses.replace(recipe, seed=3).given == {"prune", "bits", "seed"}
    assert Recipe(**{**vars(recipe), "seed": 3}).given == {"prune", "bits", "seed"}
    assert copy.deepcopy(recipe).given == pickle.loads(pickle.dumps(recipe)).given == recipe.given
    assert vars(copy.copy(recipe)) == vars(recipe)
    assert Recipe(0.5).given == {"prune"}
    with pytest.raises(RecipeError, match="gap is only for"):
        dataclasses.replace(Recipe(), gap=3.0)


def test_changes_win_in_a_copy():
    recipe = Recipe(prune=0.5, bits=4)
    assert dataclasses.replace(recipe, target_size=1000, seed=3) == Recipe(target_size=1000, bits=4, seed=3)
    changed = dataclasses.replace(recipe, levels=3)
    assert (changed.levels, changed.bits, changed.given) == (3, Recipe().bits, {"levels", "prune"})
    with pytest.raises(RecipeError, match="target_size and prune"):
        dataclasses.replace(Recipe(), target_size=1000, prune=0.5)


def test_a_copy_drops_what_has_no_effect_any_more():
    recipe = Recipe(schedule="gap", gap=3.0, prune_step=0.4)
    changed = dataclasses.replace(recipe, schedule="linear")
    assert (changed.gap, changed.prune_step, changed.schedule) == (1.0, 0.2, "linear")
    assert Recipe.from_dict(changed.as_dict()) == changed


def test_whole_recipes_that_older_versions_wrote_are_read():
    """They name every setting: those that nobody chose contradict nothing."""
    written = Recipe(target_size=1000).as_dict()
    assert {"prune", "gap", "prune_step", "deepr_alpha", "temperature", "iterations"} <= written.keys()
    assert Recipe.from_dict(written) == Recipe(target_size=1000)
    with pytest.raises(RecipeError, match="target_size and prune"):
        Recipe.from_dict({**written, "prune": 0.8})


def test_alternatives_are_types_with_their_own_settings():
    assert Recipe(prune=0.5).amount == Fraction(0.5)
    assert Recipe(distribution="std", quality=1.5).amount == Quality(1.5)
    assert Recipe(target_size=100).amount == Size(100)
    assert Recipe(max_drop=1.0).amount == Drop(1.0)
    assert Recipe(max_drop=1.0, prune=0.9).amount == Fraction(0.9)
    assert Recipe().way == Steps("cubic", 6, None, False)
    assert Recipe(max_drop=1.0, schedule="circular", prune_step=0.3).way == Circular(0.3, 1.0)
    assert Recipe(schedule="gap", gap=2.0).way == Gap(0.2, 2.0)
    assert Recipe(rewind="start", iterations=3).way == Rewind("start", "cubic", 3)
    assert Recipe().regrowth is None
    assert Recipe(regrow="surgery").regrowth == Surgery()
    assert Recipe(regrow="set", regrow_fraction=0.1).regrowth == Set(0.1, None)
    assert Recipe(regrow="dsr").regrowth == Dsr(0.05, 100)
    assert Recipe(regrow="deepr").regrowth == DeepR(1e-5, None)


def test_settings_on_top_of_others_win():
    assert on_top({"levels": 3}, {"bits": 4, "lr": 0.1}) == {"levels": 3, "lr": 0.1}
    left = {"target_size": 9, "schedule": "linear", "seed": 1}
    assert on_top({"target_size": 9}, {"prune": 0.5, "iterations": 3, "schedule": "linear", "seed": 1}) == left
    assert on_top({"schedule": "linear"}, {"schedule": "gap", "gap": 2.0}) == {"schedule": "linear"}
    assert on_top({"prune": 0.5}, {"gap": 2.0}) == {"prune": 0.5, "gap": 2.0}  # a fault of the others' own is shown
    assert "temperature" not in Recipe.smallest(distill=0).given
