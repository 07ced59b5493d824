"""What a run shows while it runs: a live bar on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from rich.progress import BarColumn, TimeRemainingColumn

from refineseg.data.samples.sample import Dataset
from refineseg.terminal.printable import duration
from refineseg.terminal.printing import Column, Terminal, loudness, progress_bar, summed_up
from refineseg.training.config import Phase, TrainingConfig

_SILENT_S = 30.0  # between two lines of an epoch where there is no terminal


@runtime_checkable
class Progress(Protocol):
    """Told of everything that happens in a run."""

    def say(self, message: str, /) -> None:
        """A line for the user."""

    def start(self, config: TrainingConfig, num_samples: Sequence[int], /, *, done: int) -> None:
        """The run begins, with ``done`` epochs already there; ``num_samples`` of each phase."""

    def step(self, loss: float, images_per_s: float, share: float, /) -> None:
        """A step is done; ``share`` of the epoch lies behind."""

    def epoch_done(self, entry: dict[str, Any], /) -> None:
        """An epoch is done and saved."""

    def stop(self) -> None:
        """The run ends."""

    def ended(self, message: str, /) -> None:
        """The run ended before its last epoch: why, and how to go on. A result, not a line of progress."""


def say_notes(datasets: Sequence[Dataset], progress: Progress) -> None:
    """What the readers say of the files, and which objects cover no pixel: once every mask has been read."""
    for note in summed_up(list(dict.fromkeys(note for dataset in datasets for note in dataset.notes))):
        progress.say(f"note: {note}")


def _crops_of_an_epoch(phase: Phase, samples: int) -> int:
    """Those of its steps where it is made of steps, else one of each sample."""
    return phase.epoch_steps * min(phase.batch_size, samples) if phase.epoch_steps else samples


class TerminalProgress:
    """A live bar with loss, mIoU, images/s and time left on a terminal, lines with the same elsewhere.

    Time left counts pixels, not epochs, so that phases of small crops do not mislead it.
    """

    def __init__(self, console: Terminal, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._bar = progress_bar(
            console,
            Column("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=10),  # the whole line fits into 80 columns
            Column("loss {task.fields[loss]:.3f}  mIoU {task.fields[mean_iou]}  {task.fields[rate]:.1f} images/s"),
            Column("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            described=False,
            transient=False,
            period_s=600.0,
        )
        self._clock = clock
        self._work: list[int] = []
        self._done = 0
        self._quiet = loudness() == "quiet"
        self._begun = self._said = 0.0
        self._before = 0.0  # work that an earlier call has done

    def say(self, message: str) -> None:
        """A line for the user."""
        if not self._quiet:
            self._console.say(message)

    def start(self, config: TrainingConfig, num_samples: Sequence[int], *, done: int) -> None:
        """The run begins, with ``done`` epochs already there; ``num_samples`` of each phase."""
        self._work = [
            _crops_of_an_epoch(phase, samples) * phase.crops.crop_hw[0] * phase.crops.crop_hw[1]
            for phase, samples in zip(config.phases, num_samples, strict=True)
            for _ in range(phase.epochs)
        ]
        self._done, self._before = done, sum(self._work[:done])
        self._begun = self._said = self._clock()
        self._task = self._bar.add_task(
            "",
            total=sum(self._work),
            completed=sum(self._work[:done]),
            epoch=self._label(),
            loss=0.0,
            mean_iou="-",
            rate=0.0,
        )
        self._bar.start()

    def _label(self) -> str:
        return f"{min(self._done + 1, len(self._work))}/{len(self._work)}"

    def step(self, loss: float, images_per_s: float, share: float) -> None:
        """A step is done; ``share`` of the epoch lies behind."""
        completed = sum(self._work[: self._done]) + share * self._work[self._done]
        self._bar.update(self._task, completed=completed, loss=loss, rate=images_per_s)
        if not self._console.is_terminal and self._clock() - self._said >= _SILENT_S and share < 1:
            self._said = self._clock()
            self.say(
                f"epoch {self._label()}: {100 * share:.0f} %, loss {loss:.4f}, {images_per_s:.1f} images/s"
                f"{self._left(completed)}"
            )

    def _left(self, completed: float) -> str:
        """``, 5 min 0 s left``: by the work that this call has done; empty at the end."""
        rest, done = sum(self._work) - completed, completed - self._before
        return f", {duration((self._clock() - self._begun) * rest / done)} left" if rest > 0 and done > 0 else ""

    def epoch_done(self, entry: dict[str, Any]) -> None:
        """An epoch is done and saved."""
        self._done = entry["epoch"]
        mean_iou = f"{100 * entry['mean_iou']:.2f} %" if "mean_iou" in entry else "-"
        self._bar.update(self._task, epoch=self._label(), mean_iou=mean_iou)
        if not self._console.is_terminal:
            self.say(
                f"epoch {entry['epoch']}/{len(self._work)}: loss {entry['loss']:.4f}, mIoU {mean_iou}, "
                f"{entry['images_per_s']:.1f} images/s, {entry['seconds']:.0f} s"
                f"{self._left(sum(self._work[: self._done]))}"
            )
            self._said = self._clock()

    def stop(self) -> None:
        """The run ends."""
        self._bar.stop()

    def ended(self, message: str) -> None:
        """The run ended before its last epoch."""
        self._console.say(message)
