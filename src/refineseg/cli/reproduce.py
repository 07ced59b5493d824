"""``refineseg reproduce``: wiring only, heavy imports inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from refineseg.cli.app import Data, Device, messages, verb
from refineseg.cli.completion import recipes
from refineseg.errors import ConfigError
from refineseg.terminal.arguments import check_device_name, check_number, check_outputs
from refineseg.terminal.printing import print_lines


@verb("refineseg reproduce camvid --data camvid:CamVid --out runs/camvid --minutes 60")
def reproduce(
    name: Annotated[str, typer.Argument(help="Name of the result: camvid.", metavar="NAME")],
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for the runs and the table.")],
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "0,1,2",
    recipe: Annotated[
        str | None, typer.Option(help="Recipe for this data set; by default the long one.", autocompletion=recipes)
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(help="Minutes until the call stops, at the end of an epoch; the same call continues."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Setting of the recipe, for instance lovasz=0.5.", metavar="KEY=VALUE"),
    ] = None,
    device: Device = "auto",
    workers: Annotated[int | None, typer.Option(help="Number of reading processes.")] = None,
) -> None:
    """Train and measure several seeds, and write a table.

    The table has mean and spread. The same call continues a stopped one.
    """
    from refineseg.data.datasets import check_apart, open_sources, parse_sources
    from refineseg.training.config import override
    from refineseg.training.recipes.table import find_recipe
    from refineseg.training.request import (
        ReproductionRequest,
        check_training_data,
        find_reproduction,
        fitted,
        parse_seeds,
    )

    check_device_name(device)
    check_number("--workers", workers, least=0)
    known = find_reproduction(name)
    if any(setting.partition("=")[0].strip() == "seed" for setting in settings or []):
        raise ConfigError("expected the seeds as --seeds, for instance --seeds 0,1,2, got --set seed=...; leave it out")
    request = ReproductionRequest(
        name,
        override(find_recipe(recipe or known.recipe), settings or []),
        data,
        out,
        parse_seeds(seeds),
        minutes,
        device,
        workers,
    )
    sources = parse_sources(data)
    check_apart("--out", out, data)
    open_sources(data, split=known.split)
    check_training_data(fitted(request.config, sources, skip_missing=False, say=lambda _: None), sources)
    check_outputs({}, {"--out": out})

    # from here on PyTorch is there
    from refineseg.devices import find_device
    from refineseg.training import reproduction
    from refineseg.training.progress import TerminalProgress

    find_device(device)
    console = messages()
    state = reproduction.reproduce(request, progress=TerminalProgress(console), console=console)
    if (out / "table.md").is_file():
        print_lines(*(out / "table.md").read_text(encoding="utf-8").split("\n"))
    print_lines(*reproduction.lines(state, out, request.seeds))
