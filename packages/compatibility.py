"""Runs the built wheels with the oldest and the newest packages that the ranges of pyproject.toml admit.

    ./dev python packages/compatibility.py                      every row; those in docs/compatibility.json are replaced
    ./dev python packages/compatibility.py 3.12-oldest          these rows
    ./dev python packages/compatibility.py --table              the page's table again, from the file

A row is an empty environment for one Python. It gets a wheel that is built from the committed files, not the sources.
Rows without extras run whole commands on drawn pictures, and ask for what an extra would bring. Rows with the extra
`test` run a part of the quick tests. Pythons are looked for on PATH (python3.11, ...). uv resolves and installs; its
own variables (UV_...) apply. Each environment takes up to 8 GB of disk until its row ends.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from release import ROOT, ReleaseError, build, environment, run, unpack_committed

RESULTS = ROOT / "docs" / "compatibility.json"
PAGE = ROOT / "docs" / "compatibility.md"
TESTS = ("tests/networks", "tests/net", "tests/cli", "-k", "not test_maxvit and not test_coatnet")
"""A part of the quick tests that looks for no sources; old versions of timm have not these two tiny networks."""
SHOWN = ("torch", "torchvision", "timm", "numpy", "pillow", "lightning", "typer")
"""Packages whose versions the table has; the file has those of all direct requirements."""

_RESOLUTION = {"oldest": "lowest-direct", "newest": "highest", "cpu": "highest"}


@dataclass(frozen=True)
class Row:
    """One environment.

    Args:
        python: Python, as 3.11.
        packages: Versions: oldest, newest, or cpu (newest, with PyTorch's wheels for processors).
        extra: Extra of refineseg that is installed; empty: none.
    """

    python: str
    packages: str
    extra: str = ""

    @property
    def name(self) -> str:
        """Key in the file, and argument of the command."""
        return "-".join(filter(None, (self.python, self.packages, self.extra)))

    @property
    def backend(self) -> tuple[str, ...]:
        """Option of uv that names PyTorch's index of wheels for processors."""
        return ("--torch-backend", "cpu") if self.packages == "cpu" else ()


ROWS = (
    *(Row(python, packages) for python in ("3.11", "3.12", "3.13", "3.14") for packages in ("oldest", "newest")),
    Row("3.11", "cpu"),
    Row("3.11", "oldest", "test"),
    Row("3.13", "newest", "test"),
)


def find_python(version: str) -> str | None:
    """Path of a Python, or None where there is none."""
    found = shutil.which(f"python{version}")
    if found is None:
        return None
    done = subprocess.run([found, "--version"], capture_output=True, text=True, check=False)  # shims may lead nowhere
    return found if done.stdout.startswith(f"Python {version}.") else None


def draw(folder: Path) -> None:
    """A data set of six pictures with a rectangle each, and files of kinds that need an extra."""
    for kind in ("images", "masks"):
        (folder / "shapes" / kind).mkdir(parents=True)
    for index in range(6):
        picture, mask = Image.new("RGB", (96, 80), (40, 90, 160)), Image.new("L", (96, 80), 0)
        box = (8 * index, 10, 8 * index + 40, 60)
        ImageDraw.Draw(picture).rectangle(box, fill=(200, 60, 50))
        ImageDraw.Draw(mask).rectangle(box, fill=1)
        picture.save(folder / f"shapes/images/{index}.png")
        mask.save(folder / f"shapes/masks/{index}.png")
    (folder / "film.mp4").write_bytes(bytes(100))


MODEL = "--model run/last.safetensors --device cpu"
WORKS = (
    "--help",
    "models",
    "datasets",
    "train --data folder:shapes --out run --epochs 1 --device cpu",
    f"evaluate --data folder:shapes --split train --json numbers.json {MODEL}",
    f"predict shapes/images --out masks {MODEL}",
    "export --format torch --out model.pt2 --model run/last.safetensors",
    "predict shapes/images --out again --model model.pt2 --device cpu",
)
REFUSED = {  # command -> extra that its one message names
    "predict shapes/images/0.png --out no": "weights",
    f"predict film.mp4 --out no {MODEL}": "video",
    f"predict shapes/images/0.png --out no --save polygons {MODEL}": "vectors",
    f"predict shapes/images/0.png --out no --backend openvino {MODEL}": "openvino",
    f"predict shapes/images/0.png --out no --backend onnxruntime {MODEL}": "onnx",
    f"predict shapes/images --out no --engine ray {MODEL}": "ray",
    "export --out no.onnx --model run/last.safetensors": "onnx",
    "export --format openvino --out no.xml --model run/last.safetensors": "openvino",
    "serve --model run/last.safetensors": "serve",
    f"evaluate --data folder:s3://bucket/pictures {MODEL}": "remote",
    "train --data folder:shapes --out no --log tensorboard": "tensorboard",
    "train --data folder:shapes --out no --log mlflow": "mlflow",
    "train --data folder:shapes --out no --log wandb": "wandb",
    "train --data folder:shapes --out no --variant refineseg_lite1 --pretrained": "encoders",
}


_IN_ONE_PROCESS = """
import contextlib, io, json, sys
from refineseg.cli import main
ended = []
for words in sys.argv[1:]:
    said = io.StringIO()
    sys.argv = ["refineseg", *words.split()]
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            status = main()
        except SystemExit as end:
            status = end.code
    ended.append((status, said.getvalue()))
print(json.dumps(ended))
"""
"""Command lines in a row; prints status and output of each. A process for each would load PyTorch as often."""


def fault_of_refusal(status: int, said: str, extra: str) -> str | None:
    """What is wrong with a command that should name an extra; None: nothing.

    Args:
        status: Exit status of the command.
        said: Everything that it printed.
        extra: The extra.
    """
    if status not in (1, 2) or "Traceback" in said:
        return f"expected a message and status 1 or 2, got status {status}:\n{said}"
    if len(re.findall("but it is not installed", said)) != 1 or f"'refineseg[{extra}]'" not in said:
        return f"expected one message that names refineseg[{extra}], got:\n{said}"
    return None


def check_commands(python: Path, work: Path) -> None:
    """Whole commands in an environment without extras.

    Raises:
        ReleaseError: One did not do what it should.
    """
    draw(work)
    env = {"PATH": f"{python.parent}:{os.defpath}", "HOME": str(work), "COLUMNS": "200"}

    def call(words: str) -> tuple[int, str]:
        command = [python.parent / "refineseg", *words.split()]
        done = subprocess.run(command, cwd=work, env=env, capture_output=True, text=True, timeout=600, check=False)
        return done.returncode, done.stdout + done.stderr

    for words in WORKS:
        status, said = call(words)
        if status or "Warning" in said:
            raise ReleaseError(f"expected status 0 and no warning of refineseg {words}, got {status}:\n{said}")
    for folder in ("masks", "again"):
        for path in (work / "shapes/images").iterdir():
            with Image.open(work / folder / path.name) as mask:
                if mask.size != (96, 80) or not {value for _, value in mask.getcolors() or [(0, 255)]} <= {0, 1}:
                    raise ReleaseError(
                        f"expected a mask of 96x80 with the values 0 and 1, got another {folder}/{path.name}"
                    )
    if not 0 <= json.loads((work / "numbers.json").read_text(encoding="utf-8"))["mean_iou"] <= 1:
        raise ReleaseError("expected a mean IoU in numbers.json, got none")
    ended = json.loads(run(python, "-c", _IN_ONE_PROCESS, *REFUSED, cwd=work, env=env))
    faults = [
        f"refineseg {words}: {fault}"
        for (words, extra), (status, said) in zip(REFUSED.items(), ended, strict=True)
        if (fault := fault_of_refusal(status, said, extra)) is not None
    ]
    if faults:
        raise ReleaseError("\n".join(faults))


def check_tests(python: Path, source: Path) -> None:
    """A part of the quick tests, with the installed package.

    Raises:
        ReleaseError: One failed.
    """
    env = {**os.environ, "PATH": f"{python.parent}:{os.environ['PATH']}"}
    env.pop("PYTHONPATH", None)
    # old packages warn of what new ones deprecate, so that only the pinned versions have warnings as errors
    run(python, "-m", "pytest", "-q", "-n", "2", "-W", "default", *TESTS, cwd=source, env=env)


def megabytes(folder: Path) -> int:
    """What a folder takes on disk, in MB of 10^6 bytes."""
    return sum(path.lstat().st_blocks for path in folder.rglob("*")) * 512 // 10**6


def requirements(row: Row, uv: Path, python: Path) -> str:
    """Lines name==version of everything that the row installs."""
    resolution = ("--resolution", _RESOLUTION[row.packages], "--only-binary", ":all:", *row.backend)
    extra = ("--extra", row.extra) if row.extra else ()
    command = (uv, "pip", "compile", "-q", ROOT / "pyproject.toml", *resolution, "--python", python, *extra)
    return run(*command, "--no-annotate", "--no-header", "--no-emit-index-url")


def try_row(row: Row, place: Path, wheels: list[Path], uv: Path) -> dict[str, Any]:
    """What came of a row, as the file has it."""
    maker = find_python(row.python)
    if maker is None:
        return {"result": "not run", "reason": f"no Python {row.python} here"}
    env, work = place / "env", place / "work"
    python = env / "bin" / "python"
    start = time.monotonic()
    found: dict[str, Any] = {"date": datetime.date.today().isoformat()}
    try:
        run(uv, "venv", "-q", "--python", maker, env)
        pinned = place / "versions.txt"
        try:
            pinned.write_text(requirements(row, uv, python), encoding="utf-8")
        except ReleaseError as error:
            if not row.backend:
                raise
            print(error, file=sys.stderr)
            return {"result": "not run", "reason": "PyTorch's index of wheels for processors did not answer"}
        needed = wheels if row.extra else [path for path in wheels if not path.name.startswith("refineseg_weights")]
        run(uv, "pip", "install", "-q", "--python", python, *row.backend, "-r", pinned, *needed)
        listed = json.loads(run(uv, "pip", "list", "-q", "--python", python, "--format", "json"))
        versions = {entry["name"]: entry["version"] for entry in listed}
        found |= {
            "python": run(python, "-c", "import platform; print(platform.python_version())").strip(),
            "packages": {name: versions[name] for name in direct_requirements()},
            "installed_in_s": round(time.monotonic() - start),
            "environment_mb": megabytes(env),
        }
        start = time.monotonic()
        if row.extra:
            unpack_committed(ROOT, work)
            shutil.rmtree(work / "src")  # the installed package is what the tests import
            check_tests(python, work)
        else:
            check_commands(python, work)
        return {"result": "passed", **found, "checked_in_s": round(time.monotonic() - start)}
    except (ReleaseError, subprocess.TimeoutExpired) as error:
        print(error, file=sys.stderr)
        return {"result": "failed", **found}
    finally:
        shutil.rmtree(env, ignore_errors=True)
        shutil.rmtree(work, ignore_errors=True)


def direct_requirements() -> dict[str, str]:
    """Names of what the package needs without extras -> the oldest version that its range admits."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return dict(re.findall(r"([\w-]+)>=([\d.]+)", " ".join(project["dependencies"])))


def table(results: dict[str, dict[str, Any]]) -> str:
    """The page's table."""
    lines = [["Python", "packages", "extras", "result", *SHOWN, "environment"], ["---"] * 12]
    for row in ROWS:
        found = results.get(row.name, {"result": "not run"})
        versions = [found.get("packages", {}).get(name, "") for name in SHOWN]
        size = f"{found['environment_mb'] / 1000:.1f} GB" if "environment_mb" in found else ""
        python = found.get("python", row.python)
        lines.append([python, row.packages, row.extra or "none", found["result"], *versions, size])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def with_table(page: str, results: dict[str, dict[str, Any]]) -> str:
    """The page with the table of these results in place of its own."""
    return re.sub(r"^\| Python \|.*\n(\|.*\n)+", lambda _: table(results), page, flags=re.M)


def machine() -> str:
    """Processors and system, for the file."""
    return f"{os.cpu_count()} processors ({platform.machine()}), {platform.system()}, no GPU used"


def try_rows(rows: list[Row], tell: Callable[[str], None]) -> bool:
    """Try rows, and write the file after each; whether none failed."""
    kept = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"] if RESULTS.is_file() else {}
    with tempfile.TemporaryDirectory(prefix="compatibility") as temporary:
        place = Path(temporary)
        unpack_committed(ROOT, place / "source")
        tools = environment(place / "tools", "build", "hatchling", "uv")
        wheels = [path for path in build(place / "source", tools, place / "dist") if path.suffix == ".whl"]
        for row in rows:
            kept[row.name] = try_row(row, place, wheels, tools.parent / "uv")
            tell(f"{row.name}: {kept[row.name]['result']}")
            command = "./dev python packages/compatibility.py"
            ordered = {each.name: kept[each.name] for each in ROWS if each.name in kept}
            text = json.dumps({"command": command, "machine": machine(), "tests": TESTS, "rows": ordered}, indent=2)
            RESULTS.write_text(f"{text}\n", encoding="utf-8")
    return all(kept[row.name]["result"] != "failed" for row in rows)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"by default all of: {', '.join(r.name for r in ROWS)}")
    parser.add_argument(
        "--table", action="store_true", help="write the table of docs/compatibility.md, and try nothing"
    )
    given = parser.parse_args()
    by_name = {row.name: row for row in ROWS}
    unknown = [name for name in given.rows if name not in by_name]
    if unknown:
        parser.error(f"expected rows of {', '.join(by_name)}, got {', '.join(unknown)}")
    passed = True
    if not given.table:
        wanted = [by_name[name] for name in given.rows or by_name]
        passed = try_rows(wanted, lambda text: print(text, flush=True))
    results = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), results), encoding="utf-8")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
