"""Whom a run tells when a program called it: nothing is printed, warnings are logged, the rest is kept.

In: what runs tell. Out: lists, and warnings of the logger ``refineseg``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from refineseg.terminal.printing import warn


class QuietFollower:
    """Follows a prediction of files; failures and notes are warnings."""

    def result(self, line: str) -> None:
        """Nothing: it is in the result."""

    def failed(self, message: str) -> None:
        """A warning."""
        warn(message)

    def noted(self, message: str) -> None:
        """A warning."""
        warn(message)

    def said(self, message: str) -> None:
        """Nothing: it is in the result."""

    def counted(self, what: str, done: int, total: int) -> None:
        """Nothing."""

    def share(self, what: str, done: float) -> None:
        """Nothing."""

    def ended(self) -> None:
        """Nothing."""


class QuietProgress:
    """Follows a training; ``notes`` keeps what was said, warnings are logged, too."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def say(self, message: str) -> None:
        """Keep it."""
        self.notes.append(message)
        if message.startswith("warning"):
            warn(message)

    def start(self, config: Any, num_samples: Sequence[int], *, done: int) -> None:  # noqa: ANN401 - TrainingConfig
        """Nothing."""

    def step(self, loss: float, images_per_s: float, share: float) -> None:
        """Nothing."""

    def epoch_done(self, entry: dict[str, Any]) -> None:
        """Nothing: it is in the result."""

    def stop(self) -> None:
        """Nothing."""

    def ended(self, message: str) -> None:
        """Keep it."""
        self.notes.append(message)
