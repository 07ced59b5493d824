"""An examination as one HTML page that needs no other file and no network.

In: an examination. Out: text. Every name comes from files of somebody, so every name is escaped, and the page may load
nothing but its own pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from html import escape
from itertools import islice

import numpy as np

from refineseg._version import __version__
from refineseg.doctor.examination import Examination
from refineseg.doctor.findings import Finding
from refineseg.doctor.inventory import Case
from refineseg.doctor.pictures import image_picture, mask_picture, overlay_picture
from refineseg.terminal.printable import printable

_CASES = 4  # pictures of one finding
_SAMPLES = 8
_NAMES = 200  # names of one finding; the JSON has all
_STYLE = """
:root{color-scheme:light dark;--line:#8884;--error:#c62828;--warning:#b26a00;--note:#3367a6}
body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.2rem;margin-top:2.5rem;border-bottom:1px solid var(--line)}
table{border-collapse:collapse;width:100%}td,th{text-align:left;vertical-align:top;padding:.35rem .6rem;
border-bottom:1px solid var(--line)}
td.number{text-align:right;font-variant-numeric:tabular-nums}
.error{color:var(--error)}.warning{color:var(--warning)}.note{color:var(--note)}
.severity{font-weight:600}td>code{white-space:nowrap}li{overflow-wrap:anywhere}summary{cursor:pointer}
figure{display:inline-block;margin:.5rem 1rem .5rem 0;max-width:28rem;vertical-align:top}
figure img{max-width:100%;height:auto;border:1px solid var(--line)}
figcaption{font-size:.85rem;overflow-wrap:anywhere}
.bar{height:.8rem;border-radius:2px;border:1px solid var(--line);min-width:2px}
.shares td{padding:.2rem .6rem;vertical-align:middle}.shares td.wide{width:45%}
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def html_page(examination: Examination) -> str:
    """The page: findings, worst cases, share of each class, and samples with their masks painted over them."""
    title = f"{_text(examination.data)}: examination"
    body = "\n".join(
        part for section in (_head, _findings, _worst, _classes, _samples) for part in section(examination)
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _text(value: str) -> str:
    return escape(printable(value))


def _head(examination: Examination) -> Iterator[str]:
    yield f"<h1>{_text(examination.data)}</h1>"
    samples = examination.samples()
    where = ", ".join(f"{_text(split)} {count}" for split, count in samples.items())
    severities = [finding.severity for finding in examination.findings]
    totals = ", ".join(
        f'<span class="severity {name}">{severities.count(name)} {name}{"s" * (severities.count(name) != 1)}</span>'
        for name in ("error", "warning", "note")
        if name in severities
    )
    yield f"<p>{totals or 'no findings'} in {sum(samples.values())} samples ({where}); refineseg {__version__}</p>"
    if examination.inventory.notes:
        yield "<ul>" + "".join(f"<li>{_text(note)}</li>" for note in examination.inventory.notes) + "</ul>"


def _findings(examination: Examination) -> Iterator[str]:
    yield "<h2>Findings</h2>"
    if not examination.findings:
        yield "<p>None.</p>"
        return
    yield "<table><thead><tr><th></th><th>kind</th><th>count</th><th>what, where, what to do</th></tr></thead><tbody>"
    for finding in examination.findings:
        action = "<br>".join(map(_text, finding.action.split("\n")))
        yield (
            f'<tr><td class="severity {finding.severity}">{finding.severity}</td><td><code>{finding.kind}</code></td>'
            f'<td class="number">{finding.count}</td><td>{_text(finding.meaning)}.<br><b>{action}</b>'
            f"{_names(finding)}</td></tr>"
        )
    yield "</tbody></table>"


def _names(finding: Finding) -> str:
    """Names with what was found, folded away where they are many."""
    items = [
        f"<li><code>{_text(name)}</code>" + (f": {_text(detail)}" if detail != finding.action else "") + "</li>"
        for name, detail in islice(finding.details.items(), _NAMES)
    ]
    if len(finding.details) > _NAMES:
        items.append(f"<li>and {len(finding.details) - _NAMES} more, see the JSON file</li>")
    shown = " open" if len(items) <= _CASES else ""
    return f"<details{shown}><summary>{len(finding.details)} named</summary><ul>{''.join(items)}</ul></details>"


def _worst(examination: Examination) -> Iterator[str]:
    """Pictures of the first cases of each finding, the most fatal first."""
    by_file = {
        name: case for case in examination.inventory.cases for name in (case.shown_image, case.shown_mask) if name
    }
    sections = []
    for finding in examination.findings:
        names = [name for group in finding.groups for name in group] or finding.files
        cases = list(dict.fromkeys(by_file[name] for name in names[: 4 * _CASES] if name in by_file))[:_CASES]
        figures = [figure for case in cases for figure in _pair(case)]
        if figures:
            sections.append(f"<h3><code>{finding.kind}</code></h3>\n" + "\n".join(figures))
    if sections:
        yield "<h2>Worst cases</h2>"
        yield "<p>Images as they are shown, and masks as they are stored, each value in a colour of its own.</p>"
        yield from sections


def _pair(case: Case) -> Iterator[str]:
    kinds: Sequence[tuple[str, Callable[[Case], str | None]]] = (
        (case.shown_image, image_picture),
        (case.shown_mask, mask_picture),
    )
    for name, draw in kinds:
        address = draw(case) if name else None
        if address is not None:
            yield _figure(address, name)


def _figure(address: str, name: str) -> str:
    return f'<figure><img src="{address}" alt="{_text(name)}"><figcaption>{_text(name)}</figcaption></figure>'


def _classes(examination: Examination) -> Iterator[str]:
    counts = examination.counts
    if counts is None or not counts.total.any():
        return
    splits = [split for split in counts.pixels if counts.pixels[split].any()]
    yield "<h2>Share of each class</h2>"
    yield '<table class="shares"><thead><tr><th>class</th><th></th>'
    yield "".join(f"<th>{_text(split)}</th>" for split in splits) + "</tr></thead><tbody>"
    total = counts.total
    for i in np.argsort(-total, kind="stable").tolist():
        share = total[i] / total.sum()
        colour = "#{:02x}{:02x}{:02x}".format(*counts.class_info.palette[i])
        width = 100 * total[i] / total.max()
        yield (
            f"<tr><td>{_text(counts.class_info.names[i])}</td>"
            f'<td class="wide"><div class="bar" title="{100 * share:.3g} %" '
            f'style="width:{width:.2f}%;background:{colour}"></div></td>'
            + "".join(
                f'<td class="number">{100 * counts.pixels[split][i] / counts.pixels[split].sum():.3g} %</td>'
                for split in splits
            )
            + "</tr>"
        )
    labelled = sum(int(total.sum()) for total in counts.pixels.values())
    void = sum(counts.void.values())
    without = f" {counts.uncounted} masks with errors are not counted, or in part." if counts.uncounted else ""
    share = f"{100 * void / (labelled + void):.3g} %"
    yield f"</tbody></table><p>Of the labelled pixels; {share} of all are void.{without}</p>"


def _samples(examination: Examination) -> Iterator[str]:
    """Samples without a fault, from everywhere."""
    faulty = set(examination.faults_of)
    sound = [case for case in examination.inventory.cases if not {case.shown_image, case.shown_mask} & faulty]
    chosen = [sound[i] for i in np.linspace(0, len(sound) - 1, min(_SAMPLES, len(sound))).round().astype(int).tolist()]
    drawn = [(overlay_picture(case, examination.expected), case) for case in chosen]
    figures = [_figure(address, case.shown_image) for address, case in drawn if address is not None]
    if figures:
        yield "<h2>Samples</h2>"
        yield "<p>Without a fault, classes painted over the image.</p>"
        yield from figures
