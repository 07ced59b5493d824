"""Options that a call has no use for are refused or noted, and inputs that are left out are named."""

import inspect

import numpy as np
import pytest
import rasterio
from PIL import Image

from fakes.rasters import UTM
from fakes.rasters import write as write_geotiff
from refineseg.cli import bench, export, predict
from refineseg.errors import ImageError
from refineseg.predict.video.options import VideoOptions
from refineseg.predict.video.sources import find_source
from refineseg.predict.video.video import _targets
from refineseg.terminal.applicability import FOR_INPUTS, RULES

PICTURE = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)


@pytest.fixture
def picture(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "a.jpg")
    return tmp_path / "a.jpg"


def test_every_rule_is_about_options_that_there_are():
    verbs = {"predict": predict.predict, "export": export.export, "bench": bench.bench}
    assert set(RULES) == set(verbs)
    for verb, rules in RULES.items():
        known = set(inspect.signature(verbs[verb]).parameters)
        for rule in rules:
            assert set(rule.options) <= known, rule
    assert set(FOR_INPUTS) <= set(inspect.signature(predict.predict).parameters)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--probability-format", "npz"], "expected --probability-format only with --save probabilities"),
        (["--confidence-format", "png16"], "expected --confidence-format only with --save confidence"),
        (["--polygon-format", "coco"], "expected --polygon-format only with --save polygons"),
        (["--simplify", "1.0", "--smallest-area", "9"], "expected --simplify, --smallest-area only with --save polyg"),
        (["--classes", "sky"], "expected --classes only with --save probabilities or polygons"),
        (["--overlap", "64"], "expected --overlap only with --tile-mode blend"),
        (["--tile-mode", "blend", "--prove"], "expected --prove only with --tile-mode exact"),
        (["--tile", "off", "--memory", "1GB"], "expected --memory only without --tile off"),
        (["--flip", "--memory", "1GB"], "expected --memory only without --scales, --flip"),
        (["--scales", "0.5,1", "--tile-mode", "blend"], "expected --tile-mode only without --scales"),
        (["--backend", "onnxruntime", "--memory", "1GB"], "expected --memory only with --backend torch or auto"),
        (["--model", "a.onnx", "--tile", "64"], "expected --tile only with --backend torch or auto"),
        (["--percentiles", "2,98", "--value-range", "0,9"], "expected --percentiles only without --value-range"),
        (["--enlargement", "1.2"], "expected an enlargement only with the authors' protocols"),
        (["--smooth", "0.5"], "expected --smooth with videos or image sequences among the inputs, got images only"),
        (["--frame-rate", "25"], "expected --frame-rate with image sequences among the inputs, got images only"),
        (["--seconds", "2"], "expected --seconds with videos or image sequences"),
        (["--live", "auto"], "expected --live with videos or image sequences"),
    ],
)
def test_options_of_predict_that_cannot_apply_are_refused(refineseg, picture, tmp_path, options, message):
    status, _, said = refineseg("predict", picture, "--out", tmp_path / "out", *options)
    assert (status, message in said) == (2, True), said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options", [["--bands", "3,2,1"], ["--nodata", "0"], ["--no-overviews"], ["--batch-size", "2"]]
)
def test_options_of_images_are_refused_for_videos_alone(refineseg, tmp_path, options):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    status, _, said = refineseg("predict", tmp_path / "a.mp4", "--out", tmp_path / "out", *options)
    assert status == 2
    assert f"expected {options[0].replace('no-', '')} with images among the inputs, got videos only" in said


@pytest.mark.parametrize(
    ("verb", "options", "message"),
    [
        ("export", ["--drift", "0.1"], "--drift only with --accept"),
        ("export", ["--split", "val"], "--split only with --accept"),
        ("export", ["--images", "9"], "--images only with --calibrate"),
        ("export", ["--check", "--accept", "a:b", "--size", "64x64"], "--size only without --check"),
        ("bench", ["--papers", "--model", "camvid"], "--model only without --papers"),
        ("bench", ["--counts", "--size", "64x64"], "--size only without --counts"),
        ("bench", ["--counts", "--device", "cpu"], "--device only without --counts"),
        ("bench", ["--workers", "2"], "--workers only with --training"),
        ("bench", ["--set", "epochs=1"], "--set only with --training"),
        ("bench", ["--papers", "--batch", "1"], "--batch-size only without --papers"),
        ("bench", ["--counts", "--stages", "x"], "--stages only without --counts"),
    ],
)
def test_options_of_other_verbs_that_cannot_apply_are_refused(refineseg, tmp_path, verb, options, message):
    out = ["--out", tmp_path / "a.onnx"] if verb == "export" else []
    status, _, said = refineseg(verb, *out, *options)
    assert (status, message in said) == (2, True), said


def test_options_whose_use_is_seen_late_are_noted(refineseg, picture, tmp_path):
    said = ["--save", "mask", "--percentiles", "2,98", "--no-overviews"]
    status, _, notes = refineseg("predict", picture, "--out", tmp_path / "out", *said)
    assert status == 0
    assert "all images have 8-bit pixels: --percentiles is for pixels of more bits" in " ".join(notes.split())
    assert "no input is a raster: --overviews and --no-overviews are for rasters" in " ".join(notes.split())


def test_bands_of_a_photograph_are_those_that_are_named(refineseg, picture, tmp_path):
    Image.fromarray(np.asarray(Image.open(picture))[..., ::-1]).save(tmp_path / "turned.png")
    assert refineseg("predict", picture, "--out", tmp_path / "a", "--bands", "3,2,1", "--save", "mask")[0] == 0
    assert refineseg("predict", tmp_path / "turned.png", "--out", tmp_path / "a", "--save", "mask")[0] == 0
    masks = [np.asarray(Image.open(tmp_path / "a" / name)) for name in ("a.png", "turned.png")]
    np.testing.assert_array_equal(*masks)
    status, _, said = refineseg("predict", picture, "--out", tmp_path / "b", "--bands", "4,3,2")
    assert status == 1
    assert "expected bands from 1 to 3 of" in said


def test_pictures_and_videos_in_a_folder_that_are_not_predicted_are_counted_and_named(refineseg, picture, tmp_path):
    for name in ("b.CR2", "c.jxl", "notes.txt", "clip.mp4"):
        (tmp_path / name).write_bytes(b"x")
    status, _, said = refineseg("predict", tmp_path, "--out", tmp_path / "out", "--save", "mask")
    said = " ".join(said.split())
    assert status == 1
    assert "skipped: 2 pictures in" in said
    assert "of kinds that are not read: b.CR2, c.jxl; convert them" in said
    assert "1 videos or rasters in" in said
    assert "clip.mp4" in said
    assert "notes.txt" not in said
    assert (tmp_path / "out" / "a.png").is_file()


def test_avif_is_read_and_heic_is_read_or_says_what_is_missing(refineseg, tmp_path):
    pytest.importorskip("PIL.AvifImagePlugin")
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(PICTURE).save(folder / "a.avif")
    assert refineseg("predict", folder, "--out", tmp_path / "out", "--save", "mask")[0] == 0
    assert (tmp_path / "out" / "a.png").is_file()
    (folder / "b.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    status, _, said = refineseg("predict", folder / "b.heic", "--out", tmp_path / "out", "--save", "mask")
    assert status == 1
    assert "b.heic" in said
    if not _has_heif():
        assert "which is HEIC; install the package pillow-heif, or convert it to JPEG" in " ".join(said.split())


def _has_heif():
    from refineseg.images.decoding import HAS_HEIF

    return HAS_HEIF


def test_a_picture_at_an_address_is_no_video(refineseg, tmp_path):
    status, _, said = refineseg("predict", "http://127.0.0.1:9/photo.jpg?size=2", "--out", tmp_path / "out")
    assert status == 1
    assert "which is a picture; download it and give the file" in " ".join(said.split())
    with pytest.raises(ImageError, match="which is a picture; download it"):
        _targets(find_source("http://127.0.0.1:9/photo.png"), tmp_path / "a", VideoOptions())


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_fill_values_and_polygons_without_a_place_are_told(refineseg, tmp_path):
    values = PICTURE.transpose(2, 0, 1).copy()
    values[:, :20] = 0
    write_geotiff(tmp_path / "filled.tif", values, **UTM)
    corners = [(0, 0), (0, 96), (64, 0), (64, 96)]
    points = [rasterio.control.GroundControlPoint(r, c, 7 + c / 1e4, 50 - r / 1e4) for r, c in corners]
    write_geotiff(tmp_path / "points.tif", PICTURE.transpose(2, 0, 1), gcps=points, crs="EPSG:4326")
    inputs = [tmp_path / "filled.tif", tmp_path / "points.tif"]
    status, _, said = refineseg("predict", *inputs, "--out", tmp_path / "out", "--save", "mask,polygons")
    said = " ".join(said.split())
    assert status == 0
    assert "filled.tif: 31 % of its pixels are 0 in all bands" in said
    assert "add --nodata 0" in said
    assert "points.tif: its place is given by ground control points or a camera model, so polygons are in pi" in said
    assert said.count("add --nodata") == 1
