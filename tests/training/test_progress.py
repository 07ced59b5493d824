"""What a run tells where there is no terminal, and that it stops when it no longer gets better."""

import io
import json
import logging
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from conftest import write_folder
from fakes.runs import run, tiny
from refineseg.cli.train import _better
from refineseg.terminal.printing import Terminal, set_loudness
from refineseg.training.progress import TerminalProgress
from refineseg.training.stopping import is_no_longer_better


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def told():
    """A progress on something that is no terminal, its clock, and what it has said."""
    stream, clock = io.StringIO(), Clock()
    console = Terminal(file=stream, width=200)
    yield lambda: TerminalProgress(console, clock=clock), clock, lambda: stream.getvalue().splitlines()
    set_loudness("usual")


def entry(epoch):
    return {"epoch": epoch, "loss": 0.5, "mean_iou": 0.25, "images_per_s": 10.0, "seconds": 60.0}


def test_lines_say_how_much_time_is_left(told):
    make, clock, lines = told
    progress = make()
    progress.start(tiny(4), [10], done=1)  # an earlier call did the first epoch, which took no time of this one
    for share, now in ((0.25, 10.0), (0.5, 40.0), (0.6, 45.0)):
        clock.now = now
        progress.step(0.5, 10.0, share)
    assert lines() == ["epoch 2/4: 50 %, loss 0.5000, 10.0 images/s, 3 min 20 s left"], "one line in half a minute"
    clock.now = 80.0
    progress.epoch_done(entry(2))
    assert lines()[-1].endswith("60 s, 2 min 40 s left")
    clock.now = 240.0
    progress.epoch_done(entry(4))
    assert lines()[-1].endswith(", 60 s"), "nothing is left"


def test_epochs_of_steps_count_the_crops_of_their_steps(told):
    """Of twelve images: six in two steps, a whole pass, and two steps of all, which are fewer than a batch."""
    make, clock, lines = told
    passed = replace(tiny().phases[0], epochs=1)
    steps = replace(passed, epoch_steps=2)
    progress = make()
    progress.start(replace(tiny(), phases=(steps, passed, replace(steps, batch_size=100))), [12] * 3, done=0)
    clock.now = 60.0
    progress.epoch_done(entry(1))
    assert lines()[-1].endswith(", 6 min 0 s left"), "36 crops of ten seconds each"


def test_a_quiet_run_tells_only_how_to_go_on(told):
    make, _, lines = told
    set_loudness("quiet")
    progress = make()
    progress.start(tiny(1), [10], done=0)
    progress.say("12 training images")
    progress.epoch_done(entry(1))
    progress.ended("stopped; go on with: refineseg train --resume")
    assert lines() == ["stopped; go on with: refineseg train --resume"]


def test_measurements_count_and_epochs_between_them_do_not():
    rising = [{"mean_iou": 0.1 * i} for i in range(6)]
    assert not is_no_longer_better(rising, 2)
    assert not is_no_longer_better([*rising, {}, {"mean_iou": 0.1}], 2)
    assert is_no_longer_better([*rising, {}, {"mean_iou": 0.1}, {"mean_iou": 0.2}], 2)
    assert not is_no_longer_better([*rising, *rising], None)


def test_a_run_stops_early_draws_validation_images_and_prints_no_librarys_line(tmp_path, capfd):
    root, out = write_folder(tmp_path / "data", splits={"train": 3, "val": 2}), tmp_path / "run"
    for path in (root / "masks").rglob("*.png"):  # ground but for one pixel: learned at once
        mask = np.zeros_like(np.asarray(Image.open(path)))
        mask[0, 0] = 1  # so little that no model finds it: mIoU stays the same
        Image.fromarray(mask).save(path)
    (root / "classes.txt").write_text("ground\nsky\n")
    progress = run(root, out, tiny(8, patience=1, precision="bf16", ema_decay=None))
    history = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert len(history) < 8
    assert is_no_longer_better(history, 1)
    assert not is_no_longer_better(history[:-1], 1)
    assert any("1 measurements in a row were not better" in line for line in progress.said)
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("lightning.fabric").getEffectiveLevel() >= logging.WARNING
    pictures = sorted((out / "validation").iterdir())
    assert len(pictures) == 2
    with Image.open(pictures[0]) as picture:
        assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 3


def test_the_better_model_is_named():
    best = {"epochs": 3, "metrics": {"mean_iou": 0.5, "split": "val"}}
    last = {"epochs": 6, "metrics": {"mean_iou": 0.4, "split": "val"}}
    assert _better(best, best) == "best and last are the same model, of epoch 3"
    line = _better(best, last)
    assert line.startswith("the better model is best.safetensors: ")
    assert "(mIoU 50.00 % and mIoU 40.00 % on val)" in line
