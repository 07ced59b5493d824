"""The shape of the code: arrows point one way, heavy packages have one door, files and functions stay small.

Every file counts, however deep its folder lies, and so do the imports inside functions. The tables below are of two
kinds: rules (layers, doors, strangers), and what is not yet as it should be (cycles, folders that know each other, the
longest chain). The second kind only shrinks: a test fails, too, when an entry is no longer needed.
"""

import ast
import functools
import os
import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import networkx
import pytest

from conftest import imported_by_a_prediction

TESTS = Path(__file__).resolve().parents[1]
SOURCE = TESTS.parent / "src" / "refineseg"
FILES = sorted(SOURCE.rglob("*.py"))

# From the bottom up; a module may import its own layer and those before it.
LAYERS = (
    ("_version", "_calling", "errors", "terminal", "files"),
    ("class_info", "preprocessing", "resize", "scoring", "devices", "images", "prediction"),
    ("networks",),
    ("segmenter",),
    ("original", "runtimes"),
    ("predict", "data"),
    ("evaluate",),
    ("bench", "export", "doctor", "batch"),
    ("training", "serve"),
    ("api",),
    ("cli",),
    ("__main__",),
)
VERBS = tuple(
    path.stem
    for path in (SOURCE / "cli").glob("*.py")
    if path.stem not in ("__init__", "app", "completion", "interruption")
)
DOORS = {  # package -> the only places that may import it
    "timm": {"networks/timm_encoders.py"},
    "lightning": {"training/engine.py"},
    "safetensors": {"networks/weight_files.py"},
    "matplotlib": {"evaluate/reports.py"},
    "torchvision": {"data/crops/augment.py"},
    "typer": {f"cli/{name}.py" for name in ("app", *VERBS) if name != "datasets"},
    "pycocotools": {"files/run_lengths.py"},
    "fsspec": {"data/storage/remote_access.py"},
    "pyarrow": {"batch/manifest.py", "batch/ray_engine.py"},
    "ray": {"batch/ray_engine.py"},
    "filelock": {"data/storage/mirror.py"},
    "yaml": {"files/foreign_text.py"},
    "h5py": {"files/hdf5.py"},
    "rasterio": {"predict/raster/files.py", "predict/polygons/coordinates.py"},
    "shapely": {"predict/polygons/class_regions.py"},
    "av": {"predict/video/files.py"},
    "onnx": {"runtimes/programs.py"},
    "onnxruntime": {"runtimes/programs.py"},
    "openvino": {"runtimes/programs.py"},
    "nncf": {"runtimes/quantisation.py"},
    "mlflow": {"training/loggers.py"},
    "wandb": {"training/loggers.py"},
    "huggingface_hub": {"networks/hub.py"},
    "supervision": {"predict/outputs/detections.py"},
    "fastapi": {"serve/app.py"},
    "starlette": {"serve/app.py"},
    "uvicorn": {"serve/running.py", "serve/connections.py"},
    "python_multipart": {"serve/forms.py"},
    "prometheus_client": {"serve/metrics.py"},
}


PARTS = ("exact", "folder", "polygons", "raster", "video")
STRANGERS = (  # a folder, with those below it, that knows nothing of another
    ("data", "predict"),
    ("predict", "data"),
    ("data", "networks"),
    *((f"predict/{a}", f"predict/{b}") for a in ("exact", "polygons", "video") for b in PARTS if a != b),
    ("predict/raster", "predict/video"),
    ("predict/raster", "predict/folder"),
)
CYCLES: list[set[str]] = []  # modules that import each other today
MUTUAL_FOLDERS: list[set[str]] = []  # folders that know each other today; the files beside the folders are in LAYERS
LONGEST_CHAIN = 19  # modules from the command line to the last one; the aim is 12


def module_name(path):
    """``predict/exact.py`` is ``predict.exact``, ``cli/__init__.py`` is ``cli``, the package is the empty name."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def layer_of(module):
    return next((i for i, names in enumerate(LAYERS) if module.split(".")[0] in names), None)


@functools.cache
def imports(path):
    """The modules and packages a file imports anywhere in it, by their full names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} has a relative import, which these tests do not follow; write refineseg..."
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            found |= {name if name.removeprefix("refineseg.") in MODULES else node.module for name in names}
    return found


def own_imports(path):
    """The modules of this package that a file imports, as :func:`module_name` has them."""
    return {name.removeprefix("refineseg").removeprefix(".") for name in imports(path) if is_own(name)}


def is_own(name):
    return name.split(".")[0] == "refineseg"


def graph():
    arrows = networkx.DiGraph()
    arrows.add_nodes_from(MODULES)
    arrows.add_edges_from((m, other) for m, path in MODULES.items() for other in own_imports(path) if other != m)
    return arrows


def folder_of(module):
    return MODULES[module].parent.relative_to(SOURCE).as_posix()


def inside(module, folder):
    return folder_of(module) == folder or folder_of(module).startswith(f"{folder}/")


def relative(path):
    return path.relative_to(SOURCE).as_posix()


@pytest.mark.parametrize("path", [p for p in FILES if p.name != "__init__.py"], ids=relative)
def test_imports_point_downward_and_heavy_packages_have_one_door(path):
    own = layer_of(module_name(path))
    assert own is not None, f"{path.name} is in no layer"
    for module in own_imports(path) - {""}:
        assert module in MODULES, f"{module} is no module"
        target = layer_of(module)
        assert target is not None
        assert target <= own, f"{module} lies above"
    for package in {name.split(".")[0] for name in imports(path)}:
        door = DOORS.get(package)
        assert door is None or relative(path) in door, f"{package} has its door in {door}"


def test_the_tables_name_what_there_is():
    """A row left behind by a move would check nothing."""
    top = {module.split(".")[0] for module in MODULES} - {""}
    assert top == {name for names in LAYERS for name in names}
    for package, places in DOORS.items():
        for place in places:
            assert place in map(relative, FILES), f"the door {place} is gone"
            used = {name.split(".")[0] for name in imports(SOURCE / place)}
            assert package in used, f"{place} is a door of {package} and does not import it"
    for pair in (*STRANGERS, *MUTUAL_FOLDERS):
        for folder in pair:
            assert any(inside(module, folder) for module in MODULES), f"the folder {folder} is gone"


@pytest.mark.parametrize(("folder", "stranger"), STRANGERS)
def test_folders_that_should_not_know_each_other_do_not(folder, stranger):
    for module, path in MODULES.items():
        if inside(module, folder):
            assert not [other for other in own_imports(path) if inside(other, stranger)], module


def test_no_module_is_in_a_cycle():
    cycles = [part for part in networkx.strongly_connected_components(graph()) if len(part) > 1]
    assert [c for c in cycles if c not in CYCLES] == [], "import the shared part from a module below both"
    assert [c for c in CYCLES if c not in cycles] == [], "these are no cycles any more: take them off the list"


def test_folders_do_not_know_each_other():
    """One of two folders is the lower one. The root is left out: its files have layers of their own."""
    arrows = {(folder_of(a), folder_of(b)) for a, b in graph().edges}
    folders = sorted({folder_of(module) for module in MODULES} - {"."})
    mutual = [{a, b} for a, b in combinations(folders, 2) if {(a, b), (b, a)} <= arrows]
    assert [pair for pair in mutual if pair not in MUTUAL_FOLDERS] == []
    assert [pair for pair in MUTUAL_FOLDERS if pair not in mutual] == [], "take them off the list"


def reached_from(module):
    return networkx.descendants(graph(), module)


def test_the_core_of_prediction_knows_no_files_and_no_terminal():
    """An array becomes a ``Prediction`` without a path, a console, or a folder for results."""
    above = ("predict/folder", "predict/raster", "predict/video", "predict/polygons", "predict/outputs", "cli", "data")
    reached = {module for module in reached_from("predict.predictor") if module}
    assert not [module for module in reached if any(inside(module, folder) for folder in above)]


def test_prediction_of_folders_prints_nothing():
    """It tells a ``Follower``; whoever calls it chooses the terminal, or none."""
    for module, path in MODULES.items():
        if inside(module, "predict"):
            assert not {"terminal.printing", "terminal.following"} & own_imports(path), module


def test_a_prediction_and_its_pictures_need_no_torch():
    code = (
        "import sys, numpy, refineseg; from refineseg.prediction import Prediction\n"
        "from refineseg.images.encoding import encode_mask; from refineseg.class_info import ClassInfo\n"
        "made = Prediction(numpy.zeros((3, 4, 3), 'uint8'), numpy.zeros((3, 4), 'uint8'), ClassInfo(('a', 'b')))\n"
        "made.overlay(); encode_mask(made.mask, made.class_info); made.class_info.palette\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_first_mask_of_a_shipped_model_imports_only_what_it_needs(tmp_path):
    """Each of these takes half a second or more: time that a user waits for the first mask."""
    found = imported_by_a_prediction(tmp_path, "camvid")
    assert not found & {"timm", "torchvision", "lightning", "matplotlib", "scipy", "pandas", "sympy", "onnxruntime"}


@pytest.mark.parametrize("given", [None, "7"])
def test_threads_that_wait_soon_sleep_unless_the_user_says_otherwise(given):
    """libgomp reads it once, when PyTorch is loaded; the command line must have set it before."""
    code = (
        "import os, sys, refineseg.cli; sys.argv = ['refineseg', '--version']\n"
        "try: refineseg.cli.main()\n"
        "except SystemExit: pass\n"
        "print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    environment |= {} if given is None else {"GOMP_SPINCOUNT": given}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.stdout.splitlines()[-1] == f"{given or 1000} False", done.stderr


def test_the_longest_chain_of_imports_does_not_grow():
    """A cycle counts as one link, and its members once each would only lengthen it."""
    parts = networkx.condensation(graph())
    chain = [sorted(parts.nodes[part]["members"]) for part in networkx.dag_longest_path(parts)]
    shown = " -> ".join("+".join(members) or "refineseg" for members in chain)
    assert len(chain) <= LONGEST_CHAIN, f"the chain grew: {shown}"
    assert len(chain) == LONGEST_CHAIN, f"the chain shrank: set LONGEST_CHAIN to {len(chain)}"


ALONE = """
import contextlib, importlib, os, sys, warnings
import numpy, PIL.Image, torch, torchvision, timm, lightning.fabric, safetensors.torch, typer, matplotlib.figure
torch.set_num_threads(1)
assert not [name for name in sys.modules if name.split(".")[0] == "refineseg"]
for module in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        try:
            importlib.import_module(module)
            os._exit(0)
        except BaseException as error:
            print(f"{module}: {type(error).__name__}: {error}", flush=True)
            os._exit(1)
    os.waitpid(child, 0)
"""


@pytest.mark.slow
def test_every_module_can_be_imported_first():
    """Each in a process of its own, forked from one that has loaded the libraries only."""
    names = [f"refineseg.{module}".rstrip(".") for module in MODULES if module != "__main__"]
    done = subprocess.run([sys.executable, "-c", ALONE, *names], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_no_test_is_skipped_because_a_module_of_ours_is_gone():
    """``importorskip`` is for other people's packages: after a move it would pass over the test for ever."""
    for path in TESTS.rglob("*.py"):
        assert not re.findall(r"""importorskip\(\s*["']refineseg""", path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_files_and_functions_keep_their_budgets(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno + 1 <= 80, f"{node.name} is long (60 lines of code, 80 with docstring)"
            assert node.args.kwarg is None, f"{node.name} takes **{node.args.kwarg}"


def test_normalisation_softmax_and_argmax_are_written_once():
    def places(pattern):
        return {str(p.relative_to(SOURCE)) for p in FILES if re.search(pattern, p.read_text(encoding="utf-8"))}

    assert places(r"123\.675|58\.395") == {"preprocessing.py"}
    assert places(r"softmax\(") == {"scoring.py"}
    assert places(r"argmax\(") == {"scoring.py"}


def test_a_verb_has_the_file_of_its_name():
    from refineseg.cli import app

    assert {command.callback.__name__ for command in app.registered_commands} == set(VERBS)


def test_one_place_prints():
    """Nothing else makes a console, a bar, or writes a line: foreign text reaches a terminal through one filter."""
    rich_bars = {"Console", "Progress", "Live", "track", "TextColumn", "Status", "RichHandler"}
    for path in FILES:
        if path.name == "printing.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rich"):
                assert not rich_bars & {alias.name for alias in node.names}, path
            if isinstance(node, ast.Name):
                assert node.id != "print", f"{path} prints; use refineseg.printing"
            if isinstance(node, ast.Attribute):
                assert node.attr not in ("stdout", "stderr") or path.name == "quantisation.py", path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                assert node.func.attr not in ("echo", "secho", "warn", "warning"), path


def test_every_class_has_a_name_of_its_own():
    """One word, one thing: whoever reads a class's name anywhere knows which one is meant."""
    places = {}
    for path in FILES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(relative(path))
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_the_words_of_an_error_decide_nothing(path):
    """Another version of a library words it otherwise. Only memory that is short and a process that gloo has lost are
    known by words: there is no other sign of them."""
    if relative(path) in ("devices.py", "training/ranks.py"):
        return
    caught = r"in (str\((error|e|exc)\)|(error|e|exc)\.args)|str\((error|e|exc)\)\.(startswith|endswith)"
    assert not re.findall(caught, path.read_text(encoding="utf-8")), "look at its type, or give it a reason"


NO_NOUN = r"Of|Which|By|In|For|From|At|Who|That|Those|Also|When|Where(?=[.;])"
NOUNS_LATER = (
    "training/",
    "data/storage/",
    "predict/folder/",
    "predict/stream.py",
    "predict/predictor.py",
)  # only "Of"


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_the_line_of_an_argument_begins_with_its_noun(path):
    """``Overlap of blended tiles, in pixels``: a reader knows at the first word what to give."""
    words = "Of" if relative(path).startswith(NOUNS_LATER) else NO_NOUN
    arguments = re.findall(r"^ +Args:\n((?: {8}.*\n)+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    found = [line for part in arguments for line in re.findall(rf"^ {{8,12}}\w+: (?:{words})\b.*", part, re.MULTILINE)]
    assert not found, "name the thing first"
