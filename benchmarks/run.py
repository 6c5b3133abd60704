"""Run the benchmarks that need no data set, one after the other; arguments: --large, as in encode.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPTS = ("coder.py", "load.py", "sparse.py", "encode.py", "recode.py")


def main() -> None:
    """Each in a process of its own: they measure memory, and imports."""
    for name in SCRIPTS:
        script = Path(__file__).parent / name
        arguments = sys.argv[1:] if name == "encode.py" else []
        print(f"\n{'─' * 20} {name}\n", flush=True)
        subprocess.run([sys.executable, str(script), *arguments], check=True)


if __name__ == "__main__":
    main()
