"""The blocks of a model card, which are written anew each time; every other word of the card is kept.

In: the text of a card. Out: the same with new blocks.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from refineseg.errors import ConfigError
from refineseg.files.archives import read_text
from refineseg.files.special import has_file

BLOCKS = ("facts", "results", "published", "curves", "failures")
_BLOCK = re.compile(r"<!-- made: (\w+) -->\r?\n.*?<!-- end: \1 -->", re.DOTALL)
_MARK = re.compile(r"<!-- *(?:made|end)\b")


def check_card(path: Path) -> None:
    """Look at a card that may be there already, before hours are spent on its numbers.

    Args:
        path: Path of the card; it need not exist.

    Raises:
        ConfigError: It is a folder, has no block, one of another name, or one without its end.
        DatasetError: It is no text.
    """
    if path.is_dir():
        raise ConfigError(f"expected a file for the card, got {path}, which is a folder; move it away, or use --card")
    if has_file(path):
        _check_names(read_text(path), BLOCKS)


def _check_names(text: str, known: Collection[str]) -> None:
    names = [match[1] for match in _BLOCK.finditer(text)]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ConfigError(
            f"expected a card with blocks <!-- made: NAME --> ... <!-- end: NAME -->, NAME of {', '.join(known)}, got "
            f"{', '.join(unknown) or 'none'}; add them, or write the card to another file"
        )
    if len(_MARK.findall(text)) != 2 * len(names):
        raise ConfigError(
            "expected every block of the card between <!-- made: NAME --> and <!-- end: NAME --> of one name, got a "
            "mark without its partner; mend it, or write the card to another file"
        )


def fill(text: str, blocks: Mapping[str, str]) -> str:
    """A card with its blocks written anew.

    Args:
        text: The card; blocks may stand in any order, and some may be left out.
        blocks: Name -> Markdown.

    Raises:
        ConfigError: The card has no block, one of another name, or one without its end.

    Example:
        >>> print(fill("by hand <!-- made: facts -->" + chr(10) + "old<!-- end: facts --> kept", {"facts": "new"}))
        by hand <!-- made: facts -->
        new
        <!-- end: facts --> kept
    """
    _check_names(text, blocks)
    end = "\r\n" if "\r\n" in text else "\n"

    def block(match: re.Match[str]) -> str:
        made = f"<!-- made: {match[1]} -->\n{blocks[match[1]].strip()}\n<!-- end: {match[1]} -->"
        return made.replace("\n", end)

    return _BLOCK.sub(block, text)
