"""Tiny data sets of your own in every form that is read: the same drawn scenes as each program would export them.

In: an empty folder. Out: images and annotations, for tests and demonstrations without any of the programs.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fakes.coco import compressed, run_lengths

LABELS = ("tree", "car", "house")
"""The labels of the boxes; every scene has ``background`` too."""

_SIZE_HW = (36, 48)
_COLOURS = {"background": (0, 0, 0), "tree": (10, 120, 20), "car": (128, 0, 0), "house": (90, 90, 200)}


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels: rows ``top`` to ``bottom`` and columns ``left`` to ``right``, the ends excluded."""

    label: str
    top: int
    bottom: int
    left: int
    right: int


@dataclass(frozen=True)
class Scene:
    """An image with boxes, the larger ones first.

    Args:
        name: Without ending.
        image: ``(H, W, 3)`` uint8.
        boxes: What is on it.
    """

    name: str
    image: NDArray[np.uint8]
    boxes: tuple[Box, ...]

    def mask(self, names: Sequence[str] = ("background", *LABELS)) -> NDArray[np.uint8]:
        """The mask that every reader must give: small boxes on top of large ones.

        Args:
            names: The classes in order.
        """
        mask = np.zeros(self.image.shape[:2], np.uint8)
        for box in self.boxes:
            mask[box.top : box.bottom, box.left : box.right] = list(names).index(box.label)
        return mask


def scenes(count: int = 3, *, seed: int = 0) -> tuple[Scene, ...]:
    """Drawn scenes ``scene_0`` and so on, of three overlapping boxes each."""
    rng = np.random.default_rng(seed)
    found = []
    for index in range(count):
        top, left = (int(v) for v in rng.integers(0, 6, 2))
        boxes = (
            Box(LABELS[index % 3], top, top + 24, left, left + 30),
            Box(LABELS[(index + 1) % 3], top + 8, top + 20, left + 10, left + 40),
            Box(LABELS[(index + 2) % 3], top + 10, top + 14, left + 14, left + 20),
        )
        pixels = rng.normal(100, 10, (*_SIZE_HW, 3))
        for box in boxes:
            pixels[box.top : box.bottom, box.left : box.right] += np.array(_COLOURS[box.label]) / 2
        found.append(Scene(f"scene_{index}", pixels.clip(0, 255).astype(np.uint8), boxes))
    return tuple(found)


def _save(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def _write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def _corners(box: Box) -> list[tuple[int, int]]:
    return [(box.left, box.top), (box.right, box.top), (box.right, box.bottom), (box.left, box.bottom)]


def coco_json(found: Sequence[Scene], *, ending: str = ".jpg") -> dict[str, Any]:
    """COCO's JSON of some scenes: polygons, run lengths and their compressed form in turn, the small boxes first."""
    annotations: list[dict[str, Any]] = []
    for number, scene in enumerate(found, start=1):
        for kind, box in enumerate(reversed(scene.boxes)):
            inside = np.zeros(scene.image.shape[:2], np.uint8)
            inside[box.top : box.bottom, box.left : box.right] = 1
            counts = run_lengths(inside)
            polygon = [float(v) for corner in _corners(box) for v in corner]
            segmentation: Any = [polygon]
            if kind:
                segmentation = {"size": list(inside.shape), "counts": counts if kind == 1 else compressed(counts)}
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 10 * (LABELS.index(box.label) + 1),
                    "segmentation": segmentation,
                    "area": int(inside.sum()),
                    "bbox": [box.left, box.top, box.right - box.left, box.bottom - box.top],
                    "iscrowd": 0,
                }
            )
    height, width = _SIZE_HW
    return {
        "info": {"description": "drawn"},
        "licenses": [],
        "images": [
            {"id": i, "file_name": f"{scene.name}{ending}", "height": height, "width": width}
            for i, scene in enumerate(found, start=1)
        ],
        "annotations": annotations,
        "categories": [{"id": 10 * (i + 1), "name": name, "supercategory": "thing"} for i, name in enumerate(LABELS)][
            ::-1
        ],
    }


def fake_coco(root: Path) -> Path:
    """``annotations/instances_{train,val}.json`` with the images in ``train`` and ``val``."""
    for split, found in (("train", scenes()), ("val", scenes(2, seed=1))):
        for scene in found:
            _save(root / split / f"{scene.name}.png", scene.image)
        _write(root / "annotations" / f"instances_{split}.json", coco_json(found, ending=".png"))
    return root


def fake_roboflow(root: Path) -> Path:
    """Roboflow's COCO: ``{train,valid}/_annotations.coco.json`` beside the images, and a category for the project."""
    for split, found in (("train", scenes()), ("valid", scenes(2, seed=1))):
        content = coco_json(found, ending=".png")
        for category in content["categories"]:
            category["supercategory"] = "garden"
        content["categories"].insert(0, {"id": 0, "name": "garden", "supercategory": "none"})
        for scene in found:
            _save(root / split / f"{scene.name}.png", scene.image)
        _write(root / split / "_annotations.coco.json", content)
    return root


def fake_labelme(root: Path) -> Path:
    """labelme: ``scene_0.json`` beside ``scene_0.png``; rectangles, and polygons with edges included."""
    for scene in scenes():
        _save(root / f"{scene.name}.png", scene.image)
        shapes: list[dict[str, Any]] = []
        for number, box in enumerate(scene.boxes):
            inner = Box(box.label, box.top, box.bottom - 1, box.left, box.right - 1)
            points = [(inner.left, inner.top), (inner.right, inner.bottom)] if number == 0 else _corners(inner)
            shapes.append(
                {
                    "label": box.label,
                    "points": [[float(x), float(y)] for x, y in points],
                    "group_id": None,
                    "shape_type": "rectangle" if number == 0 else "polygon",
                    "flags": {},
                }
            )
        height, width = _SIZE_HW
        content = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": f"{scene.name}.png"}
        _write(root / f"{scene.name}.json", content | {"imageData": None, "imageHeight": height, "imageWidth": width})
    return root


def fake_cvat(root: Path) -> Path:
    """CVAT's "segmentation mask 1.1" with its images."""
    lines = [f"{name}:{','.join(map(str, colour))}::" for name, colour in _COLOURS.items()]
    _write(root / "labelmap.txt", "# label:color_rgb:parts:actions\n" + "\n".join(lines) + "\n")
    colours = np.array(list(_COLOURS.values()), np.uint8)
    for scene in scenes():
        _save(root / "JPEGImages" / f"{scene.name}.png", scene.image)
        _save(root / "SegmentationClass" / f"{scene.name}.png", colours[scene.mask(list(_COLOURS))])
        _save(root / "SegmentationObject" / f"{scene.name}.png", colours[scene.mask(list(_COLOURS))])
    _write(root / "ImageSets" / "Segmentation" / "default.txt", "".join(f"{s.name}\n" for s in scenes()))
    return root


def brush_rle(inside: NDArray[np.uint8]) -> list[int]:
    """Label Studio's run lengths of a brush, bit by bit: lists where fewer than four values are equal, else runs.

    Args:
        inside: ``(H, W)`` of 0 and 1; the painted pixels get (0, 0, 0, 255), the others (0, 0, 0, 0).
    """
    values = [v for pixel in inside.ravel().tolist() for v in (0, 0, 0, 255 * pixel)]
    widths = (1, 4, 8, 16)
    bits = [f"{len(values):032b}", f"{7:05b}", *(f"{width - 1:04b}" for width in widths)]
    at = 0
    while at < len(values):
        end = at
        while end < len(values) and values[end] == values[at] and end - at < 1 << widths[-1]:
            end += 1
        run = end - at >= 4
        end = end if run else min(at + 4, len(values))
        which = next(i for i, width in enumerate(widths) if end - at <= 1 << width)
        bits.append(f"{int(run)}{which:02b}{end - at - 1:0{widths[which]}b}")
        bits += [f"{value:08b}" for value in ([values[at]] if run else values[at:end])]
        at = end
    joined = "".join(bits)
    joined += "0" * (-len(joined) % 8)
    return [int(joined[i : i + 8], 2) for i in range(0, len(joined), 8)]


def fake_label_studio(root: Path) -> Path:
    """Label Studio's JSON export with brushes, a polygon and a rectangle; uploaded names in front of the images'."""
    tasks = []
    height, width = _SIZE_HW
    for number, scene in enumerate(scenes(), start=1):
        _save(root / "images" / f"{scene.name}.png", scene.image)
        results = []
        for kind, box in zip(("brush", "polygon", "rectangle"), scene.boxes, strict=True):
            inside = np.zeros(_SIZE_HW, np.uint8)
            inside[box.top : box.bottom, box.left : box.right] = 1
            value: dict[str, Any] = {"format": "rle", "rle": brush_rle(inside)}
            if kind == "polygon":
                value = {"points": [[100 * x / width, 100 * y / height] for x, y in _corners(box)], "closed": True}
            elif kind == "rectangle":
                x, y = 100 * box.left / width, 100 * box.top / height
                value = {"x": x, "y": y, "rotation": 0, "width": 100 * (box.right - box.left) / width}
                value["height"] = 100 * (box.bottom - box.top) / height
            results.append(
                {
                    "original_width": width,
                    "original_height": height,
                    "image_rotation": 0,
                    "value": value | {f"{kind}labels": [box.label]},
                    "id": f"r{kind}",
                    "from_name": "tag",
                    "to_name": "image",
                    "type": f"{kind}labels",
                }
            )
        upload = f"deadbee{number}-{scene.name}.png"
        annotation = {"id": 10 + number, "completed_by": 1, "result": results, "was_cancelled": False}
        data = {"image": f"/data/upload/1/{upload}"}
        tasks.append({"id": number, "annotations": [annotation], "file_upload": upload, "data": data})
    _write(root / "project-1-at-2024-01-01-00-00-abcdef12.json", tasks)
    return root


def fake_label_studio_png(root: Path) -> Path:
    """Label Studio's PNG export of brushes, with the images named by task."""
    for number, scene in enumerate(scenes(), start=1):
        _save(root / f"task-{number}.png", scene.image)
        for box in scene.boxes:
            inside = np.zeros(_SIZE_HW, np.uint8)
            inside[box.top : box.bottom, box.left : box.right] = 255
            _save(root / f"task-{number}-annotation-{10 + number}-by-1-tag-{box.label}-0.png", inside)
    return root


def fake_yolo(root: Path) -> Path:
    """YOLO: ``data.yaml``, ``images/{train,val}`` and ``labels/{train,val}``."""
    names = "".join(f"  {i}: {name}\n" for i, name in enumerate(LABELS))
    _write(root / "data.yaml", f"path: .\ntrain: images/train\nval: images/val\nnames:\n{names}")
    height, width = _SIZE_HW
    for split, found in (("train", scenes()), ("val", scenes(2, seed=1))):
        for scene in found:
            _save(root / "images" / split / f"{scene.name}.png", scene.image)
            lines = []
            for box in reversed(scene.boxes):
                points = " ".join(f"{x / width:.6f} {y / height:.6f}" for x, y in _corners(box))
                lines.append(f"{LABELS.index(box.label)} {points}\n")
            _write(root / "labels" / split / f"{scene.name}.txt", "".join(lines))
    return root


def fake_pairs(root: Path) -> Path:
    """``list.txt`` of images and masks with their split, and ``classes.txt``."""
    lines = []
    for split, found in (("train", scenes()), ("val", scenes(2, seed=1))):
        for scene in found:
            _save(root / "photos" / f"{split} {scene.name}.png", scene.image)
            _save(root / "drawn" / f"{split}_{scene.name}.png", scene.mask())
            lines.append(f"photos/{split} {scene.name}.png\tdrawn/{split}_{scene.name}.png\t{split}\n")
    _write(root / "list.txt", "# image, mask, split\n" + "".join(lines))
    _write(root / "classes.txt", "\n".join(("background", *LABELS)))
    return root


FAKES: dict[str, Callable[[Path], Path]] = {
    "coco": fake_coco,
    "roboflow": fake_roboflow,
    "labelme": fake_labelme,
    "cvat": fake_cvat,
    "label_studio": fake_label_studio,
    "label_studio_png": fake_label_studio_png,
    "yolo": fake_yolo,
    "pairs": fake_pairs,
}
"""Writers by name."""


def zipped(root: Path, *, inside: str = "") -> Path:
    """The zip file of a folder, beside it.

    Args:
        root: What to pack.
        inside: A folder in the archive that holds everything; empty: none.
    """
    if not inside:
        return Path(shutil.make_archive(str(root), "zip", root))
    moved = root.parent / inside
    root.rename(moved)
    return Path(shutil.make_archive(str(root), "zip", moved.parent, moved.name))
