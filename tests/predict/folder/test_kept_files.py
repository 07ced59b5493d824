"""What results must not take the place of: files of somebody else, beside inputs or in folders of masks."""

import numpy as np
import pytest
from PIL import Image

import refineseg
from conftest import call
from fakes.rasters import UTM, write
from refineseg.errors import ConfigError
from refineseg.predict.folder.records import RECORD

RNG = np.random.default_rng(0)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("a", "b"):
        Image.fromarray(RNG.integers(0, 256, (40, 56, 3), dtype=np.uint8)).save(folder / f"{name}.jpg")
    return folder


def by_hand(path):
    """A mask that somebody painted."""
    Image.fromarray(RNG.integers(0, 3, (40, 56), dtype=np.uint8)).save(path)
    return path.read_bytes()


def refused(inputs, out, model, **options):
    with pytest.raises(ConfigError, match=r"would be lost, which `refineseg predict` did not make") as error:
        refineseg.predict(inputs, out, model=model, **options)
    return str(error.value)


def test_a_mask_beside_its_image_is_not_replaced(photos, model):
    painted = by_hand(photos / "a.png")
    inputs = [photos / "a.jpg", photos / "b.jpg"]
    assert "a.png" in refused(inputs, photos, model)
    assert "a.png" in refused(photos / "a.jpg", photos, model)
    assert sorted(path.name for path in photos.iterdir()) == ["a.jpg", "a.png", "b.jpg"]
    assert (photos / "a.png").read_bytes() == painted
    refineseg.predict(inputs, photos, model=model, save="overlay")  # which has a name of its own
    assert (photos / "a.png").read_bytes() == painted
    refused(inputs, photos, model)  # although a record is there now


@pytest.mark.parametrize("which", [["a.jpg"], ["a.jpg", "b.jpg"]])
def test_the_same_call_again_replaces_its_own_results(photos, model, which):
    inputs = [photos / name for name in which]
    refineseg.predict(inputs, photos, model=model, save="mask,polygons")
    first = (photos / "a.png").read_bytes()
    (photos / "a.png").write_bytes(first + b"\0")
    refineseg.predict(inputs, photos, model=model, save="mask,polygons")
    assert (photos / "a.png").read_bytes() == first


def test_a_folder_of_painted_masks_is_not_replaced_and_one_of_results_is(photos, model, tmp_path):
    (tmp_path / "masks").mkdir()
    painted = by_hand(tmp_path / "masks" / "b.png")
    refused(photos, tmp_path / "masks", model)
    assert [path.name for path in (tmp_path / "masks").iterdir()] == ["b.png"]
    assert (tmp_path / "masks" / "b.png").read_bytes() == painted
    (tmp_path / "masks" / RECORD).write_text("{}")  # masks of versions that did not mark them
    refineseg.predict(photos, tmp_path / "masks", model=model)
    assert (tmp_path / "masks" / "b.png").read_bytes() != painted


def test_polygons_and_masks_of_rasters_are_not_replaced(model, tmp_path):
    source = tmp_path / "field.img"
    write(tmp_path / "made.tif", RNG.integers(0, 256, (3, 40, 56), dtype=np.uint8), **UTM).rename(source)
    (tmp_path / "field.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    assert "field.geojson" in refused(source, tmp_path, model, save="mask,polygons")
    refineseg.predict(source, tmp_path, model=model, save="mask")
    refineseg.predict(source, tmp_path, model=model, save="mask")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "field.tif")
    assert "field.tif" in refused(source, tmp_path, model, save="mask")


def test_a_video_of_another_kind_is_not_replaced(model, tmp_path):
    av = pytest.importorskip("av", reason="videos need PyAV")
    for ending in (".mkv", ".mp4"):
        with av.open(str(tmp_path / f"clip{ending}"), "w") as container:
            stream = container.add_stream("mpeg4", rate=25)
            stream.height = stream.width = 32
            for _ in range(3):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")))
            container.mux(stream.encode(None))
    assert "clip.mp4" in refused(tmp_path / "clip.mkv", tmp_path, model)
    (tmp_path / "clip.mp4").unlink()
    for _ in range(2):
        refineseg.predict(tmp_path / "clip.mkv", tmp_path, model=model)


@pytest.mark.parametrize(
    ("option", "name"),
    [("--json", "out/a.png"), ("--json", "out/../out/b_overlay.jpg"), ("--areas", "out/a_coco.json")],
)
def test_a_table_is_not_named_like_a_result(photos, model, tmp_path, monkeypatch, capsys, option, name):
    (tmp_path / "out").mkdir()
    kinds = ("--save", "mask,overlay,polygons", "--polygon-format", "coco")
    asked = ("--out", tmp_path / "out", "--model", model, option, tmp_path / name, *kinds)
    status, _, err = call(monkeypatch, capsys, "predict", photos, *asked)
    assert status == 2
    assert f"expected {option} apart from the results, got" in err
    assert not list((tmp_path / "out").iterdir())
