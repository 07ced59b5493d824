"""How large and how costly each network is: parameters and multiply-adds, beside the published numbers.

In: a variant. Out: :class:`NetworkCounts`, counted by running the network on PyTorch's ``meta`` device, which knows
shapes only: no weights, no memory. The counts of every variant are kept in ``counts.json`` (what ``refineseg models``
prints) and ``docs/counts.md``; ``refineseg bench --counts --write`` makes both anew.

One multiply-add is one multiplication and one addition of a convolution (or of a matrix product, in backbones that have
them). Biases, norms, activations, pooling and enlargement are not counted.
"""

from __future__ import annotations

import copy
import json
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from refineseg.errors import ConfigError
from refineseg.evaluate.published import (
    CODE_2020,
    MEASURED_SCORES,
    PUBLISHED_COUNTS,
    PUBLISHED_SCORES,
    MeasuredScore,
    PublishedScore,
)
from refineseg.files.writing import written_beside
from refineseg.networks.building import build_network
from refineseg.networks.fused import merge_laterals
from refineseg.networks.model_names import SHIPPED
from refineseg.networks.refinenet import RefineNet, count_parameters
from refineseg.networks.variants import VARIANTS
from refineseg.segmenter import load_spec

SIZE_HW = (512, 512)
"""Image size of the table: the one at which the published numbers hold."""

CLASS_COUNTS = (21, 40)
"""Numbers of classes of the table: PASCAL VOC's and NYUDv2's."""

NOT_MEASURED = "not yet measured"

_GROUPS = {
    "refineseg": "ours, small: the light-weight decoder at a quarter of its width",
    "refinenet_lw": "Light-Weight RefineNet, BMVC 2018",
    **{f"refinenet_resnet{depth}": f"RefineNet on ResNet-{depth}, CVPR 2017" for depth in (50, 101, 152)},
}
"""Beginning of the names of variants -> what these are."""

TWO_SCALE_NOTE = (
    "Two-scale networks (*) make the copies of the image enlarged by 1.2 and shrunk to 0.6 themselves: at 512x512 "
    "their two encoders see 614x614 and 307x307. Both encoders are counted."
)


@dataclass(frozen=True)
class NetworkCounts:
    """Size and cost of a network.

    Args:
        parameters: Trainable values.
        multiply_adds: Multiply-adds of one image.
        encoder_parameters: The encoder's share.
        encoder_multiply_adds: The encoder's share.
        fused_multiply_adds: Multiply-adds of the whole network after :func:`refineseg.networks.fused.fuse`.
    """

    parameters: int
    multiply_adds: int
    encoder_parameters: int
    encoder_multiply_adds: int
    fused_multiply_adds: int


AllCounts = Mapping[str, Mapping[int, NetworkCounts]]
"""Variant -> number of classes -> counts at :data:`SIZE_HW`."""


def count(variant: str, num_classes: int = 21, size_hw: tuple[int, int] = SIZE_HW) -> NetworkCounts:
    """Count a variant, without weights or memory.

    Args:
        variant: A name in ``refineseg.VARIANTS``, or ``refinenet:<timm name>`` / ``refinenet_lw:<timm name>``.
        num_classes: Channels of the logits.
        size_hw: Height and width of the image. The network takes it as it is, as in the papers; only where its encoder
            cannot are both sides rounded up to what it can, as a segmenter pads images.

    Raises:
        ConfigError: No such variant, or a size or number of classes below 1.

    Example:
        >>> count("refinenet_lw_mobilenetv2", 21, (512, 512)).parameters
        3284565
    """
    with torch.device("meta"):
        network = build_network(variant, num_classes).eval()
    return count_network(network, size_hw)


def count_network(network: RefineNet, size_hw: tuple[int, int] = SIZE_HW) -> NetworkCounts:
    """Count a network of three image channels; on the ``meta`` device it takes no memory and hardly any time.

    Args:
        network: Network in evaluation mode.
        size_hw: As in :func:`count`.

    Raises:
        ConfigError: A size below 1.
    """
    if min(size_hw) < 1:
        raise ConfigError(f"expected a height and width of at least 1 pixel, got {size_hw[0]}x{size_hw[1]}")
    encoder = network.encoder
    if not encoder.takes_any_size:
        multiple = int(encoder.size_multiple)  # type: ignore[arg-type]
        size_hw = (-(-size_hw[0] // multiple) * multiple, -(-size_hw[1] // multiple) * multiple)
    image = torch.zeros(1, 3, *size_hw, device=next(network.parameters()).device)
    with torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            levels = encoder(image)
        of_encoder = int(counter.get_total_flops()) // 2  # two operations are one multiply-add
        fused = copy.deepcopy(network.decoder).eval()
        merge_laterals(fused)
        of_decoder, of_fused = (_multiply_adds(decoder, levels) for decoder in (network.decoder, fused))
    return NetworkCounts(
        count_parameters(network),
        of_encoder + of_decoder,
        count_parameters(encoder),
        of_encoder,
        of_encoder + of_fused,  # norms inside convolutions change no count
    )


def _multiply_adds(decoder: nn.Module, levels: list[Tensor]) -> int:
    with FlopCounterMode(display=False) as counter:
        decoder(levels)
    return int(counter.get_total_flops()) // 2


def count_all(*, seen: Callable[[str], None] | None = None) -> dict[str, dict[int, NetworkCounts]]:
    """Count every variant of the table; takes most of a minute.

    Args:
        seen: Called with the name of each variant before it is counted.
    """
    counts = {}
    for variant in VARIANTS:
        if seen is not None:
            seen(variant)
        counts[variant] = {num_classes: count(variant, num_classes, SIZE_HW) for num_classes in CLASS_COUNTS}
    return counts


def known_counts() -> dict[str, dict[int, NetworkCounts]]:
    """The counts that were stored with the package.

    Example:
        >>> known_counts()["refinenet_resnet101"][21].parameters
        118052437
    """
    content = json.loads((resources.files("refineseg.bench") / "counts.json").read_text(encoding="utf-8"))
    return {
        variant: {int(num_classes): NetworkCounts(**values) for num_classes, values in by_classes.items()}
        for variant, by_classes in content["variants"].items()
    }


def counts_json(counts: AllCounts) -> dict[str, Any]:
    """The table as JSON values, as in ``counts.json``."""
    return {
        "size_hw": list(SIZE_HW),
        "multiply_adds": "of convolutions, without biases; two floating point operations each",
        "variants": {
            variant: {str(num_classes): asdict(values) for num_classes, values in by_classes.items()}
            for variant, by_classes in counts.items()
        },
    }


def _starred(variant: str) -> str:
    return f"{variant} *" if VARIANTS[variant].two_scale else variant


def _published(variant: str) -> tuple[str, str]:
    """The published numbers of a variant and the number of classes that reproduces them; both may be empty."""
    published = PUBLISHED_COUNTS.get(variant)
    if published is None:
        return "", ""
    shown = ", ".join(published.shown(published.parameters, published.multiply_adds))
    return shown, f"{published.num_classes} classes"


def counts_table(counts: AllCounts) -> Table:
    """For the terminal."""
    table = Table(box=box.SIMPLE, caption=TWO_SCALE_NOTE, caption_justify="left")
    table.add_column("variant", no_wrap=True)
    for name in ("parameters\n21 classes", "multiply-adds\n21 classes", "multiply-adds\n40 classes"):
        table.add_column(Text(name), justify="right", no_wrap=True)
    table.add_column(Text("published\nas with"), no_wrap=True)
    for variant, by_classes in counts.items():
        costs = [f"{by_classes[num_classes].multiply_adds / 1e9:.3f} G" for num_classes in CLASS_COUNTS]
        table.add_row(
            _starred(variant), f"{by_classes[21].parameters:,}", *costs, Text("\n".join(_published(variant)).strip())
        )
    return table


_MARKDOWN = """# Parameters and multiply-adds

This page lists every network of `refineseg.VARIANTS` at 512x512. A multiply-add is one multiplication and one
addition of a convolution; biases, norms, activations, pooling and enlargement are not counted. *Fused* means the
network rewritten for inference (`refineseg.networks.fused`): several linear convolutions in a row become one.
`refineseg bench --counts --write` makes this page; the tests count again and compare.

"""

_MARKDOWN_END = """
{note}

For them a segmenter with weights of our own pads images to multiples of 160, thus 512x512 to 640x640; the table counts
the network alone.

`refinenet_lw_mobilenetv2_multitask` is the segmentation head alone, without those for depth and normals.

## Which convention gives the published numbers

* They are multiply-adds at **512x512**. The README of the light-weight code says 625x468, but there the same networks,
  with the same 40 classes, take 37.4 G, 60.1 G, 82.7 G and 10.5 G; published are 33 G, 52 G, 71 G and 9.3 G.
* The four light-weight numbers want **40 classes** (NYUDv2's); with 21 they would be {lw_21}.
  RefineNet-101's 263 G wants **21** (PASCAL VOC's); with 40 it would be {full_40:.1f} G. No single number of classes
  gives all five.
* Published parameters fit 21 and 40 classes alike.
* One class more costs {per_class:.1f} million multiply-adds: the 3x3 classifier on 256 channels of 128x128 (154x154
  in two-scale networks).
"""


def counts_markdown(counts: AllCounts) -> str:
    """The table as the page ``docs/counts.md``."""
    lines = [
        "| variant | parameters, 21 classes | of these, encoder | multiply-adds, 21 classes | of these, encoder "
        "| the same fused | multiply-adds, 40 classes | published | reproduced with |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- | --- |",
    ]
    for variant, by_classes in counts.items():
        few, many = by_classes[21], by_classes[40]
        cells = [f"{few.parameters:,}", f"{few.encoder_parameters:,}"]
        costs = (few.multiply_adds, few.encoder_multiply_adds, few.fused_multiply_adds, many.multiply_adds)
        cells += [f"{cost / 1e9:.3f} G" for cost in costs]
        name = f"`{variant}`{' *' if VARIANTS[variant].two_scale else ''}"
        lines.append(f"| {' | '.join([name, *cells, *_published(variant)])} |")
    light = [f"refinenet_lw_{encoder}" for encoder in ("resnet50", "resnet101", "resnet152", "mobilenetv2")]
    full = counts["refinenet_resnet101"]
    end = _MARKDOWN_END.format(
        note="\n".join(textwrap.wrap(TWO_SCALE_NOTE, 118)),
        lw_21=", ".join(f"{counts[variant][21].multiply_adds / 1e9:.1f} G" for variant in light),
        full_40=full[40].multiply_adds / 1e9,
        per_class=(full[40].multiply_adds - full[21].multiply_adds) / 19 / 1e6,
    )
    return _MARKDOWN + "\n".join(lines) + "\n" + end


def write_counts(counts: AllCounts) -> list[Path]:
    """Write ``counts.json`` of the package and ``docs/counts.md``; for developers, in a clone of the repository.

    Raises:
        ConfigError: The package lies in no clone.
    """
    package = Path(__file__).parent
    docs = package.parents[2] / "docs"
    if not docs.is_dir():
        raise ConfigError(f"expected a clone of the repository for --write, got {package} without {docs}; use --json")
    files = [package / "counts.json", docs / "counts.md"]
    for path, text in zip(files, (json.dumps(counts_json(counts), indent=1), counts_markdown(counts)), strict=True):
        with written_beside(path) as temporary:
            temporary.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
    return files


def scores_of(variant: str) -> tuple[list[PublishedScore], list[MeasuredScore]]:
    """Published scores of a variant on all data sets, and ours."""
    published = [score for scores in PUBLISHED_SCORES.values() for score in scores if score.variant == variant]
    return published, [score for scores in MEASURED_SCORES.values() for score in scores if score.variant == variant]


def groups_table() -> Table:
    """The variants by what they have in common, for the terminal."""
    table = Table("network", "parameters", "what it is", box=box.SIMPLE)
    counts = known_counts()
    for beginning, what in _GROUPS.items():
        names = [name for name in VARIANTS if name.startswith(beginning)]
        sizes = [counts[name][21].parameters / 1e6 for name in names]
        first, *others = names
        if all(name.startswith(first) for name in others):
            others = [f"also with {others[0].removeprefix(first)}", *(name.removeprefix(first) for name in others[1:])]
        table.add_row(", ".join((first, *others)), f"{min(sizes):.1f} to {max(sizes):.1f} M", what)
    table.add_row("refinenet:<timm name>, refinenet_lw:<timm name>", "", "any timm backbone of strides 4, 8, 16, 32")
    return table


def variants_table(names: Collection[str] = VARIANTS) -> Table:
    """Variants with their stored counts, for the terminal."""
    table = Table(box=box.SIMPLE, caption=f"multiply-adds at 512x512. {TWO_SCALE_NOTE}", caption_justify="left")
    table.add_column("variant", no_wrap=True)
    table.add_column(Text("parameters\n21 classes"), justify="right", no_wrap=True)
    table.add_column(Text("multiply-adds\n21 classes"), justify="right", no_wrap=True)
    table.add_column("source")
    counts = known_counts()
    for name in (variant for variant in VARIANTS if variant in names):
        numbers, source = counts[name][21], VARIANTS[name].source
        table.add_row(_starred(name), f"{numbers.parameters:,}", f"{numbers.multiply_adds / 1e9:.1f} G", source)
    return table


def scores_table(names: Collection[str] = VARIANTS) -> Table:
    """Published mean IoU and ours, by variant and data set, for the terminal."""
    table = Table(box=box.SIMPLE, caption=f"+ {CODE_2020}", caption_justify="left")
    for name in ("variant", "data set", "scored"):
        table.add_column(name, no_wrap=name != "scored")
    table.add_column(Text("published\nmIoU %"), justify="right", no_wrap=True)
    table.add_column(Text("ours\nmIoU %"), justify="right", no_wrap=True)
    for variant in (name for name in VARIANTS if name in names):
        published, measured = scores_of(variant)
        rows: list[tuple[str, str, str, str, str]] = []
        for score in published:
            ours = [s.mean_iou for s in measured if _conditions(s) == _conditions(score)]
            mark = " +" if score.source == CODE_2020 else ""
            rows.append((*_conditions(score), f"{100 * score.mean_iou:.1f}{mark}", _percents(ours) or NOT_MEASURED))
        known = {_conditions(score) for score in published}
        rows += [(*_conditions(s), "-", _percents([s.mean_iou])) for s in measured if _conditions(s) not in known]
        for index, (dataset, split, *cells) in enumerate(rows):
            table.add_row("" if index else variant, f"{dataset} {split}", *cells)
    return table


def _conditions(score: PublishedScore | MeasuredScore) -> tuple[str, str, str]:
    return score.dataset, score.split, score.protocol


def _percents(values: Sequence[float]) -> str:
    return ", ".join(f"{100 * value:.1f}" for value in values)


def variants_json() -> dict[str, Any]:
    """Variant -> counts, source and scores, as JSON values."""
    counts = known_counts()
    return {
        name: {
            "source": variant.source,
            "counts": {str(num_classes): asdict(numbers) for num_classes, numbers in counts[name].items()},
            "published": [asdict(score) for score in scores_of(name)[0]],
            "ours": [asdict(score) for score in scores_of(name)[1]],
        }
        for name, variant in VARIANTS.items()
    }


def shipped_models() -> dict[str, dict[str, Any]]:
    """Name -> variant, number of classes, licence and scores of every shipped model, as JSON values."""
    models = {}
    for name in SHIPPED:
        spec = load_spec(name)
        scores = [score for of_recipe in MEASURED_SCORES.values() for score in of_recipe if score.model == name]
        models[name] = {
            "variant": spec.variant,
            "num_classes": spec.class_info.num_classes,
            "licence": spec.licence,
            "ours": [asdict(score) for score in scores],
        }
    return models
