"""Random crops stay aligned with their masks, and batches depend on seed and epoch alone."""

import numpy as np
import pytest
import torch

from fakes.loading import training_batches
from refineseg.class_info import ClassInfo
from refineseg.data.crops import augment as crops
from refineseg.data.crops.augment import Augmentation, augment
from refineseg.data.crops.loading import DecodedCache, HostBatches, epoch_order, mix_seeds
from refineseg.data.datasets import open_dataset
from refineseg.data.samples.sample import Sample
from refineseg.errors import DatasetError


class Memory:
    """Samples whose pixels say which class they are: red = 10 * class."""

    class_info = ClassInfo(tuple("abcdefghij"))
    notes = ()

    def __init__(self, count=7, size=(40, 56)):
        rng = np.random.default_rng(3)
        masks = [np.kron(rng.integers(0, 10, (5, 7)), np.ones((8, 8))).astype(np.uint8) for _ in range(count)]
        self.masks = [m[: size[0], : size[1]] for m in masks]
        self.reads = 0

    def __len__(self):
        return len(self.masks)

    def __getitem__(self, index):
        self.reads += 1
        mask = self.masks[index]
        return Sample(np.stack([mask * 10, mask * 0, mask * 0 + 200], axis=2), mask, self.name(index))

    def name(self, index):
        return f"s{index}"

    def read_mask(self, index):
        return self.masks[index]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("scale", [(1.0, 1.0), (2.0, 2.0), (3.0, 3.0)])
def test_every_pixel_keeps_its_label_away_from_class_borders(scale, flip):
    sample = Memory()[0]
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        image, mask = augment(sample, Augmentation((32, 32), scale, flip=flip), ignore_index=255, generator=generator)
        assert image.shape == (3, 32, 32)
        assert mask.shape == (32, 32)
        aligned = (image[0].float() - 10 * mask).abs() <= 1
        share = 0.999 if scale == (1.0, 1.0) else 0.7  # enlarging blends the pixels on borders between classes
        assert aligned.float().mean() >= share


class TestThePapersCrops:
    """What the authors' code draws."""

    def crops(self, augmentation, count=60, size=(40, 56)):
        sample = Memory(size=size)[0]
        for seed in range(count):
            yield augment(sample, augmentation, ignore_index=255, generator=torch.Generator().manual_seed(seed))

    def test_scales_in_steps_are_all_drawn_and_no_others(self):
        augmentation = Augmentation((8, 8), (0.7, 1.3), scale_step=0.1)
        drawn = {augmentation.resized(float(u), (100, 200)) for u in torch.rand(500, generator=torch.manual_seed(0))}
        assert drawn == {(s, 2 * s) for s in (70, 80, 90, 100, 110, 120, 130)}
        assert augmentation.resized(0.9999999, (100, 200)) == (130, 260)

    @pytest.mark.parametrize(("short", "resized"), [(300, 450), (450, 450), (700, 700), (1500, 1100)])
    def test_the_shorter_side_is_clamped_before_the_random_factor(self, short, resized):
        augmentation = Augmentation((8, 8), (0.5, 0.5), short_side=(450, 1100))
        assert augmentation.resized(0.3, (2 * short, short)) == (resized, resized // 2)

    def test_the_factor_is_raised_until_the_shorter_side_is_long_enough(self):
        augmentation = Augmentation((8, 8), (0.5, 2.0), smallest_side=350)
        assert augmentation.resized(0.0, (468, 625)) == (350, 467)  # 0.748 is the true lower bound on NYUDv2
        assert augmentation.resized(1.0, (468, 625)) == (936, 1250)

    def test_crops_without_padding_shrink_to_an_even_side(self):
        shapes = {tuple(i.shape) for i, _ in self.crops(Augmentation((400, 400), (1.0, 1.0), pad=False), 5, (37, 56))}
        assert shapes == {(3, 36, 36)}

    def test_crops_around_a_class_hold_rare_classes_as_often_as_common_ones(self):
        """One pixel of class 1 in an image of class 0: half of the crops hold it, and in the middle where they can."""
        mask = np.zeros((60, 80), np.uint8)
        mask[30, 40] = 1
        sample = Sample(np.zeros((60, 80, 3), np.uint8), mask, "rare")
        held = middle = 0
        for seed in range(200):
            generator = torch.Generator().manual_seed(seed)
            augmentation = Augmentation((8, 8), (1.0, 1.0), flip=False, crop_centre="class")
            _, crop = augment(sample, augmentation, ignore_index=255, generator=generator)
            held += int((crop == 1).any())
            middle += int(crop[4, 4] == 1)
        assert 75 <= held <= 130
        assert middle >= 75

    def test_a_crop_around_a_class_of_an_unlabelled_image_is_its_middle(self):
        sample = Sample(np.zeros((20, 20, 3), np.uint8), np.full((20, 20), 255, np.uint8), "void")
        augmentation = Augmentation((8, 8), (1.0, 1.0), crop_centre="class")
        _, mask = augment(sample, augmentation, ignore_index=255, generator=torch.Generator().manual_seed(0))
        assert (mask == 255).all()


def test_small_images_are_padded_with_void_and_mean_colour():
    sample = Memory(size=(24, 24))[0]
    image, mask = augment(
        sample,
        Augmentation((64, 48), (1.0, 1.0), flip=False),
        ignore_index=255,
        generator=torch.Generator().manual_seed(0),
    )
    void = mask == 255
    assert int((~void).sum()) == 24 * 24
    assert {tuple(p) for p in image[:, void].T.tolist()} == {(124, 116, 104)}


def test_a_one_pixel_image_gives_a_whole_crop():
    sample = Sample(np.full((1, 1, 3), 9, np.uint8), np.zeros((1, 1), np.uint8), "dot")
    image, mask = augment(
        sample, Augmentation((32, 32), (0.5, 2.0)), ignore_index=255, generator=torch.Generator().manual_seed(0)
    )
    assert image.dtype == torch.uint8
    assert mask.shape == (32, 32)


def test_flips_happen_about_half_of_the_time_and_never_when_off():
    ramp = np.tile(np.arange(32, dtype=np.uint8)[None, :, None], (32, 1, 3))
    sample = Sample(ramp, np.zeros((32, 32), np.uint8), "ramp")

    def flipped(seed, flip):
        generator = torch.Generator().manual_seed(seed)
        image, _ = augment(sample, Augmentation((32, 32), (1.0, 1.0), flip=flip), ignore_index=255, generator=generator)
        return bool(image[0, 0, 0] > image[0, 0, -1])

    assert 35 <= sum(flipped(seed, True) for seed in range(100)) <= 65
    assert not any(flipped(seed, False) for seed in range(20))


def test_colour_changes_pixels_but_no_label():
    sample = Memory()[1]
    draws = [
        augment(
            sample,
            Augmentation((40, 56), (1.0, 1.0), flip=False, colour=colour),
            ignore_index=255,
            generator=torch.Generator().manual_seed(5),
        )
        for colour in (0.0, 0.5)
    ]
    assert not torch.equal(draws[0][0], draws[1][0])
    assert torch.equal(draws[0][1], draws[1][1])


def test_unlabelled_images_cannot_be_trained_on():
    sample = Sample(np.zeros((4, 4, 3), np.uint8), None, "bare")
    with pytest.raises(DatasetError, match="got bare without a mask"):
        augment(sample, Augmentation((32, 32), (1.0, 1.0)), ignore_index=255, generator=torch.Generator())


def _batches(epoch, workers=0, seed=1):
    loader = training_batches(
        Memory(),
        Augmentation((32, 32), (0.5, 2.0), colour=0.3),
        batch_size=3,
        seed=seed,
        epoch=epoch,
        num_workers=workers,
    )
    return [(batch.names, batch.images, batch.masks) for batch in loader]


def test_batches_do_not_depend_on_the_number_of_workers():
    for (names, images, masks), (names2, images2, masks2) in zip(_batches(4), _batches(4, workers=2), strict=True):
        assert names == names2
        assert torch.equal(images, images2)
        assert torch.equal(masks, masks2)


def test_another_epoch_or_seed_gives_other_crops():
    assert not torch.equal(_batches(0)[0][1], _batches(1)[0][1])
    assert not torch.equal(_batches(0)[0][1], _batches(0, seed=2)[0][1])


def test_an_epoch_shows_each_sample_once_and_only_full_batches():
    order = epoch_order(11, batch_size=4, seed=0, epoch=0)
    assert [len(b) for b in order] == [4, 4]
    assert len({i for b in order for i in b}) == 8
    assert epoch_order(3, batch_size=8, seed=0, epoch=0)[0] in (
        [*p] for p in __import__("itertools").permutations(range(3))
    )


def test_close_seeds_are_mixed_apart():
    seeds = {mix_seeds(a, b, c) for a in range(8) for b in range(8) for c in range(8)}
    assert len(seeds) == 512
    assert all(0 <= s < 2**63 for s in seeds)


def test_the_cache_reads_each_file_once_within_its_budget():
    memory = Memory()
    size = memory[0].image.nbytes + memory[0].mask.nbytes
    memory.reads = 0
    cache = DecodedCache(memory, max_bytes=4 * size)
    for _ in range(3):
        for i in range(7):
            assert np.array_equal(cache[i].mask, memory.masks[i])
    assert memory.reads == 4 + 3 * 3


def test_reading_processes_take_no_random_number_of_the_run(folder_root):
    """Else the first epoch after a resume has another dropout than it had in one go."""
    dataset, how = open_dataset("folder", folder_root, split="train"), Augmentation((32, 32), (0.5, 1.5))

    def next_number(batches, epoch):
        torch.manual_seed(3)
        list(batches.epoch(epoch))
        return float(torch.rand(1))

    def batches(num_workers):
        return HostBatches(dataset, how, batch_size=2, seed=5, num_workers=num_workers)

    lasting = batches(1)
    list(lasting.epoch(0))
    assert next_number(lasting, 1) == next_number(batches(1), 1) == next_number(batches(0), 1)


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.5])
def test_a_crop_of_a_large_image_is_that_of_the_whole_one_resized(monkeypatch, scale):
    """A smooth picture: where only a part is resized, pixels move by less than one, and labels with them."""
    rows, columns = np.mgrid[0:700, 0:901]
    image = np.stack([rows * 255 / 700, columns * 255 / 901, (rows + columns) % 2], axis=2).astype(np.uint8)
    sample = Sample(image, (rows + columns > 800).astype(np.uint8), "large")
    for seed in range(12):
        drawn = []
        for much_larger in (1, 10**9):
            monkeypatch.setattr(crops, "_MUCH_LARGER", much_larger)
            generator = torch.Generator().manual_seed(seed)
            how = Augmentation((64, 96), (scale, scale), flip=True)
            drawn.append(crops.augment(sample, how, ignore_index=255, generator=generator))
        (image, mask), (whole_image, whole_mask) = drawn
        assert image.shape == whole_image.shape == (3, 64, 96)
        assert (image[:2].int() - whole_image[:2].int()).abs().max() <= 1
        assert (mask != whole_mask).float().mean() < 0.02
        assert mask.max() <= 1  # no void from beyond the part
