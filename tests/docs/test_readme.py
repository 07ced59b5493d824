"""What the README promises is run: its commands, its Python, its numbers of parameters."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import refineseg
from conftest import REPOSITORY, call, write_folder
from refineseg.networks.model_names import model_file

ROOT = REPOSITORY
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHELL = [line for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.splitlines() if line.strip()]


def command(beginning):
    """The one README command that begins so, as it would run inside ./dev."""
    found = [line for line in SHELL if line.startswith(f"./dev {beginning}")]
    assert len(found) == 1, (beginning, SHELL)
    return found[0].removeprefix("./dev ")


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs a line of the README in an empty folder and gives what it prints."""
    monkeypatch.chdir(tmp_path)

    def ran(line):
        program, *arguments = shlex.split(line)
        assert program == "refineseg"
        status, out, err = call(monkeypatch, capsys, *arguments)
        assert status == 0, err
        return out

    return ran


def test_the_first_command_segments_scikit_learns_photograph(run, tmp_path):
    line = re.search(r"sh -c '(.*)'", command("sh -c")).group(1)
    from sklearn import datasets

    photo = Path(datasets.__file__).parent / "images" / "china.jpg"
    words = [str(photo) if word.endswith("china.jpg") else word for word in shlex.split(line)]
    assert words != shlex.split(line)
    shown = run(shlex.join(words))
    assert "sky" in shown
    with Image.open(tmp_path / "masks" / "china.png") as mask, Image.open(photo) as image:
        assert mask.size == image.size
        share = (np.asarray(mask)[:100] == 0).mean()  # sky fills the upper part of this picture
    assert share > 0.5
    assert (tmp_path / "masks" / "china_overlay.jpg").is_file()


def test_the_commands_on_your_own_pictures_run_in_the_given_order(run, tmp_path):
    write_folder(tmp_path / "my_pictures", splits={"train": 2, "val": 1}, size=(32, 32))
    (tmp_path / "my_pictures" / "classes.txt").write_text("ground\nsky\nsquare\n")
    write_folder(tmp_path / "other", splits={"val": 2}, size=(20, 30))
    (tmp_path / "other" / "images" / "val").rename(tmp_path / "new_pictures")
    quick = " --epochs 1 --no-pretrained --set phases.0.crop_hw=[32,32] --device cpu"
    run(command("refineseg train --data") + quick)
    run(command("refineseg predict --model"))
    assert (tmp_path / "masks" / "001.png").is_file()
    assert "mIoU" in run(command("refineseg evaluate"))


def test_the_python_example_runs_as_it_is_pasted(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", README, re.S)
    names = {}
    exec(block, names)
    assert capsys.readouterr().out.startswith("<Prediction 427x640: ")
    assert names["prediction"].shares["sky"] > 0.2
    with Image.open(tmp_path / "mask.png") as mask:
        np.testing.assert_array_equal(np.asarray(mask), names["prediction"].mask)
    assert names["logits"].shape == (1, 21, 100, 150)


@pytest.mark.parametrize(
    ("name", "printed"), [("refinenet_lw_mobilenetv2", "3.3 M"), ("refinenet_lw_resnet50", "27.4 M")]
)
def test_parameter_counts_in_the_readme_are_counted(name, printed):
    count = sum(p.numel() for p in refineseg.build(name, num_classes=21).parameters())
    assert f"{count / 1e6:.1f} M" == printed
    assert printed in README


def test_the_shipped_model_says_where_it_comes_from_and_its_licence(caplog):
    segmenter = refineseg.load("camvid")
    provenance = segmenter.spec.provenance
    assert segmenter.spec.variant == "refineseg_lite0"
    assert "CC BY-NC 4.0" in segmenter.spec.licence
    assert any("CC BY-NC 4.0" in record.message for record in caplog.records)
    assert provenance["started_from"].startswith("ImageNet weights of the package efficientnet-lite0")
    assert provenance["recipe"] == "camvid_refineseg_lite0"
    assert provenance["config"]["train_split"] == "train+val"
    card = model_file("camvid").with_suffix(".md").read_text(encoding="utf-8")
    for fact in ("CC BY-NC 4.0", "Seed", "Recipe", "Data", "mIoU"):
        assert fact in card
