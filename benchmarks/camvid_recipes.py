"""What each choice of a CamVid recipe is worth: one change at a time, with equal budgets, on drives held out of train.

    python benchmarks/camvid_recipes.py --data camvid:ROOT --out runs/recipes --minutes 9

Every run is trained on two of the three labelled drives (split ``fit``) and measured on the third (``held_out``), which
shares no drive with them; the test split is never opened. ``folder:ROOT`` with splits of these names can be given, too.
All changes of one seed come first, then the next seed, so that a table of every choice is there early. Called again it
goes on where it stopped, also after a kill.

A change is a list of settings as ``refineseg train --set`` takes them; ``key=*2`` multiplies what the base has.
``--change 'name: key=value; key=value'`` adds one; one that this version does not know is said and left out.
``--small`` is a form for a CPU: images at 0.3 of their size, few epochs. It shows that the tool works, not which choice
is better.

Out: ``OUT/CHANGE/seedN/result.json`` beside the run's ``metrics.jsonl`` and ``run.json``; ``OUT/table.md`` and
``OUT/table.json``.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from refineseg.devices import keep_freed_memory
from refineseg.errors import ConfigError
from refineseg.evaluate.measuring import EvaluationFiles, evaluate_to_files
from refineseg.evaluate.protocol import Learned
from refineseg.files.writing import written_beside
from refineseg.networks.refinenet import count_parameters
from refineseg.predict.options import PredictorOptions
from refineseg.segmenter import load, load_spec
from refineseg.terminal.arguments import check_number
from refineseg.terminal.printing import Terminal
from refineseg.training.config import TrainingConfig, override, to_json
from refineseg.training.progress import TerminalProgress
from refineseg.training.recipes.table import find_recipe
from refineseg.training.reproduction import train_within
from refineseg.training.request import parse_seeds

BASE = "base"
RATES = ("phases.0.encoder_lr", "phases.0.decoder_lr")
CHANGES: dict[str, tuple[str, ...]] = {
    BASE: (),
    "rates_half": tuple(f"{rate}=*0.5" for rate in RATES),
    "rates_double": tuple(f"{rate}=*2" for rate in RATES),
    "poly": ("phases.0.schedule=poly",),
    "batch_8": ("phases.0.batch_size=8",),
    "batch_32": ("phases.0.batch_size=32",),
    "twice_as_long": ("phases.0.epochs=*2",),
    "scale_narrow": ("phases.0.scale=[0.75,1.5]",),
    "scale_small": ("phases.0.scale=[0.5,1.5]",),
    "scale_wide": ("phases.0.scale=[0.4,2.5]",),
    "rotation_10": ("phases.0.rotation=10",),
    "copy_paste_half": ("phases.0.copy_paste=0.5",),
    "class_balance_half": ("phases.0.class_balance=0.5",),
    "class_crops": ("phases.0.crop_centre=class",),
    "no_colour": ("colour=0",),
    "more_colour": ("colour=0.5",),
    "no_class_weights": ("class_weight_power=0",),
    "class_weights_half": ("class_weight_power=0.5",),
    "ohem": ("ohem_threshold=0.7",),
    "lovasz": ("lovasz=0.5",),
    "dice": ("dice=0.5",),
    "boundary": ("boundary=1",),
    "label_smoothing": ("label_smoothing=0.05",),
    "no_average": ("ema_decay=null",),
    "longer_average": ("ema_decay=0.9995",),
    "weight_decay_low": ("weight_decay=*0.25",),
    "weight_decay_high": ("weight_decay=*4",),
    "decoder_half": ("network.width=0.5",),
    "decoder_wide": ("network.width=1.5",),
    "links_2": ("network.num_links=2",),
    "align_corners": ("network.align_corners=true",),
    "loss_at_output": ("loss_resolution=output",),
    "encoder_wide": ("variant=refinenet_lw:mobilenetv2_140",),
}
"""Name -> settings. ``twice_as_long`` has another budget than the rest, which its row says."""

SMALL = ("phases.0.crop_hw=[96,128]", "phases.0.batch_size=8", "ema_decay=0.97")
_SMALL_SCALE = 0.3


@dataclass(frozen=True)
class Plan:
    """What is compared.

    Args:
        base: The configuration that every change starts from.
        changes: Name -> settings, the base first.
        data: ``camvid:ROOT``.
        out: Folder.
        seeds: In order.
        image_scale: Of all images, in training and measurement.
        deadline: By ``time.monotonic``; None: none.
        device: Where.
        keep_models: Keep the weights, too.
    """

    base: TrainingConfig
    changes: Mapping[str, tuple[str, ...]]
    data: str
    out: Path
    seeds: tuple[int, ...]
    image_scale: float
    deadline: float | None
    device: str
    keep_models: bool

    @property
    def seconds_left(self) -> float | None:
        """Until the deadline."""
        return None if self.deadline is None else self.deadline - time.monotonic()


def changed(base: TrainingConfig, settings: Sequence[str]) -> TrainingConfig:
    """The base with settings, of which ``key=*2`` multiplies.

    Raises:
        ConfigError: A key that this version does not know, or a value out of its range.
    """
    plain = []
    for setting in settings:
        key, _, text = setting.partition("=")
        if text.startswith("*"):
            place: Any = to_json(base)
            try:
                for part in key.split("."):
                    place = place[int(part)] if isinstance(place, list) else place[part]
                value = place * float(text[1:])
            except (KeyError, IndexError, TypeError, ValueError) as error:
                raise ConfigError(f"expected a number of the config to multiply, got {setting!r}") from error
            text = json.dumps(round(value) if isinstance(place, int) else value)
        plain.append(f"{key}={text}")
    return override(base, plain)


def scaled(config: TrainingConfig, factor: float) -> TrainingConfig:
    """The same on images of another size."""
    scales = [(factor * p.crops.scale[0], factor * p.crops.scale[1]) for p in config.phases]
    phases = (replace(p, crops=replace(p.crops, scale=s)) for p, s in zip(config.phases, scales, strict=True))
    return replace(config, phases=tuple(phases))


def run_one(plan: Plan, name: str, seed: int, console: Terminal) -> dict[str, Any] | None:
    """Train and measure one change with one seed once; None where the time is up first."""
    folder = plan.out / name / f"seed{seed}"
    config = replace(scaled(changed(plan.base, plan.changes[name]), plan.image_scale), seed=seed)
    check_same(folder / "settings.json", config)
    done = folder / "result.json"
    if done.is_file():
        result: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
        return result
    left = plan.seconds_left
    if left is not None and left <= 0:
        return None
    console.say(f"{name}, seed {seed}: {'; '.join(plan.changes[name]) or 'the base'}")
    options = {"device": plan.device, "stop_after_s": left}
    progress = TerminalProgress(console)
    if not train_within(folder, config, plan.data, progress=progress, **options):
        return None
    left = plan.seconds_left
    return None if left is not None and left <= 0 else measure(plan, name, seed, config, console)


def check_same(path: Path, config: TrainingConfig) -> None:
    """Note the settings of a run that begins, or refuse to go on with one of other settings.

    Raises:
        ConfigError: There is such a run.
    """
    settings = to_json(config)
    if not path.is_file():
        write(path, json.dumps(settings, indent=1))
    elif json.loads(path.read_text(encoding="utf-8")) != settings:
        raise ConfigError(
            f"expected the settings of this call in {path}, got others; give the change another name, or choose "
            "another --out"
        )


def measure(plan: Plan, name: str, seed: int, config: TrainingConfig, console: Terminal) -> dict[str, Any]:
    """Measure a trained run on the drive that was held out, and keep what is small."""
    folder = plan.out / name / f"seed{seed}"
    model = folder / "last.safetensors"
    evaluation = evaluate_to_files(
        str(model),
        plan.data,
        "held_out",
        options=PredictorOptions.parse(device=plan.device, scales=str(plan.image_scale)),
        files=EvaluationFiles(folder),
        console=console,
        boundary=True,
    )
    if evaluation.num_seen:
        raise ConfigError(f"expected weights that never saw the held-out drive, got {evaluation.warning}")
    provenance = load_spec(model).provenance
    history = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    value = evaluation.to_json()
    result = {
        "change": name,
        "settings": list(plan.changes[name]),
        "seed": seed,
        "log": str((folder / "metrics.jsonl").relative_to(plan.out)),
        "parameters": count_parameters(load(model).network),
        "epochs": config.num_epochs,
        "training_seconds": provenance["training_seconds"],
        "images_per_s": statistics.median(entry["images_per_s"] for entry in history),
        "loss": history[-1]["loss"],
        "hardware": provenance["hardware"],
        "torch": provenance["torch"],
        **{key: value[key] for key in ("version", "split", "mean_iou", "pixel_accuracy", "per_class", "boundary")},
        "measurement_protocol": value["measurement_protocol"],
        "config": to_json(config),
    }
    write(folder / "result.json", json.dumps(result, indent=1))
    for file in ("checkpoint.pt", *([] if plan.keep_models else ["best.safetensors", "last.safetensors"])):
        (folder / file).unlink(missing_ok=True)
    return result


def write(path: Path, text: str) -> None:
    """Beside, and then renamed."""
    with written_beside(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def rows_of(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per change: mean and spread over its seeds, and the difference from the base seed by seed."""
    by_change: dict[str, dict[int, Mapping[str, Any]]] = {}
    for result in results:
        by_change.setdefault(result["change"], {})[result["seed"]] = result
    base = by_change.get(BASE, {})
    rows = []
    for name, of_seed in by_change.items():
        shared = [seed for seed in of_seed if seed in base]
        pairs = [of_seed[seed]["mean_iou"] - base[seed]["mean_iou"] for seed in shared]
        first = next(iter(of_seed.values()))
        row = {
            "change": name,
            "settings": first["settings"],
            "seeds": sorted(of_seed),
            "parameters": first["parameters"],
            "epochs": first["epochs"],
            "mean_iou": spread([result["mean_iou"] for result in of_seed.values()]),
            "boundary_iou": spread([result["boundary"]["mean_iou"] for result in of_seed.values()]),
            "pixel_accuracy": spread([result["pixel_accuracy"] for result in of_seed.values()]),
            "difference": spread(pairs) if name != BASE and pairs else None,
            "training_seconds": statistics.mean(result["training_seconds"] for result in of_seed.values()),
            "logs": [result["log"] for result in of_seed.values()],
        }
        rows.append(row)
    return rows


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Mean and standard deviation of a sample; no deviation of one."""
    return {
        "mean": statistics.mean(values),
        "standard_deviation": statistics.stdev(values) if len(values) > 1 else None,
    }


def markdown(rows: Sequence[Mapping[str, Any]], plan: Plan, missing: Sequence[str]) -> str:
    """The table, best first after the base."""

    def cell(value: Mapping[str, float | None] | None, *, signed: bool = False) -> str:
        if value is None or value["mean"] is None:
            return "-"
        mean = f"{100 * value['mean']:{'+' if signed else ''}.2f}"
        deviation = value["standard_deviation"]
        return mean if deviation is None else f"{mean} ± {100 * deviation:.2f}"

    order = sorted(rows, key=lambda row: (row["change"] != BASE, -(row["mean_iou"]["mean"] or 0)))
    lines = [
        f"# Changes of {plan.base.recipe} on {plan.data.partition(':')[0]}, trained on `fit`, measured on `held_out`",
        "",
        f"{plan.base.num_epochs} epochs each unless the row says otherwise, images at {plan.image_scale:g} of their "
        "size, single scale, no flip. ± is the standard deviation over seeds; the difference is taken seed by seed. "
        "One seed tells nothing about its spread. The test split was not used.",
        "",
        "| change | settings | mIoU % | difference | boundary IoU % | parameters | epochs | minutes | seeds | logs |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in order:
        cells = [row["change"], "; ".join(f"`{setting}`" for setting in row["settings"]), cell(row["mean_iou"])]
        cells += [cell(row["difference"], signed=True), cell(row["boundary_iou"]), f"{row['parameters'] / 1e6:.2f} M"]
        cells += [str(row["epochs"]), f"{row['training_seconds'] / 60:.1f}", ", ".join(map(str, row["seeds"]))]
        lines.append(f"| {' | '.join([*cells, '`' + row['change'] + '/seed*/metrics.jsonl`'])} |")
    if missing:
        lines += ["", "Not run yet: " + ", ".join(missing) + "."]
    return "\n".join(lines) + "\n"


def known(
    base: TrainingConfig, changes: Mapping[str, tuple[str, ...]], console: Terminal
) -> dict[str, tuple[str, ...]]:
    """The changes that this version can make; the others are said."""
    kept = {}
    for name, settings in changes.items():
        try:
            changed(base, settings)
        except ConfigError as error:
            console.say(f"left out: {name}: {str(error)[:200]}")
            continue
        kept[name] = settings
    return kept


def parse_changes(names: str | None, added: Sequence[str], teacher: str | None) -> dict[str, tuple[str, ...]]:
    """The base, and the changes that were asked for.

    Raises:
        ConfigError: A name that is in no list, or a change not of the form ``name: key=value; key=value``.
    """
    changes = dict(CHANGES)
    if teacher is not None:
        changes["teacher"] = (f"teacher={teacher}",)
    for text in added:
        name, colon, settings = text.partition(":")
        if not colon or not name.strip().replace("_", "").isalnum() or name.strip() == BASE:
            raise ConfigError(f"expected --change 'name: key=value; key=value' with a name not {BASE}, got {text!r}")
        changes[name.strip()] = tuple(part.strip() for part in settings.split(";") if part.strip())
    wanted = list(changes) if names is None else [BASE, *(name.strip() for name in names.split(","))]
    if names is not None:
        wanted += [text.partition(":")[0].strip() for text in added]
    unknown = [name for name in wanted if name not in changes]
    if unknown:
        raise ConfigError(f"expected changes of {', '.join(changes)}, got {', '.join(unknown)}")
    return {name: changes[name] for name in dict.fromkeys(wanted)}


def check_teacher(path: str, data: str) -> None:
    """A teacher must not have seen what is held out.

    Raises:
        ConfigError: It learned from more than ``fit``, or does not say from what.
    """
    learned, allowed = Learned.from_provenance(load_spec(path).provenance).trained_on, f"{data.partition(':')[0]}:fit"
    if learned != (allowed,):
        raise ConfigError(
            f"expected a teacher trained on {allowed} alone, got one of {', '.join(learned or ('unknown data',))}; "
            "train it with --set train_split=fit"
        )


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="camvid:ROOT, or a data set with the splits fit and held_out")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--base", default="camvid_refinenet_lw_mobilenetv2_long", help="recipe")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE of the base", metavar="KEY=VALUE")
    parser.add_argument("--epochs", type=int, help="of every run; by default 150, with --small 4")
    parser.add_argument("--changes", help="names with commas; by default all")
    parser.add_argument("--change", action="append", default=[], help="'name: key=value; key=value'")
    parser.add_argument("--teacher", help="model file; adds the change 'teacher'")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--minutes", type=float, help="stop in time; called again, it goes on")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--small", action="store_true", help="a form for a CPU")
    parser.add_argument("--scale", type=float, help="of all images; by default 1, with --small 0.3")
    parser.add_argument("--keep-models", action="store_true")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Every change with every seed, as far as the time goes; then the table."""
    arguments = parse_arguments(sys.argv[1:] if argv is None else argv)
    begun, console = time.monotonic(), Terminal(stderr=True)
    check_number("--scale", arguments.scale, above=0)
    keep_freed_memory()
    if arguments.teacher is not None:
        check_teacher(arguments.teacher, arguments.data)
    base = replace(find_recipe(arguments.base), train_split="fit", val_split=None)
    epochs = arguments.epochs if arguments.epochs is not None else (4 if arguments.small else 150)
    settings = [f"phases.0.epochs={epochs}", f"phases.0.warmup_epochs={min(5, epochs / 10)}"]
    settings += [*(SMALL if arguments.small else ()), *arguments.set]
    base = override(base, settings)
    plan = Plan(
        base,
        known(base, parse_changes(arguments.changes, arguments.change, arguments.teacher), console),
        arguments.data,
        arguments.out,
        parse_seeds(arguments.seeds),
        arguments.scale if arguments.scale is not None else (_SMALL_SCALE if arguments.small else 1.0),
        None if arguments.minutes is None else begun + 60 * arguments.minutes,
        arguments.device,
        arguments.keep_models,
    )
    check_folder(plan)
    results, missing = [], []
    for seed in plan.seeds:
        for name in plan.changes:
            result = run_one(plan, name, seed, console)
            if result is None:
                missing.append(f"{name} seed {seed}")
            else:
                results.append(result)
    rows = rows_of(results)
    table = markdown(rows, plan, missing)
    write(plan.out / "table.md", table)
    write(plan.out / "table.json", json.dumps({"base": to_json(plan.base), "rows": rows, "missing": missing}, indent=1))
    print(table)
    if missing:
        line = shlex.join(["python", *(sys.argv if argv is None else ["camvid_recipes.py", *argv])])
        print(f"{len(missing)} runs are left; go on with: {line}")


def check_folder(plan: Plan) -> None:
    """Note the base, or refuse to mix two.

    Raises:
        ConfigError: The folder holds runs of another base.
    """
    path = plan.out / "base.json"
    noted = {"config": to_json(plan.base), "image_scale": plan.image_scale}
    if not path.is_file():
        write(path, json.dumps(noted, indent=1))
    elif json.loads(path.read_text(encoding="utf-8")) != noted:
        raise ConfigError(f"expected the base of the runs in {plan.out}, got another one; choose another --out")


if __name__ == "__main__":
    main()
