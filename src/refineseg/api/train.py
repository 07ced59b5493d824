"""``refineseg.train``: a model trained on a data set.

In: data and the options of the command line. Out: the folder of the run, and a :class:`TrainedRun`. Checks come first;
PyTorch is loaded after them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refineseg.api.words import as_model, as_path
from refineseg.errors import CheckpointError, ConfigError, DatasetError
from refineseg.terminal.arguments import check_device_name, check_input_file, check_number, check_outputs
from refineseg.terminal.value_types import Arrayed, check_types
from refineseg.training.launch import find_launch
from refineseg.training.request import launch_mark, was_begun_by

if TYPE_CHECKING:
    from refineseg.data.samples.given import GivenData
    from refineseg.data.samples.sample import Dataset
    from refineseg.evaluate.metrics import ConfusionMatrix
    from refineseg.segmenter import Segmenter
    from refineseg.training.config import TrainingConfig
    from refineseg.training.progress import Progress


@dataclass(frozen=True)
class TrainedRun:
    """What a run has come to.

    Args:
        folder: Folder of the run.
        segmenter: The last model.
        history: Numbers of each epoch, as in ``metrics.jsonl``.
        notes: What was said on the way.
    """

    folder: Path
    segmenter: Segmenter = field(repr=False)
    history: tuple[Mapping[str, Any], ...] = field(repr=False)
    notes: tuple[str, ...] = field(repr=False)

    @property
    def best(self) -> Path:
        """The model file to use: the best one by the validation split, else the last one."""
        from refineseg.training.stopping import scores_of

        best = self.folder / "best.safetensors"  # of another run, if no measurement of this one tells models apart
        return best if scores_of(self.history) and best.is_file() else self.folder / "last.safetensors"

    @property
    def matrix(self) -> ConfusionMatrix | None:
        """The last model's counts on the validation split; None without one.

        Raises:
            CheckpointError: Its file ``metrics.json`` is damaged.
        """
        from refineseg.data.samples.json_files import read_json
        from refineseg.evaluate.metrics import ConfusionMatrix

        path = self.folder / "metrics.json"
        if not path.exists():
            return None
        try:
            return ConfusionMatrix.from_json(read_json(path), self.segmenter.class_info)
        except (DatasetError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"expected the counts of this run in {path}, which is damaged ({error!r:.300}); measure "
                f"{self.best.name} with `refineseg evaluate`"
            ) from error

    @property
    def mean_iou(self) -> float | None:
        """The best mean IoU of all epochs, 0..1; None where none was measured."""
        return max((entry["mean_iou"] for entry in self.history if "mean_iou" in entry), default=None)


def train(
    data: str | Dataset | None,
    out: str | Path,
    *,
    val: Dataset | None = None,
    recipe: str | None = None,
    config: str | Path | TrainingConfig | None = None,
    variant: str | None = None,
    init: str | Path | None = None,
    epochs: int | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    patience: int | None = None,
    pretrained: bool | None = None,
    encoder_weights: str | Path | None = None,
    settings: Sequence[str] | Mapping[str, object] | None = None,
    skip_missing: bool = False,
    released: bool = False,
    resume: bool = False,
    minutes: float | None = None,
    budget: str | None = None,
    log: Sequence[str] | None = None,
    device: str = "auto",
    workers: int | None = None,
    on_epoch: Callable[[Mapping[str, Any]], object] | None = None,
    stop_when: Callable[[Sequence[Mapping[str, Any]]], bool] | None = None,
    progress: Progress | None = None,
) -> TrainedRun:
    """Train a model; ``refineseg train --help`` describes each option, which has the same name here.

    ``data`` is ``NAME:ROOT`` or any object of the interface :class:`refineseg.Dataset`; ``val`` is such an object, too,
    to measure on. ``settings`` are ``{"seed": 1}`` or ``["seed=1"]``. ``on_epoch`` is called with the numbers of each
    epoch; ``stop_when`` with those of all epochs so far, and ends the run where it says True: see
    :class:`refineseg.EarlyStopping`. ``progress`` is told of every step; without one nothing is printed.

    Returns:
        The run: ``.best`` (a model file), ``.segmenter``, ``.history``, ``.matrix``.

    Raises:
        CheckpointError: The folder already holds a run, or none to resume.
        ConfigError: Options that are wrong, or contradict each other.
        DatasetError: Data that cannot be trained on; nothing has been written then.
    """
    begun = time.monotonic()  # before the heavy imports
    given = check_types(train, dict(locals()))
    folder, source = Path(out), _source(data, val)
    logs, most_s = (log,) if isinstance(log, str) else tuple(log or ()), None if minutes is None else 60 * minutes
    _check_running(folder, minutes, device, workers, logs)
    time_there_is = _budget(budget, begun, others=(minutes, epochs))
    launch = find_launch()
    mark = launch_mark(launch, {name: given[name] for name in _OF_THE_CALL})
    if launch.size == 1:
        chosen = _chosen(given, source, folder, goes_on=resume or was_begun_by(mark, folder))

    # from here on PyTorch is there
    from refineseg.api.quiet import QuietProgress
    from refineseg.devices import find_device
    from refineseg.training import ranks
    from refineseg.training.callbacks import Callbacks
    from refineseg.training.run import RunRequest, resume_run, start_run

    find_device(device)
    with ranks.together(launch, device):
        if ranks.size() > 1:
            goes_on = resume or ranks.agreed(was_begun_by(mark, folder))
            chosen = ranks.of_all(lambda: _chosen(given, source, folder, goes_on=goes_on, processes=ranks.size()))
        quiet = QuietProgress()
        progress = (progress or quiet) if ranks.is_first() else quiet
        called = Callbacks(on_epoch, stop_when)
        if chosen is None:
            options: Any = {"device": device, "num_workers": workers, "log": logs, "stop_after_s": most_s}
            segmenter = resume_run(folder, data=source, progress=progress, callbacks=called, **options)
        else:
            assert source is not None
            first, weights = as_model(init), as_path(encoder_weights)
            options = {"stop_after_s": most_s, "budget": time_there_is, "launch": mark, "init_variant": variant}
            plain = (chosen, source, first, device, workers, weights, skip_missing, logs)
            segmenter = start_run(RunRequest(*plain, callbacks=called, **options), folder, progress=progress)
        lines = ranks.of_first(lambda: (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return TrainedRun(folder, segmenter, tuple(json.loads(line) for line in lines), tuple(quiet.notes))


def _source(data: str | Dataset | None, val: Dataset | None) -> str | GivenData | None:
    """What is learned from, as training takes it."""
    from refineseg.data.samples.given import GivenData

    if data is None or isinstance(data, str):
        if val is not None:
            raise ConfigError("expected val beside a data set, got NAME:ROOT, which has a val split of its own")
        return data
    return GivenData({"train": data} if val is None else {"train": data, "val": val})


def _budget(text: str | None, begun: float, *, others: Sequence[object]) -> Any:  # noqa: ANN401 - Budget or None
    """The time there is, since the call began."""
    from refineseg.training.request import Budget, parse_duration

    if text is None:
        return None
    if any(other is not None for other in others):
        raise ConfigError("expected --budget alone: it sets the number of epochs; leave --epochs and --minutes out")
    return Budget(parse_duration(text), begun)


def _check_running(out: Path, minutes: float | None, device: str, workers: int | None, log: Sequence[str]) -> None:
    """What new and resumed runs have in common."""
    from refineseg.training.request import check_logs

    check_number("--minutes", minutes, above=0)
    check_number("--workers", workers, least=0)
    check_device_name(device)
    check_logs(log)
    check_outputs({}, {"--out": out})


def _chosen(
    given: Mapping[str, Any], data: str | GivenData | None, out: Path, *, goes_on: bool, processes: int = 1
) -> TrainingConfig | None:
    """The configuration of a new run; None: the run in the folder goes on."""
    from refineseg.training.request import read_run

    if goes_on:
        _check_resumed(out, data, given)
    config = None if goes_on else _begun(given, data, out)
    if processes > 1:
        from refineseg.training.ranks import check_config

        check_config(config or read_run(out)[1], processes=processes, device=given["device"])
    return config


_OF_NEW_RUNS = ("recipe", "config", "variant", "init", "epochs", "lr", "batch_size", "patience", "budget", "pretrained")
_OF_THE_CALL = (*_OF_NEW_RUNS, "init", "encoder_weights", "settings", "released", "skip_missing", "data", "out")


def _check_resumed(out: Path, data: str | GivenData | None, given: Mapping[str, Any]) -> None:
    """A run to go on with, and none of the options that only a new one takes."""
    from refineseg.data.datasets import parse_sources
    from refineseg.training.request import check_training_data, read_run, resumed_data

    others = (given[name] for name in (*_OF_NEW_RUNS, "encoder_weights", "settings"))
    asked = any(option not in (None, [], (), {}) for option in others) or given["released"] or given["skip_missing"]
    if given["resume"] and asked:
        raise ConfigError(
            "expected --resume with --out, --data, --device, --workers, --minutes and --log only: a run keeps its "
            "settings"
        )
    description, config = read_run(out)
    check_training_data(config, parse_sources(data or resumed_data(description)))


def _begun(given: Mapping[str, Any], data: str | GivenData | None, out: Path) -> TrainingConfig:
    """The configuration of a new run; its folder, its data and the models it reads are as they must be."""
    from refineseg.data.datasets import check_apart, parse_sources
    from refineseg.networks.model_names import model_file
    from refineseg.networks.variants import find_variant
    from refineseg.training.request import check_new_run, check_training_data, fitted

    if data is None:
        place = given["recipe"] if ":" in str(given["recipe"]) else "folder:my_pictures"
        raise ConfigError(f"expected --data NAME:ROOT, got none; for instance --data {place}")
    init, weights = given["init"], as_path(given["encoder_weights"])
    if weights is not None and (given["pretrained"] is False or init is not None):
        raise ConfigError("expected --encoder-weights without --no-pretrained and --init, which say where to start")
    config = _training_config(given, data)
    find_variant(config.variant)
    check_new_run(out)
    check_input_file("--encoder-weights", weights, what="a file of ImageNet weights")
    for model in (init, config.teacher):
        if model is not None:
            model_file(model)
    sources = parse_sources(data)
    check_apart("--out", out, data)
    check_training_data(fitted(config, sources, skip_missing=given["skip_missing"], say=lambda _: None), sources)
    return config


def _training_config(given: Mapping[str, Any], data: str | GivenData) -> TrainingConfig:
    from refineseg.data.datasets import parse_sources
    from refineseg.networks.variants import find_variant
    from refineseg.training.config import TrainingConfig, override
    from refineseg.training.recipes.table import default_recipe, find_recipe
    from refineseg.training.request import recipe_options

    recipe, config, released, variant = (given[name] for name in ("recipe", "config", "released", "variant"))
    if recipe is not None and config is not None:
        raise ConfigError(f"expected a recipe or --config, got both ({recipe} and {config})")
    if released and config is not None:
        raise ConfigError("expected --released with a recipe, got --config; a run.json says everything itself")
    if given["init"] is not None and given["pretrained"]:
        raise ConfigError("expected --init without --pretrained: the model brings its weights; leave one of them out")
    name = next(iter(parse_sources(data)))
    if config is None:
        config = find_recipe(recipe or default_recipe(name), released=released)
    elif not isinstance(config, TrainingConfig):
        config = _read_config(Path(config))
    if variant is not None:
        find_variant(variant)
        config = replace(config, variant=variant)
    if given["pretrained"] is not None:
        config = replace(config, pretrained="yes" if given["pretrained"] else "no")
    plain = {name: given[name] for name in ("epochs", "lr", "batch_size", "patience")}
    settings = given["settings"] or ()
    if isinstance(settings, str):
        settings = [settings]
    if isinstance(settings, Mapping):
        settings = [f"{key}={json.dumps(value, default=_plain)}" for key, value in settings.items()]
    if given["init"] is not None and any(str(setting).partition("=")[0].strip() == "variant" for setting in settings):
        raise ConfigError(
            "expected --variant NAME beside --init, got --set variant; the model brings its own otherwise"
        )
    return override(recipe_options(config, **plain), settings)


def _plain(value: object) -> object:
    """A path, or a number or an array of NumPy, as JSON has it."""
    return value.tolist() if isinstance(value, Arrayed) else str(value)


def _read_config(path: Path) -> TrainingConfig:
    """The configuration in the ``run.json`` of a run."""
    from refineseg.files.special import refuse_special
    from refineseg.training.config import from_json

    check_input_file("--config", path, what="the run.json of a run")
    try:
        refuse_special(path)
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"expected a run.json as --config, got {path}: {error}") from error
    return from_json(content.get("config", content) if isinstance(content, dict) else {})
