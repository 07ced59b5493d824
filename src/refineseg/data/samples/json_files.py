"""JSON of annotation programs: read whole, or element by element where it may be large.

In: paths (also inside zip files) and texts. Out: plain values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from refineseg.errors import DatasetError
from refineseg.files.archives import decoded, read_bytes
from refineseg.files.foreign_text import parse_element, parse_json

_SPACE = re.compile(r"[ \t\r\n]*")


def read_json(path: Path) -> Any:  # noqa: ANN401 - whatever the file holds
    """The content of a JSON file.

    Raises:
        DatasetError: It cannot be read, or is no JSON.
    """
    try:
        return parse_json(decoded(read_bytes(path)))
    except (OSError, ValueError) as error:
        raise DatasetError(f"expected JSON in {path}, got {error}; export or save it again") from error


def list_elements(text: str) -> Iterator[Any]:
    """The elements of a JSON array one by one.

    Raises:
        ValueError: The text is not a JSON array, or ends too early.

    Example:
        >>> list(list_elements(' [{"a": 1}, 2] '))
        [{'a': 1}, 2]
    """
    at = _past_space(text, 0)
    if text[at : at + 1] != "[":
        raise json.JSONDecodeError("expected '['", text, at)
    at = _past_space(text, at + 1)
    while text[at : at + 1] != "]":
        value, end = parse_element(text, at)
        yield value
        at = end
        at = _past_space(text, at)
        if text[at : at + 1] == ",":
            at = _past_space(text, at + 1)
        elif text[at : at + 1] != "]":
            raise json.JSONDecodeError("expected ',' or ']'", text, at)
    _check_end(text, at)


def _check_end(text: str, at: int) -> None:
    """Nothing may follow the bracket at this place: it would be left out unsaid."""
    at = _past_space(text, at + 1)
    if at < len(text):
        raise json.JSONDecodeError("more text after the end", text, at)


def _past_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def json_elements(text: str, *, lists: Sequence[str] = ()) -> Iterator[tuple[str, Any, str]]:
    """The elements of the arrays of a JSON object one by one: the array's key, the element, and its text.

    A file of half a gigabyte would be several as a whole tree of Python objects.

    Args:
        text: The object.
        lists: Keys that must be there once, each with an array: of what is no array nothing would be given.

    Raises:
        ValueError: The text is not a JSON object, ends too early or goes on after its end, or lacks an array.

    Example:
        >>> list(json_elements('{"a": [1, 2], "b": 3}', lists=("a",)))
        [('a', 1, '1'), ('a', 2, '2')]
    """
    seen: list[str] = []

    def space(at: int) -> int:
        return _past_space(text, at)

    def expect(character: str, at: int) -> int:
        if text[at : at + 1] != character:
            raise json.JSONDecodeError(f"expected {character!r}", text, at)
        return space(at + 1)

    at = expect("{", space(0))
    while True:
        key, at = parse_element(text, at)
        at = expect(":", space(at))
        if text[at : at + 1] == "[":
            seen.append(key)
            at = space(at + 1)
            while text[at : at + 1] != "]":
                value, end = parse_element(text, at)
                yield key, value, text[at:end]
                at = space(end)
                if text[at : at + 1] != "]":
                    at = expect(",", at)
            at = space(at + 1)
        else:
            _, at = parse_element(text, at)
            at = space(at)
        if text[at : at + 1] == "}":
            break
        at = expect(",", at)
    _check_end(text, at)
    for wanted in lists:
        if seen.count(wanted) != 1:
            raise ValueError(f"{seen.count(wanted) or 'no'} lists {wanted!r} in place of one")
