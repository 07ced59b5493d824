"""Crops cut from images held on a device, against the crops that are cut from files one by one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from skimage import data as photographs
from torchvision.transforms.v2 import functional as transforms

from fakes.loading import training_batches
from fakes.runs import Asking
from refineseg.class_info import ClassInfo
from refineseg.data.crops.augment import Augmentation, augment, recoloured
from refineseg.data.crops.loading import mix_seeds
from refineseg.data.crops.options import CropOptions
from refineseg.data.crops.resident import hold
from refineseg.data.samples.sample import Sample
from refineseg.errors import DatasetError
from refineseg.training.feeding import Feed, PhaseData, augmentation_of
from refineseg.training.recipes.table import find_recipe

CPU = torch.device("cpu")
INFO = ClassInfo(tuple("abcde"))


class Photographs:
    """Two photographs of different sizes, with masks that follow their brightness."""

    class_info, notes = INFO, ()

    def __init__(self, *, labelled=True):
        self._images = (photographs.astronaut()[60:260, 100:340], photographs.chelsea()[20:180, 80:400])
        self._labelled = labelled

    def __len__(self):
        return len(self._images)

    def name(self, index):
        return f"photograph {index}"

    def __getitem__(self, index):
        image = self._images[index].copy()
        mask = (image[:, :, 1] // 52).astype("uint8")
        mask[:7] = 255
        return Sample(image, mask if self._labelled else None, self.name(index))

    def read_mask(self, index):
        return self[index].mask


def alone(index, augmentation, *, seed, epoch):
    generator = torch.Generator().manual_seed(mix_seeds(seed, epoch, index))
    return augment(Photographs()[index], augmentation, ignore_index=255, generator=generator)


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation((96, 128), (1.0, 1.0)),
        Augmentation((96, 128), (0.5, 2.0)),
        Augmentation((256, 352), (0.4, 1.1)),  # images are padded
        Augmentation((64, 64), (0.7, 1.3), scale_step=0.1, crop_centre="class"),
        Augmentation((80, 80), (0.8, 1.2), smallest_side=180, short_side=(150, 170)),
    ],
)
def test_crops_lie_where_those_cut_alone_lie(augmentation):
    held = hold(Photographs(), device=CPU, max_bytes=1 << 30)
    for epoch in range(6):
        batch = held.crops([1, 0], augmentation, seed=3, epoch=epoch)
        assert batch.names == ("photograph 1", "photograph 0")
        for row, index in enumerate((1, 0)):
            image, mask = alone(index, augmentation, seed=3, epoch=epoch)
            assert batch.masks[row].shape == mask.shape
            assert (batch.masks[row] != mask).float().mean() < 0.002  # edges that fall between two pixels
            difference = (batch.images[row].float() - image.float()).abs()
            assert difference.mean() < 3.0, epoch
            assert difference.flatten().quantile(0.9) < 8.0


def test_without_a_resize_crops_are_the_same_to_the_bit():
    augmentation = Augmentation((96, 128), (1.0, 1.0))
    batch = hold(Photographs(), device=CPU, max_bytes=1 << 30).crops([0, 1], augmentation, seed=0, epoch=5)
    for row in range(2):
        image, mask = alone(row, augmentation, seed=0, epoch=5)
        assert torch.equal(batch.images[row], image)
        assert torch.equal(batch.masks[row], mask)


def test_colours_change_as_they_do_alone():
    augmentation = Augmentation((150, 200), (1.0, 1.0), colour=0.4)
    batch = hold(Photographs(), device=CPU, max_bytes=1 << 30).crops([0, 1], augmentation, seed=0, epoch=1)
    for row in range(2):
        image, _ = alone(row, augmentation, seed=0, epoch=1)
        assert (batch.images[row].int() - image.int()).abs().max() <= 1


@pytest.mark.parametrize("factors", [(1.3, 1.0, 1.0), (1.0, 0.6, 1.0), (1.0, 1.0, 1.4), (0.8, 1.2, 0.7)])
def test_one_pass_changes_colours_as_three_do(factors):
    """Brightness, contrast and saturation one after the other by the library, without its rounding and clamping."""
    image = torch.from_numpy(photographs.chelsea()[:90, :120]).permute(2, 0, 1).double() / 4 + 60
    scaled = image / 255
    for change, factor in zip(
        (transforms.adjust_brightness_image, transforms.adjust_contrast_image, transforms.adjust_saturation_image),
        factors,
        strict=True,
    ):
        scaled = change(scaled, factor)
    assert (recoloured(image[None].float(), torch.tensor([(*factors, 1.0, 1.0)]))[0] - 255 * scaled).abs().max() < 0.05


def test_crops_that_shrink_with_the_image_are_batches_of_one():
    augmentation = Augmentation((400, 400), (0.7, 0.7), pad=False)
    batch = hold(Photographs(), device=CPU, max_bytes=1 << 30).crops([0], augmentation, seed=0, epoch=0)
    assert batch.images.shape == (1, 3, 140, 140)


def test_epochs_have_the_order_of_loading_from_files():
    augmentation = Augmentation((32, 32), (1.0, 1.0))
    held = hold(Photographs(), device=CPU, max_bytes=1 << 30)
    mine = held.batches(augmentation, batch_size=1, seed=4, epoch=2)
    files = training_batches(Photographs(), augmentation, batch_size=1, seed=4, epoch=2, num_workers=0)
    assert len(mine) == len(files)
    assert [batch.names for batch in mine] == [batch.names for batch in files]


def test_crops_that_are_drawn_beforehand_are_the_same():
    held = hold(Photographs(), device=CPU, max_bytes=1 << 30)
    config = replace(find_recipe("camvid_refineseg_small"), seed=4)
    crops = CropOptions((64, 96), (0.5, 2.0), rotation=10.0, copy_paste=1.0)
    phase = replace(config.phases[0], crops=crops, batch_size=1)
    augmentation = augmentation_of(phase, config)
    learned = PhaseData(Photographs(), np.ones(5, np.int64), resident=held)
    feed = Feed(learned, phase, config, workers=0, device=CPU)
    for prepared in (3, 7):  # the one that is asked for, and another one
        feed.prepare(prepared)
        found = list(feed.epoch(3))
        for batch, expected in zip(found, held.batches(augmentation, batch_size=1, seed=4, epoch=3), strict=True):
            assert batch.names == expected.names
            assert torch.equal(batch.images, expected.images)
            assert torch.equal(batch.masks, expected.masks)


def test_data_that_do_not_fit_are_not_held():
    assert hold(Photographs(), device=CPU, max_bytes=10_000) is None


def test_unlabelled_images_are_refused():
    with pytest.raises(DatasetError, match="labelled image for training, got photograph 0"):
        hold(Photographs(labelled=False), device=CPU, max_bytes=1 << 30)


def test_more_than_255_classes_keep_their_values():
    class Many(Photographs):
        class_info = ClassInfo(tuple(f"c{i}" for i in range(300)), ignore_index=65535)

        def __getitem__(self, index):
            sample = super().__getitem__(index)
            return Sample(sample.image, sample.mask.astype("uint16") + 256, sample.name)

    held = hold(Many(), device=CPU, max_bytes=1 << 30)
    pixels = held.masks.numel()
    assert hold(Many(), device=CPU, max_bytes=int(7.7 * pixels)) is None  # 3 + 3 / 4 + 4 bytes of each
    assert hold(Many(), device=CPU, max_bytes=int(7.8 * pixels)) is not None
    batch = held.crops([0], Augmentation((240, 240), (1.0, 1.0), flip=False), seed=0, epoch=0)
    assert set(batch.masks.unique().tolist()) <= {256, 257, 258, 259, 260, 511, 65535}


@pytest.mark.parametrize("centre", ["uniform", "class"])
def test_cutting_a_batch_asks_the_device_for_nothing(centre):
    augmentation = Augmentation(
        (64, 96), (0.5, 2.0), colour=0.3, rotation=10.0, copy_paste=1.0, class_balance=0.5, crop_centre=centre
    )
    batches = hold(Photographs(), device=CPU, max_bytes=1 << 30).batches(augmentation, batch_size=2, seed=0, epoch=0)
    plans = list(batches._plans())
    with Asking() as mode:
        for plan in plans:
            batches.data.cut(plan)
    assert plans
    assert mode.asked == []
