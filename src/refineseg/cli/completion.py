"""What a shell offers for the values of options: names of models, variants, recipes, data sets, and their folders.

In: the beginning of a value. Out: what it can become. PyTorch is never imported for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

_MODEL_ENDINGS = (".safetensors", ".onnx", ".xml", ".pt2")


def models(incomplete: str) -> list[str]:
    """Shipped models."""
    from refineseg.networks.model_names import SHIPPED

    return _beginning(SHIPPED, incomplete)


def variants(incomplete: str) -> list[str]:
    """Networks by name."""
    from refineseg.networks.variants import VARIANTS

    return _beginning(VARIANTS, incomplete)


def recipes(incomplete: str) -> list[str]:
    """Recipes of ``train``."""
    from refineseg.training.recipes.table import RECIPES

    return _beginning(RECIPES, incomplete)


def names(incomplete: str) -> list[str]:
    """Models, networks and recipes."""
    return [*models(incomplete), *variants(incomplete), *recipes(incomplete)]


def model_files(incomplete: str) -> list[str]:
    """Shipped models, model files, and folders on the way to them."""
    return [*models(incomplete), *_paths(incomplete, endings=_MODEL_ENDINGS)]


def models_and_variants(incomplete: str) -> list[str]:
    """All that ``bench`` measures."""
    return [*models(incomplete), *variants(incomplete), *_paths(incomplete, endings=_MODEL_ENDINGS)]


def data_sets(incomplete: str) -> list[str]:
    """``NAME:`` of each kind of data set, and behind the colon the folders."""
    from refineseg.data.datasets import DATASETS

    kind, colon, root = incomplete.rpartition("+")[2].partition(":")
    before = incomplete[: len(incomplete) - len(kind + colon + root)]
    if colon:
        return [f"{before}{kind}:{path}" for path in _paths(root)]
    return [f"{before}{name}:" for name in _beginning(DATASETS, kind)]


def _beginning(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _paths(incomplete: str, *, endings: tuple[str, ...] = ()) -> Iterator[str]:
    """Folders, with a slash, and files with these endings, that begin so."""
    folder = incomplete.rpartition("/")[0] + "/" * ("/" in incomplete)
    try:
        entries = sorted(Path(folder or ".").iterdir())
    except OSError:
        return
    for entry in entries:
        text = folder + entry.name
        if text.startswith(incomplete) and (entry.is_dir() or entry.name.endswith(endings or "\0")):
            yield f"{text}/" if entry.is_dir() else text
