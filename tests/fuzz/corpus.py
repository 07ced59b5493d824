"""Hostile files, made from honest ones by code: bytes cut, flipped and enlarged; JSON of wrong types, depths and keys.

In: the content of an honest file. Out: the same few variants at every call, or a strategy that draws any number.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

ESCAPES = "\x1b[31mred\x1b[0m\x07\x00\u202e\ud800 {0} %s"
"""A name that turns a terminal red, rings, writes from right to left, and is no text."""

DEEP = 100_000

_HUGE = (b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\x00\x00\x00\x80")
"""Four bytes in place of a size: the largest numbers of either byte order, none, and a negative one."""

_OTHERS = {
    "nothing": b"",
    "zeros": bytes(1000),
    "noise": random.Random(0).randbytes(1000),
    "a PNG's beginning": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\x7f\xff\xff\xff\x7f\xff\xff\xff\x08\x02\0\0\0\0\0\0\0",
    "a TIFF's beginning": b"II*\0\x08\0\0\0\xff\xff",
    "JSON of another kind": b'{"a": [1, 2]}',
    "brackets": b"[" * DEEP,
    "objects in objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "no text": b"\xff\xfe\x00\xd8\n" * 100,
    "control characters": ESCAPES.encode("utf-8", "surrogatepass") * 20,
}

VALUES: dict[str, Any] = {
    "null": None,
    "true": True,
    "a negative number": -1,
    "a huge number": 2**70,
    "the largest number": 1e308,
    "NaN": float("nan"),
    "an empty text": "",
    "control characters": ESCAPES,
    "a long text": "x" * 100_000,
    "a way out": "../../../../etc/passwd",
    "an empty list": [],
    "an empty object": {},
    "lists in lists": [[[[[[[[1]]]]]]]],
    "a long list": [0] * 10_000,
}


def hostile_bytes(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Name and content of the same variants at every call."""
    yield from _OTHERS.items()
    size = len(content)
    for share in (0.1, 0.5, 0.9):
        yield f"cut at {share:.0%}", content[: int(size * share)]
    yield "without the last byte", content[:-1]
    yield "twice", content * 2
    yield "with more after it", content + bytes(100)
    for at in sorted({0, 4, 8, 16, 20, 24, size // 3, size // 2, size - 8}):
        yield f"a huge number at {at}", content[:at] + _HUGE[at % len(_HUGE)] + content[at + 4 :]
    for seed in range(6):
        draw, changed = random.Random(seed), bytearray(content)
        for _ in range(1 + seed):
            changed[draw.randrange(size)] ^= 1 << draw.randrange(8)
        yield f"{1 + seed} bits flipped", bytes(changed)


def hostile_json(text: str) -> Iterator[tuple[str, bytes]]:
    """The same for a file of JSON: every value in turn of every wrong kind would be thousands, so some in turn."""
    value = json.loads(text)
    places = list(_places(value))
    for number, (name, wrong) in enumerate(VALUES.items()):
        for place in (places[(7 * number) % len(places)], places[(13 * number + 5) % len(places)]):
            yield f"{name} at {place}", _dumped(_replaced(value, place, wrong))
    for place in places[:: max(1, len(places) // 8)]:
        yield f"without {place}", _dumped(_replaced(value, place, _GONE))
    yield "deep inside", _dumped(_replaced(value, places[-1], "@")).replace(b'"@"', b"[" * DEEP + b"]" * DEEP)
    if isinstance(value, dict):
        first = next(iter(value))
        yield "a key twice", _dumped(value)[:-1] + f", {json.dumps(first)}: {json.dumps(value[first])}}}".encode()


@st.composite
def changed_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """Any number of cuts, copies, flips and huge numbers."""
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(0, len(changed) - 1)))
        kind = draw(st.sampled_from(("flip", "huge", "cut", "remove", "copy", "insert")))
        if kind == "flip" and changed:
            changed[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "huge":
            changed[at : at + 4] = draw(st.sampled_from(_HUGE))
        elif kind == "cut":
            del changed[at:]
        elif kind == "remove":
            del changed[at : at + draw(st.integers(1, 64))]
        elif kind == "copy":
            changed[at:at] = changed[at : at + draw(st.integers(1, 64))]
        else:
            changed[at:at] = draw(st.binary(min_size=1, max_size=16))
    return bytes(changed)


@st.composite
def changed_json(draw: st.DrawFn, text: str) -> bytes:
    """Any number of values that are gone, of another kind, or somewhere else."""
    value = json.loads(text)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.sampled_from(list(_places(value)) or [()]))
        kinds = (st.sampled_from(list(VALUES.values())), st.just(_GONE), st.integers(), st.text(max_size=20))
        others = st.sampled_from([_at(value, other) for other in list(_places(value))[:50]] or [None])
        value = _replaced(value, place, draw(st.one_of(*kinds, others)))
    return _dumped(value)


_GONE = object()


def _places(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value below one."""
    if isinstance(value, dict | list) and len(before) < 20:
        for key, inner in value.items() if isinstance(value, dict) else list(enumerate(value))[:50]:
            yield (*before, key)
            yield from _places(inner, (*before, key))


def _at(value: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        value = value[key]
    return value


def _replaced(value: Any, place: tuple[Any, ...], new: object) -> Any:
    """A copy with another value at a place; ``_GONE``: with none."""
    if not place:
        return None if new is _GONE else new
    changed = copy.deepcopy(value)
    parent = _at(changed, place[:-1])
    if new is _GONE:
        del parent[place[-1]]
    else:
        parent[place[-1]] = copy.deepcopy(new)
    return changed


def _dumped(value: object) -> bytes:
    return json.dumps(value).encode()
