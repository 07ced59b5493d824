"""Files written beside: what is said where that fails, what a full disk and a kill leave, who removes it."""

import os
import re
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import REPOSITORY, write_folder
from refineseg.class_info import ClassInfo
from refineseg.cli.app import write_json
from refineseg.doctor.examination import examine
from refineseg.doctor.repair import repair
from refineseg.errors import CheckpointError, OutputError
from refineseg.evaluate.metrics import ConfusionMatrix
from refineseg.evaluate.reports import draw_confusion, draw_curves
from refineseg.files import writing
from refineseg.files.writing import folder_beside, remove_leftovers, write_error, written_beside
from refineseg.images.encoding import write_image, write_mask
from refineseg.predict.outputs.areas import Areas, area_table
from refineseg.runtimes.description import Description
from refineseg.runtimes.openvino_runtime import write_openvino_model
from refineseg.runtimes.torch_programs import write_torch_program
from refineseg.segmenter import build
from refineseg.training.checkpoint import save_checkpoint

SOURCE = REPOSITORY / "src" / "refineseg"
CLASSES = ClassInfo(("sky", "road"))
NOISE = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)


@contextmanager
def full_disk(bytes_left):
    """No file may grow larger: the system says so as it says that a disk is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


# ------------------------------------------------------------------------------------------------------------- messages


@pytest.mark.parametrize(
    ("make", "name", "said"),
    [
        (
            lambda f: (f / "a").write_text(""),
            "a/b.json",
            r"but \S*/a exists and is a file; choose a folder that can be",
        ),
        (lambda f: (f / "a").write_text(""), "a/b/c.json", r"but \S*/a exists and is a file; choose a folder that can"),
        (lambda f: (f / "b.json").mkdir(), "b.json", r"but \S*/b\.json exists and is a folder; choose another name"),
        (lambda f: os.mkfifo(f / "b.json"), "b.json", r"but it is a FIFO; choose the name of a file"),
        (lambda f: (f / "b.json").symlink_to("/dev/null"), "b.json", r"but it is a device; choose the name of a file"),
        (lambda f: None, "n" * 300, r"but File name too long; choose a folder that can be written to"),
    ],
    ids=["file above", "file further above", "folder", "fifo", "link to a device", "name too long"],
)
def test_each_way_to_fail_has_one_message_and_leaves_everything_as_it_was(make, name, said, tmp_path):
    make(tmp_path)
    before = names(tmp_path)
    with pytest.raises(OutputError, match=f"^expected to write .*{said}") as caught:
        write_json(tmp_path / name, {"a": 1})
    assert not caught.value.no_room
    assert names(tmp_path) == before


def test_devices_are_never_replaced():
    for path in (Path("/dev/null"), Path("/dev/stdout"), Path("/dev/fd/1")):
        with pytest.raises(OutputError, match=rf"expected to write {path}, but "):
            write_json(path, {})
    assert Path("/dev/null").is_char_device()


def test_a_failure_to_read_another_file_is_not_said_to_be_one_of_writing(tmp_path):
    other = tmp_path / "elsewhere" / "absent.txt"
    with pytest.raises(FileNotFoundError), written_beside(tmp_path / "out" / "a.txt"):
        other.read_text()
    assert write_error(tmp_path, RuntimeError("odd")).args[0].endswith("(odd); choose a folder with room, or make room")


# ------------------------------------------------------------------------------------------------------------ full disk


@cache
def _model():
    return build("refineseg_nano", num_classes=2)


@cache
def _program():
    return torch.export.export(torch.nn.Linear(100, 100), (torch.zeros(1, 100),))


def _torch_program(path):
    program = _program()
    write_torch_program(program, Description(_model().spec, ("class_map",), "float32", None), path)


def _openvino_model(path):
    openvino = pytest.importorskip("openvino")
    from openvino import opset13 as ops

    x = ops.parameter([10_000], np.float32)
    values = np.random.default_rng(0).normal(size=10_000).astype(np.float32)
    write_openvino_model(openvino.Model([ops.add(x, ops.constant(values))], [x], "sum"), path)


def _areas(path):
    with area_table(path, CLASSES) as table:
        for index in range(1000):
            table.add(f"{index}.jpg", Areas(4, np.array([1, 2])))


WRITERS = {
    "mask.png": lambda path: write_mask(path, NOISE[..., 0] % 2, CLASSES),
    "image.jpg": lambda path: write_image(path, NOISE),
    "image.png": lambda path: write_image(path, NOISE),
    "numbers.json": lambda path: write_json(path, list(range(10_000))),
    "areas.csv": _areas,
    "curves.png": lambda path: draw_curves(path, [{"epoch": 1, "loss": 1.0, "decoder_lr": 0.1}]),
    "confusion.png": lambda path: draw_confusion(path, ConfusionMatrix(CLASSES)),
    "model.safetensors": lambda path: _model().save(path),
    "model.pt2": _torch_program,
    "model.xml": _openvino_model,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_error_that_names_the_file_and_leaves_the_old_one(name, tmp_path):
    """Full before the first byte, in the middle, and before the last byte."""
    (tmp_path / "whole").mkdir()
    WRITERS[name](tmp_path / "whole" / name)
    made = names(tmp_path)
    largest = max(path.stat().st_size for path in (tmp_path / "whole").iterdir())
    (tmp_path / name).write_text("before")
    for bytes_left in (0, largest // 2, largest - 1):
        with full_disk(bytes_left), pytest.raises(OutputError) as caught:
            WRITERS[name](tmp_path / name)
        assert str(caught.value).startswith(f"expected to write {tmp_path / name}, but ")
        assert "choose a folder with room, or make room" in str(caught.value)
        assert names(tmp_path) == sorted([name, *made])
        assert (tmp_path / name).read_text() == "before"


def test_a_full_disk_costs_a_checkpoint_and_not_the_one_before(tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(b"before")
    with full_disk(10_000), pytest.raises(CheckpointError, match="is intact: make room"):
        save_checkpoint(tmp_path, {"weights": torch.zeros(10_000)})
    assert (tmp_path / "checkpoint.pt").read_bytes() == b"before"
    assert names(tmp_path) == ["checkpoint.pt"]


@pytest.mark.parametrize("was_there", [False, True])
def test_a_repaired_copy_that_does_not_fit_is_taken_back(was_there, tmp_path):
    root, out = write_folder(tmp_path / "data", splits={"train": 2}), tmp_path / "copy"
    if was_there:
        out.mkdir()
    examination = examine(f"folder:{root}")
    with (
        full_disk(3000),
        pytest.raises(OutputError, match=r"expected to write .*/copy/images/.*; choose a folder with"),
    ):
        repair(examination, out)
    assert out.exists() == was_there
    assert not was_there or names(out) == []
    assert repair(examination, out).copied >= 4


# --------------------------------------------------------------------------------------------------------- after a kill

WRITING = """
import sys, time
from pathlib import Path
from refineseg.files.writing import folder_beside, written_beside
with written_beside(Path(sys.argv[1]) / "a.png") as file, folder_beside(Path(sys.argv[1]) / "b.xml") as folder:
    file.write_bytes(b"half")
    (folder / "b.bin").write_bytes(b"half")
    print("ready", flush=True)
    time.sleep(600)
"""


def test_what_a_killed_process_leaves_is_removed_by_the_next_and_nothing_else(tmp_path):
    """A process that is still writing keeps its files; so do people whose files are called nearly so."""
    kept = [
        ".refineseg-notes.txt",
        ".refineseg.json",
        "refineseg-0a0b0c0d-1-abcdefgh.png",
        ".refineseg-0a0b0c0d-x-1.png",
    ]
    for name in kept:
        (tmp_path / name).write_text("mine")
    command = [sys.executable, "-c", WRITING, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        left = sorted(set(names(tmp_path)) - set(kept))
        assert len(left) == 3, "a file, a folder and the file in it"
        remove_leftovers(tmp_path)
        assert sorted(set(names(tmp_path)) - set(kept)) == left, "it still runs"
        process.send_signal(signal.SIGKILL)
    assert sorted(set(names(tmp_path)) - set(kept)) == left
    writing._SWEPT.discard(str(tmp_path))  # as a new process begins
    write_json(tmp_path / "next.json", 1)
    assert names(tmp_path) == sorted([*kept, "next.json"])


def test_files_of_another_machine_stay_for_a_day(tmp_path):
    """Whether their process lives cannot be asked: the disk may be shared."""
    fresh, old = tmp_path / ".refineseg-0a0b0c0d-1-abcdefgh.png", tmp_path / ".refineseg-0a0b0c0d-1-12345678.png"
    for path in (fresh, old):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 25 * 3600,) * 2)
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [fresh.name]


def test_a_folder_beside_is_gone_after_an_error_and_is_not_in_the_message(tmp_path):
    with (
        full_disk(0),
        pytest.raises(OutputError, match=rf"expected to write {tmp_path}/a\.json, but"),
        folder_beside(tmp_path / "a.json") as folder,
    ):
        write_json(folder / "a.json", {"a": 1})
    assert names(tmp_path) == []


# ---------------------------------------------------------------------------------------------------- every other place

ELSEWHERE = {
    "predict/folder/records.py",  # a line for each file as it is done; one that is cut off is not read
    "data/storage/mirror.py",  # the cache of remote files, which has an unfinished folder of its own
    "devices.py",  # /proc/self/clear_refs
    "predict/raster/raster.py",  # in the folder of a job
    "predict/raster/job.py",
    "predict/video/run.py",  # a temporary file it is given
}
LIBRARIES = {
    "evaluate/reports.py",
    "runtimes/torch_programs.py",
    "training/checkpoint.py",
    "predict/outputs/kinds.py",
}  # tried above


def test_no_module_writes_a_file_under_its_own_name():
    """Only temporary files of ``written_beside`` are opened for writing."""
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE).as_posix()
        if name in ELSEWHERE:
            continue
        for line in path.read_text(encoding="utf-8").splitlines():
            if re.search(r"""write_text\(|write_bytes\(|open\("[wxa]""", line):
                assert "temporary" in line or "storing(path)" in line, (name, line)
            if "program, content" in line:  # in memory
                continue
            if re.search(r"savefig\(|torch\.save\(|np\.savez?\w*\(|export\.save\(", line):
                assert name in LIBRARIES, (name, line)


@pytest.mark.parametrize(("mask", "mode"), [("077", 0o600), ("022", 0o644), ("002", 0o664)])
def test_files_have_the_rights_that_the_process_gives_to_new_files(tmp_path, mask, mode):
    code = (
        "from pathlib import Path; from refineseg.files.writing import written_beside\n"
        f"with written_beside(Path({str(tmp_path / 'a.txt')!r})) as temporary: temporary.write_text('a')"
    )
    subprocess.run(["sh", "-c", f'umask {mask}; exec {sys.executable} -c "$0"', code], check=True, timeout=120)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == mode
