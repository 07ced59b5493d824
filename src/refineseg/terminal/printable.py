r"""Foreign text made fit for a terminal: names of files and classes, licences, what files and other programs say.

In: any text. Out: one line without a character that could steer a terminal, turn the direction of writing, fake another
line, or fail to be encoded; these are written as escapes (``\x1b``, ``\n``, ``\u202e``, ``\udcff``).
"""

from __future__ import annotations

import unicodedata

_MOST = 8000  # characters of a line: several long paths in one message are still whole
_MOST_OF_NAME = 60  # of a name in a table or a picture
_KEPT = "Zs"  # wide and other spaces: Python calls them not printable, but they do no harm


def printable(text: object, *, most: int = _MOST) -> str:
    r"""One line that can be printed anywhere.

    Args:
        text: What is to be shown; anything but a text is turned into one.
        most: Characters to keep of a longer text, half of them from its end.

    Example:
        >>> print(printable("Bäume\x1b[2J [red] :smile:\n\u202egnp.\udcff"))
        Bäume\x1b[2J [red] :smile:\n\u202egnp.\udcff
        >>> printable("a" * 1000, most=20)
        'aaaaaaaaaa... (980 characters left out) ...aaaaaaaaaa'
    """
    line = str(text)
    if len(line) > most:
        half = most // 2
        line = f"{line[:half]}... ({len(line) - 2 * half} characters left out) ...{line[-half:]}"
    return line if line.isprintable() else "".join(map(_shown, line))


def short(name: object, *, most: int = _MOST_OF_NAME) -> str:
    r"""A name for a table or a picture, where there is room for little.

    Args:
        name: Name of a class, for instance.
        most: Characters of the result; a longer one ends in ``...``.

    Example:
        >>> short("sky"), short("s" * 10**6, most=8), short("a\nb")
        ('sky', 'sssss...', 'a\\nb')
    """
    line = printable(str(name)[: most + 1])
    return line if len(line) <= most else line[: most - 3] + "..."


def _shown(character: str) -> str:
    if character.isprintable() or unicodedata.category(character) == _KEPT:
        return character
    return character.encode("unicode_escape").decode("ascii")


def duration(seconds: float) -> str:
    """Seconds as a person says them.

    Example:
        >>> duration(8.25), duration(200.0), duration(7500.0)
        ('8.2 s', '3 min 20 s', '2 h 5 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
