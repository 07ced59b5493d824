"""The public names and their signatures are those of the committed list, so that no change of them goes unseen."""

import difflib
import inspect
from pathlib import Path

import refineseg

SNAPSHOT = Path(__file__).with_name("public_api.txt")


def is_ours(thing):
    return getattr(thing, "__module__", "").startswith("refineseg")


def members(cls):
    """The public members that our own classes define, each as a line."""
    found = {name: value for base in reversed(cls.__mro__) if is_ours(base) for name, value in vars(base).items()}
    for name, value in sorted(found.items()):
        if name.startswith("_"):
            continue
        value = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        yield f"    {name}{inspect.signature(value) if inspect.isfunction(value) else ''}"


def public_api():
    lines = []
    for name in sorted(refineseg.__all__):
        value = getattr(refineseg, name)
        if not callable(value):
            lines.append(f"{name}: {type(value).__name__}")
            continue
        is_error = inspect.isclass(value) and issubclass(value, Exception)  # whose signature Python does not tell
        lines.append(f"{name}{'' if is_error else inspect.signature(value)}")
        if inspect.isclass(value):
            lines += members(value)
    return "\n".join(lines) + "\n"


def test_names_and_signatures_are_the_committed_ones():
    committed, found = SNAPSHOT.read_text(encoding="utf-8"), public_api()
    changed = "\n".join(difflib.unified_diff(committed.splitlines(), found.splitlines(), lineterm="", n=0))
    assert committed == found, (
        f"the public names changed; if that is meant, read 'Deprecation' in CONTRIBUTING.md, "
        f"run python {Path(__file__).name} in tests and add a line to CHANGELOG.md:\n{changed}"
    )


if __name__ == "__main__":
    SNAPSHOT.write_text(public_api(), encoding="utf-8")
