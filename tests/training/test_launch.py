"""How processes were started: what torchrun writes into their environment, and starts that are refused."""

import pytest

from refineseg.errors import ConfigError
from refineseg.training.launch import Launch, find_launch, is_first_process, refuse_several
from refineseg.training.request import launch_mark, was_begun_by

SECOND = {"WORLD_SIZE": "4", "RANK": "1", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1"}
WHOLE = {**SECOND, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def test_one_process_is_alone_also_where_torchrun_started_it():
    assert find_launch({}) == find_launch({"WORLD_SIZE": "1", "RANK": "0"}) == Launch()
    assert is_first_process({})
    assert is_first_process({"WORLD_SIZE": "1", "RANK": "0"})
    assert is_first_process(RANK_ALONE)


RANK_ALONE = {"RANK": "1"}


def test_each_process_knows_its_place():
    assert find_launch(WHOLE) == Launch(1, 4, 1, 2)
    assert not is_first_process(WHOLE)
    assert is_first_process({**WHOLE, "RANK": "0"})


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "2"}, "expected RANK, .*MASTER_PORT beside WORLD_SIZE=2 .*torchrun.*unset WORLD_SIZE for one"),
        (RANK_ALONE, "expected WORLD_SIZE, .* beside RANK=1 .*unset RANK for one"),
        ({**WHOLE, "RANK": "4"}, "ranks from 0 to below the number of processes, got WORLD_SIZE=4, RANK=4"),
        ({**WHOLE, "WORLD_SIZE": "two"}, "got WORLD_SIZE=two"),
        ({**WHOLE, "WORLD_SIZE": "3"}, "as many processes on every machine, got 3 in all and 2 here"),
    ],
)
def test_incomplete_starts_are_refused(environment, message):
    with pytest.raises(ConfigError, match=message):
        find_launch(environment)


def test_restarted_workers_know_their_launch_and_another_launch_does_not(tmp_path):
    restarted = {"TORCHELASTIC_RESTART_COUNT": "1"}
    named = find_launch({**WHOLE, **restarted, "TORCHELASTIC_RUN_ID": "job-7"})
    assert named.name == "job-7"
    unnamed = [find_launch({**WHOLE, **restarted, "TORCHELASTIC_RUN_ID": name}).name for name in ("none", "none")]
    assert unnamed[0] == unnamed[1] != "none"  # the machine and torchrun's process
    call = {"epochs": 3, "data": "folder:a"}
    mark = launch_mark(named, call)
    (tmp_path / "run.json").write_text(f'{{"launch": "{mark}"}}')
    assert was_begun_by(mark, tmp_path)
    assert not was_begun_by(launch_mark(named, {**call, "epochs": 4}), tmp_path)
    assert not was_begun_by(launch_mark(Launch(name="job-8"), call), tmp_path)
    assert launch_mark(Launch(), call) is None
    (tmp_path / "run.json").write_text("{}")  # begun without torchrun
    assert not was_begun_by(None, tmp_path)
    assert not was_begun_by(mark, tmp_path / "nowhere")


def test_only_train_takes_several_processes(refineseg, monkeypatch):
    refuse_several("predict", {"WORLD_SIZE": "8"})  # of a machine's profile: this process is still alone
    with pytest.raises(ConfigError, match="one process for predict, got 4"):
        refuse_several("predict", WHOLE)
    for name, value in {**WHOLE, "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    done = refineseg("models")
    assert done.status == 2
    assert "expected one process for models, got 4" in done.err


@pytest.mark.parametrize("arguments", [("models",), ("train", "--nonsense"), ("train", "--data", "folder:nowhere")])
def test_processes_behind_the_first_leave_it_the_word(refineseg, monkeypatch, arguments):
    monkeypatch.setattr("refineseg.cli._FIRST_SPEAKS_S", 0.01)
    for name, value in WHOLE.items():
        monkeypatch.setenv(name, value)
    assert refineseg(*arguments) == (2, "", "")
