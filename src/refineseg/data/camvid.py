"""CamVid: street scenes from a driving car, 480x360, 11 classes (Brostow et al. 2008), in the copy of SegNet."""

from __future__ import annotations

from pathlib import Path

from refineseg.catalog import catalog_classes
from refineseg.class_info import LabelTable
from refineseg.data.sample import FilePair, PairDataset
from refineseg.errors import DatasetError
from refineseg.images import first_names

SPLITS = ("train", "val", "test")
_SEGNET_VOID = 11


def open_camvid(root: Path, split: str) -> PairDataset:
    """One split of CamVid.

    Two layouts are read as they lie:

    * SegNet's copy: ``ROOT/{train,val,test}/*.png``, ``ROOT/{train,val,test}annot/*.png`` with labels 0..10 and void
      11, and ``ROOT/{train,val,test}.txt`` with an image and a label path per line (whatever folder they start with;
      only the last two parts count).
    * The compact copy: ``ROOT/{train,val,test}.txt`` with ``images/SPLIT/NAME<TAB>labels/SPLIT/NAME.png`` relative to
      ROOT, labels 0..10 and void 255; for ``test``, images of the same name in ``ROOT/test-lossless`` are read instead
      where that folder is.

    Args:
        root: The folder with the lists.
        split: ``train`` (367 images), ``val`` (101) or ``test`` (233).

    Raises:
        DatasetError: No such split, list or files.
    """
    if split not in SPLITS:
        raise DatasetError(f"expected a CamVid split of {', '.join(SPLITS)}, got {split!r}; join splits with '+'")
    listing = root / f"{split}.txt"
    if not listing.is_file():
        raise DatasetError(
            f"expected CamVid in {root}, but there is no {listing.name}; "
            "give the folder that holds train.txt, val.txt and test.txt (SegNet's CamVid copy)"
        )
    lines = [line.split() for line in listing.read_text(encoding="utf-8").splitlines() if line.strip()]
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
    absent = [p.relative_to(root) for pair in pairs for p in (pair.image, pair.mask) if p and not p.is_file()]
    if absent:
        raise DatasetError(
            f"expected the files named in {listing}, but {len(absent)} are absent: {first_names(absent)}; "
            "unpack the copy again"
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


def _inside(entry: str, segnet: bool) -> Path:
    """A list entry relative to the root: SegNet's lists carry the folder of their authors' machine."""
    path = Path(entry)
    return Path(*path.parts[-2:]) if segnet else path
