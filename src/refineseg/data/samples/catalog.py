"""The classes of known data sets, read from the JSON tables in ``class_tables``, each of which names its source."""

from __future__ import annotations

import json
from importlib import resources

from refineseg.class_info import ClassInfo
from refineseg.errors import ConfigError
from refineseg.terminal.arguments import hint

CATALOG = ("voc", "person_part", "nyud", "sunrgbd", "pascal_context", "ade20k", "cityscapes", "camvid", "idd_lite")
"""Data sets whose classes are known."""


def catalog_classes(name: str) -> ClassInfo:
    """Names and colours of a known data set.

    Args:
        name: One of :data:`CATALOG`.

    Raises:
        ConfigError: Another name.

    Example:
        >>> catalog_classes("camvid").names[:3]
        ('sky', 'building', 'pole')
    """
    if name not in CATALOG:
        near = hint(name, CATALOG, listed=f"known are {', '.join(CATALOG)}")
        raise ConfigError(f"expected a data set whose classes are known, got {name!r}; {near}")
    text = (resources.files("refineseg") / "class_tables" / f"{name}.json").read_text(encoding="utf-8")
    return ClassInfo.from_json(json.loads(text))
