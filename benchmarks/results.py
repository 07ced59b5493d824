"""Measured results, kept as JSON in ``benchmarks/results``, and the pages of the docs that show them.

    python benchmarks/results.py record camvid_test --hide CAMVID=/data/camvid -- \
        refineseg evaluate --model camvid --data camvid:/data/camvid --split test
    python benchmarks/results.py pages

``record`` runs a command and keeps its numbers, with the command, the day and the machine. A command of ``refineseg``
writes them by ``--json``; another program prints them, or writes the file ``--from``. ``--hide`` writes a NAME in place
of a path. ``pages`` writes ``docs/accuracy.md``, ``docs/timings.md``, ``docs/own_data.md`` and the pictures
``docs/shipped_models.png`` and ``docs/own_data.png``; a test holds that the pages show what the files say.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import own_data

from refineseg.bench.timing import describe_machine
from refineseg.files.writing import written_beside

HERE = Path(__file__).parent
RESULTS = HERE / "results"
DOCS = HERE.parent / "docs"
_LEFT_OUT = ("config", "per_class", "published")
"""Keys of a command's JSON that no page shows and that make files long."""


def record(name: str, command: Sequence[str], hidden: dict[str, str], source: Path | None) -> Path:
    """Run a command and keep its numbers as ``benchmarks/results/NAME.json``."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        out = source or Path(folder) / "result.json"
        if command[0] == "refineseg":
            pictures = ["--out", folder] if command[1] == "evaluate" else []
            run = [sys.executable, "-m", *command, "--json", str(out), *pictures]
        else:
            run = [sys.executable if part == "python" else part for part in command]
        printed = subprocess.run(run, check=True, stdout=None if command[0] == "refineseg" else subprocess.PIPE).stdout
        text = out.read_text(encoding="utf-8") if out.is_file() else printed.decode("utf-8")
    shown = shlex.join(command)
    for short, path in hidden.items():
        shown, text = shown.replace(path, short), text.replace(path, short)
    found = json.loads(text)
    found = {key: value for key, value in found.items() if key not in _LEFT_OUT}
    machine = found.pop("machine", None) or describe_machine(torch.device("cpu"))
    machine["system"] = str(machine.get("system", "")).partition("-")[0]  # the kernel's name says nothing to others
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    path = RESULTS / f"{name}.json"
    kept = {"command": shown, "date": today, "machine": machine, "result": found}
    with written_beside(path) as temporary:
        temporary.write_text(json.dumps(kept) + "\n", encoding="utf-8")
    return path


def read_results() -> dict[str, dict[str, Any]]:
    """All that was recorded, by name."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))}


def kind_of(kept: dict[str, Any]) -> str:
    """What was measured: ``accuracy``, ``model``, ``folder``, ``networks`` or ``own_data``."""
    words = shlex.split(kept["command"])
    if words[:2] == ["refineseg", "evaluate"]:
        return "accuracy"
    if words[:2] == ["refineseg", "bench"]:
        return "folder" if "--folder" in words else "model"
    return {"benchmarks/camvid_peers.py": "networks", "benchmarks/own_data.py": "own_data"}[words[1]]


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    aligned = ["---" if i < 2 else "---:" for i in range(len(heads))]
    return [f"| {' | '.join(row)} |" for row in (heads, aligned, *rows)]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _option(kept: dict[str, Any], name: str, default: str = "") -> str:
    words = shlex.split(kept["command"])
    return words[words.index(name) + 1] if name in words else default


def _measured(kept: dict[str, Any]) -> str:
    machine = kept["machine"]
    return (
        f"{kept['date']}, {machine['cpu']} ({machine['cpu_instructions']}), {machine['threads']} threads, "
        f"torch {machine['torch']}, load {machine['load_1_minute']:.1f}"
    )


def _commands(found: Iterable[dict[str, Any]]) -> list[str]:
    lines = ["", "## Commands", ""]
    for kept in found:
        lines += [f"* `{kept['command']}`", f"  {_measured(kept)}"]
    return lines


def accuracy_page(results: dict[str, dict[str, Any]]) -> str:
    """Every ``evaluate`` as a row."""
    found = [kept for kept in results.values() if kind_of(kept) == "accuracy"]
    rows = []
    for kept in found:
        result = kept["result"]
        scales = "" if result["scales"] == [1] else f" `--scales {result['scales'][0]:g}`"
        rows.append(
            (
                f"`{_option(kept, '--model', 'camvid')}`{scales}",
                f"`{result['data']}`, {result['split']}",
                f"{result['num_images']}",
                f"{result['backend']}, {result['precision']}",
                *(_percent(result[key]) for key in ("mean_iou", "pixel_accuracy", "mean_accuracy")),
            )
        )
    heads = ("model", "data, split", "images", "runtime", "mIoU %", "pixel accuracy %", "mean accuracy %")
    lines = [
        "# Accuracy, as measured",
        "",
        "`python benchmarks/results.py pages` writes this page from the files in `benchmarks/results`. Each file",
        "has the confusion matrix, the command, the day and the machine. All numbers are for a single scale without",
        "mirroring, with one matrix over the split. Names in capital letters stand for folders. `camvid8.xml` and",
        "the like are 8-bit files of `camvid` and the other models, exported as on the page [Speed](speed.md).",
        "The cards on [Models](models.md) say what was trained on what.",
        "",
        *_table(heads, rows),
        *_commands(found),
    ]
    return "\n".join(lines) + "\n"


def _way(row: dict[str, Any]) -> str:
    if row["backend"] == "torch" and not row["plain"]:
        return "torch, rewritten" if row["fused"] else "torch, as it is"
    return f"{row['backend']}, {'plain network' if row['plain'] else row['note']}".removesuffix(", ")


def _model_section(kept: dict[str, Any]) -> list[str]:
    first = kept["result"]["rows"][0]
    rows = [
        (
            _way(row),
            row["precision"],
            f"{row['p50_ms']:.1f}",
            f"{row['p99_ms']:.1f}",
            f"{row['speedup']:.1f}",
            "-" if row["of_limit"] is None else f"{row['of_limit']:.2f}",
        )
        for row in kept["result"]["rows"]
    ]
    heads = ("runtime", "precision", "p50 ms", "p99 ms", "times as fast", "of the limit")
    return [f"### `{first['model']}`, {first['size']}", "", *_table(heads, rows), ""]


def _folder_section(found: Sequence[dict[str, Any]]) -> list[str]:
    rows = [
        (
            f"`{row['model']}`",
            f"{row['backend']}, {row['precision']}",
            f"{row['network_per_s']:.1f}",
            f"{row['predict_per_s']:.1f}",
            f"{row['ratio']:.2f}",
            f"{row['bound']:.2f}",
        )
        for kept in found
        for row in kept["result"]["rows"]
    ]
    heads = ("model", "runtime", "network, images/s", "`predict FOLDER`, images/s", "ratio", "bound")
    return ["## Folders end to end", "", *_table(heads, rows), ""]


def _networks_section(kept: dict[str, Any]) -> list[str]:
    rows = [
        (
            f"`{row['network']}`" if row["ours"] else row["network"],
            f"{row['parameters'] / 1e6:.2f} M",
            f"{row['multiply_adds'] / 1e9:.2f} G",
            ", ".join(_percent(value) for value in row["mean_iou"].values()) or "-",
            *(f"{row['median_ms'][way]:.1f}" if way in row["median_ms"] else "-" for way in _WAYS),
        )
        for row in kept["result"]["rows"]
    ]
    heads = ("network", "parameters", "multiply-adds", "mIoU % on a held-out drive", *_WAYS)
    return ["## Networks on the same encoder, trained alike", "", _NETWORKS, "", *_table(heads, rows), ""]


_WAYS = ("OpenVINO, rewritten", "OpenVINO, plain", "ONNX Runtime, rewritten", "ONNX Runtime, plain")
_NETWORKS = (
    "Milliseconds of one image of 360x480 in float32; *rewritten* is how refineseg runs its own networks\n"
    "([fused](counts.md)). The mIoU is from the same command without `--steps time`. The networks saw the\n"
    "same crops in the same order, for the same few epochs, from the same ImageNet weights. [Speed](speed.md) has the\n"
    "picture."
)


def timings_page(results: dict[str, dict[str, Any]]) -> str:
    """Every ``bench``, folder and comparison as a table."""
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for kept in results.values():
        by_kind.setdefault(kind_of(kept), []).append(kept)
    lines = [
        "# Timings, as measured",
        "",
        "`python benchmarks/results.py pages` writes this page from the files in `benchmarks/results`. Times are from",
        "`uint8` pixels in main memory to the class map, in turns in one process. [Speed](speed.md) explains the",
        "columns.",
        "",
        "![Shipped models: mIoU on CamVid's test images over milliseconds](shipped_models.png)",
        "",
        "*Shipped models on CamVid's test images at 480x360, in OpenVINO: one point for each precision.*",
        "",
        "## Models",
        "",
    ]
    for kept in by_kind.get("model", []):
        lines += _model_section(kept)
    if "folder" in by_kind:
        lines += _folder_section(by_kind["folder"])
    for kept in by_kind.get("networks", []):
        lines += _networks_section(kept)
    timed = [kept for kind in ("model", "folder", "networks") for kept in by_kind.get(kind, [])]
    return "\n".join([*lines[:-1], *_commands(timed)]) + "\n"


def own_data_rows(results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of all measurements of own data, by set and minutes."""
    kept_ones = [kept for name, kept in results.items() if kind_of(kept) == "own_data" and name != _AGAIN]
    rows = [row for kept in kept_ones for row in kept["result"]["rows"]]
    sets = list(dict.fromkeys(row["set"] for row in rows))
    return sorted(rows, key=lambda row: (sets.index(row["set"]), row["minutes"]))


def points_behind(rows: list[dict[str, Any]]) -> list[float]:
    """How far ours is behind the best in each cell; 0 where it is first."""
    cells = own_data.cells(rows).values()
    ours = [next(means[name] for name in own_data.OURS if name in means) for means in cells]
    return [max(means.values()) - own for means, own in zip(cells, ours, strict=True)]


def own_data_page(results: dict[str, dict[str, Any]]) -> str:
    """Cells of set and minutes, and how often the default recipe is first."""
    rows, again = own_data_rows(results), results[_AGAIN]["result"]["rows"]
    behind, behind_again = points_behind(rows), points_behind(again)
    seeds = sorted({seed for row in rows for seed in row["mean_iou"]})
    budgets = [row for row in rows if row["contender"] in own_data.OURS or row["contender"].endswith("our loop")]
    used = [seconds / (0.6 * row["minutes"]) for row in budgets for seconds in row["seconds"].values()]
    lines = [
        "# Own data, as measured",
        "",
        _OWN_DATA,
        "",
        f"`refineseg train --budget` is first in {behind.count(0.0)} of {len(behind)} cells, and at most",
        f"{max(behind):.1f} points behind in the others. Seeds: {', '.join(seeds)}; with more than one, a cell has",
        "their mean and standard deviation. One seed says little where two are less than a point apart: on steel,",
        "seeds differ by up to three points. Runs with `--budget` used "
        f"{min(used):.0f} to {max(used):.0f} % of their time.",
        "Cells that are missing were not run. mIoU on `val` in percent:",
        "",
        *own_data.table(rows),
        "",
        "![mIoU over minutes, one picture per set](own_data.png)",
        "",
        "## Five blocks and their closest rival at 2 and 5 minutes",
        "",
        f"{_OWN_DATA_AGAIN} is first in {behind_again.count(0.0)} of {len(behind_again)} cells, and at most "
        f"{max(behind_again):.1f} points behind:",
        "",
        *own_data.table(again),
        *_commands(kept for kept in results.values() if kind_of(kept) == "own_data"),
    ]
    return "\n".join(lines) + "\n"


_AGAIN = "own_data_again"
_OWN_DATA_AGAIN = """\
The contender that came closest, Unet in our loop, met the default recipe again, both on one machine within an hour,
with nothing else running. The machine's speed changed by a fifth while they ran, so they used 84 to 108 % of their
time. The default"""

_OWN_DATA = """\
This page shows how good a model for your own data gets in a few minutes. The sets are cracks in asphalt
(`crack_forest`, 88 images to learn from and 30 to validate, 480x320,
[CrackForest](https://github.com/cuilimeng/CrackForest-dataset)), cell membranes under an electron microscope
(`cell_membrane`, 24 and 6, 512x512, [ISBI 2012](https://github.com/zhixuhao/unet)) and defects of steel
(`steel_defects`, 4 classes, 908 and 420, 200x200, a part of [NEU_Seg](https://github.com/DHW-Master/NEU_Seg)).
The command below expects each set in `OWN/SET` as `images/SPLIT` and `masks/SPLIT`. Every fourth pair of the cracks and
every fifth of the membranes is `val`. Of NEU_Seg, every fourth training pair and every second test pair is taken.

Every run is a process of its own, with nothing else running. Its time counts from the start of Python to the end of
training: imports, reading and checks of the data are in it. *refineseg* is the default recipe with `--budget`
(`refineseg_lite0_5cascade`), *refineseg, 4-cascaded* the default before it (`folder_refineseg_lite0`). The peers are
networks of segmentation-models-pytorch on the same EfficientNet-Lite0 with the same ImageNet weights: once in a plain
loop like its documented one (Adam at 2e-4, Dice loss, float32, glibc's memory as it is), once in our loop with our
recipe, where only the network differs. `val` is measured once per run, and nothing was chosen by it: the recipe was
chosen on folds of `train` ([Experiments](experiments.md)).

All contenders of a row met on one machine; the rows of 10 minutes are from another one than the rest (below), and the
five blocks ran there some hours later. At 2 and 5 minutes five blocks met only their closest rival (the table below).
On a slower machine ([Experiments](experiments.md)) they are first on cracks in two minutes, 1.5 points behind on
membranes and 12 on steel, where few steps fitted. Where five blocks are missing here, four count as ours.
Training has become faster since some rows were measured: those of 2 minutes, and that of the cracks at 5 minutes, are
from before the Lovasz loss became six times as fast. All rows of four blocks but that of steel at 10 minutes are from
before budgets measured reading apart from computing."""


def points(results: dict[str, dict[str, Any]]) -> list[tuple[str, str, float, float]]:
    """Model, precision, milliseconds and mIoU in percent of what was both evaluated and timed on CamVid's size."""
    times = {
        (row["model"], row["precision"]): row["p50_ms"]
        for kept in results.values()
        if kind_of(kept) == "model"
        for row in kept["result"]["rows"]
        if row["backend"] == "openvino" and row["fused"] and row["size"] == "360x480"
    }
    found = []
    for name, kept in results.items():
        if kind_of(kept) == "accuracy" and kept["result"]["data"] == "camvid:CAMVID":
            model, precision = name.removesuffix("_test"), kept["result"]["precision"]
            for suffix in ("_bfloat16", "_int8"):
                model = model.removesuffix(suffix)
            if (model, precision) in times:
                found.append((model, precision, times[model, precision], 100 * kept["result"]["mean_iou"]))
    return found


def draw(path: Path, found: Sequence[tuple[str, str, float, float]]) -> None:
    """The points as a picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for model in dict.fromkeys(point[0] for point in found):
        own = sorted(point[1:] for point in found if point[0] == model)
        axes.plot([p[1] for p in own], [p[2] for p in own], "o", label=model)
        for precision, milliseconds, mean_iou in own:
            below = -14 if precision == "int8" else 5  # often as fast as bfloat16
            axes.annotate(
                precision, (milliseconds, mean_iou), xytext=(5, below), textcoords="offset points", fontsize=8
            )
    axes.set(
        xlabel="ms of one 480x360 image, OpenVINO",
        ylabel="mIoU on CamVid's test images, %",
        xlim=(0, 1.25 * max(point[2] for point in found)),
    )
    axes.margins(x=0.15, y=0.2)
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
    with written_beside(path) as temporary:
        figure.savefig(temporary, dpi=100)


PAGES = {"accuracy.md": accuracy_page, "timings.md": timings_page, "own_data.md": own_data_page}
"""File in the docs -> what writes it."""


def main(argv: Sequence[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    recording = verbs.add_parser("record", help="run a command and keep its numbers")
    recording.add_argument("name", help="of the file in benchmarks/results")
    recording.add_argument("--hide", action="append", default=[], metavar="NAME=PATH", help="NAME in place of PATH")
    recording.add_argument("--from", type=Path, dest="source", help="JSON file that the command writes")
    recording.add_argument("command", nargs="+", help="after --")
    verbs.add_parser("pages", help="write the pages of the docs")
    arguments = parser.parse_args(argv)
    if arguments.verb == "record":
        hidden = dict(text.split("=", 1) for text in arguments.hide)
        print(record(arguments.name, arguments.command, hidden, arguments.source))
        return
    results = read_results()
    for page, write in PAGES.items():
        text = write(results)
        with written_beside(DOCS / page) as temporary:
            temporary.write_text(text, encoding="utf-8")
    draw(DOCS / "shipped_models.png", points(results))
    own_data.draw(DOCS / "own_data.png", own_data_rows(results))


if __name__ == "__main__":
    main(sys.argv[1:])
