"""Writing masks and images without leaving halves behind, and finding images in folders."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from refineseg.class_info import ClassInfo
from refineseg.errors import ImageError, OutputError
from refineseg.files.writing import written_beside
from refineseg.images.encoding import write_image, write_mask
from refineseg.images.files import find_images, first_names, read_rgb


def test_a_mask_is_written_as_palette_png_whose_values_are_the_classes(tmp_path):
    classes = ClassInfo(("a", "b", "c"), ((1, 2, 3), (40, 50, 60), (255, 0, 7)))
    mask = np.array([[0, 1, 2, 255], [2, 2, 3, 254]])
    write_mask(tmp_path / "deep" / "m.png", mask, classes)
    with Image.open(tmp_path / "deep" / "m.png") as image:
        assert (image.format, image.mode) == ("PNG", "P")
        np.testing.assert_array_equal(np.asarray(image), mask)
        shown = np.asarray(image.convert("RGB"))
    black = [0, 0, 0]
    assert shown.tolist() == [
        [[1, 2, 3], [40, 50, 60], [255, 0, 7], black],
        [[255, 0, 7], [255, 0, 7], black, black],
    ]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64, np.bool_])
def test_masks_of_any_integers_are_written(tmp_path, dtype):
    mask = np.array([[0, 1], [1, 0]], dtype)
    write_mask(tmp_path / "m.png", mask, ClassInfo(("a", "b")))
    with Image.open(tmp_path / "m.png") as image:
        np.testing.assert_array_equal(np.asarray(image), mask)


def test_masks_of_more_than_255_classes_are_16_bit(tmp_path):
    classes = ClassInfo.generic(300)
    mask = np.array([[0, 299, 65535]])
    write_mask(tmp_path / "m.png", mask, classes)
    with Image.open(tmp_path / "m.png") as image:
        np.testing.assert_array_equal(np.asarray(image), mask)


def test_values_that_would_wrap_round_are_not_written(tmp_path):
    for value in (-1, 256):
        with pytest.raises(ImageError, match=rf"m\.png: expected mask values 0\.\.255 to write a mask, got .*{value}"):
            write_mask(tmp_path / "m.png", np.array([[0, value]]), ClassInfo(("a", "b")))
    assert not list(tmp_path.iterdir())


def test_an_image_is_written_as_its_ending_says(tmp_path):
    rgb = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    for name, kind, difference in (("a.PNG", "PNG", 0), ("a.jpg", "JPEG", 3), ("b.jpeg", "JPEG", 3)):
        write_image(tmp_path / name, rgb)
        with Image.open(tmp_path / name) as image:
            assert image.format == kind
        assert np.abs(read_rgb(tmp_path / name).astype(int) - rgb).max() <= difference
    with pytest.raises(ImageError, match=r"expected a file name ending in \.jpg, \.jpeg, \.png, got .*a\.txt"):
        write_image(tmp_path / "a.txt", rgb)


def test_when_writing_fails_the_old_file_stays_and_nothing_is_left_beside_it(tmp_path, monkeypatch):
    path = tmp_path / "m.png"
    path.write_text("before")

    def full_disk(self, content):
        with self.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OutputError, match=r"expected to write .*m\.png, but .*No space left.*; choose a folder"):
        write_mask(path, np.zeros((2, 2), np.uint8), ClassInfo(("a", "b")))
    with pytest.raises(OutputError, match=r"new\.png"):
        write_image(tmp_path / "new.png", np.zeros((2, 2, 3), np.uint8))
    assert [p.name for p in tmp_path.iterdir()] == ["m.png"]
    assert path.read_text() == "before"


def test_a_folder_that_cannot_be_made_is_an_error_that_names_the_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"expected to write .*file.m\.png, but .*file exists and is a file"):
        write_mask(tmp_path / "file" / "m.png", np.zeros((2, 2), np.uint8), ClassInfo(("a", "b")))


def test_an_interrupted_file_leaves_nothing(tmp_path):
    def interrupted() -> None:
        with written_beside(tmp_path / "a.txt") as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())
    with written_beside(tmp_path / ("n" * 250 + ".txt")) as temporary:  # as long as a name may be
        assert not find_images(tmp_path)
        temporary.write_text("whole")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["whole"]


# ---------------------------------------------------------------------------------------------------------- searching


def test_images_are_found_in_subfolders_in_order_without_hidden_ones(tmp_path):
    for name in ("b.JPG", "a/2.png", "a/1.jpeg", "c.txt", ".hidden.png", ".thumbnails/1.png", "a/.x/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [p.relative_to(tmp_path).as_posix() for p in find_images(tmp_path)] == ["a/1.jpeg", "a/2.png", "b.JPG"]


def test_linked_folders_are_searched_once_even_in_a_circle(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "1.png").touch()
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "linked").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "back").symlink_to(tmp_path / "images")
    found = [p.relative_to(tmp_path).as_posix() for p in find_images(tmp_path / "images")]
    assert found == ["images/linked/1.png"]


def test_a_folder_that_is_not_there_has_no_images_but_an_error(tmp_path):
    with pytest.raises(ImageError, match=r"expected a folder of images, but .*absent cannot be listed"):
        find_images(tmp_path / "absent")


def test_long_lists_of_names_are_cut():
    assert first_names(["a", "b"]) == "a, b"
    assert first_names(list("abcdefg")) == "a, b, c, d, e and 2 more"
