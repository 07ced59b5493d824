"""Small pictures of one's own get small crops, large photographs are reduced; nobody's choice is changed."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from test_survival import same_weights

from conftest import write_folder
from fakes.runs import Silent
from refineseg.data.crops.options import CropOptions
from refineseg.data.datasets import open_dataset
from refineseg.data.samples.given import CheckedSamples
from refineseg.data.samples.reduced import Reduced
from refineseg.data.samples.remap import remapped
from refineseg.data.samples.sample import Concatenation, Without, image_header
from refineseg.data.samples.views import Subset
from refineseg.data.shard_writer import ShardOptions, write_shards
from refineseg.data.storage.shards import open_shards
from refineseg.errors import ConfigError
from refineseg.predict.predictor import Predictor
from refineseg.segmenter import build, load
from refineseg.terminal.printing import Terminal
from refineseg.training import speed
from refineseg.training.config import Phase, TrainingConfig
from refineseg.training.crop_size import fit_crops, fit_input
from refineseg.training.distillation import check_teacher
from refineseg.training.recipes.table import find_recipe
from refineseg.training.run import RunRequest, resume_run, start_run


@pytest.fixture
def dataset(tmp_path):
    def write(size_hw):
        return open_dataset("folder", write_folder(tmp_path / "data", splits={"train": 3}, size=size_hw), split="train")

    return write


def crops(config, dataset):
    progress = Silent()
    return [phase.crops.crop_hw for phase in fit_crops(config, dataset, progress).phases], progress.said


@pytest.mark.parametrize(
    ("size_hw", "expected"), [((60, 90), (64, 96)), ((200, 400), (224, 320)), ((320, 500), (320, 320))]
)
def test_crops_are_no_larger_than_the_images_rounded_up(dataset, size_hw, expected):
    found, said = crops(find_recipe("folder_refineseg_lite0"), dataset(size_hw))
    assert found == [expected]
    assert bool(said) == (expected != (320, 320))
    assert all(f"{size_hw[0]}x{size_hw[1]} (height x width): crops of {expected[0]}x" in line for line in said)


def test_phases_that_do_not_ask_for_it_stay(dataset):
    small = dataset((60, 90))
    config = find_recipe("folder_refineseg_lite0")
    kept = replace(config.phases[0].crops, at_most_images=False)
    config = replace(config, phases=(replace(config.phases[0], crops=kept),))
    assert crops(config, small) == ([(320, 320)], [])
    papers = find_recipe("voc_refinenet_lw_resnet50")
    assert crops(papers, small) == ([phase.crops.crop_hw for phase in papers.phases], [])


def sharded(dataset, folder):
    write_shards(dataset, str(folder), ShardOptions("folder", "train"))
    return open_shards(folder, "train")


def test_images_in_shards_give_crops_too(dataset, tmp_path):
    shards = sharded(dataset((60, 90)), tmp_path / "shards")
    found, said = crops(find_recipe("folder_refineseg_lite0"), shards)
    assert found == [(64, 96)]
    assert "60x90 (height x width): crops of 64x96" in said[0]
    views = (Concatenation([shards, shards]), Without(shards, {shards.name(0)}), Subset(shards, (2, 1)))
    for view in (shards, *views, CheckedSamples(shards), remapped(shards, {}, declared_in="remap.json")):
        assert image_header(view, 1) == ((60, 90), ".png")


def test_crops_of_reduced_images_are_told_with_the_size_that_the_network_sees(dataset):
    config = replace(find_recipe("folder_refineseg_lite0"), input_scale=0.5)
    found, said = crops(config, dataset((200, 400)))
    assert found == [(128, 224)]
    assert "100x200 (height x width) as the network sees them: crops of 128x224" in said[0]


# ---------------------------------------------------------------------------------------------------- large photographs
def photographs(root, *, size_hw, suffix=".jpg", splits=None):
    """A red square of a third of each side on a green ground, somewhere."""
    rng = np.random.default_rng(3)
    (height, width), side = size_hw, min(size_hw) // 3
    for split, count in (splits or {"train": 3, "val": 1}).items():
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for i in range(count):
            mask = np.zeros(size_hw, np.uint8)
            top, left = rng.integers(0, height - side), rng.integers(0, width - side)
            mask[top : top + side, left : left + side] = 1
            pixels = np.array([(40, 120, 40), (200, 30, 30)], np.uint8)[mask]
            Image.fromarray(pixels).save(root / "images" / split / f"{i}{suffix}")
            Image.fromarray(mask).save(root / "masks" / split / f"{i}.png")
    (root / "classes.txt").write_text("ground\nsquare\n")
    return root


def seen_at(dataset, **changes):
    progress = Silent()
    config = replace(find_recipe("folder_refineseg_lite0"), **changes)
    return fit_input(config, dataset, progress).input_scale, progress.said


def test_photographs_of_many_megapixels_are_reduced_and_told(tmp_path):
    large = open_dataset("folder", photographs(tmp_path, size_hw=(1536, 2048), splits={"train": 1}), split="train")
    scale, said = seen_at(large)
    assert scale == 0.5
    assert "1536x2048 (height x width): the network sees them at 0.5" in said[0]
    assert "--set input_scale=1" in said[0]
    assert seen_at(large, input_scale=1.0) == (1.0, [])
    assert seen_at(large, input_scale=0.3) == (0.3, [])
    shards = sharded(large, tmp_path / "shards")
    assert image_header(shards, 0) == ((1536, 2048), ".jpg")
    assert seen_at(shards) == (scale, said)


@pytest.mark.parametrize(
    ("size_hw", "seen_hw", "crop_hw"),
    [((1536, 2048), (768, 1024), (320, 320)), ((60, 90), (60, 90), (64, 96))],
)
def test_the_speed_of_training_is_that_of_images_and_crops_as_training_takes_them(
    tmp_path, monkeypatch, size_hw, seen_hw, crop_hw
):
    fed = []

    def feed(learned, phase, config, **more):
        fed.append((learned.dataset[0].image.shape[:2], phase.crops.crop_hw))

    monkeypatch.setattr(speed, "Feed", feed)
    monkeypatch.setattr(speed, "_measure", lambda *given: ({way: [1.0] for way in speed.WAYS}, 1))
    root = photographs(tmp_path, size_hw=size_hw, splits={"train": 1})
    config = find_recipe("folder_refineseg_lite0")
    speed.bench_training(config, f"folder:{root}", device="cpu", console=Terminal(quiet=True))
    assert fed == [(seen_hw, crop_hw)]


def lines(root, *, size_hw, width, suffix):
    """Lines on a ground: a mask that a reduction by much would lose."""
    for kind in ("images", "masks"):
        (root / kind / "train").mkdir(parents=True)
    mask = np.zeros(size_hw, np.uint8)
    for first in range(0, size_hw[0], 16 * width):
        mask[first : first + width] = 1
    Image.fromarray(mask * 200).convert("RGB").save(root / "images" / "train" / f"a{suffix}")
    Image.fromarray(mask).save(root / "masks" / "train" / "a.png")
    (root / "classes.txt").write_text("ground\nline\n")
    return open_dataset("folder", root, split="train")


@pytest.mark.parametrize(
    ("width", "suffix", "expected"),
    [(64, ".jpg", 0.5), (64, ".png", 0.5), (4, ".jpg", 1.0), (20, ".jpg", 0.5), (20, ".png", 1.0)],
)
def test_thin_things_decide_how_far_images_are_reduced(tmp_path, width, suffix, expected):
    """At half of its size and the network's quarter, a pixel covers eight; of files that may be no photographs masks
    must keep more."""
    assert seen_at(lines(tmp_path, size_hw=(1536, 2048), width=width, suffix=suffix))[0] == expected


def test_each_class_counts_not_their_mean_alone(tmp_path):
    """Nine wide classes and one of lines: the mean of their IoU is high, and the lines would be lost."""
    lines(tmp_path, size_hw=(1536, 2048), width=4, suffix=".jpg")
    path = tmp_path / "masks" / "train" / "a.png"
    mask = np.array(Image.open(path))
    mask[:, 256:] = np.arange(2, 9).repeat(256)
    Image.fromarray(mask).save(path)
    (tmp_path / "classes.txt").write_text("\n".join(f"c{i}" for i in range(9)))
    assert seen_at(open_dataset("folder", tmp_path, split="train"))[0] == 1.0


@pytest.mark.parametrize(("size_hw", "suffix"), [((1200, 2048), ".jpg"), ((1536, 2048), ".tif")])
def test_smaller_ones_and_other_kinds_of_files_are_not(tmp_path, size_hw, suffix):
    assert seen_at(
        open_dataset(
            "folder", photographs(tmp_path, size_hw=size_hw, suffix=suffix, splits={"train": 1}), split="train"
        )
    ) == (
        1.0,
        [],
    )


@pytest.mark.parametrize(
    ("asked", "source", "expected"),
    [(None, 0.25, 0.25), (None, 1.2, 1.2), (1.0, 1.2, 1.2), (1.0, 0.25, 1.0), (0.5, 1.2, 0.5)],
)
def test_the_model_that_training_starts_from_keeps_its_scale_unless_told_otherwise(dataset, asked, source, expected):
    config = replace(find_recipe("folder_refineseg_lite0"), input_scale=asked)
    assert fit_input(config, dataset((60, 90)), Silent(), source=source).input_scale == expected


def test_small_images_that_a_model_of_photographs_reduces_are_told(dataset):
    progress, small = Silent(), dataset((60, 90))
    fit_input(find_recipe("folder_refineseg_lite0"), small, progress, source=0.5)
    [said] = progress.said
    assert "images of about 60x90 (height x width): the network sees them at 0.5 of their size, 30x45, as the " in said
    assert "--set input_scale=1" in said
    fit_input(replace(find_recipe("folder_refineseg_lite0"), input_scale=1.0), small, progress, source=0.5)
    fit_input(find_recipe("folder_refineseg_lite0"), small, progress, source=1.2)
    assert progress.said == [said]


def test_reduced_samples_are_what_the_network_sees(tmp_path):
    whole = open_dataset("folder", photographs(tmp_path, size_hw=(300, 421)), split="train")
    reduced = Reduced(whole, 0.3)
    sample = reduced[1]
    assert (len(reduced), reduced.name(1), reduced.class_info) == (len(whole), whole.name(1), whole.class_info)
    assert sample.image.shape == (90, 126, 3)
    spec = build("refineseg_nano", num_classes=2).spec
    seen = replace(spec.preprocessing, mean=(0.0,) * 3, std=(1.0,) * 3, input_scale=0.3)
    pixels = torch.from_numpy(whole[1].image).permute(2, 0, 1)[None]
    assert np.array_equal(seen(pixels, dtype=torch.float32)[0].permute(1, 2, 0).numpy(), sample.image)
    centres = [
        (int((row + 0.5) / 90 * 300), int((column + 0.5) / 126 * 421)) for row in range(90) for column in range(126)
    ]
    mask = whole[1].mask
    expected = np.array([mask[at] for at in centres]).reshape(90, 126)
    assert np.array_equal(sample.mask, expected)
    assert np.array_equal(reduced.read_mask(1), expected)


def test_a_run_on_photographs_learns_and_predicts_at_the_same_scale_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("refineseg.training.crop_size._LARGE", 200)
    monkeypatch.setattr("refineseg.training.crop_size._SEEN", 120)
    root = photographs(tmp_path / "photos", size_hw=(200, 250), splits={"train": 4, "val": 1})
    phase = Phase(
        epochs=2, crops=CropOptions((96, 128), (0.8, 1.2)), batch_size=2, encoder_lr=1e-3, decoder_lr=2e-3,
        warmup_epochs=0.0,
    )  # fmt: skip
    config = TrainingConfig(
        recipe="test", variant="refineseg_nano", phases=(phase,), pretrained="no", precision="fp32", ema_decay=None,
        val_every=2, input_scale=None, checkpoint_every_s=0.0,
    )  # fmt: skip
    request = RunRequest(config, f"folder:{root}", device="cpu", num_workers=0)
    whole = start_run(request, tmp_path / "whole", progress=Silent())
    assert whole.spec.preprocessing.input_scale == 0.6
    start_run(replace(request, stop_after_s=0.01), tmp_path / "parts", progress=Silent())
    resume_run(tmp_path / "parts", data=None, device="cpu", num_workers=0, progress=Silent())
    assert same_weights(tmp_path / "whole", tmp_path / "parts")
    photo = np.asarray(Image.open(root / "images/val/0.jpg"))
    mask = Predictor(load(tmp_path / "whole" / "last.safetensors"))(photo).mask
    assert mask.shape == photo.shape[:2]
    by_hand = Predictor(replace_scale(whole, 1.0), scales=(0.6,))(photo).mask
    assert (mask == by_hand).mean() > 0.99


def replace_scale(segmenter, scale):
    preprocessing = replace(segmenter.spec.preprocessing, input_scale=scale)
    segmenter.spec = replace(segmenter.spec, preprocessing=preprocessing)
    return segmenter


def test_a_teacher_of_another_scale_is_refused(tmp_path):
    teacher = build("refineseg_nano", num_classes=2)
    path = tmp_path / "teacher.safetensors"
    teacher.save(path)
    assert check_teacher(str(path), teacher.class_info, input_scale=1.0)
    with pytest.raises(ConfigError, match="at 0.5 of their size, as the student does, got .* with 1"):
        check_teacher(str(path), teacher.class_info, input_scale=0.5)
    replace_scale(teacher, 0.5).save(path)
    assert check_teacher(str(path), teacher.class_info, input_scale=0.5)
