"""What all tests share does what it says."""

from types import SimpleNamespace

from conftest import EXPECTED_SKIPS, unexpected_skips


def skipped(reason, line=3):
    return SimpleNamespace(longrepr=("/somewhere/tests/test_x.py", line, f"Skipped: {reason}"))


def test_only_skips_that_the_table_does_not_explain_are_named():
    expected = [skipped(f"{reason}: more of it") for reason in EXPECTED_SKIPS]
    surprising = [skipped("could not import 'av'"), skipped("could not import 'av'")]
    terminal = SimpleNamespace(stats={"skipped": expected + surprising})
    assert unexpected_skips(terminal) == ["could not import 'av' (test_x.py:3)"]
    assert unexpected_skips(SimpleNamespace(stats={})) == []
