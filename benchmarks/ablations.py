"""What the RefineNet paper's tables 2 and 9 compare, and full against light-weight, with equal budgets.

    ./dev python benchmarks/ablations.py --data camvid:ROOT --out runs/ablations
    ./dev python benchmarks/ablations.py --data nyud:ROOT --out runs/nyud_ablations --encoder lite0 --deeper lite1 \
        --pretrained auto --width 0.125 --scale 0.5 --crop 192x256 --epochs 20 --encoder-lr 3e-4 --lr 2e-3

Every row is trained on the same crops in the same order for the same number of steps, on the split ``fit``, and
measured on ``held_out`` (CamVid: another drive; NYUDv2: other rooms); the test split is not touched. The default is a
small form for a CPU: ResNet-18 from scratch, decoders of a quarter of the width, images at a third of their size.
``--encoder resnet50 --deeper resnet101 --width 1 --scale 1 --crop 288x384 --epochs 100`` is the full one for a GPU.

Rows that are done are kept; the script can be stopped and started again. Results: ``OUT/ablations.json`` and a table on
stdout.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from refineseg.data.crops.options import CropOptions
from refineseg.data.datasets import open_sources
from refineseg.errors import ConfigError
from refineseg.evaluate.predicting import evaluate
from refineseg.files.writing import write_json
from refineseg.networks.refinenet import count_parameters
from refineseg.predict.predictor import Predictor
from refineseg.segmenter import load
from refineseg.terminal.printing import Terminal
from refineseg.training.config import Phase, TrainingConfig, to_json
from refineseg.training.progress import TerminalProgress
from refineseg.training.run import RunRequest, start_run


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Args:
        label: What it is.
        family: Variant family in front of the encoder's name.
        deeper: Use the deeper encoder.
    """

    label: str
    family: str
    deeper: bool = False


ROWS = (
    Row("4-cascaded, 4 links (the reference of all rows)", "refinenet"),
    Row("without chained residual pooling", "refinenet_0links"),
    Row("2 links", "refinenet_2links"),
    Row("4 links, convolve then pool", "refinenet_improved"),
    Row("a deeper encoder", "refinenet", deeper=True),
    Row("single block", "refinenet_single"),
    Row("2-cascaded", "refinenet_2cascade"),
    Row("4-cascaded, 2-scale (7 paths)", "refinenet_2scale"),
    Row("light-weight", "refinenet_lw"),
)


def configuration(row: Row, arguments: argparse.Namespace, seed: int) -> TrainingConfig:
    """The same for every row but for the variant."""
    height, width = (int(side) for side in arguments.crop.split("x"))
    encoder = arguments.deeper if row.deeper else arguments.encoder
    return TrainingConfig(
        recipe="ablation",
        variant=f"{row.family}:{encoder}",
        phases=(
            Phase(
                epochs=arguments.epochs,
                crops=CropOptions((height, width), (0.7 * arguments.scale, 1.4 * arguments.scale)),
                batch_size=arguments.batch_size,
                encoder_lr=arguments.encoder_lr or arguments.lr,
                decoder_lr=arguments.lr,
                schedule="poly",
                warmup_epochs=min(1.0, arguments.epochs / 4),
            ),
        ),
        train_split="fit",
        val_split=None,
        ema_decay=0.99,
        clip_norm=1.0,
        pretrained=arguments.pretrained,
        seed=seed,
    )


def run_row(row: Row, arguments: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Train and measure one row once; a finished one is read."""
    config = configuration(row, arguments, seed)
    config = replace(config, network=replace(config.network, width=arguments.width))
    folder = arguments.out / f"{config.variant.replace(':', '_')}_seed{seed}"
    done = folder / "result.json"
    conditions = {"config": to_json(config), "data": arguments.data.partition(":")[0], "scale": arguments.scale}
    if done.is_file():
        result: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
        if any(result.get(name) != value for name, value in conditions.items()):
            raise ConfigError(f"expected {done} with the options of this call, got others; choose another --out")
        return result
    shutil.rmtree(folder, ignore_errors=True)
    begun = time.monotonic()
    start_run(
        RunRequest(config, arguments.data, device=arguments.device),
        folder,
        progress=TerminalProgress(Terminal(stderr=True)),
    )
    seconds = time.monotonic() - begun
    segmenter = load(folder / "last.safetensors")
    held_out = open_sources(arguments.data, split="held_out")
    measured = {}
    for name, factors in (("single", (1.0,)), ("multi", (0.6, 0.8, 1.0, 1.2, 1.4))):
        scales = tuple(arguments.scale * factor for factor in factors)
        matrix = evaluate(Predictor(segmenter, device=arguments.device, scales=scales), held_out)
        measured[name] = {"mean_iou": matrix.mean_iou, "pixel_accuracy": matrix.pixel_accuracy}
    result = {
        "label": row.label,
        "variant": config.variant,
        "seed": seed,
        "parameters": count_parameters(segmenter.network),
        "seconds": round(seconds, 1),
        **measured,
        **conditions,
    }
    write_json(done, result)
    for name in ("checkpoint.pt", "best.safetensors"):
        (folder / name).unlink(missing_ok=True)
    return result


def show(results: list[dict[str, Any]]) -> None:
    """The table, in Markdown: mean and spread over the seeds."""
    print("| row | parameters | mIoU, single scale | mIoU, 5 scales | training time |\n| --- | --- | --- | --- | --- |")
    reference = [r["seconds"] for r in results if r["label"] == ROWS[0].label]
    for row in ROWS:
        mine = [r for r in results if r["label"] == row.label]
        if not mine:
            continue
        cells = []
        for kind in ("single", "multi"):
            values = [100 * r[kind]["mean_iou"] for r in mine]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}")
        seconds = statistics.mean(r["seconds"] for r in mine)
        share = f"{seconds / statistics.mean(reference):.2f}" if reference else "-"
        print(f"| {row.label} | {mine[0]['parameters'] / 1e6:.2f} M | {cells[0]} | {cells[1]} | {share} |")


def main() -> None:
    """All rows, for every seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="camvid:ROOT or nyud:ROOT")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--deeper", default="resnet34")
    parser.add_argument("--width", type=float, default=0.25, help="of the decoder")
    parser.add_argument("--scale", type=float, default=0.35, help="of the images")
    parser.add_argument("--crop", default="96x128")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--encoder-lr", type=float, help="by default that of --lr")
    parser.add_argument("--pretrained", default="no", help="encoder: no, or auto (ImageNet)")
    parser.add_argument("--rows", help="numbers of rows from 1, by comma; by default all")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    numbers = range(1, len(ROWS) + 1) if arguments.rows is None else [int(n) for n in arguments.rows.split(",")]
    if not all(1 <= number <= len(ROWS) for number in numbers):
        raise ConfigError(f"expected --rows of 1 to {len(ROWS)}, got {arguments.rows}")
    results = []
    for seed in range(arguments.seeds):
        for number in numbers:
            results.append(run_row(ROWS[number - 1], arguments, seed))
            write_json(arguments.out / "ablations.json", results)
    show(results)


if __name__ == "__main__":
    main()
