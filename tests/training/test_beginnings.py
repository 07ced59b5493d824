"""How a run begins: in a folder that is its own, from the weights that it was told; one that came to nothing is undone.

What it learns from later, and whether that is still the same, is in ``test_going_on.py``.
"""

import json

import pytest

from fakes.runs import VARIANT, Silent, run, tiny
from refineseg.data.samples.run_record import RECORD_NAME, RunRecord
from refineseg.errors import CheckpointError
from refineseg.segmenter import build
from refineseg.training import run as training_run
from refineseg.training.config import CHECKPOINT, PICTURES_FOLDER, RUN_FILES
from refineseg.training.run import resume_run
from refineseg.training.run_record import check_record


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_a_run_that_another_call_began_while_the_data_were_looked_at_stays(folder_root, tmp_path, monkeypatch):
    out, real = tmp_path / "run", training_run.open_data

    def begun_meanwhile(*arguments):
        out.mkdir()
        (out / "run.json").write_text("of another call")
        return real(*arguments)

    monkeypatch.setattr(training_run, "open_data", begun_meanwhile)
    with pytest.raises(CheckpointError, match="expected a folder without a run, got"):
        run(folder_root, out, tiny(1))
    assert contents(out) == {"run.json": "of another call"}


@pytest.mark.parametrize("written", ['{"call": "another"}', "{}", "no JSON"])
def test_a_run_that_fails_undoes_none_of_another_call(folder_root, tmp_path, monkeypatch, written):
    out = tmp_path / "run"

    def fail(*_, **__):
        (out / "run.json").write_text(written)
        (out / "last.safetensors").write_text("of another call")
        raise CheckpointError("no room")

    monkeypatch.setattr(training_run, "train", fail)
    with pytest.raises(CheckpointError, match="no room"):
        run(folder_root, out, tiny(1))
    assert contents(out).items() >= {"run.json": written, "last.safetensors": "of another call"}.items()


@pytest.mark.parametrize("name", [*RUN_FILES, PICTURES_FOLDER])
def test_a_folder_with_a_file_that_a_run_would_replace_is_refused(folder_root, tmp_path, name):
    out = tmp_path / "run"
    out.mkdir()
    (out / name).write_text("of somebody")
    with pytest.raises(CheckpointError, match=f"expected a folder without files of a run, got .* with {name}, which"):
        run(folder_root, out, tiny(1))
    assert contents(out) == {name: "of somebody"}


def test_a_run_writes_no_other_files(folder_root, tmp_path):
    run(folder_root, tmp_path / "run", tiny(1))
    known = {*RUN_FILES, PICTURES_FOLDER, "run.json", CHECKPOINT, RECORD_NAME}
    assert {path.name for path in (tmp_path / "run").iterdir()} == known


def test_a_run_that_fails_leaves_what_lay_in_its_folder(folder_root, tmp_path, monkeypatch):
    out, calls = tmp_path / "run", set()
    out.mkdir()
    (out / "notes.txt").write_text("of somebody")

    def fail(*_, **__):
        calls.add(json.loads((out / "run.json").read_text())["call"])
        (out / "best.safetensors").write_text("of this run")
        raise CheckpointError("no room")

    monkeypatch.setattr(training_run, "train", fail)
    for _ in range(2):  # the same call works again
        with pytest.raises(CheckpointError, match="no room"):
            run(folder_root, out, tiny(1))
        assert contents(out) == {"notes.txt": "of somebody"}
    assert len(calls) == 2


def test_a_run_that_had_learned_nothing_does_not_begin_from_another_model(folder_root, tmp_path, monkeypatch):
    source, out = tmp_path / "source.safetensors", tmp_path / "run"
    build(VARIANT, num_classes=3).save(source)
    content = source.read_bytes()

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training_run, "train", killed)
        with pytest.raises(KeyboardInterrupt):
            run(folder_root, out, tiny(1), init=str(source))

    def go_on():
        resume_run(out, data=None, device="cpu", num_workers=0, progress=Silent())

    build(VARIANT, num_classes=4).save(source)
    record = (out / RECORD_NAME).read_bytes()
    told = "from the same weights, but the file of the model of --init has changed; put them back, or begin another run"
    with pytest.raises(CheckpointError, match=f"expected to begin in {out} {told}"):
        go_on()
    source.unlink()
    with pytest.raises(CheckpointError, match=f"but there is no model of --init {source} "):
        go_on()
    assert (out / RECORD_NAME).read_bytes() == record
    source.write_bytes(content)
    go_on()
    source.unlink()  # not needed any more: the weights are in the checkpoint
    go_on()


@pytest.mark.parametrize("role", ["init", "encoder_weights"])
def test_the_first_weights_count_until_something_is_learned(tmp_path, role):
    RunRecord({}, {role: "0" * 64}).write(tmp_path)
    now = RunRecord({}, {role: "1" * 64})
    with pytest.raises(CheckpointError, match="from the same weights, but the file of .* has changed"):
        check_record(tmp_path, now, Silent())
    (tmp_path / "checkpoint.pt").touch()
    check_record(tmp_path, now, Silent())
