"""The page of Pythons and packages is what was tried, and the ranges of pyproject.toml begin where that did."""

import json
import sys

import pytest
from packaging.version import Version

from conftest import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "packages"))
import compatibility
from compatibility import ROWS, fault_of_refusal

del sys.path[0]
RESULTS = json.loads((REPOSITORY / "docs" / "compatibility.json").read_text(encoding="utf-8"))["rows"]
INSTALL = "install it with: pip install 'refineseg[onnx]'"


def test_the_table_of_the_page_is_that_of_the_file():
    page = (REPOSITORY / "docs" / "compatibility.md").read_text(encoding="utf-8")
    assert page.count(compatibility.table(RESULTS)) == 1
    assert compatibility.with_table(page.replace("passed", "unknown"), RESULTS) == page


def test_no_row_failed_and_each_has_its_versions_or_the_reason_why_it_was_not_run():
    assert RESULTS.keys() <= {row.name for row in ROWS}
    for found in RESULTS.values():
        assert (
            found["packages"]
            if found["result"] == "passed"
            else (found["result"], bool(found["reason"])) == ("not run", True)
        )


def test_the_ranges_begin_with_versions_that_were_tried():
    tried = {name: Version(version) for name, version in RESULTS["3.11-oldest"]["packages"].items()}
    assert tried == {name: Version(version) for name, version in compatibility.direct_requirements().items()}


@pytest.mark.parametrize(
    ("status", "said", "complaint"),
    [
        (2, f"refineseg: expected the package onnx, but it is not installed; {INSTALL}", None),
        (0, "results: no", "got status 0"),
        (1, f"Traceback (most recent call last):\nonnx, but it is not installed; {INSTALL}", "got status 1"),
        (2, "refineseg: expected the package onnx, but it is not installed; install 'refineseg[geo]'", "one message"),
        (2, f"but it is not installed; {INSTALL}\nbut it is not installed; {INSTALL}", "one message"),
    ],
)
def test_a_refusal_is_one_message_that_names_the_extra(status, said, complaint):
    fault = fault_of_refusal(status, said, "onnx")
    assert fault is None if complaint is None else complaint in fault


def test_a_python_that_only_seems_to_be_there_is_not_tried(tmp_path, monkeypatch):
    shim = tmp_path / "python3.14"
    shim.write_text("#!/bin/sh\necho 'no such version' >&2\nexit 127\n")
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = compatibility.try_row(compatibility.Row("3.14", "newest"), tmp_path, [], tmp_path / "uv")
    assert found == {"result": "not run", "reason": "no Python 3.14 here"}
