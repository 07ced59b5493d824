"""Own data without a val split: some training images are held out, always the same ones, and none is trained on."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import write_folder
from fakes.runs import Silent, tiny
from fakes.scenes import fake_camvid, fake_idd_lite
from refineseg.data.datasets import open_dataset, parse_sources
from refineseg.data.samples.given import GivenData
from refineseg.data.samples.run_record import HELD_OUT
from refineseg.doctor.examination import examine
from refineseg.errors import ConfigError, DatasetError, LabelError
from refineseg.training.opening import open_data
from refineseg.training.request import fitted
from refineseg.training.run import RunRequest, start_run


def names(dataset):
    return {dataset.name(i) for i in range(len(dataset))}


def opened(root, **changes):
    progress = Silent()
    sources = parse_sources(f"folder:{root}")
    config = fitted(tiny(**changes), sources, skip_missing=False, say=progress.say)
    return config, open_data(sources, config, progress)[0], progress.said


@pytest.fixture
def root(tmp_path) -> Path:
    return write_folder(tmp_path / "data", splits={"train": 12})


def test_a_tenth_of_own_training_images_is_held_out_by_the_seed(root):
    config, data, said = opened(root, val_share=0.25)
    assert config.val_split == HELD_OUT
    held, learned = names(data.val), names(data.phases[0].dataset)
    assert (len(held), len(learned)) == (3, 9)
    assert not held & learned
    assert any("25 % of the training images are held out for validation (drawn with seed 0)" in line for line in said)
    assert names(opened(root, val_share=0.25)[1].val) == held, "the same images in every call"
    assert any(names(opened(root, val_share=0.25, seed=seed)[1].val) != held for seed in (1, 2, 3))


def only_ground(root, split):
    for path in (root / "masks" / split).iterdir():
        Image.fromarray(np.zeros((48, 64), np.uint8)).save(path)


def test_classes_that_nothing_measures_are_told(root):
    write_folder(root, splits={"val": 2})
    assert not any("no validation image shows" in line for line in opened(root)[2])
    only_ground(root, "val")
    (root / "classes.txt").write_text("ground\nsky\nsquare\n")
    assert any("note: no validation image shows sky, square;" in line for line in opened(root)[2])


def test_no_model_is_the_best_beside_one_class_alone(root, tmp_path):
    """A model that finds nothing has a mIoU of 100 % there."""
    write_folder(root, splits={"val": 2})
    (root / "classes.txt").write_text("ground\nsky\nsquare\n")
    start_run(RunRequest(tiny(), f"folder:{root}", device="cpu", num_workers=0), tmp_path / "two", progress=Silent())
    assert (tmp_path / "two" / "best.safetensors").exists()
    only_ground(root, "val")
    start_run(RunRequest(tiny(), f"folder:{root}", device="cpu", num_workers=0), tmp_path / "one", progress=Silent())
    assert not (tmp_path / "one" / "best.safetensors").exists()
    assert (tmp_path / "one" / "last.safetensors").exists()


def test_nothing_is_held_out_where_that_is_not_wanted_or_leaves_nothing(root, tmp_path):
    assert opened(root, val_share=0.0)[1].val is None
    few = write_folder(tmp_path / "few", splits={"train": 4})
    _, data, said = opened(few)
    assert data.val is None
    assert any("4 images are too few" in line for line in said)
    assert opened(root, val_split=None)[1].val is None, "a recipe that trains on everything on purpose"
    with pytest.raises(ConfigError, match="expected validation images for --patience 3, got none"):
        opened(root, val_split=None, patience=3)


def test_a_second_data_set_of_wider_classes_is_learned_from_in_unions(tmp_path):
    data = f"camvid:{fake_camvid(tmp_path / 'camvid')}+idd_lite:{fake_idd_lite(tmp_path / 'idd')}"
    progress = Silent()
    sources = parse_sources(data)
    config = fitted(tiny(train_split="train", val_split=None), sources, skip_missing=False, say=progress.say)
    phase = open_data(sources, config, progress)[0].phases[0]
    assert len(phase.unions) == 4
    assert len(phase.pixel_counts) == 11
    assert any("idd_lite in the classes of camvid" in line for line in progress.said)
    run = start_run(RunRequest(config, data, device="cpu"), tmp_path / "run", progress=progress)
    trained_on = run.spec.provenance["protocol"]["trained_on"]
    assert trained_on == ["camvid:train", "idd_lite:train"]


def changed(path, change):
    """A mask file with other values."""
    Image.fromarray(change(np.array(Image.open(path)))).save(path)


def test_a_split_called_valid_is_measured_on(tmp_path):
    for name, train in (("valid", "train"), ("Validation", "Train"), ("val2017", "train2017")):
        root = write_folder(tmp_path / name, splits={train: 3, name: 2})
        (root / "classes.txt").write_text("ground\nsky\nsquare\n")
        config, data, said = opened(root)
        assert (config.train_split, config.val_split) == (train, name)
        assert len(data.val) == 2
        assert f"2 validation images ({name})" in said


def test_a_configuration_of_other_data_is_measured_on_the_val_split_there_is(root, tmp_path):
    assert opened(root)[0].val_split == HELD_OUT
    config, data, _ = opened(write_folder(tmp_path / "other", splits={"train": 3, "val": 2}), val_split=HELD_OUT)
    assert (config.val_split, len(data.val), len(data.phases[0].dataset)) == ("val", 2, 3)
    config, data, _ = opened(write_folder(tmp_path / "few", splits={"train": 4}), val_split=HELD_OUT)
    assert (config.val_split, data.val) == (None, None)


def test_a_few_validation_masks_may_hold_one_class_and_the_void_of_the_others(tmp_path):
    """What is usual in the training masks is no fault in the only validation mask."""
    root = write_folder(tmp_path / "d", splits={"train": 4, "val": 1})

    def void(mask):
        mask[:20] = 255
        return mask

    def background(mask):
        mask[:] = 0
        return void(mask)

    for path in (root / "masks" / "train").iterdir():
        changed(path, void)
    changed(next((root / "masks" / "val").iterdir()), background)
    assert len(opened(root)[1].val) == 1


def test_a_void_value_that_the_classes_name_is_no_sign_of_two_classes(tmp_path):
    root = write_folder(tmp_path / "d", splits={"train": 4})
    changed(next((root / "masks" / "train").iterdir()), lambda mask: np.where(mask > 0, 255, 0).astype(np.uint8))
    with pytest.raises(LabelError, match="binary_mask"):
        opened(root, val_split=None)
    named = [{"id": i, "name": name} for i, name in enumerate("abc")]
    listed = {"classes": [*named, {"id": 255, "name": "void", "ignore": True}]}
    (root / "classes.json").write_text(json.dumps(listed))
    assert len(opened(root, val_split=None)[1].phases[0].dataset) == 4


def numbered(path, colours):
    """A mask whose palette has these colours."""
    with Image.open(path) as file:
        mask = Image.fromarray(np.asarray(file), mode="P")
    mask.putpalette([part for colour in colours for part in colour])
    mask.save(path)


@pytest.mark.parametrize(
    ("splits", "changes"),
    [
        ({"train": 3, "val": 1}, {}),
        ({"a": 1, "b": 3}, {"train_split": "a+b", "val_split": None}),
        ({"train": 12}, {"val_share": 0.1}),
    ],
    ids=["val", "joined", "held out"],
)
def test_palettes_that_differ_between_splits_are_refused(tmp_path, splits, changes):
    """Each split alone is sound; one mask of all numbers the colours otherwise."""
    root, colours = write_folder(tmp_path / "d", splits=splits), [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    (root / "classes.txt").write_text("ground\nsky\nsquare\n")
    masks = sorted((root / "masks").rglob("*.png"))
    for path in masks:
        numbered(path, colours)
    _, data, _ = opened(root, **changes)
    alone = "a/000" if "a" in splits else "val/000" if "val" in splits else f"train/{data.val.name(0)}"
    numbered(root / "masks" / f"{alone}.png", colours[::-1])
    with pytest.raises(LabelError, match=rf"got 1 in \d+ samples:\n.*{alone}\.png: mixed_palettes"):
        opened(root, **changes)


def test_splits_that_differ_by_capitals_are_told(tmp_path):
    root = write_folder(tmp_path / "d", splits={"train": 3, "Train": 2})
    note = "the splits 'train' and 'Train' differ by capitals only and are not one"
    assert sum(line.startswith(f"note: {note}") for line in opened(root, val_split=None)[2]) == 1
    assert any(found.startswith(note) for found in examine(f"folder:{root}").inventory.notes)
    shutil.rmtree(root / "images" / "train")
    shutil.rmtree(root / "masks" / "Train")
    with pytest.raises(DatasetError, match=rf"but there is no such folder; {note}"):
        opened(root, val_split=None)
    assert any(found.startswith(note) for found in examine(f"folder:{root}").inventory.notes)


def test_transparent_pixels_are_not_counted_as_classes(tmp_path):
    """Cut-outs: the background of every image is transparent, so there is one class left and nothing to learn."""
    root = write_folder(tmp_path / "d", splits={"train": 2})
    for path in (root / "masks" / "train").iterdir():
        changed(path, lambda mask: (np.arange(mask.size).reshape(mask.shape) % 64 < 30).astype(np.uint8))
        image = root / "images" / "train" / path.name
        cut_out = Image.open(image).convert("RGBA")
        cut_out.putalpha(Image.fromarray(255 * np.array(Image.open(path))))
        cut_out.save(image)
    with pytest.raises(LabelError, match=r"expected pixels of more than one class in the 2 training masks, got only"):
        opened(root, val_split=None)


def test_own_data_of_the_same_classes_in_other_colours_are_joined(tmp_path):
    progress, colours = Silent(), ([255, 0, 200], [0, 0, 255])
    for name, colour in zip(("a", "b"), colours, strict=True):
        listed = [{"id": i, "name": text, "color": [*colour[:2], colour[2] // (i + 1)]} for i, text in enumerate("xyz")]
        root = write_folder(tmp_path / name, splits={"train": 3})
        (root / "classes.json").write_text(json.dumps({"classes": listed}))
    with (tmp_path / "list.csv").open("w") as file:
        for image in sorted((tmp_path / "b" / "images" / "train").iterdir()):
            file.write(f"{image},{tmp_path / 'b' / 'masks' / 'train' / image.name}\n")
    (tmp_path / "classes.json").write_text((tmp_path / "b" / "classes.json").read_text())
    sources = parse_sources(f"folder:{tmp_path / 'a'}+pairs:{tmp_path / 'list.csv'}")
    config = fitted(tiny(val_split=None), sources, skip_missing=False, say=progress.say)
    learned = open_data(sources, config, progress)[0].phases[0].dataset
    assert len(learned) == 6
    assert learned.class_info.palette[0] == (255, 0, 200)


def test_a_call_that_fails_in_any_way_can_be_repeated(root, tmp_path, monkeypatch):
    request = RunRequest(tiny(val_split=None), f"folder:{root}", device="cpu")

    def broken(*_, **__):
        raise RuntimeError("not foreseen")

    with monkeypatch.context() as patch:
        patch.setattr("refineseg.training.run.train", broken)
        with pytest.raises(RuntimeError, match="not foreseen"):
            start_run(request, tmp_path / "run", progress=Silent())
    start_run(request, tmp_path / "run", progress=Silent())
    assert (tmp_path / "run" / "last.safetensors").is_file()


def test_held_out_images_without_labels_are_named_as_such(tmp_path):
    root = write_folder(tmp_path / "d", splits={"train": 10})
    listed = [*({"id": i, "name": n} for i, n in enumerate("abc")), {"id": 255, "name": "void", "ignore": True}]
    (root / "classes.json").write_text(json.dumps({"classes": listed}))
    name = opened(root)[1].val.name(0)
    changed(root / "masks/train" / f"{name}.png", lambda mask: np.full_like(mask, 255))
    with pytest.raises(LabelError, match=rf"(?s)got none in 1 masks.*validation images .*{name}.*val_share=0"):
        opened(root)


def test_images_of_joined_splits_that_are_called_alike_are_held_out_together(tmp_path):
    root = write_folder(tmp_path / "d", splits={"a": 12, "b": 12})
    (root / "classes.txt").write_text("ground\nsky\nsquare\n")
    _, data, _ = opened(root, train_split="a+b", val_share=0.25)
    assert (len(data.val), len(data.phases[0].dataset)) == (6, 18)
    assert not names(data.val) & names(data.phases[0].dataset)


def test_classes_that_nothing_teaches_are_told(root):
    write_folder(root, splits={"val": 2})
    (root / "classes.txt").write_text("ground\nsky\nsquare\n")
    assert not any("no training image shows" in line for line in opened(root)[2])
    for path in (root / "masks" / "train").iterdir():
        changed(path, lambda mask: np.where(mask == 2, 0, mask).astype(np.uint8))
    assert any("note: no training image shows square, which validation" in line for line in opened(root)[2])


def test_a_validation_set_of_other_classes_is_refused_before_any_training(tmp_path):
    train, val = (write_folder(tmp_path / name, splits={split: 3}) for name, split in (("a", "train"), ("b", "val")))
    (train / "classes.txt").write_text("ground\nsky\nsquare\n")
    (val / "classes.txt").write_text("earth\nair\nsquare\n")
    data = GivenData(
        {"train": open_dataset("folder", train, split="train"), "val": open_dataset("folder", val, split="val")}
    )
    with pytest.raises(DatasetError, match=r"expected the model's classes 3 \(ground.*got a data set of 3 \(earth"):
        start_run(RunRequest(tiny(), data, device="cpu"), tmp_path / "run", progress=Silent())
    assert not (tmp_path / "run").exists()
