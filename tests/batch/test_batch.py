"""Batch prediction of folders: every image once, whatever was done before and whatever is wrong with some."""

import json
import os
import shutil
import socket
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

import refineseg as package
from conftest import untrained
from refineseg.batch import ray_engine
from refineseg.batch import run as batch_run
from refineseg.batch.engine import in_this_process
from refineseg.batch.job import BatchJob
from refineseg.batch.keys import Part, output_key
from refineseg.batch.listing import chunks
from refineseg.batch.manifest import Manifest, ManifestRow
from refineseg.batch.stores import LocalStore
from refineseg.batch.work import BatchModel, Worker
from refineseg.class_info import ClassInfo
from refineseg.data.storage import remote_access
from refineseg.errors import ConfigError
from refineseg.images.reading import USUAL
from refineseg.predict.options import PredictorOptions
from refineseg.predict.outputs.kinds import Outputs

NAMES = ("a.jpg", "a.png", "b c.png", "sub/ü%41.png", "sub/ü%2541.png", "sub/" + "n" * 240 + ".png")


def pictures(folder, names=NAMES):
    """Coarse noise, another one in each file."""
    for seed, name in enumerate(names):
        rng = np.random.default_rng(seed)
        image = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8)).resize((48, 40), Image.Resampling.BICUBIC)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    return folder


def contents(folder):
    """Every result by its name."""
    found = (path for path in Path(folder).rglob("*") if path.is_file() and ".refineseg" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def rows_of(out):
    manifest = Manifest(LocalStore(str(out)))
    return {row["key"]: row for table in manifest.latest(manifest.state()) for row in table.to_pylist()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = pictures(tmp_path_factory.mktemp("in"))
    (found / "broken.jpg").write_bytes(b"\xff\xd8\xff and no more")
    (found / "notes.txt").write_text("no image")
    (found / ".hidden.png").write_bytes((found / "a.png").read_bytes())
    return found


@pytest.fixture
def predict(refineseg, model):
    """Calls the verb with the small model."""

    def called(source, out, *words):
        return refineseg("predict", source, "--out", out, "--model", model, "--device", "cpu", *words)

    return called


@pytest.fixture(scope="module")
def whole(folder, model, tmp_path_factory):
    """Results of one call."""
    out = tmp_path_factory.mktemp("whole")
    package.predict(folder, out, model=model, part="1/1", save="mask,confidence")
    return out


def test_masks_are_those_of_the_predictor_and_failures_have_reasons(folder, whole, model):
    predictor = package.Predictor(model)
    for name in NAMES:
        with Image.open(whole / f"{output_key(name)}.png") as mask:
            np.testing.assert_array_equal(np.asarray(mask), predictor(folder / name).mask)
    assert len(contents(whole)) == 2 * len(NAMES)
    rows = rows_of(whole)
    assert sorted(rows) == sorted([*NAMES, "broken.jpg"])
    assert (rows["broken.jpg"]["status"], rows["broken.jpg"]["cause"]) == ("failed", "input")
    assert "expected an image, got broken.jpg" in rows["broken.jpg"]["reason"]
    for name in NAMES:
        assert sum(rows[name]["areas"]) == rows[name]["height"] * rows[name]["width"] == 40 * 48
        assert {one["key"] for one in rows[name]["outputs"]} <= set(contents(whole))
    report = json.loads((whole / ".refineseg" / "report-1-of-1.json").read_text())
    assert (report["inputs"], report["done"], report["failed"], report["left_out"]) == (7, 6, 1, 2)
    assert report["total"]["pixels"] == 6 * 40 * 48 == sum(report["total"]["areas"])


def test_parts_together_make_what_one_call_makes(predict, folder, whole, tmp_path):
    made = []
    for index in (3, 1, 2):
        status, out, _ = predict(folder, tmp_path / "out", "--part", f"{index}/3", "--save", "mask,confidence")
        made.append(int(out.split()[0]))
        assert status in (0, 1)
    assert sum(made) == len(NAMES)
    assert contents(tmp_path / "out") == contents(whole)
    status, out, _ = predict(folder, tmp_path / "out", "--audit")
    assert "7 inputs, 12 outputs, 0 missing, 0 differing, 0 unnamed, 0 without row, 0 outdated, 1 failed" in out
    assert status == 1


def test_a_second_call_does_only_what_is_missing_or_changed(predict, tmp_path, model):
    source, out = pictures(tmp_path / "in"), tmp_path / "out"
    assert predict(source, out, "--part", "1/1")[0] == 0
    first, times = contents(out), {path: path.stat().st_mtime_ns for path in out.glob("*.png")}
    status, said, _ = predict(source, out, "--part", "1/1")
    assert (status, said.split()[:6]) == (0, ["0", "images", "done,", "6", "recorded", "before,"])
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.png")} == times
    Image.new("RGB", (48, 40), (9, 9, 9)).save(source / "a.png")
    pictures(source, ["new.png"])
    assert predict(source, out, "--part", "1/1")[1].startswith("2 images done, 5 recorded before, 0 failed")
    assert rows_of(out)["a.png"]["generation"] == 2
    changed = {name for name, content in contents(out).items() if content != first.get(name)}
    assert (
        {"a.png.png", "new.png.png"}
        <= changed
        <= {f"{a}.png{b}" for a in ("a", "new") for b in (".png", "_overlay.jpg")}
    )
    other = untrained(tmp_path / "other.safetensors", ClassInfo(("ground", "sky", "square")), seed=2)
    assert predict(source, out, "--part", "1/1", "--model", other)[1].startswith("7 images done, 0 recorded before")
    assert predict(source, out, "--audit")[0] == 0


def test_failures_are_tried_again_on_request_only(predict, tmp_path):
    source, out = pictures(tmp_path / "in", ["a.png", "b.png"]), tmp_path / "out"
    (out / "a.png.png").mkdir(parents=True)
    status, said, err = predict(source, out, "--part", "1/1", "--save", "mask")
    assert (status, said.startswith("1 images done, 0 recorded before, 1 failed")) == (1, True)
    assert "failed: a.png: expected to write" in err
    (out / "a.png.png").rmdir()
    assert predict(source, out, "--part", "1/1", "--save", "mask")[1].startswith(
        "0 images done, 2 recorded before, 1 f"
    )
    status, said, _ = predict(source, out, "--part", "1/1", "--save", "mask", "--retry-failed")
    assert (status, said.startswith("1 images done, 1 recorded before, 0 failed")) == (0, True)


def job_of(source, out, model, **changes):
    values = {"batch_size": 1, "threads": 1, "io_threads": 2, "part": Part(), **changes}
    outputs = values.pop("outputs", Outputs(("mask",)))
    return BatchJob(str(source), str(out), model, PredictorOptions.parse(device="cpu"), outputs, USUAL, "id", **values)


def rows_made(job, found=None):
    """What a job records, without its manifest."""
    made = in_this_process(job, BatchModel(job), found or chunks(job))
    return [item for items in made for item in items if isinstance(item, ManifestRow)]


def test_inputs_that_change_after_they_were_listed_are_predicted_as_they_are_and_vanished_ones_fail(
    tmp_path, model, monkeypatch
):
    source = pictures(tmp_path / "in", ["a.png", "b.png", "c.png"])
    job = job_of(source, tmp_path / "out", model)
    found = list(chunks(job))
    (source / "a.png").unlink()
    shutil.copyfile(source / "c.png", source / "b.png")
    rows = {row.key: row for row in rows_made(job, found)}
    causes = {key: (row.cause, row.reason.split(" between")[0]) for key, row in rows.items()}
    assert causes == {"a.png": ("input", "it vanished"), "b.png": ("", ""), "c.png": ("", "")}
    made = contents(tmp_path / "out")
    assert made["b.png.png"] == made["c.png.png"]
    Manifest(LocalStore(str(tmp_path / "out"))).write(list(rows.values()))
    assert [items[-1].kept for items in chunks(job)] == [2]  # a second call has nothing to do

    def read(store, name, before=LocalStore.read):
        content = before(store, name)
        with (source / name).open("ab") as file:  # somebody writes on and on
            file.write(b"more")
        return content

    monkeypatch.setattr(LocalStore, "read", read)
    reasons = {row.key: row.reason.split(";")[0] for row in rows_made(job, found)}
    assert reasons["c.png"] == "it changed again and again while it was read"


def test_a_folder_whose_name_is_no_utf8_costs_no_run(predict, tmp_path):
    """The reason of a failure names it, and stands in the manifest."""
    source = pictures(tmp_path / os.fsdecode(b"in\xff"), ["a.png"])
    (source / "b.png").symlink_to("/nowhere.png")
    assert predict(source, tmp_path / "out", "--part", "1/1").status == 1
    rows = rows_of(tmp_path / "out")
    assert (rows["a.png"]["status"], rows["b.png"]["status"]) == ("done", "failed")
    assert r"in\udcff/b.png, a link that leads nowhere" in rows["b.png"]["reason"]


def test_few_predictions_wait_to_be_written_where_they_are_large(tmp_path, model, monkeypatch):
    source = pictures(tmp_path / "in", [f"{i}.png" for i in range(6)])
    job = job_of(source, tmp_path / "out", model)
    predicted, most, written = [], [], []

    def predict(network, some, size, before=BatchModel._batch):
        most.append(len(predicted) - len(written))
        predicted.append(some)
        return before(network, some, size)

    def keep(worker, item, before=Worker.keep):
        time.sleep(0.15)
        row = before(worker, item)
        written.append(row)
        return row

    monkeypatch.setattr(BatchModel, "_batch", predict)
    monkeypatch.setattr(Worker, "keep", keep)
    monkeypatch.setattr("refineseg.batch.work._MOST_HELD", 2 * 40 * 48 * (3 + 1))  # images and masks of two
    assert not any(row.cause for row in rows_made(job))
    assert len(written) == 6
    assert max(most) <= 2


def test_no_memory_to_read_an_image_fails_this_image_alone(tmp_path, model, monkeypatch):
    def read(store, name, before=LocalStore.read):
        if name == "b.png":
            raise MemoryError
        return before(store, name)

    monkeypatch.setattr(LocalStore, "read", read)
    job = job_of(pictures(tmp_path / "in", ["a.png", "b.png"]), tmp_path / "out", model)
    assert {row.key: row.cause for row in rows_made(job)} == {"a.png": "", "b.png": "worker"}


def test_odd_entries_of_a_folder_stop_nothing(predict, tmp_path):
    """A link to itself cannot be asked what it is; a FIFO is no fault of the storage, which would end the run."""
    source = pictures(tmp_path / "in", ["a.png", "b.png"])
    (source / "latest").symlink_to("latest")
    (source / "self.png").symlink_to("self.png")
    (source / "nowhere.jpg").symlink_to("/nowhere.jpg")
    os.mkfifo(source / "pipe.png")
    Image.new("RGB", (70_000, 3)).save(source / "long.png")
    done = predict(source, tmp_path / "out", "--part", "1/1")
    rows = rows_of(tmp_path / "out")
    assert done.status == 1, done.err
    assert {key for key, row in rows.items() if row["status"] == "done"} == {"a.png", "b.png", "long.png"}
    for name in ("pipe.png", "self.png", "nowhere.jpg"):
        assert (rows[name]["status"], rows[name]["cause"]) == ("failed", "input"), name


def test_a_raster_and_a_huge_file_are_left_to_calls_of_their_own(tmp_path, model, monkeypatch):
    source = pictures(tmp_path / "in", ["a.png", "b.png"])
    Image.fromarray(np.zeros((40, 48), np.float32)).save(source / "height.tif")
    (source / "b.png").write_bytes((source / "b.png").read_bytes() + b"\0" * 30_000)
    monkeypatch.setattr("refineseg.batch.listing.MOST_BYTES", 20_000)
    job = job_of(source, tmp_path / "out", model)
    rows = [
        item
        for items in in_this_process(job, BatchModel(job), chunks(job))
        for item in items
        if isinstance(item, ManifestRow)
    ]
    reasons = {row.key: row.reason for row in rows}
    assert reasons["a.png"] == ""
    assert "a raster" in reasons["height.tif"]
    assert "expected at most 20000 bytes" in reasons["b.png"]


def test_neighbours_in_a_batch_change_no_bit(tmp_path, model):
    """A batch that is not full is filled up, so that the network always sees as many images."""
    source = pictures(tmp_path / "in", [f"{i}.png" for i in range(5)])
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copyfile(source / "4.png", alone / "4.png")
    for where in (source, alone):
        outputs = Outputs(("probabilities",), "tiff")
        job = job_of(where, tmp_path / f"{where.name}_out", model, batch_size=4, outputs=outputs)
        assert not any(row.cause for row in rows_made(job))
    one = (tmp_path / "alone_out" / "4.png_probabilities.tif").read_bytes()
    assert one == (tmp_path / "in_out" / "4.png_probabilities.tif").read_bytes()


def test_an_audit_finds_what_was_done_to_results_and_images(predict, tmp_path):
    source, out = pictures(tmp_path / "in", [f"{i}.png" for i in range(6)]), tmp_path / "out"
    assert predict(source, out, "--part", "1/1", "--save", "mask")[0] == 0
    assert predict(source, out, "--audit")[0] == 0
    (out / "0.png.png").unlink()
    content = bytearray((out / "1.png.png").read_bytes())
    content[-20] ^= 1
    (out / "1.png.png").write_bytes(content)
    (out / "stray.png").write_bytes(b"x")
    (source / "2.png").unlink()
    Image.new("RGB", (9, 9)).save(source / "3.png")
    pictures(source, ["new.png"])
    status, said, _ = predict(source, out, "--audit")
    assert status == 1
    assert "6 inputs, 6 outputs, 1 missing, 1 differing, 1 unnamed, 1 without row, 1 outdated, 0 failed, 1 gone" in said
    for fault in ("missing: 0.png.png", "differing: 1.png.png", "unnamed: stray.png", "without row: new.png"):
        assert fault in said


def test_any_address_that_fsspec_knows_can_hold_images_and_results(predict, folder, whole, monkeypatch):
    fs = fsspec.filesystem("memory")
    for name in (*NAMES, "broken.jpg"):
        fs.pipe_file(f"/bucket/in/{name}", (folder / name).read_bytes())
    words = ("memory://bucket/in", "memory://bucket/out", "--part", "1/1", "--save", "mask,confidence")
    try:
        assert predict(*words)[1].startswith("6 images done, 0 recorded before, 1 failed")
        found = {name.removeprefix("/bucket/out/"): fs.cat_file(name) for name in fs.find("/bucket/out")}
        assert {name: value for name, value in found.items() if not name.startswith(".refineseg")} == contents(whole)
        assert predict(*words)[1].startswith("0 images done, 7 recorded before, 1 failed")
        fs.pipe_file("/bucket/in/a.png", (folder / "b c.png").read_bytes())
        assert predict(*words)[1].startswith("1 images done, 6 recorded before, 1 failed")
        assert (
            "0 missing, 0 differing, 0 unnamed, 0 without row, 0 outdated, 1 failed"
            in predict(*words[:2], "--audit")[1]
        )
    finally:
        fs.rm("/bucket", recursive=True)


@pytest.mark.parametrize(
    ("source", "out", "words", "expected"),
    [
        ("in", "in/out", ("--part", "1/1"), "expected --out apart from the images"),
        ("in", "out", ("--part", "3/2"), "expected a part I/N with I from 1 to N, got 3/2"),
        ("in", "out", ("--engine", "spark"), "expected an engine of ray, got 'spark'"),
        ("in", "out", ("--engine", "ray", "--address", "nowhere"), "address of a Ray cluster as host:port"),
        ("in", "out", ("--engine", "ray", "--address", "127.0.0.1:1"), "Ray cluster at 127.0.0.1:1, but Connection"),
        ("in", "out", ("--address", "127.0.0.1:1"), "expected --address only with --engine ray"),
        ("in", "out", ("--retry-failed",), "expected --retry-failed only with --engine, --part or a bucket"),
        ("in", "out", ("--part", "1/1", "--smooth", "0.5"), "expected --smooth only without --engine, --part"),
        ("in", "out", ("--part", "1/1", "--no-overviews"), "expected --no-overviews only without --engine"),
        ("in", "out", ("--part", "1/1", "--areas", "a.csv"), "expected --areas only without --engine, --part"),
        ("in", "out", ("--part", "1/1", "--threads", "0"), "expected at least one thread, got 0"),
        ("in/a.png", "out", ("--engine", "ray"), "expected one folder or address of images"),
        ("nothing", "out", ("--part", "1/1"), "expected one folder or address of images"),
        ("empty", "out", ("--part", "1/1"), "found nothing there"),
        ("https://127.0.0.1:1/x", "out", ("--part", "1/1"), "what lies behind https:// cannot be listed"),
        ("memory://no/such", "out", ("--part", "1/1"), "there is no memory://no/such"),
        ("in", "empty", ("--audit",), "expected the results of a batch prediction in"),
    ],
)
def test_wrong_calls_are_refused_before_anything_is_written(
    predict, folder, tmp_path, monkeypatch, source, out, words, expected
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(remote_access, "_FIRST_PAUSE_S", 0.0)
    (tmp_path / "in").symlink_to(folder)
    (tmp_path / "empty").mkdir()
    status, _, err = predict(source, out, *words)
    assert (status, expected in err) == (2, True), err
    assert not contents(tmp_path / "out")


@pytest.mark.slow
def test_what_listens_at_the_address_and_is_no_cluster_is_not_waited_for(monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setattr(ray_engine, "_WAIT_S", 6)
    with socket.create_server(("127.0.0.1", 0)) as server:
        begun = time.monotonic()
        with pytest.raises(ConfigError, match="what listens there is none"):
            ray_engine.check_address(f"127.0.0.1:{server.getsockname()[1]}")
        assert time.monotonic() - begun < 20


def test_results_of_other_options_are_not_mixed(predict, folder, tmp_path):
    assert predict(folder, tmp_path / "out", "--part", "1/1", "--save", "mask")[0] == 1
    status, _, err = predict(folder, tmp_path / "out", "--part", "1/1", "--save", "mask,overlay")
    assert (status, "made with other kinds" in err) == (2, True)
    shutil.copytree(folder, tmp_path / "copy")
    status, _, err = predict(tmp_path / "copy", tmp_path / "out", "--part", "1/1", "--save", "mask")
    assert (status, "made with other images" in err) == (2, True)


def test_without_ray_the_error_names_the_command(predict, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("refineseg.api.predict.find_spec", lambda name: None if name == "ray" else find_spec(name))
    status, _, err = predict(folder, tmp_path / "out", "--engine", "ray")
    assert (status, "expected the package ray" in err, "refineseg[ray]" in err) == (2, True, True)


def test_a_storage_that_fails_again_and_again_stops_the_run(predict, tmp_path, monkeypatch):
    monkeypatch.setattr(batch_run, "_STORAGE_FAILURES", 3)
    source, out = pictures(tmp_path / "in", [f"{i}.png" for i in range(5)]), tmp_path / "out"
    for i in range(5):
        (out / f"{i}.png.png").mkdir(parents=True)
    status, _, err = predict(source, out, "--part", "1/1", "--save", "mask")
    assert (status, "stopped: the storage failed for 3 images in a row" in err) == (2, True)
    assert all(row["status"] == "failed" for row in rows_of(out).values())


def test_a_report_is_a_file_too(predict, folder, tmp_path):
    start = time.monotonic()
    predict(folder, tmp_path / "out", "--part", "1/1", "--json", tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    assert report == json.loads((tmp_path / "out" / ".refineseg" / "report-1-of-1.json").read_text())
    assert 0 < report["images_per_second"] <= 6 / report["seconds"]
    assert report["seconds"] < time.monotonic() - start


def test_a_folder_of_the_shipped_models_name_is_not_taken_for_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "camvid_nano").mkdir()  # a data set, for instance
    pictures(tmp_path / "in", ("a.png",))
    package.predict("in", "out", model="camvid_nano", save="mask", part="1/1", device="cpu")
    assert set(contents(tmp_path / "out")) == {"a.png.png"}


def test_an_image_that_must_be_seen_whole_and_does_not_fit_fails_alone(tmp_path, model, monkeypatch):
    source = pictures(tmp_path / "in", ["a.png"])
    Image.new("RGB", (400, 300)).save(source / "b.png")
    monkeypatch.setattr("refineseg.predict.batches._ALWAYS_THERE", 1000)
    monkeypatch.setattr("refineseg.predict.batches.free_memory", lambda: 20_000_000)
    how = PredictorOptions.parse(device="cpu", flip=True)
    rows = {row.key: row for row in rows_made(replace(job_of(source, tmp_path / "out", model), options=how))}
    assert {key: row.cause for key, row in rows.items()} == {"a.png": "", "b.png": "worker"}
    assert "to see 300x400 pixels at once; shrink it" in rows["b.png"].reason
