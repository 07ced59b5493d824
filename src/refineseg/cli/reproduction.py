"""``refineseg reproduce`` and ``refineseg card``: wiring only, heavy imports inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from refineseg.cli.app import Device, ModelFile, app, messages, prepare_training
from refineseg.errors import ConfigError
from refineseg.printing import print_lines


@app.command()
def reproduce(
    name: Annotated[str, typer.Argument(help="What to reproduce: camvid.", metavar="NAME")],
    data: Annotated[str, typer.Option(help="NAME:ROOT, for instance camvid:CamVid.")],
    out: Annotated[Path, typer.Option(help="Folder of the runs and the table.")],
    seeds: Annotated[str, typer.Option(help="With commas.")] = "0,1,2",
    recipe: Annotated[str | None, typer.Option(help="A recipe of this data set; by default the long one.")] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Stop in time, at the end of an epoch; called again, it goes on.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE of the recipe.", metavar="KEY=VALUE")
    ] = None,
    device: Device = "auto",
    workers: Annotated[int | None, typer.Option(help="Reading processes.")] = None,
) -> None:
    """From the data to the table: train and measure every seed, write mean and spread; goes on when called again."""
    from refineseg.training import reproduction
    from refineseg.training.config import override
    from refineseg.training.progress import TerminalProgress
    from refineseg.training.recipes import find_recipe

    prepare_training(device)
    chosen = find_recipe(recipe or reproduction.find_reproduction(name).recipe)
    request = reproduction.ReproductionRequest(
        name,
        override(chosen, settings or []),
        data,
        out,
        reproduction.parse_seeds(seeds),
        minutes,
        device,
        workers,
    )
    console = messages()
    state = reproduction.reproduce(request, progress=TerminalProgress(console), console=console)
    if (out / "table.md").is_file():
        print_lines(*(out / "table.md").read_text(encoding="utf-8").split("\n"))
    print_lines(*reproduction.lines(state, out, request.seeds))


@app.command()
def card(
    data: Annotated[str, typer.Option(help="NAME:ROOT of the data that are measured.")],
    out: Annotated[Path, typer.Option(help="Folder for the pictures and, without --card, for card.md.")],
    model: ModelFile = "camvid",
    split: Annotated[str, typer.Option(help="Which split is measured.")] = "test",
    card_file: Annotated[
        Path | None, typer.Option("--card", help="The card; what was written by hand in an existing one stays.")
    ] = None,
    history: Annotated[Path | None, typer.Option(help="metrics.jsonl of the run; by default beside the model.")] = None,
    failures: Annotated[int, typer.Option(help="How many of the worst images to show.")] = 8,
    device: Device = "auto",
) -> None:
    """Write a model's card: origin, numbers with their protocol, learning curves, pictures of the worst failures."""
    from refineseg.card import CardFiles, write_card
    from refineseg.evaluation import EvaluationFiles, evaluate_to_files
    from refineseg.predict.predictor import PredictorOptions

    if failures < 0:
        raise ConfigError(f"expected --failures of at least 0, got {failures}")
    result = evaluate_to_files(
        model,
        data,
        split,
        options=PredictorOptions.parse(device=device),
        files=EvaluationFiles(out, failures),
        console=messages(),
        boundary=True,
    )
    print_lines(f"card: {write_card(result, CardFiles(out, card_file, history))}", f"pictures: {out}")
