"""Whatever a file holds, its reader gives a result or an error of ours, soon and within little memory.

The corpus is the same at every run. hypothesis draws more: ``REFINESEG_FUZZ=2000 ./dev pytest tests/fuzz -n 2`` draws
2000 files for each reader in place of a few.
"""

import os
import resource
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.corpus import changed_bytes, changed_json, hostile_bytes, hostile_json
from fuzz.readers import READERS
from refineseg.errors import RefinesegError
from refineseg.terminal.printable import printable

MEMORY = 1 << 30  # bytes that a reader may add to the process: the largest declared sizes are far beyond
SECONDS = 20  # an honest file takes milliseconds; a machine may be busy
EXAMPLES = int(os.environ.get("REFINESEG_FUZZ", "5"))


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """Folder, file and content of a reader, each written once."""
    made = {}

    def written(name):
        if name not in made:
            folder = tmp_path_factory.mktemp("honest") / "root"
            folder.mkdir()
            path = READERS[name].write(folder)
            made[name] = folder, path, path.read_bytes()
        return made[name]

    return written


def check(name, folder, path, content):
    """Read with other content: a result, or an error in printable words; the content of before is put back."""
    before = path.read_bytes()
    path.write_bytes(content)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    begin = time.monotonic()
    try:
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
        READERS[name].read(folder)
    except RefinesegError as error:
        text = str(error)
        assert text.strip(), "an error without words"
        assert len(text) < 3000, f"{len(text)} characters of message: {text[:200]}"
        assert printable(text)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        if path.is_file():
            path.write_bytes(before)
    assert time.monotonic() - begin < SECONDS


@pytest.mark.parametrize("name", READERS)
def test_an_honest_file_is_read(honest, name):
    assert READERS[name].read(honest(name)[0]) is not None


@pytest.mark.parametrize("name", READERS)
def test_hostile_files_are_refused_in_words(honest, name):
    folder, path, content = honest(name)
    faults = []
    variants = [*hostile_bytes(content), *(hostile_json(content.decode()) if READERS[name].is_json else ())]
    for kind, changed in variants:
        try:
            check(name, folder, path, changed)
        except Exception as error:  # noqa: BLE001 - all faults of a reader in one report
            faults.append(f"{kind}: {type(error).__name__}: {error!s:.300}")
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("name", READERS)
def test_drawn_files_are_refused_in_words(honest, name):
    folder, path, content = honest(name)
    kinds = [changed_bytes(content)]
    if READERS[name].is_json:
        kinds.append(changed_json(content.decode()))

    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize=EXAMPLES < 100,
        suppress_health_check=list(HealthCheck), print_blob=True,
    )  # fmt: skip
    @given(changed=st.one_of(kinds))
    def drawn(changed):
        check(name, folder, path, changed)

    drawn()
