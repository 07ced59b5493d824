"""Training on several processes as users start it: torchrun, real signals and kills, two machines of namespaces."""

import json
import os
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from conftest import untrained, write_folder
from fakes.launched import TRAIN, ended, launched, start, wait_for, workers
from fakes.runs import same, tensors

pytestmark = pytest.mark.slow

# without dropout, which every process draws for itself
SETTINGS = (
    *("--variant", "refinenet_lw_mobilenetv2", "--no-pretrained", "--device", "cpu", "--batch-size", "4"),
    *("--set", "phases.0.crop_hw=[64,64]", "--set", "precision=fp32", "--set", "freeze_norm=true"),
)
# plain steps of gradients, in which rounding stays what it is
GENTLE = (*SETTINGS, "--set", "optimiser=sgd", "--lr", "0.01")


@pytest.fixture
def uneven(tmp_path):
    """A data set whose images differ much in how many of their pixels are labelled."""
    root = write_folder(tmp_path / "pictures", splits={"train": 9, "val": 3})
    for number, path in enumerate(sorted((root / "masks" / "train").glob("*.png"))):
        mask = np.array(Image.open(path))
        mask[:, 6 + 7 * number :] = 255
        Image.fromarray(mask).save(path)
    (root / "classes.txt").write_text("ground\nsky\nsquare\n")
    return root


def call(root, out, *more):
    return (*TRAIN, "--data", f"folder:{root}", "--out", out, *more)


def entries(out):
    path = out / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


MANY = ("micro_batch=1", "augment_on=device", "loss.lovasz=0.5", "phases.0.copy_paste=0.5", "loss.class_weight_power=1")


@pytest.mark.parametrize("kind", ["plain", "many options", "bfloat16"])
def test_processes_learn_what_one_learns_with_the_same_batch(kind, uneven, tmp_path):
    more = ["--epochs", "2"]
    if kind == "many options":
        from refineseg.class_info import ClassInfo

        info = ClassInfo(("ground", "sky", "square"))
        more += [word for setting in MANY for word in ("--set", setting)]
        more += ["--set", f"teacher={untrained(tmp_path / 'teacher.safetensors', info)}"]
    if kind == "bfloat16":
        more += ["--set", "precision=bf16"]
    one, two = tmp_path / "one", tmp_path / "two"
    alone = launched(*call(uneven, one, *GENTLE, *more), options=("--standalone", "--nproc-per-node", "1"))
    status, out, err = launched(*call(uneven, two, *GENTLE, *more))
    assert (alone[0], status) == (0, 0), (alone[2], err)
    near = {"rel": 0.02} if kind == "bfloat16" else {"rel": 1e-5}
    for a, b in zip(entries(one), entries(two), strict=True):
        assert b["loss"] == pytest.approx(a["loss"], **near)
        assert b["mean_iou"] == pytest.approx(a["mean_iou"], abs=0.02 if kind == "bfloat16" else 1e-3)
        assert (b["encoder_lr"], b["decoder_lr"]) == (a["encoder_lr"], a["decoder_lr"])
    if kind != "bfloat16":
        weights, others = (load_file(folder / "last.safetensors") for folder in (one, two))
        assert all((weights[name] - others[name]).abs().max() < 1e-4 for name in weights)
    counts = json.loads((two / "metrics.json").read_text())["confusion_matrix"]
    assert np.sum(counts) == 3 * 48 * 64  # each image once
    # each line once, as one process tells it
    assert err.count("epoch 1/2") == err.count("9 training images") == 1
    assert out.count("model: ") == 1
    assert "Traceback" not in err
    assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in two.iterdir())
    assert not [path for path in two.rglob("*") if path.suffix == ".tmp"]
    assert ", 2 processes" in (two / "last.safetensors").read_bytes()[:20000].decode("latin-1")


def test_a_killed_worker_costs_at_most_its_epoch_and_changes_no_weight(uneven, tmp_path):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    assert launched(*call(uneven, undisturbed, *SETTINGS, "--epochs", "5"))[0] == 0
    process = start(
        *call(uneven, killed, *SETTINGS, "--epochs", "5"),
        options=("--standalone", "--nproc-per-node", "2", "--max-restarts", "2"),
    )
    for rank, epochs in ((1, 1), (0, 3)):  # the first process, which writes, too
        before = workers(process)
        wait_for(lambda least=epochs: len(entries(killed)) >= least, process)
        os.kill(workers(process)[rank], signal.SIGKILL)
        wait_for(
            lambda old=before: len(now := workers(process)) == 2 and not {*now.values()} & {*old.values()}, process
        )
    status, _, err = ended(process)
    assert status == 0, err
    resumed = [int(line.split()[3]) for line in err.splitlines() if line.startswith("resuming after epoch")]
    assert len(resumed) == 2, err
    assert resumed[0] >= 1  # at most the epoch that was not complete is lost
    assert resumed[1] >= 2  # killed between the line of epoch 3 and its checkpoint, that epoch is not complete either
    assert [entry["epoch"] for entry in entries(killed)] == [1, 2, 3, 4, 5]
    assert same(tensors(undisturbed / "last.safetensors"), tensors(killed / "last.safetensors"))
    # another launch refuses the folder, as ever, and says so once
    status, _, err = launched(*call(uneven, killed, *SETTINGS, "--epochs", "5"))
    assert status == 1
    assert err.count("expected a folder without a run") == 1


@pytest.mark.parametrize("whom", ["torchrun", "one worker"])
def test_a_signal_stops_all_in_order_and_the_run_goes_on(whom, uneven, tmp_path):
    undisturbed, stopped = tmp_path / "undisturbed", tmp_path / "stopped"
    assert launched(*call(uneven, undisturbed, *SETTINGS, "--epochs", "4"))[0] == 0
    process = start(*call(uneven, stopped, *SETTINGS, "--epochs", "4", "--workers", "1"))
    wait_for(lambda: len(entries(stopped)) >= 1, process)
    os.kill(process.pid if whom == "torchrun" else workers(process)[1], signal.SIGTERM)
    status, out, err = ended(process)
    assert status != 0
    assert err.count("SIGTERM: stopped in epoch") == 1, err
    assert "model: " not in out
    assert "refineseg/" not in err.replace("python -m refineseg/", "")  # no traceback of ours
    status, _, err = launched(*TRAIN, "--resume", "--out", stopped, "--device", "cpu")
    assert status == 0, err
    assert same(tensors(undisturbed / "last.safetensors"), tensors(stopped / "last.safetensors"))


PROGRAM = """
import os
import sys
import numpy as np
import refineseg
from refineseg.errors import ImageError
from refineseg.training import ranks

class Squares:
    class_info, notes = refineseg.ClassInfo(("ground", "square")), ()
    def __len__(self): return 8
    def name(self, index): return f"square {index}"
    def read_mask(self, index): return self[index].mask
    def __getitem__(self, index):
        if index >= 8: raise IndexError(index)
        if ranks.rank() == 1 and sys.argv[2] == "broken": raise ImageError("expected an image, got a broken disk")
        image = np.full((40, 40, 3), 20 * index, np.uint8)
        mask = np.zeros((40, 40), np.uint8)
        image[5:20, 5:20], mask[5:20, 5:20] = 200, 1
        return refineseg.Sample(image, mask, self.name(index))

heard = []
options = {"settings": {"phases.0.crops.crop_hw": [32, 32]}, "device": "cpu", "pretrained": False, "batch_size": 4}
run = refineseg.train(
    Squares(), sys.argv[1], variant="refineseg_nano", epochs=4, on_epoch=heard.append, minutes=None,
    stop_when=lambda history: len(history) == 2, **options,
)
print(f"rank {os.environ['RANK']}: heard {len(heard)}, history {len(run.history)}, notes {len(run.notes) > 0}")
"""


@pytest.mark.parametrize("state", ["whole", "broken"])
def test_programs_train_in_several_processes_too_and_one_failure_ends_all(state, tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    status, out, err = launched(tmp_path / "program.py", tmp_path / "run", state)
    if state == "whole":
        assert status == 0, err
        # of the first process, which is the one that decides; what is decided ends both
        assert sorted(out.splitlines()) == [
            "rank 0: heard 2, history 2, notes True",
            "rank 1: heard 0, history 2, notes True",
        ]
    else:
        assert status == 1
        assert "in process 1 of 2: expected an image, got a broken disk" in err
        assert "ProcessError: lost another process of this run" in err


def test_budgets_and_time_limits_end_all_processes_together(uneven, tmp_path):
    small = ("--variant", "refineseg_nano", "--no-pretrained", "--device", "cpu", "--batch-size", "4")
    small = (*small, "--set", "phases.0.crop_hw=[32,32]")
    status, _, err = launched(*call(uneven, tmp_path / "budget", *small, "--budget", "60s"))
    assert status == 0, err
    assert err.count("budget of 60 s: ") == 1
    assert entries(tmp_path / "budget")[-1]["decoder_lr"] == pytest.approx(
        0.0, abs=1e-9
    )  # the schedule came to its end
    status, _, err = launched(*call(uneven, tmp_path / "minutes", *small, "--epochs", "5000", "--minutes", "0.5"))
    assert status == 0, err
    assert err.count("the time is used up: stopped after epoch") == 1


def test_a_batch_that_the_processes_do_not_divide_is_refused_once_and_nothing_is_written(uneven, tmp_path):
    status, out, err = launched(*call(uneven, tmp_path / "run", *SETTINGS, "--batch-size", "3"))
    assert (status, out) == (1, "")  # torchrun's own status for every failure
    assert err.count("refineseg: expected a batch that 2 processes divide, got 3") == 1
    assert "exitcode  : 2" in err  # the workers'
    assert not (tmp_path / "run").exists()


def namespaces():
    """Two network namespaces joined by a cable; a reason where they are not permitted."""
    commands = (
        "ip netns add {0}",
        "ip netns add {1}",
        "ip link add {0} netns {0} type veth peer name {1} netns {1}",
        "ip -n {0} addr add 10.99.0.1/24 dev {0}",
        "ip -n {1} addr add 10.99.0.2/24 dev {1}",
        *("ip -n {0} link set {0} up", "ip -n {1} link set {1} up"),
        *("ip -n {0} link set lo up", "ip -n {1} link set lo up"),
    )
    names = f"rsa{os.getpid() % 100000}", f"rsb{os.getpid() % 100000}"
    for command in commands:
        done = subprocess.run(command.format(*names).split(), capture_output=True, text=True, check=False)
        if done.returncode:
            remove(names)
            pytest.skip(f"no network namespaces here: {done.stderr.strip()}")
    return names


def remove(names):
    for name in names:
        subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


@pytest.mark.skipif(shutil.which("ip") is None, reason="no network namespaces here: no ip")
def test_two_machines_that_only_a_cable_joins_learn_what_one_process_learns(uneven, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    names = namespaces()
    try:
        machines = []
        for number, name in enumerate(names):
            joined = ("--nnodes", "2", "--nproc-per-node", "1", "--node-rank", str(number))
            options = (*joined, "--rdzv-id", "job", "--master-addr", "10.99.0.1", "--master-port", "29511")
            words = call(uneven, two, *GENTLE, "--epochs", "2")
            before = ("ip", "netns", "exec", name)
            machines.append(start(*words, options=options, before=before, GLOO_SOCKET_IFNAME=name))
            time.sleep(0.5)
        assert launched(*call(uneven, one, *GENTLE, "--epochs", "2"), options=("--nproc-per-node", "1"))[0] == 0
        results = [ended(machine) for machine in machines]
    finally:
        remove(names)
    assert [status for status, _, _ in results] == [0, 0], results
    assert results[0][2].count("epoch 1/2") == 1
    assert "epoch 1/2" not in results[1][2]
    assert [e["loss"] for e in entries(two)] == pytest.approx([e["loss"] for e in entries(one)], rel=1e-5)
