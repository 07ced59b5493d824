"""No verb and no library looks up a name or connects to another machine; each test is a process that notes it."""

import importlib.util
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import refineseg
from conftest import write_folder
from fakes.scenes import fake_camvid

NOTED = """
import os, sys
notes = os.open(os.environ["NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
def note(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        os.write(notes, f"{event} {arguments[0]}\\n".encode())
    elif event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
        if arguments[1][0] not in ("127.0.0.1", "::1"):
            os.write(notes, f"{event} {arguments[1]}\\n".encode())
sys.addaudithook(note)
"""
RUN = """
def run(*arguments):
    import sys
    from refineseg import cli
    sys.argv = ["refineseg", *arguments]
    try:
        cli.main()
    except SystemExit as end:
        assert not end.code, (arguments, end.code)
"""


def lookups(tmp_path, script):
    """What a new process looked up, and every Python that it started, as OpenVINO's reporter starts one."""
    (tmp_path / "hooks").mkdir()
    (tmp_path / "hooks" / "sitecustomize.py").write_text(NOTED)
    paths = os.pathsep.join([str(tmp_path / "hooks"), str(Path(refineseg.__file__).parents[1])])
    switched = ("DO_NOT_TRACK", "HF_HUB_", "MLFLOW_", "NNCF_", "RAY_", "CI", "PYTEST")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(switched)}
    environment |= {"PYTHONPATH": paths, "NOTES": str(tmp_path / "notes"), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", RUN + textwrap.dedent(script)],
        capture_output=True, text=True, timeout=900, cwd=tmp_path, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return (tmp_path / "notes").read_text().splitlines()


def test_a_look_up_would_be_noted(tmp_path):
    """So that the tests below can fail: in a process of its own, as a reporter does it; no such name exists."""
    script = """
    import subprocess, sys
    subprocess.run([sys.executable, "-c", "import socket; socket.getaddrinfo('analytics.invalid', 443)"])
    """
    assert lookups(tmp_path, script) == ["socket.getaddrinfo analytics.invalid"]


@pytest.mark.parametrize(
    "names",
    [
        ["openvino", "huggingface_hub"],
        pytest.param(
            ["openvino", "nncf", "onnxruntime", "onnx", "mlflow", "ray", "timm", "wandb", "supervision"],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["fast", "all"],
)
def test_importing_a_library_looks_up_nothing(tmp_path, names):
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
        "--no-pretrained", "--device", "cpu", "--set", "phases.0.crop_hw=[32,32]", "--log", "mlflow")
    run("predict", own + "/images/val", "--model", "run/last.safetensors", "--out", "torch", "--device", "cpu")
    for form, name in (("onnx", "m.onnx"), ("openvino", "m.xml"), ("torch", "m.pt2")):
        run("export", "--model", "run/last.safetensors", "--format", form, "--out", name)
        run("predict", own + "/images/val", "--model", name, "--out", form)
    run("export", "--model", "camvid", "--format", "openvino", "--out", "int8.xml", "--precision", "int8",
        "--calibrate", f"camvid:{{scenes}}", "--images", "2", "--calibrate-agreement", "0.5")
    for backend in ("torch", "openvino", "onnxruntime"):
        run("evaluate", "--model", "camvid", "--data", f"camvid:{{scenes}}", "--backend", backend, "--device", "cpu")
    run("bench", "--model", "camvid", "--size", "64x96", "--repeats", "1", "--device", "cpu")
    """
    assert lookups(tmp_path, script) == []
