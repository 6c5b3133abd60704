"""Somebody who hears what is said while the pipeline works."""

from __future__ import annotations

from deepcompress.training.progress import Progress


class Listener(Progress):
    """Keeps all messages, as `lines`."""

    def __init__(self):
        self.lines = []

    def message(self, text):
        self.lines.append(text)
