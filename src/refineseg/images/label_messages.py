"""What is wrong with the values of a mask, in words: what was expected, what was found how often, what to do.

In: values (or colours as 0xRRGGBB) with their pixel counts, and the table they do not fit. Out: one line of text.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from refineseg.class_info import Colour, LabelTable

Found = Sequence[tuple[int, int]]
"""Values and their pixel counts, the most frequent first."""

COLOUR_EXAMPLE = '{"classes": [{"id": 0, "name": "road", "color": [128, 64, 128]}, ...]}'
"""How a class table with colours is written."""

_SHOWN = 5
_MOST_COLOURS = 20  # in a list of classes that is made of the colours that were found
_MANY = 16  # more unknown values than this in one mask are no forgotten classes


def value_ranges(values: Iterable[int], *, most: int = 8) -> str:
    """Integers as runs.

    Args:
        values: Values in any order.
        most: Runs to show; more become ``...``.

    Example:
        >>> value_ranges([0, 1, 2, 3, 7, 9, 10])
        '0..3, 7, 9..10'
    """
    runs: list[list[int]] = []
    for value in sorted(values):
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    shown = [str(low) if low == high else f"{low}..{high}" for low, high in runs[:most]]
    return ", ".join(shown + ["..."] * (len(runs) > most))


def legal_values(table: LabelTable, ignore_index: int) -> str:
    """The values a mask may hold: those of the classes, then those of void.

    Example:
        >>> legal_values(LabelTable({0: 0, 1: 1, 2: 2, 255: 255}), 255)
        '0..2 or 255'
    """
    classes = value_ranges(value for value, index in table.values.items() if index != ignore_index)
    void = value_ranges(value for value, index in table.values.items() if index == ignore_index)
    return f"{classes} or {void}" if void else classes


def wrong_values(path: Path, found: Found, table: LabelTable, ignore_index: int) -> str:
    """A mask with values that stand for no class."""
    unknown = [(value, count) for value, count in found if value not in table.values]
    shown = _listed([(str(value), count) for value, count in unknown], "values")
    advice = _value_advice(found, table, ignore_index)
    return f"{path}: expected {legal_values(table, ignore_index)}, got {shown}; {advice}"


def _value_advice(found: Found, table: LabelTable, ignore_index: int) -> str:
    present = {value for value, _ in found}
    unknown = present - set(table.values)
    if len(unknown) > _MANY:
        return "so many values are a photograph or a smoothly resized mask: resize with nearest neighbour, save as PNG"
    if present == {0, 255}:
        return "a mask of 0 and 255 has two classes: write 1 instead of 255" + (
            ' or give the second class "id": 255 in classes.json' if table.declared_in else ""
        )
    if unknown == {255} and table.declared_in:
        return 'if 255 is void, set "ignore_index": 255 in classes.json'
    if 0 not in present and unknown == {max(table.values.keys() - {255}, default=0) + 1}:
        advice = "if the values start at 1 they are one too high: subtract 1"
        return advice + (", or list the values as they are in classes.json" if table.declared_in else "")
    return listing_advice(present, table, ignore_index) if table.declared_in else "correct the mask"


def listing_advice(used: Collection[int], table: LabelTable, ignore_index: int, names: Sequence[str] = ()) -> str:
    """What to do about values that the user's list of classes does not have.

    Args:
        used: The values that masks hold.
        table: How masks write classes, with the name of the list.
        ignore_index: Void.
        names: The classes in their order, where they are known.

    Example:
        >>> table = LabelTable({0: 0, 1: 1, 255: 255}, declared_in="classes.txt")
        >>> listing_advice({0, 90, 255}, table, 255)  # doctest: +ELLIPSIS
        'classes.txt cannot list values: write classes.json in its place, {"classes": [{"id": 0, "name": "..."}, ...'
    """
    file, classes = table.declared_in, {value for value, index in table.values.items() if index != ignore_index}
    labelled, count = set(used) - (table.values.keys() - classes), len(classes)
    counted = classes == set(range(count)) and 0 in labelled
    if counted and max(labelled) == count:
        line = "entry" if file.endswith(".json") else "line"
        return (
            f"is the background missing as the first {line} of {file}, or the name of value {count} as its last? It "
            f"has {count} name{'s' * (count != 1)}, and the masks use 0..{count}; add the name, or correct the mask"
        )
    if file.endswith(".json"):
        return f"list the values in {file} or correct the mask"
    if counted and labelled == set(range(max(labelled) + 1)):
        return f"add the names of the values up to {max(labelled)} to {file}, or correct the mask"
    values, known = sorted(used), len(names) == len(used)
    listed = dict(zip(values, names if known else ["..."] * len(values), strict=True))
    example = json.dumps({"classes": [{"id": v, "name": listed[v]} for v in values[:_SHOWN]]}, ensure_ascii=False)
    example = example.replace("]}", ", ...]}") if not known or len(values) > _SHOWN else example
    return f"{file} cannot list values: write classes.json in its place, {example}, or correct the mask"


def classes_of_colours(colours: Mapping[int, int]) -> str:
    """A ``classes.json`` of the most frequent colours, to be edited.

    Args:
        colours: Colours as 0xRRGGBB -> their pixels.

    Example:
        >>> classes_of_colours({0x0000FF: 5, 0: 9})
        '{"classes": [{"name": "class_0", "color": [0, 0, 0]}, {"name": "class_1", "color": [0, 0, 255]}]}'
    """
    codes = sorted(colours, key=lambda code: -colours[code])[:_MOST_COLOURS]
    return json.dumps({"classes": [{"name": f"class_{i}", "color": _colour(code)} for i, code in enumerate(codes)]})


def wrong_colours(path: Path, found: Found, table: LabelTable) -> str:
    """An RGB mask with colours that stand for no class."""
    unknown = [(code, count) for code, count in found if _colour(code) not in table.colours]
    legal = ", ".join(map(str, list(table.colours)[:3])) + (", ..." if len(table.colours) > 3 else "")
    if _all_grey(unknown):
        advice = "its channels are equal: save one of them as a grey PNG of class indices"
    elif len(unknown) > _MANY:
        advice = (
            "so many colours are a photograph or a smoothly resized mask: resize with nearest neighbour, save as PNG"
        )
    elif table.declared_in:
        advice = f"list them in {table.declared_in} or repaint the mask"
    else:
        advice = "repaint the mask"
    shown = _listed([(str(_colour(code)), count) for code, count in unknown], "colours")
    return f"{path}: expected the {len(table.colours)} colours of the class table ({legal}), got {shown}; {advice}"


def no_colours_known(path: Path, found: Found) -> str:
    """An RGB mask where no class has a colour."""
    advice = (
        "its channels are equal: save one of them as a grey PNG"
        if _all_grey(found)
        else f"give every class its colour in classes.json: {COLOUR_EXAMPLE}"
    )
    shown = _listed([(str(_colour(code)), count) for code, count in found], "colours")
    return f"{path}: expected class indices, got RGB colours {shown}; {advice}"


def _listed(items: Sequence[tuple[str, int]], what: str) -> str:
    shown = ", ".join(f"{value} in {count} pixel{'s' * (count != 1)}" for value, count in items[:_SHOWN])
    return shown + (f" and {len(items) - _SHOWN} more {what}" if len(items) > _SHOWN else "")


def _colour(code: int) -> Colour:
    return code >> 16, (code >> 8) & 255, code & 255


def _all_grey(found: Found) -> bool:
    return all(red == green == blue for red, green, blue in (_colour(code) for code, _ in found))
