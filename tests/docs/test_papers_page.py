"""docs/papers.md cannot rot: each name, path, test, command and number on it is looked up; so are README's commands."""

import ast
import importlib
import inspect
import re
import shlex
from dataclasses import fields
from itertools import product
from pathlib import Path

import pytest
import typer

import refineseg
from conftest import REPOSITORY
from refineseg.bench.counting import NOT_MEASURED, known_counts
from refineseg.cli import app
from refineseg.data.datasets import DATASETS
from refineseg.evaluate.metrics import MEANS
from refineseg.evaluate.published import CODE_2020, MEASURED_SCORES, PUBLISHED_SCORES
from refineseg.networks.variants import VARIANTS, NetworkOptions
from refineseg.original.conversion import MatConvNetOptions, load_original
from refineseg.predict.views.scoring_views import SCORING_VIEWS
from refineseg.training.config import override
from refineseg.training.recipes.papers import PAPER_RECIPES
from refineseg.training.recipes.table import find_recipe

ROOT = REPOSITORY
PAGE = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
TOKENS = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", PAGE, flags=re.S))
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S) for line in block.splitlines()]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHORT = re.findall(r"`((?:train|evaluate|convert|bench|models|datasets)(?: [^`\n]*)?)`", README)
VERBS = typer.main.get_command(app).commands


def fitting(pattern):
    return sorted({token for token in TOKENS if re.fullmatch(pattern, token)})


def expanded(token):
    """``a{b,c}d`` -> abd, acd."""
    parts = [part.split(",") if i % 2 else [part] for i, part in enumerate(re.split(r"[{}]", token))]
    return {"".join(choice) for choice in product(*parts)}


NAMES = {name for token in fitting(r"\w*refinenet_[\w{},]+") for name in expanded(token)}


@pytest.mark.parametrize("path", fitting(r"(src|tests|docs|benchmarks)/[\w./]+"))
def test_files_exist(path):
    assert (ROOT / path).is_file()


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)]+)\)", PAGE))))
def test_links_lead_somewhere(link):
    file, _, heading = link.partition("#")
    text = PAGE if not file else (ROOT / "docs" / file).read_text(encoding="utf-8")
    headings = [line.lstrip("# ").lower().replace(" ", "-") for line in text.splitlines() if line.startswith("#")]
    assert not heading or heading in headings


@pytest.mark.parametrize("node", fitting(r"tests/\w+\.py::.+"))
def test_tests_exist(node):
    path, *names = node.split("::")
    place = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    for name in names:
        place = next(part for part in place.body if getattr(part, "name", None) == name)


@pytest.mark.parametrize("dotted", fitting(r"refineseg(\.\w+)+"))
def test_classes_and_functions_exist(dotted):
    parts = dotted.split(".")
    depth = next(n for n in range(len(parts), 0, -1) if (ROOT / "src" / Path(*parts[:n])).with_suffix(".py").is_file())
    value = importlib.import_module(".".join(parts[:depth]))
    for name in parts[depth:]:
        value = getattr(value, name)


def test_variants_and_recipes_exist_and_none_is_forgotten():
    ours = {name for name in VARIANTS if name.startswith("refineseg_")}
    assert (set(VARIANTS) - ours) | set(PAPER_RECIPES) == NAMES
    suffixes = fitting(r"_\w+")
    assert suffixes
    assert all(any(name.endswith(suffix) for name in VARIANTS) for suffix in suffixes)


def test_protocols_means_and_options_of_networks_are_all_there():
    for name in (*SCORING_VIEWS, *MEANS):
        assert name in PAGE
    asked = " ".join(fitting(r"NetworkOptions\(.*|--set network.*"))
    for field in fields(NetworkOptions):
        if field.name not in ("width", "encoder_options"):  # of ours, not of the papers
            assert field.name in asked


def test_options_of_networks_and_conversion_can_be_built():
    for token in fitting(r"NetworkOptions\(.*\)"):
        eval(token, {"NetworkOptions": NetworkOptions})
    token = next(token for token in TOKENS if token.startswith("load_original("))
    built = eval(re.search(r"MatConvNetOptions\(.*?\)", token)[0], {"MatConvNetOptions": MatConvNetOptions})
    assert built.void == "keep"
    assert "matconvnet" in inspect.signature(load_original).parameters
    assert callable(refineseg.Preprocessing.matconvnet)


def test_options_of_the_command_line_exist():
    known = {option for verb in VERBS.values() for p in verb.params for option in (*p.opts, *p.secondary_opts)}
    options = {word for token in TOKENS for word in re.findall(r"(?<!\w)--[a-z][\w-]*", token)}
    assert options
    assert options <= known
    for token in fitting("--set .+"):
        override(find_recipe("nyud_refinenet_resnet50"), shlex.split(token)[1:])
    for token in fitting("--protocol .+"):
        assert token.removeprefix("--protocol ") in SCORING_VIEWS


@pytest.mark.parametrize("line", [*COMMANDS, *(f"refineseg {short}" for short in SHORT)])
def test_commands_are_understood(line):
    program, verb, *arguments = shlex.split(line)
    assert program == "refineseg"
    values = VERBS[verb].make_context(verb, arguments).params
    for source in filter(None, (values.get("data") or "").split("+")):
        assert source.partition(":")[0] in DATASETS
    if verb == "train":
        override(find_recipe(values["recipe"], released=values["released"]), values["settings"] or [])
    assert values.get("variant") in (None, *VARIANTS)
    assert values.get("protocol") in (None, *SCORING_VIEWS)
    assert values.get("classes") in (None, *DATASETS)


@pytest.mark.parametrize("recipe", PAPER_RECIPES)
def test_the_row_of_a_recipe_has_its_numbers(recipe):
    (row,) = (line for line in PAGE.splitlines() if line.startswith(f"| `{recipe}` |"))
    _, *cells, published, ours = (cell.strip() for cell in row.strip("|").split("|"))
    config = find_recipe(recipe)
    epochs = " + ".join(str(phase.epochs) for phase in config.phases)
    if "_lw_" in recipe:
        assert cells == [epochs]
    else:
        links = config.network.decoder(VARIANTS[config.variant].options).num_links
        assert cells == [str(links), epochs, str(config.phases[0].crops.crop_hw[0])]
    scores = [
        f"{100 * s.mean_iou:.1f} {s.split}, {s.protocol}{' (2020)' * (s.source == CODE_2020)}"
        for s in PUBLISHED_SCORES.get(recipe, ())
    ]
    assert published == ("; ".join(scores) or "none at hand")
    assert (ours == NOT_MEASURED) == (recipe not in MEASURED_SCORES)


def test_networks_and_recipes_are_as_many_as_the_readme_says():
    assert len(SHORT) >= 7
    assert f"| {len(VARIANTS)} networks by name" in README
    assert f"{len(PAPER_RECIPES)} rows of the papers' tables" in README


def test_the_parameters_of_nasnet_mobile_are_counted():
    assert f"{known_counts()['refinenet_lw_nasnetmobile'][21].encoder_parameters:,}" in PAGE
