"""Packages that are functions, too: ``refineseg.predict(...)``, ``refineseg.evaluate(...)``, ``refineseg.export(...)``.

Why: Python binds a package to its name in ``refineseg`` whenever anything below it is imported, so a function of that
name would be there or not by what was imported before. A package that can be called is both at any time: the function
for people, and the place of its modules for ``import refineseg.predict.files`` and for tools that follow dotted names.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


class VerbPackage(ModuleType):
    """A package that is called as the function of its name in :mod:`refineseg.api`, which is loaded then."""

    @property
    def __call__(self) -> Callable[..., Any]:
        """The function."""
        verb = self.__name__.rpartition(".")[2]
        function: Callable[..., Any] = getattr(importlib.import_module(f"refineseg.api.{verb}"), verb)
        return function

    @property
    def __signature__(self) -> inspect.Signature:
        """Of the function, for help."""
        return inspect.signature(self.__call__)


def make_callable(package: str) -> None:
    """Let a package be called.

    Args:
        package: Full name of a package that is being imported.
    """
    sys.modules[package].__class__ = VerbPackage
