"""IDD-Lite, as it unpacks."""

import numpy as np
import pytest
from PIL import Image

from conftest import SHARED
from fakes.scenes import fake_idd_lite
from refineseg.data.readers.idd_lite import open_idd_lite
from refineseg.errors import DatasetError

REAL = SHARED / "idd_lite"


def test_frames_of_equal_numbers_in_two_drives_are_two_samples(tmp_path):
    dataset = open_idd_lite(fake_idd_lite(tmp_path), "train")
    assert [dataset.name(i) for i in range(3)] == ["0/024541", "0/024703", "12/024541"]
    labels = np.asarray(Image.open(tmp_path / "gtFine" / "train" / "12" / "024541_label.png"))
    np.testing.assert_array_equal(dataset[2].mask, labels)


def test_test_has_no_masks(tmp_path):
    dataset = open_idd_lite(fake_idd_lite(tmp_path), "test")
    assert len(dataset) == 3
    assert dataset[0].mask is None


def test_what_is_wrong_is_said(tmp_path):
    root = fake_idd_lite(tmp_path)
    with pytest.raises(DatasetError, match="expected an IDD-Lite split of train, val, test, got 'all'"):
        open_idd_lite(root, "all")
    (root / "gtFine" / "val" / "0" / "024703_label.png").unlink()
    with pytest.raises(DatasetError, match="024703"):
        open_idd_lite(root, "val")
    with pytest.raises(DatasetError, match=r"expected DRIVE/FRAME_image.jpg in .*; give the folder"):
        open_idd_lite(root / "gtFine", "train")


@pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL} is absent")
def test_the_real_set_is_whole():
    assert [len(open_idd_lite(REAL, split)) for split in ("train", "val", "test")] == [1403, 204, 404]
    assert not open_idd_lite(REAL, "train").notes
