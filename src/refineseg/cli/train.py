"""``refineseg train``: wiring only, heavy imports inside."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from refineseg.cli.app import Device, messages, tables, verb
from refineseg.cli.completion import data_sets, model_files, recipes, variants
from refineseg.cli.interruption import goes_on_with
from refineseg.errors import ConfigError
from refineseg.terminal.printing import print_lines
from refineseg.training.launch import is_first_process

Recipe = Annotated[
    str | None,
    typer.Argument(
        help="Recipe of `refineseg models`; by default that of the data set.", metavar="RECIPE", autocompletion=recipes
    ),
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
    typer.Option(help="Tracker beside metrics.jsonl: tensorboard, mlflow, mlflow:URI, wandb.", metavar="LOGGER"),
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
        str | None,
        typer.Option(
            help="Network: a variant of `refineseg models`; with --init, on its encoder.", autocompletion=variants
        ),
    ] = None,
    init: Annotated[
        str | None, typer.Option(help="Model to fine-tune: a shipped name or a file.", autocompletion=model_files)
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Number of passes over the training images.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate of the decoder.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Number of crops in a step, of all processes.")] = None,
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

    OUT receives best.safetensors and last.safetensors, metrics.jsonl, curves.png and checkpoint.pt. Several GPUs:
    torchrun --nproc-per-node N -m refineseg train ...
    """
    given: Any = dict(locals())
    if out is None:
        raise ConfigError("expected --out FOLDER for the run, got none")
    from refineseg.api.train import train as train_model
    from refineseg.devices import keep_freed_memory
    from refineseg.training.progress import TerminalProgress

    keep_freed_memory()
    with goes_on_with(lambda: _how_to_resume(out)):
        run = train_model(**given, progress=TerminalProgress(messages()))
    if is_first_process():
        _show_result(run)


def _how_to_resume(out: Path) -> str:
    """The command that goes on with a run that was begun; empty: none was."""
    from refineseg.training.state import how_to_resume

    return how_to_resume(out) if (out / "run.json").exists() else ""


def _show_result(run: Any) -> None:  # noqa: ANN401 - TrainedRun, whose module is loaded when it is called
    """The per-class table on stdout, and where the model is."""
    from refineseg.evaluate.reports import metrics_table
    from refineseg.segmenter import load_spec
    from refineseg.training.config import PICTURES_FOLDER

    last = run.segmenter.spec.provenance
    if run.matrix is not None:
        tables().print(metrics_table(run.matrix, title=f"last model on {last['metrics']['split']}"))
    if run.best.name.startswith("best"):
        print_lines(_better(load_spec(run.best).provenance, last))
    print_lines(f"model: {run.best}", f"curves: {run.folder / 'curves.png'}")
    if (run.folder / PICTURES_FOLDER).is_dir():
        print_lines(f"validation pictures: {run.folder / PICTURES_FOLDER}")
    messages().say(f"next: refineseg predict --model {shlex.quote(str(run.best))} --out masks IMAGES")


def _better(best: Any, last: Any) -> str:  # noqa: ANN401 - provenance
    """Which of the two models is the better one, by the validation images."""
    epochs = f"best.safetensors is of epoch {best['epochs']}, last.safetensors of epoch {last['epochs']}"
    if best["epochs"] == last["epochs"]:
        return f"best and last are the same model, of epoch {last['epochs']}"
    scores = [provenance["metrics"].get("mean_iou") for provenance in (best, last)]
    shown = " and ".join("not measured" if score is None else f"mIoU {100 * score:.2f} %" for score in scores)
    return f"the better model is best.safetensors: {epochs} ({shown} on {best['metrics']['split']})"
