"""The docstrings name things by Sphinx's roles (``:class:`Segmenter```); the site shows the names as code."""

import re
from typing import Any

import griffe


class Roles(griffe.Extension):
    """Turns every role of a docstring into code; mkdocstrings would print it as it stands."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:  # noqa: ANN401 - griffe passes more
        """Rewrite the docstring of an object that griffe has read."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r":[a-z]+:`~?([^`]+)`", r"``\1``", obj.docstring.value)
