"""Commands in messages reach the environment that runs, with pip in it or without."""

import subprocess
import sys
from pathlib import Path

from conftest import REPOSITORY
from refineseg import errors


def python_without_pip(folder: Path) -> Path:
    """A new environment as ./dev makes it."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=120)
    return folder / "bin" / "python"


def advice(python: Path) -> str:
    code = f"import runpy; print(runpy.run_path({errors.__file__!r})['how_to_install']('refineseg[mat]'))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def test_advice_to_install_reaches_the_environment_that_runs(tmp_path):
    python = python_without_pip(tmp_path / ".venv")
    assert advice(python) == f"pip --python {python} install 'refineseg[mat]'"
    (tmp_path / "dev").touch()
    assert advice(python) == "./dev pip install 'refineseg[mat]'"


def test_dev_pip_acts_on_the_projects_environment(tmp_path):
    """A copy of the script beside an environment that is up to date: pip must tell where that one lies."""
    named = ("pyproject.toml", "packages/weights/pyproject.toml", "constraints.txt")
    (tmp_path / "packages" / "weights").mkdir(parents=True)
    for name in ("dev", *named):
        (tmp_path / name).write_bytes((REPOSITORY / name).read_bytes())
    (tmp_path / "dev").chmod(0o755)
    python_without_pip(tmp_path / ".venv")
    mark = f"cat {' '.join(named)} | cksum"
    wanted = subprocess.run(mark, shell=True, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()
    (tmp_path / ".venv" / ".installed").write_text(wanted)
    shown = subprocess.run(
        ["./dev", "pip", "inspect"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert shown.returncode == 0, shown.stderr
    assert '"installed": []' in shown.stdout, "nothing is installed in the new environment"
