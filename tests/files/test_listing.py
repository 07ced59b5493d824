"""Folders with entries that are no files: everything else is found, each such entry is named, none is ever opened."""

import errno
import os
import signal
import socket
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import pytest
from PIL import Image

from conftest import call, write_folder
from refineseg.class_info import LabelTable
from refineseg.data.datasets import open_dataset
from refineseg.data.readers.pascal_layout import read_ids
from refineseg.data.storage.file_lists import file_names, subfolders
from refineseg.doctor.examination import examine
from refineseg.errors import ConfigError, DatasetError, ImageError, ModelFileError, RefinesegError
from refineseg.evaluate.comparison import read_result
from refineseg.files import archives
from refineseg.files.archives import list_folder
from refineseg.images.files import find_images, read_image_size, read_mask, read_rgb
from refineseg.networks.weight_files import read_checkpoint
from refineseg.original.mat_files import open_mat
from refineseg.predict.folder.plan import plan_files
from refineseg.predict.raster.headers import is_raster
from refineseg.predict.video.files import VideoReader
from refineseg.predict.video.sources import SequenceReader, find_source
from refineseg.runtimes.open import read_spec
from refineseg.segmenter import build, load
from refineseg.terminal.arguments import check_input_file

PICTURE = Image.new("RGB", (20, 12), (200, 30, 30))


@pytest.fixture(autouse=True)
def nothing_waits_for_ever():
    """Whoever opens a FIFO that nobody writes to is interrupted."""

    def stop(*_):
        raise AssertionError("something waits: a FIFO was opened")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@contextmanager
def unlistable(folder, monkeypatch):
    """Listing a folder fails, as for somebody without the right to; the rights do not bind an administrator."""
    scandir = os.scandir

    def refusing(path):
        if not isinstance(path, int) and os.fspath(path) == str(folder):  # a number: a folder that is open
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refusing)
        yield


BAD = {
    "a/loop.png": "a link that leads to no file (Too many levels of symbolic links)",
    "device.png": "a device",
    "gone.jpg": "a link to nothing",
    "locked": "a folder that cannot be listed (Permission denied)",
    "pipe.png": "a FIFO",
    "z/socket": "a socket",
}


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Three images and one of each bad entry; the folder ``back`` leads back to where it lies."""
    root = tmp_path / "in"
    for name in ("a/1.png", "b/2.png", "3.png", "locked/4.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        PICTURE.save(root / name)
    (root / "z").mkdir()
    (root / "a" / "loop.png").symlink_to("loop.png")
    (root / "gone.jpg").symlink_to("nowhere.jpg")
    (root / "device.png").symlink_to("/dev/zero")
    (root / "back").symlink_to(".")
    os.mkfifo(root / "pipe.png")
    monkeypatch.chdir(root / "z")  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as listener, unlistable(root / "locked", monkeypatch):
        listener.bind("socket")
        yield root


def test_everything_that_can_be_listed_is_and_the_rest_is_named(tree):
    listing = list_folder(tree)
    assert listing.files == ("3.png", "a/1.png", "b/2.png")
    assert dict(listing.left_out) == BAD
    assert [path.relative_to(tree).as_posix() for path in find_images(tree)] == list(listing.files)
    with pytest.raises(PermissionError):
        list_folder(tree / "locked")


def test_predict_does_the_rest_names_each_and_ends_with_status_1(tree, tmp_path, monkeypatch, capsys):
    build("refineseg_nano", num_classes=2).save(tmp_path / "m.safetensors")
    status, out, err = call(
        monkeypatch, capsys, "predict", tree, tree / "pipe.png", "--out", tmp_path / "out", "--model",
        tmp_path / "m.safetensors", "--device", "cpu", "--save", "mask",
    )  # fmt: skip
    assert status == 1
    assert sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.png")) == [
        *("3.png", "a/1.png", "b/2.png"),
    ]
    assert len(out.splitlines()) == 3
    for name, what in BAD.items():
        line = f"skipped: expected an image or a folder, got {tree / name}, which is {what}; replace or remove it"
        assert err.splitlines().count(line) == (2 if name == "pipe.png" else 1)
    assert len([line for line in err.splitlines() if line.startswith("skipped: ")]) == len(BAD) + 1


def test_bad_entries_alone_are_no_empty_folder_unsaid(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "loop").symlink_to("loop")
    failures = plan_files([tmp_path / "in"], tmp_path / "out", endings=(".png",)).failures
    assert len(failures) == 2
    assert "expected images in" in failures[1]


def test_folders_whose_links_lead_to_each_other_are_refused_and_links_to_one_folder_followed(tmp_path):
    """Seven such folders have 13699 names: each picture would be predicted some 2000 times."""
    for one in range(7):
        (tmp_path / "in" / str(one)).mkdir(parents=True)
        for other in {*range(7)} - {one}:
            (tmp_path / "in" / str(one) / f"to{other}").symlink_to(tmp_path / "in" / str(other))
    with pytest.raises(DatasetError, match="links lead to .* in more than 256 ways; give folders without such links"):
        list_folder(tmp_path / "in")
    (tmp_path / "shared").mkdir()
    PICTURE.save(tmp_path / "shared" / "a.png")
    (tmp_path / "splits").mkdir()
    for fold in range(100):
        (tmp_path / "splits" / f"{fold:02d}").symlink_to(tmp_path / "shared")
    assert list_folder(tmp_path / "splits").files == tuple(f"{fold:02d}/a.png" for fold in range(100))


# ------------------------------------------------------------------------------------------------------------ data sets


def test_a_data_set_notes_what_it_leaves_out_and_the_doctor_finds_it(tmp_path, monkeypatch):
    root = write_folder(tmp_path / "data", splits={"train": 3})
    assert examine(f"folder:{root}").healthy
    (root / "images" / "train" / "loop.png").symlink_to("loop.png")
    os.mkfifo(root / "masks" / "train" / "pipe.png")
    dataset = open_dataset("folder", root, split="train")
    assert len(dataset) == 3
    assert dataset.notes[-1] == (
        "left out, because they are no files: images/train/loop.png (a link that leads to no file (Too many levels of "
        "symbolic links)), masks/train/pipe.png (a FIFO)"
    )
    examination = examine(f"folder:{root}")
    [finding] = [found for found in examination.findings if found.kind == "left_out"]
    assert finding.files == ("images/train/loop.png", "masks/train/pipe.png")
    assert finding.details["masks/train/pipe.png"] == "a FIFO"
    assert finding.severity == "warning"
    assert not examination.healthy
    with unlistable(root / "masks" / "val", monkeypatch):
        (root / "masks" / "val").mkdir()
        assert "masks/val (a folder that cannot be listed" in open_dataset("folder", root, split="train").notes[-1]


def test_folders_of_published_sets_name_what_cannot_be_listed(tmp_path, monkeypatch):
    (tmp_path / "loop.png").symlink_to("loop.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder").mkdir()
    assert file_names(tmp_path) == ["loop.png", "pipe.png"], "reading them says what they are"
    assert subfolders(tmp_path) == [tmp_path / "folder"]
    with unlistable(tmp_path, monkeypatch), pytest.raises(DatasetError, match="cannot be listed: .*Permission denied"):
        file_names(tmp_path)


def test_frames_that_are_no_files_are_counted(tmp_path):
    PICTURE.save(tmp_path / "1.png")
    os.mkfifo(tmp_path / "2.png")
    reader = SequenceReader(str(tmp_path), rate=Fraction(25))
    assert (reader.faults.broken, reader.faults.first_broken) == (1, "2.png: a FIFO")


# --------------------------------------------------------------------------------------------------------- never opened


def _mask(path):
    return read_mask(path, table=LabelTable({0: 0}), ignore_index=255)


READERS = {
    "image.png": (read_rgb, ImageError, "it is a FIFO"),
    "size.png": (read_image_size, ImageError, "it is a FIFO"),
    "mask.png": (_mask, ImageError, "it is a FIFO"),
    "clip.mp4": (lambda p: VideoReader(find_source(p), live=False, with_sound=False), ImageError, "which is a FIFO"),
    "model.safetensors": (load, ModelFileError, "model.safetensors"),
    "original.pth": (read_checkpoint, ModelFileError, "it is a FIFO"),
    "original.mat": (lambda path: open_mat(path).__enter__(), ModelFileError, "it is a FIFO"),
    "result.json": (read_result, ConfigError, "it is a FIFO"),
    "ids.txt": (read_ids, DatasetError, "it is a FIFO"),
    "coco.json": (lambda path: open_dataset("coco", path, split="train"), DatasetError, "coco.json"),
    "pairs.txt": (lambda path: open_dataset("pairs", path, split="train"), DatasetError, "pairs.txt"),
    "data.yaml": (lambda path: open_dataset("yolo", path, split="train"), DatasetError, "data.yaml"),
    "data.zip": (lambda path: open_dataset("folder", path, split="train"), DatasetError, "data.zip"),
    "text.txt": (archives.read_text, DatasetError, "it is a FIFO"),
}


@pytest.mark.parametrize("name", READERS)
def test_a_fifo_given_for_any_file_is_refused_at_once(name, tmp_path):
    read, error, said = READERS[name]
    path = tmp_path / name
    os.mkfifo(path)
    with pytest.raises(error, match=said):
        read(path)
    assert not is_raster(path)


@pytest.mark.parametrize("name", ["classes.json", "remap.json"])
def test_a_fifo_in_place_of_a_file_of_classes_is_not_opened(name, tmp_path):
    root = write_folder(tmp_path / "data", splits={"train": 2})
    os.mkfifo(root / name)
    assert f"{name} (a FIFO)" in open_dataset("folder", root, split="train").notes[-1]


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--config", "FIFO", "--data", "folder:ROOT", "--out", "OUT"),
        ("predict", "FIFO.mp4", "--out", "OUT"),
        ("predict", "/dev/zero", "--out", "OUT"),
        ("doctor", "coco:FIFO.json"),
    ],
)
def test_the_command_line_refuses_them_at_once(arguments, tmp_path, monkeypatch, capsys):
    root = write_folder(tmp_path / "data", splits={"train": 2})
    for name in ("FIFO", "FIFO.mp4", "FIFO.json"):
        os.mkfifo(tmp_path / name)
    words = [
        word.replace("FIFO", str(tmp_path / "FIFO")).replace("ROOT", str(root)).replace("OUT", str(tmp_path / "out"))
        for word in arguments
    ]
    status, _, err = call(monkeypatch, capsys, *words)
    assert status in (1, 2)
    assert "Traceback" not in err
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


def test_errors_name_what_it_is():
    with pytest.raises(RefinesegError, match="it is a device, which is never opened"):
        read_rgb(Path("/dev/zero"))


@pytest.mark.parametrize("name", ["model", "model.safetensors", "model.onnx", "model.pt2", "model.xml"])
def test_a_model_that_is_no_file_is_called_what_it_is(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises((ModelFileError, ConfigError), match=rf"got .*{name}.*, which is a FIFO and never opened; name"):
        read_spec(str(tmp_path / name))
    with pytest.raises(ConfigError, match=r"expected a file as --config, got .*, which is a FIFO and never opened"):
        check_input_file("--config", tmp_path / name)
