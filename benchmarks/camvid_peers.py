"""Small networks of ours beside small networks of other libraries, all trained by one recipe on the same crops.

    python benchmarks/camvid_peers.py --data camvid:ROOT --out runs/peers --epochs 20 --seeds 0,1
    python benchmarks/camvid_peers.py --data camvid:ROOT --out runs/peers --epochs 20 --seeds 0,1 --steps time
    python benchmarks/camvid_peers.py --data camvid:ROOT --out runs/peers_lite --epochs 8 --imagenet

Every network takes the same crops in the same order, optimiser, rates, number of steps, loss and weight average. It
learns from two of the three labelled drives (split ``fit``) and is measured on the third (``held_out``); the test split
is never opened. Without ``--imagenet`` every network starts from random weights, on images at 0.4 of their size. With
it, networks on EfficientNet-Lite0 start from the same ImageNet weights, on images at their own size.

Steps: ``train``; ``export`` writes each network for one image size; ``time`` measures them in turns from ``uint8``
pixels to the class map. Called again it goes on where it stopped, also after a kill; each step alone by ``--steps``.
Networks of libraries that are not installed are left out, which the table says.

Out: ``OUT/NETWORK/seedN/result.json``; ``OUT/NETWORK/plain.onnx``; ``OUT/times.json``; ``OUT/table.md``,
``OUT/table.json`` and ``OUT/picture.png``.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peer_networks import NETWORKS, ON_LITE, build_model, is_installed
from torch.utils.flop_counter import FlopCounterMode

from refineseg.bench.timing import class_map, describe_machine, example_images, time_in_turns
from refineseg.class_info import ClassInfo
from refineseg.data.checks.label_check import check_data
from refineseg.data.crops.options import CropOptions
from refineseg.data.datasets import open_sources, parse_sources
from refineseg.errors import ConfigError
from refineseg.evaluate.predicting import evaluate
from refineseg.files.writing import written_beside
from refineseg.networks.refinenet import count_parameters
from refineseg.networks.variants import VARIANTS
from refineseg.predict.predictor import Predictor
from refineseg.runtimes.description import Description
from refineseg.runtimes.eager import TorchScorer
from refineseg.runtimes.graph import export_program
from refineseg.runtimes.onnx_runtime import OnnxScorer, onnx_model
from refineseg.runtimes.openvino_runtime import OpenVinoScorer
from refineseg.scoring import Scorer
from refineseg.terminal.arguments import parse_size
from refineseg.terminal.printing import Terminal
from refineseg.training.config import Phase, TrainingConfig, override, to_json
from refineseg.training.feeding import PhaseData, TrainingData
from refineseg.training.loop import train
from refineseg.training.progress import TerminalProgress
from refineseg.training.provenance import run_protocol
from refineseg.training.recipes.table import find_recipe
from refineseg.training.request import parse_seeds

_MULTIPLE = 32
WAYS = ("PyTorch", "OpenVINO", "ONNX Runtime")
STEPS = ("train", "export", "time")


def small_recipe(epochs: int, scale: float) -> TrainingConfig:
    """The recipe of ``refineseg_small`` in one phase, short enough for a CPU."""
    phase = Phase(
        epochs=epochs,
        crops=CropOptions((128, 160), (0.7 * scale, 1.6 * scale)),
        batch_size=8,
        encoder_lr=2e-3,
        decoder_lr=1e-3,
        schedule="cosine",
        warmup_epochs=min(1.0, epochs / 4),
    )
    base = find_recipe("camvid_refineseg_small")
    return replace(base, recipe="camvid_peers", phases=(phase,), train_split="fit", val_split=None, ema_decay=0.98)


def lite_recipe(epochs: int, scale: float) -> TrainingConfig:
    """The second phase of ``camvid_refineseg_lite0`` alone, with a cosine to zero."""
    base = find_recipe("camvid_refineseg_lite0")
    last = base.phases[1]
    crops = replace(last.crops, scale=(scale * last.crops.scale[0], scale * last.crops.scale[1]))
    phase = replace(last, epochs=epochs, crops=crops, schedule="cosine", warmup_epochs=min(0.5, epochs / 4))
    return replace(base, recipe="camvid_peers", phases=(phase,), train_split="fit", val_split=None, ema_decay=0.98)


@dataclass(frozen=True)
class Plan:
    """What is compared.

    Args:
        config: The recipe; the variant and the seed are put in for each run.
        networks: Names.
        data: ``camvid:ROOT``.
        out: Folder.
        seeds: In order.
        scale: Of all images in training and measurement.
        size_hw: Of the image that is timed.
        repeats: Rounds of timing; None: as many as fit into half a minute.
        deadline: By ``time.monotonic``; None: none.
        device: Where is trained.
        imagenet: Encoders start from ImageNet weights.
    """

    config: TrainingConfig
    networks: tuple[str, ...]
    data: str
    out: Path
    seeds: tuple[int, ...]
    scale: float
    size_hw: tuple[int, int]
    repeats: int | None
    deadline: float | None
    device: str
    imagenet: bool

    @property
    def seconds_left(self) -> float | None:
        """Until the deadline."""
        return None if self.deadline is None else self.deadline - time.monotonic()


def run_one(plan: Plan, name: str, seed: int, data: TrainingData, console: Terminal) -> bool:
    """Train and measure one network with one seed once; False where the time is up first."""
    folder = plan.out / name / f"seed{seed}"
    done = folder / "result.json"
    if done.is_file():
        return True
    if plan.seconds_left is not None and plan.seconds_left <= 0:
        return False
    console.say(f"{name}, seed {seed}")
    config = replace(plan.config, variant=name, seed=seed)
    segmenter = build_model(name, data.phases[0].dataset.class_info, seed=seed, imagenet=plan.imagenet)
    names, training = tuple(parse_sources(plan.data)), (data.phases[0].dataset,)
    segmenter.with_provenance({"protocol": run_protocol(config, names, training, None, started_from="scratch")})
    folder.mkdir(parents=True, exist_ok=True)
    progress = TerminalProgress(console)
    trained = train(
        segmenter, config, data, folder, device=plan.device, progress=progress, stop_after_s=plan.seconds_left
    )
    provenance = trained.spec.provenance
    if provenance.get("epochs") != config.num_epochs:
        return False
    matrix = evaluate(
        Predictor(trained.eval(), device=plan.device, scales=(plan.scale,)), open_sources(plan.data, split="held_out")
    )
    result = {
        "network": name,
        "seed": seed,
        "split": "held_out",
        "trained_on": provenance["protocol"]["trained_on"],
        "epochs": config.num_epochs,
        "training_seconds": provenance["training_seconds"],
        "hardware": provenance["hardware"],
        "torch": provenance["torch"],
        **matrix.to_json(),
        "config": to_json(config),
    }
    write(done, json.dumps(result, indent=1))
    for file in ("checkpoint.pt", "best.safetensors", "last.safetensors"):
        (folder / file).unlink(missing_ok=True)
    return True


def write(path: Path, text: str) -> None:
    """Beside, and then renamed."""
    with written_beside(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read(path: Path) -> dict[str, Any]:
    """A JSON file; empty where there is none."""
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return value


def program_path(plan: Plan, name: str, form: str) -> Path:
    """Of an exported network: ``plain``, or ``rewritten`` for inference."""
    return plan.out / name / f"{form}_{plan.size_hw[0]}x{plan.size_hw[1]}.onnx"


def forms_of(name: str) -> tuple[str, ...]:
    """How a network is exported."""
    return ("plain", "rewritten") if name in VARIANTS else ("plain",)


def export(plan: Plan, name: str, class_info: ClassInfo) -> None:
    """Write a network for one image size: as it is with enlarged logits and argmax, and ours rewritten, too."""
    segmenter = build_model(name, class_info)
    description = Description(segmenter.spec, ("class_map",), size_hw=plan.size_hw)
    for form in forms_of(name):
        path = program_path(plan, name, form)
        if not path.is_file():
            rewritten = form == "rewritten"
            program = export_program(
                segmenter, outputs=("class_map",), size_hw=plan.size_hw, rewritten=rewritten, two_passes=rewritten
            )
            with written_beside(path) as temporary:
                temporary.write_bytes(onnx_model(program, description).SerializeToString())


def count(name: str, class_info: ClassInfo, size_hw: tuple[int, int]) -> dict[str, int]:
    """Parameters, and multiply-adds of convolutions."""
    network = copy.deepcopy(build_model(name, class_info).network).to("meta").eval()
    padded_hw = tuple(-(-side // _MULTIPLE) * _MULTIPLE for side in size_hw)  # as the segmenter pads
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, *padded_hw, device="meta"))
    return {"parameters": count_parameters(network), "multiply_adds": int(counter.get_total_flops()) // 2}


def measure_times(plan: Plan, names: Sequence[str], class_info: ClassInfo, console: Terminal) -> dict[str, Any]:
    """All networks in all ways in turns, in one run; time does not depend on the weights."""
    cpu = torch.device("cpu")
    contenders: list[tuple[str, str, str, Scorer]] = []
    for name in names:
        contenders.append((name, "PyTorch", "plain", TorchScorer(build_model(name, class_info), device=cpu)))
        for form in forms_of(name):
            path = program_path(plan, name, form)
            contenders.append((name, "OpenVINO", form, OpenVinoScorer(path)))
            contenders.append((name, "ONNX Runtime", form, OnnxScorer(path)))
    images = example_images(1, 3, plan.size_hw)
    calls = [partial(class_map, scorer, images) for *_, scorer in contenders]
    times = time_in_turns(calls, repeats=plan.repeats, console=console)
    found = [
        {
            **{"network": name, "way": way, "form": form},
            **{"median_ms": float(np.median(own)), "min_ms": float(own.min()), "max_ms": float(own.max())},
        }
        for (name, way, form, _), own in zip(contenders, times, strict=True)
    ]
    size = f"{plan.size_hw[0]}x{plan.size_hw[1]}"
    return {"size": size, "rounds": times.shape[1], "machine": describe_machine(cpu), "times": found}


def rows_of(plan: Plan, class_info: ClassInfo) -> list[dict[str, Any]]:
    """One row per network: size, cost, mIoU of each seed, times."""
    times = read(plan.out / "times.json").get("times", [])
    rows = []
    for name in plan.networks:
        if not is_installed(name):
            continue
        results = [read(plan.out / name / f"seed{seed}" / "result.json") for seed in plan.seeds]
        own = {(time["way"], time["form"]): time for time in times if time["network"] == name}
        rows.append(
            {
                "network": name,
                "ours": name in VARIANTS,
                **count(name, class_info, plan.size_hw),
                "mean_iou": {result["seed"]: result["mean_iou"] for result in results if result},
                "training_seconds": [result["training_seconds"] for result in results if result],
                "median_ms": {f"{way}, {form}": own[way, form]["median_ms"] for way, form in own},
            }
        )
    return rows


def best_ms(row: Mapping[str, Any], way: str) -> float | None:
    """Of a way: the rewritten network where there is one."""
    times: Mapping[str, float] = row["median_ms"]
    return times.get(f"{way}, rewritten", times.get(f"{way}, plain"))


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation in percent."""
    if not values:
        return "-"
    deviation = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{deviation}"


def _start(plan: Plan) -> str:
    return "ImageNet weights" if plan.imagenet else "random weights"


def markdown(rows: Sequence[Mapping[str, Any]], plan: Plan) -> str:
    """The table."""
    phase, size = plan.config.phases[0], f"{plan.size_hw[0]}x{plan.size_hw[1]}"
    measured = read(plan.out / "times.json")
    machine = measured.get("machine", {})
    height, width = phase.crops.crop_hw
    lines = [
        "# Small networks beside others, on CamVid",
        "",
        f"All from {_start(plan)} by one recipe: {plan.config.num_epochs} epochs of split `fit` (the same crops of "
        f"{height}x{width} in the same order, batches of {phase.batch_size}), images at {plan.scale:g} of their size; "
        "mIoU on the whole held-out drive (`held_out`), single scale; the test split was not used. The trainings are "
        "short: no network is at its best.",
        "",
        f"Milliseconds of one {size} image, float32, from uint8 pixels to the class map, medians of "
        f"{measured.get('rounds', 0)} rounds in turns on {machine.get('cpu', 'no machine yet')} "
        f"({machine.get('threads', 0)} threads, load {machine.get('load_1_minute', '-')}). PyTorch is eager, "
        "channels_last; OpenVINO and ONNX Runtime run ours rewritten (in brackets: the plain export, which is what "
        "the others have).",
        "",
        f"| network | parameters | multiply-adds | mIoU % | seeds | {' | '.join(WAYS)} |",
        f"| --- | ---: | ---: | ---: | --- | {' | '.join(['---:'] * len(WAYS))} |",
    ]
    for row in rows:
        cells = [f"`{row['network']}`" if row["ours"] else row["network"], f"{row['parameters'] / 1e6:.2f} M"]
        cells += [f"{row['multiply_adds'] / 1e9:.2f} G", spread(list(row["mean_iou"].values()))]
        cells.append(", ".join(map(str, row["mean_iou"])))
        for way in WAYS:
            best, plain = best_ms(row, way), row["median_ms"].get(f"{way}, plain")
            shown = "-" if best is None else f"{best:.0f}"
            cells.append(f"{shown} ({plain:.0f})" if row["ours"] and way != "PyTorch" and plain else shown)
        lines.append(f"| {' | '.join(cells)} |")
    absent = [name for name in plan.networks if not is_installed(name)]
    if absent:
        lines += ["", f"Left out, segmentation-models-pytorch is not installed: {', '.join(absent)}."]
    return "\n".join(lines) + "\n"


def draw(path: Path, rows: Sequence[Mapping[str, Any]], plan: Plan) -> None:
    """Accuracy over milliseconds in OpenVINO, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for row in rows:
        x, values = best_ms(row, "OpenVINO"), [100 * value for value in row["mean_iou"].values()]
        if x is None or not values:
            continue
        low, mean, high = min(values), statistics.mean(values), max(values)
        colour, marker = ("tab:blue", "o") if row["ours"] else ("tab:orange", "s")
        axes.errorbar(x, mean, yerr=[[mean - low], [high - mean]], color=colour, marker=marker, capsize=3)
        side = -1 if row["ours"] else 1  # names of ours go down, of others up
        axes.annotate(
            row["network"],
            (x, mean),
            xytext=(5, 6 * side),
            textcoords="offset points",
            fontsize=8,
            rotation=15 if side > 0 else -35,
            va="bottom" if side > 0 else "top",
        )
    axes.set_xscale("log")
    axes.margins(x=0.3, y=0.3)
    axes.set(
        xlabel=f"ms per {plan.size_hw[0]}x{plan.size_hw[1]} image, OpenVINO float32",
        ylabel="mIoU on the held-out drive, %",
        title=f"CamVid from {_start(plan)}, {plan.config.num_epochs} epochs of the same recipe",
    )
    axes.grid(alpha=0.3, which="both")
    with written_beside(path) as temporary:
        figure.savefig(temporary, dpi=100)


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="camvid:ROOT")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--imagenet", action="store_true", help="start from ImageNet weights: networks on Lite0")
    parser.add_argument(
        "--networks",
        help=f"names with commas, variants too; by default {', '.join(NETWORKS)}, with --imagenet {', '.join(ON_LITE)}",
    )
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--scale", type=float, help="of all images; by default 0.4, with --imagenet 1")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE of the recipe", metavar="KEY=VALUE")
    parser.add_argument("--steps", default=",".join(STEPS), help="by default all; a step's files are kept for others")
    parser.add_argument(
        "--size", help="HEIGHTxWIDTH of the image that is timed; by default 512x512, with --imagenet 360x480"
    )
    parser.add_argument("--repeats", type=int, help="rounds of timing; by default as many as fit into half a minute")
    parser.add_argument("--minutes", type=float, help="stop training in time; called again, it goes on")
    parser.add_argument("--device", default="auto", help="where is trained; timed is on the CPU")
    return parser.parse_args(argv)


def make_plan(arguments: argparse.Namespace, begun: float) -> Plan:
    """What the command line asks for.

    Raises:
        ConfigError: A network or step that is none, or a folder of another recipe.
    """
    known = ON_LITE if arguments.imagenet else NETWORKS
    names = known if arguments.networks is None else tuple(n.strip() for n in arguments.networks.split(","))
    unknown = [name for name in names if name not in known and (arguments.imagenet or name not in VARIANTS)]
    if unknown:
        raise ConfigError(f"expected networks of {', '.join(known)}, or variants, got {', '.join(unknown)}")
    if not set(arguments.steps.split(",")) <= set(STEPS):
        raise ConfigError(f"expected --steps of {', '.join(STEPS)}, got {arguments.steps}")
    scale = arguments.scale or (1.0 if arguments.imagenet else 0.4)
    recipe = lite_recipe if arguments.imagenet else small_recipe
    config = override(recipe(arguments.epochs, scale), arguments.set)
    path, noted = arguments.out / "recipe.json", {"config": to_json(config), "scale": scale}
    if not path.is_file():
        write(path, json.dumps(noted, indent=1))
    elif read(path) != noted:
        raise ConfigError(f"expected the recipe of the runs in {arguments.out}, got another; choose another --out")
    return Plan(
        config,
        names,
        arguments.data,
        arguments.out,
        parse_seeds(arguments.seeds),
        scale,
        parse_size(arguments.size or ("360x480" if arguments.imagenet else "512x512")),
        arguments.repeats,
        None if arguments.minutes is None else begun + 60 * arguments.minutes,
        arguments.device,
        arguments.imagenet,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """The steps that were asked for; then the table and the picture of what is there."""
    arguments = parse_arguments(sys.argv[1:] if argv is None else argv)
    plan, console = make_plan(arguments, time.monotonic()), Terminal(stderr=True)
    steps = arguments.steps.split(",")
    fitted = open_sources(plan.data, split="fit")
    class_info = fitted.class_info
    names = [name for name in plan.networks if is_installed(name)]
    missing = []
    if "train" in steps:
        phases = (PhaseData(fitted, check_data(fitted).pixel_counts),) * len(plan.config.phases)
        data = TrainingData(phases, None, "camvid:fit")
        runs = [(name, seed) for seed in plan.seeds for name in names]
        missing = [f"{name} seed {seed}" for name, seed in runs if not run_one(plan, name, seed, data, console)]
    if "export" in steps:
        for name in names:
            export(plan, name, class_info)
    if "time" in steps:
        write(plan.out / "times.json", json.dumps(measure_times(plan, names, class_info, console), indent=1))
    rows = rows_of(plan, class_info)
    table = markdown(rows, plan)
    write(plan.out / "table.md", table)
    write(plan.out / "table.json", json.dumps({"config": to_json(plan.config), "rows": rows}, indent=1))
    draw(plan.out / "picture.png", rows, plan)
    print(table)
    if missing:
        print(f"Not trained yet, call again: {', '.join(missing)}.")


if __name__ == "__main__":
    main()
