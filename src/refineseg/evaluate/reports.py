"""What training and evaluation leave behind: learning curves, tables, the confusion matrix, and the files of a run.

In: the history of epochs, a confusion matrix. Out: PNG and JSON files, tables for the terminal.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from refineseg.errors import ConfigError, DatasetError
from refineseg.evaluate.boundary import BoundaryIoU
from refineseg.evaluate.metrics import MEANS, PROTOCOL, ConfusionMatrix
from refineseg.files.archives import decoded, read_bytes
from refineseg.files.foreign_text import parse_json
from refineseg.files.made_by import MADE_BY_EVALUATE
from refineseg.files.writing import written_beside
from refineseg.terminal.printable import short

_LABEL, _USUAL_LABEL = 30, 14  # characters of a class name in a picture
_MOST_LABELS, _LARGEST_SIDE = 100, 50.0  # names on an axis; inches, where more classes are packed closer


def read_history(path: Path) -> list[dict[str, Any]]:
    """The epochs in the ``metrics.jsonl`` of a run.

    Raises:
        ConfigError: It cannot be read, or a line is no epoch: a run that was killed may end within a line.
    """
    try:
        history = [parse_json(line) for line in decoded(read_bytes(path)).splitlines() if line.strip()]
        for entry in history:
            if not isinstance(entry, dict) or type(entry.get("epoch")) is not int:
                raise ValueError(f"no epoch in {entry!r:.40}")
            names = ("loss", "mean_iou" if "mean_iou" in entry else "decoder_lr")
            if wrong := [name for name in names if type(entry.get(name)) not in (int, float)]:
                raise ValueError(f"no number as {wrong[0]} of epoch {entry['epoch']}")
    except (OSError, ValueError, DatasetError) as error:
        raise ConfigError(
            f"expected the metrics.jsonl of a run, got {path}: {error}; remove that line, or go on with the run"
        ) from error
    return history


def history_of(model: str, given: Path | None) -> list[dict[str, Any]]:
    """The epochs of a model's training; none where no history lies beside it.

    Args:
        model: Path of its file, or a shipped name.
        given: Path of its ``metrics.jsonl``; None: the one beside the model, if there is one.

    Raises:
        ConfigError: As :func:`read_history`.
    """
    path = given or Path(model).parent / "metrics.jsonl"
    return [] if given is None and not path.is_file() else read_history(path)


def write_report(
    folder: Path,
    history: Sequence[dict[str, Any]],
    matrix: ConfusionMatrix | None,
    *,
    protocol: Mapping[str, Any] | None = None,
) -> None:
    """``curves.png``, and with a validation split ``metrics.json`` with the per-class numbers of the last model.

    Args:
        folder: Folder of the run.
        history: Its epochs.
        matrix: Matrix of the last measurement; None: none.
        protocol: Its conditions, as they stand in the model file; None: not known.
    """
    draw_curves(folder / "curves.png", history)
    if matrix is None:
        return
    value = matrix.to_json()
    if protocol is not None:
        value["measurement_protocol"] = {name: item for name, item in protocol.items() if name != "training_images"}
    with written_beside(folder / "metrics.json") as temporary:
        temporary.write_text(json.dumps(value, indent=1), encoding="utf-8")


def draw_curves(path: Path, history: Sequence[dict[str, Any]]) -> None:
    """Loss, mIoU and learning rate over the epochs, as a PNG."""
    from matplotlib.figure import Figure  # imported late: half a second that only the end of a run needs

    measured = [e for e in history if "mean_iou" in e]
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [e["epoch"] for e in history]
    left.plot(epochs, [e["loss"] for e in history], color="tab:blue")
    left.set(xlabel="epoch", ylabel="training loss", title="Loss")
    if measured:
        right.plot([e["epoch"] for e in measured], [100 * e["mean_iou"] for e in measured], color="tab:green")
        right.set(xlabel="epoch", ylabel="mIoU on val, %", title="Validation")
    else:
        right.plot(epochs, [e["decoder_lr"] for e in history], color="tab:orange")
        right.set(xlabel="epoch", ylabel="learning rate (decoder)", title="Schedule (no validation split)")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:  # noqa: ANN401 - matplotlib's
    picture = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # then a box stands for it
        figure.savefig(picture, dpi=110, format="png", metadata={"Software": MADE_BY_EVALUATE})
    with written_beside(path) as temporary:
        temporary.write_bytes(picture.getbuffer())


def metrics_table(matrix: ConfusionMatrix, *, title: str, boundary: BoundaryIoU | None = None) -> Table:
    """Per-class IoU, accuracy and share of the labelled pixels, and the means, for the terminal.

    The mean IoU by another definition is shown where it is another number, and boundary IoU where it was measured.
    """
    others = {name: matrix.mean_iou_by(name) for name in MEANS if name != "in_truth"}
    others = {name: value for name, value in others.items() if value == value != matrix.mean_iou}
    caption = "\n".join([PROTOCOL, *(f"mIoU, {name}: {MEANS[name]}" for name in others)])
    table = Table(title=title, caption=Text(caption, style="dim"))
    bands = [] if boundary is None else ["boundary IoU %"]
    for column in ("class", "IoU %", *bands, "accuracy %", "pixels %"):
        table.add_column(column, justify="left" if column == "class" else "right")
    total = max(int(matrix.counts.sum()), 1)
    for i, name in enumerate(matrix.class_info.names):
        along = () if boundary is None else (boundary.per_class_iou[i],)
        row = (matrix.per_class_iou[i], *along, matrix.per_class_accuracy[i], matrix.counts[i].sum() / total)
        table.add_row(short(name), *("-" if value != value else f"{100 * value:.2f}" for value in row))
    table.add_section()
    for name, value in (
        ("mIoU", matrix.mean_iou),
        *((f"mIoU, {name}", value) for name, value in others.items()),
        *(() if boundary is None else ((f"mean boundary IoU ({100 * boundary.ratio:g} %)", boundary.mean_iou),)),
        ("mean accuracy", matrix.mean_accuracy),
        ("pixel accuracy", matrix.pixel_accuracy),
        ("frequency-weighted IoU", matrix.frequency_weighted_iou),
    ):
        table.add_row(name, f"{100 * value:.2f}")
    return table


def draw_confusion(path: Path, matrix: ConfusionMatrix) -> None:
    """The confusion matrix as a PNG: each row is a true class and sums to 100 %."""
    from matplotlib.figure import Figure

    names = [
        *(short(name, most=_LABEL) for name in matrix.class_info.names),
        *(["void"] if matrix.counts[:, -1].any() else []),
    ]
    counts = matrix.counts[:, : len(names)]
    shares = 100 * counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    side = 2.5 + 0.45 * len(names) + 0.08 * max(0, max(map(len, names)) - _USUAL_LABEL)
    side = min(side, _LARGEST_SIDE)  # 1000 classes would need 10 GB
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    if len(names) <= _MOST_LABELS:
        axes.set_xticks(range(len(names)), names, rotation=60, ha="right", parse_math=False)
        axes.set_yticks(range(len(shares)), names[: len(shares)], parse_math=False)
    axes.set(xlabel="predicted", ylabel="true", title="Share of each true class, %")
    if len(names) <= 40:
        for i, row in enumerate(shares):
            for j, share in enumerate(row):
                if share >= 0.5:
                    axes.text(
                        j,
                        i,
                        f"{share:.0f}",
                        ha="center",
                        va="center",
                        fontsize=7,
                        color="white" if share > 50 else "black",
                    )
    _save(figure, path)
