"""Equal and almost equal images, within a split and across splits.

In: digests and signatures of all images. Out: findings.

A signature is a 16x16 copy, compared by correlation: a perceptual hash that is not rounded to bits. One matrix product
compares all pairs, those of 10 000 images in seconds, so that neither a library nor an index of hashes is needed; and
flat areas, whose bits would be chance, have no weight.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refineseg.data.checks.kinds import KINDS
from refineseg.doctor.findings import Finding
from refineseg.images.files import first_names

NEAR_CORRELATION = 0.995
"""Of the signatures of almost equal images. Copies saved as JPEG of quality 30, halved, or brighter reach 0.998; frames
of a driving car one second apart 0.92 in the median, those of a standing car 0.998."""

NEAR_LEVELS = 24.0
"""The largest difference of almost equal signatures, in grey levels, after brightness and contrast are made equal."""

_FLATTEST = 2.0  # standard deviation of grey levels below which an image cannot be told from another
_ROWS = 512  # of the product held at a time
_PAIRS = 4096  # candidates compared at a time


@dataclass(frozen=True)
class Compared:
    """An image to compare.

    Args:
        file: Its name.
        split: Where it belongs.
        digest: Digest of its pixels.
        signature: ``(16, 16, 3)`` uint8.
        classes: What tells its mask from others, to find equal images of different masks.
    """

    file: str
    split: str
    digest: bytes
    signature: NDArray[np.uint8]
    classes: tuple[tuple[int, int], ...] = ()


def duplicate_findings(images: Sequence[Compared]) -> list[Finding]:
    """Groups of equal images, and of almost equal ones that are not equal."""
    equal: dict[bytes, list[int]] = {}
    for i, image in enumerate(images):
        equal.setdefault(image.digest, []).append(i)
    groups = [group for group in equal.values() if len(group) > 1]
    firsts = [group[0] for group in equal.values()]
    near = _joined(near_pairs([images[i].signature for i in firsts]), len(firsts))
    # an image and its almost equal ones: of equal images each once
    near_groups = [[firsts[i] for i in group] for group in near]
    return [*_findings(images, groups, "duplicate"), *_findings(images, near_groups, "near_duplicate")]


def _findings(images: Sequence[Compared], groups: Iterable[Sequence[int]], kind: str) -> Iterator[Finding]:
    found: dict[str, list[list[int]]] = {f"{kind}_across_splits": [], f"{kind}_within_split": []}
    for group in groups:
        across = len({images[i].split for i in group}) > 1
        found[f"{kind}_{'across_splits' if across else 'within_split'}"].append(sorted(group))
    for name, members in found.items():
        if not members:
            continue
        named = tuple(tuple(images[i].file for i in group) for group in members)
        details = {}
        for group in members:
            differ = len({images[i].classes for i in group}) > 1 and kind == "duplicate"
            for i in group:
                others = [images[j].file for j in group if j != i]
                details[images[i].file] = f"as {first_names(others, most=3)}" + ", with another mask" * differ
        files = tuple(sorted({file for group in named for file in group}))
        yield Finding(name, files, len(files), KINDS[name].action, details, named)


def near_pairs(signatures: Sequence[NDArray[np.uint8]]) -> Iterator[tuple[int, int]]:
    """Pairs of almost equal signatures, each once; the work grows with the square of their number."""
    if not signatures:
        return
    flat = np.stack(signatures).reshape(len(signatures), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    lengths = np.sqrt((flat**2).sum(axis=1))
    usable = np.flatnonzero(lengths > _FLATTEST * np.sqrt(flat.shape[1]))
    units = flat[usable] / lengths[usable, None]
    for start in range(0, len(units), _ROWS):
        product = units[start : start + _ROWS] @ units[start:].T
        rows, columns = np.nonzero(product > NEAR_CORRELATION)
        later = columns > rows
        rows, columns = rows[later] + start, columns[later] + start
        for first in range(0, len(rows), _PAIRS):
            left, right = usable[rows[first : first + _PAIRS]], usable[columns[first : first + _PAIRS]]
            gain = (flat[left] * flat[right]).sum(axis=1) / lengths[right] ** 2
            alike = np.abs(flat[left] - gain[:, None] * flat[right]).max(axis=1) <= NEAR_LEVELS
            yield from zip(left[alike].tolist(), right[alike].tolist(), strict=True)


def _joined(pairs: Iterable[tuple[int, int]], count: int) -> list[list[int]]:
    """Groups of all that are connected by pairs."""
    parent = list(range(count))

    def top(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for left, right in pairs:
        parent[top(right)] = top(left)
    groups: dict[int, list[int]] = {}
    for i in range(count):
        groups.setdefault(top(i), []).append(i)
    return [group for group in groups.values() if len(group) > 1]


def correlation(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> float:
    """Of two signatures, -1..1; 0 where one is flat."""
    a, b = left.astype(np.float64).ravel(), right.astype(np.float64).ravel()
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 0 else 0.0
