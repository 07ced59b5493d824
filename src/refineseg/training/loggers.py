"""Where a run's numbers go beside ``metrics.jsonl``: TensorBoard, MLflow (a server, or a folder), Weights & Biases.

In: the entries of ``metrics.jsonl``, the configuration, measured samples. Out: event files, or a run of a tracking
server, through the libraries of their own. What cannot be reached never stops training: it is said once, tried again
now and then, and what waits is sent later.

The door to TensorBoard (through PyTorch's writer), MLflow and wandb; all are optional.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from refineseg.errors import CheckpointError, DatasetError
from refineseg.files.archives import decoded, read_bytes
from refineseg.files.foreign_text import parse_json
from refineseg.files.writing import written_beside
from refineseg.training.pictures import validation_pictures
from refineseg.training.record import Measured
from refineseg.training.request import check_logs

EXPERIMENT = "refineseg"
RETRY_AFTER_S = 60.0
_VALIDATION = ("mean_iou", "pixel_accuracy")
_RUN_ID = r"[a-zA-Z0-9][\w\-]{0,255}"  # what MLflow takes, and wandb gives
_PARAMS, _METRICS = 100, 1000  # in one call; MLflow's limits


def numbers_of(entry: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an epoch under the names they are logged by.

    Example:
        >>> ious = {"sky": 0.5, "road": None}
        >>> numbers_of({"epoch": 3, "one_class": True, "loss": 0.5, "mean_iou": 0.25, "class_iou": ious})
        {'train/loss': 0.5, 'val/mean_iou': 0.25, 'val_iou/sky': 0.5}
    """
    numbers: dict[str, float] = {}
    for name, value in entry.items():
        if name == "class_iou":
            numbers |= {f"val_iou/{_plain(key)}": iou for key, iou in value.items() if iou is not None}
        elif name not in ("epoch", "one_class"):
            numbers[f"{'val' if name in _VALIDATION else 'train'}/{name}"] = value
    return numbers


def _plain(name: str) -> str:
    """With characters that every tracker takes."""
    return re.sub(r"[^\w\-. /]", "_", name)


@runtime_checkable
class Logger(Protocol):
    """One place for numbers; any method may raise whatever its library raises."""

    def epochs(self, entries: Sequence[Mapping[str, Any]], /) -> None:
        """Complete epochs, in their order; some may have been logged before."""

    def pictures(self, epoch: int, measured: Measured, /) -> None:
        """Some validation images as they are predicted now."""

    def close(self, *, finished: bool) -> None:
        """No more will come from this process."""


class TensorBoardLogger:
    """Event files in the run's folder ``tensorboard``.

    Args:
        folder: Folder of the run.
        config: Shown as text.
        done: Epochs that are complete; what an earlier process logged of later ones is hidden.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], *, done: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=done + 1)
        if not done:
            text = "\n".join(f"    {line}" for line in json.dumps(config, indent=1).splitlines())
            self._writer.add_text("config", text, 0)

    def epochs(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Complete epochs, in their order."""
        for entry in entries:
            for name, value in numbers_of(entry).items():
                self._writer.add_scalar(name, value, entry["epoch"])
        self._writer.flush()

    def pictures(self, epoch: int, measured: Measured) -> None:
        """Image, truth, prediction and errors side by side."""
        for name, picture in validation_pictures(measured, epoch):
            self._writer.add_image(f"val/{name}", np.asarray(picture), epoch, dataformats="HWC")

    def close(self, *, finished: bool) -> None:
        """Close the file."""
        self._writer.close()


def known_run(path: Path) -> str | None:
    """The run of a tracker that a file in a run's folder names; None: there is no file yet.

    Raises:
        CheckpointError: It is damaged.
    """
    if not path.exists():
        return None
    try:
        identity = parse_json(decoded(read_bytes(path)))["run_id"]
        if not re.fullmatch(_RUN_ID, identity):
            raise ValueError(f"no name of a run in {identity!r:.80}")
    except (OSError, ValueError, LookupError, TypeError, DatasetError) as error:
        raise CheckpointError(
            f"expected the run of a tracker in {path}, which is damaged ({error!r:.200}); remove it to begin anew"
        ) from error
    return str(identity)


class MlflowLogger:
    """A run of an MLflow tracking server, or of a folder; ``mlflow.json`` says which, so that a resumed run goes on.

    Args:
        folder: Folder of the run.
        config: Its values become parameters.
        uri: Address of the server; None: ``MLFLOW_TRACKING_URI``, else a folder.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], *, uri: str | None) -> None:
        # a server that does not answer must not hold up training for the minutes that MLflow tries by default
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or (folder.resolve() / "mlruns").as_uri()
        if "://" not in uri or uri.startswith("file:"):
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # the one store of mlflow-skinny without a server
        import mlflow
        from mlflow.entities import Metric, Param

        self._metric = Metric
        self._client = mlflow.MlflowClient(tracking_uri=uri)
        known = folder / "mlflow.json"
        self._logged = 0
        if (identity := known_run(known)) is not None:
            self._run = identity
            history = self._client.get_metric_history(self._run, "train/loss")
            self._logged = max((metric.step for metric in history), default=0)
            self._client.update_run(self._run, status="RUNNING")
            return
        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        place = self._client.create_experiment(EXPERIMENT) if experiment is None else experiment.experiment_id
        self._run = self._client.create_run(place, run_name=folder.resolve().name).info.run_id
        params = [Param(key, value) for key, value in _flat(config)]
        for first in range(0, len(params), _PARAMS):
            self._client.log_batch(self._run, params=params[first : first + _PARAMS])
        with written_beside(known) as temporary:
            temporary.write_text(json.dumps({"tracking_uri": uri, "run_id": self._run}), encoding="utf-8")

    def epochs(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Complete epochs, in their order; those logged before are left out."""
        now = int(1e3 * time.time())
        new = [entry for entry in entries if entry["epoch"] > self._logged]
        metrics = [self._metric(k, v, now, entry["epoch"]) for entry in new for k, v in numbers_of(entry).items()]
        for first in range(0, len(metrics), _METRICS):
            self._client.log_batch(self._run, metrics=metrics[first : first + _METRICS])
        self._logged = max((entry["epoch"] for entry in new), default=self._logged)

    def pictures(self, epoch: int, measured: Measured) -> None:
        """None: numbers only."""

    def close(self, *, finished: bool) -> None:
        """Say how it ended."""
        self._client.set_terminated(self._run, status="FINISHED" if finished else "KILLED")


class WandbLogger:
    """A run of Weights & Biases; ``wandb.json`` says which, so that a resumed run goes on.

    ``WANDB_MODE=offline`` keeps it in the run's folder, from where ``wandb sync`` sends it.

    Args:
        folder: Folder of the run.
        config: Its values.
        project: Name of the project; None: ``WANDB_PROJECT``, else ``refineseg``.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], *, project: str | None) -> None:
        import wandb

        known = folder / "wandb.json"
        self._image = wandb.Image
        self._run = wandb.init(
            project=project or os.environ.get("WANDB_PROJECT") or EXPERIMENT,
            name=folder.resolve().name,
            id=known_run(known),
            resume="allow",
            dir=str(folder),
            config=dict(config),
            settings=wandb.Settings(silent=True, console="off", init_timeout=20, login_timeout=20),
        )
        with written_beside(known) as temporary:
            temporary.write_text(json.dumps({"run_id": self._run.id}), encoding="utf-8")

    def epochs(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Complete epochs, in their order; wandb itself leaves out those logged before."""
        for entry in entries:
            self._run.log(numbers_of(entry), step=entry["epoch"])

    def pictures(self, epoch: int, measured: Measured) -> None:
        """Image, truth and prediction side by side."""
        pictures = validation_pictures(measured, epoch)
        self._run.log({f"val/{name}": self._image(np.asarray(picture)) for name, picture in pictures}, step=epoch)

    def close(self, *, finished: bool) -> None:
        """Say how it ended."""
        self._run.finish(exit_code=0 if finished else 1)


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:  # noqa: ANN401 - JSON
    """Nested values as pairs of a dotted name and a text."""
    if isinstance(value, dict | list) and value:
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _flat(part, f"{name}.{key}" if name else str(key))
    else:
        yield name, json.dumps(value)


class _Steady:
    """A logger that may fail: opened and sent to when it can be, with what an absent tracker has missed.

    MLflow's own asynchronous logging is not used: it drops what it cannot send, see docs/experiments.md.
    """

    def __init__(self, name: str, make: Callable[[], Logger], say: Callable[[str], None]) -> None:
        self._name, self._make, self._say = name, make, say
        self._logger: Logger | None = None
        self._waiting: list[Mapping[str, Any]] = []
        self._next_at = time.monotonic()
        self._complained = False

    def send(self, *, entry: Mapping[str, Any] | None = None, now: bool = False) -> None:
        if entry is not None:
            self._waiting.append(entry)
        if now or time.monotonic() >= self._next_at:
            self._try(self._send_all)

    def _send_all(self) -> None:
        if self._logger is None:
            self._logger = self._make()
        self._logger.epochs(self._waiting)
        self._waiting = []

    def pictures(self, epoch: int, measured: Measured) -> None:
        if (logger := self._logger) is not None:
            self._try(lambda: logger.pictures(epoch, measured))

    def close(self, *, finished: bool) -> None:
        self.send(now=True)
        if (logger := self._logger) is not None:
            self._try(lambda: logger.close(finished=finished))
        if self._waiting:
            self._say(f"{self._name} has not got {len(self._waiting)} epochs; metrics.jsonl has them all")

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # noqa: BLE001 - whatever a tracker's library raises, training goes on
            self._next_at = time.monotonic() + RETRY_AFTER_S
            if not self._complained:
                reason = str(error).strip().splitlines() or [type(error).__name__]
                self._say(f"cannot log to {self._name} ({reason[0][:200]}); training goes on, and it is tried again")
            self._complained = True


class Loggers:
    """All loggers of a run."""

    def __init__(self, steady: Sequence[_Steady]) -> None:
        self._all = steady

    @classmethod
    def open(
        cls, names: Sequence[str], folder: Path, config: Mapping[str, Any], *, done: int, say: Callable[[str], None]
    ) -> Loggers:
        """Those that were asked for.

        Args:
            names: Names of loggers, of :data:`~refineseg.training.request.LOGGERS`.
            folder: Folder of the run.
            config: As plain values.
            done: Epochs that are complete.
            say: Shows a line to the user.

        Raises:
            ConfigError: No such logger.
            MissingExtraError: Its package is not installed.
        """
        check_logs(names)

        def maker(name: str) -> Callable[[], Logger]:
            kind, _, rest = name.partition(":")
            if kind == "mlflow":
                return lambda: MlflowLogger(folder, config, uri=rest or None)
            if kind == "wandb":
                return lambda: WandbLogger(folder, config, project=rest or None)
            return lambda: TensorBoardLogger(folder, config, done=done)

        opened = [_Steady(name, maker(name), say) for name in dict.fromkeys(names)]
        for steady in opened:
            steady.send(now=True)
        return cls(opened)

    def epoch(self, entry: Mapping[str, Any]) -> None:
        """A complete epoch."""
        for steady in self._all:
            steady.send(entry=entry)

    def pictures(self, epoch: int, measured: Measured) -> None:
        """Some validation images as they are predicted now."""
        for steady in self._all:
            steady.pictures(epoch, measured)

    def close(self, *, finished: bool) -> None:
        """No more will come from this process."""
        for steady in self._all:
            steady.close(finished=finished)
