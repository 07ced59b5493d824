"""The table of a reproduction: what every seed reached, mean and spread, beside published numbers.

In: the results of the seeds. Out: plain values for JSON, and the same as Markdown.
"""

from __future__ import annotations

import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from refineseg._version import __version__
from refineseg.evaluate.card import percent, table
from refineseg.evaluate.comparison import KEY, compare_published
from refineseg.evaluate.protocol import MeasurementProtocol
from refineseg.training.config import TrainingConfig, to_json

_PACKAGES = ("torch", "torchvision", "timm", "lightning", "numpy", "pillow")


@dataclass(frozen=True)
class SeedResult:
    """What a seed reached.

    Args:
        seed: Which.
        value: The evaluation as JSON, with what is known of its training.
    """

    seed: int
    value: Mapping[str, Any]

    def numbers(self) -> dict[str, float | None]:
        """Every number of the table by its name, 0..1."""
        value = self.value
        found: dict[str, float | None] = {
            "mIoU": value["mean_iou"],
            "boundary IoU": value["boundary"]["mean_iou"],
            "pixel accuracy": value["pixel_accuracy"],
            "mean accuracy": value["mean_accuracy"],
            "frequency-weighted IoU": value["frequency_weighted_iou"],
        }
        for name, part in value.get("parts", {}).items():
            found[f"mIoU, {name} ({part['num_images']} images)"] = part["mean_iou"]
            found[f"boundary IoU, {name}"] = part["boundary"]["mean_iou"]
        found |= {f"IoU of {name}": entry["iou"] for name, entry in value["per_class"].items()}
        return found


def spread(values: Sequence[float | None]) -> dict[str, float | None]:
    """Mean, standard deviation (of a sample, n - 1), lowest and highest; None where a value is missing.

    Example:
        >>> spread([0.70, 0.72])
        {'mean': 0.71, 'standard_deviation': 0.014142135623730963, 'lowest': 0.7, 'highest': 0.72}
    """
    known = [value for value in values if value is not None]
    if len(known) < len(values) or not known:
        return dict.fromkeys(("mean", "standard_deviation", "lowest", "highest"))
    deviation = statistics.stdev(known) if len(known) > 1 else None
    return {
        "mean": statistics.mean(known),
        "standard_deviation": deviation,
        "lowest": min(known),
        "highest": max(known),
    }


def summary(results: Sequence[SeedResult], config: TrainingConfig, *, left: Sequence[str]) -> dict[str, Any]:
    """The table as plain values.

    Args:
        results: Results of the seeds that are done, at least one.
        config: The recipe.
        left: What is still to do, in words.
    """
    numbers = {result.seed: result.numbers() for result in results}
    names = list(dict.fromkeys(name for of_seed in numbers.values() for name in of_seed))
    spreads = {name: spread([of_seed.get(name) for of_seed in numbers.values()]) for name in names}
    first = results[0].value
    protocol = MeasurementProtocol.from_json(first[KEY])
    mean = spreads["mIoU"]["mean"] or 0.0
    return {
        "version": __version__,
        "recipe": config.recipe,
        "variant": first["variant"],
        "complete": not left,
        "left": list(left),
        "seeds": [result.seed for result in results],
        KEY: protocol.to_json(),
        "protocols_equal": all(result.value[KEY] == first[KEY] for result in results),
        "spread": spreads,
        "by_seed": {str(seed): of_seed for seed, of_seed in numbers.items()},
        "published": [row.to_json() for row in compare_published(protocol, mean, first["variant"])],
        "runs": [
            {"seed": result.seed, "model": result.value["model"], "model_sha256": result.value["model_sha256"]}
            | dict(result.value["training"])
            for result in results
        ],
        "measured_with": {
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}",
            **{name: metadata.version(name) for name in _PACKAGES},
        },
        "config": {**to_json(config), "seed": None},
    }


def markdown(value: Mapping[str, Any]) -> str:
    """The table as Markdown."""
    protocol = MeasurementProtocol.from_json(value[KEY])
    seeds = value["seeds"]
    head = ["%", "mean", "standard deviation", "lowest", "highest", *(f"seed {seed}" for seed in seeds)]
    rows = []
    for name, of_name in value["spread"].items():
        deviation = of_name["standard_deviation"]
        cells = [percent(of_name["mean"]), "-" if deviation is None else f"{100 * deviation:.2f}"]
        cells += [percent(of_name["lowest"]), percent(of_name["highest"])]
        rows.append([name, *cells, *(percent(value["by_seed"][str(seed)].get(name)) for seed in seeds)])
    parts = [
        f"# {value['recipe']} on {protocol.dataset} {protocol.split}",
        f"Measured: {protocol.describe()}.",
    ]
    if not value["complete"]:
        parts.append("**Not complete**; left: " + "; ".join(value["left"]) + ".")
    if not value["protocols_equal"]:
        parts.append("**The protocols of the seeds differ**, see the JSON files of each.")
    parts += [table(head, rows), "## Beside published numbers", _published(value, protocol), "## Conditions"]
    parts.append(_conditions(value))
    return "\n\n".join(parts) + "\n"


def _published(value: Mapping[str, Any], protocol: MeasurementProtocol) -> str:
    mean = value["spread"]["mIoU"]["mean"] or 0.0
    compared = compare_published(protocol, mean, value["variant"])
    if not compared:
        return "No published number of this network is stored for this split."
    lines = ["| network | mIoU % | beside our mean | source |", "| --- | ---: | --- | --- |"]
    lines += [f"| {row.network} | {percent(row.mean_iou)} | {row.verdict} | {row.origin} |" for row in compared]
    return "\n".join(lines)


def _conditions(value: Mapping[str, Any]) -> str:
    runs = [
        f"* seed {run['seed']}: {run['epochs']} epochs in {float(run['training_seconds'] or 0) / 60:.1f} minutes on "
        f"{run['hardware']}, refineseg {run['version']}, torch {run['torch']}; `{run['model']}` "
        f"(sha256 {run['model_sha256'][:16]})"
        for run in value["runs"]
    ]
    tools = ", ".join(f"{name} {version}" for name, version in value["measured_with"].items())
    return "\n".join([*runs, f"* measured with refineseg {value['version']}, {tools}"])
