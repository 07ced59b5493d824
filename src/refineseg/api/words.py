"""Python's values as the words of the command line, which are checked in one place.

In: values of a call. Out: words; and which options a call names.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from refineseg.terminal.applicability import check_options
from refineseg.terminal.value_types import Arrayed

Words = str | Sequence[object]
"""Names or numbers: ``"mask,overlay"`` or ``("mask", "overlay")``, ``"0.5,1"`` or ``(0.5, 1)``."""


def as_words(value: object) -> Any:  # noqa: ANN401 - a text, a truth, or None
    """A number or a sequence as the command line has it; texts, truths and None stay as they are.

    Example:
        >>> as_words((0.5, 1.0)), as_words(512), as_words("auto"), as_words(False)
        ('0.5,1', '512', 'auto', False)
    """
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Arrayed):
        return as_words(value.tolist())
    if isinstance(value, int | float):
        return str(int(value)) if math.isfinite(value) and value == int(value) else repr(value)
    if isinstance(value, Sequence):
        return ",".join(str(as_words(part)) for part in value)
    return str(value)


def as_path(value: str | Path | None) -> Path | None:
    """A path, where there is one."""
    return None if value is None else Path(value)


def as_model(model: Any) -> Any:  # noqa: ANN401 - a text, a segmenter, or None
    """A path of a model as a text that means the same; everything else stays as it is."""
    if not isinstance(model, Path):
        return model
    from refineseg.networks.model_names import model_text

    return model_text(model)


def check_call(
    verb: str, function: Callable[..., object], values: Mapping[str, Any], *, without: Collection[str] = ()
) -> frozenset[str]:
    """Refuse options of a call in Python that it has no use for, as the command line does.

    Args:
        verb: Name of the verb.
        function: Function of the call.
        values: Its values by the names of its parameters.
        without: Parameters that are no options.

    Returns:
        Options that are not what they are by default.

    Raises:
        ConfigError: There are options that have no effect.
    """
    asked = named_options(function, values) - frozenset(without)
    names = {name: f"--{name.replace('_', '-')}" for name in asked}
    check_options(verb, names, {name: as_words(value) for name, value in values.items()})
    return asked


def named_options(function: Callable[..., object], values: Mapping[str, Any]) -> frozenset[str]:
    """Options of a call that are not what they are by default; the command line knows them better.

    Args:
        function: Function of the call.
        values: Its values by the names of its parameters.
    """
    parameters = inspect.signature(function).parameters
    defaults = {name: parameters[name].default for name in values if name in parameters}
    return frozenset(name for name in defaults if as_words(values[name]) != as_words(defaults[name]))
