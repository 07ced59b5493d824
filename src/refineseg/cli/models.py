"""``refineseg models``: wiring only, heavy imports inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from refineseg.cli.app import app, tables, write_json
from refineseg.terminal.arguments import (
    check_outputs,
)
from refineseg.terminal.printable import printable


@app.command()
def models(
    json_file: Annotated[Path | None, typer.Option("--json", help="File for all numbers, as JSON.")] = None,
) -> None:
    """List the shipped models, the network variants with their published scores, and the recipes."""
    from rich.table import Table
    from rich.text import Text

    check_outputs({"--json": json_file})

    # from here on PyTorch is there
    from refineseg.bench.counting import scores_table, shipped_models, variants_json, variants_table
    from refineseg.training.recipes.table import RECIPES, recipe_summary

    console = tables()
    shipped = shipped_models()
    table = Table("shipped model", "variant", "classes", "scores", "licence of the weights")
    for name, facts in shipped.items():
        scores = [f"{100 * s['mean_iou']:.1f} % on {s['dataset']} {s['split']}, {s['protocol']}" for s in facts["ours"]]
        table.add_row(
            name, facts["variant"], str(facts["num_classes"]), Text("\n".join(map(printable, scores))), facts["licence"]
        )
    recipes = Table("recipe", "what it is")
    summaries = {name: recipe_summary(name) for name in RECIPES}
    for name, summary in summaries.items():
        recipes.add_row(name, summary)
    for part in (table, variants_table(), scores_table(), recipes):
        console.print(part)
    if json_file is not None:
        write_json(json_file, {"models": shipped, "variants": variants_json(), "recipes": summaries})
