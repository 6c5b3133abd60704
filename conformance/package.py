"""The package as a decoder for the suite: `python conformance/package.py MODEL.dc` prints what the file holds."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from deepcompress.container.reader import ModelFile
from deepcompress.errors import FormatError


def contents(path: str | Path) -> dict[str, Any]:
    """Names, dtypes, shapes and digests of all tensors.

    Raises:
        FormatError: the file is not valid.
    """
    tensors = []
    with ModelFile(path) as file:
        file.check()
        for name in file:
            values, dtype = file.read(name)
            digest = hashlib.sha256(values.tobytes()).hexdigest()
            tensors.append({"name": name, "dtype": dtype.name.lower(), "shape": list(values.shape), "sha256": digest})
        header = file.header
    return {"version": header.version, "network": header.network, "data": header.data, "tensors": tensors}


def main(path: str) -> int:
    """The command line: 0, or 1 if the file is not valid."""
    try:
        print(json.dumps(contents(path)))
    except FormatError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
