"""Turned and pasted crops: where every pixel comes from, and the same on host and device."""

import math

import numpy as np
import pytest
import torch
from test_resident import CPU, Photographs

from fakes.loading import training_batches
from refineseg.class_info import ClassInfo
from refineseg.data.crops.augment import Augmentation, augment
from refineseg.data.crops.balance import Donors, image_counts
from refineseg.data.crops.placement import corners
from refineseg.data.crops.resident import hold
from refineseg.data.samples.sample import Sample


class Scenes:
    """Three images, each of one brightness, with a small object (class 2, or 3 in the last) in front of two classes."""

    class_info, notes = ClassInfo(("sky", "ground", "sign", "cone")), ()
    sizes = ((60, 80), (60, 80), (44, 96))

    def __len__(self):
        return len(self.sizes)

    def name(self, index):
        return f"scene {index}"

    def __getitem__(self, index):
        height, width = self.sizes[index]
        mask = np.zeros((height, width), np.uint8)
        mask[height // 2 :] = 1
        if index:
            mask[20 + index : 26 + index, 10 * index : 10 * index + 5] = 1 + index
        mask[:2] = 255
        image = np.full((height, width, 3), 40 + 60 * index, np.uint8)
        image[mask > 1] += 30
        return Sample(image, mask, self.name(index))

    def read_mask(self, index):
        return self[index].mask


def crop(sample, augmentation, seed, **options):
    return augment(sample, augmentation, ignore_index=255, generator=torch.Generator().manual_seed(seed), **options)


class Fixed(Augmentation):
    """Always the same draws."""

    def draw(self, generator):
        return [0.5, 0.5, 0.5, self.flip_draw, 0.5, 0.5, 0.5, 1.0, 0.0, 0.5, 0.5, 0.5, 0.9]

    flip_draw = 0.9


@pytest.mark.parametrize("degrees", [90.0, 180.0])
def test_a_quarter_or_half_turn_moves_every_pixel_to_its_place(degrees):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    mask = rng.integers(0, 5, (32, 32), dtype=np.uint8)
    turned_image, turned_mask = crop(Sample(image, mask, "noise"), Fixed((32, 32), (1.0, 1.0), rotation=degrees), 0)
    quarters = round(degrees / 90)
    assert np.array_equal(turned_mask.numpy(), np.rot90(mask, quarters))
    assert np.abs(turned_image.permute(1, 2, 0).numpy().astype(int) - np.rot90(image, quarters)).max() <= 1


@pytest.mark.parametrize("flip_draw", [0.1, 0.9])
def test_a_turned_crop_shows_what_lies_at_the_turned_place(monkeypatch, flip_draw):
    """Red and green say row and column of the image, so that each pixel of the crop says where it was."""
    monkeypatch.setattr(Fixed, "flip_draw", flip_draw)
    rows, columns = np.mgrid[:120, :160]
    image = np.stack([rows * 2, columns, rows * 0], axis=2).astype(np.uint8)
    mask = (rows // 8 + columns // 8).astype(np.uint8)
    got_image, got_mask = crop(Sample(image, mask, "ramp"), Fixed((40, 60), (1.0, 1.0), rotation=25.0), 0)
    cosine, sine = math.cos(math.radians(25)), math.sin(math.radians(25))
    top, left = 40, 50  # half of the room
    for y, x in np.ndindex(40, 60):
        down, across = y + 0.5 - 20, (59 - x if flip_draw < 0.5 else x) + 0.5 - 30
        row = top + 20 + down * cosine + across * sine
        column = left + 30 + across * cosine - down * sine
        assert int(got_mask[y, x]) == mask[int(row), int(column)]
        assert abs(float(got_image[0, y, x]) - 2 * (row - 0.5)) <= 1.5
        assert abs(float(got_image[1, y, x]) - (column - 0.5)) <= 1.5


def test_what_lies_outside_of_a_turned_image_is_void_and_mean_colour():
    sample = Sample(np.full((40, 40, 3), 9, np.uint8), np.zeros((40, 40), np.uint8), "square")
    image, mask = crop(sample, Fixed((40, 40), (1.0, 1.0), rotation=45.0), 0)
    outside = mask == 255
    assert mask[0, 0] == 255
    assert outside.float().mean() == pytest.approx(1 - 2 * (math.sqrt(2) - 1), abs=0.02)  # an octagon remains
    assert {tuple(p) for p in image[:, outside].T.tolist()} == {(124, 116, 104)}
    assert {tuple(p) for p in image[:, ~outside].T.tolist()} == {(9, 9, 9)}


def test_turns_are_drawn_from_both_sides_up_to_the_largest():
    augmentation = Augmentation((32, 32), (1.0, 1.0), rotation=30.0)
    angles = [
        augmentation.place(augmentation.draw(torch.Generator().manual_seed(s)), (64, 64)).degrees for s in range(300)
    ]
    assert -30 <= min(angles) < -27
    assert 27 < max(angles) <= 30
    assert abs(np.mean(angles)) < 3


NEW = [
    Augmentation((40, 56), (0.6, 1.5), rotation=20.0, colour=0.2),
    Augmentation((40, 56), (0.6, 1.5), copy_paste=0.7),
    Augmentation((40, 56), (1.0, 1.0), copy_paste=1.0, rotation=15.0, crop_centre="class"),
    Augmentation((80, 120), (0.5, 1.2), copy_paste=1.0, class_balance=0.8),
]


@pytest.mark.parametrize("augmentation", NEW)
def test_host_and_device_draw_the_same_and_their_masks_are_equal(augmentation):
    held = hold(Scenes(), device=CPU, max_bytes=1 << 30)
    different, pixels = 0, 0
    for epoch in range(8):
        options = {"batch_size": 3, "seed": 2, "epoch": epoch}
        (host,) = training_batches(Scenes(), augmentation, num_workers=0, **options)
        (device,) = held.batches(augmentation, **options)
        assert host.names == device.names
        different += int((host.masks != device.masks).sum())
        pixels += host.masks.numel()
        inside = (host.masks != 255)[:, None].expand_as(host.images)
        assert (host.images.float() - device.images.float()).abs()[inside].mean() < 4
    assert different / pixels < 0.002  # edges that fall between two pixels


@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.5, 2.0)])
def test_turned_masks_of_photographs_are_equal_to_the_pixel(scale):
    augmentation = Augmentation((96, 128), scale, rotation=30.0)
    held = hold(Photographs(), device=CPU, max_bytes=1 << 30)
    for epoch in range(3):
        (host,) = training_batches(Photographs(), augmentation, batch_size=2, seed=5, epoch=epoch, num_workers=0)
        (device,) = held.batches(augmentation, batch_size=2, seed=5, epoch=epoch)
        assert torch.equal(host.masks, device.masks)
        difference = (host.images.float() - device.images.float()).abs()
        assert difference.mean() < 3
        assert difference.flatten().quantile(0.9) < 8


def donating():
    scenes = Scenes()
    donors = Donors(image_counts(scenes))

    def donate(class_draw, pixel_draw):
        index, class_index, rank = donors.choose(class_draw, pixel_draw)
        return scenes[index], class_index, rank

    return donate


def test_pasted_pixels_bring_their_labels_and_nothing_else_changes():
    augmentation = Augmentation((40, 56), (1.0, 1.0), copy_paste=1.0)
    pasted_classes = set()
    for seed in range(20):
        image, mask = crop(Scenes()[0], augmentation, seed, donate=donating())
        plain_image, plain_mask = crop(Scenes()[0], augmentation, seed)
        pasted = mask != plain_mask
        assert pasted.any()  # the donor's crop holds the pixel that was drawn
        assert torch.equal(image[:, ~pasted], plain_image[:, ~pasted])
        (class_index,) = mask[pasted].unique().tolist()
        pasted_classes.add(class_index)
        assert image[:, pasted].unique().tolist() == [40 + 60 * (class_index - 1) + 30]
    assert pasted_classes == {2, 3}


def test_what_is_pasted_keeps_its_height_where_the_crop_reaches_it():
    """Crops as high as the image, at its scale: the object's rows are those that it has in its own image."""
    augmentation = Augmentation((60, 40), (1.0, 1.0), copy_paste=1.0)
    for seed in range(12):
        _, mask = crop(Scenes()[0], augmentation, seed, donate=donating())
        rows = (mask > 1).logical_and(mask < 255).any(dim=1).nonzero().flatten().tolist()
        (class_index,) = mask[(mask > 1) & (mask < 255)].unique().tolist()
        assert rows == list(range(19 + class_index, 25 + class_index))


def test_crops_that_are_pasted_from_lie_as_high_in_their_image_and_are_as_large_and_as_turned():
    augmentation = Augmentation((30, 40), (0.8, 1.6), copy_paste=1.0, rotation=9.0)
    lefts = []
    for seed in range(20):
        draw = augmentation.draw(torch.Generator().manual_seed(seed))
        own, donor = augmentation.place(draw, (60, 80)), augmentation.place_donor(draw, (60, 80), (30, 40))
        assert (donor.top, donor.resized_hw, donor.degrees) == (own.top, own.resized_hw, own.degrees)
        lefts.append(donor.left == own.left)
    assert sum(lefts) < 5


def test_a_crop_is_moved_as_little_as_it_takes_to_hold_a_pixel():
    for start, pixel, expected in [(10, 15, 10), (10, 9, 9), (10, 20, 11), (0, 63, 54), (60, 0, 0), (90, 99, 90)]:
        sides = [torch.tensor([[value, value]]) for value in (pixel, 100, 100, 10, start)]
        assert corners(*sides).tolist() == [[expected, expected]]
    middle = [corners(*(torch.tensor([[v, v]]) for v in (pixel, 50, 100, 10)), None)[0, 0] for pixel in (0, 20, 49)]
    assert [int(first) for first in middle] == [0, 36, 90]


def test_the_share_of_crops_that_are_pasted_into_is_the_wanted_one():
    augmentation = Augmentation((40, 56), (1.0, 1.0), copy_paste=0.3)
    drawn = [augmentation.pastes(augmentation.draw(torch.Generator().manual_seed(s))) for s in range(500)]
    assert 0.24 < np.mean(drawn) < 0.36


def test_the_new_options_change_no_draw_of_the_old_ones():
    for seed in range(5):
        plain, new = (
            Augmentation((8, 8), (0.5, 2.0), **options).draw(torch.Generator().manual_seed(seed))
            for options in ({}, {"rotation": 5.0, "copy_paste": 0.5})
        )
        assert new[:7] == plain
        assert len(new) == 13


def test_a_sample_that_comes_twice_is_cut_differently():
    augmentation = Augmentation((24, 24), (0.5, 1.5), class_balance=1.0)
    held = hold(Scenes(), device=CPU, max_bytes=1 << 30)
    for epoch in range(20):
        (batch,) = held.batches(augmentation, batch_size=3, seed=0, epoch=epoch)
        (host,) = training_batches(Scenes(), augmentation, batch_size=3, seed=0, epoch=epoch, num_workers=0)
        assert batch.names == host.names
        twice = [i for i, name in enumerate(batch.names) if batch.names.count(name) > 1]
        if twice:
            assert not torch.equal(batch.images[twice[0]], batch.images[twice[1]])
            return
    pytest.fail("no sample came twice")


def test_worker_processes_paste_the_same():
    augmentation = Augmentation((40, 56), (0.6, 1.5), copy_paste=1.0, class_balance=0.5)
    batches = [
        next(iter(training_batches(Scenes(), augmentation, batch_size=3, seed=1, epoch=1, num_workers=workers)))
        for workers in (0, 1)
    ]
    assert torch.equal(batches[0].masks, batches[1].masks)
    assert torch.equal(batches[0].images, batches[1].images)
