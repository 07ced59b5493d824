"""Epochs drawn by classes, and the rare pixels that are pasted: counts and chances against their definitions."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_augment_and_loading import Memory

from fakes.runs import Silent, run, same, tensors, tiny
from refineseg.data.crops.balance import Donors, balanced_samples, count_classes, image_counts
from refineseg.data.crops.loading import epoch_order
from refineseg.data.crops.options import CropOptions
from refineseg.training.config import LossOptions
from refineseg.training.run import RunRequest, resume_run, start_run

COUNTS = np.array([[900, 100, 0, 0], [1000, 0, 0, 0], [500, 480, 20, 0], [800, 200, 0, 0], [990, 0, 10, 0]])


def generator(seed):
    return torch.Generator().manual_seed(seed)


def test_classes_are_counted_without_void():
    mask = np.array([[0, 2, 2], [255, 1, 2]], np.uint8)
    assert count_classes(mask, 4).tolist() == [1, 1, 3, 0]
    memory = Memory()
    counts = image_counts(memory)
    for index, mask in enumerate(memory.masks):
        assert counts[index].tolist() == [int((mask == c).sum()) for c in range(10)]


@pytest.mark.parametrize("balance", [0.3, 1.0])
def test_images_come_as_often_as_their_share_of_the_classes_says(balance):
    expected = np.zeros(5)
    for i in range(5):
        by_class = np.mean([COUNTS[i, c] / COUNTS[:, c].sum() for c in (0, 1, 2)])  # class 3 does not occur
        expected[i] = 5 * ((1 - balance) / 5 + balance * by_class)
    total = np.zeros(5)
    for seed in range(400):
        times = Counter(v % 5 for v in balanced_samples(COUNTS, balance, generator=generator(seed)))
        assert sum(times.values()) == 5
        for i in range(5):
            assert abs(times[i] - expected[i]) < 1
            total[i] += times[i]
    assert total / 400 == pytest.approx(expected, abs=0.1)


def test_a_sample_has_a_number_of_its_own_each_time_it_comes():
    order = balanced_samples(COUNTS, 1.0, generator=generator(0))
    assert len(set(order)) == len(order)
    for value in order:
        assert value < 5 or value - 5 in order


def test_without_balance_every_image_comes_once():
    assert sorted(balanced_samples(COUNTS, 0.0, generator=generator(1))) == list(range(5))


def test_the_order_depends_on_seed_and_epoch_alone():
    options = {"batch_size": 2, "counts": COUNTS, "class_balance": 0.8}
    first = epoch_order(5, seed=1, epoch=2, **options)
    assert epoch_order(5, seed=1, epoch=2, **options) == first
    assert any(epoch_order(5, seed=1, epoch=e, **options) != first for e in range(3, 9))
    assert epoch_order(5, batch_size=2, seed=1, epoch=2, counts=COUNTS) == epoch_order(5, batch_size=2, seed=1, epoch=2)


def test_donors_are_rare_classes_and_every_pixel_of_one_is_as_likely():
    donors = Donors(COUNTS)  # 4190, 780, 30, 0 pixels: the median of those that occur is 780
    assert donors.shares.tolist() == [0, 0, 1, 0]
    drawn = [donors.choose(0.5, (i + 0.5) / 30) for i in range(30)]
    assert drawn == [(2, 2, rank) for rank in range(20)] + [(4, 2, rank) for rank in range(10)]
    assert donors.choose(0.999999, 0.9999999999) == (4, 2, 9)


def test_rarer_classes_are_drawn_more_often():
    counts = np.array([[1, 4, 10_000, 10_000, 10_000]])
    shares = Donors(counts).shares
    assert shares[:2] == pytest.approx([2 / 3, 1 / 3])
    assert Donors(np.array([[5, 5]])).shares.tolist() == [0.5, 0.5]  # none is rarer than the median


def test_without_labels_nothing_is_donated():
    assert Donors(np.zeros((3, 4), np.int64)).choose(0.5, 0.5) is None


@pytest.mark.slow
@pytest.mark.parametrize("where", ["host", "device"])
def test_a_run_with_crops_drawn_by_classes_is_the_same_when_it_is_resumed(folder_root, tmp_path, where):
    config = tiny(2, augment_on=where, loss=LossOptions(lovasz=0.5, border_weight=1.0), checkpoint_every_s=0.0)
    crops = CropOptions((32, 32), (0.8, 1.2), rotation=10.0, copy_paste=0.5, class_balance=0.5)
    config = replace(config, phases=(replace(config.phases[0], crops=crops),))

    class Interrupted(Silent):
        def epoch_done(self, entry):
            raise KeyboardInterrupt

    run(folder_root, tmp_path / "whole", config)
    with pytest.raises(KeyboardInterrupt):
        start_run(RunRequest(config, f"folder:{folder_root}", device="cpu"), tmp_path / "parts", progress=Interrupted())
    resume_run(tmp_path / "parts", data=None, device="cpu", num_workers=None, progress=Silent())
    whole, parts = (tensors(tmp_path / name / "last.safetensors") for name in ("whole", "parts"))
    assert same(whole, parts)
