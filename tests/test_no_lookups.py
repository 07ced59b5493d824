"""No verb and no library looks up a name or connects to another machine; each test is a process that notes it."""

import importlib.util
import json
import subprocess
import sys
import textwrap

import pytest

from conftest import write_folder
from refineseg.data.fake_scenes import fake_camvid

NOTED = """
import json, sys
noted = []
def note(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        noted.append([event, str(arguments[0])])
    elif event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
        if arguments[1][0] not in ("127.0.0.1", "::1"):
            noted.append([event, str(arguments[1])])
sys.addaudithook(note)
def run(*arguments):
    from refineseg import cli
    sys.argv = ["refineseg", *arguments]
    try:
        cli.main()
    except SystemExit as end:
        assert not end.code, (arguments, end.code)
"""
END = """
import threading, time
for thread in threading.enumerate():  # a report is sent beside the work
    if thread is not threading.main_thread():
        thread.join(2)
json.dump(noted, open(NOTES, "w"))
"""


def lookups(tmp_path, script):
    """What a new process looked up."""
    notes = tmp_path / "notes.json"
    text = NOTED + textwrap.dedent(script) + END.replace("NOTES", repr(str(notes)))
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, timeout=900, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(notes.read_text())


def test_a_look_up_would_be_noted(tmp_path):
    """So that the tests below can fail; no such name exists."""
    script = """
    import socket
    try:
        socket.getaddrinfo("analytics.invalid", 443)
    except OSError:
        pass
    """
    assert lookups(tmp_path, script) == [["socket.getaddrinfo", "analytics.invalid"]]


def test_importing_every_library_looks_up_nothing(tmp_path):
    names = ["openvino", "nncf", "onnxruntime", "onnx", "mlflow", "huggingface_hub", "ray", "lightning", "timm"]
    present = [name for name in names if importlib.util.find_spec(name)]
    script = f"""
    import importlib, refineseg
    for name in {present!r}:
        importlib.import_module(name)
    import openvino.tools.ovc
    """
    assert "openvino" in present
    assert lookups(tmp_path, script) == []


@pytest.mark.slow
def test_no_verb_looks_up_anything(tmp_path):
    scenes = fake_camvid(tmp_path / "camvid")
    pictures = write_folder(tmp_path / "own", splits={"train": 3, "val": 1})
    script = f"""
    scenes, own = {str(scenes)!r}, {str(pictures)!r}
    run("models")
    run("datasets")
    run("doctor", f"folder:{{own}}")
    run("train", "--variant", "refineseg_nano", "--data", f"folder:{{own}}", "--out", "run", "--epochs", "1",
        "--no-pretrained", "--device", "cpu", "--set", "crop_size=32", "--log", "mlflow")
    run("predict", own + "/images/val", "--model", "run/last.safetensors", "--out", "torch", "--device", "cpu")
    for form, name in (("onnx", "m.onnx"), ("openvino", "m.xml"), ("torch", "m.pt2")):
        run("export", "--model", "run/last.safetensors", "--format", form, "--out", name)
        run("predict", own + "/images/val", "--model", name, "--out", form)
    run("export", "--model", "camvid", "--format", "openvino", "--out", "int8.xml", "--precision", "int8",
        "--calibrate", f"camvid:{{scenes}}", "--images", "2")
    for backend in ("torch", "openvino", "onnxruntime"):
        run("evaluate", "--model", "camvid", "--data", f"camvid:{{scenes}}", "--backend", backend, "--device", "cpu")
    run("bench", "--model", "camvid", "--size", "64x96", "--repeats", "1", "--device", "cpu")
    """
    assert lookups(tmp_path, script) == []
