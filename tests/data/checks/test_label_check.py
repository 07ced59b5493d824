"""The check before training: all masks, one error, in order, with everything needed to mend them."""

import threading

import numpy as np
import pytest
from PIL import Image

from refineseg.class_info import ClassInfo, LabelTable
from refineseg.data.checks.label_check import check_data
from refineseg.data.samples.sample import Concatenation, FilePair, PairDataset, Sample
from refineseg.data.samples.threads import read_all
from refineseg.errors import DatasetError, ImageError, LabelError

CLASSES = ClassInfo(("field", "tree", "house"))


def _dataset(folder, masks, *, table=None):
    """A data set of these masks (None: unlabelled)."""
    pairs = []
    for index, mask in enumerate(masks):
        image = folder / f"{index:02}.jpg"
        Image.new("RGB", (4, 3)).save(image)
        path = None if mask is None else folder / f"{index:02}.png"
        if path:
            Image.fromarray(mask).save(path)
        pairs.append(FilePair(image, path, f"{index:02}"))
    return PairDataset(tuple(pairs), CLASSES, table or LabelTable.identity(CLASSES))


def _random_masks(count):
    rng = np.random.default_rng(0)
    return [rng.choice([0, 1, 2, 255], (3, 4)).astype(np.uint8) for _ in range(count)]


def test_the_pixels_of_every_class_are_counted(tmp_path):
    masks = _random_masks(23)
    counts = check_data(_dataset(tmp_path, masks)).pixel_counts
    assert counts.dtype == np.int64
    assert counts.tolist() == [int(sum((mask == value).sum() for mask in masks)) for value in range(3)]


def test_joined_and_unlabelled_samples_are_counted(tmp_path):
    masks = _random_masks(4)
    labelled = _dataset(tmp_path, masks)
    unlabelled = _dataset(tmp_path, [None])
    assert (
        check_data(Concatenation([labelled, unlabelled, labelled])).pixel_counts.tolist()
        == (2 * check_data(labelled).pixel_counts).tolist()
    )


def test_progress_is_reported_in_order_by_the_caller(tmp_path):
    calls = []
    check_data(_dataset(tmp_path, _random_masks(9)), report=lambda *n: calls.append((*n, threading.get_ident())))
    assert calls == [(done, 9, threading.get_ident()) for done in range(1, 10)]


def test_all_wrong_masks_are_told_at_once_in_order_and_counted(tmp_path):
    masks = _random_masks(30)
    for index in range(5, 30, 2):  # 13 of them
        masks[index] = np.full((3, 4), index, np.uint8)
    with pytest.raises(LabelError) as error:
        check_data(_dataset(tmp_path, masks))
    lines = str(error.value).splitlines()
    assert lines[0] == "13 of 30 masks cannot be used:"
    assert lines[-1] == "  and 3 more"
    assert len(lines) == 12
    for index, line in zip(range(5, 25, 2), lines[1:-1], strict=True):
        assert f"{index:02}.png: expected 0..2 or 255, got {index} in 12 pixels; correct the mask" in line


def test_unreadable_files_and_wrong_sizes_are_told_beside_wrong_labels(tmp_path):
    dataset = _dataset(tmp_path, _random_masks(5))
    (tmp_path / "01.png").write_bytes(b"")
    Image.new("L", (3, 3)).save(tmp_path / "02.png")
    (tmp_path / "04.jpg").unlink()
    with pytest.raises(DatasetError) as unreadable:
        check_data(dataset)
    assert not isinstance(unreadable.value, LabelError)
    lines = str(unreadable.value).splitlines()
    assert lines[0] == "3 of 5 images or masks cannot be used:"
    assert "01.png, which is empty (0 bytes)" in lines[1]
    assert "02.png: expected a mask of the image's size 3x4 (height x width), got 3x3" in lines[2]
    assert "there is no " in lines[3]
    Image.fromarray(np.full((3, 4), 9, np.uint8)).save(tmp_path / "00.png")
    with pytest.raises(LabelError, match=r"(?s)4 of 5 images or masks .*00\.png: .* got 9 in 12 pixels;.*01\.png"):
        check_data(dataset)


def test_a_set_without_a_labelled_pixel_is_refused(tmp_path):
    void = np.full((3, 4), 255, np.uint8)
    with pytest.raises(LabelError, match=r"expected labelled pixels, got none in 2 masks: all 24 pixels are void"):
        check_data(_dataset(tmp_path, [void, void]))
    with pytest.raises(LabelError, match=r"expected labelled pixels, got none in 1 masks$"):
        check_data(_dataset(tmp_path, [None]))


def test_masks_of_0_and_255_are_refused_although_every_value_is_legal(tmp_path):
    """255 is void, so the second class would never be seen, without an error anywhere."""
    binary = np.array([[0, 255, 255, 0]] * 3, np.uint8)
    with pytest.raises(
        LabelError,
        match=r"expected pixels of more than one class, got only 'field' \(12 pixels\) and void \(12 pixels\) in 2 "
        r"masks; if these are masks of 0 and 255, write 1 instead of 255 or give the second class "
        r'"id": 255 in classes\.json',
    ):
        check_data(_dataset(tmp_path, [binary, binary]))
    empty = np.zeros((3, 4), np.uint8)
    assert check_data(_dataset(tmp_path, [empty])).pixel_counts.tolist() == [
        12,
        0,
        0,
    ]  # nothing to see in it, but no mistake


def test_a_data_set_that_does_not_map_its_values_is_refused():
    class Unmapped:
        class_info, notes = CLASSES, ()

        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> Sample:
            raise NotImplementedError

        def name(self, index: int) -> str:
            return "first"

        def read_mask(self, index: int) -> np.ndarray:
            return np.array([[0, -1, 7, 7, 255]])

    with pytest.raises(
        LabelError, match=r"first: expected 0\.\.2 or 255, got -1, 7 in 3 pixels; the data set must map"
    ):
        check_data(Unmapped())


def test_results_come_in_order_whichever_thread_is_first():
    first_may_end = threading.Event()

    def read(index: int) -> int:
        if index == 0:
            assert first_may_end.wait(10)
        else:
            first_may_end.set()
        return index * index

    assert read_all(read, 2) == [0, 1]


def test_only_the_expected_errors_are_collected():
    def read(index: int) -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        read_all(read, 3)

    def unreadable(index: int) -> int:
        raise ImageError(f"no {index}")

    with pytest.raises(DatasetError, match=r"2 of 2 images or masks cannot be used:\n  no 0\n  no 1"):
        read_all(unreadable, 2)
