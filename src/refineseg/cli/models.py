"""``refineseg models``: wiring only, heavy imports inside."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from refineseg.cli.app import messages, tables, verb, write_json
from refineseg.cli.completion import names
from refineseg.errors import ConfigError, MissingExtraError
from refineseg.terminal.arguments import check_outputs, hint
from refineseg.terminal.printable import printable
from refineseg.terminal.printing import loudness


@verb("refineseg models", "refineseg models lite0", "refineseg models nyud", "refineseg models --verbose")
def models(
    part: Annotated[
        str | None,
        typer.Argument(
            help="Part of a name; shows all about the models, networks and recipes that have it.",
            metavar="PART",
            autocompletion=names,
        ),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="File for all numbers, as JSON.")] = None,
) -> None:
    """List the shipped models, the networks and the recipes.

    Without PART, networks and recipes are listed by name; with PART or --verbose, with counts and published scores.
    """
    from rich.table import Table

    from refineseg.networks.model_names import SHIPPED
    from refineseg.networks.variants import VARIANTS
    from refineseg.training.recipes.table import RECIPES, recipe_summary

    check_outputs({"--json": json_file})
    variants, recipes = ([name for name in table if (part or "") in name] for table in (VARIANTS, RECIPES))
    if not variants and not recipes and not any(str(part) in name for name in SHIPPED):
        near = hint(str(part), (*SHIPPED, *VARIANTS, *RECIPES), listed="`refineseg models` lists them")
        raise ConfigError(f"expected a part of the name of a model, network or recipe, got {part!r}; {near}")

    # from here on PyTorch is there
    from refineseg.bench.counting import groups_table, scores_table, shipped_models, variants_json, variants_table

    console = tables()
    try:
        all_models = shipped_models()
    except MissingExtraError as error:
        all_models = {}
        messages().say(str(error))
    wanted = {name: facts for name, facts in all_models.items() if (part or "") in f"{name} {facts['variant']}"}
    if wanted:
        console.print(_shipped_table(wanted))
    if part is None and loudness() != "verbose":
        console.print(groups_table())
        console.print(_recipes_table(recipes))
        messages().say("next: refineseg models PART_OF_A_NAME shows counts, published scores and recipes")
    else:
        if variants:
            console.print(variants_table(variants))
            console.print(scores_table(variants))
        if recipes:
            table = Table("recipe", "what it is")
            for name in recipes:
                table.add_row(name, recipe_summary(name).replace("``", ""))
            console.print(table)
    if json_file is not None:
        summaries = {name: recipe_summary(name) for name in RECIPES}
        write_json(json_file, {"models": all_models, "variants": variants_json(), "recipes": summaries})


def _shipped_table(shipped: Mapping[str, Any]) -> Any:  # noqa: ANN401 - rich.table.Table, imported late
    from rich.table import Table
    from rich.text import Text

    table = Table("shipped model", "variant", "classes", "scores", "licence of the weights")
    for name, facts in shipped.items():
        scores = [f"{100 * s['mean_iou']:.1f} % on {s['dataset']} {s['split']}, {s['protocol']}" for s in facts["ours"]]
        table.add_row(
            name, facts["variant"], str(facts["num_classes"]), Text("\n".join(map(printable, scores))), facts["licence"]
        )
    return table


def _recipes_table(recipes: list[str]) -> Any:  # noqa: ANN401 - rich.table.Table
    """The recipes by data set, with which their names begin."""
    from rich import box
    from rich.table import Table

    from refineseg.networks.variants import VARIANTS

    found: dict[str, list[str]] = {}
    for recipe in recipes:
        variant = max((name for name in VARIANTS if f"_{name}" in recipe), key=len)
        found.setdefault(recipe.partition(f"_{variant}")[0], []).append(recipe)
    table = Table("data set", "recipes of `refineseg train`", box=box.SIMPLE)
    for data, of_data in found.items():
        table.add_row(data, ", ".join(of_data))
    return table
