"""Every path that the README and the architecture page name in backticks is there, and every link leads somewhere."""

import re

import pytest

from conftest import REPOSITORY

SOURCE = REPOSITORY / "src" / "refineseg"
PAGES = {name: (REPOSITORY / name).read_text(encoding="utf-8") for name in ("README.md", "docs/architecture.md")}
OURS = ("src", "packages", "tests", "docs", "benchmarks", *(path.name for path in SOURCE.iterdir()))
NAMES = {path.name for path in SOURCE.rglob("*") if path.suffix == ".py" or path.is_dir()}


def is_there(span):
    """Whether what stands in backticks is no path of ours, or is there: from the root, or from the package."""
    path = span.partition("::")[0]
    if not re.fullmatch(r"[\w./]+", path):
        return True
    if "/" not in path.rstrip("/"):
        return not path.endswith(("/", ".py")) or path.rstrip("/") in NAMES
    ours = path.endswith(".py") or path.split("/")[0] in OURS
    return not ours or any((place / path).exists() for place in (REPOSITORY, SOURCE))


def missing(text):
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
    return sorted({span for span in spans if not is_there(span)})


@pytest.mark.parametrize("page", PAGES)
def test_every_path_that_a_page_names_is_there(page):
    assert missing(PAGES[page]) == []
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", PAGES[page]):
        assert (REPOSITORY / page).parent.joinpath(link).exists(), link


def test_every_table_is_in_the_file_that_the_page_names():
    tables = re.findall(r"`([A-Z_]{4,})` (?:in|of) `([\w/]+\.py)`", PAGES["docs/architecture.md"])
    assert len(tables) >= 8
    for name, path in tables:
        place = next(root / path for root in (REPOSITORY, SOURCE) if (root / path).is_file())
        assert re.search(rf"^{name}\b.* = ", place.read_text(encoding="utf-8"), re.MULTILINE), (name, path)


def test_every_folder_of_the_package_has_its_place_on_the_architecture_page():
    folders = (path.name for path in SOURCE.iterdir() if path.is_dir() and path.name != "__pycache__")
    assert [name for name in folders if f"`{name}/`" not in PAGES["docs/architecture.md"]] == []


def test_a_path_that_is_gone_is_found():
    text = (
        "`networks/refinenet.py` `networks/gone.py` `gone/` `tests/gone/test_x.py::test_y` `(N, K)`\n```\n`old.py`\n```"
    )
    assert missing(text) == ["gone/", "networks/gone.py", "tests/gone/test_x.py::test_y"]
