"""The documentation site builds strictly and loads nothing from elsewhere; its links, commands and names are real."""

import ast
import inspect
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import typer
import yaml

import refineseg
from conftest import REPOSITORY
from refineseg.cli import app
from refineseg.networks.model_names import SHIPPED

DOCS = REPOSITORY / "docs"
PAGES = [*sorted(DOCS.glob("*.md")), *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md"))]
SITE = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"))
VERBS = typer.main.get_command(app).commands
GUIDES = [
    DOCS / f"{name}.md" for name in ("index", "tutorial", "commands", "train", "evaluate", "export", "migration", "faq")
]
by_name = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
by_guide = pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)


def text_of(page):
    """A page as it is shown: with the files that it includes."""
    text = page.read_text(encoding="utf-8")
    return re.sub(
        r'^--8<-- "(.+)"$', lambda match: (REPOSITORY / match[1]).read_text(encoding="utf-8"), text, flags=re.M
    )


def prose(text):
    return re.sub(r"```.*?```", "", text, flags=re.S)


def anchors(page):
    """The places of a page that a link can name, by the rule of Python-Markdown's table of contents."""
    headings = re.findall(r"^#+ (.+)$", prose(text_of(page)), re.M)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def leads_nowhere(page, link):
    path, _, anchor = link.partition("#")
    target = page.parent / path if path else page
    return not target.exists() or (anchor and anchor not in anchors(target))


@by_name
def test_every_relative_link_leads_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", prose(text_of(page)))
    relative = [link for link in links if not re.match(r"https?://", link)]
    assert [link for link in relative if leads_nowhere(page, link)] == []


def test_a_link_that_leads_nowhere_is_found():
    assert leads_nowhere(DOCS / "train.md", "gone.md")
    assert leads_nowhere(DOCS / "train.md", "data.md#gone")
    assert not leads_nowhere(DOCS / "train.md", "data.md#the-doctor")


def test_every_page_is_in_the_navigation():
    def pages(entry):
        if isinstance(entry, str):
            return [entry]
        return [page for part in (entry.values() if isinstance(entry, dict) else entry) for page in pages(part)]

    assert sorted(pages(SITE["nav"])) == sorted(path.name for path in DOCS.glob("*.md"))


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "experiments.md"], ids=lambda page: page.name)
def test_every_command_of_a_page_is_understood(page):  # the experiments show what was run then
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    lines = [line.removeprefix("./dev ") for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[:1] == ["refineseg"] and words[1:] != ["--help"]:
            VERBS[words[1]].make_context(words[1], words[2:])


@by_guide
def test_every_call_in_the_python_of_a_guide_fits_its_function(page):
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S):
        for call in (node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Call)):
            name = ast.unparse(call.func)
            if name.startswith("refineseg."):
                function = getattr(refineseg, name.removeprefix("refineseg."))
                inspect.signature(function).bind(*call.args, **{word.arg: word.value for word in call.keywords})


@by_guide
def test_every_option_that_a_guide_names_exists(page):
    known = {option for verb in VERBS.values() for p in verb.params for option in (*p.opts, *p.secondary_opts)}
    spans = re.findall(r"`([^`\n]+)`", prose(page.read_text(encoding="utf-8")))
    named = {word for span in spans for word in re.findall(r"(?<![\w-])--[a-z][\w-]*", span)}
    assert named - known - {"--help", "--version", "--install-completion"} == set()


def test_every_shipped_model_has_its_card_on_the_page_of_models():
    page = (DOCS / "models.md").read_text("utf-8")
    assert [name for name in SHIPPED if f"/refineseg_weights/{name}.md" not in page] == []


def test_every_verb_has_a_row_on_the_page_of_commands():
    rows = re.findall(r"^\| `(\w+)` \|", (DOCS / "commands.md").read_text(encoding="utf-8"), re.M)
    assert sorted(rows) == sorted(name for name, verb in VERBS.items() if not verb.hidden)


def test_every_public_name_is_on_the_page_of_the_api():
    shown = re.findall(r"heading: refineseg\.(\w+)", (DOCS / "api.md").read_text(encoding="utf-8"))
    assert sorted(shown) == sorted(set(refineseg.__all__) - {"__version__"})


def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path):
    pytest.importorskip("zensical", reason="zensical is not installed")
    for name in ("mkdocs.yml", "CHANGELOG.md"):
        shutil.copy(REPOSITORY / name, tmp_path)
    shutil.copytree(DOCS, tmp_path / "docs")
    for name in ("src", "packages"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    pages = [path.read_text(encoding="utf-8") for path in (tmp_path / SITE["site_dir"]).rglob("*.html")]
    assert len(pages) == len(list(DOCS.glob("*.md"))) + 1  # and the page of what is not found
    loaded = re.compile(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?https?:|<link\b[^>]*\bhref=[\"']?https?:")
    assert [match[0] for page in pages for match in loaded.finditer(page)] == []
    styles = [path.read_text(encoding="utf-8") for path in (tmp_path / SITE["site_dir"]).rglob("*.css")]
    assert styles
    assert not [style for style in styles if re.search(r"(@import|url\()\s*[\"']?https?:", style)]
    assert not [page for page in pages if ":class:`" in page]
