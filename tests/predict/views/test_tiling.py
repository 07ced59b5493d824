"""Regions, sources, what the command line says of tiles, and overlapping windows that are averaged."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import refineseg
from refineseg.devices import free_memory
from refineseg.errors import ConfigError
from refineseg.predict.exact.blending import Blending
from refineseg.predict.exact.tiled_scorer import TiledScorer, fits_whole
from refineseg.predict.views.tiling import (
    ArraySource,
    PixelSource,
    Region,
    TilingOptions,
    grid,
    parse_bytes,
)

CPU = torch.device("cpu")


def image_of(size_hw, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size_hw, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4GB", 4 * 10**9),
        ("512 MB", 512 * 10**6),
        ("4GiB", 4 * 2**30),
        ("1.5g", 1_500_000_000),
        ("77", 77),
        ("2kb", 2000),
    ],
)
def test_amounts_of_memory(text, value):
    assert parse_bytes(text) == value
    assert parse_bytes("9" * 400) == 2**62


@pytest.mark.parametrize("text", ["", "GB", "four", "-4GB", "0", "4XB", "4G B B", "1e9"])
def test_no_amounts_of_memory(text):
    with pytest.raises(ConfigError, match="expected an amount of memory such as 4GB"):
        parse_bytes(text)


def test_free_memory_is_known():
    assert 10**7 < free_memory() < 10**14


def test_regions():
    region = Region(3, 5, 10, 30)
    assert region.size_hw == (7, 25)
    image = image_of((20, 40))
    assert (image[region.slices] == image[3:10, 5:30]).all()
    outer = Region(1, 2, 20, 40)
    assert (image[outer.slices][region.slices_in(outer)] == image[region.slices]).all()
    assert outer.contains(region)
    assert not region.contains(outer)
    assert region.intersection(Region(9, 0, 50, 6)) == Region(9, 5, 10, 6)
    assert region.intersection(Region(10, 5, 11, 30)) is None
    assert region.grown(4, size_hw=(12, 31)) == Region(0, 1, 12, 31)
    for wrong in ((0, 0, 0, 4), (5, 0, 4, 4), (-1, 0, 3, 3), (0, 4, 3, 4)):
        with pytest.raises(ConfigError, match="expected a region with pixels"):
            Region(*wrong)


@pytest.mark.parametrize("size_hw", [(1, 1), (64, 64), (65, 127), (7, 300)])
@pytest.mark.parametrize("tile_hw", [(32, 32), (50, 64), (500, 7)])
def test_a_grid_covers_every_pixel_once_row_by_row(size_hw, tile_hw):
    covered = np.zeros(size_hw, np.int64)
    regions = grid(size_hw, tile_hw)
    for region in regions:
        covered[region.slices] += 1
        assert region.height <= tile_hw[0]
        assert region.width <= tile_hw[1]
    assert (covered == 1).all()
    assert list(regions) == sorted(regions)


def test_an_array_is_a_source():
    image = image_of((20, 30))
    source = ArraySource(image)
    assert isinstance(source, PixelSource)
    assert (source.size_hw, source.num_channels) == ((20, 30), 3)
    assert (source.read(Region(2, 3, 5, 9)) == image[2:5, 3:9]).all()
    for wrong in (image.astype(np.float32), image[..., 0], image[:0]):
        with pytest.raises(ConfigError, match=r"expected an image \(H, W, channels\)"):
            ArraySource(wrong)


def test_words_of_the_command_line():
    assert TilingOptions.parse() == TilingOptions()
    parsed = TilingOptions.parse(tile="512", memory="2GB", mode="blend", overlap=64)
    assert parsed == TilingOptions(512, 2 * 10**9, "blend", 64)
    assert TilingOptions.parse(tile="off").tile == "off"
    for words, message in (
        ({"tile": "large"}, "--tile auto, off or a number"),
        ({"tile": "9" * 5000}, "--tile auto, off or a number"),
        ({"tile": "-5"}, "--tile auto, off or a number"),
        ({"tile": "8"}, "at least 32 pixels, got 8"),
        ({"mode": "mean"}, "--tile-mode of exact, blend"),
        ({"memory": "lots"}, "an amount of memory"),
        ({"tile": "100", "mode": "blend", "overlap": 60}, "overlap from 0 to half"),
        ({"overlap": -1}, "overlap from 0 to half"),
    ):
        with pytest.raises(ConfigError, match=message):
            TilingOptions.parse(**words)
    with pytest.raises(ConfigError, match="memory_bytes of at least 1"):
        TilingOptions(memory_bytes=0)


@pytest.mark.parametrize(("tile", "overlap"), [(64, 0), (64, 16), (50, 25), (512, 32)])
@pytest.mark.parametrize("size_hw", [(64, 64), (150, 97), (33, 201), (1, 1)])
def test_blending_changes_nothing_where_no_pixel_sees_its_neighbours(size_hw, tile, overlap):
    """A 1x1 convolution has no context to lose at a seam, so blended and whole scores must be equal."""
    pointwise = nn.Conv2d(3, 5, kernel_size=1).requires_grad_(False)
    image = image_of(size_hw)

    def score(source, region):
        return pointwise(torch.from_numpy(source.read(region) / 255).float().permute(2, 0, 1)[None])[0]

    source = ArraySource(image)
    blending = Blending(score, size_hw, options=TilingOptions(tile, 10**7, "blend", overlap))
    expected = score(source, Region.whole(size_hw))
    for region in blending.plan.tiles:
        found = blending.logits(source, region)
        torch.testing.assert_close(found, expected[(slice(None), *region.slices)])


def test_a_pixel_is_blended_alike_in_every_tile():
    generator = torch.Generator().manual_seed(0)
    marks = torch.rand(2, 200, 150, generator=generator)

    def score(source, region):  # depends on the window: not the same in all of them
        return marks[(slice(None), *region.slices)] + region.top + 3 * region.left

    source = ArraySource(image_of((200, 150)))
    blending = Blending(score, (200, 150), options=TilingOptions(64, None, "blend", 24))
    whole = blending.logits(source, Region.whole((200, 150)))
    part = blending.logits(source, Region(31, 17, 120, 99))
    assert torch.equal(part, whole[:, 31:120, 17:99])
    steps = (whole - marks).diff(dim=1).abs().max()
    assert steps < 64 / 24 + 0.5  # the marks are blended away over the overlap, without a seam


@pytest.mark.parametrize("height", [36, 40, 57])
def test_windows_weigh_less_towards_their_sides_inside_the_image_alone(height):
    """By hand: windows of 32 rows that overlap by 8; in the middle ninths from 1 to 8 of the whole weight."""

    def score(source, region):  # tells how much of a pixel is of which window
        return (torch.tensor([0, 4, 8, 24, 25]) == region.top).double()[:, None, None].expand(-1, *region.size_hw)

    blending = Blending(score, (height, 32), options=TilingOptions(32, None, "blend", 8))
    found = blending.logits(ArraySource(image_of((height, 32))), Region.whole((height, 32)))[:, :, 0]
    starts = {36: (0, 4), 40: (0, 8), 57: (0, 24, 25)}[height]
    weights = torch.zeros(5, height, dtype=torch.float64)
    for start in starts:
        for row in range(start, start + 32):
            above = (row - start + 1) / 9 if start > 0 else 1
            below = (start + 32 - row) / 9 if start + 32 < height else 1
            weights[[0, 4, 8, 24, 25].index(start), row] = min(1, above, below)
    torch.testing.assert_close(found, weights / weights.sum(dim=0))


@pytest.mark.parametrize(("memory", "side"), [(None, 1024), (10**9, 480), (2 * 10**8, 192), (10**6, 64)])
def test_windows_are_as_large_as_memory_allows(memory, side):
    """By hand: 2000 bytes for each pixel of a window in half of the memory, in steps of 32 pixels, 64 at least."""
    heights = set()

    def score(source, region):
        heights.add(region.height)
        return torch.ones(1, *region.size_hw)

    blending = Blending(score, (1100, 40), options=TilingOptions("auto", memory, "blend"))
    tile = blending.plan.tiles[0]
    torch.testing.assert_close(blending.logits(ArraySource(image_of((1100, 40))), tile), torch.ones(1, *tile.size_hw))
    assert heights == {side}


@pytest.mark.parametrize(("memory", "side"), [(None, 384), (10**8, 192), (10**7, 48), (10**6, 48)])
def test_blended_tiles_are_as_large_as_memory_allows(memory, side):
    """By hand: steps of 48 pixels, 8 at most; 150 classes of 4 bytes in a quarter of the memory."""
    blending = Blending(
        lambda source, region: torch.zeros(1), (400, 400), options=TilingOptions(64, memory, "blend", 16)
    )
    assert max(tile.size_hw for tile in blending.plan.tiles) == (side, side)
    covered = np.zeros((400, 400), np.int64)
    for tile in blending.plan.tiles:
        covered[tile.slices] += 1
    assert (covered == 1).all()


def test_any_network_can_be_blended():
    segmenter = refineseg.build("refinenet_lw:efficientnet_b0", num_classes=3)
    options = TilingOptions(64, mode="blend", overlap=16)
    scorer = TiledScorer(segmenter, (100, 80), options=options, device=CPU)
    source = ArraySource(image_of((100, 80)))
    assert scorer.extra_arithmetic > 1
    for tile in scorer.tiles:
        assert scorer.class_map(source, tile).shape == tile.size_hw
        assert torch.equal(scorer.logits(source, tile), scorer.logits(source, tile))


def test_small_images_are_not_followed_through_the_network(monkeypatch):
    segmenter = refineseg.build("refinenet_lw:resnet10t", num_classes=3)

    def fail(*args):
        raise AssertionError

    monkeypatch.setattr("refineseg.predict.exact.tiled_scorer.trace", fail)
    assert fits_whole(segmenter, (600, 800), options=TilingOptions(memory_bytes=4 * 10**9), device=CPU)


@pytest.mark.slow
def test_large_images_fit_by_the_maps_of_the_network():
    segmenter = refineseg.build("refinenet_lw:resnet10t", num_classes=3)
    options = TilingOptions(memory_bytes=4 * 10**9)
    assert fits_whole(segmenter, (1500, 1500), options=options, device=CPU)
    assert not fits_whole(segmenter, (8000, 8000), options=options, device=CPU)
    unknown = refineseg.build("refinenet_lw:efficientnet_b0", num_classes=3)
    assert not fits_whole(unknown, (8000, 8000), options=options, device=CPU)
