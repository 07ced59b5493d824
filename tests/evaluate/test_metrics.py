"""The metrics against counting by hand and against scikit-learn."""

import io
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score, recall_score

from fakes.oracles import needs_oracles, read_json, stored
from refineseg.class_info import ClassInfo
from refineseg.errors import LabelError
from refineseg.evaluate.metrics import MEANS, ConfusionMatrix
from refineseg.evaluate.reports import metrics_table
from refineseg.terminal.printing import Terminal

INFO = ClassInfo(("a", "b", "c"))
masks = arrays(np.uint8, (4, 5), elements=st.sampled_from([0, 1, 2]))
truths = arrays(np.uint8, (4, 5), elements=st.sampled_from([0, 1, 2, 255]))


@settings(max_examples=60, deadline=None)
@given(mask=masks, truth=truths)
def test_all_metrics_agree_with_scikit_learn(mask, truth):
    matrix = ConfusionMatrix(INFO)
    matrix.update(mask, truth)
    labelled = truth != 255
    if not labelled.any():
        assert np.isnan(matrix.mean_iou)
        return
    true, predicted = truth[labelled], mask[labelled]
    assert np.array_equal(matrix.counts[:, :3], confusion_matrix(true, predicted, labels=[0, 1, 2]))
    present = sorted(set(true))
    iou = jaccard_score(true, predicted, labels=present, average=None, zero_division=0)
    recall = recall_score(true, predicted, labels=present, average=None, zero_division=0)
    frequency = np.array([(true == c).mean() for c in present])
    assert matrix.pixel_accuracy == pytest.approx(accuracy_score(true, predicted))
    assert matrix.mean_iou == pytest.approx(iou.mean())
    assert matrix.mean_accuracy == pytest.approx(recall.mean())
    assert matrix.frequency_weighted_iou == pytest.approx((frequency * iou).sum())


def test_a_class_only_in_the_prediction_costs_its_victims_but_is_not_averaged():
    matrix = ConfusionMatrix(INFO)
    matrix.update(np.array([[0, 0, 2, 2]]), np.array([[0, 0, 0, 0]]))
    assert matrix.per_class_iou[0] == 0.5
    assert matrix.per_class_iou[2] == 0.0
    assert np.isnan(matrix.per_class_iou[1])
    assert matrix.mean_iou == 0.5


@pytest.mark.parametrize("void", [255, 3, -1])
def test_predicting_void_on_a_labelled_pixel_is_an_error_of_no_class(void):
    matrix = ConfusionMatrix(INFO)
    matrix.update(np.array([[void, 0]]), np.array([[0, 0]]))
    assert matrix.pixel_accuracy == 0.5
    assert matrix.mean_iou == 0.5


def test_parts_add_up_to_the_whole():
    rng = np.random.default_rng(0)
    mask, truth = rng.integers(0, 3, (2, 6, 7)), rng.integers(0, 3, (2, 6, 7))
    parts = [ConfusionMatrix(INFO) for _ in range(3)]
    parts[0].update(mask, truth)
    parts[1].update(mask[0], truth[0])
    parts[2].update(mask[1], truth[1])
    assert np.array_equal((parts[1] + parts[2]).counts, parts[0].counts)


def test_json_gives_the_matrix_back():
    matrix = ConfusionMatrix(INFO)
    matrix.update(np.array([[0, 1, 2]]), np.array([[0, 1, 1]]))
    again = ConfusionMatrix.from_json(matrix.to_json(), INFO)
    assert np.array_equal(again.counts, matrix.counts)
    assert matrix.to_json()["per_class"]["c"]["accuracy"] is None


@pytest.mark.parametrize(
    "counts", [[[0] * 3] * 3, [[0] * 4] * 2, [[0, 0, 0, -1]] * 3, [[0.5] * 4] * 3, [[2**64] * 4] * 3, [[0]], "0", None]
)
def test_json_without_counts_of_these_classes_is_refused(counts):
    with pytest.raises(ValueError, match=r"expected \(3, 4\) counts, got"):
        ConfusionMatrix.from_json({"confusion_matrix": counts}, INFO)


def test_truth_outside_the_classes_is_refused_by_value():
    with pytest.raises(LabelError, match=r"expected true classes 0..2 or void 255, got \[7\]"):
        ConfusionMatrix(INFO).update(np.zeros((1, 2), int), np.array([[7, 0]]))


@pytest.mark.parametrize(("mask", "truth"), [((1, 2), (2, 1)), ((2, 1), (1, 2))])
def test_different_sizes_are_refused(mask, truth):
    with pytest.raises(LabelError, match=re.escape(f"one size, got {mask} and {truth}")):
        ConfusionMatrix(INFO).update(np.zeros(mask, int), np.zeros(truth, int))


@needs_oracles
def test_the_three_means_are_those_of_the_three_codes():
    expected = read_json("expected_misc.json")["metrics"]
    matrix = ConfusionMatrix(ClassInfo.generic(6))
    matrix.update(stored("misc_metrics", "pred").numpy(), stored("misc_metrics", "gt").numpy())
    assert matrix.counts[:, :6].tolist() == expected["confusion"]
    assert matrix.pixel_accuracy == pytest.approx(expected["pixel_acc"], abs=1e-12)
    assert matrix.mean_accuracy == pytest.approx(expected["matlab"]["mean_acc"], abs=1e-12)
    assert matrix.mean_iou == matrix.mean_iou_by("in_truth") == pytest.approx(expected["matlab"]["mean_iou"], abs=1e-12)
    assert matrix.mean_iou_by("absent_counts_one") == pytest.approx(expected["lw_v1"]["mean_iou"], abs=1e-12)
    v2 = expected["densetorch_v2"]["mean_iou"]
    assert matrix.mean_iou_by("in_truth_or_prediction") == pytest.approx(v2, abs=1e-12)


def test_the_means_differ_by_hand_where_a_class_is_absent_or_only_predicted():
    matrix = ConfusionMatrix(INFO)
    matrix.update(np.array([[0, 0, 0, 1]]), np.array([[0, 0, 0, 0]]))  # a: 3/4, b: only predicted, c: absent
    expected = {"in_truth": 3 / 4, "in_truth_or_prediction": 3 / 8, "absent_counts_one": 7 / 12}
    assert {name: matrix.mean_iou_by(name) for name in MEANS} == pytest.approx(expected)
    assert matrix.to_json()["mean_iou_by_definition"] == pytest.approx(expected)
    assert matrix.to_json()["mean_iou_definition"] == "in_truth"


def test_nothing_labelled_has_no_mean_by_any_definition():
    matrix = ConfusionMatrix(INFO)
    matrix.update(np.array([[0, 1]]), np.array([[255, 255]]))
    assert all(np.isnan(matrix.mean_iou_by(name)) for name in MEANS)
    assert matrix.to_json()["mean_iou_by_definition"]["absent_counts_one"] is None


def test_the_table_shows_another_definition_only_where_it_is_another_number():
    def shown(mask, truth):
        matrix = ConfusionMatrix(INFO)
        matrix.update(np.array(mask), np.array(truth))
        console = Terminal(width=100, file=io.StringIO())
        console.print(metrics_table(matrix, title="t"))
        return console.file.getvalue()

    assert "in_truth_or_prediction" not in shown([[0, 1, 2]], [[0, 1, 2]])
    text = shown([[0, 0, 1]], [[0, 0, 0]])
    assert "mIoU, in_truth_or_prediction" in text
    assert "one that is only predicted counts 0" in " ".join(text.split())
