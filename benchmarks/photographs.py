"""Made photographs of 6 megapixels with one ball in each, and the time that reducing a photograph of 12 takes.

    ./dev python benchmarks/photographs.py --out photos
    ./dev refineseg train --data folder:photos --out runs/reduced --epochs 12 --workers 0
    ./dev refineseg train --data folder:photos --out runs/whole --epochs 12 --workers 0 --set input_scale=1

Two pictures of scikit-learn, enlarged; a dark red ball of 760 pixels lies at a random place. Six are for training, two
for validation.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images  # type: ignore[import-untyped]

from refineseg.resize import matlab_resize_images

HEIGHT, WIDTH, RADIUS = 2000, 3000, 380


def write(root: Path) -> None:
    """Write the data set into a new folder."""
    generator = np.random.default_rng(0)
    grounds = [Image.fromarray(pixels).resize((WIDTH, HEIGHT)) for pixels in load_sample_images().images]
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    for split, count in {"train": 6, "val": 2}.items():
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for number in range(count):
            top, left = generator.integers(0, 1200), generator.integers(0, 2000)
            ball = (rows - top - 400) ** 2 + (columns - left - 500) ** 2 < RADIUS**2
            pixels = np.asarray(grounds[number % 2]).copy()
            pixels[ball] = pixels[ball] // 3 + np.array((160, 20, 20), np.uint8)
            Image.fromarray(pixels).save(root / "images" / split / f"{number}.jpg", quality=92)
            Image.fromarray(ball.astype(np.uint8)).save(root / "masks" / split / f"{number}.png")
    (root / "classes.txt").write_text("ground\nball\n", encoding="utf-8")


def main() -> None:
    """Write the photographs, and print the time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    write(parser.parse_args().out)
    torch.set_num_threads(1)
    pixels = torch.randint(0, 256, (1, 3, 3000, 4000), dtype=torch.uint8)
    seconds = []
    for _ in range(3):
        begun = time.perf_counter()
        matlab_resize_images(pixels, (768, 1024))
        seconds.append(time.perf_counter() - begun)
    print(f"3000x4000 to 768x1024 pixels, one thread: {min(seconds):.2f} s")


if __name__ == "__main__":
    main()
