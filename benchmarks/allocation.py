"""AMC beside the search of `--max-drop`: the smallest file within the same points, in as many full compressions each.

The search tries sizes, and the coder's prices say what goes. The others try fractions, which lamp, or the agent of AMC,
shares out over the layers; the agent's own trials, which are not retrained, come on top. All have the settings of small
files, the same epochs, and the same rule for what passes; only validation data decides.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from pathlib import Path

from torch import nn

from deepcompress.cli.data import Asked, read_model_and_data
from deepcompress.recipe import Recipe
from deepcompress.studies.budget import Rule
from deepcompress.studies.points import Outcome, Point, origin_of, parts_of, reloaded, run_point
from deepcompress.studies.search import search
from deepcompress.training.data import DataSet
from deepcompress.training.evaluation import evaluate

FIRST = 1 / 16  # density of the first trial by fractions


def main() -> None:
    """Print a JSON object for each way, as soon as it is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", nargs="?", default="models/lenet-300-100.pt")
    parser.add_argument("--ways", default="max-drop,lamp,amc")
    parser.add_argument("--max-drop", type=float, default=0.5)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--finetune-epochs", type=int, default=4)
    parser.add_argument("--episodes", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    settings = {"epochs": options.epochs, "finetune_epochs": options.finetune_epochs, "seed": options.seed}
    for way in options.ways.split(","):
        model, data = read_model_and_data(options.checkpoint, False, None, None, Asked())
        with tempfile.TemporaryDirectory() as folder:
            if way == "max-drop":
                # The size is left open; so are settings that a size replaces.
                recipe = Recipe.smallest(target_size=1, **settings)
                found = search(model, data, recipe, options.max_drop, folder, trials=options.trials)
                tried = [trial.outcome for trial in found.trials if not trial.short]
                best = None if found.best is None else found.best.outcome
            else:
                agent = {"episodes": options.episodes} if way == "amc" else {}
                recipe = Recipe.smallest(prune=0.9, distribution=way, **settings, **agent)
                tried, best = by_fractions(model, data, recipe, options.max_drop, options.trials, Path(folder))
            error = math.nan
            if best is not None:
                error = evaluate(reloaded(model, Path(folder) / f"{best.name}.dc"), data.test_loader(), data.task).value
        print(json.dumps({"way": way, **vars(options), **facts(tried, best, error)}), flush=True)


def by_fractions(
    model: nn.Module, data: DataSet, recipe: Recipe, max_drop: float, trials: int, folder: Path
) -> tuple[list[Outcome], Outcome | None]:
    """Halve or double the density until one passes and one does not, then take the middle, as the search does."""
    dense = evaluate(model, data.val_loader(), data.task)
    rule = Rule.of(dense, max_drop, data.task, parts_of(model, data))
    origin = origin_of(model, data, "", 1)
    density, passing, failing = FIRST, 1.0, 0.0
    tried: list[Outcome] = []
    best = None
    for number in range(trials):
        point = Point(f"density{number}", recipe.changed(prune=1 - density))
        outcome = run_point(point, model, data, folder, origin, test=False)
        tried.append(outcome)
        passed = rule.passes(outcome)
        print(
            f"density {density:.5f}: {outcome.file_bytes} bytes, {outcome.val_error:.2f} %, {passed}", file=sys.stderr
        )
        if passed:
            passing = density
            best = outcome if best is None or outcome.file_bytes < best.file_bytes else best
        else:
            failing = max(failing, density)
        density = 2 * density if passing == 1 else passing / 2 if not failing else math.sqrt(passing * failing)
        if density >= 1:
            break
    return tried, best


def facts(tried: list[Outcome], best: Outcome | None, error: float) -> dict[str, object]:
    """What came of a way."""
    return {
        "compressions": len(tried),
        "file_bytes": None if best is None else best.file_bytes,
        "val_error": None if best is None else best.val_error,
        "test_error": error,
        "kept": None if best is None else best.kept,
        "seconds": sum(outcome.seconds or 0.0 for outcome in tried),
        "tried": [[outcome.file_bytes, outcome.val_error, outcome.kept] for outcome in tried],
    }


if __name__ == "__main__":
    main()
