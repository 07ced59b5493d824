"""Your own data: every form gives the masks that were drawn, is recognised, and is read inside a zip file."""

import json
import pickle
import shutil

import numpy as np
import pytest
from PIL import Image

from fakes.own import FAKES, LABELS, coco_json, fake_coco, fake_labelme, fake_yolo, scenes, zipped
from refineseg.class_info import ClassInfo
from refineseg.data.checks.label_check import check_data
from refineseg.data.datasets import DATASETS, open_dataset, parse_data
from refineseg.data.own.formats import FORMATS, own_splits, recognise
from refineseg.data.readers.transfer import transferred
from refineseg.data.samples.catalog import catalog_classes
from refineseg.data.samples.remap import remapped
from refineseg.data.samples.sample import Dataset, Sample
from refineseg.doctor.examination import examine
from refineseg.errors import ConfigError, DatasetError

FORM = {"roboflow": "coco", "label_studio_png": "label_studio"}
WITH_VAL = ("coco", "roboflow", "yolo", "pairs")


def _check(dataset, expected):
    assert isinstance(dataset, Dataset)
    assert sorted(dataset.class_info.names) == sorted(("background", *LABELS))
    assert dataset.class_info.names[0] == "background"
    assert len(dataset) == len(expected)
    for index, scene in enumerate(expected):
        sample = dataset[index]
        np.testing.assert_array_equal(sample.image, scene.image)
        np.testing.assert_array_equal(sample.mask, scene.mask(dataset.class_info.names))
        np.testing.assert_array_equal(dataset.read_mask(index), sample.mask)


@pytest.mark.parametrize("form", FAKES)
def test_every_form_gives_the_masks_that_were_drawn(tmp_path, form):
    root = FAKES[form](tmp_path / "data")
    name = FORM.get(form, form)
    assert recognise(root) == (name, root)
    for called in ("folder", name):
        _check(open_dataset(called, root, split="train"), scenes())
        assert DATASETS[called].splits(root)[0] == "train"
        if form in WITH_VAL:
            _check(open_dataset(called, root, split="val"), scenes(2, seed=1))
            assert "val" in own_splits(root)


@pytest.mark.slow_except("pairs-", "cvat-my project", "roboflow-", "coco-my project", "yolo-", "label_studio_png-")
@pytest.mark.parametrize("inside", ["", "my project"])
@pytest.mark.parametrize("form", FAKES)
def test_every_form_is_read_inside_a_zip_file(tmp_path, form, inside):
    packed = zipped(FAKES[form](tmp_path / "data"), inside=inside)
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    for called in ("folder", FORM.get(form, form)):
        dataset = open_dataset(called, packed, split="train")
        _check(dataset, scenes())
        _check(pickle.loads(pickle.dumps(dataset)), scenes())
        assert check_data(dataset).pixel_counts.sum() == 3 * 36 * 48
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before


def test_images_and_masks_are_read_inside_a_zip_file_too(tmp_path, folder_root):
    plain = open_dataset("folder", folder_root, split="val")
    packed = open_dataset("folder", zipped(folder_root), split="val")
    for index in range(len(plain)):
        np.testing.assert_array_equal(packed[index].image, plain[index].image)
        np.testing.assert_array_equal(packed[index].mask, plain[index].mask)
    assert packed.class_info == plain.class_info


@pytest.mark.parametrize("form", ["labelme", "cvat", "label_studio", "label_studio_png"])
def test_a_form_without_splits_is_all_train_and_says_so(tmp_path, form):
    root = FAKES[form](tmp_path / "data")
    assert own_splits(root) == ("train",)
    with pytest.raises(DatasetError, match=r"expected a split of train .*got 'val'; it is one set without splits: div"):
        open_dataset("folder", root, split="val")


def test_files_may_stand_for_the_folder(tmp_path):
    coco = FAKES["coco"](tmp_path / "coco")
    shutil.copy(coco / "annotations" / "instances_val.json", coco / "val" / "mine.json")
    _check(open_dataset("coco", coco / "val" / "mine.json", split="train"), scenes(2, seed=1))
    _check(open_dataset("folder", coco / "val" / "mine.json", split="train"), scenes(2, seed=1))
    studio = FAKES["label_studio"](tmp_path / "studio")
    _check(open_dataset("folder", next(studio.glob("*.json")), split="train"), scenes())
    yolo = FAKES["yolo"](tmp_path / "yolo")
    _check(open_dataset("yolo", yolo / "data.yaml", split="val"), scenes(2, seed=1))
    pairs = FAKES["pairs"](tmp_path / "pairs")
    _check(open_dataset("pairs", pairs / "list.txt", split="val"), scenes(2, seed=1))
    _check(open_dataset("folder", pairs / "list.txt", split="train"), scenes())


def test_only_your_own_data_may_be_a_file(tmp_path):
    (tmp_path / "a.zip").touch()
    (tmp_path / "a.json").touch()
    with pytest.raises(DatasetError, match=r"expected a folder after voc:, got '.*a\.zip', which is a file; unpack it"):
        parse_data(f"voc:{tmp_path / 'a.zip'}")
    with pytest.raises(DatasetError, match=r"expected a folder or a file \.zip, \.yaml, \.yml after yolo:, got"):
        parse_data(f"yolo:{tmp_path / 'a.json'}")
    with pytest.raises(DatasetError, match=r"expected a zip file, got .*a\.zip: File is not a zip file; pack it again"):
        parse_data(f"folder:{tmp_path / 'a.zip'}")
    with pytest.raises(DatasetError, match=r"after folder:, got '.*absent\.zip', which is not there"):
        parse_data(f"folder:{tmp_path / 'absent.zip'}")


# --------------------------------------------------------------------------------------------------------- recognition


def test_masks_go_before_annotation_files_beside_them(tmp_path, folder_root):
    shutil.copy(fake_coco(tmp_path / "coco") / "annotations" / "instances_train.json", folder_root / "annotations.json")
    assert recognise(folder_root)[0] == "masks"


def test_two_forms_at_once_are_refused_with_their_names(tmp_path):
    root = fake_labelme(fake_yolo(tmp_path / "both"))
    with pytest.raises(
        DatasetError, match=r"expected one form of data in .*, got 2: YOLO: .*; labelme: .*; say which: "
    ):
        open_dataset("folder", root, split="train")
    assert len(open_dataset("yolo", root, split="train")) == 3
    assert len(open_dataset("labelme", root, split="train")) == 3


def test_an_unknown_form_lists_what_was_found_and_every_form(tmp_path):
    for name in ("a/1.jpg", "a/2.jpg", "b/c.xml"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).touch()
    with pytest.raises(DatasetError) as caught:
        open_dataset("folder", tmp_path / "data", split="train")
    message = str(caught.value)
    assert "got 2 .jpg, 1 .xml in a (2 files), b (1 files)" in message
    assert all(own.layout in message for own in FORMATS.values())
    FAKES["cvat"](tmp_path / "data" / "a")
    with pytest.raises(DatasetError, match=r"a has one of them: give .*a\n"):
        open_dataset("folder", tmp_path / "data", split="train")


def test_an_empty_folder_and_a_file_of_another_kind_are_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"got no files\n"):
        open_dataset("folder", tmp_path, split="train")
    (tmp_path / "a.doc").touch()
    with pytest.raises(DatasetError, match=r"expected a folder, \.zip, \.json, \.yaml or a list \.txt, got .*a\.doc"):
        recognise(tmp_path / "a.doc")
    with pytest.raises(DatasetError, match=r"got .*absent, which is not there"):
        recognise(tmp_path / "absent")


# ------------------------------------------------------------------------------------------------------------ remapping


@pytest.mark.parametrize("form", FAKES)
@pytest.mark.parametrize("kind", ["json", "csv"])
def test_classes_are_merged_and_made_void_by_a_table(tmp_path, form, kind):
    root = FAKES[form](tmp_path / "data")
    if kind == "json":
        (root / "remap.json").write_text(json.dumps({"car": "made", "house": "made", "tree": None}))
    else:
        (root / "remap.csv").write_text("old,new\ncar,made\nhouse, made\ntree,\n")
    dataset = open_dataset("folder", root, split="train")
    assert dataset.class_info.names == ("background", "made")
    assert dataset.notes[-1].endswith(f"remap.{kind}: 4 classes became 2")
    for index, scene in enumerate(scenes()):
        expected = np.array([0, 255, 1, 1], np.uint8)[scene.mask()]
        np.testing.assert_array_equal(dataset[index].mask, expected)
        np.testing.assert_array_equal(dataset.read_mask(index), expected)


def test_void_stays_void_when_classes_are_merged():
    class OneSample:
        class_info = ClassInfo(("car", "tree", "truck"))
        notes = ()

        def __len__(self):
            return 1

        def __getitem__(self, index):
            return Sample(np.zeros((1, 4, 3), np.uint8), self.read_mask(index), "a")

        def name(self, index):
            return "a"

        def read_mask(self, index):
            return np.array([[0, 1, 2, 255]], np.uint8)

    dataset = remapped(OneSample(), {"truck": "car"}, declared_in="remap.json")
    np.testing.assert_array_equal(dataset[0].mask, [[0, 1, 0, 255]])
    np.testing.assert_array_equal(dataset.read_mask(0), [[0, 1, 0, 255]])


def test_a_class_that_others_join_keeps_its_colour_and_first_place(tmp_path):
    root = FAKES["cvat"](tmp_path / "data")
    (root / "remap.json").write_text(json.dumps({"tree": "house", "background": None}))
    dataset = open_dataset("cvat", root, split="train")
    assert dataset.class_info.names == ("house", "car")
    assert dataset.class_info.palette == ((90, 90, 200), (128, 0, 0))
    (root / "remap.json").write_text(json.dumps({"car": "made", "house": "made"}))
    dataset = open_dataset("cvat", root, split="train")
    assert dataset.class_info.names == ("background", "tree", "made")
    assert dataset.class_info.palette[2] == (128, 0, 0)  # of the first that became it


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"cra": "car"}',
            r"expected the names of classes in .*remap\.json \(background, tree, car, house\), got 'cra' \(near: car",
        ),
        ('{"car": 3}', r"expected names to names or null in .*remap\.json, for instance \{"),
        ("[1]", r"expected names to names or null in"),
        ("{", r"expected JSON in .*remap\.json, got"),
        (
            json.dumps(dict.fromkeys(("background", *LABELS))),
            r"expected .*remap\.json to leave a class, got void for all 4",
        ),
    ],
)
def test_a_wrong_table_is_an_error(tmp_path, text, message):
    root = FAKES["coco"](tmp_path / "data")
    (root / "remap.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        open_dataset("folder", root, split="train")


def test_two_tables_and_rows_of_another_form_are_errors(tmp_path):
    root = FAKES["coco"](tmp_path / "data")
    for text, got in (("a,b,c\n", r"\['a', 'b', 'c'\]"), ("car,x\ncar,y\n", "'car'")):
        (root / "remap.csv").write_text(text)
        with pytest.raises(ConfigError, match=rf"expected 'old,new' once for each name in .*, got {got}"):
            open_dataset("folder", root, split="train")
    (root / "remap.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"expected one table in .*, got remap\.json and remap\.csv; remove one"):
        open_dataset("folder", root, split="train")


# ----------------------------------------------------------------------------------------------- images and their size


@pytest.mark.parametrize("form", ["coco", "labelme", "label_studio"])
def test_annotations_of_the_image_before_it_was_turned_are_an_error(tmp_path, form):
    root = FAKES[form](tmp_path / "data")
    path = next(p for p in root.rglob("scene_0.png") if "val" not in p.parts)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).save(path, exif=exif)
    dataset = open_dataset("folder", root, split="train")
    with pytest.raises(
        DatasetError,
        match=r"expected annotations of scene_0\.png for its size 48x36 .*, got 36x48; the image is rotated",
    ):
        dataset.read_mask(0)


@pytest.mark.parametrize("mode", ["L", "RGBA", "I;16", "P"])
def test_images_of_every_kind_are_read(tmp_path, mode):
    root = FAKES["coco"](tmp_path / "data")
    path = root / "train" / "scene_0.png"
    grey = Image.open(path).convert("L")
    image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257) if mode == "I;16" else grey.convert(mode)
    image.save(path)
    sample = open_dataset("coco", root, split="train")[0]
    assert sample.image.shape == (36, 48, 3)
    assert np.abs(sample.image[..., 0].astype(int) - np.asarray(grey)).max() <= 1
    np.testing.assert_array_equal(sample.mask, scenes()[0].mask())


@pytest.mark.slow
def test_ten_thousand_images_open_quickly_and_are_painted_when_read(tmp_path):
    import time

    (tmp_path / "images").mkdir()
    content = coco_json(scenes(1), ending=".png")
    image, boxes = content["images"][0], content["annotations"]
    names = [f"{i:05d}" for i in range(10_000)]
    for name in names:
        (tmp_path / "images" / f"{name}.png").touch()
    content["images"] = [image | {"id": i, "file_name": f"{name}.png"} for i, name in enumerate(names)]
    content["annotations"] = [box | {"image_id": i} for i in range(10_000) for box in boxes]
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    start = time.perf_counter()
    dataset = open_dataset("folder", tmp_path, split="train")
    assert time.perf_counter() - start < 20
    assert len(dataset) == 10_000


def test_a_training_run_among_labelmes_files_is_none_of_them(tmp_path):
    root = FAKES["labelme"](tmp_path / "data")
    for folder in ("run", "runs/first"):
        (root / folder).mkdir(parents=True)
        for name in ("run.json", "data.json", "metrics.json"):
            (root / folder / name).write_text("{}")
    _check(open_dataset("labelme", root, split="train"), scenes())
    assert recognise(root) == ("labelme", root)


def test_roboflows_valid_is_one_split_of_two_names(tmp_path):
    root = FAKES["roboflow"](tmp_path / "data")
    assert len([name for name in own_splits(root) if name in ("val", "valid")]) == 1
    assert len(open_dataset("coco", root, split="valid")) == len(open_dataset("coco", root, split="val"))
    assert not [fault for fault in examine(f"coco:{root}").faults if "duplicate" in fault.kind]


def test_cvats_coco_lies_in_folders_called_default(tmp_path):
    root, found = tmp_path / "cvat", scenes()
    (root / "annotations").mkdir(parents=True)
    (root / "images" / "default").mkdir(parents=True)
    (root / "annotations" / "instances_default.json").write_text(json.dumps(coco_json(found, ending=".png")))
    for scene in found:
        Image.fromarray(scene.image).save(root / "images" / "default" / f"{scene.name}.png")
    _check(open_dataset("coco", root, split="train"), found)


def test_the_image_that_labelme_names_is_not_a_picture_of_the_labels_beside_it(tmp_path):
    root, found = tmp_path / "data", scenes(1)
    fake_labelme(root)
    for path in root.iterdir():
        if path.stem not in (found[0].name,):
            path.unlink()
    image = next(path for path in root.iterdir() if path.suffix != ".json")
    Image.open(image).convert("RGB").save(root / f"{image.stem}.tif")
    content = json.loads((root / f"{image.stem}.json").read_text())
    content["imagePath"] = f"{image.stem}.tif"
    (root / f"{image.stem}.json").write_text(json.dumps(content))
    pixels = np.asarray(Image.open(root / f"{image.stem}.tif"))
    image.unlink()
    Image.fromarray(np.zeros_like(pixels)).save(root / f"{image.stem}.png")
    np.testing.assert_array_equal(open_dataset("labelme", root, split="train")[0].image, pixels)


def test_own_masks_with_the_class_names_of_cityscapes_are_no_label_ids(tmp_path):
    """Train ids 0 to 18 under the 19 names, as BDD100K has them."""
    names = catalog_classes("cityscapes").names
    for kind in ("images", "masks"):
        (tmp_path / kind / "train").mkdir(parents=True)
    mask = np.arange(19, dtype=np.uint8)[:, None].repeat(8, axis=1)
    Image.fromarray(mask).save(tmp_path / "masks" / "train" / "a.png")
    Image.fromarray(np.zeros((19, 8, 3), np.uint8)).save(tmp_path / "images" / "train" / "a.png")
    (tmp_path / "classes.txt").write_text("\n".join(names) + "\n")
    wanted = catalog_classes("camvid")
    found = transferred(open_dataset("folder", tmp_path, split="train"), wanted)
    assert found is not None
    values = dict(zip(names, found[0].read_mask(0)[:, 0].tolist(), strict=True))
    for name, to in {"road": "road", "building": "building", "vegetation": "tree", "person": "pedestrian"}.items():
        assert values[name] == wanted.names.index(to), name


def test_roboflows_yaml_names_the_folders_beside_it(tmp_path):
    """They begin with "../"; a data set of the same form one folder above is another one."""
    for number, root in enumerate((tmp_path / "home", tmp_path / "home" / "b")):
        for split in ("train", "valid"):
            for kind in ("images", "labels"):
                (root / split / kind).mkdir(parents=True)
            Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(root / split / "images" / f"{number}.png")
            (root / split / "labels" / f"{number}.txt").write_text("0 0.1 0.1 0.9 0.1 0.9 0.9\n")
        lines = ["train: ../train/images", "val: ../valid/images", "test: ../test/images", "names: [thing]"]
        (root / "data.yaml").write_text("\n".join(lines) + "\n")
    for number, root in enumerate((tmp_path / "home", tmp_path / "home" / "b")):
        found = open_dataset("yolo", root, split="train")
        assert [found.name(i) for i in range(len(found))] == [str(number)]
        assert own_splits(root) == ("train", "val"), "the test set was never made"
