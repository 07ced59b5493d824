"""Sequences of frames that are divided over splits, by the names of their files.

In: names, such as ``0016E5_07959``: what stands before the last number is the sequence, the number is the frame. Out:
one finding with the frames on both sides of each border.

Numbers alone do not make a sequence: most collections of photographs are numbered, too. A divided one is reported where
something else speaks for frames: the numbers go in regular steps greater than one (30 fps kept once a second), the name
says so (``seq``, ``video``, ``clip`` ...), or neighbouring numbers look alike.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from statistics import median

import numpy as np
from numpy.typing import NDArray

from refineseg.data.checks.kinds import KINDS
from refineseg.doctor.duplicates import correlation
from refineseg.doctor.findings import Finding

CLOSE = 10.0
"""Frames of different splits are close where they are at most so many usual steps apart."""

_WORDS = re.compile(r"seq|video|vid|clip|drive|scene|shot|track|take|frame|run", re.IGNORECASE)
_REGULAR = 0.8  # share of the two most frequent steps among all
_PROBES = 500  # random pairs that tell how alike any two images are
_FEWEST = 5  # neighbours that can tell whether numbering follows time


@dataclass(frozen=True)
class NumberedFrame:
    """One image of a sequence.

    Args:
        file: As it is named in findings.
        split: Where it belongs.
        name: Its path in the split without an ending.
        signature: Small copy, or None.
    """

    file: str
    split: str
    name: str
    signature: NDArray[np.uint8] | None = None


def sequence_findings(frames: Sequence[NumberedFrame]) -> list[Finding]:
    """Frames of one sequence in different splits, close to each other."""
    sequences: dict[str, list[tuple[int, NumberedFrame]]] = {}
    for frame in frames:
        match = re.fullmatch(r"(.*?)(\d+)(\D*)", frame.name, re.DOTALL)
        if match:
            sequences.setdefault(match[1] + "#" + match[3], []).append((int(match[2]), frame))
    usual = _usual_likeness(frames)
    groups: list[tuple[str, ...]] = []
    details: dict[str, str] = {}
    for key, members in sorted(sequences.items()):
        members.sort(key=lambda member: member[0])
        numbers = [number for number, _ in members]
        if len({frame.split for _, frame in members}) < 2 or len(set(numbers)) < len(numbers):
            continue  # whole, or each split counts for itself
        borders = _close_borders(members)
        if borders and _is_sequence(key, members, usual):
            groups += [(left.file, right.file) for _, left, right in borders]
            gaps = ", ".join(f"{left.split} to {right.split} {gap}" for gap, left, right in borders[:5])
            more = f" and {len(borders) - 5} more" if len(borders) > 5 else ""
            details[key.replace("#", "*")] = f"{_runs(members)}; steps between splits: {gaps}{more}"
    if not groups:
        return []
    kind = "sequence_across_splits"
    files = tuple(sorted({file for group in groups for file in group}))
    return [Finding(kind, files, len(files), KINDS[kind].action, details, tuple(groups))]


def _close_borders(members: Sequence[tuple[int, NumberedFrame]]) -> list[tuple[int, NumberedFrame, NumberedFrame]]:
    """Neighbours of different splits and their distance, where it is not much more than usual inside the splits."""
    steps: dict[str, float] = {}
    for split in {frame.split for _, frame in members}:
        numbers = [number for number, frame in members if frame.split == split]
        inside = [b - a for a, b in pairwise(numbers)]
        if inside:
            steps[split] = median(inside)
    usual = max(steps.values(), default=1.0)
    return [
        (b - a, left, right)
        for (a, left), (b, right) in pairwise(members)
        if left.split != right.split and b - a <= CLOSE * usual
    ]


def _is_sequence(key: str, members: Sequence[tuple[int, NumberedFrame]], usual: float) -> bool:
    steps = [b - a for (a, _), (b, _) in pairwise(members)]
    frequent = Counter(steps).most_common(2)
    regular = sum(count for _, count in frequent) >= _REGULAR * len(steps)
    if len(steps) >= 3 and regular and all(step > 1 for step, _ in frequent):
        return True
    if _WORDS.search(key):
        return True
    return len(steps) >= _FEWEST and _likeness([(a, b) for (_, a), (_, b) in pairwise(members)]) > usual


def _likeness(pairs: Sequence[tuple[NumberedFrame, NumberedFrame]]) -> float:
    found = [
        correlation(a.signature, b.signature) for a, b in pairs if a.signature is not None and b.signature is not None
    ]
    return median(found) if found else -1.0


def _usual_likeness(frames: Sequence[NumberedFrame]) -> float:
    """What only one in ten of random pairs exceeds."""
    seen = [frame.signature for frame in frames if frame.signature is not None]
    if len(seen) < 2:
        return 1.0
    rng = np.random.default_rng(0)
    found = [correlation(seen[i], seen[j]) for i, j in rng.integers(0, len(seen), (_PROBES, 2)).tolist() if i != j]
    return float(np.percentile(found, 90)) if found else 1.0


def _runs(members: Sequence[tuple[int, NumberedFrame]]) -> str:
    """The frames of each split, as runs in the order of the numbers."""
    runs = []
    for split, run in groupby(members, key=lambda member: member[1].split):
        numbers = [number for number, _ in run]
        runs.append(f"{split} {numbers[0]}..{numbers[-1]}" if len(numbers) > 1 else f"{split} {numbers[0]}")
    return ", ".join(runs[:8]) + (f" and {len(runs) - 8} more runs" if len(runs) > 8 else "")
