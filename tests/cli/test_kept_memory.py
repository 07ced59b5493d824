"""Commands that compute on a CPU ask the C library to keep freed memory; without it they take half as long again."""

import pytest

from conftest import call, write_folder

SMALL = ["--variant", "refineseg_nano", "--no-pretrained", "--epochs", "1", "--set", "phases.0.crop_hw=[64,64]"]


@pytest.mark.parametrize("verb", ["train", "evaluate", "predict"])
def test_a_command_keeps_freed_memory(verb, tmp_path, monkeypatch, capsys):
    asked = []
    where = {"train": "training.engine", "evaluate": "cli.evaluate", "predict": "cli.predict"}[verb]
    monkeypatch.setattr(f"refineseg.{where}.keep_freed_memory", lambda: asked.append(verb))
    root, out = write_folder(tmp_path / "pictures", splits={"train": 9, "val": 2}), tmp_path / "out"
    data = f"folder:{root}"
    arguments = {
        "train": ["--data", data, "--out", out, "--workers", "0", *SMALL],
        "evaluate": ["--model", "camvid_nano", "--data", data, "--out", out],
        "predict": ["--model", "camvid_nano", "--out", out, root / "images" / "val"],
    }[verb]
    told = call(monkeypatch, capsys, verb, *arguments)[2]
    assert verb in asked, told
