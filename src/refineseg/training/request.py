"""What can be checked of a call that trains before PyTorch is there: loggers, plain options, folders, seeds.

In: words of the command line. Out: values, or an error.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from refineseg.data.datasets import DATASETS, Root, data_splits, open_dataset, parse_sources
from refineseg.data.own.folder_layout import split_like, splits_alike
from refineseg.data.samples.given import GIVEN
from refineseg.data.samples.run_record import HELD_OUT
from refineseg.errors import CheckpointError, ConfigError, MissingExtraError
from refineseg.training.config import CHECKPOINT, PICTURES_FOLDER, RUN_FILES, TrainingConfig, from_json
from refineseg.training.launch import Launch

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_LONGEST_S = 365 * 24 * 3600.0  # a year: more is a slip, and its schedule would take minutes to make, or overflow

LOGGERS = ("tensorboard", "mlflow", "mlflow:URI", "wandb", "wandb:PROJECT")
"""What can be asked for; without a URI: ``MLFLOW_TRACKING_URI``, else the folder ``mlruns`` of the run."""


LAUNCH = "launch"
"""In ``run.json``: the mark of the launch and the call that began a run."""

CALL = "call"
"""In ``run.json``: the mark of the one call that began a run, which no other call has."""


def check_logs(names: Sequence[str]) -> None:
    """Whether these loggers can be had, before anything is computed.

    Raises:
        ConfigError: No such logger.
        MissingExtraError: Its package is not installed.
    """
    for name in names:
        kind, _, rest = name.partition(":")
        if kind not in LOGGERS or (rest and kind == "tensorboard"):
            raise ConfigError(f"expected --log {', '.join(LOGGERS)}, got {name!r}")
        if importlib.util.find_spec(kind) is None:
            package = "mlflow-skinny" if kind == "mlflow" else kind
            raise MissingExtraError(package, extra=kind, purpose=f"log to {kind}")


def check_new_run(folder: Path) -> None:
    """Whether a folder holds no run yet, and no file that a run would take the place of.

    Raises:
        CheckpointError: It does.
    """
    if (folder / "run.json").exists() or (folder / CHECKPOINT).exists():
        raise CheckpointError(
            f"expected a folder without a run, got {folder}; "
            f"go on with it by --resume --out {folder}, or choose another"
        )
    for name in (*RUN_FILES, PICTURES_FOLDER):
        if (folder / name).exists():
            raise CheckpointError(
                f"expected a folder without files of a run, got {folder} with {name}, which would be lost; choose "
                "another folder, or move the file away"
            )


def launch_mark(launch: Launch, call: Mapping[str, object]) -> str | None:
    """What tells a call of a launch from any other, also when its processes are started again.

    Args:
        launch: How they were started.
        call: The options that decide what a new run is.

    Returns:
        A digest; None where ``torchrun`` did not start them.
    """
    if launch.name is None:
        return None
    words = json.dumps([launch.name, {name: str(value) for name, value in call.items()}])
    return hashlib.sha256(words.encode("utf-8", "surrogatepass")).hexdigest()


def was_begun_by(mark: str | None, folder: Path, *, key: str = LAUNCH) -> bool:
    """Whether the run in a folder was begun by the launch and the call of this mark.

    Args:
        mark: Mark of the launch and the call, or of the call alone.
        folder: Folder of the run.
        key: Name of the mark in ``run.json``: :data:`LAUNCH` or :data:`CALL`.
    """
    try:
        description = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return mark is not None and isinstance(description, dict) and description.get(key) == mark


def read_run(folder: Path) -> tuple[dict[str, Any], TrainingConfig]:
    """What the ``run.json`` of a run says: all of it, and its configuration.

    Raises:
        CheckpointError: There is no run in the folder, or its description is damaged.
        ConfigError: The configuration is not one of this version.
    """
    path = folder / "run.json"
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        needed = {name: description[name] for name in ("data", "started_from", "init")}
        return {**description, **needed}, from_json(description["config"])
    except FileNotFoundError as error:
        raise CheckpointError(
            f"expected a run to resume in {folder}, but there is no {path.name}; give the folder of the run. If it "
            "was stopped before its first epoch began, give the first command again, without --resume"
        ) from error
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"expected the description of a run in {path}, which is damaged ({error!r:.300})"
        ) from error


def resumed_data(description: Mapping[str, Any]) -> str:
    """Where the data of a run lay, by its ``run.json``.

    Raises:
        ConfigError: A program gave them, and must give them again.
    """
    data = str(description["data"])
    if data == GIVEN:
        raise ConfigError(
            "expected the data sets of this run, which a program gave; go on with the same ones in Python: "
            "refineseg.train(dataset, FOLDER, val=..., resume=True)"
        )
    return data


def fitted(
    config: TrainingConfig, sources: Mapping[str, Root], *, skip_missing: bool, say: Callable[[str], None]
) -> TrainingConfig:
    """The configuration for the data that are given.

    Without validation where there is no such split, and, where that was asked for, without the phases whose data sets
    are not given.

    Args:
        config: What was chosen.
        sources: Name of each data set -> its root.
        skip_missing: Leave phases out, and do not refuse.
        say: Takes what is left out.

    Raises:
        ConfigError: A phase needs data that are not given.
    """
    config = _phases_with_data(config, tuple(sources), skip_missing=skip_missing, say=say)
    found = {part: data_splits(part, place) for part, place in sources.items()}
    for note in (note for splits in found.values() for note in splits_alike(splits or ())):
        say(f"note: {note}")
    name, root = next(iter(sources.items()))
    splits = found[name]
    if splits is not None and config.train_split == "train":
        config = replace(config, train_split=split_like("train", splits) or "train")
    if splits is not None and config.val_split in ("val", HELD_OUT):  # of a run.json of other data, too
        config = replace(config, val_split=split_like("val", splits) or _instead_of_val(config, name, root, say))
    if config.patience is not None and config.val_split is None:
        raise ConfigError(f"expected validation images for --patience {config.patience}, got none; leave it out")
    return config


def _instead_of_val(config: TrainingConfig, name: str, root: Root, say: Callable[[str], None]) -> str | None:
    """What a run is measured on where there is no val split: a share of own training images, or nothing."""
    is_own = name in DATASETS and DATASETS[name].splits is not None
    count = len(open_dataset(name, root, split=config.train_split)) if is_own and config.val_share else 0
    if config.val_share * count < 1:
        few = f" and {count} images are too few to hold some out" if count else ""
        say(f"no val split{few}: training without validation (the last model is the result)")
        return None
    say(
        f"no val split: {100 * config.val_share:g} % of the training images are held out for validation "
        f"(drawn with seed {config.seed}); --set val_share=0 trains on all of them"
    )
    return HELD_OUT


def check_training_data(config: TrainingConfig, sources: Mapping[str, Root]) -> None:
    """Open everything that a fitted configuration learns from and is measured on, and let go of it.

    Raises:
        ConfigError: A phase needs data that are not given.
        DatasetError: A missing folder, split or file.
    """
    parts = [part for phase in config.phases for part in phase.data or _all(config.train_split, sources)]
    if config.val_split not in (None, HELD_OUT):
        parts.append(f"{next(iter(sources))}:{config.val_split}")
    for part in dict.fromkeys(parts):
        name, _, split = part.partition(":")
        if name not in sources:
            raise ConfigError(f"expected --data with {name}:ROOT for {part}, got {', '.join(sources)}; join them by +")
        open_dataset(name, sources[name], split=split)


def _all(split: str, sources: Mapping[str, Root]) -> tuple[str, ...]:
    return tuple(f"{name}:{split}" for name in sources)


def _phases_with_data(
    config: TrainingConfig, names: tuple[str, ...], *, skip_missing: bool, say: Callable[[str], None]
) -> TrainingConfig:
    """The configuration, without the phases whose data sets are not given where that was asked for.

    Raises:
        ConfigError: A phase needs data that are not given, or no phase is left.
    """
    phases, wanted = [], {}
    for number, phase in enumerate(config.phases, 1):
        missing = [part for part in phase.data if part.partition(":")[0] not in names]
        if not missing:
            phases.append(phase)
        elif skip_missing:
            say(f"phase {number} is left out: no --data for {', '.join(missing)}")
        else:
            wanted[number] = missing
    if wanted:
        told = ", ".join(f"{' and '.join(parts)} (phase {number})" for number, parts in wanted.items())
        more = dict.fromkeys(part.partition(":")[0] for parts in wanted.values() for part in parts)
        raise ConfigError(
            f"expected data for {told} of {config.recipe} too, got {', '.join(names)} only; join them as "
            f"--data {'+'.join(f'{name}:ROOT' for name in (*names, *more))}, or say --skip-missing"
        )
    return replace(config, phases=tuple(phases))


def recipe_options(
    config: TrainingConfig,
    *,
    epochs: int | None,
    lr: float | None,
    batch_size: int | None,
    patience: int | None = None,
) -> TrainingConfig:
    """Apply the plain options ``--epochs --lr --batch-size --patience``.

    The learning rate is the decoder's; the encoder's keeps its ratio to it.

    Raises:
        ConfigError: ``epochs`` for a recipe of several phases.
    """
    phases: Sequence[Any] = config.phases
    if epochs is not None:
        if len(phases) > 1:
            raise ConfigError(
                f"expected --epochs for a recipe of one phase, but {config.recipe} has {len(phases)}; "
                "use --set phases.0.epochs=N --set phases.1.epochs=N"
            )
        warmup = min(phases[0].warmup_epochs, epochs / 2)
        phases = [replace(phases[0], epochs=epochs, epoch_steps=None, warmup_epochs=warmup)]
        config = replace(config, val_images=None)  # as a budget may have chosen them, like the steps
    if lr is not None:
        phases = [
            replace(p, decoder_lr=lr, encoder_lr=lr * (p.encoder_lr / p.decoder_lr if p.decoder_lr else 1))
            for p in phases
        ]
    if batch_size is not None:
        phases = [replace(p, batch_size=batch_size) for p in phases]
    if patience is not None:
        config = replace(config, patience=patience)
    return replace(config, phases=tuple(phases))


@dataclass(frozen=True)
class Reproduction:
    """What is reproduced on a data set.

    Args:
        recipe: By default.
        split: That is measured.
    """

    recipe: str
    split: str


REPRODUCTIONS: dict[str, Reproduction] = {
    "camvid": Reproduction("camvid_refinenet_lw_mobilenetv2_long", "test"),
}
"""Data sets whose table ``refineseg reproduce`` makes."""


def find_reproduction(name: str) -> Reproduction:
    """What is reproduced on a data set.

    Raises:
        ConfigError: Another data set.
    """
    if name not in REPRODUCTIONS:
        raise ConfigError(f"expected one of {', '.join(REPRODUCTIONS)} to reproduce, got {name!r}; name that one")
    return REPRODUCTIONS[name]


def parse_seeds(text: str) -> tuple[int, ...]:
    """``0,1,2`` as seeds.

    Raises:
        ConfigError: Something else, none, or one twice.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    seeds = tuple(int(part) for part in parts if re.fullmatch(r"[0-9]{1,18}", part))
    if not parts or len(set(seeds)) < len(parts):
        raise ConfigError(f"expected --seeds as different numbers from 0 with commas, for instance 0,1,2, got {text!r}")
    return seeds


@dataclass(frozen=True)
class ReproductionRequest:
    """What the user asks for.

    Args:
        name: A key of :data:`REPRODUCTIONS`.
        config: The recipe; its seed is replaced by each of ``seeds``.
        data: ``NAME:ROOT`` of that data set.
        out: Folder for everything.
        seeds: In the order in which they are trained.
        minutes: Budget of this call; None: until all is done.
        device: ``auto``, ``cpu``, ``cuda``, ...
        num_workers: Reading processes; None: chosen.

    Raises:
        ConfigError: Other data, a budget that is not above 0, or a recipe that may stop early.
    """

    name: str
    config: TrainingConfig
    data: str
    out: Path
    seeds: tuple[int, ...]
    minutes: float | None = None
    device: str = "auto"
    num_workers: int | None = None

    def __post_init__(self) -> None:
        found = tuple(parse_sources(self.data))
        if found != (self.name,):
            raise ConfigError(f"expected --data {self.name}:ROOT to reproduce {self.name}, got {self.data}")
        if self.minutes is not None and not self.minutes > 0:
            raise ConfigError(f"expected --minutes above 0, got {self.minutes:g}")
        if self.config.patience is not None:
            raise ConfigError(
                f"expected as many epochs of every seed, got patience={self.config.patience}; leave it out"
            )


@dataclass(frozen=True)
class Budget:
    """How long a whole run may take.

    Args:
        seconds: Time of the whole call, with what happened before.
        begun: Clock (``time.monotonic``) at which the call began.
    """

    seconds: float
    begun: float

    @property
    def left_s(self) -> float:
        """Seconds left."""
        return self.seconds - (time.monotonic() - self.begun)


def parse_duration(text: str) -> float:
    """Seconds from a number with a unit.

    Raises:
        ConfigError: Another form, not above 0, or more than a year.

    Example:
        >>> parse_duration("5m"), parse_duration("1.5h")
        (300.0, 5400.0)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text.strip())
    seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if not 0 < seconds <= _LONGEST_S:
        raise ConfigError(f"expected a duration such as 90s, 5m or 1.5h, of a year at most, got {text!r:.100}")
    return seconds
