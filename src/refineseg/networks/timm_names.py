"""Names of timm's models as its source has them, so that a wrong one is refused before timm and PyTorch are imported.

In: the name of an encoder. Out: nothing, or an error with near names.
"""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path

from refineseg.errors import ConfigError
from refineseg.terminal.arguments import hint

_MODEL = re.compile(r"^@register_model\s+def (\w+)\(", re.MULTILINE)
_OLD_NAME = re.compile(r"^    '(\w+)':", re.MULTILINE)  # in a table of names that timm still takes


@cache
def timm_names() -> tuple[frozenset[str], frozenset[str]]:
    """Models that the installed timm has, and further words that may be old names of some; empty: not known."""
    spec = importlib.util.find_spec("timm")
    if spec is None or spec.origin is None:
        return frozenset(), frozenset()
    models, others = set[str](), set[str]()
    for path in (Path(spec.origin).parent / "models").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        models.update(_MODEL.findall(text))
        others.update(_OLD_NAME.findall(text))
    return frozenset(models), frozenset(others)


def check_timm_name(name: str) -> None:
    """Whether timm may have an encoder; what else is wrong with it is told when it is made.

    Args:
        name: Name of a model of timm, with or without the tag of its weights after a dot.

    Raises:
        ConfigError: It has none of this name.
    """
    architecture = name.partition(".")[0]
    models, others = timm_names()
    if models and architecture not in models and architecture not in others:
        near = hint(architecture, sorted(models), listed="timm.list_models() lists them")
        raise ConfigError(f"expected the name of a timm model as encoder, got {name!r}; {near}")
