"""The shape of the code: arrows point one way, heavy packages have one door, files and functions stay small."""

import ast
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "refineseg"
FILES = sorted(SOURCE.rglob("*.py"))

# From the bottom up; a module may import its own layer and those before it.
LAYERS = (
    (
        "_version",
        "printable",
        "printing",
        "errors",
        "allocation",
        "archives",
        "protocol",
        "published",
        "class_info",
        "catalog",
        "preprocessing",
        "pillow_warnings",
        "images",
        "label_messages",
        "render",
        "resize",
        "scoring",
        "metrics",
        "boundary",
        "losses",
    ),
    ("networks",),
    ("segmenter",),
    ("conversion",),
    ("backends",),
    ("predict", "data", "reports"),
    (
        "submission",
        "evaluation",
        "comparison",
        "failures",
        "tally",
        "card",
        "counting",
        "timing",
        "benchmark",
        "contenders",
        "stages",
        "end_to_end",
        "acceptance",
        "exporting",
    ),
    ("doctor",),
    ("training",),
    ("cli",),
)
DOORS = {  # package -> the only places that may import it
    "timm": {"networks/encoders.py"},
    "lightning": {"training/engine.py"},
    "safetensors": {"segmenter.py"},
    "matplotlib": {"reports.py"},
    "torchvision": {"data/augment.py"},
    "typer": {
        f"cli/{name}.py"
        for name in ("app", "predict", "prediction", "training", "reproduction", "models", "export", "doctor", "shards")
    },
    "pycocotools": {"data/outlines.py"},
    "fsspec": {"data/remote_access.py"},
    "filelock": {"data/mirror.py"},
    "yaml": {"data/yolo.py"},
    "h5py": {"data/matlab.py", "data/fake_scenes.py", "networks/mat_hdf5.py"},
    "rasterio": {"predict/rasters/files.py", "predict/polygons/coordinates.py"},
    "shapely": {"predict/polygons/class_regions.py"},
    "av": {"predict/videos/files.py"},
    "onnx": {"backends/onnx_runtime.py"},
    "onnxruntime": {"backends/onnx_runtime.py"},
    "openvino": {"backends/openvino_runtime.py"},
    "nncf": {"backends/quantisation.py"},
    "mlflow": {"training/loggers.py"},
    "scipy": {"data/matlab.py", "data/fake_scenes.py", "data/fake_pascal.py"},
}


def layer_of(module):
    first = module.split(".")[1] if "." in module else "__init__"
    return next((i for i, names in enumerate(LAYERS) if first in names), None)


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module if node.module != "refineseg" else f"refineseg.{node.names[0].name}"


@pytest.mark.parametrize(
    "path", [p for p in FILES if p.name != "__init__.py"], ids=lambda p: str(p.relative_to(SOURCE))
)
def test_imports_point_downward_and_heavy_packages_have_one_door(path):
    own = layer_of("refineseg." + ".".join(path.relative_to(SOURCE).with_suffix("").parts))
    assert own is not None, f"{path.name} is in no layer"
    for module in imports(path):
        if module.startswith("refineseg."):
            target = layer_of(module)
            assert target is not None
            assert target <= own, f"{module} lies above"
        door = DOORS.get(module.split(".")[0])
        assert door is None or str(path.relative_to(SOURCE)) in door, f"{module} has its door in {door}"


def test_data_and_prediction_do_not_know_each_other():
    for folder, stranger in (("data", "predict"), ("predict", "data"), ("data", "networks")):
        for path in (SOURCE / folder).glob("*.py"):
            assert not [m for m in imports(path) if m.startswith(f"refineseg.{stranger}")], path


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
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
