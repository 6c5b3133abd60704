"""Samples to round weights by, as a person names them on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click


@dataclass(frozen=True)
class Calibrating:
    """What --calibrate and --teach say.

    Raises:
        click.UsageError: --teach is given alone.
    """

    samples: str | None = None
    teach: bool = False

    def __post_init__(self) -> None:
        if self.teach and self.samples is None:
            raise click.UsageError("--teach goes by the samples of --calibrate: give both")

    def __bool__(self) -> bool:
        return self.samples is not None

    def arguments(self) -> dict[str, Any]:
        """Those of `compression.pipeline.compress`, with the samples read."""
        if self.samples is None:
            return {}
        from deepcompress.calibration.samples import load_samples

        return {"calibrate": load_samples(self.samples), "teach": self.teach}
