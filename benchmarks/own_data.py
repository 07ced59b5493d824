"""How good a model of one's own gets in the minutes one has, beside other libraries on the same ImageNet weights.

    python benchmarks/own_data.py --sets crack_forest,cell_membrane,steel_defects --root OWN --out runs/own

Each run is a process of its own with two threads, one after the other: nothing else should run. The time is that of the
whole process. At every time our default recipe meets Unet and FPN of segmentation-models-pytorch (``pip install
segmentation-models-pytorch``) twice: in a plain loop like its documented one, and in our loop; the middle time has more
networks. Called again it goes on where it stopped. Val is measured once per run; nothing is chosen by it.

Out: ``OUT/SET/MINUTES/CONTENDER_seedN.json``, ``OUT/result.json``, ``OUT/table.md`` and ``OUT/curves.png``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from refineseg.files.writing import written_beside

RUN = Path(__file__).with_name("own_data_run.py")
NETWORKS = {
    "refineseg": "folder_refineseg_lite0_5cascade",
    "smp Unet": "Unet-lite0",
    "smp Unet, our loop": "Unet-lite0",
    "smp FPN": "FPN-lite0",
    "smp FPN, our loop": "FPN-lite0",
    "refineseg, 4-cascaded": "folder_refineseg_lite0",
    "refineseg, MobileNet-v2": "folder_refinenet_lw_mobilenetv2",
    "smp DeepLabV3+": "DeepLabV3+-lite0",
    "smp DeepLabV3+, our loop": "DeepLabV3+-lite0",
    "LR-ASPP, our loop": "LR-ASPP-lite0",
}
"""Contender -> our recipe, or the network; all on the same ImageNet weights but MobileNet-v2."""

OURS = ("refineseg", "refineseg, 4-cascaded", "refineseg, MobileNet-v2")
"""The default, and those before it."""

ALWAYS, ONCE = tuple(NETWORKS)[:5], tuple(NETWORKS)[5:]


def planned(options: argparse.Namespace) -> Iterator[tuple[str, float, str, int, Path]]:
    """Set, minutes, contender, seed and result of every run: all contenders of a cell, then the next cell."""
    minutes = [float(text) for text in options.minutes.split(",")]
    for seed in map(int, options.seeds.split(",")):
        for name in options.sets.split(","):
            for time_given in minutes:
                once = ONCE if time_given == minutes[len(minutes) // 2] and not options.few else ()
                for contender in options.contender or (*ALWAYS, *once):
                    file = f"{contender.replace(', ', '_').replace(' ', '_')}_seed{seed}.json"
                    yield name, time_given, contender, seed, options.out / name / f"{time_given:g}" / file


def result_of(path: Path, contender: str) -> dict[str, Any] | None:
    """A stored result; None where there is none. One of another network, as of a former default, ends the program."""
    if not path.is_file():
        return None
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if (found := result.get("network")) != NETWORKS[contender]:
        sys.exit(
            f"expected a result of {NETWORKS[contender]} in {path}, got one of {found or 'an unknown network'}; remove "
            "it, or choose another --out"
        )
    return result


def measured(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row per set, minutes and contender: mIoU in percent and seconds of every seed."""
    rows: dict[tuple[str, float, str], dict[str, Any]] = {}
    for name, minutes, contender, seed, path in planned(options):
        if result := result_of(path, contender):
            row = {"set": name, "minutes": minutes, "contender": contender, "mean_iou": {}, "seconds": {}}
            row = rows.setdefault((name, minutes, contender), row)
            row["mean_iou"][str(seed)] = 100 * result["mean_iou"]
            row["seconds"][str(seed)] = result["seconds"]
    return list(rows.values())


def _mean(row: dict[str, Any]) -> float:
    return statistics.mean(row["mean_iou"].values())


def of_shared_seeds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with the seeds that every contender of their cell has: means of unlike seeds compare nothing."""
    shared: dict[tuple[str, float], set[str]] = {}
    for row in rows:
        shared.setdefault((row["set"], row["minutes"]), set(row["mean_iou"])).intersection_update(row["mean_iou"])
    kept = []
    for row in rows:
        seeds = shared[row["set"], row["minutes"]]
        values = {kind: {s: v for s, v in row[kind].items() if s in seeds} for kind in ("mean_iou", "seconds")}
        kept += [{**row, **values}] if seeds else []
    return kept


def cells(rows: list[dict[str, Any]]) -> dict[tuple[str, float], dict[str, float]]:
    """Set and minutes -> contender -> mean IoU in percent."""
    found: dict[tuple[str, float], dict[str, float]] = {}
    for row in rows:
        found.setdefault((row["set"], row["minutes"]), {})[row["contender"]] = _mean(row)
    return found


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Mean and spread of every cell in percent, the best of a line in bold, as lines of Markdown."""
    measured_ones = {row["contender"] for row in rows}
    contenders = [c for c in dict.fromkeys((*OURS, *ALWAYS, *ONCE)) if c in measured_ones]
    lines = [
        f"| set | minutes | {' | '.join(contenders)} |",
        f"| --- | ---: | {' | '.join(['---:'] * len(contenders))} |",
    ]
    seeds = {(row["set"], row["minutes"], row["contender"]): list(row["mean_iou"].values()) for row in rows}
    for (name, minutes), means in cells(rows).items():
        texts = []
        for contender in contenders:
            values = seeds.get((name, minutes, contender), [])
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            text = f"{means[contender]:.1f}{spread}" if values else "-"
            texts.append(f"**{text}**" if means.get(contender) == max(means.values()) else text)
        lines.append(f"| `{name}` | {minutes:g} | {' | '.join(texts)} |")
    return lines


def draw(path: Path, rows: list[dict[str, Any]]) -> None:
    """MIoU over minutes, one picture per set."""
    from matplotlib.figure import Figure

    sets = list(dict.fromkeys(row["set"] for row in rows))
    figure = Figure(figsize=(4 * len(sets), 3.6), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(sets), squeeze=False)[0], sets, strict=True):
        for contender in (*ALWAYS, *ONCE):
            points = sorted(
                (row["minutes"], _mean(row)) for row in rows if (row["set"], row["contender"]) == (name, contender)
            )
            if points:
                style = {"linewidth": 2.5, "marker": "o"} if contender.startswith("refineseg") else {"marker": "s"}
                axes.plot(*zip(*points, strict=True), label=contender, **style)
        axes.set(title=name, xlabel="minutes of the whole process", ylabel="mIoU on val, %")
        axes.set_xlim(0, 1.1 * max(row["minutes"] for row in rows))
        axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    with written_beside(path) as temporary:
        figure.savefig(temporary, dpi=100, format="png")


def main() -> None:
    """Run what is missing; then the table and the picture of what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder that holds the sets")
    parser.add_argument("--sets", default="crack_forest,cell_membrane,steel_defects", help="folders in it, by comma")
    parser.add_argument("--minutes", default="2,5,10")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--contender", action="append", choices=(*ALWAYS, *ONCE), help="only this one; may be repeated")
    parser.add_argument("--few", action="store_true", help="only our default, Unet and FPN at every time")
    parser.add_argument("--most-hours", type=float, default=24.0, help="start no run after so many hours")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    end, failed = time.monotonic() + 3600 * options.most_hours, []
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    for name, minutes, contender, seed, path in planned(options):
        if result_of(path, contender) or time.monotonic() > end:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        data = f"folder:{options.root / name}"
        print(f"{name}, {minutes:g} minutes, {contender}, seed {seed}", flush=True)
        command = [sys.executable, str(RUN), contender, "--data", data, "--minutes", str(minutes), "--seed", str(seed)]
        command += ["--threads", str(options.threads), "--begun", str(time.time()), "--out", str(path)]
        log = path.with_suffix(".log")
        with log.open("w") as file:
            status = subprocess.run(command, env=environment, check=False, stdout=file, stderr=file).returncode
        if status:
            failed.append(log)
            print(f"failed with status {status}; its output is in {log}", flush=True)
    rows = of_shared_seeds(measured(options))
    options.out.mkdir(parents=True, exist_ok=True)
    text = "\n".join(table(rows)) + "\n"
    kept = {"threads": options.threads, "rows": rows}
    for name, content in (("result.json", json.dumps(kept)), ("table.md", text)):
        with written_beside(options.out / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
    if rows:
        draw(options.out / "curves.png", rows)
    print(text)
    if failed:
        sys.exit(f"{len(failed)} runs failed; their output is in {', '.join(map(str, failed))}")


if __name__ == "__main__":
    main()
