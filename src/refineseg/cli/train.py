"""``refineseg train``: wiring only, heavy imports inside."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from refineseg.cli.app import Device, messages, prepare_training, tables, verb
from refineseg.cli.completion import data_sets, model_files, recipes, variants
from refineseg.cli.interruption import goes_on_with
from refineseg.errors import ConfigError
from refineseg.terminal.arguments import check_device_name, check_input_file, check_number, check_outputs
from refineseg.terminal.printing import print_lines

Recipe = Annotated[
    str | None,
    typer.Argument(help="Recipe of `refineseg models`; by default that of the data set.", autocompletion=recipes),
]
Data = Annotated[
    str | None,
    typer.Option(
        help="Data set as NAME:ROOT, for instance folder:my_pictures; + joins several.",
        metavar="NAME:ROOT",
        autocompletion=data_sets,
    ),
]
Patience = Annotated[
    int | None,
    typer.Option(help="Number of measurements in a row without a better mIoU after which the run stops."),
]
Pretrained = Annotated[
    bool | None, typer.Option("--pretrained/--no-pretrained", help="Require ImageNet weights, or use none.")
]
EncoderWeights = Annotated[
    Path | None, typer.Option(help="File with ImageNet weights of the encoder, for offline machines.")
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Setting of the recipe, for instance seed=1.", metavar="KEY=VALUE")
]
Minutes = Annotated[
    float | None, typer.Option(help="Minutes until the call stops, at the end of an epoch; --resume continues.")
]
Budget = Annotated[
    str | None,
    typer.Option(help="Time for the whole call, for instance 5m; the schedule fits into it and ends at rate zero."),
]
Log = Annotated[
    list[str] | None,
    typer.Option(help="Tracker beside metrics.jsonl: tensorboard, mlflow or mlflow:URI.", metavar="LOGGER"),
]


@verb(
    "refineseg train --data folder:my_pictures --out runs/first",
    "refineseg train --data folder:my_pictures --out runs/quick --budget 5m",
    "refineseg train camvid_refineseg_lite0 --data camvid:CamVid --out runs/camvid",
    "refineseg train --resume --out runs/first",
)
def train(
    recipe: Recipe = None,
    data: Data = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the run.")] = None,
    config: Annotated[Path | None, typer.Option(help="File run.json of another run, replaces the recipe.")] = None,
    variant: Annotated[
        str | None, typer.Option(help="Network: a variant of `refineseg models`.", autocompletion=variants)
    ] = None,
    init: Annotated[
        str | None, typer.Option(help="Model to fine-tune: a shipped name or a file.", autocompletion=model_files)
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Number of passes over the training images.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate of the decoder.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Number of crops in a step.")] = None,
    patience: Patience = None,
    pretrained: Pretrained = None,
    encoder_weights: EncoderWeights = None,
    settings: Settings = None,
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Leave out phases whose data sets are not given.")
    ] = False,
    released: Annotated[
        bool, typer.Option("--released", help="Use a paper's recipe as the authors' published code has it.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    minutes: Minutes = None,
    budget: Budget = None,
    log: Log = None,
    device: Device = "auto",
    workers: Annotated[int | None, typer.Option(help="Number of reading processes.")] = None,
) -> None:
    """Train a model on your own images or on a known data set.

    OUT receives best.safetensors and last.safetensors, metrics.jsonl, curves.png and checkpoint.pt.
    """
    begun = time.monotonic()  # before the heavy imports
    if out is None:
        raise ConfigError("expected --out FOLDER for the run, got none")
    logs, most_s = tuple(log or ()), None if minutes is None else 60 * minutes
    _check_running(out, minutes, device, workers, logs)
    chosen: Any = None
    time_there_is = _budget(budget, begun, others=(minutes, epochs))
    if resume:
        others = (recipe, config, variant, init, epochs, lr, batch_size, patience)
        others += (budget, pretrained, encoder_weights, settings)
        _check_resumed(out, data, others)
    else:
        if data is None:
            raise ConfigError("expected --data NAME:ROOT, got none; for instance --data folder:my_pictures")
        if encoder_weights is not None and (pretrained is False or init is not None):
            raise ConfigError("expected --encoder-weights without --no-pretrained and --init, which say where to start")
        plain = {"epochs": epochs, "lr": lr, "batch_size": batch_size, "patience": patience}
        chosen = _training_config(recipe, config, data, variant, pretrained, init, plain, settings or [], released)
        _check_begun(chosen, data, out, init, encoder_weights, skip_missing)

    # from here on PyTorch is there
    from refineseg.training.progress import TerminalProgress
    from refineseg.training.run import RunRequest, resume_run, start_run
    from refineseg.training.state import how_to_resume

    progress = TerminalProgress(messages())
    prepare_training(device)
    with goes_on_with(lambda: how_to_resume(out) if (out / "run.json").exists() else ""):
        if resume:
            options: Any = {"device": device, "num_workers": workers, "log": logs, "stop_after_s": most_s}
            resume_run(out, data=data, progress=progress, **options)
        elif data is not None:
            running = (logs, most_s, time_there_is)
            request = RunRequest(chosen, data, init, device, workers, encoder_weights, skip_missing, *running)
            start_run(request, out, progress=progress)
    _show_result(out)


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


def _check_resumed(out: Path, data: str | None, others: Sequence[object]) -> None:
    """A run to go on with, and none of the options that only a new one takes."""
    from refineseg.data.datasets import parse_sources
    from refineseg.training.request import check_training_data, read_run

    if any(option is not None and option != [] for option in others):
        raise ConfigError(
            "expected --resume with --out, --data, --device, --workers, --minutes and --log only: a run keeps its "
            "settings"
        )
    description, config = read_run(out)
    check_training_data(config, parse_sources(data or str(description["data"])))


def _check_begun(
    config: Any,  # noqa: ANN401 - TrainingConfig
    data: str,
    out: Path,
    init: str | None,
    encoder_weights: Path | None,
    skip_missing: bool,
) -> None:
    """What a new run begins with: its folder, its data, the models it reads."""
    from refineseg.data.datasets import check_apart, parse_sources
    from refineseg.networks.model_names import model_file
    from refineseg.networks.variants import find_variant
    from refineseg.training.request import check_new_run, check_training_data, fitted

    find_variant(config.variant)
    check_new_run(out)
    check_input_file("--encoder-weights", encoder_weights, what="a file of ImageNet weights")
    for model in (init, config.teacher):
        if model is not None:
            model_file(model)
    sources = parse_sources(data)
    check_apart("--out", out, data)
    check_training_data(fitted(config, sources, skip_missing=skip_missing, say=lambda _: None), sources)


def _training_config(
    recipe: str | None,
    path: Path | None,
    data: str,
    variant: str | None,
    pretrained: bool | None,
    init: str | None,
    plain: Any,  # noqa: ANN401 - options of recipe_options
    settings: list[str],
    released: bool,
) -> Any:  # noqa: ANN401 - TrainingConfig, which would be a heavy import
    from dataclasses import replace

    from refineseg.data.datasets import parse_sources
    from refineseg.files.archives import refuse_special
    from refineseg.networks.variants import find_variant
    from refineseg.training.config import from_json, override
    from refineseg.training.recipes.table import default_recipe, find_recipe
    from refineseg.training.request import recipe_options

    if recipe is not None and path is not None:
        raise ConfigError(f"expected a recipe or --config, got both ({recipe} and {path})")
    if released and path is not None:
        raise ConfigError("expected --released with a recipe, got --config; a run.json says everything itself")
    if init is not None and (variant is not None or pretrained):
        raise ConfigError(
            "expected --init alone: the model brings its variant and weights; leave --variant/--pretrained out"
        )
    name = next(iter(parse_sources(data)))
    if path is not None:
        check_input_file("--config", path, what="the run.json of a run")
        try:
            refuse_special(path)
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(f"expected a run.json as --config, got {path}: {error}") from error
        config = from_json(content.get("config", content) if isinstance(content, dict) else {})
    else:
        config = find_recipe(recipe or default_recipe(name), released=released)
    if variant is not None:
        find_variant(variant)
        config = replace(config, variant=variant)
    if pretrained is not None:
        config = replace(config, pretrained="yes" if pretrained else "no")
    return override(recipe_options(config, **plain), settings)


def _show_result(out: Path) -> None:
    """The per-class table on stdout, and where the model is."""
    from refineseg.evaluate.metrics import ConfusionMatrix
    from refineseg.evaluate.reports import metrics_table
    from refineseg.segmenter import load_spec
    from refineseg.training.pictures import PICTURES_FOLDER

    best, metrics = out / "best.safetensors", out / "metrics.json"
    spec = load_spec(out / "last.safetensors")
    if metrics.is_file():
        matrix = ConfusionMatrix.from_json(json.loads(metrics.read_text(encoding="utf-8")), spec.class_info)
        tables().print(metrics_table(matrix, title=f"last model on {spec.provenance['metrics']['split']}"))
    result = best if best.is_file() else out / "last.safetensors"
    if best.is_file():
        print_lines(_better(load_spec(best).provenance, spec.provenance))
    print_lines(f"model: {result}", f"curves: {out / 'curves.png'}")
    if (out / PICTURES_FOLDER).is_dir():
        print_lines(f"validation pictures: {out / PICTURES_FOLDER}")
    messages().say(f"next: refineseg predict --model {result} --out masks PICTURES")


def _better(best: Any, last: Any) -> str:  # noqa: ANN401 - provenance
    """Which of the two models is the better one, by the validation images."""
    epochs = f"best.safetensors is of epoch {best['epochs']}, last.safetensors of epoch {last['epochs']}"
    if best["epochs"] == last["epochs"]:
        return f"best and last are the same model, of epoch {last['epochs']}"
    scores = [provenance["metrics"].get("mean_iou") for provenance in (best, last)]
    shown = " and ".join("not measured" if score is None else f"mIoU {100 * score:.2f} %" for score in scores)
    return f"the better model is best.safetensors: {epochs} ({shown} on {best['metrics']['split']})"
