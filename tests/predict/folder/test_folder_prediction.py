"""Folders of any size: the same results in any order and batch, resumed after a kill, bounded in memory."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from conftest import untrained
from refineseg.class_info import ClassInfo
from refineseg.errors import ConfigError, ImageError, OutputError
from refineseg.files.writing import _own_machine
from refineseg.images.files import read_rgb
from refineseg.predict import stream as streams
from refineseg.predict.files import FilePredictor as Predictor
from refineseg.predict.folder import file_run
from refineseg.predict.folder.file_options import FileOptions
from refineseg.predict.folder.files import predict_files
from refineseg.predict.folder.follower import Advance, share_of
from refineseg.predict.folder.plan import FileJob, plan_files
from refineseg.predict.folder.records import RECORD, InputsRecord, file_times
from refineseg.predict.options import PredictorOptions
from refineseg.predict.outputs.kinds import Outputs
from refineseg.predict.stream import StreamOptions
from refineseg.predict.views.authors import network_images
from refineseg.predict.views.crf_options import CrfOptions
from refineseg.predict.views.scoring_views import SCORING_VIEWS
from refineseg.predict.views.tiling import TilingOptions
from refineseg.scoring import Scorer
from refineseg.segmenter import build, load
from refineseg.terminal.following import TerminalFollower
from refineseg.terminal.printing import Terminal

CLASSES = ClassInfo(("ground", "sky", "square"))
SIZES = ((40, 50), (33, 64), (40, 50), (40, 50), (33, 64), (64, 33), (1, 1), (40, 50))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return [untrained(folder / f"{seed}.safetensors", CLASSES, seed=seed) for seed in (1, 2)]


def write_pictures(folder, sizes=SIZES, *, start=0):
    folder.mkdir(parents=True, exist_ok=True)
    for i, size in enumerate(sizes, start):
        pixels = np.random.default_rng(i).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")
    return folder


def run(inputs, out, model, *, console=None, outputs=None, **files):
    options = FileOptions(outputs or Outputs(("mask",)), **files)
    how = PredictorOptions.parse(device="cpu")
    follower = TerminalFollower(console or Terminal(quiet=True))
    return predict_files(inputs, out, model=model, options=how, files=options, follower=follower)


def contents(folder, pattern="*.png"):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob(pattern))}


class Brightest(Scorer):
    """The class of a pixel is its brightest channel; remembers the batches it was given."""

    class_info = CLASSES

    def __init__(self):
        self.batches = []

    def logits(self, images):
        return images.float()

    def class_map(self, images):
        self.batches.append(tuple(images.shape))
        return images.argmax(dim=1)


# ------------------------------------------------------------------------------------------------------------- results


def test_masks_do_not_depend_on_order_batches_threads_or_company(models, tmp_path, capsys):
    """Also not by a bit: the images' networks see the same numbers."""
    folder = write_pictures(tmp_path / "in")
    run([folder], tmp_path / "plain", models[0], batch_size=1, workers=1)
    first = capsys.readouterr().out
    run([folder], tmp_path / "batched", models[0], batch_size=3, workers=4)
    assert capsys.readouterr().out == first, "lines stand in the order of the files"
    run(sorted(folder.iterdir(), reverse=True), tmp_path / "reversed", models[0], batch_size=2)
    run([folder / "004.png"], tmp_path / "alone", models[0])
    expected = contents(tmp_path / "plain")
    assert len(expected) == len(SIZES)
    assert contents(tmp_path / "batched") == expected
    assert contents(tmp_path / "reversed") == expected
    assert contents(tmp_path / "alone") == {"004.png": expected["004.png"]}


def test_images_of_one_size_share_a_batch(tmp_path):
    folder = write_pictures(tmp_path / "in")
    scorer = Brightest()
    found = dict(Predictor(scorer).stream(sorted(folder.iterdir()), batch_size=3))
    assert sorted(scorer.batches) == [(1, 3, 1, 1), (1, 3, 40, 50), (1, 3, 64, 33), (2, 3, 33, 64), (3, 3, 40, 50)]
    assert list(found) == sorted(folder.iterdir()), "in the order of the paths"
    for path, prediction in found.items():
        np.testing.assert_array_equal(prediction.mask, read_rgb(path).argmax(axis=2))


def test_memory_holds_a_window_of_files_and_a_budget_of_pixels(tmp_path, monkeypatch):
    folder = write_pictures(tmp_path / "in", [(20, 20)] * 12)
    paths = [sorted(folder.iterdir())[i % 12] for i in range(300)]
    monkeypatch.setattr(streams, "PIXEL_BYTES_AHEAD", 3 * 7 * 20 * 20)
    pulled, decoded, most_ahead, finished = 0, 0, [0, 0], 0
    true_read = streams.read_picture

    def counted(path, **options):
        nonlocal decoded
        decoded += 1
        return true_read(path, **options)

    def pulling():
        nonlocal pulled
        for path in paths:
            pulled += 1
            yield path

    monkeypatch.setattr(streams, "read_picture", counted)
    for _ in Predictor(Brightest()).stream(pulling(), batch_size=1, workers=8):
        most_ahead = [max(most_ahead[0], pulled - finished), max(most_ahead[1], decoded - finished)]
        finished += 1
    assert finished == 300
    assert most_ahead[0] <= 40, "paths are taken as they are needed"
    assert most_ahead[1] <= 5, "three images fit into the budget"


def test_a_batch_that_needs_too_much_memory_is_predicted_one_by_one(tmp_path):
    class Small(Brightest):
        def class_map(self, images):
            if images.shape[0] > 1 or images.shape[2] > 50:
                raise RuntimeError("CUDA out of memory")
            return super().class_map(images)

    folder = write_pictures(tmp_path / "in")
    failed = {}
    found = dict(Predictor(Small()).stream(sorted(folder.iterdir()), batch_size=4, failed=failed.__setitem__))
    assert len(found) == 7
    [(path, error)] = failed.items()
    assert str(error) == f"{path}: not enough memory for 64x33 pixels; predict it in tiles, or shrink it"


def test_a_stream_predicts_all_it_can_and_then_says_what_failed(tmp_path):
    folder = write_pictures(tmp_path / "in", [(8, 9)] * 3)
    for name in ("0 empty.png", "1 empty.png"):
        (folder / name).write_bytes(b"")
    found = []
    with pytest.raises(
        ImageError, match=r"0 empty\.png, which is empty \(0 bytes\).* \(and 1 more\); all other images"
    ):
        found.extend(path.name for path, _ in Predictor(Brightest()).stream(folder.iterdir(), confidence=True))
    assert sorted(found) == ["000.png", "001.png", "002.png"]


def test_an_image_that_may_not_be_written_to_is_predicted():
    image = np.asarray(Image.new("RGB", (5, 4), (9, 200, 3)))
    assert not image.flags.writeable
    assert (Predictor(Brightest())(image).mask == 1).all()


def test_numbers_of_images_and_threads_below_one_are_refused():
    with pytest.raises(ConfigError, match="expected a batch size of at least 1, got 0"):
        StreamOptions(batch_size=0)
    with pytest.raises(ConfigError, match="expected a number of workers of at least 1, got -2"):
        StreamOptions(workers=-2)


# ------------------------------------------------------------------------------------------------------------- resuming


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_and_ends_as_if_it_had_not_been(models, tmp_path):
    folder, out, whole = write_pictures(tmp_path / "in", [(32, 40)] * 60), tmp_path / "out", tmp_path / "whole"
    run([folder], whole, models[0], outputs=Outputs(("mask", "overlay")), areas=tmp_path / "whole.csv")
    command = ["predict", str(folder), "--out", str(out), "--model", models[0], "--device", "cpu"]
    with subprocess.Popen([sys.executable, "-m", "refineseg", *command], stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while len(list(out.glob("*_overlay.jpg"))) < 5 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    done = contents(out)
    assert 5 <= len(done) < 60
    for name, content in done.items():
        assert content == contents(whole)[name], "what has its name is complete"
    (out / f".refineseg-{_own_machine()}-{process.pid}-abcd_123.png").write_bytes(b"half")
    times = {path: path.stat().st_mtime_ns for path in out.glob("*_overlay.jpg")}
    outputs = Outputs(("mask", "overlay"))
    result = run([folder], out, models[0], outputs=outputs, resume=True, areas=tmp_path / "resumed.csv")
    assert result.resumed >= 5
    assert result.done + result.resumed == 60
    assert contents(out, "[!.]*") == contents(whole, "[!.]*")
    assert not list(out.glob(".refineseg-*"))
    assert all(path.stat().st_mtime_ns == before for path, before in times.items())
    names = [line.split(",")[1:] for line in (tmp_path / "resumed.csv").read_text().splitlines()]
    assert names == [line.split(",")[1:] for line in (tmp_path / "whole.csv").read_text().splitlines()]


def test_results_of_another_model_or_other_options_are_not_taken_for_done(models, tmp_path):
    folder, out = write_pictures(tmp_path / "in", [(20, 30)] * 4), tmp_path / "out"
    run([folder], out, models[0])
    with pytest.raises(ConfigError, match=rf"expected to go on with the results in {out}, but .* another model; use"):
        run([folder], out, models[1], resume=True)
    with pytest.raises(ConfigError, match=r"made with another unknown_below; use the same, choose another --out"):
        run([folder], out, models[0], resume=True, outputs=Outputs(("mask",), unknown_below=0.5))
    assert run([folder], out, models[0], resume=True).resumed == 4
    more = write_pictures(tmp_path / "more", [(20, 30)] * 2, start=4)
    time.sleep(0.02)
    run([more], out, models[1])  # without resume: the folder's record is now the second model's
    result = run([folder, more], out, models[1], resume=True)
    assert (result.done, result.resumed) == (4, 2), "the first model's results are older than the record"
    run([folder, more], tmp_path / "second", models[1])
    assert contents(out) == contents(tmp_path / "second")


def test_a_result_that_another_model_made_since_is_made_anew(models, tmp_path):
    """A call for one file keeps no record of its own, but it must not be taken for a part of the recorded run."""
    folder, out = write_pictures(tmp_path / "in", [(20, 30)] * 3), tmp_path / "out"
    run([folder], out, models[0])
    whole = contents(out)
    run([folder / "001.png"], out, models[1])
    assert contents(out) != whole
    result = run([folder], out, models[0], resume=True)
    assert (result.done, result.resumed) == (1, 2)
    assert contents(out) == whole
    run([folder / "001.png"], out, models[0])  # the same model: nothing has to be made anew
    assert run([folder], out, models[0], resume=True).resumed == 3


def test_areas_of_resumed_tiff_images_are_counted(models, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.tif")
    run([folder], out, models[0])
    (out / "1.png").unlink()
    result = run([folder], out, models[0], resume=True, areas=tmp_path / "a.csv")
    assert (result.done, result.resumed) == (1, 2)
    assert result.total.pixels == 3 * 20 * 30


def test_a_kind_of_result_that_is_missing_is_made_when_resumed(models, tmp_path):
    folder, out = write_pictures(tmp_path / "in", [(20, 30)] * 3), tmp_path / "out"
    run([folder], out, models[0])
    both = Outputs(("mask", "overlay"))
    assert run([folder], out, models[0], resume=True, outputs=both).done == 3
    (out / "001.png").unlink()
    result = run([folder], out, models[0], resume=True, outputs=both)
    assert (result.done, result.resumed) == (1, 2)


def test_resuming_without_a_record_predicts_all_anew_and_says_so(models, tmp_path, capsys):
    folder, out = write_pictures(tmp_path / "in", [(20, 30)] * 2), tmp_path / "out"
    run([folder], out, models[0])
    (out / RECORD).write_text("no record")
    assert run([folder], out, models[0], resume=True, console=Terminal(stderr=True)).done == 2
    assert "has no record of an earlier run" in " ".join(capsys.readouterr().err.split())
    assert json.loads((out / RECORD).read_text())["format"] == 1


def test_areas_of_resumed_results_need_their_masks(tmp_path):
    with pytest.raises(ConfigError, match=r"expected masks among the results \(--save mask\) to count the areas"):
        FileOptions(Outputs(("overlay",)), areas=tmp_path / "a.csv", resume=True)


# ----------------------------------------------------------------------------------------------------------------- plan


@pytest.mark.slow
def test_a_folder_of_many_files_is_planned_in_a_few_seconds(tmp_path):
    for i in range(20):
        (tmp_path / "in" / f"{i}").mkdir(parents=True)
        for j in range(1000):
            os.close(os.open(tmp_path / "in" / f"{i}" / f"{j}.jpg", os.O_CREAT))
    before = time.process_time()
    plan = plan_files([tmp_path / "in"], tmp_path / "out", endings=(".png", "_overlay.jpg"))
    assert len(plan.files) == 20_000
    assert time.process_time() - before < 4, "a hundred thousand take five times as long"


def touched(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def planned(inputs, out, endings=(".png", "_overlay.jpg")):
    plan = plan_files(inputs, out, endings=endings)
    return {Path(job.source).name: Path(job.target).relative_to(out).as_posix() for job in plan.files}


def test_folders_are_kept_and_results_inside_an_input_folder_are_no_input(tmp_path):
    folder = touched(tmp_path / "in", "a.jpg", "deep/er/b.v2.PNG", "out/a.png", "deep/.hidden.png", "notes.txt")
    assert planned([folder], folder / "out") == {"a.jpg": "a", "b.v2.PNG": "deep/er/b.v2"}


def test_a_file_named_twice_is_predicted_once(tmp_path, monkeypatch):
    folder = touched(tmp_path / "in", "a.jpg")
    monkeypatch.chdir(tmp_path)
    assert planned([folder / "a.jpg", folder, "in/a.jpg"], tmp_path / "out") == {"a.jpg": "a"}
    (folder / "b.jpg").symlink_to(folder / "a.jpg")
    assert planned([folder], tmp_path / "out") == {"a.jpg": "a", "b.jpg": "b"}
    plan = plan_files(["clip.mp4", "clip.mp4"], tmp_path / "out", endings=(".png",))
    assert plan.videos == [("clip.mp4", str(tmp_path / "out" / "clip"))]


def test_inputs_without_images_say_why(tmp_path):
    folder = touched(tmp_path / "in", "a.jpg")
    for inputs, out, said in (
        ([""], tmp_path / "out", "got an empty name"),
        ([folder], folder, r"found none; all 1 are in .*in, where results go: choose another --out"),
        ([tmp_path / "in"], tmp_path, "all 1 are in"),
    ):
        plan = plan_files(inputs, out, endings=(".png",))
        assert plan.files == []
        [failure] = plan.failures
        assert re.search(said, failure)


@pytest.mark.parametrize(
    ("names", "endings"),
    [
        (("a.jpg", "a.png"), (".png",)),
        (("a.jpg", "a_confidence.jpg"), (".png", "_confidence.png")),
        (("a.jpg", "a_confidence.tif"), (".png", "_confidence.tif")),
    ],
)
def test_results_that_would_overwrite_each_other_are_refused(tmp_path, names, endings):
    folder = touched(tmp_path / "in", *names)
    with pytest.raises(ConfigError, match=r"expected different names, but .* would both become .*; predict them into"):
        planned([folder], tmp_path / "out", endings)


def test_results_that_would_overwrite_an_input_are_refused(tmp_path):
    folder = touched(tmp_path / "in", "a.png", "b.jpg", "b_overlay.jpg", "c.tif", "clip.mp4")
    (tmp_path / "out").mkdir()
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "out")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "d.png").symlink_to(tmp_path / "out" / "d.png")
    for inputs, out in (
        ([folder / "a.png"], folder),
        ([folder / "b.jpg", folder / "b_overlay.jpg"], folder),
        ([folder / "c.tif"], folder),
        ([folder / "clip.mp4"], folder),
        ([touched(tmp_path / "out", "d.png") / "d.png"], tmp_path / "in" / "linked"),
    ):
        with pytest.raises(ConfigError, match="expected --out apart from the inputs, but results would overwrite"):
            planned(inputs, out)


def test_videos_addresses_and_cameras_are_told_from_files(tmp_path):
    folder = touched(tmp_path, "clip.mp4", "a.jpg")
    inputs = [str(folder / "clip.mp4"), "rtsp://host/door", str(folder / "a.jpg"), str(folder / "no.jpg")]
    plan = plan_files(inputs, tmp_path / "out", endings=(".png",))
    assert [Path(stem).name for _, stem in plan.videos] == ["clip", "door"]
    assert [Path(job.source).name for job in plan.files] == ["a.jpg"]
    assert plan.failures == [f"skipped: expected an image or a folder, but there is no {folder / 'no.jpg'}"]


# ------------------------------------------------------------------------------------------------------------- progress


def test_where_there_is_no_terminal_progress_is_a_line_now_and_then(capsys):
    now = [0.0]
    follower = TerminalFollower(Terminal(stderr=True), clock=lambda: now[0])
    with Advance(follower, what="images", total=1010) as progress:
        for _ in range(10):
            progress.leave_out()
        for _ in range(500):
            now[0] += 0.1
            progress.advance()
    assert capsys.readouterr().err.splitlines() == ["300 of 1000 images, 10 per s, 1 min 10 s left"]
    now[0] = 0.0
    with share_of(follower, "big.tif") as told:
        told(0.5)  # was done by an earlier run
        now[0] = 100.0
        told(0.6)
    assert capsys.readouterr().err.splitlines() == ["big.tif: 60.0 %, 6 min 40 s left"]


class Heard:
    """A follower that keeps what it is told."""

    def __init__(self):
        self.events = []

    def __getattr__(self, name):
        return lambda *what: self.events.append((name, *what))


def test_a_run_tells_whoever_follows_it_and_prints_nothing(models, tmp_path, capfd):
    folder, heard = write_pictures(tmp_path / "in", [(20, 30), (20, 30)]), Heard()
    (folder / "zz.png").write_bytes(b"no image")
    options, files = PredictorOptions.parse(device="cpu"), FileOptions(Outputs(("mask",)), workers=1)
    predict_files([folder], tmp_path / "out", model=models[0], options=options, files=files, follower=heard)
    assert capfd.readouterr() == ("", "")
    results = [str(what[0]).partition(": ")[0] for name, *what in heard.events if name == "result"]
    assert results == [str(folder / name) for name in ("000.png", "001.png")]
    assert [name for name, *_ in heard.events].count("failed") == 1
    counts = [tuple(what) for name, *what in heard.events if name == "counted"]
    assert counts == [("images", done, 3) for done in range(4)]
    assert [name for name, *_ in heard.events][-1] == "ended"


def test_a_disk_that_takes_nothing_more_ends_the_run_and_says_how_to_go_on(models, tmp_path, monkeypatch, capsys):
    folder = write_pictures(tmp_path / "in", [(8, 8)] * 30)

    def full(prediction, target, outputs, *, name):
        raise OutputError(f"expected to write {target}", no_room=True)

    monkeypatch.setattr(file_run, "write_prediction", full)
    result = run([folder], tmp_path / "out", models[0], console=Terminal(stderr=True))
    assert 11 <= len(result.failures) < 31
    assert "stopped: the disk did not take the results of" in result.failures[-1]
    assert "run the same command again with --resume" in capsys.readouterr().err


# --------------------------------------------------------------------------------------- large images, rasters, videos


def test_an_image_larger_than_the_tile_is_cut_with_the_same_mask(models, tmp_path, capsys):
    """Also confidences, polygons and areas come out of the tiles; the proof names the largest difference."""
    folder = write_pictures(tmp_path / "in", [(100, 150), (20, 30)])
    whole = run([folder], tmp_path / "whole", models[0], outputs=Outputs(("mask", "confidence")))
    options = PredictorOptions.parse(device="cpu", tiling=TilingOptions(64))
    capsys.readouterr()
    result = predict_files(
        [folder],
        tmp_path / "cut",
        model=models[0],
        options=options,
        files=FileOptions(Outputs(("mask", "confidence")), prove=True),
        follower=TerminalFollower(Terminal(quiet=True)),
    )
    assert contents(tmp_path / "cut", "[0-9]*[0-9].png") == contents(tmp_path / "whole", "[0-9]*[0-9].png")
    for name in ("000", "001"):
        images = [Image.open(tmp_path / kind / f"{name}_confidence.png") for kind in ("whole", "cut")]
        whole_values, cut_values = (np.asarray(image).astype(int) for image in images)
        assert np.abs(whole_values - cut_values).max() <= 1
    assert result.total.of_classes.tolist() == whole.total.of_classes.tolist()
    [proof] = result.proofs
    assert proof["largest_difference"] < 1e-4
    assert proof["equal_share"] == 1.0
    out = capsys.readouterr().out
    assert "000.png: proof: largest difference" in out
    assert "001.png: proof: it is predicted whole" in out


@pytest.mark.slow
def test_an_image_that_does_not_fit_into_the_memory_is_cut_by_itself(models):
    segmenter = load(models[0])
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    needed = Predictor(segmenter, device="cpu", tiling=TilingOptions(memory_bytes=10**12))
    scarce = Predictor(segmenter, device="cpu", tiling=TilingOptions(memory_bytes=10**9))
    assert not needed.cuts((2000, 2000))
    assert scarce.cuts((2000, 2000))
    tiled = Predictor(segmenter, device="cpu", tiling=TilingOptions(64))(image, probabilities=True)
    expected = Predictor(segmenter, device="cpu")(image, probabilities=True)
    np.testing.assert_array_equal(tiled.mask, expected.mask)
    assert np.abs(tiled.probabilities - expected.probabilities).max() < 1e-4


def test_tiles_do_not_go_with_what_needs_the_whole_image(models):
    with pytest.raises(ConfigError, match=r"expected tiles of 64 pixels with a segmenter, no scales, no mirror images"):
        Predictor(load(models[0]), device="cpu", flip=True, tiling=TilingOptions(64))
    with pytest.raises(ConfigError, match=r"without scales, mirror images, another protocol and CRF for a raster"):
        Predictor(load(models[0]), device="cpu", flip=True).raster("a.tif", "b.tif")


def test_rasters_and_videos_are_predicted_from_python(models, tmp_path):
    rasterio = pytest.importorskip("rasterio")
    pytest.importorskip("av")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 50), dtype=np.uint8)
    place = rasterio.Affine(2, 0, 500_000, 0, -2, 5_000_000)
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", width=50, height=40, count=3, dtype="uint8", crs="EPSG:32633",
        transform=place,
    ) as raster:  # fmt: skip
        raster.write(pixels)
    predictor = Predictor(load(models[0]), device="cpu")
    result = predictor.raster(tmp_path / "a.tif", tmp_path / "out" / "a.tif")
    expected = predictor(np.ascontiguousarray(pixels.transpose(1, 2, 0))).mask
    with rasterio.open(result.paths["mask"]) as stored:
        assert stored.crs.to_epsg() == 32633
        np.testing.assert_array_equal(stored.read(1), expected)
    assert sum(result.areas_m2) == pytest.approx(40 * 50 * 4)
    write_pictures(tmp_path / "frames", [(32, 48)] * 3)
    video = predictor.video(tmp_path / "frames" / "%03d.png", tmp_path / "out" / "clip.mp4")
    assert video.frames == 3
    assert (tmp_path / "out" / "clip.mp4").is_file()


def test_rasters_videos_and_images_go_through_one_call(models, tmp_path, capsys):
    pytest.importorskip("rasterio")
    pytest.importorskip("av")
    folder = write_pictures(tmp_path / "in", [(32, 48)] * 2)
    tifffile.imwrite(folder / "heights.tif", np.linspace(0, 9, 32 * 48, dtype=np.float32).reshape(32, 48))
    write_pictures(tmp_path / "frames", [(32, 48)] * 3)
    result = run(
        [folder, str(tmp_path / "frames" / "%03d.png"), tmp_path / "no.mp4"],
        tmp_path / "out",
        models[0],
        outputs=Outputs(("mask", "overlay")),
        areas=tmp_path / "areas.csv",
    )
    assert result.done == 2
    [failure] = result.failures
    assert "no.mp4" in failure
    assert {"000.png", "heights.tif", "heights_overlay.jpg", "frames.mp4", "frames_mask.mkv"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }
    rows = (tmp_path / "areas.csv").read_text().splitlines()
    assert [Path(row.split(",")[0]).name for row in rows[1:]] == [
        "000.png",
        "001.png",
        "heights.tif",
        "%03d.png",
        "total",
    ]
    assert int(rows[-1].split(",")[1]) == 32 * 48 * 6
    assert len(capsys.readouterr().out.splitlines()) == 4
    again = run([folder], tmp_path / "out", models[0], outputs=Outputs(("mask", "overlay")), resume=True)
    assert again.failures == []
    assert again.others[0]["tiles_kept"] == again.others[0]["tiles"], "a raster that is there is not predicted again"


def test_an_image_that_must_be_seen_whole_and_does_not_fit_costs_a_line(models, tmp_path, monkeypatch):
    """Without the check the system would end the whole process."""
    folder = write_pictures(tmp_path / "in", [(300, 400), (20, 30)])
    monkeypatch.setattr("refineseg.predict.batches._ALWAYS_THERE", 1000)
    monkeypatch.setattr("refineseg.predict.batches.free_memory", lambda: 20_000_000)
    how = PredictorOptions.parse(device="cpu", flip=True)
    options, follower = FileOptions(Outputs(("mask",))), TerminalFollower(Terminal(quiet=True))
    result = predict_files([folder], tmp_path / "out", model=models[0], options=how, files=options, follower=follower)
    assert (result.done, len(result.failures)) == (1, 1)
    assert "000.png: about 0 GB are needed to see 300x400 pixels at once; shrink it" in result.failures[0]
    how = PredictorOptions.parse(device="cpu", tiling=TilingOptions())  # as the command line has it: it would be cut
    whole = predict_files([folder], tmp_path / "cut", model=models[0], options=how, files=options, follower=follower)
    assert whole.done == 2


def test_the_memory_of_a_whole_image_is_that_of_what_the_network_sees():
    """The authors' protocols bring a photograph of 24 megapixels down to a shorter side of 800 pixels."""
    segmenter = build("refineseg_nano", num_classes=2)
    plain, authors = (Predictor(segmenter, device="cpu", protocol=name) for name in ("light_weight", "authors"))
    assert plain.whole_bytes((4000, 6000)) > 10**10
    assert authors.whole_bytes((4000, 6000)) < 2 * 10**9
    seen = network_images(torch.zeros(1, 3, 2, 20, dtype=torch.uint8), 1.0, view=SCORING_VIEWS["authors"])
    assert authors.whole_bytes((2, 20)) > 600 * seen[0, 0].numel()  # which is enlarged to a shorter side of 450 first


def test_the_memory_of_a_whole_image_counts_its_classes():
    """Measured with 300 classes of 500x500 pixels: 70 MB for classes, 970 for probabilities, 1320 mirrored too."""
    segmenter = build("refineseg_nano", num_classes=300)
    plain, mirrored = (Predictor(segmenter, device="cpu", flip=flip) for flip in (False, True))
    assert 70e6 < plain.whole_bytes((500, 500)) < 300e6
    assert 970e6 < plain.whole_bytes((500, 500), scored=True) < 2e9
    assert 1320e6 < mirrored.whole_bytes((500, 500)) < 2e9


@pytest.mark.parametrize(
    ("classes", "size_hw", "measured"), [(2, (1024, 2048), 583), (19, (1024, 2048), 887), (100, (512, 1024), 3360)]
)
def test_the_memory_of_a_dense_crf_is_what_was_measured(classes, size_hw, measured):
    """The peak of a process that predicts a street of Cityscapes, less that before, in bytes per pixel."""
    predictor = Predictor(build("refineseg_nano", num_classes=classes), device="cpu", crf=CrfOptions())
    assert measured < predictor.whole_bytes(size_hw) / (size_hw[0] * size_hw[1]) < 1.3 * measured


def test_an_image_that_is_replaced_while_it_is_predicted_is_not_taken_for_done(tmp_path):
    source, out = tmp_path / "a.png", tmp_path / "out"
    out.mkdir()
    source.write_bytes(b"old")
    job, record = FileJob(str(source), str(out / "a"), str(source)), InputsRecord(out, resume=False)
    read_at = file_times(job.source)
    source.write_bytes(b"replaced")  # after it was read
    (out / "a.png").write_bytes(b"the mask of the old one")
    record.add(job, read_at)
    made = (out / "a.png").stat().st_mtime_ns
    assert not InputsRecord(out, resume=True).is_unchanged(job, made_ns=made)


def test_results_that_a_run_into_a_subfolder_replaced_are_made_anew(models, tmp_path):
    folder, out = write_pictures(tmp_path / "in", [(20, 30)]), tmp_path / "out"
    write_pictures(folder / "cam", [(20, 30)] * 3)
    run([folder], out, models[0])
    whole = contents(out / "cam")
    run([folder / "cam"], out / "cam", models[1])
    assert contents(out / "cam") != whole
    result = run([folder], out, models[0], resume=True)
    assert (result.done, result.resumed) == (3, 1)
    assert contents(out / "cam") == whole
