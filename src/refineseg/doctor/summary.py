"""An examination as lines of text.

In: an :class:`~refineseg.doctor.examination.Examination`. Out: lines for
:func:`~refineseg.terminal.printing.print_lines`.
"""

from __future__ import annotations

from itertools import islice

from refineseg.doctor.examination import Examination
from refineseg.doctor.findings import Finding
from refineseg.terminal.printing import loudness, summed_up

_SHOWN = 5


def summary_lines(examination: Examination) -> list[str]:
    """Findings with the first few files, and a last line of totals."""
    lines = summed_up([f"note: {note}" for note in examination.inventory.notes])
    for finding in examination.findings:
        lines += finding_lines(finding)
    samples = examination.samples()
    where = f"{sum(samples.values())} samples ({', '.join(f'{split} {count}' for split, count in samples.items())})"
    severities = [finding.severity for finding in examination.findings]
    totals = [
        f"{severities.count(severity)} {severity}{'s' * (severities.count(severity) != 1)}"
        for severity in ("error", "warning", "note")
        if severity in severities
    ]
    lines.append(f"{', '.join(totals) or 'no findings'} in {where if samples else 'no sample'}")
    return lines


def finding_lines(finding: Finding) -> list[str]:
    """What, where and what to do, in three lines and one for each of the first files."""
    many = f" ({finding.count})" if finding.count > 1 else ""
    lines = [f"{finding.severity}: {finding.kind}{many}: {finding.meaning}"]
    most = len(finding.details) if loudness() == "verbose" else _SHOWN
    for name, detail in islice(finding.details.items(), most):
        lines.append(f"  {name}" + (f": {_one_line(detail)}" if detail != finding.action else ""))
    if len(finding.details) > most:
        lines.append(f"  and {len(finding.details) - most} more; -v shows them all")
    first, *more = finding.action.split("\n")  # line breaks in names are escaped there
    return [*lines, f"  -> {first}", *(f"     {line}" for line in more)]


def _one_line(message: str) -> str:
    return " ".join(message.split())
