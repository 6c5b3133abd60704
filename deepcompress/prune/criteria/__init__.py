"""Every criterion by name; importing this makes them known."""

from __future__ import annotations

from deepcompress.prune.criteria import basic as basic
from deepcompress.prune.criteria import empirical as empirical
from deepcompress.prune.criteria import factors as factors
from deepcompress.prune.criteria import initial as initial
from deepcompress.prune.criteria import mlprune as mlprune
from deepcompress.prune.criteria import obs as obs
from deepcompress.prune.criteria import structured as structured
from deepcompress.prune.criteria import taylor as taylor
from deepcompress.prune.criteria import thinet as thinet
from deepcompress.prune.criteria import woodfisher as woodfisher
from deepcompress.prune.criteria.base import CRITERIA as CRITERIA
