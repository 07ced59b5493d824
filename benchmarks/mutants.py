"""Which small changes of a module its tests do not notice: mutation testing with the operators of cosmic-ray.

    ./dev pip install cosmic-ray
    ./dev python benchmarks/mutants.py refineseg.evaluate.metrics tests/evaluate/test_metrics.py --sample 50

cosmic-ray itself starts an interpreter for each mutant, which imports PyTorch for five seconds. Here each mutant is
tested in a fork of one process that has imported it, and all else that the tests import from other packages. Prints
each mutant that all tests let pass, as a difference.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import importlib
import importlib.abc
import importlib.util
import io
import itertools
import os
import random
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import numpy  # noqa: F401 - imported once, for all forks
import PIL.Image  # noqa: F401
import pytest
import torch
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

SECONDS = 120
"""An endless loop is noticed, too."""


class MutatedModule(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives one module another source."""

    def __init__(self, name: str, path: Path, source: str) -> None:
        self.name, self.path, self.source = name, path, source

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        """This module's; of others nothing."""
        return importlib.util.spec_from_file_location(name, self.path, loader=self) if name == self.name else None

    def exec_module(self, module: ModuleType) -> None:
        """Runs the other source."""
        exec(compile(self.source, str(self.path), "exec"), module.__dict__)


def mutants(source: str) -> Iterator[str]:
    """Every changed source, but for changes of annotations, which nothing runs."""
    meaning = _without_annotations(source)
    for name in sorted(operator_names()):
        operator = get_operator(name)
        if operator.arguments():
            continue
        for occurrence in itertools.count():
            changed = mutate_code(source, operator(), occurrence)
            if changed is None:
                break
            with contextlib.suppress(SyntaxError):
                if _without_annotations(changed) != meaning:
                    yield changed


def _without_annotations(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        for field in ("annotation", "returns"):
            if getattr(node, field, None) is not None:
                setattr(node, field, ast.Constant(None))
    return ast.dump(tree)


def survives(name: str, path: Path, source: str, tests: Sequence[str], *, imported: Path | None = None) -> bool:
    """Whether all tests pass with this source.

    Args:
        name: Name of the module.
        path: Its file.
        source: Its source.
        tests: What pytest is given.
        imported: File that gets the names of all modules that were imported; None: none does.
    """
    child = os.fork()
    if child == 0:
        signal.alarm(SECONDS)
        sys.meta_path.insert(0, MutatedModule(name, path, source))
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        with contextlib.redirect_stdout(io.StringIO()):
            # with rewritten asserts, a module whose doctests run would be read from its file
            code = pytest.main(["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "--assert=plain", *tests])
        if imported is not None:
            imported.write_text("\n".join(sys.modules), encoding="utf-8")
        os._exit(int(code))
    return os.waitpid(child, 0)[1] == 0


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("module")
    parser.add_argument("tests", nargs="+")
    parser.add_argument("--sample", type=int, help="mutants drawn by a fixed seed; all without it")
    given = parser.parse_args()
    torch.set_num_threads(1)
    path = Path("src", *given.module.split(".")).with_suffix(".py")
    source = path.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        imported = Path(folder, "imported")
        if not survives(given.module, path, source, given.tests, imported=imported):
            sys.exit("the tests fail without a change")
        for name in imported.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(Exception):  # some can be imported by their own package only
                found = importlib.util.find_spec(name.partition(".")[0])
                if found is not None and "site-packages" in str(found.origin):
                    importlib.import_module(name)
        for name in [name for name in sys.modules if name.partition(".")[0] == "refineseg"]:
            del sys.modules[name]  # some package has imported it: a fork must import the changed source
    if survives(given.module, path, "raise ImportError", given.tests):
        sys.exit("the tests pass without the module: they do not see a changed source")
    found = list(mutants(source))
    drawn = random.Random(0).sample(found, min(given.sample or len(found), len(found)))
    left = 0
    for number, changed in enumerate(drawn, start=1):
        if survives(given.module, path, changed, given.tests):
            left += 1
            print(
                *difflib.unified_diff(source.splitlines(), changed.splitlines(), n=0, lineterm=""), sep="\n", flush=True
            )
        print(f"{number} of {len(drawn)}, {left} passed", file=sys.stderr, flush=True)
    print(f"{given.module}: {len(drawn)} of {len(found)} mutants, {left} passed all tests")


if __name__ == "__main__":
    main()
