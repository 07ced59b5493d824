"""Numbers beside each other: with published ones, and between two results; never without what differs.

In: a result of ``refineseg evaluate``. Out: lines and tables for the terminal, plain values for JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from refineseg.errors import ConfigError, DatasetError
from refineseg.evaluate.protocol import Differences, MeasurementProtocol
from refineseg.evaluate.published import COMPARATORS, PUBLISHED_SCORES
from refineseg.files.archives import decoded, read_bytes
from refineseg.files.foreign_text import parse_json
from refineseg.files.special import refuse_special
from refineseg.terminal.printable import short

KEY = "measurement_protocol"
"""Where a result of evaluation has its protocol."""

FROM_MEMORY = "from memory, unverified"

_MEANS = (
    ("mIoU", "mean_iou"),
    ("mean accuracy", "mean_accuracy"),
    ("pixel accuracy", "pixel_accuracy"),
    ("frequency-weighted IoU", "frequency_weighted_iou"),
)


@dataclass(frozen=True)
class Comparison:
    """A published number beside ours.

    Args:
        network: Whose it is.
        mean_iou: 0..1.
        source: Where it stands.
        verified: Whether number and protocol were checked there.
        note: What else a reader should know.
        differences: Differences of the protocols.
        advantage: Ours minus theirs; None where the protocols are unlike.
    """

    network: str
    mean_iou: float
    source: str
    verified: bool
    note: str
    differences: Differences
    advantage: float | None

    @property
    def verdict(self) -> str:
        """What to print beside the number."""
        if self.advantage is None:
            return str(self.differences)
        return f"equal protocol: ours is {100 * abs(self.advantage):.1f} points {_side(self.advantage)}"

    @property
    def origin(self) -> str:
        """Where it stands, and whether that was checked."""
        return ", ".join([self.source, *([] if self.verified else [FROM_MEMORY]), *([self.note] if self.note else [])])

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "network": self.network,
            "mean_iou": self.mean_iou,
            "source": self.source,
            "verified": self.verified,
            "note": self.note,
            "equal_protocol": self.differences.equal,
            "unlike": list(self.differences.unlike),
            "not_stated": list(self.differences.unstated),
        }


def _side(advantage: float) -> str:
    return "above" if advantage >= 0 else "below"


def compare_published(ours: MeasurementProtocol, mean_iou: float, variant: str) -> tuple[Comparison, ...]:
    """The published numbers of a data set's split, for this network and, where they are listed, for others.

    Args:
        ours: The conditions of our number.
        mean_iou: Our number, 0..1.
        variant: Variant of our model.
    """
    rows = [
        (row.network, row.mean_iou, row.protocol, row.source, row.verified, row.note)
        for row in COMPARATORS.get(ours.dataset, ())
    ]
    rows += [
        (f"{score.variant} ({score.protocol})", score.mean_iou, score.measurement, score.source, True, "")
        for scores in PUBLISHED_SCORES.values()
        for score in scores
        if (score.variant, score.dataset) == (variant, ours.dataset)
    ]
    compared = []
    for network, theirs, protocol, source, verified, note in rows:
        if protocol.split == ours.split:
            differences = ours.differences(protocol)
            advantage = mean_iou - theirs if differences.equal else None
            compared.append(Comparison(network, theirs, source, verified, note, differences, advantage))
    return tuple(compared)


def published_lines(compared: tuple[Comparison, ...], ours: MeasurementProtocol) -> list[str]:
    """The published numbers for the terminal, each with what its protocol has otherwise; none where none are."""
    lines = [
        line
        for row in compared
        for line in (f"  {100 * row.mean_iou:.1f} % mIoU, {row.network} ({row.origin})", f"      {row.verdict}")
    ]
    return [f"published on {ours.dataset} {ours.split}:", *lines] if lines else []


def read_result(path: Path) -> dict[str, Any]:
    """A result that ``refineseg evaluate --json`` wrote.

    Raises:
        ConfigError: The file cannot be read, or holds no numbers with their protocol.
    """
    try:
        refuse_special(path)
        value = parse_json(decoded(read_bytes(path)))
    except (OSError, ValueError, DatasetError) as error:
        raise ConfigError(f"expected a result of `refineseg evaluate --json`, got {path}: {error}") from error
    if not isinstance(value, dict) or "mean_iou" not in value or not isinstance(value.get(KEY), dict):
        raise ConfigError(
            f"expected a result with its protocol in {path}, got none; it has no labels or is of an earlier version: "
            "evaluate again with --json"
        )
    MeasurementProtocol.from_json(value[KEY])
    if not _is_complete(value):
        raise ConfigError(
            f"expected every number of `refineseg evaluate --json` in {path}, got some that are missing or of another "
            "kind: evaluate again with --json"
        )
    return value


def _is_complete(value: Mapping[str, Any]) -> bool:
    """Whether everything that :func:`against_table` reads has its form."""
    classes, boundary = value.get("per_class"), value.get("boundary", {})
    return (
        all(_is_share(value.get(key)) for _, key in _MEANS)
        and isinstance(classes, dict)
        and all(isinstance(row, dict) and _is_share(row.get("iou")) for row in classes.values())
        and isinstance(boundary, dict)
        and _is_share(boundary.get("mean_iou"))
        and isinstance(value.get("data_mark", ""), str)
    )


def _is_share(value: object) -> bool:
    return value is None or type(value) in (int, float)


def against_table(result: Mapping[str, Any], other: Mapping[str, Any], *, name: str) -> tuple[Table, Differences]:
    """Two results beside each other.

    Args:
        result: Result of this evaluation, as its JSON.
        other: As :func:`read_result` gives it.
        name: Name of the other result, for the head of its column.

    Returns:
        The table, and what differs between the protocols; where anything does, its last column says so.
    """
    differences = MeasurementProtocol.from_json(result[KEY]).differences(MeasurementProtocol.from_json(other[KEY]))
    marks = [side.get("data_mark") for side in (result, other)]
    caption = str(differences) + (
        "; the files that were measured on differ" if all(marks) and len({*marks}) > 1 else ""
    )
    table = Table(title=f"this result and {name}", caption=caption, caption_style="dim")
    columns = ("", "this, %", "other, %", "difference" if differences.equal else Text("difference\n(unlike protocols)"))
    for column in columns:
        table.add_column(column, justify="right" if column else "left")
    for label, mine, theirs in _pairs(result, other):
        cells = ["-" if value is None else f"{100 * value:.2f}" for value in (mine, theirs)]
        change = "-" if mine is None or theirs is None else f"{100 * (mine - theirs):+.2f}"
        table.add_row(label, *cells, change)
    return table, differences


def _pairs(result: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple[str, float | None, float | None]]:
    """Every number that either has, by its name."""
    pairs = [(label, result.get(key), other.get(key)) for label, key in _MEANS]
    mine, theirs = result.get("boundary") or {}, other.get("boundary") or {}
    if mine or theirs:
        pairs.append(("boundary IoU", mine.get("mean_iou"), theirs.get("mean_iou")))
    classes = dict.fromkeys([*result["per_class"], *other["per_class"]])
    for name in classes:
        of_class = [(side["per_class"].get(name) or {}).get("iou") for side in (result, other)]
        pairs.append((f"IoU of {short(name)}", of_class[0], of_class[1]))
    return pairs
