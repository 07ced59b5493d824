"""Training that survives: kills, signals, time limits, full disks, too little memory, losses that are no numbers."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from conftest import write_folder
from fakes.runs import Silent
from refineseg.data.crops.options import CropOptions
from refineseg.errors import CheckpointError, OutputError
from refineseg.segmenter import Segmenter, load, load_spec
from refineseg.training import record, run
from refineseg.training.config import LossOptions, Phase, TrainingConfig, to_json
from refineseg.training.record import LossRecord
from refineseg.training.run import RunRequest, resume_run, start_run
from refineseg.training.stopping import StoppedBySignal, StopSignals, TimeLimit

TRAIN = (sys.executable, "-m", "refineseg", "train")


def tiny(epochs=3, **changes):
    phase = Phase(
        epochs=epochs,
        crops=CropOptions((64, 64), (0.8, 1.2)),
        batch_size=4,
        encoder_lr=1e-3,
        decoder_lr=2e-3,
        warmup_epochs=0.5,
    )
    config = TrainingConfig(
        recipe="test",
        variant="refineseg_nano",
        phases=(phase,),
        pretrained="no",
        precision="fp32",
        checkpoint_every_s=0.0,
        ema_decay=0.9,
        loss=LossOptions(class_weight_power=0.5),
        clip_norm=1.0,
    )
    return replace(config, **changes)


def train_here(config, root, out, **options):
    progress = Silent()
    start_run(RunRequest(config, f"folder:{root}", device="cpu", **options), out, progress=progress)
    return progress


def start(config, root, out):
    """The command line, in a process of its own."""
    (out.parent / f"{out.name}.json").write_text(json.dumps(to_json(config)))
    arguments = ["--config", str(out.parent / f"{out.name}.json"), "--data", f"folder:{root}", "--out", str(out)]
    return subprocess.Popen(
        [*TRAIN, *arguments, "--device", "cpu"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def resume(out, *arguments):
    return subprocess.Popen(
        [*TRAIN, "--resume", "--out", str(out), "--device", "cpu", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def lines(out):
    path = out / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_until(holds, process):
    deadline = time.monotonic() + 240
    while not holds() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None, process.communicate()[1]


def same_weights(a, b):
    first, second = (load_file(out / "last.safetensors") for out in (a, b))
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["host", "device"])
def test_a_run_killed_at_a_random_step_ends_with_the_weights_of_an_undisturbed_one(place, tmp_path):
    """With the weight average, a cosine with warm-up and batches added up from pieces."""
    root = write_folder(tmp_path / "data", splits={"train": 12})
    config = tiny(6, augment_on=place, micro_batch=2, val_split=None)
    process = start(config, root, tmp_path / "killed")
    wait_until((tmp_path / "killed" / "checkpoint.pt").exists, process)
    delay = random.uniform(0, 2 * lines(tmp_path / "killed")[0]["seconds"])
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = len(lines(tmp_path / "killed"))
    assert done < 6, f"the run was not killed in its middle, after {delay:.3f} s"
    assert run.epochs_done(tmp_path / "killed") in (done - 1, done)  # whole, whenever the kill came
    load(tmp_path / "killed" / "last.safetensors")
    _, messages = (again := resume(tmp_path / "killed")).communicate(timeout=300)
    assert again.returncode == 0, messages
    assert "resuming after epoch" in messages
    undisturbed = start(config, root, tmp_path / "undisturbed")  # a process like the other: as many threads
    _, messages = undisturbed.communicate(timeout=300)
    assert undisturbed.returncode == 0, messages
    assert same_weights(tmp_path / "killed", tmp_path / "undisturbed"), f"killed after {delay:.3f} s"
    whole, resumed = (
        [(e["epoch"], e["loss"], e["decoder_lr"]) for e in lines(tmp_path / name)] for name in ("undisturbed", "killed")
    )
    assert whole == resumed


@pytest.mark.slow
def test_signals_and_a_time_limit_end_a_run_in_order_and_it_goes_on_each_time(tmp_path):
    root, out = write_folder(tmp_path / "data", splits={"train": 4, "val": 1}), tmp_path / "run"
    process = start(tiny(500), root, out)
    for number, status in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        saved = len(lines(out))
        wait_until(lambda saved=saved: len(lines(out)) > saved, process)
        process.send_signal(number)
        _, messages = process.communicate(timeout=120)
        assert process.returncode == status, messages
        assert f"go on with: refineseg train --resume --out {out}" in messages.replace("\n", "")
        assert "Traceback" not in messages
        process = resume(out, *([] if number == signal.SIGTERM else ["--minutes", "0.0001"]))
    results, messages = process.communicate(timeout=120)
    assert process.returncode == 0, messages
    assert "the time is used up: stopped after epoch" in messages
    assert "model:" in results
    assert [e["epoch"] for e in lines(out)] == list(range(1, len(lines(out)) + 1))
    assert run.epochs_done(out) == len(lines(out)) == load_spec(out / "last.safetensors").provenance["epochs"]


@pytest.mark.slow
def test_a_full_disk_loses_no_earlier_checkpoint_and_the_run_goes_on_when_there_is_room(tmp_path):
    """No file may grow beyond a megabyte: what a disk without room does to a model file and a checkpoint."""
    root, out = write_folder(tmp_path / "data", splits={"train": 4}), tmp_path / "run"
    process = start(tiny(500, val_split=None), root, out)
    wait_until(lambda: (out / "checkpoint.pt").exists(), process)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    _, messages = process.communicate(timeout=120)
    assert process.returncode == 2, messages
    assert "could not write" in messages
    assert "is intact: make room, then" in messages
    assert "Traceback" not in messages
    saved = run.epochs_done(out)
    assert saved >= 1
    load(out / "last.safetensors")
    assert not [p.name for p in out.iterdir() if p.suffix == ".tmp" or p.name.startswith(".")]
    _, messages = (again := resume(out, "--minutes", "0.0001")).communicate(timeout=120)
    assert again.returncode == 0, messages
    assert [e["epoch"] for e in lines(out)] == list(range(1, saved + 2))


SHORT_OF_MEMORY = """
import json, re, resource, sys
from pathlib import Path
from refineseg.training.config import from_json
from refineseg.training.run import RunRequest, start_run
from refineseg.training.progress import TerminalProgress
from refineseg.terminal.printing import Terminal

def address_space(which):
    return int(re.search(which + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10

class Tight(TerminalProgress):
    def start(self, config, num_samples, *, done):
        self.before = address_space("VmSize")
        if sys.argv[4] != "0":
            resource.setrlimit(resource.RLIMIT_AS, (self.before + int(sys.argv[4]), resource.RLIM_INFINITY))
        super().start(config, num_samples, done=done)

    def epoch_done(self, entry):
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        print(address_space("VmPeak") - self.before)
        super().epoch_done(entry)

resource.setrlimit(resource.RLIMIT_AS, (1 << 46, resource.RLIM_INFINITY))  # a limit: freed memory is not kept
config = from_json(json.loads(Path(sys.argv[1]).read_text()))
progress = Tight(Terminal(stderr=True, width=1000))
start_run(RunRequest(config, "folder:" + sys.argv[2], device="cpu"), Path(sys.argv[3]), progress=progress)
"""


@pytest.mark.slow  # how much a process may have before it fails differs between machines, so it is measured first
def test_too_little_memory_lowers_the_micro_batch_and_gives_the_weights_of_a_run_with_it(tmp_path):
    """The address space of a process is limited; the allocator really fails, in the middle of a step."""
    size = (320, 384)  # eight such crops need several times the memory of one
    root = write_folder(tmp_path / "data", splits={"train": 8}, size=size)
    config = tiny(2, val_split=None)
    phase = replace(config.phases[0], batch_size=8, crops=CropOptions(size, (0.8, 1.2)))
    config = replace(config, phases=(phase,))
    (tmp_path / "config.json").write_text(json.dumps(to_json(config)))

    def limited(out, limit):
        arguments = [str(tmp_path / "config.json"), str(root), str(out), str(limit)]
        return subprocess.run(
            [sys.executable, "-c", SHORT_OF_MEMORY, *arguments],
            env={**os.environ, "MALLOC_ARENA_MAX": "1"},  # others take 64 MB of addresses each, whenever threads meet
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    needed = int(limited(tmp_path / "free", 0).stdout.split()[0])
    for percent in (80, 73, 66, 60):  # the allocator fits into somewhat less than it takes where there is enough
        out = tmp_path / f"limited_{percent}"
        done = limited(out, needed * percent // 100)
        assert done.returncode == 0, done.stderr
        said = [line for line in done.stderr.splitlines() if "out of memory with" in line]
        if said:
            break
    assert said, done.stderr
    assert "A step still learns from 8 crops with the same loss" in said[0]
    lowered = torch.load(out / "checkpoint.pt", weights_only=True)["micro_batch"]
    assert lowered == 8 >> len(said)
    (tmp_path / "config.json").write_text(json.dumps(to_json(replace(config, micro_batch=lowered))))
    limited(tmp_path / "small", 0)  # with as many threads, so that it rounds alike
    assert same_weights(out, tmp_path / "small")


def test_a_loss_that_is_no_number_names_its_first_batch_even_when_it_is_read_late(tmp_path, monkeypatch):
    root = write_folder(tmp_path / "data", splits={"train": 8})
    config = tiny(4, clip_norm=None, val_split=None, optimiser="sgd", ema_decay=None)
    steep = replace(config.phases[0], batch_size=1, encoder_lr=1e9, decoder_lr=1e9)
    config = replace(config, phases=(steep,))
    found = []
    for name, late in (("at_once", False), ("late", True)):
        if late:
            monkeypatch.setattr(LossRecord, "is_due", property(lambda _: False))
        with pytest.raises(CheckpointError, match=r"the loss became (nan|inf) in epoch \d on \d\d\d") as caught:
            train_here(config, root, tmp_path / name)
        note = json.loads((tmp_path / name / record.NAN_FILE).read_text())
        assert note["names"][0] in str(caught.value)
        assert str(tmp_path / name / record.NAN_FILE) in str(caught.value)
        assert note["last_losses"][-1] == note["loss"] in ("nan", "inf")
        assert len(note["last_losses"]) == note["step"]
        found.append([note[key] for key in ("epoch", "step", "names", "last_losses")])
    assert found[0] == found[1]


def test_a_gradient_that_is_no_number_is_named_too():
    noted = LossRecord(3, torch.device("cpu"))
    for norm, name in ((1.0, "a"), (float("inf"), "b"), (float("nan"), "c")):
        noted.add(torch.tensor(0.5), torch.tensor(norm), (name,))
    bad = noted.read()
    assert (bad.step, bad.what, bad.value, bad.names) == (2, "gradient", float("inf"), ("b",))


@pytest.mark.slow
def test_a_run_stopped_by_its_time_limit_resumes_to_the_same_weights(folder_root, tmp_path):
    config = tiny(3)
    progress = train_here(config, folder_root, tmp_path / "parts", stop_after_s=0.01)
    assert any("stopped after epoch 1 of 3" in line for line in progress.said)
    assert (tmp_path / "parts" / "metrics.json").exists()
    resume_run(tmp_path / "parts", data=None, device="cpu", num_workers=None, progress=Silent(), stop_after_s=1e6)
    train_here(config, folder_root, tmp_path / "whole")
    assert same_weights(tmp_path / "parts", tmp_path / "whole")


def test_a_time_limit_lets_no_epoch_begin_that_would_not_end_in_time():
    limit = TimeLimit(60.0)
    assert not limit.is_up
    limit.epoch_took(50.0)
    assert not limit.is_up
    limit.epoch_took(56.0)
    assert limit.is_up
    for _ in range(20):  # an epoch that compiled is forgotten
        limit.epoch_took(1.0)
    assert not limit.is_up
    assert not TimeLimit(None).is_up


def test_signals_wait_for_the_end_of_a_step_and_the_second_acts_at_once():
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as signals:
        signals.check()
        signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == before
        with pytest.raises(StoppedBySignal) as caught:
            signals.check()
    assert (caught.value.name, caught.value.number) == ("SIGTERM", signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        caught.value.exit_like_it()
    assert ended.value.code == 143


@pytest.mark.parametrize("what", ["model", "checkpoint"])
def test_a_full_disk_at_the_first_epoch_tells_what_works(folder_root, tmp_path, monkeypatch, what):
    def full(*_, **__):
        raise OutputError("no room", no_room=True) if what == "model" else OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(*((Segmenter, "save", full) if what == "model" else (torch, "save", full)))
        with pytest.raises(CheckpointError, match="no epoch had been saved yet.*same command again") as caught:
            train_here(tiny(1), folder_root, tmp_path / "run")
    assert "--resume" not in str(caught.value)
    assert not (tmp_path / "run").exists(), "neither models nor anything else"
    train_here(tiny(1), folder_root, tmp_path / "run")
