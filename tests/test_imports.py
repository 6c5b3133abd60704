"""The architecture: which module may import which, and what stays unloaded until it is needed."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch

import deepcompress
from deepcompress.compression.tensors_only import compress_state
from deepcompress.recipe import Recipe

ROOT = Path(deepcompress.__file__).parent

# The way the data flows, as it is built: a module imports its own line, and lines above. Vocabulary comes first,
# then each stage of the pipeline and what puts a file together, then the whole, and what people see of it.
ORDER = [
    ["errors", "version"],
    ["files", "usercode"],
    ["recipe"],
    ["layers"],
    ["checkpoint"],
    ["coding"],
    ["container"],
    ["networks"],
    ["sparse"],
    ["reading"],
    ["updates"],
    ["training"],
    ["prune"],
    ["quantize"],
    ["calibration"],
    ["compression"],
    ["graphs"],
    ["integrations"],
    ["studies"],
    ["report"],
    ["cli"],
    ["__main__"],
]

# Folders, from the bottom up: the same rule inside of each.
INSIDE = {
    "recipe": [
        "kinds",
        "setting",
        "rules",
        "method",
        "stages",
        "ways",
        "effects",
        "conflicts",
        "smallest",
        "uses",
        "tables",
    ],
    "checkpoint": [
        "stored",
        "found",
        "archives",
        "pickles",
        "safetensors",
        "torchfile",
        "torchscript",
        "legacytar",
        "distributed",
        "npz",
        "gguf",
        "containers",
        "wrappers",
        "prefixes",
        "reparametrized",
        "saving",
    ],
    "coding": [
        "bits",
        "huffman",
        "adaptive.tables",
        "adaptive.model",
        "adaptive.coder",
        "uncounted",
        "compiled",
        "kernels",
        "threads",
        "lanes",
        "streams",
        "dtypes",
        "planes",
        "scales",
        "offsets",
        "lookup",
        "rans.tokens",
        "rans.shape",
        "rans.frequencies",
        "rans.model",
        "rans.classes",
        "rans.fitting",
        "rans.tables",
        "rans.arrays",
        "rans.plain",
        "rans.stack",
        "rans.dense_loops",
        "rans.gap_loops",
        "rans.kernels",
        "rans.decoder",
        "rans.codec",
        "rans",
        "forms",
        "codebooks",
        "adaptive.codec",
        "adaptive",
        "tensors",
        "survey",
        "layouts.exact",
        "layouts.references",
        "layouts.coded",
        "layouts.dense",
        "layouts.relative",
        "layouts.adaptive",
        "layouts.ranked",
        "layouts",
        "encoder",
    ],
    "container": [
        "entries",
        "deflate",
        "normalize",
        "graph",
        "extensions",
        "version1",
        "version2",
        "version3",
        "format",
        "writer",
        "reader",
        "breakdown",
    ],
    "networks": [
        "zoo",
        "lenet",
        "resnet",
        "dscnn",
        "batchnorm",
        "copies",
        "unmade",
        "adapt",
        "parametrized",
        "inputs",
        "precision",
        "names",
    ],
    "sparse": ["arrays", "kernels", "plain", "matrix", "modules", "bench"],
    "reading": [
        "arrays",
        "fitting",
        "loader",
        "frameworks",
        "tensorfile",
        "recode",
        "tied",
        "onnx",
        "npz",
        "cheader",
    ],
    "updates": [
        "changes_loop",
        "differences_loop",
        "kernels",
        "coder",
        "changes",
        "differences",
        "container",
        "content",
        "records",
        "sections",
        "numbers",
        "fits",
        "models",
        "ways",
        "telling",
        "building",
        "cuts",
        "pieces",
        "cutting",
        "joining",
        "update",
        "describe",
    ],
    "calibration": [
        "statistics",
        "recurrent",
        "attention",
        "hooks",
        "collect",
        "kernels",
        "feedback",
        "grids",
        "checking",
        "samples",
        "trial",
        "teaching",
        "rounding",
        "budget",
    ],
    "compression": [
        "result",
        "rates",
        "lowrank",
        "packing",
        "from_file",
        "small",
        "writing",
        "stages",
        "revision",
        "from_base",
        "sizing",
        "contents",
        "stream",
        "tensors_only",
        "pipeline",
        "own_loop",
        "plan",
    ],
    "graphs": [
        "values",
        "walk",
        "model",
        "roles",
        "restore",
        "session",
        "feeds",
        "product",
        "convolutions",
        "products",
        "turns",
        "sensing",
        "trial",
        "calibrate",
        "compress",
    ],
    "integrations": ["steps", "lightning", "transformers"],
    "studies": ["points", "budget", "trials", "sensitivity", "sweep", "search", "compare"],
    "training": [
        "progress",
        "outputs",
        "measures",
        "tasks",
        "folders",
        "speech",
        "arrays",
        "unlabeled",
        "data",
        "inputs_only",
        "taught",
        "objective",
        "snapshot",
        "batches",
        "journal",
        "distributed",
        "evaluation",
        "layout",
        "check",
        "loop",
        "retraining",
        "rollback",
        "running_statistics",
        "dense",
    ],
    "prune": [
        "fisher",
        "scores",
        "masks",
        "maskfile",
        "units",
        "blocks",
        "coupling",
        "criteria.base",
        "criteria.basic",
        "criteria.gradients",
        "criteria.per_sample",
        "criteria.obs",
        "criteria.woodfisher",
        "criteria.initial",
        "criteria.taylor",
        "criteria.mlprune",
        "criteria.factors",
        "criteria.empirical",
        "criteria.structured",
        "criteria.thinet",
        "criteria",
        "trials",
        "ddpg",
        "amc",
        "schedule",
        "neurons",
        "lifelines",
        "ordering",
        "dropout",
        "costs",
        "penalty",
        "shadow",
        "hooks",
        "regrow",
        "budget",
        "early",
        "stage",
        "steps",
        "guard",
        "lottery",
        "variational",
        "circular",
        "gap",
        "sparse",
        "shrink",
        "programs",
        "stable",
    ],
    "quantize": [
        "kmeans",
        "rate",
        "grid",
        "rows",
        "choice",
        "sharing",
        "steps",
        "vectors",
        "latent",
        "vector_tuning",
        "sticky",
        "lc",
        "straight_through",
        "line",
        "mixture",
        "soft_sharing",
    ],
    "report": [
        "console",
        "names",
        "tables",
        "filetables",
        "studytables",
        "page",
        "charts",
        "masks",
        "plots",
        "updates",
        "view",
    ],
    "cli": [
        "group",
        "settings",
        "options",
        "building",
        "naming",
        "outputs",
        "common",
        "data",
        "onnx",
        "masking",
        "calibrating",
        "order",
        "routes",
        "sections",
        "compress",
        "train",
        "plan",
        "compare",
        "files",
        "sensitivity",
        "sweep",
        "bench",
        "plot",
        "updates",
        "view",
    ],
}


def module_name(path):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"))


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


@cache
def imports(path):
    """Every module that a file imports, wherever in it, but for what only type checkers see."""
    found = set()

    def visit(node):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in MODULES else str(node.module))
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(parsed(path))
    return found


def own(path):
    """As `imports`, but only this package's modules, without its name in front."""
    return {name.removeprefix("deepcompress.") for name in imports(path) if name.startswith("deepcompress.")}


INNER = {name.removeprefix("deepcompress."): path for name, path in MODULES.items() if name != "deepcompress"}


def test_every_module_has_its_place():
    assert {name.split(".")[0] for name in INNER} == {name for line in ORDER for name in line}
    for folder, names in INSIDE.items():
        assert {name.partition(".")[2] for name in INNER if name.startswith(f"{folder}.")} == set(names)


@pytest.mark.parametrize("name", INNER)
def test_imports_run_one_way(name):
    rank = {module: index for index, line in enumerate(ORDER) for module in line}
    top, _, rest = name.partition(".")
    for other in own(INNER[name]):
        other_top, _, other_rest = other.partition(".")
        if other_top != top:
            assert rank[other_top] < rank[top], f"{name} imports {other}"
        elif rest and other_rest:
            inside = INSIDE[top]
            assert inside.index(other_rest) < inside.index(rest), f"{name} imports {other}"


@pytest.mark.parametrize(
    "name", [name for name in INNER if name.split(".")[0] in ("reading", "sparse", "coding", "container", "updates")]
)
def test_a_reader_of_files_knows_nothing_of_how_they_are_made(name):
    makers = {"prune", "quantize", "training", "compression", "studies", "recipe", "checkpoint", "report", "cli"}
    assert not {other.split(".")[0] for other in own(INNER[name])} & makers


def users(library):
    """Modules that import `library`, as folders or single modules."""
    return {
        name.removeprefix("deepcompress.").split(".")[0]
        for name, path in MODULES.items()
        if any(found.split(".")[0] == library for found in imports(path))
    }


def test_libraries_have_their_places():
    assert users("click") == {"cli"}
    assert users("rich") == {"report"}
    assert users("matplotlib") == {"report"}
    assert users("bitarray") == {"coding"}
    assert users("safetensors") == {"checkpoint"}
    assert users("onnxruntime") == {"graphs", "reading"}
    assert users("lightning") == users("pytorch_lightning") == users("transformers") == {"integrations"}
    assert users("sklearn") <= {"quantize", "training"}
    assert users("torchvision") <= {"networks", "training"}
    assert not users("torch") & {"coding", "container", "updates", "files", "errors", "recipe", "report"}
    assert not users("pickle") - {"checkpoint"}


def test_heavy_libraries_are_imported_where_they_are_used():
    for name, path in MODULES.items():
        top = parsed(path).body
        names = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
        names |= {str(node.module) for node in top if isinstance(node, ast.ImportFrom)}
        heavy = {"sklearn", "torchvision", "safetensors", "matplotlib", "onnxruntime"}
        assert not {found.split(".")[0] for found in names} & heavy, name


PROBE = """
import sys
from deepcompress.cli import main
sys.argv = ["deepcompress", *{arguments!r}]
try:
    main()
finally:
    print(*sorted({{name.split(".")[0] for name in sys.modules}}), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("file") / "m.dc"
    torch.manual_seed(0)
    compress_state({"w": torch.randn(40, 30), "b": torch.randn(30)}, Recipe(prune=0.8, retrain=False), path)
    return str(path)


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["compress", "--help"], ["inspect"], ["inspect", "--json"], ["verify"]],
    ids=" ".join,
)
def test_commands_that_answer_at_once_load_no_torch(arguments, model_file):
    file = [model_file] if arguments[0] in ("inspect", "verify") else []
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(arguments=[*arguments, *file])], capture_output=True, check=False, text=True
    )
    assert done.returncode == 0, done.stderr
    loaded = set(done.stderr.split())
    assert "deepcompress" in loaded
    assert not loaded & {"torch", "torchvision", "sklearn", "scipy", "matplotlib", "safetensors"}
    if "--json" in arguments:
        assert json.loads(done.stdout)["file"] == model_file


def test_arrays_need_no_torch(model_file, tmp_path):
    code = """
import sys
import deepcompress as dc
path, out = sys.argv[1:]
state = dc.load_state_dict(path, framework="numpy")
with dc.open(path, framework="numpy") as file:
    assert (file["b"] == state["b"]).all()
from deepcompress.cli import main
for ending in ("npz", "h"):
    try:
        main(["export", path, "-o", f"{out}/x.{ending}"])
    except SystemExit as done:
        assert not done.code
print(sorted(set(sys.modules) & {"torch", "sklearn", "scipy", "matplotlib", "safetensors"}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, model_file, str(tmp_path)], capture_output=True, check=False, text=True
    )
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr
    assert {file.name for file in tmp_path.iterdir()} == {"x.npz", "x.h"}


def test_the_public_api_is_lazy_and_complete():
    done = subprocess.run(
        [sys.executable, "-c", "import deepcompress, sys; print('torch' in sys.modules); deepcompress.compress"],
        capture_output=True,
        check=False,
        text=True,
    )
    assert (done.stdout, done.returncode) == ("False\n", 0)
    assert {"compress", "load", "load_state_dict", "inspect", "Recipe"} <= set(deepcompress.__all__)
    assert set(deepcompress.__all__) == set(deepcompress._HOMES)
    for name in deepcompress.__all__:
        assert getattr(deepcompress, name).__name__ == name
        assert name in dir(deepcompress)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = deepcompress.nothing
