"""Python's values as the words of the command line, which are checked in one place.

In: values of a call. Out: words; and which options a call names.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from numbers import Integral, Number, Real
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from refineseg.errors import ConfigError
from refineseg.terminal.applicability import check_options


@runtime_checkable
class Arrayed(Protocol):
    """Arrays and numbers of NumPy and PyTorch."""

    def tolist(self) -> Any:  # noqa: ANN401 - numbers, and lists of them
        """The same as numbers of Python."""


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


_KINDS: dict[str, tuple[type, ...]] = {
    "bool": (bool,),
    "int": (Integral,),
    "float": (Real,),
    "str": (str,),
    "Path": (Path,),
    "None": (type(None),),
}


def check_types(function: Callable[..., object], values: dict[str, Any]) -> dict[str, Any]:
    """Refuse values of another type than the function says: ``flip="no"`` would be true.

    Args:
        function: Function of the call, in a module with ``from __future__ import annotations``.
        values: Its values by the names of its parameters; those of other types than plain ones are left alone.

    Returns:
        The same values; numbers of NumPy are those of Python.

    Raises:
        ConfigError: A value of another type.

    Example:
        >>> def call(flip: bool = False) -> None: ...
        >>> call.__annotations__["flip"] = "bool"
        >>> check_types(call, {"flip": "no"})
        Traceback (most recent call last):
        refineseg.errors.ConfigError: expected bool as flip, got 'no' of type str
    """
    for name, written in function.__annotations__.items():
        kinds = written.split(" | ")
        if name not in values or not all(kind in _KINDS for kind in kinds):
            continue
        value = values[name]
        allowed = tuple(kind for word in kinds for kind in _KINDS[word])
        if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
            shown = f"{value!r:.80} of type " if isinstance(value, str | int | float | list | tuple) else ""
            raise ConfigError(f"expected {written} as {name}, got {shown}{type(value).__name__}")
    return {
        name: value.tolist() if isinstance(value, Number) and isinstance(value, Arrayed) else value
        for name, value in values.items()
    }


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
        ConfigError: There are options that have no effect, or a value of another type.
    """
    check_types(function, {name: value for name, value in values.items() if name not in without})
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
