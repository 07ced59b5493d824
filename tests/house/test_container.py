"""The container's files: a linter reads the Dockerfile, and what they promise about safety stands in them."""

import shutil
import subprocess

import pytest
import yaml

from conftest import REPOSITORY


def test_the_dockerfile_has_no_fault_that_a_linter_knows():
    hadolint = shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("no hadolint here")
    done = subprocess.run([hadolint, str(REPOSITORY / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_service_runs_without_privileges_on_a_file_system_that_it_cannot_change():
    lines = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8").splitlines()
    assert lines.index("USER 10001:10001") < next(i for i, line in enumerate(lines) if line.startswith("ENTRYPOINT"))
    assert any(line.startswith("HEALTHCHECK") for line in lines)
    stages = [line.split(" AS ")[1] for line in lines if line.startswith("FROM")]
    assert stages == ["build", "base", "cuda", "cpu"], "the last one is built by default"
    service = yaml.safe_load((REPOSITORY / "compose.yaml").read_text(encoding="utf-8"))["services"]["refineseg"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["ports"] == ["127.0.0.1:8000:8000"]
    assert "no-new-privileges:true" in service["security_opt"]


def test_the_image_gets_nothing_but_the_packages():
    ignored = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignored[0] == "*"
    assert {line for line in ignored if line.startswith("!")} == {
        "!pyproject.toml", "!constraints.txt", "!README.md", "!LICENSE", "!src", "!packages",
    }  # fmt: skip
