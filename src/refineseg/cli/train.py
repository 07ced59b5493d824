"""``refineseg train``: wiring only, heavy imports inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from refineseg.cli.app import Device, app, messages, tables
from refineseg.cli.interruption import goes_on_with
from refineseg.errors import ConfigError
from refineseg.terminal.printing import print_lines


@app.command()
def train(
    recipe: Annotated[
        str | None, typer.Argument(help="Recipe of `refineseg models`; by default that of the data set.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Data set as NAME:ROOT, for instance folder:my_pictures; + joins several.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the run.")] = None,
    config: Annotated[Path | None, typer.Option(help="File run.json of another run, replaces the recipe.")] = None,
    variant: Annotated[str | None, typer.Option(help="Variant of `refineseg models`.")] = None,
    init: Annotated[str | None, typer.Option(help="Model to fine-tune: a shipped name or a file.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Number of passes over the training images.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate of the decoder.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Number of crops in a step.")] = None,
    pretrained: Annotated[
        bool | None, typer.Option("--pretrained/--no-pretrained", help="Require ImageNet weights, or use none.")
    ] = None,
    encoder_weights: Annotated[
        Path | None, typer.Option(help="File with ImageNet weights of the encoder, for offline machines.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Setting of the config.", metavar="KEY=VALUE")
    ] = None,
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Leave out phases whose data sets are not given.")
    ] = False,
    released: Annotated[
        bool, typer.Option("--released", help="Use a paper's recipe as the authors' published code has it.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    minutes: Annotated[
        float | None, typer.Option(help="Minutes until the call stops, at the end of an epoch; --resume continues.")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(help="Time for the whole call, for instance 5m; the schedule fits into it and ends at rate zero."),
    ] = None,
    log: Annotated[
        list[str] | None,
        typer.Option(help="Tracker beside metrics.jsonl: tensorboard, mlflow, mlflow:URI, wandb.", metavar="LOGGER"),
    ] = None,
    device: Device = "auto",
    workers: Annotated[int | None, typer.Option(help="Number of reading processes.")] = None,
) -> None:
    """Train on a data set; write best and last model, metrics.jsonl, curves.png and checkpoint.pt to OUT."""
    given: Any = dict(locals())
    if out is None:
        raise ConfigError("expected --out FOLDER for the run, got none")
    from refineseg.api.train import train as train_model
    from refineseg.devices import keep_freed_memory
    from refineseg.training.progress import TerminalProgress

    keep_freed_memory()
    with goes_on_with(lambda: _how_to_resume(out)):
        run = train_model(**given, progress=TerminalProgress(messages()))
    _show_result(run)


def _how_to_resume(out: Path) -> str:
    """The command that goes on with a run that was begun; empty: none was."""
    from refineseg.training.state import how_to_resume

    return how_to_resume(out) if (out / "run.json").exists() else ""


def _show_result(run: Any) -> None:  # noqa: ANN401 - TrainedRun, whose module is loaded when it is called
    """The per-class table on stdout, and where the model is."""
    from refineseg.evaluate.reports import metrics_table

    if run.matrix is not None:
        split = run.segmenter.spec.provenance["metrics"]["split"]
        tables().print(metrics_table(run.matrix, title=f"last model on {split}"))
    print_lines(f"model: {run.best}", f"curves: {run.folder / 'curves.png'}")
    messages().say(f"next: refineseg predict --model {run.best} --out masks PICTURES")
