"""Two distributions from one repository: what each contains, under which licence, and one without the other."""

import hashlib
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

from conftest import REPOSITORY
from refineseg.errors import ModelFileError
from refineseg.networks.model_names import SHIPPED, model_file

FOLDERS = {"refineseg": REPOSITORY, "refineseg_weights": REPOSITORY / "packages" / "weights"}
LICENCES = {"refineseg": "Apache-2.0", "refineseg_weights": "CC-BY-NC-4.0 AND LicenseRef-NYUDv2-research"}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of both wheels and both source distributions."""
    out = tmp_path_factory.mktemp("dist")
    for folder in FOLDERS.values():
        subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", out], cwd=folder, check=True, timeout=120)
    return out


def wheel_of(built, name):
    (path,) = built.glob(f"{name}-*.whl")
    with zipfile.ZipFile(path) as archive:
        return {member: archive.read(member) for member in archive.namelist()}


@pytest.mark.parametrize("name", LICENCES)
def test_a_wheel_states_its_licence_and_contains_its_text(built, name):
    wheel = wheel_of(built, name)
    (about,) = (message_from_bytes(content) for member, content in wheel.items() if member.endswith("/METADATA"))
    assert about.get_all("License-Expression") == [LICENCES[name]]
    texts = {member.rpartition("/")[2]: content for member, content in wheel.items() if "/licenses/" in member}
    (file,) = about.get_all("License-File")
    assert texts == {file: (FOLDERS[name] / file).read_bytes()}
    needed = [line for line in about.get_all("Requires-Dist", []) if line.startswith("refineseg-weights")]
    assert needed == (["refineseg-weights<0.3,>=0.2; extra == 'weights'"] if name == "refineseg" else [])


def test_only_the_wheel_of_the_weights_contains_weights(built):
    def weights(wheel):
        kinds = (".safetensors", ".pt", ".pth", ".onnx", ".bin", ".npz", ".pt2")
        return {member: hashlib.sha256(wheel[member]).hexdigest() for member in wheel if member.endswith(kinds)}

    assert weights(wheel_of(built, "refineseg")) == {}
    wheel = wheel_of(built, "refineseg_weights")
    assert weights(wheel) == {f"refineseg_weights/{name}.safetensors": digest for name, digest in SHIPPED.items()}
    assert {f"refineseg_weights/{name}.md" for name in SHIPPED} < wheel.keys()


def test_the_source_of_refineseg_contains_neither_weights_nor_pictures(built):
    (path,) = built.glob("refineseg-*.tar.gz")
    with tarfile.open(path) as archive:
        names = [member.name for member in archive if member.isfile()]
    assert [name for name in names if re.search(r"safetensors|packages/|\.(jpg|png)$", name)] == []
    assert any(name.endswith("/src/refineseg/networks/refinenet.py") for name in names)


CALLS = """\
predict {photo} --out out
predict {photo} --model nyud --out out
evaluate --model camvid --data folder:pictures --split val
export --model camvid_nano --format onnx --out m.onnx
train --data folder:pictures --out run --init camvid
train --data folder:pictures --out run --set teacher=nyud
card --model camvid --data folder:pictures --out card
bench --model camvid
serve --port 0
demo site
"""
PROGRAM = """
import sys
import refineseg.cli
for line in sys.argv[1].splitlines():
    sys.argv = ["refineseg", *line.split()]
    try:
        refineseg.cli.main()
    except SystemExit as end:
        print(line, int(end.code or 0), "torch" in sys.modules, sep="|", flush=True)
    print("-----", file=sys.stderr, flush=True)
"""


def test_without_the_weights_every_call_that_needs_them_names_the_command_that_installs_them(folder_root, tmp_path):
    """-S leaves out what is installed from a source folder, so that only refineseg and its dependencies are there."""
    photo = next((folder_root / "images" / "val").iterdir())
    path = f"{REPOSITORY / 'src'}:{sysconfig.get_path('purelib')}"
    done = subprocess.run(
        [sys.executable, "-S", "-c", PROGRAM, CALLS.format(photo=photo)], cwd=tmp_path, env={"PYTHONPATH": path},
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    for line, told in zip(done.stdout.splitlines(), done.stderr.split("-----\n"), strict=False):
        assert line.endswith("|2|False"), (line, told)
        assert re.fullmatch(
            r"refineseg: expected the package refineseg-weights to use the shipped model \w+, but it is not installed; "
            r"install it with: .* 'refineseg\[weights\]', in a clone of the repository: .* './packages/weights'\n",
            told,
        ), (line, told)
    assert len(done.stdout.splitlines()) == len(CALLS.splitlines())
    assert list(tmp_path.iterdir()) == [folder_root]


@pytest.fixture
def not_imported(monkeypatch):
    """An import by another test does not say where the package is."""
    monkeypatch.delitem(sys.modules, "refineseg_weights", raising=False)


@pytest.mark.usefixtures("not_imported")
def test_without_the_weights_the_networks_are_listed_and_the_missing_package_is_named(refineseg, monkeypatch):
    monkeypatch.setattr(sys, "path", [place for place in sys.path if not (Path(place) / "refineseg_weights").is_dir()])
    shown = refineseg("models")
    assert shown.status == 0
    assert "refinenet_lw_resnet50" in shown.out
    assert "expected the package refineseg-weights" in shown.err


@pytest.mark.usefixtures("not_imported")
@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_file_that_was_changed_is_refused_by_name(name, tmp_path, monkeypatch):
    package = tmp_path / "refineseg_weights"
    package.mkdir()
    (package / "__init__.py").touch()
    content = bytearray(model_file(name).read_bytes())
    content[-1] ^= 1
    (package / f"{name}.safetensors").write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelFileError, match=rf"got [0-9a-f]{{64}}: it is not the shipped model {name}; install"):
        model_file(name)
    (package / f"{name}.safetensors").unlink()
    with pytest.raises(ModelFileError, match="which cannot be read .*; install refineseg-weights anew"):
        model_file(name)
