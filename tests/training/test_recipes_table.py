"""The table of what each choice of a CamVid recipe is worth: computed again from the runs it names."""

import json
import re
import statistics

from conftest import REPOSITORY
from refineseg.training.recipes.table import find_recipe

DOCS = REPOSITORY / "docs"
LOG = json.loads((DOCS / "camvid_recipes.json").read_text(encoding="utf-8"))


def runs_of(change):
    return {run["seed"]: run for run in LOG["runs"] if run["change"] == change}


def with_spread(values, sign=""):
    return f"{statistics.mean(values):{sign}.1f} ± {statistics.stdev(values):.1f}"


def test_each_row_is_the_mean_and_spread_of_its_runs():
    page = (DOCS / "experiments.md").read_text(encoding="utf-8")
    section = page.split("## What each choice of a CamVid recipe is worth")[1].split("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\| .*$", section, re.MULTILINE)
    ]
    base = runs_of("base")
    assert {row[0] for row in rows[1:] if row[0] != "---"} == {run["change"] for run in LOG["runs"]}
    for change, _, mean_iou, difference, _, boundary in rows[2:]:
        runs = runs_of(change)
        assert sorted(runs) == [0, 1, 2]
        assert mean_iou == with_spread([100 * run["mean_iou"] for run in runs.values()])
        assert boundary == with_spread([100 * run["boundary_iou"] for run in runs.values()])
        if change != "base":
            pairs = [100 * (run["mean_iou"] - base[seed]["mean_iou"]) for seed, run in runs.items()]
            assert difference == with_spread(pairs, "+")


def test_every_run_has_a_log_of_all_its_epochs_and_never_saw_test():
    assert LOG["base"]["config"]["variant"] == find_recipe("camvid_refineseg_small").variant
    assert LOG["base"]["config"]["train_split"] == "fit"
    for run in LOG["runs"]:
        assert len(run["loss"]) == run["epochs"]
        assert run["loss"][-1] < run["loss"][0]
        assert run["split"] == "held_out"
        classes = run["class_iou"].values()
        assert abs(sum(classes) / len(classes) - run["mean_iou"]) < 1e-4
