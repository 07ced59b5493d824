"""Names of inputs and of what is written for them: one result's name for one input's name, whatever is in it.

In: keys, relative paths with ``/``. Out: keys of outputs, hashes.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass

from refineseg.errors import ConfigError
from refineseg.images.files import IMAGE_SUFFIXES

_LONGEST_PART = 200  # bytes of a name between two slashes; file systems take 255, with the ending of the result
_ESCAPED = re.compile(r"[%\x00-\x1f\x7f\\:]")


def output_key(key: str) -> str:
    r"""What the keys of an input's results begin with; different inputs give different ones.

    The input's own ending stays, so that ``a.jpg`` and ``a.png`` are told apart. ``%``, control characters, ``\`` and
    ``:`` become ``%XX``, parts that are no file names (empty, ``.``, ``..``) become ``%``, ``%2E`` and ``%2E%2E``, and
    of a part with more than 200 bytes a hash stands for the end.

    Example:
        >>> output_key("a b/ä.jpg"), output_key("../100%.png"), output_key("x//y.png")
        ('a b/ä.jpg', '%2E%2E/100%25.png', 'x/%/y.png')
    """
    return "/".join(map(_part, key.split("/")))


def _part(part: str) -> str:
    if part in ("", ".", ".."):
        return part.replace(".", "%2E") or "%"
    escaped = _ESCAPED.sub(lambda found: f"%{ord(found[0]):02X}", part)
    if len(escaped.encode()) <= _LONGEST_PART:
        return escaped
    kept = escaped.encode()[: _LONGEST_PART - 40].decode(errors="ignore")
    return f"{kept}%~{hashlib.blake2b(part.encode(), digest_size=16).hexdigest()}"  # no % of above has a ~ behind


def key_hash(key: str) -> bytes:
    """Sixteen bytes that stand for a key: among 10^9 keys, two are equal with a chance of 10^-21."""
    return hashlib.blake2b(key.encode(), digest_size=16).digest()


def short_hash(*values: object) -> int:
    """Eight bytes that change with any of the values."""
    return int.from_bytes(hashlib.blake2b(repr(values).encode(), digest_size=8).digest(), "little")


def is_hidden(key: str) -> bool:
    """Whether a part of a key begins with a dot, as in ``predict FOLDER``; ``.`` and ``..`` are no such parts."""
    return any(part.startswith(".") and part not in (".", "..") for part in key.split("/"))


@dataclass(frozen=True)
class Part:
    """Which of several processes this is; together they take every input once.

    A key's hash says whose it is, so a process that is started again has the same ones, also where others were added.

    Args:
        index: Number of the process, from 1 on.
        count: Number of processes.

    Raises:
        ConfigError: No such part.

    Example:
        >>> str(Part.parse("2/8"))
        '2/8'
    """

    index: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise ConfigError(
                f"expected a part I/N with I from 1 to N, got {self.index}/{self.count}; count from 1, for instance "
                "sbatch --array=1-8 and --part $SLURM_ARRAY_TASK_ID/8"
            )

    @classmethod
    def parse(cls, text: str) -> Part:
        """From the words of the command line.

        Raises:
            ConfigError: No such part.
        """
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        if found is None:
            raise ConfigError(f"expected a part as I/N, for instance 2/8, got {text!r}")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def has(self, hashed: bytes) -> bool:
        """Whether an input is of this part."""
        return int.from_bytes(hashed[:8], "big") % self.count == self.index - 1


def is_nested(one: str, other: str) -> bool:
    """Whether one of two folders or addresses is the other, or lies in it."""
    first, second = (_real(text) + "/" for text in (one, other))
    return first.startswith(second) or second.startswith(first)


def _real(text: str) -> str:
    return text.rstrip("/") if "://" in text else os.path.realpath(text).rstrip("/")


@dataclass
class Listed:
    """What was found.

    Args:
        inputs: Number of images of this part.
        kept: Number of images whose row holds.
        failed: Number of those whose row is a failure.
        others: Number of names that are no images.
    """

    inputs: int = 0
    kept: int = 0
    failed: int = 0
    others: int = 0


def is_image(key: str) -> bool:
    """Whether a key is taken for an image."""
    return key.lower().endswith(IMAGE_SUFFIXES) and not is_hidden(key)


def is_text(key: str) -> bool:
    """Whether a name can be written as UTF-8; some of a Linux disk cannot."""
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return True
