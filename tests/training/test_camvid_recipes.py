"""The tool that measures what choices of a recipe are worth: settings, budgets, tables; never the test split."""

import importlib.util
import json
import statistics
import sys
from pathlib import Path

import pytest

from conftest import REPOSITORY, SHARED
from fakes.scenes import fake_camvid
from refineseg.data.readers.camvid import open_camvid
from refineseg.errors import ConfigError
from refineseg.terminal.printing import Terminal
from refineseg.training.recipes.table import find_recipe

PATH = REPOSITORY / "benchmarks" / "camvid_recipes.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("camvid_recipes", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules["camvid_recipes"] = module
    spec.loader.exec_module(module)
    return module


def test_settings_multiply_what_the_base_has_and_unknown_ones_are_said(tool, capsys):
    base = find_recipe("camvid_refinenet_lw_mobilenetv2_long")
    config = tool.changed(base, ["phases.0.encoder_lr=*0.5", "phases.0.epochs=*2", "lovasz=0.5"])
    assert config.phases[0].encoder_lr == pytest.approx(base.phases[0].encoder_lr / 2)
    assert config.phases[0].epochs == 2 * base.phases[0].epochs
    assert config.loss.lovasz == 0.5
    assert tool.scaled(config, 0.5).phases[0].crops.scale == (0.25, 1.0)
    with pytest.raises(ConfigError, match="expected a number of the config to multiply, got 'nothing=\\*2'"):
        tool.changed(base, ["nothing=*2"])
    kept = tool.known(base, {"base": (), "new": ("some_day=1",)}, Terminal(stderr=True, width=200))
    assert kept == {"base": ()}
    assert "left out: new: expected --set KEY=VALUE" in capsys.readouterr().err


def test_every_listed_change_is_one_this_version_can_make(tool):
    base = find_recipe("camvid_refinenet_lw_mobilenetv2_long")
    kept = tool.known(base, tool.CHANGES, Terminal(quiet=True))
    assert kept == tool.CHANGES
    configs = [tool.changed(base, settings) for settings in kept.values()]
    assert len({json.dumps(tool.to_json(config)) for config in configs}) == len(configs), "two changes are the same"


def test_names_and_own_changes_are_parsed(tool):
    assert list(tool.parse_changes("lovasz,dice", ["mine: colour=0; flip=false"], None)) == [
        *("base", "lovasz", "dice", "mine")
    ]
    assert tool.parse_changes(None, [], "t.safetensors")["teacher"] == ("teacher=t.safetensors",)
    assert tool.parse_changes("dice", ["mine: colour=0; flip=false"], None)["mine"] == ("colour=0", "flip=false")
    with pytest.raises(ConfigError, match="expected changes of base, .*, got nope"):
        tool.parse_changes("nope", [], None)
    with pytest.raises(ConfigError, match="expected --change 'name: key=value"):
        tool.parse_changes(None, ["lovasz=1"], None)


def test_rows_are_means_and_paired_differences(tool):
    def result(change, seed, mean_iou):
        boundary = {"mean_iou": mean_iou / 2}
        return {
            **{"change": change, "seed": seed, "mean_iou": mean_iou, "boundary": boundary, "pixel_accuracy": 0.9},
            **{"settings": [], "parameters": 10, "epochs": 3, "training_seconds": 60.0, "log": f"{change}{seed}"},
        }

    results = [result("base", s, v) for s, v in ((0, 0.50), (1, 0.54), (2, 0.52))]
    results += [result("dice", s, v) for s, v in ((0, 0.53), (1, 0.56))]
    base, dice = tool.rows_of(results)
    assert base["difference"] is None
    assert base["mean_iou"]["standard_deviation"] == pytest.approx(statistics.stdev([0.50, 0.54, 0.52]))
    assert dice["difference"]["mean"] == pytest.approx(0.025)
    assert dice["difference"]["standard_deviation"] == pytest.approx(statistics.stdev([0.03, 0.02]))
    assert dice["logs"] == ["dice0", "dice1"]


def test_a_teacher_that_saw_the_held_out_drive_is_refused(tool, tmp_path):
    with pytest.raises(ConfigError, match="trained on camvid:fit alone, got one of camvid:train, camvid:val; train it"):
        tool.main(["--data", "camvid:x", "--out", str(tmp_path), "--teacher", "camvid"])


@pytest.fixture
def drives(tmp_path, monkeypatch):
    """A tiny CamVid in which one training frame is of the drive that is held out."""
    root = fake_camvid(tmp_path / "camvid", seed=0)
    text = (root / "train.txt").read_text().splitlines()
    name = Path(text[0].split()[0]).stem
    held = "0006R0_f00930"
    for folder in ("train", "trainannot"):
        (root / folder / f"{name}.png").rename(root / folder / f"{held}.png")
    (root / "train.txt").write_text("\n".join(line.replace(name, held) for line in text) + "\n")
    return root


@pytest.mark.slow
def test_a_small_form_runs_stops_in_time_goes_on_and_never_opens_test(tool, drives, tmp_path, capsys):
    assert len(open_camvid(drives, "held_out")) == 1
    (drives / "test.txt").unlink()  # whoever opened it would fail
    call = ["--data", f"camvid:{drives}", "--out", str(tmp_path / "o"), "--small", "--epochs", "2", "--seeds", "0,1"]
    call += ["--changes", "dice", "--device", "cpu", "--set", "phases.0.crop_hw=[32,32]", "--set", "precision=fp32"]
    tool.main([*call, "--minutes", "0.0001"])
    assert "runs are left; go on with:" in capsys.readouterr().out
    tool.main(call)
    shown = capsys.readouterr().out
    assert "| base |" in shown
    assert "| dice | `dice=0.5` |" in shown
    assert "left" not in shown
    table = json.loads((tmp_path / "o" / "table.json").read_text())
    assert table["missing"] == []
    assert [row["seeds"] for row in table["rows"]] == [[0, 1], [0, 1]]
    for row in table["rows"]:
        for log in row["logs"]:
            assert len((tmp_path / "o" / log).read_text().splitlines()) == 2
            result = json.loads(((tmp_path / "o" / log).parent / "result.json").read_text())
            assert result["split"] == "held_out"
            assert result["measurement_protocol"]["trained_on"] == ["camvid:fit"]
            assert not ((tmp_path / "o" / log).parent / "checkpoint.pt").exists()
    stamp = (tmp_path / "o" / "dice" / "seed1" / "result.json").stat().st_mtime_ns
    tool.main(call)
    assert (tmp_path / "o" / "dice" / "seed1" / "result.json").stat().st_mtime_ns == stamp
    with pytest.raises(ConfigError, match="expected the base of the runs in .* got another one"):
        tool.main([*call, "--epochs", "3"])


@pytest.mark.skipif(not (SHARED / "camvid").is_dir(), reason="CamVid is not beside the checkout")
def test_what_is_held_out_shares_no_drive_with_what_is_fitted():
    fit, held_out = (open_camvid(SHARED / "camvid", split) for split in ("fit", "held_out"))
    drives = [{data.name(i).split("_")[0] for i in range(len(data))} for data in (fit, held_out)]
    assert not drives[0] & drives[1]
