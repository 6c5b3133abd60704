"""Pictures: what is drawn is the data, nothing is cut off or read as a formula, and the bytes are always the same."""

from __future__ import annotations

import subprocess
import sys
from itertools import combinations, product

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.patches import StepPatch
from matplotlib.text import Annotation, Text

from deepcompress.coding.encoder import encode_coded, encode_plain
from deepcompress.coding.tensors import DType
from deepcompress.compression.tensors_only import compress_state
from deepcompress.container.breakdown import inspect
from deepcompress.container.reader import ModelFile
from deepcompress.container.writer import pack
from deepcompress.errors import OutputError
from deepcompress.reading.arrays import to_array
from deepcompress.recipe import Recipe
from deepcompress.report import charts, plots
from deepcompress.report.page import DPI, MARKERS, PALETTE, page, plain, short
from deepcompress.report.plots import Curve, WeightPicture, weight_picture

LABELS = {"xlabel": "Epoch", "ylabel": "Error (%)"}
SPARSITIES = [0.0, 0.3, 0.6, 0.9]


def sensitivity(layers):
    return {f"layer{i}.weight": [(x, 5 + i * x**3) for x in SPARSITIES] for i in range(layers)}


def settings(count):
    """Points of which every other one is on the front."""
    return [(20_000 + 3_000 * i, 3 / (1 + i) + i % 2, f"prune 0.{i}, bits 5") for i in range(count)]


@pytest.fixture
def draw(tmp_path):
    """Draw by a private function, and look at the figure."""

    def on_a_page(function, *arguments, size=(5.5, 3.6)):
        with page(tmp_path / "x.png", size) as figure:
            function(figure, *arguments)
            figure.draw_without_rendering()
            assert_whole(figure)
        return figure

    return on_a_page


def assert_whole(figure):
    """Nothing reaches beyond the page, and no text is smaller than 8 points."""
    box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    assert -0.01 <= box.x0 <= box.x1 <= width + 0.01
    assert -0.01 <= box.y0 <= box.y1 <= height + 0.01
    assert all(text.get_fontsize() >= 8 for text in figure.findobj(Text) if text.get_text())


def frame(**options):
    return charts._Frame("Epoch", "Error (%)", **options)


def legend_texts(figure):
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
    return [text.get_text() for found in legends for text in found.get_texts()]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A file with a shared tensor, an unshared one, an alias, a bias and a count."""
    torch.manual_seed(0)
    shared = torch.randn(300, 40)
    state = {"a.weight": shared, "tied": shared, "b.weight": torch.randn(60, 50), "b.bias": torch.randn(60)}
    path = tmp_path_factory.mktemp("model") / "m.dc"
    recipe = Recipe.from_dict({"prune": 0.8, "bits": 4, "retrain": False, "layer": [{"pattern": "b", "bits": "none"}]})
    compress_state(state, recipe, path)
    return path, state


# Files -----------------------------------------------------------------------------------------------------

LAYER = WeightPicture("w", (4,), np.array([1.0, 2, 2]), np.array([1.0, 2]), np.array([1, 2]), np.arange(4.0))
DRAWERS = {
    "curves": (lambda path, **o: plots.draw_curves([Curve("a", [1, 2], [3, 4])], path, **LABELS, **o), (1000, 680)),
    "panels": (lambda path, **o: plots.draw_panels([("h", [])] * 3, path, **LABELS, **o), (1100, 960)),
    "sensitivity": (lambda path, **o: plots.draw_sensitivity(sensitivity(9), 5.0, path, **o), (1100, 720)),
    "front": (lambda path, **o: plots.draw_front(settings(6), [0, 2, 4], path, **o), (1100, 720)),
    "weights": (lambda path, **o: plots.draw_weights([LAYER], path, **o), (1100, 470)),
    "image": (lambda path, **o: plots.draw_image(np.eye(28), path, label="n", **o), (720, 600)),
}


def chunks(png):
    """Names of the chunks of a PNG file, and its width and height."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    names, start = [], 8
    while start < len(png):
        names.append(png[start + 4 : start + 8])
        start += 12 + int.from_bytes(png[start : start + 4])
    return names, (int.from_bytes(png[16:20]), int.from_bytes(png[20:24]))


@pytest.mark.parametrize("name", DRAWERS)
def test_a_picture_is_the_same_png_each_time_and_says_nothing_of_who_made_it(name, tmp_path):
    draw, size = DRAWERS[name]
    path = tmp_path / "x.png"
    draw(path)
    first = path.read_bytes()
    with matplotlib.rc_context({"font.size": 30, "axes.grid": False, "text.usetex": True}):  # a user's matplotlibrc
        draw(path)
        assert matplotlib.rcParams["font.size"] == 30
    assert path.read_bytes() == first
    names, pixels = chunks(first)
    assert set(names) == {b"IHDR", b"pHYs", b"IDAT", b"IEND"}
    assert pixels == size
    assert list(tmp_path.iterdir()) == [path]
    draw(path, title="a title")
    assert path.read_bytes() != first


@pytest.mark.parametrize("name", DRAWERS)
def test_a_file_that_cannot_be_written_is_an_output_error(name, tmp_path):
    with pytest.raises(OutputError, match="does not exist"):
        DRAWERS[name][0](tmp_path / "none" / "x.png")
    assert not list(tmp_path.iterdir())


def test_drawing_leaves_pyplot_alone(tmp_path):
    code = (
        "import sys; from deepcompress.report.plots import Curve, draw_curves; print('matplotlib' in sys.modules);"
        f"draw_curves([Curve('a', [1], [2])], {str(tmp_path / 'x.png')!r}, xlabel='', ylabel='');"
        "print('matplotlib' in sys.modules, 'matplotlib.pyplot' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.split() == ["False", "True", "False", "False"]


# Text ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("$x^2$", "$x^2$"), ("a$b", "a$b"), (r"\$x\$", r"\$x\$"), ("_hidden", " _hidden"),
        ("a\nb\x1b[1m", r"a\nb\x1b[1m"),
        ("\u202ename", r"\u202ename"), ("层", r"\u5c42"), ("\ud800", r"\ud800"), ("Größe – 5×5", "Größe – 5×5"),
    ],
)  # fmt: skip
def test_names_are_shown_as_they_are_without_formulas(draw, text, shown):
    curves = [Curve(text, [0, 1], [0, 1])]
    figure = draw(charts._panels, [(text, curves), (text, curves)], frame(points=[(text, 0, 1)]), 2)
    (label,) = figure.legends[0].get_texts()
    assert label._preprocess_math(label.get_text()) == (shown, False)
    title = figure.axes[0].title
    assert title._preprocess_math(title.get_text()) == (shown, False)


def test_a_long_title_is_broken_into_lines(tmp_path):
    with page(tmp_path / "x.png", (3.6, 3.0), "a title of $many$ words " * 9) as figure:
        plots._image(figure, np.eye(3), "n")
        figure.draw_without_rendering()
        assert_whole(figure)
    assert figure.get_suptitle().count("\n") >= 4
    assert figure.get_suptitle().count(r"\$many\$") == 9


def test_long_names_lose_their_middle():
    assert short("conv1.weight") == "conv1.weight"
    assert short("abcdefghij", 9) == "ab…efghij"
    assert len(short("x" * 512)) <= 32
    assert len(short("层" * 512)) <= 32
    assert plain(short("$" * 40)).count(r"\$") == 31


# Curves ----------------------------------------------------------------------------------------------------


def test_colours_and_marks_tell_curves_apart():
    assert len(set(PALETTE)) == 8
    assert len(set(MARKERS)) == 7
    assert len({(PALETTE[i % 8], MARKERS[i % 7]) for i in range(56)}) == 56


def test_a_curve_shows_its_points_and_its_spread(draw):
    band = Curve("a", [0, 1, 2], [3, 4, 6], low=[2, 3, 5], high=[4, 5, 7])
    (axes,) = draw(charts._panels, [("", [band, Curve("b", [0, 2], [1, 1], dashed=True)])], frame(), 1).axes
    first, second = axes.lines
    assert np.array_equal(first.get_xydata(), [[0, 3], [1, 4], [2, 6]])
    (spread,) = axes.findobj(PolyCollection)
    corners = {tuple(corner) for corner in spread.get_paths()[0].vertices}
    assert corners == {(0, 2), (1, 3), (2, 5), (0, 4), (1, 5), (2, 7)}
    assert (first.get_linestyle(), second.get_linestyle()) == ("-", "--")
    assert (first.get_color(), second.get_color()) == PALETTE[:2]
    assert (first.get_marker(), second.get_marker()) == MARKERS[:2]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Epoch", "Error (%)")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]


def test_a_curve_of_means_shows_its_runs(draw):
    means = Curve("a", [0.1, 0.2], [2, 5], runs=[(0.1, 1), (0.1, 3), (0.2, 5)])
    (axes,) = draw(charts._panels, [("", [means])], frame(xpercent=True), 1).axes
    line, *runs = axes.lines
    assert np.array_equal(line.get_xydata(), [[10, 2], [20, 5]])
    assert [run.get_xydata().tolist() for run in runs] == [[[10, 1]], [[10, 3]], [[20, 5]]]
    assert {run.get_color() for run in runs} == {line.get_color()}
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a"]


def test_scales_reference_ends_and_single_points(draw):
    options = frame(
        xlog=True, ylog=True, xpercent=True, reference=("dense", 2.0), xlim=(0.01, None), ylim=(0.5, 50),
        points=[("Han et al.", 0.1, 4.0)],
    )  # fmt: skip
    (axes,) = draw(charts._panels, [("", [Curve("a", [0.02, 1.0], [30, 1])])], options, 1).axes
    curve, reference, point = axes.lines
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert np.array_equal(curve.get_xdata(), [2, 100])
    assert axes.get_xlabel() == "Epoch (%)"
    assert axes.get_xlim()[0] == 1
    assert axes.get_ylim() == (0.5, 50)
    assert list(reference.get_ydata()) == [2, 2]
    assert reference.get_label() == "dense"
    assert np.array_equal(point.get_xydata(), [[10, 4]])
    (note,) = axes.texts
    assert note.get_text() == "Han et al."
    shown = {label.get_text() for label in axes.get_xticklabels()}
    assert {"1", "10", "100"} <= shown


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(1e-7, 1e-3, "$10^{-6}$"), (2e6, 9e7, "$2\\times 10^{6}$"), (31, 58, "40")]
)
def test_logarithmic_axes_have_numbers_over_any_span(draw, low, high, expected):
    (axes,) = draw(charts._panels, [("", [Curve("a", [low, high], [1, 2])])], frame(xlog=True), 1).axes
    assert expected in [label.get_text() for label in axes.get_xticklabels()]


@pytest.mark.parametrize("count", [1, 6, 7, 20])
def test_the_legend_covers_no_line(draw, count):
    figure = draw(charts._panels, [("", [Curve(f"c{i}", [0, 1, 2], [i, 5 - i, i]) for i in range(count)])], frame(), 1)
    assert legend_texts(figure) == [f"c{i}" for i in range(count)]
    (axes,) = figure.axes
    for found in figure.legends:
        assert not found.get_window_extent().overlaps(axes.get_window_extent())
    if count > 6:
        assert axes.get_legend() is None


def test_long_labels_stay_on_the_page(draw):
    curves = [Curve(f"{i} " + "a rather long label of a curve" * 2, [0, 1], [i, i]) for i in range(8)]
    for figure, count in (
        (draw(charts._panels, [("", curves)], frame(), 1), 8),
        (draw(charts._panels, [("one", curves[:3]), ("two", curves[:3])], frame(), 2), 3),
    ):
        assert legend_texts(figure) == [curve.label for curve in curves[:count]]


def test_panels_share_one_legend_and_name_their_outer_axes(draw):
    panels = [(f"net {i}", [Curve("a", [0, 1], [i, 1]), Curve("b", [0, 1], [i, 2])][i % 2 :]) for i in range(3)]
    figure = draw(charts._panels, panels, frame(reference=("dense", 0.5)), 2)
    assert [axes.get_title() for axes in figure.axes] == ["net 0", "net 1", "net 2"]
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "Epoch", "Epoch"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["Error (%)", "", "Error (%)"]
    assert sorted(legend_texts(figure)) == ["a", "b", "dense"]
    assert figure.axes[1].lines[0].get_color() == figure.axes[0].lines[1].get_color()  # both are b


@pytest.mark.parametrize("y", [[], [np.nan, np.nan], [3, 3], [0, 0], [1, np.nan, 2]])
@pytest.mark.parametrize("log", [False, True])
def test_empty_constant_and_missing_values(draw, y, log):
    curves = [Curve("a", range(1, len(y) + 1), y)]
    (axes,) = draw(
        charts._panels, [("", curves)], frame(ylog=log, points=[("p", np.nan, 1)] if not log else ()), 1
    ).axes
    shown = [value if value > 0 or not log else np.nan for value in y]
    assert np.array_equal(axes.lines[0].get_ydata(), shown, equal_nan=True)
    assert np.isfinite([*axes.get_xlim(), *axes.get_ylim()]).all()


def test_no_curves_at_all(draw):
    (axes,) = draw(charts._panels, [("", [])], frame(), 1).axes
    assert (list(axes.lines), axes.get_legend(), axes.get_xlabel()) == ([], None, "Epoch")
    assert draw(charts._panels, [], frame(), 2).axes == []


# Sensitivity -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 4, 8])
def test_sensitivity_of_few_layers_names_all(draw, layers):
    figure = draw(charts._sensitivity, sensitivity(layers), 5.0)
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Sparsity of the layer (%)", "Validation error (%)")
    assert legend_texts(figure) == [*sensitivity(layers), "dense"]
    *lines, reference = axes.lines
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == layers
    for line, points in zip(lines, sensitivity(layers).values(), strict=True):
        assert np.allclose(line.get_xydata(), [(100 * x, y) for x, y in points])
    assert list(reference.get_ydata()) == [5, 5]


@pytest.mark.parametrize("layers", [9, 54])
def test_sensitivity_of_many_layers_names_the_five_that_rise_most(draw, layers):
    figure = draw(charts._sensitivity, sensitivity(layers), 5.0)
    axes, bar = figure.axes
    assert len(axes.lines) == layers + 1
    assert legend_texts(figure) == [
        *(f"{i + 1}: layer{i}.weight" for i in reversed(range(layers - 5, layers))),
        "dense",
    ]
    assert bar.get_ylabel() == "Number of the layer, from the input"
    assert len({tuple(line.get_color()) for line in axes.lines[:-1]}) == layers
    assert len({line.get_marker() for line in axes.lines[:5]}) == 5


def test_sensitivity_points_may_come_in_any_order(draw):
    (axes,) = draw(charts._sensitivity, {"w": [(0.5, 2.0), (0.1, 1.0)], "none": []}, 1.0).axes
    assert np.allclose(axes.lines[0].get_xydata(), [(10, 1), (50, 2)])


# The Pareto front ------------------------------------------------------------------------------------------


def boxes(figure, kind=Annotation):
    return [Text.get_window_extent(text) for text in figure.findobj(kind) if text.get_text()]


def test_the_front_is_a_step_line_through_its_points(draw):
    points = [(50_000, 1.0, "c"), (10_000, 3.0, "a"), (20_000, 2.0, "b"), (30_000, 4.0, "worse")]
    figure = draw(charts._front, points, [0, 1, 2], 0.8, "Test error (%)")
    (axes,) = figure.axes
    everything, steps, best, reference = axes.lines
    assert np.array_equal(everything.get_xydata(), [[50, 1], [10, 3], [20, 2], [30, 4]])
    assert np.array_equal(steps.get_xydata(), [[10, 3], [20, 3], [20, 2], [50, 2], [50, 1]])
    assert np.array_equal(best.get_xydata(), [[10, 3], [20, 2], [50, 1]])
    assert best.get_markersize() > everything.get_markersize()
    assert list(reference.get_ydata()) == [0.8, 0.8]
    assert [text.get_text() for text in axes.texts] == ["a", "b", "c"]
    assert legend_texts(figure) == ["all settings", "Pareto front", "dense"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("File size (KB)", "Test error (%)")
    assert axes.get_xscale() == "linear"


def test_a_span_of_more_than_ten_is_logarithmic(draw):
    (axes,) = draw(charts._front, [(1_000, 1.0, "a"), (10_001, 0.5, "b")], [0, 1], None, "e").axes
    assert axes.get_xscale() == "log"


@pytest.mark.parametrize("count", [20, 200])
def test_labels_of_the_front_overlap_neither_each_other_nor_the_legend(draw, count):
    figure = draw(charts._front, settings(count), range(0, count, 2), 0.1, "e")
    (axes,) = figure.axes
    labels = boxes(figure)
    assert len(labels) >= 8
    assert not any(a.overlaps(b) for a, b in combinations([*labels, axes.get_legend().get_window_extent()], 2))


@pytest.mark.parametrize("points", [[], [(1000, 1.0, "only")], [(1000, 1.0, "a"), (1000, 1.0, "b")]])
def test_a_front_of_nothing_one_or_the_same(draw, points):
    everything = draw(charts._front, points, range(len(points)), None, "e").axes[0].lines[0]
    assert everything.get_xydata().tolist() == [[size / 1000, error] for size, error, _ in points]


# Weights ---------------------------------------------------------------------------------------------------


def heading(axes):
    """The title of a panel, as one line."""
    return " ".join(axes.get_title(loc="left").split())


def test_dense_weights_are_a_histogram_and_shared_values_pins(draw):
    before = np.linspace(-1, 1, 1000)
    book, counts = np.array([-0.5, 0.25, 0.75]), np.array([100, 30, 70])
    layer = WeightPicture("conv1.weight", (10, 100), np.repeat(book, counts), book, counts, before)
    figure = draw(plots._weights, [layer], 2)
    (axes,) = figure.axes
    (histogram,) = axes.findobj(StepPatch)
    assert histogram.get_data().values.sum() == 1000
    assert len(histogram.get_data().values) == plots.BINS
    assert np.allclose(axes.lines[0].get_xydata(), [[-0.5, 100], [0.25, 30], [0.75, 70]])
    (pins,) = axes.findobj(LineCollection)
    assert [pin[1].tolist() for pin in pins.get_segments()] == [[-0.5, 100], [0.25, 30], [0.75, 70]]
    assert axes.get_yscale() == "log"
    assert heading(axes) == "conv1.weight 10×100, kept 20.0 %, 3 values"
    assert legend_texts(figure) == ["dense weights", "shared values"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Value of the weight", "Number of weights")


def test_unshared_weights_are_an_outline_and_samples_count_for_all(draw):
    layer = WeightPicture("w", (1000,), np.arange(1.0, 51), before=np.arange(100.0), every=10)
    figure = draw(plots._weights, [layer], 2)
    (axes,) = figure.axes
    dense, survivors = axes.findobj(StepPatch)
    assert (dense.get_data().values.sum(), survivors.get_data().values.sum()) == (1000, 500)
    assert (dense.get_fill(), survivors.get_fill()) == (True, False)
    assert heading(axes) == "w 1000, kept 50.0 %, not shared, histogram of 1 in 10"
    assert legend_texts(figure) == ["dense weights", "surviving weights"]


@pytest.mark.parametrize(
    ("values", "title"),
    [
        ([0.5], "kept 25.0 %, 1 value"), ([0.5] * 4, "kept 100.0 %, 1 value"), ([], "kept 0.0 %, 0 values"),
        ([np.nan, np.inf, -np.inf], "kept 75.0 %, 3 values"), ([3e38, -3e38], "kept 50.0 %, 2 values"),
        ([1e-45, 2e-45], "kept 50.0 %, 2 values"), ([1e300, -1e300, 1], "kept 75.0 %, 3 values"),
    ],
)  # fmt: skip
def test_any_values_can_be_drawn(draw, values, title):
    book, counts = np.unique(np.array(values), return_counts=True)
    before = np.array([np.nan, 1.0, np.inf])
    layers = [
        WeightPicture("w", (4,), np.array(values), book, counts),
        WeightPicture("w", (4,), np.array(values), book, counts, before),
        WeightPicture("w", (4,), np.array(values), before=np.empty(0)),
    ]
    figure = draw(plots._weights, layers, 2)
    assert heading(figure.axes[0]) == f"w 4, {title}"


def test_layers_of_long_names_and_shapes(draw):
    name = "features.{}.denseblock.denselayer.conv.weight"
    layers = [
        WeightPicture(name.format(i), (512, 512, 3, 3, 3), np.ones(9), np.ones(4096), np.ones(4096)) for i in range(5)
    ]
    figure = draw(plots._weights, layers, 2, size=(5.5, 5.7))
    assert len(figure.axes) == 5


def test_a_picture_of_a_files_weights_is_exact(model, monkeypatch):
    path, state = model
    with ModelFile(path) as file:
        values = file.read("a.weight")[0].ravel()
        for chunk, most in product((7, 1 << 20), (1 << 22, 500)):
            monkeypatch.setattr(plots, "_CHUNK", chunk)
            monkeypatch.setattr(plots, "MOST_WEIGHTS", most)
            before = state["a.weight"].ravel().numpy()
            found = weight_picture(file, "a.weight", before)
            book, counts = np.unique(values[values != 0], return_counts=True)
            order = np.argsort(found.codebook)
            assert np.array_equal(found.codebook[order], book)
            assert np.array_equal(found.counts[order], counts)
            assert found.every == plots.stride(values.size) == (1 if most > values.size else 24)
            assert np.array_equal(found.values, values[values != 0][:: found.every])
            assert found.values.base is None or found.values.base.size <= values.size // found.every + 1
            assert found.kept == np.count_nonzero(values) / values.size
            assert found.before is before
        unshared = weight_picture(file, "b.weight")
        assert unshared.codebook is None and unshared.counts is None
        assert unshared.kept == pytest.approx(np.count_nonzero(file.read("b.weight")[0]) / 3000, abs=7 / 3000)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_every_float_dtype(tmp_path, dtype):
    dense = torch.zeros(40, 40, dtype=dtype)
    dense.view(-1)[::9] = torch.tensor([0.5, -1.25, 3.0], dtype=dtype).repeat(60)[:178]
    values, stored = to_array("w", dense)
    book = np.unique(values[values != 0])
    path = tmp_path / "m.dc"
    path.write_bytes(pack([("w", encode_coded(values, stored, book))], "", ""))
    with ModelFile(path) as file:
        found = weight_picture(file, "w")
    assert sorted(found.codebook.tolist()) == [-1.25, 0.5, 3.0]
    assert sorted(zip(found.codebook.tolist(), found.counts.tolist(), strict=True)) == [
        (-1.25, 59),
        (0.5, 60),
        (3.0, 59),
    ]
    assert found.values.tolist() == [0.5, -1.25, 3.0] * 59 + [0.5]


# Bytes -----------------------------------------------------------------------------------------------------


def widths(axes):
    """Widths of the bars in bytes, [section, bar]."""
    return np.round([[bar.get_width() * 1000 for bar in bars] for bars in axes.containers])


def test_bars_are_the_bytes_of_the_file(model, draw):
    found = inspect(model[0])
    figure = draw(plots._bytes, found)
    whole, tensors = figure.axes
    assert widths(whole)[:, 0].tolist() == [found.sections[name] for name in plots._SECTIONS]
    assert widths(whole).sum() == found.file_bytes
    shown = [layer for layer in found.layers if layer.bytes]
    assert [label.get_text() for label in tensors.get_yticklabels()] == [layer.name for layer in shown]
    assert widths(tensors).sum(0).tolist() == [layer.bytes for layer in shown]
    assert "tied" not in [label.get_text() for label in tensors.get_yticklabels()]
    assert tensors.get_xlabel() == "Size (KB)"
    labels = legend_texts(figure)
    assert [label.split()[0] for label in labels] == list(plots._SECTIONS)
    assert labels[0] == f"weights {100 * found.sections['weights'] / found.file_bytes:.1f} %"
    looks = [(bars[0].get_facecolor(), bars[0].get_hatch()) for bars in whole.containers]
    assert len(set(looks)) == len(looks) == 7
    bottom = tensors.transData.transform((0, 0))[1]
    assert bottom > tensors.transData.transform((0, 1))[1]  # the first tensor is at the top


def pack_biases(tmp_path, sizes):
    path = tmp_path / "m.dc"
    plain_tensors = [
        (f"{i}.bias", encode_plain(np.full(n, 0.1, np.float32), DType.FLOAT32)) for i, n in enumerate(sizes)
    ]
    path.write_bytes(pack(plain_tensors, "", ""))
    return inspect(path)


def test_small_tensors_of_a_large_network_are_one_bar(tmp_path, draw):
    found = pack_biases(tmp_path, range(5, 65))
    figure = draw(plots._bytes, found)
    names = [label.get_text() for label in figure.axes[1].get_yticklabels()]
    assert len(names) == 21
    assert names[-1] == "40 others"
    assert widths(figure.axes[1]).sum() == sum(layer.bytes for layer in found.layers)
    largest = sorted(found.layers, key=lambda layer: -layer.bytes)[:20]
    assert set(names[:-1]) == {layer.name for layer in largest}


def test_a_file_without_bytes_in_its_tensors(tmp_path, draw):
    draw(plots._bytes, pack_biases(tmp_path, [0]))
    plots.draw_bytes(pack_biases(tmp_path, []), tmp_path / "x.png")
    assert chunks((tmp_path / "x.png").read_bytes())[1] == (1100, 420)


# Images ----------------------------------------------------------------------------------------------------


def test_an_image_and_its_colour_bar(draw):
    values = np.arange(12.0).reshape(3, 4)
    axes, bar = draw(plots._image, values, "Connections").axes
    (image,) = axes.images
    assert np.array_equal(image.get_array(), values)
    assert image.get_clim() == (0, 11)
    assert (axes.get_xlabel(), axes.get_ylabel(), bar.get_ylabel()) == ("Column", "Row", "Connections")


@pytest.mark.parametrize(
    "values", [np.zeros((0, 4)), np.full((2, 2), 7), np.full((2, 2), np.nan), np.eye(2, dtype=bool)]
)
def test_images_of_nothing_or_of_one_value(draw, values):
    (image,) = draw(plots._image, values, "n").axes[0].images
    shown = values.astype(float) if values.size else [[np.nan]]  # nothing is drawn as one empty place
    assert np.array_equal(image.get_array().filled(np.nan), shown, equal_nan=True)


def test_pixels_at_200_dpi():
    assert DPI == 200
