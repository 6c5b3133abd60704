"""Write the files of the suite, or further valid ones from a seed.

python conformance/generate.py                              # valid/ and invalid/, as they are kept
python conformance/generate.py --seed 7 --count 100 -o DIR  # other valid files, each with its JSON
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import breaks1
import breaks2
import breaks3
import breaks_ranks
import cases1
import cases2
import cases3
import cases_ranks
import numpy as np
from further import random_file

HERE = Path(__file__).resolve().parent


def write(folder: Path, contents: dict[str, bytes]) -> None:
    """Write these files, and delete what else a generator has left in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("*.dc"), *folder.glob("*.json")):
        if old.name not in contents:
            old.unlink()
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    print(f"{folder}: {len(contents)} files, {sum(map(len, contents.values())):,} bytes")


def valid() -> dict[str, bytes]:
    """Each valid file, and beside it what it holds."""
    out = {}
    for name, file in (cases1.files() | cases2.files() | cases3.files() | cases_ranks.files()).items():
        out[f"{name}.dc"], out[f"{name}.json"] = file.to_bytes(), file.expected().encode()
    return out


def invalid() -> dict[str, bytes]:
    """Each invalid file, and which section of the specification each breaks."""
    broken = breaks1.files() | breaks2.files() | breaks3.files() | breaks_ranks.files()
    sections = {name: section for name, (section, _) in broken.items()}
    out = {f"{name}.dc": content for name, (_, content) in broken.items()}
    return out | {"sections.json": (json.dumps(sections, indent=1) + "\n").encode()}


def further(seed: int, count: int) -> dict[str, bytes]:
    """So many random valid files; the same for the same seed."""
    out = {}
    for number in range(count):
        file = random_file(np.random.default_rng([seed, number]))
        name = f"seed{seed}-{number:04d}"
        out[f"{name}.dc"], out[f"{name}.json"] = file.to_bytes(), file.expected().encode()
    return out


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write the conformance suite, or further valid files from a seed.")
    parser.add_argument("--seed", type=int, help="Write random valid files of this seed instead of the suite.")
    parser.add_argument("--count", type=int, default=100, help="Number of random files.  [default: 100]")
    parser.add_argument("-o", "--output", type=Path, default=HERE, help="Folder to write to.")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        write(arguments.output / "valid", further(arguments.seed, arguments.count))
        return
    write(arguments.output / "valid", valid())
    write(arguments.output / "invalid", invalid())


if __name__ == "__main__":
    main()
