"""Help that fits 80 columns, examples that parse, names of options, completion, and how much is said."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from conftest import write_folder
from refineseg import cli
from refineseg.cli import completion
from refineseg.terminal import following
from refineseg.terminal.following import TerminalFollower
from refineseg.terminal.printing import MOST_LINES, Terminal, set_loudness, summed_up

COMMAND = typer.main.get_command(cli.app)
VERBS = sorted(COMMAND.commands)


@pytest.fixture
def usual_loudness():
    yield
    set_loudness("usual")


@pytest.fixture
def help_of(monkeypatch, capsys):
    def shown(*words):
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.setattr(sys, "argv", ["refineseg", *words])
        with pytest.raises(SystemExit):
            cli.main()
        return capsys.readouterr().out

    return shown


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_fits_80_columns_and_ends_with_examples(help_of, verb):
    text = help_of(*verb.split(), "-h")
    assert text == help_of(*verb.split(), "--help")
    assert max(map(len, text.splitlines())) <= 80
    examples = text.partition("Examples:\n")[2]
    assert f"refineseg {verb}".strip() in examples
    assert "..." not in text.partition("Commands:")[2], "no summary is cut off"
    if verb:
        assert "-q, --quiet" in text
        assert "-v, --verbose" in text


@pytest.mark.parametrize("verb", VERBS)
def test_examples_are_calls_that_the_verb_takes(verb):
    for example in COMMAND.commands[verb].epilog.replace("\\\n", "").splitlines():
        program, named, *words = shlex.split(example)
        assert (program, named) == ("refineseg", verb)
        COMMAND.commands[verb].make_context(verb, words)


def test_old_names_of_options_still_work():
    def read(verb, *words):
        return COMMAND.commands[verb].make_context(verb, list(words)).params

    assert read("bench", "--batch", "4")["batch_size"] == read("bench", "--batch-size=4")["batch_size"] == 4
    assert read("bench", "--batch=4")["batch_size"] == 4
    assert read("card", "--data", "folder:x", "--out", "o", "--failures", "3")["pictures"] == 3


def test_the_data_set_of_a_verb_is_an_option_or_its_argument(refineseg, tmp_path):
    root = f"folder:{write_folder(tmp_path / 'data', splits={'train': 2, 'val': 1})}"
    assert refineseg("doctor", "--data", root)[:2] == refineseg("doctor", root)[:2]
    for words in ((), (root, "--data", root)):
        status, _, err = refineseg("doctor", *words)
        assert status == 2
        assert "expected one data set as --data NAME:ROOT" in err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_models_recipes_variants_and_data_without_pytorch(shell, tmp_path):
    (tmp_path / "folder_of_mine").mkdir()

    def offered(line):
        call = f"refineseg {line}"
        code = (
            "import sys; sys.argv = ['refineseg']\nfrom refineseg import cli\n"
            "try: cli.main()\nfinally: assert not {'torch', 'timm', 'matplotlib'} & set(sys.modules)"
        )
        words = call.split(" ")
        env = {**os.environ, "_REFINESEG_COMPLETE": f"complete_{shell}", "COMP_WORDS": call}
        env |= {
            "COMP_CWORD": str(len(words) - 1),
            "_TYPER_COMPLETE_ARGS": call,
            "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        }
        run = subprocess.run(
            [sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert "AssertionError" not in run.stderr, run.stderr
        return run.stdout

    assert "camvid_nano" in offered("predict x.png --model camvid_n")
    assert "camvid_refineseg_lite0" in offered("train camvid_refineseg_li")


def test_values_are_completed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "mine.safetensors").touch()
    (tmp_path / "mine.txt").touch()
    assert completion.model_files("m") == ["mine.safetensors"]
    assert completion.model_files("cam") == ["camvid", "camvid_nano"]
    assert "refineseg_nano" in completion.variants("refineseg_")
    assert completion.data_sets("came") == []
    assert completion.data_sets("cam") == ["camvid:"]
    assert completion.data_sets("voc:a+cam") == ["voc:a+camvid:"]
    assert completion.data_sets("camvid:s") == ["camvid:sub/"]
    assert "camvid_refineseg_nano" in completion.recipes("camvid_")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["predi"], ["predict"]),
        (["train", "--da"], ["--data"]),
        (["train", "camvid_refineseg_n"], ["camvid_refineseg_nano"]),
    ],
)
def test_a_real_bash_completes_verbs_options_and_recipes(words, found):
    program = Path(sys.executable).parent / "refineseg"
    if not program.is_file():
        pytest.skip("the command is not installed beside this Python")
    line = ["refineseg", *words]
    script = (
        f"source <(refineseg --show-completion bash); COMP_WORDS=({' '.join(line)}); COMP_CWORD={len(words)}; "
        'complete -p refineseg >/dev/null && _refineseg_completion refineseg; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    environment = {**os.environ, "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.split()) == (0, found), done.stderr


def test_of_many_lines_the_first_are_shown_and_the_rest_is_counted(usual_loudness):
    lines = [str(number) for number in range(101)]
    assert summed_up(lines) == [*lines[:MOST_LINES], "and 91 more; -v shows them all"]
    assert summed_up(lines[: MOST_LINES + 1]) == lines[: MOST_LINES + 1]
    set_loudness("verbose")
    assert summed_up(lines) == lines


@pytest.mark.parametrize(("loudness", "shown"), [("quiet", MOST_LINES), ("usual", MOST_LINES), ("verbose", 101)])
def test_results_of_many_files_end_with_one_line_for_all(capsys, usual_loudness, loudness, shown):
    set_loudness(loudness)
    follower = TerminalFollower(Terminal(stderr=True))
    for number in range(101):
        follower.result(f"{number}.png: sky 100.0 %")
        follower.noted("a note")
    follower.summary("sky 99.0 %")
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert len([line for line in lines if ".png" in line]) == shown
    assert lines[-1] == ("100.png: sky 100.0 %" if loudness == "verbose" else "all inputs: sky 99.0 %")
    assert err.count("a note") == {"quiet": 0, "usual": MOST_LINES, "verbose": 101}[loudness]
    assert ("not shown: 91 more results and 91 more notes; -v shows them all" in err) == (loudness == "usual")
    assert following.MOST_LINES == MOST_LINES


def test_quiet_and_verbose_do_not_go_together(refineseg):
    status, _, err = refineseg("datasets", "-q", "-v")
    assert status == 2
    assert "expected --quiet or --verbose" in err


def test_models_are_filtered_by_a_part_of_a_name(refineseg):
    status, out, _ = refineseg("models", "lite0")
    assert status == 0
    assert "refineseg_lite0" in out
    assert "folder_refineseg_lite0" in out
    assert "resnet101" not in out
    status, _, err = refineseg("models", "lit0")
    assert status == 2
    assert "expected a part of the name" in err
