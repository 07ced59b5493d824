"""The pages of measured results show what ``benchmarks/results`` holds, and its numbers follow from its matrices."""

import importlib.util
import json
import re
import sys

import numpy as np
import pytest

from conftest import REPOSITORY

FILES = sorted((REPOSITORY / "benchmarks" / "results").glob("*.json"))


@pytest.fixture(scope="module")
def results():
    spec = importlib.util.spec_from_file_location("measured_results", REPOSITORY / "benchmarks" / "results.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(REPOSITORY / "benchmarks"))  # a script finds its neighbours there
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    yield module
    del sys.modules[spec.name], sys.modules["own_data"]


@pytest.mark.parametrize("page", ["accuracy", "timings", "own_data"])
def test_pages_show_the_files(results, page):
    written = (REPOSITORY / "docs" / f"{page}.md").read_text(encoding="utf-8")
    assert getattr(results, f"{page}_page")(results.read_results()) == written, "python benchmarks/results.py pages"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_result_says_where_it_comes_from_and_names_no_path(path):
    text = path.read_text(encoding="utf-8")
    kept = json.loads(text)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", kept["date"])
    assert kept["machine"]["cpu"]
    assert kept["machine"]["torch"]
    assert not re.findall(r"(?<![\w.])/(?:work|home|root|tmp|data|mnt|Users)\b[^\"\s]*", text)


@pytest.mark.parametrize(
    "path",
    [path for path in FILES if "confusion_matrix" in path.read_text(encoding="utf-8")],
    ids=lambda path: path.stem,
)
def test_mean_iou_follows_from_the_confusion_matrix(path):
    result = json.loads(path.read_text(encoding="utf-8"))["result"]
    matrix = np.array(result["confusion_matrix"], dtype=np.int64)
    truth, right = matrix.sum(1), matrix.diagonal()
    present = truth > 0
    union = truth + matrix[:, : len(matrix)].sum(0) - right  # a last column holds predictions of void
    assert result["mean_iou"] == pytest.approx((right[present] / union[present]).mean(), abs=1e-12)
