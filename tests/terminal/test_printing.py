"""What reaches a terminal: whatever names, licences and other programs hold, no byte of it steers one."""

import io
import json
import os
import re
import subprocess
import sys
import unicodedata
import warnings

import numpy as np
import pytest
from PIL import Image
from rich.table import Table

from conftest import call
from refineseg.class_info import ClassInfo
from refineseg.data.own.formats import open_own
from refineseg.errors import DatasetError
from refineseg.evaluate import card, reports
from refineseg.evaluate.metrics import ConfusionMatrix
from refineseg.images import render
from refineseg.networks.model_spec import ModelSpec
from refineseg.preprocessing import Preprocessing
from refineseg.segmenter import Segmenter, load
from refineseg.terminal.printable import printable, short
from refineseg.terminal.printing import Terminal, print_lines, progress_bar, tables, warn

EVIL = "a\x1b[2J\x1b]0;owned\x07\r\n\u202egnp\u2028\u200f\udcff[red]b[/b]:smile:\x9b1m$\\frac"
HARMFUL = {"Cc", "Cf", "Cs", "Zl", "Zp", "Co", "Cn"}
NAMES = (
    "sky\nFAKE: done",
    "m" * 10**6,
    r"$\frac{1}{2$",
    "smile \U0001f600",
    "\u05e9\u05dc\u05d5\u05dd \u202eabc",
    EVIL,
    "[bold]x[/y]",
)
CLASSES = ClassInfo(NAMES)


def harmful(text, *, own="\n"):
    return {c for c in text if c not in own and unicodedata.category(c) in HARMFUL}


def seen(text):
    """A text with all blanks taken out: where a table breaks a cell into lines is not asked."""
    return re.sub(r"\s", "", text)


def test_no_character_is_harmful_once_it_is_printable():
    for first, last in ((0, 0x20000), (0xE0000, 0xE1000), (0x10FF00, 0x110000)):
        shown = printable("".join(map(chr, range(first, last))), most=10**6)
        assert not harmful(shown, own="")
        shown.encode("utf-8")


def test_letters_of_all_people_and_wide_spaces_stay():
    for text in ("Bäume", "\u6a39\u3000\u6728", "\u05e9\u05dc\u05d5\u05dd", "\U0001f600", "a\\b", "100\xa0%"):
        assert printable(text) == text


def test_long_texts_keep_both_ends_and_long_names_their_beginning():
    shown = printable("begin" + "x" * 10**6 + "end")
    assert len(shown) < 10_000
    assert shown.startswith("begin")
    assert shown.endswith("end")
    assert len(short("\x00" * 10**6)) == 60


def terminal(*, is_terminal=False):
    file = io.StringIO()
    file.isatty = lambda: is_terminal
    return Terminal(file=file, width=200), file


def test_lines_and_tables_show_names_as_they_are(monkeypatch):
    console, file = terminal()
    table = Table(EVIL, title=EVIL, caption=EVIL)
    table.add_row(EVIL, "scan[draft].png")
    console.print(table)
    console.say(EVIL, "d[/b].jpg", ":smile:")
    console.print("scan[draft].png")
    text = file.getvalue()
    assert not harmful(text)
    assert text.splitlines()[-4:] == [printable(EVIL), "d[/b].jpg", ":smile:", "scan[draft].png"]
    assert seen(text).count(seen(printable(EVIL))) >= 4


def test_bars_show_names_as_they_are(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    console, file = terminal(is_terminal=True)
    with progress_bar(console) as bar:
        bar.add_task("d[/b]\x1b]0;x\x07[red].jpg", total=3)
        bar.refresh()
    assert r"d[/b]\x1b]0;x\x07[red].jpg" in file.getvalue()
    assert "\x07" not in file.getvalue()


def test_results_and_warnings_are_printable_too(capsys):
    print_lines(EVIL)
    warn(EVIL)
    tables().print(EVIL)
    captured = capsys.readouterr()
    assert captured.out.splitlines()[0] == printable(EVIL)
    assert not harmful(captured.out)


def test_the_licence_of_a_model_is_printable_in_python_too(model, caplog):
    load(model)
    assert not harmful(caplog.text)
    assert printable(EVIL) in caplog.text


# --------------------------------------------------------------------------------------------------------------- verbs


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model file whose classes and licence are hostile."""
    import torch

    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("model") / "evil.safetensors"
    spec = ModelSpec("refineseg_nano", CLASSES, Preprocessing.imagenet(), licence=EVIL)
    Segmenter(spec).save(path)
    return str(path)


def image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(0).integers(0, 255, (64, 96, 3)).astype(np.uint8)
    Image.fromarray(values).save(path)
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux takes any bytes as a name")
def test_predict_says_hostile_names_and_writes_their_files(model, tmp_path, monkeypatch, capsys):
    folder, out = tmp_path / "in", tmp_path / "out"
    names = [
        "scan[draft]",
        "d[/b]",
        ":smile:",
        "a\nFAKE: all good",
        "e\x1b[2J\x07",
        "r\u202egnp",
        os.fsdecode(b"l\xff"),
    ]
    for name in names:
        image(folder / f"{name}.png")
    (folder / "bad\x1b[1m[x].png").write_bytes(b"no image")
    json_file, areas = tmp_path / "r.json", tmp_path / "areas.csv"
    status, output, said = call(
        monkeypatch, capsys, "predict", folder, "--out", out, "--model", model, "--json", json_file, "--areas", areas
    )
    assert status == 1
    assert not harmful(output + said)
    assert not any(line.startswith("FAKE") for line in (output + said).splitlines())
    assert r"bad\x1b[1m[x].png" in said
    for name in names:
        assert f"{printable(name)}.png: " in output
        assert (out / f"{name}.png").is_file()
        assert (out / f"{name}_overlay.jpg").is_file()
    assert str(folder / "bad\x1b[1m[x].png") in json.loads(json_file.read_text())["failures"][0]
    assert "a\nFAKE: all good.png" in areas.read_text(encoding="utf-8")


def test_wrong_calls_with_hostile_words_are_said_printably(monkeypatch, capsys, tmp_path):
    for arguments in (
        ["predict", "a.jpg", "--out", tmp_path, f"--{EVIL}"],
        ["predict", "a.jpg", "--out", tmp_path, "--model", EVIL],
        ["evaluate", "--data", f"{EVIL}:{EVIL}"],
        ["doctor", f"folder:{EVIL}"],
        [EVIL],
    ):
        status, output, said = call(monkeypatch, capsys, *arguments)
        assert status == 2
        assert not harmful(output + said), arguments


def test_lines_of_one_error_are_lines_and_foreign_breaks_are_not(monkeypatch, capsys, tmp_path):
    root = tmp_path / "a\nb"
    root.mkdir()
    (root / "x.xyz").write_bytes(b"")
    with pytest.raises(DatasetError) as raised:
        open_own(root, "train")
    assert len(raised.value.args) > 3
    status, _, said = call(monkeypatch, capsys, "shard", f"folder:{root}", "--split", "train", "--out", tmp_path / "s")
    assert status == 2
    lines = said.splitlines()
    assert r"a\nb, got 1 .xyz" in lines[0]
    assert len(lines) == len(raised.value.args)
    assert all(line.startswith("  ") for line in lines[1:])


@pytest.mark.slow
def test_a_terminal_of_ascii_ends_no_run(model, tmp_path):
    folder = tmp_path / "in"
    image(folder / "B\u00e4ume\u6a39.png")
    image(folder / os.fsdecode(b"l\xff.png"))
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C", "COLUMNS": "80"}
    command = [sys.executable, "-m", "refineseg", "predict", folder, "--out", tmp_path / "out", "--model", model]
    ended = subprocess.run(command, env=environment, capture_output=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    assert rb"B\xe4ume\u6a39.png: " in ended.stdout
    assert rb"l\udcff.png: " in ended.stdout


# ------------------------------------------------------------------------------------------------------------ pictures


@pytest.mark.parametrize("width", [1, 20, 96, 640])
def test_overlays_take_any_class_names(width):
    picture = np.zeros((40, width, 3), np.uint8)
    mask = (np.arange(40 * width) % len(NAMES)).reshape(40, width)
    drawn = render.overlay(picture, mask, CLASSES)
    assert drawn.shape[1:] == (width, 3)
    assert drawn.shape[0] < 40 + 40 * len(NAMES)


def test_a_legend_shortens_a_name_that_is_wider_than_the_picture():
    """Right of the last glyph, white is left: nothing is cut off."""
    drawn = render.legend(ClassInfo(("W" * 59, "x")), [0, 1], width=200)
    assert (drawn[:, -2:] == 255).all()
    assert (drawn != 255).any()


def test_the_confusion_matrix_and_the_tables_take_any_class_names(tmp_path):
    matrix = ConfusionMatrix(CLASSES)
    matrix.update(np.arange(7), np.arange(7)[::-1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reports.draw_confusion(tmp_path / "m.png", matrix)
    with Image.open(tmp_path / "m.png") as drawn:
        assert max(drawn.size) < 3000
    console, file = terminal()
    console.print(reports.metrics_table(matrix, title=EVIL))
    assert not harmful(file.getvalue())
    assert max(map(len, file.getvalue().splitlines())) <= 200


def test_cards_hold_foreign_text_as_text(model):
    spec = load(model).spec
    facts = card._facts(spec, 1)
    assert "<" not in card._foreign("<script>|")
    assert [line.count("|") - line.count("\\|") for line in facts.splitlines()] == [3] * 12
    assert not harmful(facts)


def test_a_process_without_stdout_prints_nothing_and_goes_on(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    tables().print(Table("a"))
    print_lines("a")
