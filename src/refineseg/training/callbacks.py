"""What a program hears of a run after each epoch, and how it ends the run early.

In: the entries of ``metrics.jsonl``. Out: calls, and whether the run ends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from refineseg.errors import ConfigError

Entry = Mapping[str, Any]
"""The numbers of an epoch, as in ``metrics.jsonl``: ``epoch`` (from 1), ``loss``, ``mean_iou`` where measured, ..."""


@dataclass(frozen=True)
class Callbacks:
    """What is called after each epoch, when its numbers are known and its files are written.

    Args:
        on_epoch: Called with the entry of the epoch.
        stop_when: Called with the entries of all epochs so far; the run ends if it says True. It can be resumed.
    """

    on_epoch: Callable[[Entry], object] | None = None
    stop_when: Callable[[Sequence[Entry]], bool] | None = None

    def epoch_done(self, history: Sequence[Entry]) -> bool:
        """Tell of an epoch; returns whether the run ends now."""
        if self.on_epoch is not None:
            self.on_epoch(history[-1])
        return self.stop_when is not None and bool(self.stop_when(history))


@dataclass(frozen=True)
class EarlyStopping:
    """Ends a run whose numbers no longer get better; for ``stop_when``.

    It looks at all epochs so far and remembers nothing, so a resumed run ends where one in a single piece does.

    Args:
        patience: Number of epochs since the best one after which the run ends.
        metric: ``mean_iou`` (of the validation split), or ``loss`` (of the training).
        min_delta: Least change that counts as better.

    Raises:
        ConfigError: Another metric, a patience below 1, or a change below 0.

    Example:
        >>> history = [{"epoch": i + 1, "mean_iou": iou} for i, iou in enumerate((0.2, 0.5, 0.4, 0.5))]
        >>> EarlyStopping(patience=2)(history), EarlyStopping(patience=3)(history)
        (True, False)
    """

    patience: int = 10
    metric: Literal["mean_iou", "loss"] = "mean_iou"
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        if str(self.metric) not in ("mean_iou", "loss"):
            raise ConfigError(f"expected mean_iou or loss as the metric to stop by, got {self.metric!r:.80}")
        if self.patience < 1 or self.min_delta < 0:
            raise ConfigError(
                f"expected a patience of at least 1 epoch and a min_delta of at least 0, got {self.patience} and "
                f"{self.min_delta}"
            )

    def __call__(self, history: Sequence[Entry]) -> bool:
        """Whether the best epoch is ``patience`` epochs ago; False after an epoch that was not measured."""
        sign = -1.0 if self.metric == "loss" else 1.0
        best, best_epoch = -float("inf"), 0
        for entry in history:
            known = self.metric in entry and not (self.metric == "mean_iou" and entry.get("one_class"))
            value = sign * entry[self.metric] if known else -float("inf")
            if value > best + self.min_delta:
                best, best_epoch = value, int(entry["epoch"])
        return best_epoch > 0 and self.metric in history[-1] and int(history[-1]["epoch"]) - best_epoch >= self.patience
