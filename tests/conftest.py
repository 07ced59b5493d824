"""Shared by all tests: where the real data lie, tiny data sets in their true layouts, and calm threads."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

SHARED = Path(os.environ.get("REFINESEG_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def pytest_configure() -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:  # several workers share the cores
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def camvid_root() -> Path:
    root = SHARED / "camvid"
    if not (root / "train.txt").is_file():
        pytest.skip(f"the real CamVid is absent: {root}")
    return root


def write_folder(root: Path, *, splits: dict[str, int], size: tuple[int, int] = (48, 64), seed: int = 0) -> Path:
    """A learnable data set: dark ground below bright sky, with a red square; classes ground, sky, square."""
    rng = np.random.default_rng(seed)
    height, width = size
    for split, count in splits.items():
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            horizon = int(rng.integers(height // 4, 3 * height // 4))
            mask = np.zeros(size, np.uint8)
            mask[:horizon] = 1
            top, left = int(rng.integers(0, height - 16)), int(rng.integers(0, width - 16))
            mask[top : top + 16, left : left + 16] = 2
            colours = np.array([(60, 70, 50), (150, 190, 240), (220, 40, 40)])
            image = (colours[mask] + rng.normal(0, 12, (*size, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(image).save(root / "images" / split / f"{i:03d}.png")
            Image.fromarray(mask).save(root / "masks" / split / f"{i:03d}.png")
    return root


@pytest.fixture
def folder_root(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "pictures", splits={"train": 6, "val": 2})
