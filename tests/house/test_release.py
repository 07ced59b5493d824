"""The release command refuses what must not be published; the whole command needs minutes and an index of packages."""

import importlib.util
import io
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

from conftest import REPOSITORY

COMMAND = REPOSITORY / "packages" / "release.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("release", COMMAND)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_has_no_relative_link_after_its_links_are_made_absolute(tool):
    text = tool.absolute_links((REPOSITORY / "README.md").read_text(encoding="utf-8"), "https://host/o/r", "v1.0")
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert "https://host/o/r/raw/v1.0/docs/refinenet.svg" in links
    assert "https://host/o/r/blob/v1.0/CONTRIBUTING.md" in links
    assert [link for link in links if not link.startswith(("https://", "#"))] == []


def test_the_first_command_of_the_readme_is_found_without_its_wrapper(tool):
    found = tool.first_command((REPOSITORY / "README.md").read_text(encoding="utf-8"))
    assert found.startswith("refineseg predict .venv/lib/python3")
    assert found.endswith("china.jpg --out masks")


def test_a_version_needs_its_section_of_the_changelog_and_the_rules_need_theirs(tool, tmp_path):
    for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"):
        shutil.copy(REPOSITORY / name, tmp_path)
    version = tool.versions(REPOSITORY)["refineseg"]
    tool.check_pages(tmp_path, version, public=False)
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## 9.1\n\n## 9.2 (unreleased)\n")
    tool.check_pages(tmp_path, "9.1", public=True)
    tool.check_pages(tmp_path, "9.2.dev0", public=False)
    for wrong, message in {
        "9.2": r"in CHANGELOG\.md",
        "9.2.dev0": "expected a final version",
        "9.3": r"in CHANGELOG\.md",
    }.items():
        with pytest.raises(tool.ReleaseError, match=message):
            tool.check_pages(tmp_path, wrong, public=True)
    (tmp_path / "CONTRIBUTING.md").write_text("none")
    with pytest.raises(tool.ReleaseError, match=r"Versions and deprecation.* in CONTRIBUTING\.md"):
        tool.check_pages(tmp_path, "9.1", public=True)


METADATA = b"Metadata-Version: 2.4\nName: refineseg\nLicense-Expression: Apache-2.0\n\n"
GOOD = {"refineseg/a.py": b"a = 1\n", "refineseg-1.dist-info/METADATA": METADATA}
TRACKED = {"src/refineseg/a.py": b"a = 1\n", "src/refineseg/b.py": b""}
FAULTS = {
    "another content": ({"refineseg/a.py": b"a = 2\n"}, "refineseg/a.py is not as it is committed"),
    "a stray file": ({"refineseg/notes.txt": b""}, "refineseg/notes.txt is not a committed file"),
    "weights": ({"refineseg/w.safetensors": b""}, "refineseg/w.safetensors is a file of weights"),
    "a path": ({"refineseg-1.dist-info/RECORD": b"/home/me/x"}, "RECORD contains '/home/me', of this machine"),
    "a licence": (
        {"refineseg-1.dist-info/METADATA": METADATA.replace(b"Apache-2.0", b"MIT")},
        "its licence is MIT, not Apache-2.0",
    ),
}


def written(path, files):
    if path.suffix == ".whl":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(path, "w:gz") as archive:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize(("change", "message"), FAULTS.values(), ids=FAULTS)
def test_a_wheel_with_a_fault_is_found(tool, tmp_path, change, message):
    good = written(tmp_path / "refineseg-1-py3-none-any.whl", GOOD)
    assert list(tool.faults(good, TRACKED, (b"/home/me",))) == []
    bad = written(tmp_path / "refineseg-2-py3-none-any.whl", GOOD | change)
    assert any(message in fault for fault in tool.faults(bad, TRACKED, (b"/home/me",)))


def test_a_source_distribution_without_metadata_is_found(tool, tmp_path):
    source = written(tmp_path / "refineseg-1.tar.gz", {"refineseg-1/src/refineseg/a.py": b"a = 1\n"})
    assert list(tool.faults(source, TRACKED, ())) == ["it has no metadata"]


@pytest.mark.parametrize("words", [(), ("--url", "host/o/r"), ("--url", "https://host/o/r", "--trial")])
def test_nothing_is_published_without_an_address(words, tmp_path):
    command = [sys.executable, COMMAND, *words, "--out", tmp_path / "dist"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "expected --url https://HOST/OWNER/refineseg, or --trial" in done.stderr
    assert not (tmp_path / "dist").exists()
