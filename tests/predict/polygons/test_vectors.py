"""Masks as polygons: exact, shared borders, across tiles, simplified within the stated distance, in other programs."""

import itertools
import json
import sys
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

shapely = pytest.importorskip("shapely", reason="polygons need shapely")
features = pytest.importorskip("rasterio.features", reason="the independent rasteriser is rasterio's")

from refineseg.class_info import ClassInfo  # noqa: E402
from refineseg.errors import ConfigError, MissingExtraError  # noqa: E402
from refineseg.predict.outputs.kinds import Outputs  # noqa: E402
from refineseg.predict.polygons.coordinates import Ground  # noqa: E402
from refineseg.predict.polygons.vectors import (  # noqa: E402
    RegionMerger,
    VectorOptions,
    coco_annotations,
    encode_vectors,
    regions_of,
    write_geojson,
)
from refineseg.predict.views.tiling import Region  # noqa: E402

CLASSES = ClassInfo(("sky", "road", "pole"), ((0, 0, 255), (128, 64, 128), (9, 8, 7)))
EXACT = VectorOptions(simplify=0.0)
VOID = 255
UTM = (10.0, 0.0, 300000.0, 0.0, -10.0, 5100000.0)


def polygons_of(regions):
    return np.array([region.polygon for region in regions], object)


def regions(mask, confidence=None, **options):
    return regions_of(mask, class_info=CLASSES, confidence=confidence, options=VectorOptions(**options))


def burnt(found, size_hw):
    """By GDAL."""
    if not found:
        return np.full(size_hw, VOID, np.uint8)
    shapes = [(region.polygon, region.class_index) for region in found]
    return features.rasterize(shapes, out_shape=size_hw, fill=VOID, dtype="uint8")


def blobs(size_hw, seed, *, noise=0.02, scale=6.0):
    """A mask of smooth regions, with single pixels of any class and void."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size_hw[0], : size_hw[1]] / scale
    waves = sum(np.sin(a * x + b * y + c) for a, b, c in rng.normal(0, 1, (6, 3)))
    mask = np.digitize(waves, (-0.8, 0.9)).astype(np.uint8)
    noisy = rng.random(size_hw) < noise
    mask[noisy] = rng.choice(np.array([0, 1, 2, VOID], np.uint8), int(noisy.sum()))
    return mask


@st.composite
def masks(draw, most=12):
    size_hw = draw(st.integers(1, most)), draw(st.integers(1, most))
    values = draw(st.lists(st.sampled_from([0, 1, 2, VOID]), min_size=1, max_size=4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return rng.choice(np.array(values, np.uint8), size_hw)


@settings(max_examples=150, deadline=None)
@given(mask=masks())
def test_polygons_are_the_pixels_of_the_mask(mask):
    found = regions(mask, simplify=0.0)
    polygons = polygons_of(found)
    assert (shapely.area(polygons) == [region.area for region in found]).all()
    assert sum(region.area for region in found) == (mask != VOID).sum()
    assert np.array_equal(burnt(found, mask.shape), mask)
    # GDAL's own polygons with connectivity 4: the same regions
    theirs = [
        (int(value), shapely.geometry.shape(shape))
        for shape, value in features.shapes(mask, mask=mask != VOID, connectivity=4)
    ]
    assert len(theirs) == len(found)
    by_corner = {(value, *polygon.bounds, polygon.area) for value, polygon in theirs}
    assert {(r.class_index, *r.polygon.bounds, r.polygon.area) for r in found} == by_corner
    assert shapely.union_all(polygons).equals(shapely.union_all([polygon for _, polygon in theirs]))


@settings(max_examples=150, deadline=None)
@given(mask=masks(), simplify=st.sampled_from([0.0, 0.5, 0.75, 1.0, 2.0, 5.0]))
def test_any_mask_gives_valid_polygons_without_gaps_or_overlaps(mask, simplify):
    polygons = polygons_of(regions(mask, simplify=simplify))
    assert shapely.is_valid(polygons).all()
    assert shapely.coverage_is_valid(polygons)
    if not (mask == VOID).any():  # then they are all of the image: its sides have not moved
        assert shapely.coverage_union_all(polygons).equals(shapely.box(0, 0, *mask.shape[::-1]))


def borders_between(polygons):
    """Line work of each pair of neighbours, and of each polygon with what is no polygon."""
    owners = defaultdict(set)
    for number, polygon in enumerate(polygons):
        for ring in (polygon.exterior, *polygon.interiors):
            for segment in zip(ring.coords[:-1], ring.coords[1:], strict=True):
                owners[tuple(sorted(segment))].add(number)
    lines = defaultdict(list)
    for segment, numbers in owners.items():
        assert len(numbers) <= 2
        lines[tuple(sorted(numbers))].append(segment)
    return {pair: shapely.MultiLineString(segments) for pair, segments in lines.items()}


@pytest.mark.parametrize("simplify", [0.5, 1.0, 2.5])
@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_no_border_moves_further_than_stated(simplify, noise):
    mask = blobs((90, 120), seed=3, noise=noise)
    exact, simple = regions(mask, simplify=0.0), regions(mask, simplify=simplify)
    assert [r.area for r in exact] == [r.area for r in simple]
    before, after = borders_between(polygons_of(exact)), borders_between(polygons_of(simple))
    assert before.keys() == after.keys()  # who is whose neighbour does not change
    worst = max(
        shapely.hausdorff_distance(before[pair].segmentize(0.25), after[pair].segmentize(0.25)) for pair in before
    )
    assert 0 < worst <= simplify + 1e-9
    corners = [shapely.get_num_coordinates(polygons_of(found)).sum() for found in (exact, simple)]
    assert corners[1] < {0.5: 0.9, 1.0: 0.7, 2.5: 0.6}[simplify] * corners[0], corners
    assert shapely.coverage_is_valid(polygons_of(simple))


def test_a_slope_of_steps_becomes_a_straight_line():
    mask = (np.arange(40)[None] > np.arange(40)[:, None]).astype(np.uint8)
    assert [len(r.polygon.exterior.coords) for r in regions(mask, simplify=1.0)] == [6, 4]
    assert [len(r.polygon.exterior.coords) for r in regions(mask, simplify=0.0)] == [83, 81]


def test_a_region_inside_another_is_its_hole():
    mask = np.zeros((7, 7), np.uint8)
    mask[1:6, 1:6] = 1
    mask[2:5, 2:5] = 0
    mask[3, 3] = VOID
    outer, ring, inner = regions(mask)
    assert [(r.class_index, r.area, len(r.polygon.interiors)) for r in (outer, ring, inner)] == [
        (0, 24, 1),
        (1, 16, 1),
        (0, 8, 1),
    ]
    assert outer.polygon.exterior.equals(shapely.box(0, 0, 7, 7).exterior)


def test_pixels_that_touch_at_a_corner_are_two_regions():
    found = regions(np.array([[0, 1], [1, 0]], np.uint8))
    assert [(r.class_index, r.area, r.polygon.bounds) for r in found] == [
        (0, 1, (0, 0, 1, 1)),
        (1, 1, (1, 0, 2, 1)),
        (1, 1, (0, 1, 1, 2)),
        (0, 1, (1, 1, 2, 2)),
    ]


def test_a_region_whose_ends_touch_at_a_corner_is_a_valid_polygon_with_a_hole():
    mask = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 1]], np.uint8)
    region = regions(mask)[0]
    assert region.area == region.polygon.area == 7
    assert region.polygon.is_valid
    assert len(region.polygon.interiors) == 1


def test_void_is_no_region():
    assert regions(np.full((3, 4), VOID, np.uint8)) == []
    (one,) = regions(np.array([[VOID, 2, VOID]], np.uint8))
    assert one.polygon.equals(shapely.box(1, 0, 2, 1))


def test_mean_confidence_is_that_of_the_regions_pixels():
    mask = blobs((40, 50), seed=1)
    confidence = np.random.default_rng(2).random(mask.shape, dtype=np.float32)
    for region in regions(mask, confidence, simplify=0.0):
        inside = burnt([region], mask.shape) != VOID
        assert region.mean_confidence == pytest.approx(confidence[inside].mean(dtype=np.float64), abs=1e-6)
    assert all(region.mean_confidence is None for region in regions(mask))


def cuts(rng, length):
    return [0, *sorted(rng.choice(np.arange(1, length), 2, replace=False).tolist()), length]


def random_tiles(rng, size_hw):
    """Bands of rows, each cut at places of its own: corners of tiles meet sides of others."""
    rows = cuts(rng, size_hw[0])
    tiles = []
    for top, bottom in itertools.pairwise(rows):
        columns = cuts(rng, size_hw[1])
        tiles += [Region(top, a, bottom, b) for a, b in itertools.pairwise(columns)]
    return [tiles[i] for i in rng.permutation(len(tiles))]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("options", [{"simplify": 0.0}, {"simplify": 1.0}, {"simplify": 1.0, "smallest_area": 6.0}])
def test_tiles_in_any_order_give_what_the_whole_mask_gives(seed, options):
    rng = np.random.default_rng(seed)
    size_hw = (int(rng.integers(5, 60)), int(rng.integers(5, 60)))
    mask = blobs(size_hw, seed, noise=0.2 if seed % 2 else 0.02)
    confidence = rng.random(size_hw, dtype=np.float32)
    merger = RegionMerger(size_hw, class_info=CLASSES, options=VectorOptions(**options))
    for tile in random_tiles(rng, size_hw):
        merger.add(tile, mask[tile.slices], np.ascontiguousarray(confidence[tile.slices]))
    merged, whole = merger.finish(), regions(mask, confidence, **options)
    assert [(r.class_index, r.area, r.mean_confidence) for r in merged] == [
        (r.class_index, r.area, r.mean_confidence) for r in whole
    ]
    assert shapely.equals_identical(polygons_of(merged), polygons_of(whole)).all()


def test_tiles_of_one_pixel_are_merged():
    mask = blobs((9, 11), seed=5, noise=0.3)
    merger = RegionMerger(mask.shape, class_info=CLASSES, options=EXACT)
    for y, x in np.random.default_rng(0).permutation(list(np.ndindex(mask.shape))).tolist():
        merger.add(Region(y, x, y + 1, x + 1), mask[y : y + 1, x : x + 1])
    assert shapely.equals_identical(polygons_of(merger.finish()), polygons_of(regions(mask, simplify=0.0))).all()


def test_what_waits_for_other_tiles_is_forgotten_when_they_come():
    mask = blobs((64, 64), seed=6)
    merger = RegionMerger(mask.shape, class_info=CLASSES)
    tiles = [Region(y, x, y + 16, x + 16) for y in range(0, 64, 16) for x in range(0, 64, 16)]
    for tile in tiles:
        merger.add(tile, mask[tile.slices])
        waiting = sum(len(side.numbers) for sides in merger._merger._waiting.values() for side in sides)
        assert waiting <= 64 + 16  # row by row: the lower side of what is there, and the right side of the last tile
    assert waiting == 0


class TestSmallRegions:
    def test_become_part_of_the_neighbour_with_the_longest_border(self):
        mask = np.zeros((6, 9), np.uint8)
        mask[:, 6:] = 1
        mask[2, 5] = 2  # three sides to class 0, one to class 1
        mask[4, 6] = 2
        sky, road = regions(mask, simplify=0.0, smallest_area=2.0)
        assert (sky.area, road.area) == (36, 18)
        assert sky.polygon.equals(shapely.box(0, 0, 6, 6))

    def test_join_what_they_had_kept_apart(self):
        mask = np.zeros((3, 9), np.uint8)
        mask[:, 4] = 1
        (all_of_it,) = regions(mask, smallest_area=4.0)
        assert all_of_it.area == 27
        assert all_of_it.polygon.equals(shapely.box(0, 0, 9, 3))

    def test_of_the_stated_area_stay(self):
        mask = np.zeros((5, 5), np.uint8)
        mask[2, 1:4] = 1
        assert [r.area for r in regions(mask, smallest_area=3.0)] == [22, 3]
        assert [r.area for r in regions(mask, smallest_area=3.5)] == [25]

    def test_in_void_become_void(self):
        mask = np.full((5, 5), VOID, np.uint8)
        mask[0, 0], mask[2:4, 2:4] = 1, 2
        assert [(r.class_index, r.area) for r in regions(mask, smallest_area=2.0)] == [(2, 4)]

    @pytest.mark.parametrize("seed", range(6))
    def test_leave_no_small_region_no_gap_and_every_pixel(self, seed):
        mask = blobs((50, 40), seed, noise=0.3)
        mask[mask == VOID] = 1
        confidence = np.random.default_rng(seed).random(mask.shape, dtype=np.float32)
        found = regions(mask, confidence, simplify=0.0, smallest_area=9.0)
        polygons = polygons_of(found)
        assert min(r.area for r in found) >= 9
        assert sum(r.area for r in found) == mask.size
        assert (shapely.area(polygons) == [r.area for r in found]).all()
        assert shapely.coverage_is_valid(polygons)
        for pair in borders_between(polygons):  # neighbours have different classes
            assert len(pair) == 1 or len({found[i].class_index for i in pair}) == 2
        mean = sum(r.area * r.mean_confidence for r in found) / mask.size
        assert mean == pytest.approx(confidence.mean(dtype=np.float64), abs=1e-6)


def test_chosen_classes_alone_become_polygons():
    mask = blobs((40, 40), seed=8)
    found = regions(mask, simplify=0.0, classes=("pole", "sky"))
    assert {r.class_index for r in found} == {0, 2}
    assert np.array_equal(burnt(found, mask.shape), np.where(mask == 1, VOID, mask))


class TestGeoJson:
    def test_in_pixels_is_read_back_by_other_programs(self, tmp_path):
        mask = blobs((50, 70), seed=9)
        confidence = np.full(mask.shape, 0.75, np.float32)
        found = regions(mask, confidence, simplify=0.0)
        write_geojson(tmp_path / "deep" / "a.geojson", found, CLASSES)
        content = json.loads((tmp_path / "deep" / "a.geojson").read_text(encoding="utf-8"))
        assert content["type"] == "FeatureCollection"
        assert "crs" not in content
        shapes = [(feature["geometry"], feature["properties"]["class_index"]) for feature in content["features"]]
        assert np.array_equal(features.rasterize(shapes, mask.shape, fill=VOID, dtype="uint8"), mask)
        polygons = shapely.from_geojson([json.dumps(feature["geometry"]) for feature in content["features"]])
        assert shapely.equals(polygons, polygons_of(found)).all()
        assert all(polygon.exterior.is_ccw for polygon in polygons)
        first = content["features"][0]["properties"]
        assert first == {
            "class": CLASSES.names[found[0].class_index],
            "class_index": found[0].class_index,
            "colour": "#{:02x}{:02x}{:02x}".format(*CLASSES.palette[found[0].class_index]),
            "area": found[0].area,
            "mean_confidence": 0.75,
        }

    def test_of_a_projected_raster_has_its_coordinates_and_names_the_system(self, tmp_path):
        mask = blobs((50, 70), seed=9)
        found = regions(mask, simplify=1.0)
        write_geojson(tmp_path / "a.geojson", found, CLASSES, transform=UTM, crs="EPSG:32633")
        content = json.loads((tmp_path / "a.geojson").read_text(encoding="utf-8"))
        assert content["crs"] == {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}
        assert content["map_unit"] == "metre"
        polygons = shapely.from_geojson([json.dumps(feature["geometry"]) for feature in content["features"]])
        assert shapely.coverage_is_valid(polygons)
        assert all(polygon.exterior.is_ccw for polygon in polygons)
        assert polygons[0].area == pytest.approx(100 * found[0].polygon.area)
        assert content["features"][0]["properties"]["map_area"] == 100 * found[0].area
        exact = regions(mask, simplify=0.0)
        write_geojson(tmp_path / "b.geojson", exact, CLASSES, transform=UTM, crs="EPSG:32633")
        content = json.loads((tmp_path / "b.geojson").read_text(encoding="utf-8"))
        shapes = [(feature["geometry"], feature["properties"]["class_index"]) for feature in content["features"]]
        from rasterio import Affine

        assert np.array_equal(
            features.rasterize(shapes, mask.shape, fill=VOID, transform=Affine(*UTM), dtype="uint8"), mask
        )

    def test_in_degrees_agrees_with_the_raster_of_that_place(self, tmp_path):
        found = regions(blobs((20, 30), seed=9))
        unnamed = "+proj=tmerc +lat_0=0 +lon_0=15 +k=0.99961 +x_0=500000 +datum=WGS84 +units=m"  # nearly zone 33
        write_geojson(tmp_path / "a.geojson", found, CLASSES, transform=UTM, crs=unnamed)
        content = json.loads((tmp_path / "a.geojson").read_text(encoding="utf-8"))
        assert "crs" not in content
        polygons = shapely.from_geojson([json.dumps(feature["geometry"]) for feature in content["features"]])
        assert shapely.coverage_is_valid(polygons)
        # 300000 E, 5100000 N in zone 33 lies 200 km west of 15 degrees east, at 46 degrees north
        west, south, east, north = shapely.total_bounds(polygons)
        assert 12.40 < west < east < 12.43
        assert 46.01 < south < north < 46.03
        metres = (east - west) * 111320 * np.cos(np.radians(south))
        assert metres == pytest.approx(300, rel=0.05)

    def test_of_a_raster_in_degrees_needs_no_name_for_the_system(self, tmp_path):
        found = regions(np.zeros((2, 2), np.uint8))
        write_geojson(
            tmp_path / "a.geojson", found, CLASSES, transform=(0.5, 0.0, 10.0, 0.0, -0.5, 50.0), crs="EPSG:4326"
        )
        content = json.loads((tmp_path / "a.geojson").read_text(encoding="utf-8"))
        assert content.keys() == {"type", "generator", "features"}
        assert sorted(content["features"][0]["geometry"]["coordinates"][0])[0] == [10, 49]

    def test_in_a_system_without_a_number_is_projected_to_degrees(self, tmp_path):
        local = "+proj=tmerc +lat_0=46 +lon_0=12.3 +k=1 +x_0=0 +y_0=0 +datum=WGS84 +units=m"
        found = regions(np.zeros((2, 2), np.uint8))
        write_geojson(tmp_path / "a.geojson", found, CLASSES, transform=(5.0, 0.0, 0.0, 0.0, -5.0, 0.0), crs=local)
        content = json.loads((tmp_path / "a.geojson").read_text(encoding="utf-8"))
        assert "crs" not in content
        assert content["features"][0]["geometry"]["coordinates"][0][0] == pytest.approx([12.3, 46], abs=2e-4)

    def test_that_cannot_be_finished_leaves_no_file(self, tmp_path):
        found = regions(np.full((2, 2), 2, np.uint8))
        with pytest.raises(IndexError):
            write_geojson(tmp_path / "a.geojson", found, ClassInfo(("one",)))
        assert list(tmp_path.iterdir()) == []

    def test_of_nothing_is_an_empty_collection(self, tmp_path):
        write_geojson(tmp_path / "a.geojson", [], CLASSES)
        assert json.loads((tmp_path / "a.geojson").read_text(encoding="utf-8"))["features"] == []


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside pycocotools
class TestCoco:
    @pytest.mark.parametrize("seed", range(4))
    def test_pycocotools_reads_the_mask_back(self, tmp_path, seed):
        coco = pytest.importorskip("pycocotools.coco", reason="the independent reader is pycocotools")
        tools = pytest.importorskip("pycocotools.mask", reason="the independent reader is pycocotools")
        mask = blobs((41, 33), seed, noise=0.1)
        confidence = np.full(mask.shape, 0.5, np.float32)
        found = regions(mask, confidence, simplify=0.0)
        path = tmp_path / "a.json"
        path.write_text(json.dumps(coco_annotations(found, CLASSES, size_hw=mask.shape, file_name="a.jpg")))
        read = coco.COCO(str(path))
        assert [c["name"] for c in read.loadCats(read.getCatIds())] == list(CLASSES.names)
        decoded = np.full(mask.shape, VOID, np.uint8)
        for annotation in read.loadAnns(read.getAnnIds()):
            runs = read.annToRLE(annotation)
            inside = tools.decode(runs).astype(bool)
            assert (decoded[inside] == VOID).all()
            decoded[inside] = annotation["category_id"] - 1
            assert annotation["area"] == inside.sum()
            assert annotation["bbox"] == tools.toBbox(runs).tolist()
            assert annotation["score"] == 0.5
        assert np.array_equal(decoded, mask)

    def test_runs_are_those_pycocotools_writes(self):
        tools = pytest.importorskip("pycocotools.mask", reason="the independent writer is pycocotools")
        mask = blobs((300, 220), seed=4, noise=0.01, scale=30.0)
        found = regions(mask, simplify=0.0)
        tables = coco_annotations(found, CLASSES, size_hw=mask.shape, file_name="a")
        for region, annotation in zip(found, tables["annotations"], strict=True):
            inside = burnt([region], mask.shape) != VOID
            theirs = tools.encode(np.asfortranarray(inside.astype(np.uint8)))["counts"].decode("ascii")
            assert annotation["segmentation"]["counts"] == theirs

    def test_simpler_borders_leave_no_pixel_out_and_give_none_to_two(self):
        tools = pytest.importorskip("pycocotools.mask", reason="the independent reader is pycocotools")
        mask = blobs((60, 80), seed=2, noise=0.02)
        mask[mask == VOID] = 0
        tables = coco_annotations(regions(mask, simplify=2.0), CLASSES, size_hw=mask.shape, file_name="a")
        times = sum(tools.decode(a["segmentation"]).astype(int) for a in tables["annotations"])
        assert (times == 1).all()

    def test_without_pycocotools_the_call_is_refused_before_any_work(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "pycocotools", None)
        Outputs(("polygons",), polygon_format="geojson").check(CLASSES)
        with pytest.raises(MissingExtraError, match=r"pycocotools to write COCO's run lengths, .*'refineseg\[coco\]'"):
            Outputs(("polygons",), polygon_format="coco").check(CLASSES)

    def test_of_nothing_has_no_annotations(self):
        assert coco_annotations([], CLASSES, size_hw=(2, 2), file_name="a")["annotations"] == []


def test_both_formats_have_the_same_regions():
    mask = blobs((20, 20), seed=1)
    formats = {"polygon_format": "coco", "file_name": "v1.2.jpg"}, {"polygon_format": "geojson"}
    coco, geojson = (json.loads(encode_vectors(mask, CLASSES, **options)) for options in formats)
    assert coco["images"] == [{"id": 1, "file_name": "v1.2.jpg", "height": 20, "width": 20}]
    assert len(coco["annotations"]) == len(geojson["features"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: regions(np.array([[0, 77, 77]], np.uint8)),
            r"class indices 0..2 or 255 \(void\).*got 77 \(2 pixels\)",
        ),
        (lambda: regions(np.array([[0, -1]])), r"got -1 \(1 pixels\)"),
        (lambda: regions(np.zeros((2, 2))), r"mask of integers, \(H, W\), got float64"),
        (lambda: regions(np.zeros((0, 2), np.uint8)), r"expected a (mask|region)"),
        (lambda: regions(np.zeros((2, 2), np.uint8), classes=("sky", "sea")), r"\(sky, road, pole\).*got sea"),
        (lambda: regions(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.float32)), r"size \(2, 2\), got \(2, 3\)"),
        (lambda: regions(np.zeros((1, 1), np.uint8), np.full((1, 1), np.nan, np.float32)), "confidences 0..1, got nan"),
        (lambda: VectorOptions(simplify=-1.0), "simplify to be a number of pixels from 0 on, got -1"),
        (lambda: VectorOptions(smallest_area=float("nan")), "smallest_area to be a number of pixels"),
        (lambda: Ground((1.0, 0.0, 0.0, 0.0, 0.0, 0.0), None), "affine transform .* with a size"),
        (lambda: Ground(UTM, "EPSG:1"), "reference system such as EPSG:32633, or WKT, got 'EPSG:1'"),
    ],
)
def test_what_is_wrong_is_said(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


def test_an_unknown_format_is_said():
    with pytest.raises(ConfigError, match="a polygon format of geojson, coco, got shp"):
        encode_vectors(np.zeros((2, 2), np.uint8), CLASSES, polygon_format="shp")


def test_wrong_tiles_are_said():
    tile = np.zeros((2, 2), np.uint8)
    merger = RegionMerger((4, 4), class_info=CLASSES)
    merger.add(Region(0, 0, 2, 2), tile)
    with pytest.raises(ConfigError, match="tiles that do not overlap"):
        merger.add(Region(1, 1, 3, 3), tile)
    with pytest.raises(ConfigError, match="tiles inside the image"):
        merger.add(Region(3, 3, 5, 5), tile)
    with pytest.raises(ConfigError, match=r"mask of the tile's size \(1, 2\), got \(2, 2\)"):
        merger.add(Region(2, 2, 3, 4), tile)
    with pytest.raises(ConfigError, match="confidences with all tiles or with none"):
        merger.add(Region(2, 2, 4, 4), tile, np.ones((2, 2), np.float32))
    with pytest.raises(ConfigError, match="got 4 of 16 pixels; add the others first"):
        merger.finish()


@pytest.mark.parametrize(
    ("package", "call"),
    [("shapely", lambda: regions(np.zeros((2, 2), np.uint8))), ("rasterio.crs", lambda: Ground(UTM, "EPSG:32633"))],
)
def test_without_the_package_the_extra_is_named(monkeypatch, package, call):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'refineseg\[vectors\]'"):
        call()


def test_places_without_longitude_and_latitude_are_found_before_any_work():
    disk = "+proj=geos +h=35785831 +lon_0=0 +ellps=GRS80"
    Ground((3000.0, 0.0, -1_500_000.0, 0.0, -3000.0, 1_500_000.0), disk).check_places((1000, 1000))
    with pytest.raises(ConfigError, match=r"longitude and latitude, .*; leave polygons out of --save"):
        Ground((11000.0, 0.0, -5_500_000.0, 0.0, -11000.0, 5_500_000.0), disk).check_places((1000, 1000))
    Ground((1.0, 0.0, 0.0, 0.0, -1.0, 0.0), "EPSG:32633").check_places((10, 10))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside pycocotools
def test_boxes_of_coco_are_those_of_the_pixels_and_no_annotation_is_empty():
    from pycocotools import mask as coco_masks

    labels = np.random.default_rng(4).integers(0, 3, (40, 50))
    labels[10:30, 5:40] = 1
    regions = regions_of(labels, class_info=CLASSES, options=VectorOptions(simplify=1.5))
    found = coco_annotations(regions, CLASSES, size_hw=(40, 50), file_name="a.png")["annotations"]
    assert len(found) < len(regions), "the case is not made: nothing is simplified away"
    assert [one["id"] for one in found] == list(range(1, len(found) + 1))
    for one in found:
        rows, columns = np.nonzero(coco_masks.decode(one["segmentation"]))
        left, top = int(columns.min()), int(rows.min())
        assert one["area"] == len(rows)
        assert one["bbox"] == [left, top, int(columns.max()) - left + 1, int(rows.max()) - top + 1]
