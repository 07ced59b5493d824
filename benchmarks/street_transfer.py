"""Street models of CamVid on IDD-Lite: another country and camera, with classes that are unions of CamVid's.

    python benchmarks/street_transfer.py --idd IDD_LITE --models camvid,camvid_nano --out transfer.json

IDD-Lite has 204 validation images of 320x227 pixels. CamVid's eleven classes are mapped to its seven; a bicyclist
counts as a living thing. No model has seen an image of IDD-Lite.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

import refineseg
from refineseg.class_info import ClassInfo
from refineseg.evaluate.metrics import ConfusionMatrix
from refineseg.files.writing import written_beside

UNIONS = {
    "drivable": ("road",),
    "non-drivable": ("pavement",),
    "living things": ("pedestrian", "bicyclist"),
    "vehicles": ("car",),
    "road side objects": ("pole", "sign_symbol", "fence"),
    "far objects": ("building", "tree"),
    "sky": ("sky",),
}
"""Class of IDD-Lite, in the order of its labels -> CamVid's classes in it."""


def measure(model: str, root: Path, split: str, scale: float) -> ConfusionMatrix:
    """All images of a split, in CamVid's classes and then in those of IDD-Lite."""
    predictor = refineseg.Predictor(model, device="cpu", scales=(scale,))
    wider = {name: i for i, union in enumerate(UNIONS.values()) for name in union}
    table = np.array([wider[name] for name in predictor.class_info.names])
    matrix = ConfusionMatrix(ClassInfo(tuple(UNIONS)))
    for image in sorted((root / "leftImg8bit" / split).rglob("*_image.jpg")):
        labels = root / "gtFine" / split / image.parent.name / image.name.replace("_image.jpg", "_label.png")
        matrix.update(table[predictor(image).mask], np.asarray(Image.open(labels)))
    return matrix


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--idd", type=Path, required=True, help="the folder with leftImg8bit and gtFine")
    parser.add_argument("--models", default="camvid,camvid_nano", help="names or files, separated by commas")
    parser.add_argument("--split", default="val")
    parser.add_argument("--scale", type=float, default=1.0, help="of the images")
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    found = {}
    for model in options.models.split(","):
        matrix = measure(model, options.idd, options.split, options.scale)
        found[model] = matrix.to_json()
        print(f"{model}: {100 * matrix.mean_iou:.1f} % mIoU, {100 * matrix.pixel_accuracy:.1f} % of the pixels")
    if options.out:
        with written_beside(options.out) as temporary:
            temporary.write_text(json.dumps({"scale": options.scale, "split": options.split, **found}, indent=1))


if __name__ == "__main__":
    main()
