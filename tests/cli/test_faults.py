"""Every long verb under every fault: inputs stay, nothing is half written or left over, and the same call ends well.

A fault comes at moments that ``fakes/faults.py`` defines, so nothing here depends on time: at the first, the last and
the middle moment of a verb. Then the same call is made again in the folder as it is, and must give what a call without
a fault gives. Further tests of faults: kills and signals at random times in training
(``tests/training/test_survival.py``), rasters (``tests/predict/raster/test_raster_jobs.py``) and batches
(``tests/batch/test_kills.py``), and the service (``tests/serve/test_serve_faults.py``).
"""

import fnmatch
import hashlib
import shutil
import signal
import sys
from typing import NamedTuple

import numpy as np
import pytest
import torch

import refineseg
from conftest import write_folder
from fakes.faults import FAULTS, Caller
from fakes.ports import port_names

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the rights of a process are dropped as Linux does it"),
]


class Verb(NamedTuple):
    """A call.

    Args:
        words: Its arguments.
        varying: Patterns of files that differ between calls: they hold times.
        faults: Those it is tried with: some calls take long.
        journal: Beginning of files that are there until all is done.
        resumed: Arguments of the call that goes on where the first one wrote ``run.json``; empty: the same call does.
    """

    words: str
    varying: tuple[str, ...] = ()
    faults: tuple[str, ...] = tuple(FAULTS)
    journal: str = ""
    resumed: str = ""


MODEL = "--model model.safetensors"
VERBS = {
    "predict": Verb(
        f"predict in/images {MODEL} --out out --save mask,overlay --areas out/areas.csv --json out/all.json",
        ("all.json", ".refineseg.inputs.jsonl"),
    ),
    "predict, a video": Verb(f"predict clip.mkv {MODEL} --out out --save mask --json out/all.json", ("all.json",)),
    "predict, a raster": Verb(
        f"predict scene.tif {MODEL} --out out --tile 32 --save mask,overlay --no-overviews",
        ("scene_areas.json",),
        journal=".scene.tif.parts/",
    ),
    "predict, a batch": Verb(
        f"predict in/images {MODEL} --out out --save mask --part 1/1", faults=("full disk", "SIGTERM")
    ),
    "evaluate": Verb(f"evaluate {MODEL} --data folder:in --json out/a.json --out out/worst --pictures 2"),
    "card": Verb(f"card {MODEL} --data folder:in --split val --out out/card"),
    "doctor": Verb("doctor folder:in --fix --out out/repaired --json out/found.json --html out/found.html"),
    "shard": Verb("shard --data folder:in --split train --out out/shards", journal="shards/train/unfinished.json"),
    "export": Verb(f"export {MODEL} --format torch --size 48x64 --out out/net.pt2"),
    "export, for ONNX": Verb(
        f"export {MODEL} --format onnx --size 48x64 --out out/net.onnx", faults=("full disk", "SIGTERM", "SIGKILL")
    ),
    "convert": Verb("convert lw.pth --variant refinenet_lw_mobilenetv2 --classes voc --out out/lw.safetensors"),
    "bench": Verb(
        f"bench {MODEL} --size 32x32 --repeats 1 --precision float32 --backend torch --json out/speed.json",
        ("speed.json",),
    ),
    "train": Verb(
        "train --data folder:in --out out/run --variant refineseg_nano --epochs 2 --no-pretrained --batch-size 2",
        ("*",),  # its exact resumption is tested in tests/training
        ("permission lost", "folder gone"),
        resumed="train --resume --out out/run",
    ),
}
STATUS = {"SIGTERM": 128 + signal.SIGTERM, "SIGKILL": -signal.SIGKILL, "killed in a file": -signal.SIGXFSZ}
IN_A_FILE = ("full disk", "killed in a file")  # felt where a file is begun, not where it is renamed
LEAVING = ("permission lost", "SIGKILL", "killed in a file")  # after which a temporary file cannot be removed


@pytest.fixture(scope="module")
def caller():
    caller = Caller()
    yield caller
    caller.close()


@pytest.fixture(scope="module")
def whole(caller, tmp_path_factory, model):
    """What a verb gives without a fault: its moments, and its results."""
    made = {}

    def call(verb):
        if verb not in made:
            place = inputs_of(verb, tmp_path_factory.mktemp("whole"), model)
            called = caller.call(place, words_of(verb))
            assert called.status == 0, called.said
            found, temporary = results(place, verb)
            assert (bool(found), temporary) == (True, [])
            made[verb] = called.moments, found
        return made[verb]

    return call


def words_of(verb, *, resumed=False):
    has_device = verb.split(",")[0] in ("predict", "evaluate", "card", "bench", "train")
    words = VERBS[verb].resumed if resumed else VERBS[verb].words
    return [*words.split(), *["--device", "cpu"] * has_device]


def inputs_of(verb, place, model):
    """Write what a verb reads, and an empty folder OUT."""
    (place / "out").mkdir()
    write_folder(place / "in", splits={"train": 3, "val": 2})
    (place / "in" / "classes.txt").write_text("ground\nsky\nsquare\n")
    shutil.copy(model, place / "model.safetensors")
    if "lw.pth" in VERBS[verb].words:
        torch.manual_seed(0)
        network = refineseg.build("refinenet_lw_mobilenetv2", num_classes=21).network
        torch.save(port_names(network.state_dict()), place / "lw.pth")
    values = np.random.default_rng(0).integers(0, 255, (4, 3, 64, 96), dtype=np.uint8)
    if "scene.tif" in VERBS[verb].words:
        pytest.importorskip("rasterio")
        from rasterio.transform import Affine

        from fakes.rasters import write

        write(place / "scene.tif", values[0], transform=Affine(2, 0, 0, 0, -2, 0), crs="EPSG:32631")
    if "clip.mkv" in VERBS[verb].words:
        av = pytest.importorskip("av", reason="videos need PyAV")
        with av.open(str(place / "clip.mkv"), "w") as container:
            stream = container.add_stream("ffv1", rate=5)
            stream.height, stream.width, stream.pix_fmt = 64, 96, "bgr0"
            for image in values:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image.transpose(1, 2, 0)), "rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    return place


def content_of(path):
    """The bytes of a file; of a video those of its pictures, for it has a number that is drawn."""
    if path.suffix != ".mkv" or ".refineseg-" in path.name:
        return path.read_bytes()
    import av

    with av.open(str(path)) as container:
        return b"".join(frame.to_ndarray(format="rgb24").tobytes() for frame in container.decode(video=0))


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(content_of(path)).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def results(place, verb):
    """Names and contents below OUT, and the names of temporary files and folders."""
    found = contents(place / "out") if (place / "out").is_dir() else {}
    temporary = [name for name in found if "/.refineseg-" in f"/{name}"]
    # a batch names its records by the time; tests/batch compares what they say
    plain = {n: mark for n, mark in found.items() if n not in temporary and not n.startswith(".refineseg/")}
    varying, journal = VERBS[verb].varying, VERBS[verb].journal
    plain = {name: mark for name, mark in plain.items() if not journal or not name.startswith(journal)}
    return {n: "" if any(fnmatch.fnmatch(n, one) for one in varying) else m for n, m in plain.items()}, temporary


def inputs(place):
    return {name: mark for name, mark in contents(place).items() if not name.startswith("out/")}


@pytest.mark.parametrize(("verb", "fault"), [(verb, fault) for verb in VERBS for fault in VERBS[verb].faults])
def test_a_fault_leaves_nothing_half_written_and_the_same_call_ends_well(verb, fault, tmp_path, model, caller, whole):
    (moments, expected), words = whole(verb), words_of(verb)
    place = inputs_of(verb, tmp_path, model)
    before, out = inputs(place), place / "out"
    those = [i for i, letter in enumerate(moments) if letter == "b" or fault not in IN_A_FILE]
    for moment in dict.fromkeys((those[0], those[-1], those[len(those) // 2])):
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        called = caller.call(place, words, fault, moment)
        for folder in (out, *out.rglob("*")):
            if folder.is_dir():
                folder.chmod(0o755)
        told = f"at moment {moment} of {moments}, status {called.status}: {called.said}"
        assert "Traceback" not in called.said, told
        assert called.status in ((STATUS[fault],) if fault in STATUS else (1, 2)), told
        if fault == "SIGTERM":
            assert called.said.count("refineseg: stopped by SIGTERM: ") == 1, told
        elif fault not in STATUS:
            assert "expected to write" in called.said, told
        made, temporary = results(place, verb)
        assert made.items() <= expected.items(), told
        assert temporary == [] or fault in LEAVING, told
        assert inputs(place) == before, told
    out.mkdir(exist_ok=True)
    begun = any(out.rglob("run.json")) and VERBS[verb].resumed != ""
    again = caller.call(place, words_of(verb, resumed=begun))
    assert again.status == 0, again.said
    assert results(place, verb) == (expected, []), again.said
    assert not VERBS[verb].journal or not (out / VERBS[verb].journal).exists(), again.said
