"""Somebody who hears what is said while the pipeline works."""

from __future__ import annotations

from deepcompress.training.progress import Progress


class Listener(Progress):
    """Keeps all messages, as `lines`, and what is told of each epoch, as `results`."""

    def __init__(self):
        self.lines, self.results = [], []

    def message(self, text):
        self.lines.append(text)

    def epoch(self, result):
        self.results.append(result)

    @property
    def epochs(self):
        """The number of each epoch, and how many there were to be."""
        return [(result.epoch, result.epochs) for result in self.results]
