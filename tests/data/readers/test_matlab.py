"""MATLAB files of data sets: as scipy reads them, and no file ends the process."""

import struct
import zlib

import numpy as np
import pytest
import scipy.io

from refineseg.data.readers.matlab import load_mat
from refineseg.data.readers.sbd import read_sbd_mask
from refineseg.errors import DatasetError


def nested(depth):
    """A compressed variable GTcls: cells in cells. scipy dies of 20,000."""
    head = struct.pack("<4I", 6, 8, 1, 0) + struct.pack("<2I2i", 5, 8, 1, 1)
    parts, size = [struct.pack("<2I", 14, 0)], 8
    for level in reversed(range(depth)):
        name = struct.pack("<2I", 1, 5) + b"GTcls\0\0\0" if level == 0 else struct.pack("<2I", 1, 0)
        size += len(head) + len(name)
        parts.append(struct.pack("<2I", 14, size) + head + name)
        size += 8
    deflated = zlib.compress(b"".join(reversed(parts)))
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + struct.pack("<2I", 15, len(deflated)) + deflated


@pytest.mark.parametrize("depth", [100, 20_000])
def test_cells_in_cells_are_refused(tmp_path, depth):
    (tmp_path / "mask.mat").write_bytes(nested(depth))
    with pytest.raises(DatasetError, match=r"mask\.mat, where values are nested in each other more than 32 times"):
        read_sbd_mask(tmp_path / "mask.mat")


VARIABLES = {
    "matrix": np.arange(6, dtype=np.int16).reshape(2, 3),
    "doubles": np.array([[1.0, 2.0], [3.0, 4.0]]),  # which MATLAB stores as bytes, and scipy writes as doubles
    "number": np.array([[7]], np.uint8),
    "row": np.array([[0.5, 1.5, 2.5]]),
    "flags": np.array([[True, False]]),
    "text": "sky",
    "names": np.array(["a", "bcd"], object),
    "one": np.array(["alone"], object),
    "struct": {"mask": np.eye(3, dtype=np.uint8), "name": "tree"},
    "structs": np.array([(1, "a"), (2, "b")], [("id", object), ("name", object)]),
    "nothing": np.zeros((0, 0)),
}


def same(ours, truth):
    if isinstance(truth, np.ndarray) and truth.dtype.names:
        assert ours.shape == truth.shape
        assert set(ours.dtype.names) == set(truth.dtype.names)
        for name in truth.dtype.names:
            for mine, theirs in zip(ours[name].reshape(-1), truth[name].reshape(-1), strict=True):
                same(mine, theirs)
    elif isinstance(truth, np.ndarray) and truth.dtype == object:
        for mine, theirs in zip(ours, truth, strict=True):
            same(mine, theirs)
    else:
        assert type(ours) is type(truth)
        assert getattr(ours, "dtype", None) == getattr(truth, "dtype", None)
        np.testing.assert_array_equal(ours, truth)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("name", VARIABLES)
def test_variables_are_as_scipy_gives_them(tmp_path, name, compressed):
    path = tmp_path / "file.mat"
    scipy.io.savemat(path, {"before": "x", name: VARIABLES[name]}, do_compression=compressed)
    truth = scipy.io.loadmat(path, squeeze_me=True)[name]
    same(load_mat(path, [name])[name], str(truth) if isinstance(truth, np.str_) else truth)


def test_fields_that_are_not_wanted_are_not_read(tmp_path):
    scipy.io.savemat(tmp_path / "file.mat", {"rows": VARIABLES["structs"]})
    rows = load_mat(tmp_path / "file.mat", ["rows"], fields=("name",))["rows"]
    assert rows["name"].tolist() == ["a", "b"]
    assert rows["id"].tolist() == [None, None]
