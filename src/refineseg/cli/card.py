"""``refineseg card``: wiring only, heavy imports inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from refineseg.cli.app import Data, Device, ModelFile, messages, verb
from refineseg.errors import ConfigError
from refineseg.terminal.arguments import check_input_file, check_number, check_outputs
from refineseg.terminal.printing import print_lines


@verb("refineseg card --model runs/first/best.safetensors --data folder:my_pictures \\\n  --split val --out card")
def card(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for the images and, without --card, for card.md.")],
    model: ModelFile = "camvid",
    split: Annotated[str, typer.Option(help="Split that is measured.")] = "test",
    card_file: Annotated[
        Path | None, typer.Option("--card", help="File of the card; text written by hand in an existing card is kept.")
    ] = None,
    history: Annotated[
        Path | None, typer.Option(help="File metrics.jsonl of the run; by default the one beside the model.")
    ] = None,
    pictures: Annotated[int, typer.Option(help="Number of worst images to draw.")] = 8,
    device: Device = "auto",
) -> None:
    """Write a model card with numbers and pictures.

    The card has the origin, numbers with their protocol, learning curves, and pictures of the worst failures.
    """
    from refineseg.data.datasets import check_apart
    from refineseg.evaluate.card_blocks import check_card
    from refineseg.evaluate.failures import check_picture
    from refineseg.evaluate.measured_split import open_split
    from refineseg.evaluate.reports import history_of
    from refineseg.predict.views.scoring_views import check_scoring
    from refineseg.runtimes.table import is_exported

    check_number("--pictures", pictures, least=0)
    if is_exported(model):
        raise ConfigError(f"expected a shipped model or a .safetensors file for a card, got {model}")
    check_scoring(model, device=device)
    check_apart("--out", out, data)
    open_split(model, data, split)
    check_input_file("--history", history, what="metrics.jsonl of a run")
    check_outputs({"--card": card_file}, {"--out": out})
    check_card(card_file or out / "card.md")
    if history_of(model, history):
        check_picture(out / "curves.png")

    # from here on PyTorch is there
    from refineseg.evaluate.card import CardFiles, write_card
    from refineseg.evaluate.measuring import EvaluationFiles, evaluate_to_files
    from refineseg.predict.options import PredictorOptions
    from refineseg.predict.views.tiling import TilingOptions

    result = evaluate_to_files(
        model,
        data,
        split,
        options=PredictorOptions.parse(device=device, tiling=TilingOptions()),
        files=EvaluationFiles(out, pictures),
        console=messages(),
        boundary=True,
    )
    print_lines(f"card: {write_card(result, CardFiles(out, card_file, history))}", f"pictures: {out}")
