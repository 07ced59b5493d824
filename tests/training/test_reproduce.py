"""``refineseg reproduce``: a tiny real run through the command line, killed and called again, and its table."""

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time

import pytest

from fakes.scenes import fake_camvid
from fuzz.readers import READERS
from refineseg.errors import ConfigError
from refineseg.training.reproduction_table import spread
from refineseg.training.request import parse_seeds

PHASE = {
    "epochs": 2, "crop_hw": [32, 32], "scale": [1.0, 1.0], "batch_size": 3, "encoder_lr": 1e-3, "decoder_lr": 1e-3,
}  # fmt: skip


def arguments(root, out, *, seeds="0,1", epochs=2, minutes=None):
    phases = json.dumps([{**PHASE, "epochs": epochs}])
    plain = ["reproduce", "camvid", "--data", f"camvid:{root}", "--out", str(out), "--seeds", seeds, "--device", "cpu"]
    plain += ["--set", f"phases={phases}", "--set", "precision=fp32", "--set", "checkpoint_every_s=0"]
    return plain + ([] if minutes is None else ["--minutes", str(minutes)])


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return fake_camvid(tmp_path_factory.mktemp("camvid"), seed=0)


@pytest.mark.slow
def test_the_table_is_made_from_the_data_and_says_mean_spread_parts_and_protocol(refineseg, root, tmp_path):
    status, out, _ = refineseg(*arguments(root, tmp_path / "o"))
    assert status == 0
    assert "2 of 2 seeds are trained and measured" in out
    table = json.loads((tmp_path / "o" / "table.json").read_text())
    results = [json.loads((tmp_path / "o" / f"seed{seed}" / "test.json").read_text()) for seed in (0, 1)]
    assert table["complete"]
    assert table["protocols_equal"]
    values = [result["mean_iou"] for result in results]
    assert values[0] != values[1]
    of_mean = table["spread"]["mIoU"]
    assert of_mean["mean"] == pytest.approx(statistics.mean(values))
    assert of_mean["standard_deviation"] == pytest.approx(statistics.stdev(values))
    assert (of_mean["lowest"], of_mean["highest"]) == (min(values), max(values))
    assert {"boundary IoU", "pixel accuracy", "IoU of sky", "mIoU, 0001TP (3 images)"} <= table["spread"].keys()
    protocol = table["measurement_protocol"]
    assert protocol["trained_on"] == ["camvid:train", "camvid:val"]
    assert protocol["other_data"] == "none"
    assert protocol["num_images"] == 3
    markdown = (tmp_path / "o" / "table.md").read_text()
    assert markdown in out
    assert "| mIoU |" in markdown
    assert "data set camvid; split test; classes 11; images 3" in markdown
    assert "| DABNet | 66.7 | unlike protocols: images: 3 here, 233 there" in markdown
    assert "from memory, unverified" in markdown
    assert "Not complete" not in markdown
    assert {run["seed"] for run in table["runs"]} == {0, 1}
    assert all(run["epochs"] == 2 and run["hardware"] and len(run["model_sha256"]) == 64 for run in table["runs"])
    card = (tmp_path / "o" / "seed0" / "card" / "card.md").read_text()
    assert "![learning curves](curves.png)" in card
    # called again, nothing is trained or measured anew
    before = (tmp_path / "o" / "seed1" / "last.safetensors").stat().st_mtime_ns
    stamp = (tmp_path / "o" / "seed0" / "test.json").stat().st_mtime_ns
    assert refineseg(*arguments(root, tmp_path / "o"))[0] == 0
    assert (tmp_path / "o" / "seed1" / "last.safetensors").stat().st_mtime_ns == before
    assert (tmp_path / "o" / "seed0" / "test.json").stat().st_mtime_ns == stamp
    # another recipe is not mixed in
    status, _, err = refineseg(*arguments(root, tmp_path / "o", epochs=3))
    assert status == 2
    assert "expected the recipe of the reproduction in" in err


@pytest.mark.slow
def test_a_budget_ends_cleanly_with_what_is_left_and_calling_again_goes_on(refineseg, root, tmp_path):
    few = {"seeds": "3", "epochs": 4}
    status, out, _ = refineseg(*arguments(root, tmp_path / "o", **few, minutes=0.005))
    assert status == 0
    assert "0 of 1 seeds" in out
    assert "left, by calling the same command again:" in out
    assert re.search(r"seed 3: \d of 4 epochs, the rest takes about", out)
    assert not (tmp_path / "o" / "table.md").exists()
    assert refineseg(*arguments(root, tmp_path / "o", **few, minutes=5))[0] == 0
    assert json.loads((tmp_path / "o" / "table.json").read_text())["complete"]


@pytest.mark.slow
def test_a_reproduction_that_was_killed_goes_on_when_it_is_called_again(refineseg, root, tmp_path):
    line = [sys.executable, "-m", "refineseg", *arguments(root, tmp_path / "o", seeds="0", epochs=60)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    metrics, end = tmp_path / "o" / "seed0" / "metrics.jsonl", time.monotonic() + 200
    while not (metrics.is_file() and len(metrics.read_text().splitlines()) >= 2):
        assert process.poll() is None, "it ended too early"
        assert time.monotonic() < end, "it did not begin"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    epochs = len(metrics.read_text().splitlines())
    assert 2 <= epochs < 60
    status, out, err = refineseg(*arguments(root, tmp_path / "o", seeds="0", epochs=60, minutes=0.02))
    assert status == 0
    assert "resuming after epoch" in err
    assert "of 60 epochs, the rest takes about" in out


def test_a_call_that_trained_nothing_does_not_keep_another_recipe_out(refineseg, tmp_path):
    for recipe in ("camvid_refineseg_small", "camvid_refineseg_nano"):
        options = ("camvid", "--data", f"camvid:{tmp_path / 'absent'}", "--recipe", recipe, "--device", "cpu")
        status, _, err = refineseg("reproduce", *options, "--out", tmp_path / "o")
        assert status == 2
        assert "absent" in err


def test_a_line_that_a_kill_cut_off_does_not_stop_a_reproduction(tmp_path):
    """Two of four epochs at half a minute each; training cuts the line off when it goes on."""
    epochs = READERS["epochs of a seed"].write(tmp_path)
    assert READERS["epochs of a seed"].read(tmp_path) == "2 of 4 epochs, the rest takes about 1.0 minutes"
    with epochs.open("a") as file:
        file.write('{"epoch": 3, "lo')
    assert READERS["epochs of a seed"].read(tmp_path) == "2 of 4 epochs"


def test_wrong_calls_are_named(refineseg, root, tmp_path):
    for options, message in (
        (("voc", "--data", f"camvid:{root}"), "expected one of camvid to reproduce, got 'voc'"),
        (("camvid", "--data", f"folder:{root}"), "expected --data camvid:ROOT to reproduce camvid"),
        (("camvid", "--data", f"camvid:{root}", "--minutes", "0"), "expected --minutes above 0, got 0"),
        (
            ("camvid", "--data", f"camvid:{root}", "--set", "patience=3"),
            "expected as many epochs of every seed, got patience=3; leave it out",
        ),
        (("camvid", "--data", f"camvid:{root}", "--seeds", "1,1"), "expected --seeds as different numbers"),
        (("camvid", "--data", f"camvid:{root}", "--recipe", "nope"), "expected a recipe, got 'nope'"),
    ):
        status, _, err = refineseg("reproduce", *options, "--out", tmp_path / "o", "--device", "cpu")
        assert status == 2
        assert message in err
    assert parse_seeds(" 0, 7") == (0, 7)
    with pytest.raises(ConfigError, match="for instance 0,1,2, got 'a'"):
        parse_seeds("a")


def test_spread_is_of_a_sample_and_one_seed_has_none():
    assert spread([0.5, 0.7, 0.6])["standard_deviation"] == pytest.approx(0.1)
    assert spread([0.5]) == {"mean": 0.5, "standard_deviation": None, "lowest": 0.5, "highest": 0.5}
    assert spread([0.5, None])["mean"] is None
