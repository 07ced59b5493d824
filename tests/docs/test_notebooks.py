"""The notebooks run from top to bottom in an empty folder, and show what they say."""

import os
from pathlib import Path

import pytest

import refineseg
from conftest import REPOSITORY

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")

NOTEBOOKS = sorted((REPOSITORY / "docs" / "notebooks").glob("*.ipynb"))
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # sockets of the kernel's client
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def executed(path, folder, monkeypatch):
    """The text of all outputs of a notebook, and the kinds of what it shows."""
    monkeypatch.setenv(
        "PYTHONPATH",
        os.pathsep.join([str(Path(refineseg.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH", "")])]),
    )
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    data = [output["data"] for output in outputs if "data" in output]
    texts = [output.get("text", "") for output in outputs] + [shown.get("text/plain", "") for shown in data]
    return "\n".join(texts), {kind for shown in data for kind in shown}


def test_the_notebook_on_own_data_trains_a_model_that_has_learned(tmp_path, monkeypatch):
    text, kinds = executed(REPOSITORY / "docs" / "notebooks" / "own_data.ipynb", tmp_path, monkeypatch)
    assert "24 ('meadow', 'sky', 'balloon') (64, 96, 3) [0 1 2]" in text
    assert {"text/html", "image/png"} <= kinds
    reached = float(text.rpartition("mIoU ")[2].split()[0])
    assert reached > 0.6, text
    for name in ("mask.png", "overlay.jpg", "regions.geojson", "runs/first/best.safetensors"):
        assert (tmp_path / name).is_file()


@pytest.mark.slow
def test_the_notebook_on_large_images_gets_equal_masks(tmp_path, monkeypatch):
    for package in ("rasterio", "shapely", "sklearn"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    text, kinds = executed(REPOSITORY / "docs" / "notebooks" / "large_images.ipynb", tmp_path, monkeypatch)
    assert "EPSG:32633 (0.5, 0.5) (427, 1280)" in text
    assert float(text.partition(" % of the pixels are equal")[0].split()[-1]) > 99
    assert {"text/html", "image/png"} <= kinds
    assert (tmp_path / "out" / "scene.geojson").is_file()


def test_every_notebook_is_tested_and_holds_no_outputs():
    assert [path.stem for path in NOTEBOOKS] == ["large_images", "own_data"]
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        assert not [cell for cell in cells if cell.cell_type == "code" and (cell.outputs or cell.execution_count)]
