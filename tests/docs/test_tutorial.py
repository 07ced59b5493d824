"""The tutorial is run: its program, its commands in their order, and its Python; in a short form at every run."""

import re
import shlex

import numpy as np
import pytest
from PIL import Image

from conftest import REPOSITORY, call

PAGE = (REPOSITORY / "docs" / "tutorial.md").read_text(encoding="utf-8")
COMMANDS = [
    line.removeprefix("./dev ") for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S) for line in block.splitlines()
]
MAKE, USE = re.findall(r"```python\n(.*?)```", PAGE, re.S)
QUICK = " --epochs 1 --variant refineseg_nano --no-pretrained --set phases.0.crop_hw=[64,64] --device cpu"


@pytest.fixture
def run_tutorial(monkeypatch, capsys, tmp_path):
    """Runs the page from top to bottom in an empty folder; gives the printed mIoU and the prediction."""
    for package in ("skimage", "scipy", "shapely"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    monkeypatch.chdir(tmp_path)

    def run(more_for_training=""):
        assert COMMANDS[0] == "python make_coins.py"
        exec(MAKE, {})
        said = {}
        for line in COMMANDS[1:]:
            program, verb, *arguments = shlex.split(line + more_for_training * (" train " in line))
            assert program == "refineseg"
            status, out, err = call(monkeypatch, capsys, verb, *arguments)
            assert status == 0, err
            said[verb] = out
        assert "no findings in 12 samples (train 9, val 3)" in said["doctor"]
        names = {}
        exec(USE, names)
        return float(re.search(r"mIoU\W+([\d.]+)", said["evaluate"])[1]), names["prediction"]

    return run


def check_files(prediction):
    with Image.open("masks/coins.png") as mask:
        assert mask.size == (384, 303)
        np.testing.assert_array_equal(np.asarray(mask), prediction.mask)


def test_the_tutorial_runs_in_a_short_form(run_tutorial, tmp_path):
    _, prediction = run_tutorial(QUICK)
    check_files(prediction)
    for name in (
        "masks/coins_overlay.jpg",
        "masks/coins.geojson",
        "runs/coins/curves.png",
        "runs/coins/validation/03.png",
    ):
        assert (tmp_path / name).is_file()


@pytest.mark.slow
def test_the_tutorial_reaches_the_quality_that_it_promises(run_tutorial):
    reached, prediction = run_tutorial()
    check_files(prediction)
    assert reached > 90
    assert 0.28 < prediction.shares["coin"] < 0.42  # 36.5 % of the validation pieces
