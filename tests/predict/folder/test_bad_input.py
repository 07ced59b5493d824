"""Odd and broken files through the command line: a clear message, the rest done, status 1, nothing half written."""

import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage import data as photographs

from conftest import call
from fakes.raw_png import RGB, write_raw_png
from refineseg.predict.folder.records import INPUTS_RECORD, RECORD


@pytest.fixture
def photo():
    return Image.fromarray(photographs.astronaut()[:48, :64])


@pytest.fixture
def predict(monkeypatch, capsys, tmp_path, model):
    """Predicts a folder; status, lines of stdout and stderr, and the files that were written."""

    def predicted(*arguments):
        status, out, err = call(
            monkeypatch, capsys, "predict", tmp_path / "in", "--out", tmp_path / "out", "--model", model, "--device",
            "cpu", *arguments,
        )  # fmt: skip
        folder = tmp_path / "out"
        written = {path.name for path in folder.iterdir()} - {RECORD, INPUTS_RECORD} if folder.is_dir() else set()
        return status, out.splitlines(), err, written

    (tmp_path / "in").mkdir()
    return predicted


def test_broken_files_cost_one_line_each_and_the_rest_is_done(predict, photo, tmp_path):
    folder = tmp_path / "in"
    photo.save(folder / "good.jpg")
    photo.save(folder / "cut.jpg", quality=95)
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:-900])
    photo.save(folder / "cut2.png")
    (folder / "cut2.png").write_bytes((folder / "cut2.png").read_bytes()[:-900])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.png").write_text("no image")
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "folder.jpg").mkdir()
    write_raw_png(folder / "bomb.png", 50_000, 50_000, bits=8, kind=RGB, rows=b"")
    status, out, err, written = predict()
    assert status == 1
    assert [line.split(": ")[0] for line in out] == [str(folder / "good.jpg")]
    assert written == {"good.png", "good_overlay.jpg"}
    lines = [line for line in err.splitlines() if line.startswith("skipped: ")]
    assert len(lines) == 6
    for name, reason in (
        ("cut.jpg", "replace or remove it"),
        ("cut2.png", "replace or remove it"),
        ("empty.jpg", "which is empty (0 bytes)"),
        ("gone.jpg", "which is a link to nothing"),
        ("text.png", "none, damaged, or of an unknown kind"),
        ("bomb.png", "50000x50000 pixels: a decompression bomb, or damaged"),
    ):
        assert [line for line in lines if name in line and reason in line], name
    assert "Traceback" not in err


def test_every_healthy_oddity_gives_a_mask_of_its_upright_size(predict, photo, tmp_path):
    folder = tmp_path / "in"
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save(folder / "rotated.jpg", exif=exif)
    photo.convert("CMYK").save(folder / "cmyk.jpg")
    photo.convert("CMYK").save(folder / "cmyk2.tif")
    photo.convert("RGBA").save(folder / "alpha.png")
    photo.convert("LA").save(folder / "grey_alpha.png")
    photo.convert("P").save(folder / "palette.png")
    photo.convert("1").save(folder / "bits.png")
    photo.save(folder / "moving.gif", save_all=True, append_images=[photo.rotate(90), photo.rotate(180)])
    photo.save(folder / "moving2.webp", save_all=True, append_images=[photo.rotate(90)])
    photo.save(folder / "UPPER.JPG", quality=90)
    status, out, err, _ = predict("--save", "mask")
    assert status == 0, err
    assert len(out) == 10
    for path in folder.iterdir():
        with Image.open(tmp_path / "out" / f"{path.stem}.png") as mask:
            assert mask.size == ((48, 64) if path.stem == "rotated" else (64, 48)), path.name
    notes = [line for line in err.splitlines() if "several pictures" in line]
    assert len(notes) == 2
    assert all("moving" in line and "only the first is read" in line for line in notes)


@pytest.mark.parametrize("size", [(60_000, 1), pytest.param((1, 60_000), marks=pytest.mark.slow)])
def test_an_image_of_one_row_or_column_is_predicted(predict, tmp_path, size):
    Image.fromarray(np.resize(photographs.camera(), (size[1], size[0]))).save(tmp_path / "in" / "long.png")
    status, _, err, written = predict()
    assert status == 0, err
    assert written == {"long.png", "long_overlay.jpg"}
    with Image.open(tmp_path / "out" / "long.png") as mask:
        assert mask.size == size


@pytest.mark.slow
def test_a_tiff_of_heights_with_holes_and_a_big_tiff_are_rasters(predict, photo, tmp_path):
    pytest.importorskip("rasterio")
    heights = photographs.camera()[:48, :64].astype(np.float32) * 7 - 300
    heights[:8] = np.nan
    tifffile.imwrite(tmp_path / "in" / "heights.tif", heights)
    tifffile.imwrite(tmp_path / "in" / "big.tif", np.asarray(photo), bigtiff=True, photometric="rgb")
    photo.save(tmp_path / "in" / "photo.jpg")
    status, out, err, written = predict("--save", "mask")
    assert status == 0, err
    assert {"heights.tif", "big.tif", "photo.png"} <= written
    assert len(out) == 3
    mask = tifffile.imread(tmp_path / "out" / "heights.tif")
    assert (mask[:8] == 255).all(), "holes are void"
    assert (mask[8:] < 3).all()
    assert tifffile.imread(tmp_path / "out" / "big.tif").shape == (48, 64)


def test_a_damaged_raster_costs_one_line(predict, photo, tmp_path):
    pytest.importorskip("rasterio")
    (tmp_path / "in" / "damaged.tif").write_bytes(b"II+\0" + struct.pack("<HHQ", 8, 0, 16) + b"\0" * 10)
    photo.save(tmp_path / "in" / "photo.jpg")
    status, out, err, written = predict("--save", "mask")
    assert status == 1
    assert len(out) == 1
    assert written == {"photo.png"}
    assert [line for line in err.splitlines() if line.startswith("skipped: ") and "damaged.tif" in line]


def test_names_that_are_no_text_are_predicted_and_shown_as_far_as_they_can_be(predict, photo, tmp_path):
    good, bad = os.fsencode(tmp_path / "in") + b"/caf\xe9.jpg", os.fsencode(tmp_path / "in") + b"/\xff.png"
    try:
        photo.save(os.fsdecode(good))
        Path(os.fsdecode(bad)).write_bytes(b"")
    except (OSError, UnicodeError):
        pytest.skip("this file system takes only names that are text")
    status, out, err, written = predict("--save", "mask", "--areas", tmp_path / "areas.csv")
    assert status == 1
    assert "caf\\udce9.jpg: " in out[0]
    assert "\\udcff.png" in err
    assert written == {os.fsdecode(b"caf\xe9.png")}
    assert "caf\\udce9.jpg," in (tmp_path / "areas.csv").read_text(encoding="utf-8")


def test_numbers_that_cannot_be_written_are_said_without_a_traceback(predict, photo, tmp_path):
    photo.save(tmp_path / "in" / "a.jpg")
    (tmp_path / "file").write_text("")
    status, _, err, written = predict("--save", "mask", "--json", tmp_path / "file" / "numbers.json")
    assert status == 2
    assert written == set()
    assert "numbers.json, but" in err
    assert "Traceback" not in err


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
from refineseg import cli
sys.argv = ["refineseg", *sys.argv[1:]]
cli.main()
"""


@pytest.mark.slow
def test_a_disk_that_is_full_costs_a_line_per_image_and_leaves_nothing_half_written(model, tmp_path):
    """The process may write 3000 bytes per file; overlays of noise need more, masks of one pixel do not."""
    (tmp_path / "in").mkdir()
    for i, size in enumerate([(90, 90), (1, 1), (90, 90)]):
        pixels = np.random.default_rng(i).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{i}.png")
    areas = tmp_path / "out" / "areas.csv"
    command = ["predict", tmp_path / "in", "--out", tmp_path / "out", "--model", model, "--areas", areas]
    limited = [sys.executable, "-c", LIMITED, *map(str, command), "--save", "overlay"]
    ended = subprocess.run(limited, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 1, ended.stderr
    lines = [line for line in ended.stderr.splitlines() if line.startswith("skipped: ")]
    assert len(lines) == 2
    assert all("_overlay.jpg" in line and "choose a folder with room, or make room" in line for line in lines)
    assert "Traceback" not in ended.stderr
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written - {INPUTS_RECORD} == {"1_overlay.jpg", RECORD, "areas.csv"}
    assert [line.split(",")[0] for line in areas.read_text().splitlines()][1:] == [str(tmp_path / "in/1.png"), "total"]


def test_a_folder_that_cannot_be_written_is_said_once(predict, photo, tmp_path):
    """A file stands where the folder should: like a read-only disk, but also for an administrator."""
    for name in ("a.jpg", "b.jpg"):
        photo.save(tmp_path / "in" / name)
    (tmp_path / "out").write_text("")
    status, out, err, _ = predict()
    assert status == 2
    assert out == []
    [line] = err.splitlines()
    assert "out exists and is a file; choose another" in line
    assert (tmp_path / "out").read_text() == ""


def test_inputs_that_cannot_be_looked_at_cost_a_line(model, monkeypatch, capsys, tmp_path):
    """Python's own questions (is_dir, exists) raise for names that the disk does not take, and in closed folders."""
    names = (tmp_path / ("x" * 300 + ".jpg"), tmp_path / ("y" * 300))
    status, out, err = call(monkeypatch, capsys, "predict", *names, "--out", tmp_path / "out", "--model", model)
    assert (status, out) == (1, "")
    assert [name.name in err for name in names] == [True, True]
    assert "Traceback" not in err


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser reads every file")
def test_files_in_a_folder_that_is_closed_cost_a_line_each(predict, photo, tmp_path):
    closed = tmp_path / "in" / "closed"
    closed.mkdir()
    photo.save(tmp_path / "in" / "good.png")
    photo.save(closed / "a.png")
    closed.chmod(0o644)  # its names are listed, and that is all
    try:
        status, _, err, written = predict()
    finally:
        closed.chmod(0o755)
    assert (status, "good.png" in written) == (1, True)
    assert "a.png" in err
    assert "Traceback" not in err


def test_an_image_too_long_for_a_jpeg_has_a_smaller_overlay(predict, tmp_path):
    Image.new("RGB", (70_000, 20), (90, 120, 30)).save(tmp_path / "in" / "long.png")
    status, _, err, written = predict("--no-legend")
    assert (status, written) == (0, {"long.png", "long_overlay.jpg"}), err
    sizes = []
    for name in ("long.png", "long_overlay.jpg"):
        with Image.open(tmp_path / "out" / name) as picture:
            sizes.append(picture.size)
    assert sizes[0] == (70_000, 20)
    assert sizes[1] == (65_500, 19)


def test_the_password_of_a_camera_is_shown_and_stored_nowhere(model, monkeypatch, capsys, tmp_path):
    places = ("--areas", tmp_path / "a.csv", "--json", tmp_path / "j.json", "--out", tmp_path / "out")
    address = "rtsp://admin:secret@127.0.0.1:1/door"
    status, out, err = call(monkeypatch, capsys, "predict", address, *places, "--model", model)
    assert status in (1, 2)
    assert "rtsp://127.0.0.1:1/door" in err
    written = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert "secret" not in out + err + written
    picture = address.replace("door", "door.jpg")
    _, out, err = call(monkeypatch, capsys, "predict", picture, "--out", tmp_path / "out", "--model", model)
    assert "secret" not in out + err
