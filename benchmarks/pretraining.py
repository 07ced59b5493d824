"""Pretraining without labels on the images of a recipe's training split; the model is for ``refineseg train --init``.

    ./dev python benchmarks/pretraining.py --data camvid:ROOT --out pretrained.safetensors --minutes 8
    refineseg train camvid_refinenet_lw_mobilenetv2_long --data camvid:ROOT --init pretrained.safetensors --out runs/x

Lengths, crops and rates are the recipe's, unless ``--epochs`` says otherwise; labels are not used.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from refineseg.data.checks.label_check import check_labels
from refineseg.data.datasets import open_dataset, parse_sources
from refineseg.terminal.printing import Terminal
from refineseg.training.feeding import PhaseData, TrainingData
from refineseg.training.pretraining import Hiding, pretrain
from refineseg.training.progress import TerminalProgress
from refineseg.training.recipes.table import find_recipe
from refineseg.training.request import recipe_options


def main() -> None:
    """Pretrain and write the model file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="NAME:ROOT")
    parser.add_argument("--out", type=Path, required=True, help="model file to write")
    parser.add_argument("--recipe", default="camvid_refinenet_lw_mobilenetv2_long")
    parser.add_argument("--split", help="instead of the recipe's training split")
    parser.add_argument("--epochs", type=int, help="instead of the recipe's, for a recipe of one phase")
    parser.add_argument("--minutes", type=float, help="stop after the epoch in which they are over")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--share", type=float, default=0.5, help="of the squares that are hidden")
    parser.add_argument("--square", type=int, default=32, help="side of a square in pixels")
    arguments = parser.parse_args()
    config = recipe_options(find_recipe(arguments.recipe), epochs=arguments.epochs, lr=None, batch_size=None)
    config = replace(config, seed=arguments.seed)
    ((name, root),) = parse_sources(arguments.data).items()
    split = arguments.split or config.train_split
    dataset = open_dataset(name, root, split=split)
    learned = PhaseData(dataset, check_labels(dataset))
    model = pretrain(
        config,
        TrainingData((learned,) * len(config.phases), None, f"{name}:{split}, {len(dataset)} images"),
        device=arguments.device,
        hiding=Hiding(arguments.share, arguments.square),
        progress=TerminalProgress(Terminal(stderr=True)),
        stop_after_s=None if arguments.minutes is None else 60 * arguments.minutes,
    )
    model.save(arguments.out)
    print(f"{arguments.out}: {model.spec.provenance['pretraining']}")


if __name__ == "__main__":
    main()
