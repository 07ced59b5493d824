"""Names with accents, which some systems keep apart from their letters (Unicode's form NFD), and others do not (NFC).

In: a name as a list has it. Out: one form for comparisons, or the file that is there.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path

from refineseg.files.archives import is_file


def composed(name: str) -> str:
    """A name in the form NFC, for comparisons."""
    return unicodedata.normalize("NFC", name)


def in_either_form(path: Path) -> Path:
    """The path; where no such file is there but one whose name has the other form, that one's.

    Args:
        path: Path of a file that a list names; its folder is written as it lies.
    """
    if path.name.isascii() or is_file(path):
        return path
    others = (path.with_name(unicodedata.normalize(form, path.name)) for form in ("NFC", "NFD"))
    return next((other for other in others if is_file(other)), path)
