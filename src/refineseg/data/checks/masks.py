"""What is wrong with the values of masks, each with what would repair it.

In: the facts of all masks and what they should hold. Out: faults. A mask without a fault is one that the reader takes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from refineseg.data.checks.expected import Expected, class_counts
from refineseg.data.checks.facts import MaskFacts
from refineseg.data.checks.kinds import Fault
from refineseg.images.label_messages import classes_of_colours, legal_values, listing_advice, value_ranges

Named = Sequence[tuple[str, MaskFacts]]
"""Masks under the names of their files."""

_MANY = 16  # more unknown values than this are no forgotten classes
_MOST_COLOURS = 256
_SHOWN = 5
_MORE_VOID = 3.0  # times the void of masks that are sure to use it
_FULL = 255
_VISIBLE = 32  # levels between two colours of one index that nobody takes for one
_ONES = 0.1  # share of the dark pixels of a JPEG mask that are 1 where 1 is a class, and not noise beside an edge
_UNSURE = "look at these masks: values may be one too high or too low in all masks, or a class is missing in the list"
_BACKGROUNDS = frozenset({"background", "bg", "class_0"})


def mask_faults(
    masks: Named, expected: Expected, *, own_classes: bool, usual_void: float = 0.0, others: Named = ()
) -> list[Fault]:
    """The faults of all masks.

    Args:
        masks: Name and facts of each mask.
        expected: What they should hold.
        own_classes: The user's own classes, of which the first is taken as background in masks of nothing else.
        usual_void: Share of void in other masks of the same data, see :func:`void_share`.
        others: Palette masks of other splits of the same data, with which palettes are compared, too.
    """
    readable = [(name, mask) for name, mask in masks if not mask.problem]
    coloured = sum(mask.form == "colour" for _, mask in readable)
    context = _Context(
        expected,
        2 * coloured > len(readable) and bool(expected.table.colours),
        max(usual_void, void_share(readable)),
        any(mask.form == "palette" and _palette_disagrees(mask, expected) for _, mask in readable),
        _impossible_shifts(readable, expected),
        frozenset().union(*(mask.index_counts or () for _, mask in readable if len(mask.counts) <= _MOST_COLOURS)),
        classes_of_colours(_colours([mask for _, mask in readable if mask.form == "colour"])) if coloured else "",
        _two_level_values(readable, expected),
    )
    faults: list[Fault] = []
    for name, mask in masks:
        found = _one_mask(name, mask, context)
        if not found and mask.counts:
            found = _without_classes(name, mask, expected, own_classes)
        faults += found
    if own_classes or expected.table.declared_in:
        by_colour = {fault.file for fault in faults if fault.kind == "palette_mask"}
        own = [(name, mask) for name, mask in readable if name not in by_colour]
        faults += _mixed_palettes([*others, *own], expected)
    return _with_full_masks(_with_shifted_masks(readable, faults, expected), readable)


@dataclass(frozen=True)
class _Context:
    """What is usual in the other masks.

    Args:
        expected: What masks should hold.
        colours_usual: Most masks are colours.
        void_share: Share of void in masks that are sure to use it.
        palettes_differ: The palette of some mask says other classes than its values.
        impossible_shifts: Shifts, of -1 and 1, that some mask shows to be none of this data set.
        used: Values of all masks of values.
        colour_list: A list of classes of the colours of all masks of colours.
        two_level_values: What to write for the dark (0) and bright (255) pixels of JPEG masks; None where that is not
            certain; empty where there are not two classes.
    """

    expected: Expected
    colours_usual: bool
    void_share: float
    palettes_differ: bool
    impossible_shifts: frozenset[int]
    used: frozenset[int]
    colour_list: str
    two_level_values: Mapping[int, int] | None


def void_share(masks: Named) -> float:
    """The largest share of the value 255 in a mask of at least two classes, where it is sure to be void."""
    shares = [0.0]
    for _, mask in masks:
        if mask.form in ("index", "palette") and len(set(mask.counts) - {_FULL}) >= 2:
            shares.append(mask.counts.get(_FULL, 0) / sum(mask.counts.values()))
    return max(shares)


def _one_mask(name: str, mask: MaskFacts, context: _Context) -> list[Fault]:
    if mask.problem:
        return [Fault(mask.kind, name, mask.problem)]
    if mask.form == "classes":
        return []
    if mask.form == "jpeg":
        return [_jpeg_fault(name, mask, context)]
    if mask.form == "colour":
        return _colour_faults(name, mask, context)
    if mask.form == "palette" and _palette_disagrees(mask, context.expected, least=1 if context.palettes_differ else 2):
        by_colour = {
            value: context.expected.value_of(_classes_by_colour(mask, context.expected)[value]) for value in mask.counts
        }
        shown = ", ".join(f"{value} painted as {meant}" for value, meant in by_colour.items() if value != meant)
        return [Fault("palette_mask", name, shown, values=by_colour)]
    return _index_faults(name, mask.counts, mask.distinct, context)


def _colour_faults(name: str, mask: MaskFacts, context: _Context) -> list[Fault]:
    table = context.expected.table
    unknown = [code for code in mask.counts if _rgb(code) not in table.colours]
    if not unknown and mask.distinct == len(mask.counts):
        return [] if context.colours_usual else [Fault("rgb_mask", name, "its colours are those of the classes")]
    grey = mask.index_counts
    if grey is not None:
        values = _index_faults(name, grey, mask.distinct, context)
        if not any(fault.values is None for fault in values):
            remedy = values[0].values if values else {value: value for value in grey}
            return [Fault("rgb_mask", name, "its channels are equal", values=remedy), *values]
    if mask.distinct > (len(table.colours) + _MANY if table.colours else _MOST_COLOURS):
        return [Fault("smoothed_mask", name, f"{mask.distinct} different colours")]
    shown = _listed([(str(_rgb(code)), mask.counts[code]) for code in unknown], "colours")
    if not table.colours:
        advice = f"save the class indices as grey PNG, or write classes.json with your names: {context.colour_list}"
        return [Fault("rgb_mask", name, shown, advice)]
    return [Fault("unknown_colours", name, shown, "" if table.declared_in else "repaint the mask")]


def _colours(masks: Sequence[MaskFacts]) -> Counter[int]:
    """Pixels of each colour of masks of colours and palettes."""
    colours: Counter[int] = Counter()
    for mask in masks:
        for value, count in mask.counts.items():
            colours[mask.palette.get(value, value)] += count
    return colours


def _mixed_palettes(masks: Named, expected: Expected) -> list[Fault]:
    """Palette masks in which an index has visibly another colour than in most others.

    Void does not count, nor do palettes that tell nothing: those of grey levels, and those with a colour twice.
    """
    palettes: dict[str, dict[int, int]] = {}
    for name, mask in masks:
        painted = {v: c for v, c in mask.palette.items() if expected.table.values.get(v, v) != expected.ignore_index}
        if len(set(painted.values())) == len(painted) and any(c != v * 0x010101 for v, c in painted.items()):
            palettes[name] = painted
    seen: dict[int, Counter[int]] = {}
    for painted in palettes.values():
        for value, code in painted.items():
            seen.setdefault(value, Counter())[code] += 1
    if all(len(codes) == 1 for codes in seen.values()):
        return []
    usual = {value: codes.most_common(1)[0][0] for value, codes in seen.items()}
    faults = []
    for name, painted in palettes.items():
        others = [v for v, code in painted.items() if _difference(code, usual[v]) >= _VISIBLE]
        if others:
            shown = ", ".join(f"{v} is {_rgb(painted[v])} and not {_rgb(usual[v])}" for v in sorted(others)[:_SHOWN])
            faults.append(Fault("mixed_palettes", name, shown))
    found = _colours([mask for name, mask in masks if name in palettes])
    in_order = {usual[value]: -value for value in usual}  # the numbers that most masks have
    colours = classes_of_colours(in_order if in_order.keys() == found.keys() else found)
    action = (
        f"write classes.json with your names, {colours}, then --fix numbers the masks by their colours; where the "
        "numbers are right and only the colours differ, save the masks as grey PNG"
    )
    return [replace(fault, action=action) for fault in faults]


def _difference(code: int, other: int) -> int:
    return max(abs(one - two) for one, two in zip(_rgb(code), _rgb(other), strict=True))


def _two_level_values(masks: Named, expected: Expected) -> dict[int, int] | None:
    """What to write for dark and bright pixels where the JPEG masks are black and white pictures of two classes."""
    jpegs = [mask for _, mask in masks if mask.form == "jpeg"]
    levels = [mask.two_levels for mask in jpegs]
    clear = [found for found in levels if found is not None]
    dark, bright = sum(found[0] for found in clear), sum(found[1] for found in clear)
    ones = sum(mask.counts.get(0x010101, 0) for mask, found in zip(jpegs, levels, strict=True) if found is not None)
    if 2 * len(clear) <= len(jpegs) or not bright or ones > _ONES * dark or expected.table.names_void:
        return None
    if expected.class_info is None:
        return {0: 0, _FULL: 1}
    values = sorted(expected.class_values)
    return {0: values[0], _FULL: values[1]} if len(values) == 2 else {}


def _jpeg_fault(name: str, mask: MaskFacts, context: _Context) -> Fault:
    detail, values = f"{mask.distinct} different colours", context.two_level_values
    if values is None or mask.two_levels is None:
        return Fault("jpeg_mask", name, detail)
    detail += ", close to black and white"
    if not values:
        action = "export the mask as PNG; with two classes in the list, --fix makes a mask of 0 and 1 of it"
        return Fault("jpeg_mask", name, detail, action)
    action = f"write {values[0]} for dark and {values[_FULL]} for bright pixels as PNG (--fix does, from 128 on)"
    return Fault("jpeg_mask", name, detail, action, values=values)


def _classes_by_colour(mask: MaskFacts, expected: Expected) -> dict[int, int]:
    return {value: expected.table.colours.get(_rgb(code), -1) for value, code in mask.palette.items()}


def _palette_disagrees(mask: MaskFacts, expected: Expected, *, least: int = 2) -> bool:
    """All colours are those of classes, at least so many of them, but not those of the indices."""
    by_colour = _classes_by_colour(mask, expected)
    different = len(set(by_colour.values())) == len(by_colour) >= least
    if not different or -1 in by_colour.values() or set(by_colour) != set(mask.counts):
        return False
    return any(expected.table.values.get(value) != index for value, index in by_colour.items())


def _index_faults(name: str, counts: Mapping[int, int], distinct: int, context: _Context) -> list[Fault]:
    expected = context.expected
    table = expected.table
    present = set(counts)
    unknown = sorted(present - set(table.values))
    if not table.values:
        return []
    if _is_binary(counts, context):
        two = len(expected.class_values) == 2
        action = "write 1 instead of 255 (--fix does)" if two else ""
        detail = f"0 in {counts.get(0, 0)} pixels, 255 in {counts[_FULL]}"
        return [Fault("binary_mask", name, detail, action, values=_second_class(expected) if two else None)]
    if not unknown and distinct == len(counts):
        return []
    shift = _shift(present, expected)
    shift = 0 if shift in context.impossible_shifts else shift
    if shift:
        return [_shift_fault(name, counts, shift, expected)]
    if len(unknown) > _MANY or distinct > len(counts):
        return [
            Fault("smoothed_mask", name, f"{distinct} different values, {value_ranges(unknown)} stand for no class")
        ]
    shown = _listed([(str(value), counts[value]) for value in unknown], "values")
    detail = f"expected {legal_values(table, expected.ignore_index)}, got {shown}"
    return [Fault("unknown_values", name, detail, _value_action(context))]


def _value_action(context: _Context) -> str:
    expected = context.expected
    if expected.table.declared_in and expected.class_info is not None:
        names = expected.class_info.names
        return listing_advice(context.used, expected.table, expected.ignore_index, names)
    return "correct the mask" if expected.declared else "correct the mask, or write classes.json with every value"


def _is_binary(counts: Mapping[int, int], context: _Context) -> bool:
    """Nothing but 0 and 255, more of it than void has elsewhere, and 255 is no class and not said to be void."""
    expected = context.expected
    if (
        expected.table.names_void
        or set(counts) != {0, _FULL}
        or 0 not in expected.class_values
        or _FULL in expected.class_values
    ):
        return False
    return counts[_FULL] / sum(counts.values()) > _MORE_VOID * context.void_share


def _second_class(expected: Expected) -> dict[int, int]:
    return {0: 0, _FULL: max(expected.class_values)}


def _shift(present: set[int], expected: Expected) -> int:
    """What to add so that the values are those of the classes: -1, 1 or, where that does not help, 0."""
    legal = expected.class_values
    if not legal or legal != set(range(min(legal), max(legal) + 1)):
        return 0
    void = set(expected.table.values) - legal
    labelled = present - void
    if len(labelled) < 2 and len(legal) > 1 and labelled != {max(legal) + 1}:
        return 0
    if max(labelled) == max(legal) + 1 and min(legal) not in labelled and {v - 1 for v in labelled} <= legal:
        return -1
    if min(labelled) == min(legal) - 1 and max(legal) not in labelled and {v + 1 for v in labelled} <= legal:
        return 1
    return 0


def _impossible_shifts(masks: Named, expected: Expected) -> frozenset[int]:
    """A mask with the first class and a value behind the last one has a class more, and no values that are shifted."""
    legal = expected.class_values
    if not legal:
        return frozenset()
    ends = {-1: {min(legal), max(legal) + 1}, 1: {min(legal) - 1, max(legal)}}
    return frozenset(shift for shift, both in ends.items() if any(both <= set(mask.counts) for _, mask in masks))


def _shift_fault(name: str, counts: Mapping[int, int], shift: int, expected: Expected) -> Fault:
    void = set(expected.table.values) - expected.class_values
    values = {value: value if value in void else value + shift for value in counts}
    action = "subtract 1 from every value (--fix does)" if shift < 0 else "add 1 to every value (--fix does)"
    detail = f"expected {legal_values(expected.table, expected.ignore_index)}, got {value_ranges(counts)}"
    return Fault("off_by_one", name, detail, action, values=values)


def _with_shifted_masks(masks: Named, faults: list[Fault], expected: Expected) -> list[Fault]:
    """With the masks whose values are legal by chance, where the whole data set is one too high or too low.

    Where a list of classes is given and few masks show it, nobody knows whether the others are shifted: then none is
    repaired.
    """
    shifts = {fault.file for fault in faults if fault.kind == "off_by_one"}
    legal = expected.class_values
    others = [
        (name, mask)
        for name, mask in masks
        if name not in shifts and mask.form in ("index", "palette") and set(mask.counts) & legal
    ]
    if not shifts or not others or set().union(*(mask.counts for _, mask in others)) - set(expected.table.values):
        return faults
    labelled = set().union(*(mask.counts for _, mask in others)) & legal
    up = next(fault for fault in faults if fault.kind == "off_by_one" and fault.values)
    shift = -1 if any(new < old for old, new in (up.values or {}).items()) else 1
    absent = min(legal) if shift < 0 else max(legal)
    if absent in labelled:
        return faults
    if expected.declared and len(others) > len(shifts) * len(legal):
        return [replace(fault, values=None, action=_UNSURE) if fault.file in shifts else fault for fault in faults]
    return faults + [_shift_fault(name, mask.counts, shift, expected) for name, mask in others]


def _with_full_masks(faults: list[Fault], masks: Named) -> list[Fault]:
    """In a set of masks of 0 and 255, one of 255 alone is full of the second class."""
    binary = next((fault for fault in faults if fault.kind == "binary_mask" and fault.values), None)
    if binary is None:
        return faults
    full = {name: mask for name, mask in masks if set(mask.index_counts or ()) == {_FULL}}
    kept = [fault for fault in faults if fault.file not in full]
    detail = "255 in {} pixels, as in masks of 0 and 255"
    return kept + [
        replace(binary, file=name, detail=detail.format(sum(mask.counts.values()))) for name, mask in full.items()
    ]


def _without_classes(name: str, mask: MaskFacts, expected: Expected, own_classes: bool) -> list[Fault]:
    """Masks of void, or of background, alone."""
    found = class_counts(mask, expected)
    void = found.pop(expected.ignore_index, 0)
    if not found:
        return [Fault("void_mask", name, f"all {void} pixels are void")] if void else []
    if set(found) != {0} or expected.class_info is None or expected.class_info.num_classes == 1:
        return []
    first = expected.class_info.names[0]
    if own_classes or first.lower() in _BACKGROUNDS:
        return [Fault("empty_mask", name, f"{found[0]} pixels of {first}" + (f", {void} void" if void else ""))]
    return []


def _listed(items: Sequence[tuple[str, int]], what: str) -> str:
    shown = ", ".join(f"{value} in {count} pixel{'s' * (count != 1)}" for value, count in items[:_SHOWN])
    return shown + (f" and {len(items) - _SHOWN} more {what}" if len(items) > _SHOWN else "")


def _rgb(code: int) -> tuple[int, int, int]:
    return code >> 16, (code >> 8) & 255, code & 255
