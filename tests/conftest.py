"""Shared by all tests: where the real data lie, the command line, a small model, tiny data sets, and calm threads."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image

if TYPE_CHECKING:  # imported here, the package would miss the checks of shapes that pytest adds to it later
    from refineseg.class_info import ClassInfo
    from refineseg.segmenter import Segmenter

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("REFINESEG_SHARED", REPOSITORY.parent / "shared"))


def pytest_configure() -> None:
    os.environ.pop("PYTHONUNBUFFERED", None)  # programs that tests start write as they do for a user
    if "PYTEST_XDIST_WORKER" in os.environ:  # several workers share the cores
        torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """``slow_except("a", "b")``: of the cases of a test, those with these ids are quick enough for every run."""
    for item in items:
        for mark in item.iter_markers("slow_except"):
            case = item.callspec.id if isinstance(item, pytest.Function) else ""
            if case not in mark.args:
                item.add_marker(pytest.mark.slow)


EXPECTED_SKIPS = {  # beginning of a skip's reason -> where that is so; a run of CI with any other skip fails
    "no CUDA device here": "on every machine without a graphics card",
    "no network namespaces here": "where they are not permitted, or there is no `ip`",
    "no Chromium here": "where none is installed and none can be; .ci/run tries",
    "the superuser reads every file": "where the tests run as root",
    "an administrator may write everywhere": "where the tests run as root",
}


def unexpected_skips(terminal: pytest.TerminalReporter) -> list[str]:
    """The skips that no entry of the table explains: reason and place, each once."""
    found = set()
    for report in terminal.stats.get("skipped", []):
        path, line, reason = report.longrepr
        reason = reason.removeprefix("Skipped: ")
        if not reason.startswith(tuple(EXPECTED_SKIPS)):
            found.add(f"{reason} ({Path(path).name}:{line})")
    return sorted(found)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI, where everything is installed and the shared data lie beside the checkout, a skip hides a failure."""
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    strict = os.environ.get("CI") == "true" and SHARED.is_dir() and "PYTEST_XDIST_WORKER" not in os.environ
    if strict and terminal and session.exitstatus == pytest.ExitCode.OK and unexpected_skips(terminal):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if skips := unexpected_skips(terminalreporter):
        terminalreporter.section("unexpected skips: add the cause to CI, or the reason to tests/conftest.py")
        for skip in skips:
            terminalreporter.line(skip)


class Called(NamedTuple):
    """What a call of the command line gave."""

    status: int
    out: str
    err: str


def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> Called:
    """``refineseg ...`` in this process: a process of its own would spend five seconds on imports."""
    from refineseg import cli

    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["refineseg", *map(str, arguments)])
        patch.setenv("COLUMNS", "200")
        status = 0
        try:
            cli.main()
        except SystemExit as end:
            status = int(end.code or 0)
    return Called(status, *capsys.readouterr())


@pytest.fixture
def refineseg(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Called]:
    """The command line: ``refineseg("predict", ...)`` gives exit status, stdout and stderr."""
    return lambda *arguments: call(monkeypatch, capsys, *arguments)


def imported_by_a_prediction(tmp_path: Path, model: object) -> set[str]:
    """What the command line has imported when it has predicted a photograph."""
    Image.new("RGB", (48, 40), (90, 120, 30)).save(tmp_path / "photo.png")
    code = (
        "import sys, refineseg.cli\n"
        "try: refineseg.cli.main()\n"
        "except SystemExit as done: assert done.code == 0\n"
        "print(*sys.modules)"
    )
    call = ["predict", str(tmp_path / "photo.png"), "--model", str(model), "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", code, *call], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "photo.png").is_file()
    return set(done.stdout.splitlines()[-1].split())


def untrained(path: Path, class_info: ClassInfo, *, seed: int = 1) -> str:
    """Write an untrained model file of the smallest network; gives its path as text."""
    from refineseg.preprocessing import Preprocessing
    from refineseg.segmenter import ModelSpec, Segmenter

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        Segmenter(ModelSpec("refineseg_nano", class_info, Preprocessing.imagenet())).save(path)
    return str(path)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An untrained model file of the classes of :func:`write_folder`, in its colours; nobody may change it."""
    from refineseg.class_info import ClassInfo

    info = ClassInfo(("ground", "sky", "square"), ((60, 70, 50), (150, 190, 240), (220, 40, 40)))
    return untrained(tmp_path_factory.mktemp("model") / "tiny.safetensors", info)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Segmenter, dict[str, Path]]:
    """The network of :func:`fakes.exports.tiny` and its files by format; nobody may change them.

    Tracing takes many seconds, so workers share them.
    """
    from fakes.exports import exported_files, tiny

    folder = tmp_path_factory.getbasetemp() / "exported"
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = tmp_path_factory.getbasetemp().parent / "exported"
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            exported_files(tmp_path_factory.mktemp("exporting")).rename(folder)
    return tiny(), {"onnx": folder / "net.onnx", "openvino": folder / "net.xml", "torch": folder / "net.pt2"}


@pytest.fixture(scope="session")
def camvid_root() -> Path:
    root = SHARED / "camvid"
    if not (root / "train.txt").is_file():
        pytest.skip(f"the real CamVid is absent: {root}")
    return root


def write_folder(root: Path, *, splits: dict[str, int], size: tuple[int, int] = (48, 64), seed: int = 0) -> Path:
    """A learnable data set: dark ground below bright sky, with a red square; classes ground, sky, square."""
    rng = np.random.default_rng(seed)
    height, width = size
    for split, count in splits.items():
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            horizon = int(rng.integers(height // 4, 3 * height // 4))
            mask = np.zeros(size, np.uint8)
            mask[:horizon] = 1
            top, left = int(rng.integers(0, height - 16)), int(rng.integers(0, width - 16))
            mask[top : top + 16, left : left + 16] = 2
            colours = np.array([(60, 70, 50), (150, 190, 240), (220, 40, 40)])
            image = (colours[mask] + rng.normal(0, 12, (*size, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(image).save(root / "images" / split / f"{i:03d}.png")
            Image.fromarray(mask).save(root / "masks" / split / f"{i:03d}.png")
    return root


@pytest.fixture
def folder_root(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "pictures", splits={"train": 6, "val": 2})
