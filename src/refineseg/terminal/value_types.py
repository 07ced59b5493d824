"""Types of the values that a program gives, which the command line does not have.

In: a function and the values of a call. Out: values of Python, or an error that says what was expected.
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from refineseg.errors import ConfigError


@runtime_checkable
class Arrayed(Protocol):
    """Arrays and numbers of NumPy and PyTorch."""

    def tolist(self) -> Any:  # noqa: ANN401 - numbers, and lists of them
        """The same as numbers of Python."""


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
    values = {name: _plain(value) for name, value in values.items()}
    for name, written in function.__annotations__.items():
        kinds = written.split(" | ")
        if name not in values or not all(kind in _KINDS for kind in kinds):
            continue
        value, allowed = values[name], tuple(kind for word in kinds for kind in _KINDS[word])
        if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
            shown = f"{value!r:.80} of type " if isinstance(value, str | int | float | list | tuple) else ""
            raise ConfigError(f"expected {written} as {name}, got {shown}{type(value).__name__}")
    return values


def _plain(value: object) -> object:
    """A number or a truth of NumPy or PyTorch as that of Python."""
    return value.tolist() if isinstance(value, Arrayed) and getattr(value, "ndim", None) == 0 else value
