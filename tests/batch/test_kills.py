"""Real processes, killed at random moments: in the end every result is there, whole, once, and the same."""

import io
import os
import random
import signal
import subprocess
import sys
import time

import fsspec
import numpy as np
import psutil
import pytest
from PIL import Image

from conftest import SHARED
from fakes.remote_servers import s3_server
from refineseg.batch.manifest import Manifest
from refineseg.batch.run import audit_batch
from refineseg.batch.stores import LocalStore, open_store

COUNT = int(os.environ.get("REFINESEG_KILLED_IMAGES", "2000"))
LIMIT_S = 1500
SIZE = (48, 64)


def photographs(count):
    """Pieces of CamVid's photographs as JPEG files by name; every hundredth is damaged."""
    frames = sorted((SHARED / "camvid" / "images").rglob("*.webp"))
    if not frames:
        pytest.skip(f"the real CamVid is absent: {SHARED / 'camvid'}")
    rng, found = np.random.default_rng(0), {}
    for i in range(count):
        if i % 20 == 0:
            with Image.open(frames[(i // 20) % len(frames)]) as image:
                frame = image.convert("RGB")
        top, left = int(rng.integers(0, frame.height - SIZE[0])), int(rng.integers(0, frame.width - SIZE[1]))
        buffer = io.BytesIO()
        frame.crop((left, top, left + SIZE[1], top + SIZE[0])).save(buffer, "JPEG")
        content = buffer.getvalue()
        found[f"{i // 500}/{i:05d}.jpg"] = content[: len(content) // 3] if i % 100 == 50 else content
    return found


def start(*words, log):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    call = [sys.executable, "-m", "refineseg", "predict", *map(str, words)]
    with log.open("ab") as file:
        return subprocess.Popen(call, stdout=file, stderr=file, env=environment, start_new_session=True)


def end(process):
    """Kill a process, and what it has started and does not end by itself."""
    if process.poll() is not None:  # it was faster
        return
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    _, alive = psutil.wait_procs(children, timeout=15)
    for child in alive:
        child.kill()
    psutil.wait_procs(alive, timeout=15)


def count(store):
    return sum(len(page) for page in store.pages())


def rows_by_key(place):
    """Every row that holds; that each key has one is asserted."""
    manifest = Manifest(open_store(place))
    rows = [row for table in manifest.latest(manifest.state()) for row in table.to_pylist()]
    found = {row["key"]: row for row in rows}
    assert len(found) == len(rows)
    return found


def results(place):
    """Every result by its name."""
    store = open_store(place)
    names = [name for page in store.pages() for name, _ in page if not name.startswith(".refineseg/")]
    return {name: store.read(name) for name in names if "/.refineseg-" not in f"/{name}"}


def check(source, out, single, images):
    """Against a run of one process that nobody killed, and by the audit."""
    broken = {name for i, name in enumerate(images) if i % 100 == 50}
    rows = rows_by_key(out)
    assert sorted(images.keys() - rows.keys()) == []
    assert rows.keys() == images.keys()
    assert {name for name, row in rows.items() if row["status"] == "failed"} == broken
    made, expected = results(out), results(single)
    assert made.keys() == expected.keys() == {f"{name}.png" for name in images.keys() - broken}
    assert [name for name in made if made[name] != expected[name]] == []
    found = audit_batch(source, out)
    assert (found.inputs, found.outputs) == (len(images), len(images) - len(broken))
    assert (found.missing, found.differing, found.unnamed, found.without_row, found.outdated, found.gone) == (0,) * 6
    assert found.failed == len(broken)


def killed_until_done(words, out, *, log, generator, kills, worker=None):
    """Start again and again, and kill at random moments; the last run is left alone.

    Args:
        words: The call.
        out: Results.
        log: File for what the processes print.
        generator: Chooses the moments.
        kills: Number of times that the run is killed.
        worker: Beginning of the names of processes of which one is killed first, each time; None: none.
    """
    limit = time.monotonic() + LIMIT_S
    store, workers_killed = open_store(out), 0
    for kill in range(kills + 1):
        before, process = count(store), start(*words, log=log)
        try:
            wanted = generator.uniform(0, 10)
            while process.poll() is None and count(store) < before + 20:
                assert time.monotonic() < limit, log.read_text()[-2000:]
                time.sleep(0.2)
            time.sleep(wanted if process.poll() is None else 0)
            if worker is not None and process.poll() is None:
                children = psutil.Process(process.pid).children(recursive=True)
                named = [child for child in children if worker in " ".join(child.cmdline())]
                if named:
                    generator.choice(named).kill()
                    workers_killed += 1
                time.sleep(generator.uniform(0, 10))
            if kill < kills and process.poll() is None:
                end(process)
                continue
            assert process.wait(limit - time.monotonic()) == 1, log.read_text()[-2000:]  # some images are damaged
        finally:
            if process.poll() is None:
                end(process)
    return workers_killed


@pytest.mark.slow
def test_a_ray_cluster_whose_processes_are_killed_makes_each_result_once(tmp_path):
    pytest.importorskip("ray")
    images, log = photographs(COUNT), tmp_path / "log.txt"
    with s3_server():
        fs = fsspec.filesystem("s3", skip_instance_cache=True)
        fs.mkdir("bucket")
        fs.pipe({f"bucket/in/{name}": content for name, content in images.items()}, batch_size=8)
        common = ("s3://bucket/in", "--model", "camvid_nano", "--save", "mask", "--device", "cpu", "--threads", "1")
        words = (*common, "--out", "s3://bucket/out", "--engine", "ray", "--workers", "2")
        begun = time.monotonic()
        killed = killed_until_done(
            words, "s3://bucket/out", log=log, generator=random.Random(3), kills=3, worker="ray::"
        )
        print(f"{COUNT} images with {killed} workers and 3 drivers killed: {time.monotonic() - begun:.0f} s")
        assert killed
        assert start(*common, "--out", "s3://bucket/single", "--part", "1/1", log=log).wait(LIMIT_S) == 1
        check("s3://bucket/in", "s3://bucket/out", "s3://bucket/single", images)


@pytest.mark.slow
def test_writers_of_a_local_folder_that_are_killed_leave_no_torn_file(tmp_path):
    images, log = photographs(max(200, COUNT // 4)), tmp_path / "log.txt"
    for name, content in images.items():
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    common = (tmp_path / "in", "--model", "camvid_nano", "--save", "mask", "--device", "cpu", "--threads", "1")
    assert start(*common, "--out", tmp_path / "single", "--part", "1/1", log=log).wait(LIMIT_S) == 1
    whole = results(str(tmp_path / "single"))
    words, out = (*common, "--out", tmp_path / "out", "--part", "1/1"), tmp_path / "out"
    generator = random.Random(7)
    for _ in range(6):
        before = count(LocalStore(str(out))) if out.exists() else 0
        process = start(*words, log=log)
        while process.poll() is None and (not out.exists() or count(LocalStore(str(out))) < before + 3):
            time.sleep(0.005)
        time.sleep(generator.uniform(0, 0.5))
        end(process)
        torn = [name for name, content in results(str(out)).items() if content != whole[name]]
        assert torn == []
        rows_by_key(str(out))
    assert start(*words, log=log).wait(LIMIT_S) == 1
    check(str(tmp_path / "in"), str(out), str(tmp_path / "single"), images)
    assert not list(out.rglob(".refineseg-*")), "what killed writers left is removed"


POISON = """
import os, signal
import PIL.Image
before = PIL.Image.open
def opened(file, *arguments, **options):
    if not isinstance(file, (str, os.PathLike)):
        place = file.tell()
        poison = b"ends its process" in file.read()
        file.seek(place)
        if poison:
            os.kill(os.getpid(), signal.SIGKILL)
    return before(file, *arguments, **options)
PIL.Image.open = opened
"""


@pytest.mark.slow
def test_an_image_that_ends_every_process_fails_alone(tmp_path, monkeypatch):
    """As the system does with a process that needs too much memory."""
    pytest.importorskip("ray")
    images, log = photographs(40), tmp_path / "log.txt"
    (tmp_path / "in").mkdir()
    for i, content in enumerate(images.values()):
        poison = b"ends its process" * (i == 7)
        (tmp_path / "in" / f"{i:02d}.jpg").write_bytes(content + poison)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(POISON)
    monkeypatch.syspath_prepend(tmp_path / "site")
    words = (tmp_path / "in", "--out", tmp_path / "out", "--model", "camvid_nano", "--save", "mask", "--device", "cpu")
    ray = ("--engine", "ray", "--workers", "1", "--threads", "1")
    assert start(*words, *ray, log=log).wait(LIMIT_S) == 1, log.read_text()[-2000:]
    failed = {name: row["reason"] for name, row in rows_by_key(str(tmp_path / "out")).items() if row["cause"]}
    assert list(failed) == ["07.jpg"]
    assert "the process that worked on it ended" in failed["07.jpg"]
    assert len(results(str(tmp_path / "out"))) == len(images) - 1


@pytest.mark.slow
@pytest.mark.parametrize("engine", [("--part", "1/1"), ("--engine", "ray", "--workers", "1")], ids=["part", "ray"])
def test_sigterm_records_what_is_done_and_the_same_call_goes_on(tmp_path, engine):
    images, log = photographs(300), tmp_path / "log.txt"
    (tmp_path / "in").mkdir()
    for i, content in enumerate(images.values()):
        (tmp_path / "in" / f"{i:03d}.jpg").write_bytes(content)
    out = tmp_path / "out"
    words = (tmp_path / "in", "--out", out, "--model", "camvid_nano", "--save", "mask", "--device", "cpu")
    process = start(*words, "--threads", "1", *engine, log=log)
    while process.poll() is None and len(list(out.glob("*.png"))) < 40:
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM, log.read_text()[-2000:]
    assert "images are done and recorded" in log.read_text()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == [], "nothing of it runs on"
    recorded = len(rows_by_key(str(out)))
    assert recorded >= 20
    assert start(*words, "--threads", "1", *engine, log=log).wait(LIMIT_S) == 1, log.read_text()[-2000:]
    assert len(rows_by_key(str(out))) == len(images)
    assert f"{recorded} recorded before" in log.read_text()
