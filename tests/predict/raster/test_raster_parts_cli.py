"""``predict --part`` of a raster: what is said, what is written, and what is refused."""

import pytest
from PIL import Image
from test_raster import pixels

from fakes.rasters import UTM, write

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def test_two_calls_share_a_raster_and_write_what_one_call_writes(refineseg, model, tmp_path):
    src = write(tmp_path / "scene.tif", pixels((300, 400)), **UTM)
    call = ("predict", src, "--model", model, "--tile", "128", "--device", "cpu", "--out")
    assert refineseg(*call, tmp_path / "whole")[0] == 0
    parts = tmp_path / "parts"
    status, out, _ = refineseg(*call, parts, "--part", "2/2")
    assert status == 0
    assert f"{src}: part 2 of 2 is done; 6 of 12 tiles are left to others, the last of which writes the results" in out
    assert [path.name for path in parts.iterdir()] == [".scene.tif.parts"]
    status, out, _ = refineseg(*call, parts, "--part", "1/2")
    assert (status, "%" in out) == (0, True)
    whole = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    assert {path.name: path.read_bytes() for path in parts.iterdir()} == whole


def test_an_image_has_no_parts_and_a_part_does_not_begin_anew(refineseg, model, tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    src = write(tmp_path / "scene.tif", pixels((40, 60)), **UTM)
    call = ("predict", "--model", model, "--out", tmp_path / "out", "--part", "1/2")
    for more, message in (
        ([tmp_path / "a.png"], "expected --part with a folder, a bucket or a raster, got the image"),
        ([src, "--no-resume"], "expected --part without --no-resume"),
        ([src, "--part", "3/2"], "expected a part I/N with I from 1 to N, got 3/2"),
    ):
        status, _, err = refineseg(*call, *more)
        assert status == 2
        assert message in err
    assert not (tmp_path / "out").exists()
