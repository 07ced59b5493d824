"""A folder of real photographs in which every kind of fault is planted once, beside healthy pairs."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data as photographs
from sklearn.datasets import load_sample_images

CLASSES = (("ground", (10, 20, 30)), ("sky", (120, 180, 240)), ("thing", (200, 30, 30)))
PALETTE = np.array([colour for _, colour in CLASSES], np.uint8)
HW = (72, 96)


@dataclass
class Planted:
    """What was planted: fault -> the file that must be named, and the healthy pair it was made from."""

    root: Path
    kinds: dict[str, str] = field(default_factory=dict)
    originals: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    healthy: list[str] = field(default_factory=list)


def pair(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A piece of a photograph and a mask of three classes along its brightness; every number another."""
    sources = [photographs.astronaut(), photographs.coffee(), photographs.chelsea(), photographs.rocket()]
    sources += list(load_sample_images().images)
    photo = sources[number % len(sources)]
    rng = np.random.default_rng(number)
    top = int(rng.integers(0, photo.shape[0] - 2 * HW[0]))
    left = int(rng.integers(0, photo.shape[1] - 2 * HW[1]))
    image = np.ascontiguousarray(photo[top : top + 2 * HW[0] : 2, left : left + 2 * HW[1] : 2])
    order = image.sum(axis=2, dtype=np.int64).ravel().argsort(kind="stable")
    mask = np.zeros(HW[0] * HW[1], np.uint8)
    mask[order[len(order) // 2 :]] = 1
    mask[order[5 * len(order) // 6 :]] = 2
    mask = mask.reshape(HW)
    mask[:2] = 255
    return image, mask


def save(path: Path, pixels: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def plant(root: Path, *, classes: bool = True) -> Planted:
    """Write the folder."""
    planted = Planted(root)
    for i in range(8):
        split = "train" if i < 6 else "val"
        name = f"{split}/good{'abcdefgh'[i]}"
        planted.healthy.append(name)
        put(root, name, *pair(i))
    if classes:
        listed = [{"id": i, "name": name, "color": list(colour)} for i, (name, colour) in enumerate(CLASSES)]
        (root / "classes.json").write_text(json.dumps({"ignore_index": 255, "classes": listed}))
    for number, (kind, make) in enumerate(MAKERS.items(), start=20):
        image, mask = pair(number)
        name = f"train/bad-{kind.replace('_', '-')}"
        planted.originals[name] = (image, mask)
        planted.kinds[kind] = make(root, name, image, mask)
    return planted


def put(root: Path, name: str, image: np.ndarray, mask: np.ndarray) -> tuple[Path, Path]:
    return save(root / "images" / f"{name}.png", image), save(root / "masks" / f"{name}.png", mask)


def _unreadable_image(root, name, image, mask):
    path, _ = put(root, name, image, mask)
    path.write_bytes(path.read_bytes()[:2000])
    return f"images/{name}.png"


def _unreadable_mask(root, name, image, mask):
    _, path = put(root, name, image, mask)
    path.write_bytes(b"")
    return f"masks/{name}.png"


def _several_pictures(root, name, image, mask):
    put(root, name, image, mask)
    (root / "images" / f"{name}.png").unlink()
    pages = [Image.fromarray(image[::-1])]
    save(root / "images" / f"{name}.tif", image, save_all=True, append_images=pages)
    return f"images/{name}.tif"


def _missing_mask(root, name, image, mask):
    save(root / "images" / f"{name}.png", image)
    return f"images/{name}.png"


def _missing_image(root, name, image, mask):
    save(root / "masks" / f"{name}.png", mask)
    return f"masks/{name}.png"


def _ambiguous_name(root, name, image, mask):
    put(root, name, image, mask)
    save(root / "images" / f"{name}.bmp", image)
    return f"images/{name}.bmp"


def _size_mismatch(root, name, image, mask):
    put(root, name, image, mask[::2, ::2])
    return f"masks/{name}.png"


def _rotated_image(root, name, image, mask):
    """Stored lying, shown upright by EXIF; the mask was drawn on the stored pixels."""
    exif = Image.Exif()
    exif[0x0112] = 6
    save(root / "images" / f"{name}.png", np.rot90(image), exif=exif)
    save(root / "masks" / f"{name}.png", np.rot90(mask))
    return f"images/{name}.png"


def _jpeg_mask(root, name, image, mask):
    save(root / "images" / f"{name}.png", image)
    save(root / "masks" / f"{name}.jpg", mask)
    return f"masks/{name}.jpg"


def _rgb_mask(root, name, image, mask):
    mask[mask == 255] = 0
    put(root, name, image, PALETTE[mask])
    return f"masks/{name}.png"


def _palette_mask(root, name, image, mask):
    mask[mask == 255] = 0
    save(root / "images" / f"{name}.png", image)
    file = Image.fromarray(np.array([2, 0, 1], np.uint8)[mask])  # class 0 became number 2, and so on
    file.putpalette(PALETTE[[1, 2, 0]].ravel().tolist())
    file.save(root / "masks" / f"{name}.png")
    return f"masks/{name}.png"


def _binary_mask(root, name, image, mask):
    put(root, name, image, np.where(mask == 1, 255, 0).astype(np.uint8))
    return f"masks/{name}.png"


def _off_by_one(root, name, image, mask):
    put(root, name, image, np.where(mask == 255, 255, mask + 1).astype(np.uint8))
    return f"masks/{name}.png"


def _unknown_values(root, name, image, mask):
    mask[40:44, 40:44] = 77
    put(root, name, image, mask)
    return f"masks/{name}.png"


def _unknown_colours(root, name, image, mask):
    rgb = PALETTE[np.where(mask == 255, 0, mask)]
    rgb[40:44, 40:44] = (1, 2, 3)
    put(root, name, image, rgb)
    return f"masks/{name}.png"


def _smoothed_mask(root, name, image, mask):
    put(root, name, image, image[..., 1])
    return f"masks/{name}.png"


def _void_mask(root, name, image, mask):
    put(root, name, image, np.full_like(mask, 255))
    return f"masks/{name}.png"


def _empty_mask(root, name, image, mask):
    put(root, name, image, np.zeros_like(mask))
    return f"masks/{name}.png"


def _sixteen_bit_image(root, name, image, mask):
    put(root, name, image[..., 0].astype(np.uint16) * 257, mask)
    return f"images/{name}.png"


def _duplicate_across_splits(root, name, image, mask):
    put(root, name, image, mask)
    put(root, name.replace("train/", "val/"), image, mask)
    return f"images/{name.replace('train/', 'val/')}.png"


def _duplicate_within_split(root, name, image, mask):
    put(root, name, image, mask)
    put(root, f"{name}-again", image, mask)
    return f"images/{name}-again.png"


def _near_duplicate_across_splits(root, name, image, mask):
    put(root, name, image, mask)
    copy = name.replace("train/", "val/")
    save(root / "images" / f"{copy}.jpg", image, quality=60)
    save(root / "masks" / f"{copy}.png", mask)
    return f"images/{copy}.jpg"


def _near_duplicate_within_split(root, name, image, mask):
    put(root, name, image, mask)
    put(root, f"{name}-brighter", (image * 0.9 + 20).astype(np.uint8), mask)
    return f"images/{name}-brighter.png"


def _sequence_across_splits(root, name, image, mask):
    for step in range(6):
        split = "train" if step < 4 else "val"
        put(root, f"{split}/bad-drive_{100 + 30 * step:06d}", *pair(100 + step))
    return "images/val/bad-drive_000220.png"


MAKERS = {
    name.removeprefix("_"): make
    for name, make in list(globals().items())
    if name.startswith("_") and callable(make) and getattr(make, "__module__", None) == __name__
}
