"""The classes of known data sets, read from the JSON tables in ``class_tables``, each of which names its source."""

from __future__ import annotations

import json
from importlib import resources

from refineseg.class_info import ClassInfo


def catalog_classes(name: str) -> ClassInfo:
    """Names and colours of a known data set.

    Args:
        name: For instance ``camvid``.

    Example:
        >>> catalog_classes("camvid").names[:3]
        ('sky', 'building', 'pole')
    """
    text = (resources.files("refineseg") / "class_tables" / f"{name}.json").read_text(encoding="utf-8")
    return ClassInfo.from_json(json.loads(text))
