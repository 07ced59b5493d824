"""The data sets by name, and ``open_dataset``."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from refineseg.data.own.formats import FORMATS, open_as, open_own, own_splits, root_endings, splits_as
from refineseg.data.readers.ade20k import open_ade20k
from refineseg.data.readers.camvid import drive_of, open_camvid
from refineseg.data.readers.cityscapes import open_cityscapes
from refineseg.data.readers.coco_voc import open_coco_voc
from refineseg.data.readers.idd_lite import open_idd_lite
from refineseg.data.readers.nyud import open_nyud
from refineseg.data.readers.pascal_context import open_pascal_context
from refineseg.data.readers.person_part import open_person_part
from refineseg.data.readers.sbd import open_sbd
from refineseg.data.readers.sunrgbd import open_sunrgbd
from refineseg.data.readers.voc import open_voc
from refineseg.data.samples.given import GIVEN, GivenData
from refineseg.data.samples.sample import Concatenation, Dataset
from refineseg.data.storage.remote import open_root
from refineseg.data.storage.shards import is_sharded, open_shards, shard_splits, sharded_data
from refineseg.errors import ConfigError, DatasetError
from refineseg.files.archives import is_file, is_folder
from refineseg.images.files import IMAGE_SUFFIXES
from refineseg.terminal.arguments import hint, near_files

_FLICKR = "images from Flickr, under its terms of use"


@dataclass(frozen=True)
class DatasetEntry:
    """A data set by name.

    Args:
        open: Root folder and split -> the samples.
        summary: One line for ``refineseg datasets``.
        licence: What models trained on it inherit; empty: nothing.
        splits: Root -> the splits there, where every root may have others.
        required_splits: Splits that the doctor expects.
        optional_splits: Splits that it looks at where they are; unions of others are left out.
        files: Endings of files that may be given instead of a folder.
        ids: Whose ids the samples' names are: equal names of such data sets are one image. Empty: names hold for their
            split alone.
        part_of: Name of a sample -> the part of the data set it belongs to, for numbers by part; None: no parts.
    """

    open: Callable[[Path, str], Dataset]
    summary: str
    licence: str = ""
    splits: Callable[[Path], tuple[str, ...]] | None = None
    required_splits: tuple[str, ...] = ("train", "val")
    optional_splits: tuple[str, ...] = ("test",)
    files: tuple[str, ...] = ()
    ids: str = ""
    part_of: Callable[[str], str] | None = None


DATASETS: dict[str, DatasetEntry] = {
    "voc": DatasetEntry(
        open_voc,
        "PASCAL VOC 2012, 21 classes: VOCdevkit/VOC2012; splits also train_aug",
        licence=f"VOC: {_FLICKR}",
        ids="voc",
    ),
    "sbd": DatasetEntry(
        open_sbd,
        "SBD, VOC's classes on 11355 images: benchmark_RELEASE/dataset; splits also train_noval, all",
        licence=f"SBD: {_FLICKR}",
        ids="voc",
        optional_splits=(),
    ),
    "coco_voc": DatasetEntry(
        open_coco_voc,
        "COCO with VOC's classes: annotations/instances_*.json, train2017, ...",
        licence=f"COCO: annotations CC BY 4.0, {_FLICKR}",
        ids="coco",
        optional_splits=(),
    ),
    "person_part": DatasetEntry(
        open_person_part,
        "PASCAL Person-Part, 7 classes: VOCdevkit/VOC2010 with SegmentationPart or Annotations_Part",
        licence=f"PASCAL Person-Part: {_FLICKR}",
        ids="voc",
    ),
    "pascal_context": DatasetEntry(
        open_pascal_context,
        "PASCAL-Context, 60 classes: VOCdevkit/VOC2010 with trainval/*.mat or PNG masks",
        licence=f"PASCAL-Context: {_FLICKR}",
        ids="voc",
    ),
    "pascal_context_59": DatasetEntry(
        partial(open_pascal_context, background=255),
        "the same without background, which becomes void",
        licence=f"PASCAL-Context: {_FLICKR}",
        ids="voc",
    ),
    "pascal_context_alphabetical": DatasetEntry(
        partial(open_pascal_context, order="alphabetical"),
        "pascal_context from PNG masks whose ids are alphabetical (mmsegmentation, PaddleSeg)",
        licence=f"PASCAL-Context: {_FLICKR}",
        ids="voc",
    ),
    "pascal_context_refinenet": DatasetEntry(
        partial(open_pascal_context, order="refinenet"),
        "pascal_context from PNG masks whose ids begin with VOC's classes (RefineNet)",
        licence=f"PASCAL-Context: {_FLICKR}",
        ids="voc",
    ),
    "nyud": DatasetEntry(
        open_nyud,
        "NYU Depth V2, 40 classes, 625x468: nyu_depth_v2_labeled.mat, or train.nyu and val.nyu with images",
        licence="NYU Depth V2 states no licence: research use",
        ids="nyud",
        required_splits=("train", "test"),
        optional_splits=(),
    ),
    "sunrgbd": DatasetEntry(
        open_sunrgbd,
        "SUN RGB-D, 37 classes: images/SPLIT + labels/SPLIT, or SUNRGBD with SUNRGBDtoolbox",
        licence="SUN RGB-D states no licence: research use",
        required_splits=("train", "test"),
        optional_splits=(),
    ),
    "ade20k": DatasetEntry(
        open_ade20k,
        "ADE20K, 150 classes: ADEChallengeData2016, or the full release (images with *_seg.png)",
        licence="ADE20K terms of use: images for non-commercial research and education only",
        ids="ade20k",
    ),
    "cityscapes": DatasetEntry(
        open_cityscapes,
        "Cityscapes, 19 classes, 2048x1024: leftImg8bit with gtFine (or gtCoarse)",
        licence="Cityscapes licence agreement: non-commercial use only",
        ids="cityscapes",
    ),
    "camvid": DatasetEntry(
        open_camvid,
        "CamVid, 11 classes: SegNet's copy at 480x360 (train.txt, train/, trainannot/, ...), or as published",
        licence="CC BY-NC 4.0 (from the CamVid data): personal and research use only",
        ids="camvid",
        part_of=drive_of,
        required_splits=("train", "val", "test"),
        optional_splits=(),
    ),
    "idd_lite": DatasetEntry(
        open_idd_lite,
        "IDD-Lite, 7 classes, 320x227: leftImg8bit with gtFine",
        licence="IDD's terms of use: research and education only",
        ids="idd",
    ),
    "folder": DatasetEntry(
        open_own,
        "your own in any form below, recognised: images/SPLIT + masks/SPLIT with classes.json, or an annotation "
        "program's files; a folder, .zip, list or annotation file",
        splits=own_splits,
        files=root_endings("folder"),
    ),
    **{
        name: DatasetEntry(open_as(name), f"your own: {own.layout}", splits=splits_as(name), files=root_endings(name))
        for name, own in FORMATS.items()
        if name != "masks"
    },
    "shards": DatasetEntry(
        open_shards, "any of these as tar files, written by `refineseg shard`; read under its own name, too"
    ),
}
"""Every data set; the keys are what stands before the colon in ``--data NAME:ROOT``."""

Root = Path | GivenData
"""Where the samples of a name come from: a folder or file, or the objects of a program."""


def licence_of(name: str) -> str:
    """What models trained on a data set inherit; empty: nothing, or the data were given by a program."""
    return "" if name == GIVEN else DATASETS[name].licence


def ids_of(name: str) -> str:
    """Whose ids the names of samples are, see :class:`DatasetEntry`; empty where a program gave the data."""
    return "" if name == GIVEN else DATASETS[name].ids


def parse_data(data: str) -> tuple[str, Path]:
    """``NAME:ROOT`` -> name and root, split at the first colon; of shards the name of what they were made from.

    Raises:
        ConfigError: No colon, an unknown name, or several data sets where one is taken.
        DatasetError: The root is no folder, nor a file that may stand for one.
    """
    if len(_joined(data)) > 1:
        raise ConfigError(f"expected one data set here, got {' and '.join(_joined(data))}; run this for each of them")
    name, colon, root = data.partition(":")
    if not colon or name not in DATASETS:
        raise ConfigError(f"expected NAME:ROOT, for instance folder:my_pictures, got {data!r}; {_meant(data)}")
    if not root:
        raise ConfigError(f"expected a folder after {name}:, got none; {name}:. is the current folder")
    path, files = open_root(root), DATASETS[name].files
    if not path.is_dir() and not (files and (is_folder(path) or (path.suffix.lower() in files and is_file(path)))):
        allowed = f" or a file {', '.join(files)}" if files else ""
        todo = "; unpack it and name its folder" if path.suffix.lower() == ".zip" else "; name the folder that holds it"
        todo = todo if path.exists() else near_files(path)
        raise DatasetError(f"expected a folder{allowed} after {name}:, got {root!r}, which is {_what(path)}{todo}")
    if name == "shards" or is_sharded(path):
        source = sharded_data(path)
        if name not in ("shards", source) or source not in DATASETS:
            raise DatasetError(f"expected shards of {name} in {path}, got those of {source}; say {source}:{path}")
        return source, path
    return name, path


def _meant(data: str) -> str:
    """What was probably meant by something that is not ``NAME:ROOT`` with a known name."""
    name, colon, root = data.partition(":")
    if data and (is_folder(Path(data)) or is_file(Path(data))):
        return f"for your own images say folder:{data}"
    if not colon and name in DATASETS:
        return f"say where it lies: {name}:FOLDER"
    if colon and root.startswith("//"):
        return f"say what lies there: folder:{data}"
    return hint(name, DATASETS, listed="`refineseg datasets` lists the names")


def data_splits(name: str, root: Root) -> tuple[str, ...] | None:
    """The splits of a root, where every root may have others; None where they are those of the data set."""
    if isinstance(root, GivenData):
        return tuple(root.splits)
    if is_sharded(root):
        return shard_splits(root)
    splits = DATASETS[name].splits
    return None if splits is None else splits(root)


def _joined(data: str) -> list[str]:
    """The parts of ``NAME:ROOT+NAME:ROOT``; a plus sign in a folder's name is none between parts."""
    names = "|".join(map(re.escape, DATASETS))
    return re.split(rf"\+(?=(?:{names}):)", data)


def parse_sources(data: str | GivenData) -> dict[str, Root]:
    """``NAME:ROOT+NAME:ROOT...`` -> root of each name, in order; what a program gave has one name.

    Raises:
        ConfigError: Not of this form, an unknown name, or one name twice.
        DatasetError: A root is no folder.
    """
    if isinstance(data, GivenData):
        return {GIVEN: data}
    sources: dict[str, Root] = {}
    for part in _joined(data):
        name, root = parse_data(part)
        if name in sources:
            raise ConfigError(f"expected every data set once, got {name} twice in {data!r}; join their folders")
        sources[name] = root
    return sources


def open_sources(data: str | GivenData, *, split: str) -> Dataset:
    """Open ``NAME:ROOT``, or several joined by ``+`` one after the other, each at the same split.

    Raises:
        ConfigError: As :func:`parse_sources`.
        DatasetError: A missing folder, split or file, or classes that differ.
    """
    parts = [open_dataset(name, root, split=split) for name, root in parse_sources(data).items()]
    return parts[0] if len(parts) == 1 else Concatenation(parts)


def check_apart(option: str, folder: Path, data: str | GivenData) -> None:
    """Whether results would lie among the images of a data set, where the pictures in them would become its images.

    Args:
        option: Option that names the folder, for the message.
        folder: Folder of the results.
        data: Data sets, as :func:`parse_sources` takes them.

    Raises:
        ConfigError: The folder lies below a root, in a folder that holds images.
    """
    place = folder.resolve().parent
    for root in parse_sources(data).values():
        if isinstance(root, Path) and root.resolve() in place.parents and place.is_dir():
            beside = next((path for path in place.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES), None)
            if beside is not None:
                raise ConfigError(
                    f"expected {option} apart from the images of {root}, got {folder}, which lies beside "
                    f"{beside.name}: its own pictures would become images of the data; name a folder elsewhere"
                )


def _what(path: Path) -> str:
    return "a file" if path.is_file() else "not there"


def open_dataset(name: str, root: str | Root, *, split: str) -> Dataset:
    """Open a data set as it lies on disk.

    Args:
        name: A key of :data:`DATASETS`.
        root: Its folder, which may be remote (``s3://bucket/prefix``) or hold shards; for your own data
            also a zip file, a list or an annotation file. Or what a program gave.
        split: Name of a split, for instance ``val``; ``train+val`` joins splits.

    Raises:
        ConfigError: An unknown name, or a split twice.
        DatasetError: A missing folder, split or file.
    """
    if isinstance(root, GivenData):
        return root.open(split)
    name, path = parse_data(f"{name}:{root}")
    opened, splits = open_shards if is_sharded(path) else DATASETS[name].open, split.split("+")
    if len(set(splits)) < len(splits):
        raise ConfigError(f"expected every split once, got {split!r}; its images would count twice")
    parts = [opened(path, part) for part in splits]
    return parts[0] if len(parts) == 1 else Concatenation(parts)
