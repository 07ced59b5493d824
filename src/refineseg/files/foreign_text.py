"""JSON, YAML and tables from strangers: read with bounds on depth, numbers and size, so that no small file costs much.

In: text. Out: plain values, or a ValueError in words. The only file that imports yaml.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import yaml  # type: ignore[import-untyped]

from refineseg.errors import DatasetError

MOST_YAML = 1 << 18
"""Characters of a YAML file: a data.yaml of a thousand classes has thirty thousand."""

_MOST_SCALAR = 4096
_MOST_DEPTH = 32
_MOST_JSON_DEPTH = 100  # the deepest of the formats read here have ten
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"?', re.DOTALL)  # one without an end, too, else each quote in it would begin one
_KEPT, _WHOLE = (":null", ":int"), re.compile(r"[-+]?(?:0|[1-9][0-9]*)$")
_PLAIN_TAGS = (None, "!", "tag:yaml.org,2002:str")
_STEPS = np.zeros(256, np.int8)
_STEPS[list(b"[{")], _STEPS[list(b"]}")] = 1, -1


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text}, which is no finite number")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_number(text[:40])


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; of a key that occurs twice, json would take the last value unsaid."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"a key twice: {_repeated(name for name, _ in pairs):.40}")
    return found


def _repeated(names: Iterable[str]) -> str:
    """The first of several that occurs twice; 1 and +1 are one key of a YAML file in two spellings."""
    return next((name for name, count in Counter(names).items() if count > 1), "in two spellings")


_ELEMENT_DECODER = json.JSONDecoder(parse_constant=_no_number, object_pairs_hook=_once)


def check_depth(text: str) -> None:
    """Refuse values nested in each other so often that whoever walks through them runs out of stack.

    Args:
        text: JSON.

    Raises:
        ValueError: They are nested more than a hundred times.
    """
    if _depth(text) > _MOST_JSON_DEPTH and _depth(_STRING.sub("", text)) > _MOST_JSON_DEPTH:
        raise ValueError(f"values nested in each other more than {_MOST_JSON_DEPTH} times")


def _depth(text: str) -> int:
    """How deep brackets are nested, those inside of strings counted like others."""
    if text.count("[") + text.count("{") <= _MOST_JSON_DEPTH:
        return 0
    codes = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)
    steps = _STEPS.take(codes[_STEPS.take(codes) != 0])
    return int(np.cumsum(steps, dtype=np.int64).max(initial=0))


def parse_element(text: str, at: int) -> tuple[Any, int]:
    """One value of a large JSON text and where it ends; a number that overflows is infinite.

    Raises:
        ValueError: As :func:`parse_json`.
    """
    try:
        value, end = _ELEMENT_DECODER.raw_decode(text, at)
    except RecursionError as error:
        raise ValueError("values nested in each other hundreds of times") from error
    check_depth(text[at:end])
    return value, end


def parse_json(text: str) -> Any:  # noqa: ANN401 - whatever the text holds
    """The values of a JSON text.

    Raises:
        ValueError: It is no JSON, is nested too deeply, has a key twice, or a number is not finite or has thousands of
            digits.

    Example:
        >>> parse_json('{"height": 1e999}')
        Traceback (most recent call last):
        ValueError: 1e999, which is no finite number
    """
    check_depth(text)
    try:
        return json.loads(text, parse_constant=_no_number, parse_float=_finite, object_pairs_hook=_once)
    except RecursionError as error:
        raise ValueError("values nested in each other hundreds of times") from error


def csv_rows(lines: Iterable[str], path: Path) -> list[list[str]]:
    """The rows of a table with commas.

    Args:
        lines: Its lines.
        path: Its file, for the message.

    Raises:
        DatasetError: It is no table, or a cell is longer than any name.
    """
    try:
        return list(csv.reader(lines))
    except csv.Error as error:
        raise DatasetError(f"expected a table with commas in {path}, got {error}; correct it") from error


class _WordsLoader(yaml.SafeLoader):  # type: ignore[misc]
    """Words are texts: ``no``, ``1.10`` and ``010`` are names of classes, and not ``False``, 1.1 and 8."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - yaml's name
        first: [(tag, _WHOLE if tag.endswith(":int") else pattern) for tag, pattern in resolvers if tag.endswith(_KEPT)]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Every key once: of two, yaml would take the last unsaid."""
        found = super().construct_mapping(node, deep=deep)
        if len(found) < len(node.value):
            raise ValueError(f"a key twice: {_repeated(key.value for key, _ in node.value):.40}")
        mapping: dict[Any, Any] = found
        return mapping


def parse_yaml(text: str) -> Any:  # noqa: ANN401 - whatever the text holds
    r"""The values of a YAML text: whole numbers, null, and everything else as the text that stands there.

    Raises:
        ValueError: It is no YAML, is long or deep beyond all need, has a key twice, a tag (``!!set``), or anchors, by
            which a kilobyte may stand for gigabytes.

    Example:
        >>> parse_yaml("a: &x [1]\nb: [*x, *x]")
        Traceback (most recent call last):
        ValueError: an alias (*x); write its value out
        >>> parse_yaml("[no, 1.10, 3, ~]")
        ['no', '1.10', 3, None]
    """
    if len(text) > MOST_YAML:
        raise ValueError(f"{len(text)} characters, at most {MOST_YAML} are read")
    depth = 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise ValueError(f"an alias (*{event.anchor[:40]}); write its value out")
            if isinstance(event, yaml.ScalarEvent) and len(event.value) > _MOST_SCALAR:
                raise ValueError(f"a value of {len(event.value)} characters, at most {_MOST_SCALAR} are read")
            if getattr(event, "tag", None) not in _PLAIN_TAGS:
                raise ValueError(f"a tag ({event.tag[:60]}); write plain values")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _MOST_DEPTH:
                raise ValueError(f"values nested in each other more than {_MOST_DEPTH} times")
        return yaml.load(text, Loader=_WordsLoader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise ValueError("values nested in each other hundreds of times") from error
