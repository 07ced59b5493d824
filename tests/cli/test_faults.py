"""A full disk, a lost permission and a kill while a verb works: inputs stay, nothing is half written, and again works.

Training and predictions, which go on where they were, have tests of their own (``tests/training/test_survival.py``,
``tests/predict``), and so has the service (``tests/serve/test_serve_command.py``).
"""

import contextlib
import hashlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

from conftest import write_folder

LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
from refineseg import cli
sys.argv = ["refineseg", *sys.argv[2:]]
cli.main()
"""
VERBS = {  # bytes a file may have, words, what is complete at the end
    "evaluate": (
        200,
        "evaluate --model {model} --data folder:in --split val --device cpu --json out/result.json",
        "out/result.json",
    ),
    "export": (10_000, "export --model {model} --format onnx --out out/net.onnx", "out/net.onnx"),
    "doctor": (100, "doctor folder:in --fix --out out/repaired", "out/repaired/classes.txt"),
}
pytestmark = pytest.mark.slow


@pytest.fixture
def place(tmp_path):
    write_folder(tmp_path / "in", splits={"train": 3, "val": 2})
    (tmp_path / "in" / "classes.txt").write_text("ground\nsky\nsquare\n")
    (tmp_path / "out").mkdir()
    return tmp_path


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def command(verb, model):
    return VERBS[verb][1].format(model=model).split()


def started(place, words, *before):
    return subprocess.Popen(
        [sys.executable, *(before or ("-m", "refineseg")), *words], cwd=place, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def left_over(place):
    """Files that a writer leaves where it cannot finish."""
    return [name for name in contents(place / "out") if ".refineseg-" in name]


@pytest.mark.parametrize("verb", VERBS)
def test_a_full_disk_is_said_and_leaves_nothing_half_written(verb, place, model):
    before = contents(place / "in")
    process = started(place, command(verb, model), "-c", LIMITED, str(VERBS[verb][0]))
    _, told = process.communicate(timeout=300)
    assert process.returncode not in (0, -signal.SIGXFSZ), told
    assert "Traceback" not in told
    assert "refineseg: " in told
    assert contents(place / "in") == before
    assert not (place / VERBS[verb][2]).exists()
    assert left_over(place) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_that_is_ended_early_can_be_called_again(verb, number, place, model):
    before = contents(place / "in")
    begin = time.monotonic()
    whole = started(place, command(verb, model))
    _, told = whole.communicate(timeout=300)
    assert whole.returncode in (0, 1), told  # 1: the doctor has findings
    seconds, size = time.monotonic() - begin, (place / VERBS[verb][2]).stat().st_size
    for share in (0.6, 0.9):
        shutil.rmtree(place / "out")
        (place / "out").mkdir()
        process = started(place, command(verb, model))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=share * seconds)
        process.send_signal(number)
        _, told = process.communicate(timeout=60)
        assert process.returncode in (0, 1, -number, 128 + number), told
        assert "Traceback" not in told
        assert contents(place / "in") == before
        found = place / VERBS[verb][2]
        assert not found.is_file() or found.stat().st_size == size
        shutil.rmtree(place / "out" / "repaired", ignore_errors=True)  # the doctor wants a new folder
    again = started(place, command(verb, model))
    _, told = again.communicate(timeout=300)
    assert again.returncode in (0, 1), told
    assert found.stat().st_size == size
    assert left_over(place) == []
