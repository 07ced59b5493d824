"""Tiny trees in the true layouts of the scene data sets, for tests and demonstrations without a download.

In: a folder and a seed. Out: drawn scenes in real PNG, JPEG and ``.mat`` files, the same bytes for the same seed. The
colour of a pixel tells its class, so that a network can learn them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from refineseg.data.readers.cityscapes import to_label_ids
from refineseg.data.samples.catalog import catalog_classes
from refineseg.data.storage.file_lists import packaged_table
from refineseg.errors import MissingExtraError

SIZE_HW = (40, 56)
_VOID = 255
_FRAME_HW = (480, 640)
_SUN_PREFIX = "/n/fs/sun3d/data/SUNRGBD"  # of the authors' machine, as in the toolbox's lists


def _mask(rng: np.random.Generator, classes: Sequence[int], size_hw: tuple[int, int] = SIZE_HW) -> NDArray[np.uint8]:
    """Upper and lower half, and a box with a void edge: three classes that differ."""
    height, width = size_hw
    upper, lower, inside = rng.choice(classes, 3, replace=False)
    mask = np.full(size_hw, upper, np.uint8)
    mask[int(rng.integers(height // 3, 2 * height // 3)) :] = lower
    top, left = int(rng.integers(1, height // 2)), int(rng.integers(1, width // 2))
    box = mask[top : top + height // 3, left : left + width // 3]
    box[...] = _VOID
    box[1:-1, 1:-1] = inside
    return mask


def _image(rng: np.random.Generator, mask: NDArray[np.uint8], data: str) -> NDArray[np.uint8]:
    """The classes in dull colours, with noise in blocks, which keeps large files small."""
    colours = np.full((256, 3), 20.0)
    palette = catalog_classes(data).palette
    colours[: len(palette)] = np.array(palette) * 0.7 + 40
    height, width = mask.shape
    step = max(1, height // 40)
    noise = rng.normal(0, 8, (-(-height // step), -(-width // step), 3)).repeat(step, 0).repeat(step, 1)
    return (colours[mask] + noise[:height, :width]).clip(0, 255).astype(np.uint8)


def _scene(rng: np.random.Generator, data: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Image and mask of a data set's classes."""
    mask = _mask(rng, range(catalog_classes(data).num_classes))
    return _image(rng, mask, data), mask


def _from_one(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Class k as k + 1, void as 0."""
    return mask + np.uint8(1)


def _save(path: Path, pixels: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=95)


def _save_mat(path: Path, variables: Mapping[str, Any]) -> None:
    """A MATLAB file of version 5, without the time in its header."""
    try:
        from scipy.io import savemat  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtraError("scipy", extra="mat", purpose=f"write {path.name}") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, dict(variables), do_compression=True)
    with path.open("r+b") as file:
        file.write(b"MATLAB 5.0 MAT-file".ljust(116))


def _save_hdf5(path: Path, arrays: Mapping[str, NDArray[Any]], cells: Mapping[str, Sequence[NDArray[Any]]]) -> None:
    """A MATLAB file of version 7.3: plain arrays, and cells ``GROUP/FIELD`` of references, (N, 1).

    Every array is written as given: callers reverse the axes, as MATLAB does.
    """
    try:
        import h5py  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtraError("h5py", extra="mat", purpose=f"write {path.name}") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, chunks=(1, *array.shape[1:]), compression="gzip")
        for name, items in cells.items():
            field = name.replace("/", "_")
            held = [file.create_dataset(f"#refs#/{field}{i}", data=item).ref for i, item in enumerate(items)]
            file.create_dataset(name, data=np.array(held, h5py.ref_dtype)[:, None], dtype=h5py.ref_dtype)
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")


def fake_nyud(root: Path, *, seed: int = 0) -> Path:
    """NYUDv2 as Light-Weight RefineNet's lists name it: ``train.nyu``, ``val.nyu``, masks 0..39 and 255; ``root``."""
    rng = np.random.default_rng(seed)
    for split, numbers in (("train", (3, 4, 5)), ("val", (1, 2, 9))):
        lines = []
        for number in numbers:
            name = f"{number:06d}.png"
            mask = _mask(rng, range(1, 39))
            mask[:3, :8], mask[:3, 8:16] = 0, 39  # wall and otherprop are in nearly every room
            _save(root / f"{split}_images" / name, _image(rng, mask, "nyud"))
            _save(root / f"{split}_labels" / name, mask)
            lines.append(f"{split}_images/{name}\t{split}_labels/{name}\n")
        (root / f"{split}.nyu").write_text("".join(lines), encoding="utf-8")
    return root


def fake_nyud_mat(root: Path, *, seed: int = 0) -> Path:
    """NYUDv2 as published: ``nyu_depth_v2_labeled.mat`` with 6 whole frames, and ``splits.mat``; returns ``root``.

    Raises:
        MissingExtraError: h5py or scipy is not installed.
    """
    rng = np.random.default_rng(seed)
    raw_of = np.zeros(256, np.uint16)  # raw label of each class; void is 0
    for raw, label in reversed(list(enumerate(packaged_table("class_tables", "nyud_raw_labels")["labels"], start=1))):
        raw_of[label - 1] = raw
    images, labels = [], []
    for _ in range(6):
        mask = _mask(rng, range(40), _FRAME_HW)
        inside = np.zeros(_FRAME_HW, np.bool_)
        inside[6:476, 7:634] = True
        mask[~inside] = _VOID
        image = _image(rng, mask, "nyud")
        image[~inside] = 255  # the white border
        images.append(image.transpose(2, 1, 0))
        labels.append(raw_of[mask].T)
    _save_hdf5(root / "nyu_depth_v2_labeled.mat", {"images": np.stack(images), "labels": np.stack(labels)}, {})
    train, test = np.array([[2], [3], [6]], np.uint16), np.array([[1], [4], [5]], np.uint16)
    _save_mat(root / "splits.mat", {"trainNdxs": train, "testNdxs": test})
    return root


def fake_sunrgbd(root: Path, *, seed: int = 0) -> Path:
    """SUN RGB-D with extracted labels: images and labels in ``SPLIT`` folders, labels 0..37; returns ``root``."""
    rng = np.random.default_rng(seed)
    for split in ("train", "test"):
        for number in (1, 2, 3):
            image, mask = _scene(rng, "sunrgbd")
            _save(root / "images" / split / f"img-{number:06d}.jpg", image)
            _save(root / "labels" / split / f"img-{number:06d}.png", _from_one(mask))
    return root


def fake_sunrgbd_toolbox(root: Path, *, seed: int = 0) -> Path:
    """SUN RGB-D as published: ``SUNRGBD`` and ``SUNRGBDtoolbox`` with three scenes per split; returns ``root``.

    Raises:
        MissingExtraError: h5py or scipy is not installed.
    """
    rng = np.random.default_rng(seed)
    scenes = [f"kv{1 + number % 2}/set{number % 2}/scene{number}" for number in range(6)]
    masks = []
    for scene in scenes:
        image, mask = _scene(rng, "sunrgbd")
        _save(root / "SUNRGBD" / scene / "image" / f"{Path(scene).name}.jpg", image)
        masks.append(_from_one(mask).T)
    toolbox = root / "SUNRGBDtoolbox"
    _save_hdf5(toolbox / "Metadata" / "SUNRGBD2Dseg.mat", {}, {"SUNRGBD2Dseg/seglabel": masks})
    rows = np.empty((1, len(scenes)), [("rgbpath", object), ("rgbname", object)])
    for index, scene in enumerate(scenes):
        name = f"{Path(scene).name}.jpg"
        rows[0, index] = (f"{_SUN_PREFIX}/{scene}/image/{name}", name)
    _save_mat(toolbox / "Metadata" / "SUNRGBDMeta.mat", {"SUNRGBDMeta": rows})
    split_list = {}
    for variable, numbers in (("alltrain", (4, 1, 5)), ("alltest", (0, 2, 3))):
        split_list[variable] = np.array([f"{_SUN_PREFIX}/{scenes[number]}" for number in numbers], object)[None]
    _save_mat(toolbox / "traintestSUNRGBD" / "allsplit.mat", split_list)
    return root


def fake_ade20k(root: Path, *, seed: int = 0) -> Path:
    """ADE20K as in the challenge: ``ADEChallengeData2016`` and ``release_test``; labels 0..150; returns ``root``."""
    rng = np.random.default_rng(seed)
    top = root / "ADEChallengeData2016"
    for split, short in (("training", "train"), ("validation", "val")):
        for number in (1, 2, 3):
            image, mask = _scene(rng, "ade20k")
            name = f"ADE_{short}_{number:08d}"
            _save(top / "images" / split / f"{name}.jpg", image)
            _save(top / "annotations" / split / f"{name}.png", _from_one(mask))
    for number in (1, 2, 3):
        _save(root / "release_test" / "testing" / f"ADE_test_{number:08d}.jpg", _scene(rng, "ade20k")[0])
    return root


def fake_ade20k_full(root: Path, *, seed: int = 0) -> Path:
    """The full ADE20K as in 2021: ``ADE20K_2021_17_01/images/ADE/SPLIT/.../*_seg.png``; returns ``root``."""
    rng = np.random.default_rng(seed)
    number_of = np.zeros(256, np.uint16)
    for number, label in packaged_table("class_tables", "ade20k_full_ids")["labels"].items():
        number_of[label - 1] = int(number)
    for split, short in (("training", "train"), ("validation", "val")):
        for index, scene in enumerate(("urban/street", "home_or_hotel/bedroom", "home_or_hotel/kitchen"), start=1):
            image, mask = _scene(rng, "ade20k")
            folder = root / "ADE20K_2021_17_01" / "images" / "ADE" / split / scene
            name = f"ADE_{short}_{index:08d}"
            numbers = number_of[mask]
            coded = np.stack([numbers // 256 * 10, numbers % 256, np.full_like(numbers, index)], axis=2)
            _save(folder / f"{name}.jpg", image)
            _save(folder / f"{name}_seg.png", coded.astype(np.uint8))
            _save(folder / name / f"instance_000_{name}.png", np.zeros(SIZE_HW, np.uint8))
    return root


def fake_cityscapes(root: Path, *, seed: int = 0) -> Path:
    """Cityscapes: ``leftImg8bit``, ``gtFine`` (dummies for test) and ``gtCoarse``, label ids; returns ``root``."""
    rng = np.random.default_rng(seed)
    cities = {
        "train": ("aachen", "aachen", "bochum"),
        "val": ("frankfurt", "frankfurt", "munster"),
        "test": ("berlin", "berlin", "bonn"),
        "train_extra": ("augsburg", "bayreuth", "bayreuth"),
    }
    for split, names in cities.items():
        for frame, city in enumerate(names):
            stem = f"{city}_{frame:06d}_000019"
            image, mask = _scene(rng, "cityscapes")
            ids = to_label_ids(mask)
            ids[mask == _VOID] = (4, 9, 29)[frame]  # static, parking, caravan: three of the ids that are void
            kind = "gtCoarse" if split == "train_extra" else "gtFine"
            _save(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png", image)
            ids = np.zeros_like(ids) if split == "test" else ids
            _save(root / kind / split / city / f"{stem}_{kind}_labelIds.png", ids)
            _save(root / kind / split / city / f"{stem}_{kind}_instanceIds.png", ids.astype(np.uint16))
    return root


def fake_idd_lite(root: Path, *, seed: int = 0) -> Path:
    """IDD-Lite: ``leftImg8bit/SPLIT/DRIVE/FRAME_image.jpg``, ``gtFine/.../FRAME_label.png``; returns ``root``."""
    rng = np.random.default_rng(seed)
    for split in ("train", "val", "test"):
        for drive, frame in (("0", "024541"), ("0", "024703"), ("12", "024541")):
            image, mask = _scene(rng, "idd_lite")
            _save(root / "leftImg8bit" / split / drive / f"{frame}_image.jpg", image)
            if split != "test":
                _save(root / "gtFine" / split / drive / f"{frame}_label.png", mask.astype(np.uint8))
    return root


def fake_camvid(root: Path, *, seed: int = 0) -> Path:
    """CamVid in SegNet's layout: ``SPLIT``, ``SPLITannot`` and ``SPLIT.txt``, labels 0..11; returns ``root``."""
    rng = np.random.default_rng(seed)
    for split, names in packaged_table("split_lists", "camvid").items():
        if split == "source":
            continue
        lines = []
        for name in names[:3]:
            image, mask = _scene(rng, "camvid")
            _save(root / split / f"{name}.png", image)
            _save(root / f"{split}annot" / f"{name}.png", np.where(mask == _VOID, np.uint8(11), mask))
            lines.append(f"/SegNet/CamVid/{split}/{name}.png /SegNet/CamVid/{split}annot/{name}.png\n")
        (root / f"{split}.txt").write_text("".join(lines), encoding="utf-8")
    return root


def fake_camvid_published(root: Path, *, seed: int = 0) -> Path:
    """CamVid as published, all 701 names: ``701_StillsRaw_full`` and ``LabeledApproved_full``; returns ``root``.

    The published list of colours is there, too. The names repeat six scenes.
    """
    rng = np.random.default_rng(seed)
    table = packaged_table("class_tables", "camvid_32")
    members = [
        [table["colours"][name] for name, group in table["groups"].items() if group == wanted]
        for wanted in (*catalog_classes("camvid").names, "void")
    ]
    scenes = []
    for index in range(6):
        image, mask = _scene(rng, "camvid")
        colours = np.array([of_class[index % len(of_class)] for of_class in members], np.uint8)
        scenes.append((image, colours[np.where(mask == _VOID, 11, mask)]))
    names = packaged_table("split_lists", "camvid")
    for index, name in enumerate((*names["train"], *names["val"], *names["test"])):
        image, coloured = scenes[index % len(scenes)]
        _save(root / "701_StillsRaw_full" / f"{name}.png", image)
        _save(root / "LabeledApproved_full" / f"{name}_L.png", coloured)
    lines = [f"{red} {green} {blue}\t{name}\n" for name, (red, green, blue) in table["colours"].items()]
    (root / "label_colors.txt").write_text("".join(lines), encoding="utf-8")
    return root
