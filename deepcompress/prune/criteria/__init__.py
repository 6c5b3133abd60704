"""Every criterion by name; importing this makes them known."""

from __future__ import annotations

from deepcompress.prune.criteria import basic as basic
from deepcompress.prune.criteria.base import CRITERIA as CRITERIA
