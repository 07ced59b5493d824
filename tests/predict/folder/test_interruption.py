"""Ctrl-C and SIGTERM while the command line works, and names too long for their results."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

from conftest import call, write_folder
from refineseg.evaluate.failures import Failure

SIGNALS = [(signal.SIGINT, "Ctrl-C", 130), (signal.SIGTERM, "SIGTERM", 143)]
IMAGES = 100


def photograph(path, size_hw=(64, 96)):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(0).integers(0, 255, (*size_hw, 3)).astype(np.uint8)
    Image.fromarray(values).save(path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images enough that a signal comes between them."""
    folder = tmp_path_factory.mktemp("many")
    first = photograph(folder / "000.png")
    for number in range(1, IMAGES):
        shutil.copy(first, folder / f"{number:03d}.png")
    return folder


def finished(out):
    return len(list(out.glob("*_overlay.jpg"))) if out.is_dir() else 0


def check(said, out, name, *, status, expected):
    assert status == expected
    done = finished(out)
    assert 0 < done < IMAGES
    first, second = said.splitlines()[-2:]
    assert first == f"refineseg: stopped by {name}: {done} of {IMAGES} files are done, {IMAGES - done} are left"
    assert not list(out.glob(".refineseg-*"))
    for path in out.glob("*.[pj][np]g"):
        with Image.open(path) as image:
            image.load()
    assert second.startswith("go on with: refineseg predict ")
    return shlex.split(second.removeprefix("go on with: refineseg "))


@pytest.mark.slow_except("15-SIGTERM-143")
@pytest.mark.parametrize(("number", "name", "expected"), SIGNALS)
def test_predict_says_how_far_it_came_and_the_said_command_does_the_rest(
    folder, tmp_path, monkeypatch, capsys, number, name, expected
):
    out, before = tmp_path / "out", signal.getsignal(number)

    def interrupt():
        while finished(out) < 3:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=interrupt, daemon=True).start()
    status, output, said = call(monkeypatch, capsys, "predict", folder, "--no-resume", "--out", out, "--workers", "2")
    command = check(said, out, name, status=status, expected=expected)
    assert signal.getsignal(number) == before
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("refineseg-files")]
    done = finished(out)
    assert output.count("\n") <= done
    status, output, said = call(monkeypatch, capsys, *command, "--verbose")
    assert (status, finished(out)) == (0, IMAGES)
    assert output.count("\n") == IMAGES - done
    assert f"{done} were there already" in said


@pytest.mark.slow
@pytest.mark.parametrize(("number", "name", "expected"), SIGNALS)
def test_a_process_ends_at_a_signal(folder, tmp_path, number, name, expected):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "refineseg", "predict", folder, "--out", out]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while finished(out) < 3:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    check(said, out, name, status=process.returncode, expected=expected)
    assert "Traceback" not in said


@pytest.mark.parametrize(("number", "name", "expected"), SIGNALS)
@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["datasets"], "run the same command again"),
        (["shard", "camvid:x", "--split", "val", "--out", "s"], "run the same command again: it goes on where"),
    ],
)
def test_other_verbs_end_in_order_too(monkeypatch, capsys, number, name, expected, arguments, advice):
    monkeypatch.setattr("refineseg.data.datasets.DATASETS", Signalling(number))
    monkeypatch.setattr("refineseg.data.datasets.parse_data", lambda text: os.kill(os.getpid(), number))
    status, _, said = call(monkeypatch, capsys, *arguments)
    assert status == expected
    assert said.startswith(f"refineseg: stopped by {name}: {advice}")
    assert len(said.splitlines()) == 1


class SignallingBar:
    """A progress bar that gets a signal when it has counted two of what it shows."""

    def __init__(self, number, what):
        self.number, self.what, self.shown = number, what, ""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def add_task(self, what, total=None):
        self.shown = what
        return 0

    def update(self, task, *, completed, total):
        if completed == 2 and self.shown.endswith(self.what):
            os.kill(os.getpid(), self.number)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """A data set to measure on."""
    root = write_folder(tmp_path_factory.mktemp("labelled") / "mine", splits={"train": 1, "val": 3})
    (root / "classes.txt").write_text("ground\nsky\nsquare\n")
    return f"folder:{root}"


@pytest.mark.parametrize(("number", "name", "expected"), SIGNALS)
@pytest.mark.parametrize(
    ("call_of", "what", "far"),
    [
        ("evaluate --data DATA --model MODEL --out ev --json e.json", "checking", "2 of 3 files"),
        ("evaluate --data DATA --model MODEL --out ev --json e.json", "evaluating", "2 of 3 images"),
        pytest.param(
            "export --model MODEL --format torch --out m.pt2 --accept DATA",
            "accepting",
            "2 of 3 images",
            marks=pytest.mark.slow,  # exporting takes most of the time
        ),
        ("doctor DATA --html d.html --json d.json", "examining", "2 of 4 samples"),
        ("doctor DATA --fix --out fixed", "repairing", "2 of 4 samples"),
        (
            "bench --model MODEL --size 32x32 --precision float32 --backend torch --repeats 3",
            "contenders in turns",
            "2 of 3 rounds",
        ),
        ("shard DATA --split val --out s", "val", "2 of 3 samples"),
    ],
)
def test_a_verb_that_counts_says_how_far_it_came_and_leaves_nothing_half_written(
    labelled, model, tmp_path, monkeypatch, capsys, number, name, expected, call_of, what, far
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("refineseg.terminal.printing.progress_bar", lambda console: SignallingBar(number, what))
    words = [{"DATA": labelled, "MODEL": model}.get(word, word) for word in call_of.split()]
    status, _, said = call(monkeypatch, capsys, *words)
    goes_on = ": it goes on where it stopped" if words[0] == "shard" else ""
    last = rf"refineseg: stopped by {name}: (\d )?{what}: {far} are done; run the same command again{goes_on}"
    assert status == expected
    assert re.fullmatch(last, said.splitlines()[-1])
    assert "Traceback" not in said
    assert words[0] == "shard" or [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_training_that_has_begun_is_gone_on_with_wherever_it_is_stopped(labelled, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    words = ["train", "--data", labelled, "--out", run, "--variant", "refineseg_nano", "--no-pretrained"]
    monkeypatch.setattr("refineseg.training.loop.held", lambda *given: os.kill(os.getpid(), signal.SIGTERM))
    status, _, said = call(monkeypatch, capsys, *words, "--device", "cpu")
    assert status == 143
    assert said.splitlines()[-1] == (f"refineseg: stopped by SIGTERM: go on with: refineseg train --resume --out {run}")


def test_what_a_library_makes_of_an_interruption_is_an_interruption(monkeypatch, capsys):
    def wrapping(text):
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt as stop:
            raise RuntimeError("the callback failed") from stop

    monkeypatch.setattr("refineseg.data.datasets.parse_data", wrapping)
    status, _, said = call(monkeypatch, capsys, "doctor", "folder:x")
    assert (status, said) == (130, "refineseg: stopped by Ctrl-C: run the same command again\n")


class Signalling(dict):
    """A table that gets a signal while it is listed."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def items(self):
        os.kill(os.getpid(), self.number)
        return super().items()


# ---------------------------------------------------------------------------------------------------------- long names


def test_names_too_long_for_all_results_are_refused_before_any_is_written(tmp_path, monkeypatch, capsys):
    folder, out = tmp_path / "in", tmp_path / "out"
    long, wide = "n" * 250, "\u6a39" * 83
    for name in ("n" * 243, "fits", long, wide):
        photograph(folder / f"{name}.png")
    status, output, said = call(monkeypatch, capsys, "predict", folder, folder / f"{long}.png", "--out", out)
    assert status == 1
    assert sorted(path.name for path in out.glob("*.*g")) == sorted(
        f"{name}{ending}" for name in ("n" * 243, "fits") for ending in (".png", "_overlay.jpg")
    )
    refused = [line for line in said.splitlines() if line.startswith("skipped: ")]
    assert len(refused) == 3
    assert all("at most 243 bytes" in line and line.endswith("; rename it") for line in refused)
    assert any(f"got {3 * 83} bytes: {folder / wide}.png" in line for line in refused)
    assert output.count("\n") == 2


@pytest.mark.parametrize(
    ("save", "fitting"),
    [("mask", 244), ("mask,probabilities", 237), ("mask,confidence,polygons", 240)],
)
def test_whatever_is_saved_the_longest_name_that_is_taken_gets_all_its_results(
    tmp_path, monkeypatch, capsys, save, fitting
):
    folder, out = tmp_path / "in", tmp_path / "out"
    for length in (fitting, fitting + 1):
        photograph(folder / f"{'n' * length}.png")
    status, _, said = call(monkeypatch, capsys, "predict", folder, "--out", out, "--save", save)
    assert (status, said.count("skipped: ")) == (1, 1)
    assert len([path for path in out.iterdir() if path.name.startswith("n" * fitting)]) == save.count(",") + 1


def test_pictures_of_failures_get_names_that_a_disk_takes(tmp_path):
    for name in ("\u6a39" * 85, "a/" * 300 + "b", os.fsdecode(b"\xff" * 255)):
        path = tmp_path / Failure(0.5, 0, name, None, b"").file_name(12)
        path.write_bytes(b"")
        assert path.name.startswith("012_")
