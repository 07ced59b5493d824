"""How single faults become findings.

In: faults of single files. Out: :class:`Finding`, one for each kind and remedy, with all its files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from refineseg.data.checks.kinds import KINDS, Fault, Severity
from refineseg.errors import RefinesegError
from refineseg.terminal.printable import printable


@dataclass(frozen=True)
class Finding:
    """What is wrong, with which files, and what to do.

    Args:
        kind: A key of :data:`KINDS`.
        files: All files concerned, relative to the root; none where it concerns classes or the whole data set.
        count: How many files; where there are none, how many classes or messages.
        action: The one thing to do.
        details: What was found, for each file, class or sequence.
        groups: Files that belong together: duplicates, and frames on both sides of a border.
    """

    kind: str
    files: tuple[str, ...]
    count: int
    action: str
    details: Mapping[str, str] = field(default_factory=dict)
    groups: tuple[tuple[str, ...], ...] = ()

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        return KINDS[self.kind].severity

    @property
    def meaning(self) -> str:
        """What is wrong, in words."""
        return KINDS[self.kind].meaning

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        value: dict[str, Any] = {
            "kind": self.kind,
            "severity": self.severity,
            "files": list(self.files),
            "count": self.count,
            "action": self.action,
            "meaning": self.meaning,
            "details": dict(self.details),
        }
        return value | ({"groups": [list(group) for group in self.groups]} if self.groups else {})


def refusal(name: str, error: RefinesegError, kind: str = "refused") -> Fault:
    """What a reader says, as a fault; of several lines where the error has them.

    Args:
        name: The split, file or root.
        error: What was raised.
        kind: A key of :data:`KINDS`.
    """
    text = "\n".join(map(printable, error.args))
    return Fault(kind, name, text, text, whole=kind == "refused")


def grouped(faults: Iterable[Fault]) -> list[Finding]:
    """One finding for each kind and action, files in the order of their names.

    Example:
        >>> [found] = grouped([Fault("void_mask", "b.png", "4 pixels"), Fault("void_mask", "a.png", "9 pixels")])
        >>> found.files, found.count, found.severity
        (('a.png', 'b.png'), 2, 'warning')
    """
    groups: dict[tuple[str, str], dict[str, Fault]] = {}
    for fault in faults:
        action = fault.action or KINDS[fault.kind].action
        groups.setdefault((fault.kind, action), {})[fault.file] = fault
    findings = []
    for (kind, action), members in groups.items():
        names = sorted(members)
        files = tuple(name for name in names if not members[name].whole)
        findings.append(Finding(kind, files, len(names), action, {name: members[name].detail for name in names}))
    return findings


def in_order(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Errors first, then warnings, then notes; within them as in :data:`KINDS`."""
    kinds, severities = list(KINDS), ("error", "warning", "note")
    return tuple(sorted(findings, key=lambda found: (severities.index(found.severity), kinds.index(found.kind))))
