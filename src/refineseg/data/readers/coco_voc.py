"""COCO with the classes of VOC, to train on before VOC.

In: COCO's ``instances_*.json`` and images (Lin et al., ECCV 2014). Out: samples of VOC's 21 classes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from refineseg.data.own.outlines import painted
from refineseg.data.readers.pascal_layout import Archive, find_folder, names_in
from refineseg.data.samples.catalog import catalog_classes
from refineseg.data.samples.json_files import json_elements
from refineseg.data.samples.sources import SourceDataset
from refineseg.errors import DatasetError
from refineseg.files.run_lengths import rle_tools
from refineseg.files.special import refuse_special
from refineseg.images.decoding import most_pixels
from refineseg.images.files import first_names, read_image_size, read_rgb

SPLITS = ("train", "val", "train2014", "val2014", "train2017", "val2017")
CATEGORIES = {
    **{5: "airplane", 2: "bicycle", 16: "bird", 9: "boat", 44: "bottle", 6: "bus", 3: "car", 17: "cat", 62: "chair"},
    **{21: "cow", 67: "dining table", 18: "dog", 19: "horse", 4: "motorcycle", 1: "person", 64: "potted plant"},
    **{20: "sheep", 63: "couch", 7: "train", 72: "tv"},
}
"""COCO's category ids and names, in the order of VOC's classes 1..20."""

FEWEST_PIXELS = 1000
"""Images with fewer pixels of the 20 classes are left out."""

_CLASS_OF = {category: index for index, category in enumerate(CATEGORIES, start=1)}
_VOID = 255
_COCO = Archive(
    "COCO",
    "annotations/instances_SPLIT.json and the images in SPLIT (SPLIT: train2017, ...)",
    "annotations_trainval2017.zip and train2017.zip (or those of 2014 or of val) of https://cocodataset.org/#download",
)


@dataclass(frozen=True)
class CocoImage:
    """An image and the annotations of VOC's classes on it.

    Args:
        path: The JPEG.
        size_hw: Height and width, from the JSON.
        annotations: A JSON list, as it stands in the file: several times smaller than Python's objects, which are made
            when the image is read.
    """

    path: Path
    size_hw: tuple[int, int]
    annotations: str


@dataclass(frozen=True)
class CocoMasks:
    """Reads images and paints masks; for :class:`~refineseg.data.samples.sources.SourceDataset`.

    Args:
        images: One per sample.
    """

    images: tuple[CocoImage, ...]

    def image(self, index: int) -> NDArray[np.uint8]:
        """``(H, W, 3)`` uint8 RGB; grey photographs become RGB."""
        return read_rgb(self.images[index].path)

    def image_file(self, index: int) -> Path | None:
        """The file of the image."""
        return self.images[index].path

    def image_hw(self, index: int) -> tuple[int, int]:
        """Height and width from the image's header."""
        return read_image_size(self.images[index].path)

    def mask(self, index: int) -> NDArray[np.uint8]:
        """``(H, W)`` classes 0..20; 255 where two objects overlap and in crowds.

        Raises:
            DatasetError: An annotation that is no polygon or run-length code of the image's size.
        """
        image = self.images[index]
        mask = np.zeros(image.size_hw, np.uint8)
        covered = np.zeros(image.size_hw, np.bool_)
        void = np.zeros(image.size_hw, np.bool_)
        for annotation in json.loads(image.annotations):
            try:
                inside = painted(annotation["segmentation"], image.size_hw)
            except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
                raise DatasetError(
                    f"{image.path.name}: expected polygons or run lengths for {image.size_hw[0]}x{image.size_hw[1]} "
                    f"pixels (height x width) in annotation {annotation.get('id')}, got others ({error}); "
                    "download the annotations again"
                ) from error
            mask[inside] = _CLASS_OF[annotation["category_id"]]
            void = void | (inside if annotation.get("iscrowd") else inside & covered)
            covered = covered | inside
        mask[void] = _VOID
        return mask


@dataclass(frozen=True)
class _Found:
    """What a JSON file holds of VOC's classes: image id -> texts of annotations, and pixels outside crowds."""

    images: list[tuple[int, str, tuple[int, int]]]
    annotations: dict[int, list[str]]
    pixels: dict[int, float]
    categories: dict[int, str]


def _read(path: Path) -> _Found:
    found = _Found([], {}, {}, {})
    try:
        refuse_special(path)
        for key, value, text in json_elements(path.read_text(encoding="utf-8")):
            if key == "images":
                name, size_hw = value["file_name"], (int(value["height"]), int(value["width"]))
                if not isinstance(name, str) or min(size_hw) < 1 or size_hw[0] * size_hw[1] > most_pixels():
                    raise ValueError(f"{name!r:.80} of {size_hw[0]}x{size_hw[1]} pixels")
                found.images.append((value["id"], name, size_hw))
            elif key == "categories":
                found.categories[value["id"]] = value["name"]
            elif key == "annotations" and value["category_id"] in _CLASS_OF:
                image = value["image_id"]
                found.annotations.setdefault(image, []).append(text)
                area = 0 if value.get("iscrowd") else value["area"]
                found.pixels[image] = found.pixels.get(image, 0.0) + area
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DatasetError(
            f"expected COCO's instances with images, annotations and categories in {path}, got {error!r:.200}; "
            "download the annotations again"
        ) from error
    return found


def open_coco_voc(root: Path, split: str) -> SourceDataset:
    """COCO's instances as masks of VOC's 21 classes.

    ``ROOT/annotations/instances_SPLIT.json`` and ``ROOT/SPLIT/*.jpg`` or ``ROOT/images/SPLIT/*.jpg``, of 2014 or 2017.

    * 20 of COCO's categories become VOC's classes, by category id; all others are background.
    * Void (255) where two objects overlap, and in crowds.
    * Images with fewer than 1000 pixels of the 20 classes are left out, by the ``area`` of the annotations (crowds do
      not count, overlaps count twice), because painting all masks of 118287 images would take long.

    The JSON is read once, entry by entry: about 50 ms and, for that time, one megabyte of memory for each of its
    megabytes (``train2017`` has 450); what stays is the text of the annotations of the 20 classes.

    Args:
        root: The folder with ``annotations``.
        split: ``train2014``, ``val2014``, ``train2017`` or ``val2017``; ``train`` or ``val`` where only one year is
            there.

    Raises:
        DatasetError: No such split or files, another JSON, or other category ids than COCO's.
        MissingExtraError: pycocotools is not installed.
    """
    if split not in SPLITS:
        raise DatasetError(f"expected a COCO split of {', '.join(SPLITS)}, got {split!r}; join splits with '+'")
    rle_tools()  # to miss it now and not at the first sample
    listing, split = _instances(root, split)
    folder = find_folder(root, (split, f"images/{split}"), holding=(".",), archive=_COCO)
    found = _read(listing)
    wrong = [f"{i} {found.categories.get(i)}" for i, name in CATEGORIES.items() if found.categories.get(i) != name]
    if wrong:
        raise DatasetError(
            f"expected COCO's categories in {listing} (1 person, 2 bicycle, ...), got {len(wrong)} others: "
            f"{first_names(wrong)}; this data set is COCO's own instances only"
        )
    images = tuple(
        CocoImage(folder / Path(name).name, size_hw, f"[{','.join(found.annotations[image])}]")
        for image, name, size_hw in found.images
        if found.pixels.get(image, 0.0) >= FEWEST_PIXELS
    )
    if not images:
        raise DatasetError(f"expected images with {FEWEST_PIXELS} pixels of VOC's classes in {listing}, got none")
    have = names_in(folder)
    absent = [image.path.name for image in images if image.path.name not in have]
    if absent:
        raise DatasetError(
            f"expected the {len(images)} images of {listing} in {folder}, but {len(absent)} are absent: "
            f"{first_names(absent)}; unpack {_COCO.download} completely"
        )
    dropped = len(found.images) - len(images)
    note = f"{split}: {dropped} of {len(found.images)} images have fewer than {FEWEST_PIXELS} pixels of VOC's classes"
    names = tuple(image.path.stem for image in images)
    return SourceDataset(names, CocoMasks(images), catalog_classes("voc"), (note,) if dropped else ())


def _instances(root: Path, split: str) -> tuple[Path, str]:
    """The JSON of a split, and the split with its year."""
    folder = root / "annotations"
    wanted = [split] if split[-1].isdigit() else [f"{split}2014", f"{split}2017"]
    there = [name for name in wanted if (folder / f"instances_{name}.json").is_file()]
    if not there:
        files = " or ".join(f"instances_{name}.json" for name in wanted)
        raise DatasetError(
            f"expected {_COCO.title} in {root}: {_COCO.layout}; got no {files} in {folder}; give the folder that holds "
            f"annotations, or unpack {_COCO.download}"
        )
    if len(there) > 1:
        raise DatasetError(
            f"expected one year of COCO in {root}, got {' and '.join(there)}, which share images; name one of them"
        )
    return folder / f"instances_{there[0]}.json", there[0]
