"""Model cards: what a model file says of itself and what was measured, with pictures of its worst failures.

In: an evaluation of a model file, the history of its training where it lies beside it. Out: a card whose blocks between
``<!-- made: NAME -->`` and ``<!-- end: NAME -->`` are written anew each time; every other word of it is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

from refineseg.errors import ConfigError
from refineseg.evaluate.card_blocks import fill
from refineseg.evaluate.comparison import FROM_MEMORY
from refineseg.evaluate.measuring import EvaluationResult
from refineseg.evaluate.reports import draw_curves, history_of
from refineseg.files.archives import read_text
from refineseg.files.writing import written_beside
from refineseg.networks.model_spec import ModelSpec
from refineseg.networks.refinenet import count_parameters
from refineseg.segmenter import load, load_spec
from refineseg.terminal.printable import printable, short

_UNKNOWN = "not stated"


@dataclass(frozen=True)
class CardFiles:
    """Where a card and its pictures go.

    Args:
        out: Folder of the pictures.
        card: The Markdown file; None: ``out/card.md``. An existing one keeps what was written by hand.
        history: ``metrics.jsonl`` of the training; None: the one beside the model, if there is one.
    """

    out: Path
    card: Path | None = None
    history: Path | None = None

    @property
    def path(self) -> Path:
        """The Markdown file."""
        return self.card or self.out / "card.md"

    @property
    def pictures_beside(self) -> bool:
        """Whether the card lies in the folder of its pictures, so that it can show them."""
        return self.path.parent.resolve() == self.out.resolve()


def write_card(result: EvaluationResult, files: CardFiles) -> Path:
    """Write the card of the model that was evaluated, and its learning curves; the evaluation wrote the failures.

    Args:
        result: With labels; its worst images lie in ``files.out / "pictures"``.
        files: Where to.

    Returns:
        The card.

    Raises:
        ConfigError: The evaluation has no labels, the history cannot be read, or the card that is there has no blocks.
        DatasetError: The card that is there is no text.
    """
    if result.matrix is None:
        raise ConfigError(f"expected a labelled split for a card, got {result.split} of {result.data}")
    spec, history = load_spec(result.model), history_of(result.model, files.history)
    if history:
        draw_curves(files.out / "curves.png", history)
    blocks = {
        "facts": _facts(spec, count_parameters(load(result.model).network)),
        "results": _results(result),
        "published": _published(result),
        "curves": _curves(history, shown=files.pictures_beside),
        "failures": _failures(result, shown=files.pictures_beside),
    }
    if files.path.is_file():
        text = read_text(files.path)
    else:
        template = resources.files("refineseg.evaluate") / "card_template.md"
        text = template.read_text(encoding="utf-8").replace("{name}", Path(result.model).stem)
    with written_beside(files.path) as temporary:
        temporary.write_text(fill(text, blocks), encoding="utf-8")
    return files.path


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = [f"| {' | '.join(head)} |", f"| --- |{' ---: |' * (len(head) - 1)}"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def _foreign(text: str) -> str:
    """What a model or a data set brings: neither HTML nor the end of a cell."""
    return escape(printable(text), quote=False).replace("|", "\\|")


def percent(value: float | None) -> str:
    """In percent with one decimal; ``-`` where there is none."""
    return "-" if value is None or value != value else f"{100 * value:.1f}"


def _facts(spec: ModelSpec, parameters: int) -> str:
    provenance, classes = spec.provenance, spec.class_info
    config, protocol = (_mapping(provenance.get(name)) for name in ("config", "protocol"))
    seconds = provenance.get("training_seconds")
    minutes = f"{seconds / 60:.1f} minutes" if isinstance(seconds, int | float) else _UNKNOWN
    images = _stated(lambda: _images(protocol), otherwise="")
    rows = (
        ("Network", f"`{spec.variant}`, {classes.num_classes} classes, {parameters:,} parameters"),
        ("Data", ", ".join(part for part in (str(provenance.get("data", _UNKNOWN)), images) if part)),
        ("Other data", str(protocol.get("other_data") or f"started from: {provenance.get('started_from', _UNKNOWN)}")),
        ("Recipe", _stated(lambda: _recipe(config)) if config else str(provenance.get("recipe", _UNKNOWN))),
        ("Epochs", str(provenance.get("epochs", _UNKNOWN))),
        ("Seed", str(provenance.get("seed", _UNKNOWN))),
        ("Hardware", str(provenance.get("hardware", _UNKNOWN))),
        ("Training time", minutes),
        ("Software", f"refineseg {provenance.get('version', '?')}, torch {provenance.get('torch', '?')}"),
        ("Licence of the weights", spec.licence or _UNKNOWN),
    )
    return "| | |\n| --- | --- |\n" + "\n".join(f"| {name} | {_foreign(text)} |" for name, text in rows)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _stated(read: Callable[[], str], *, otherwise: str = _UNKNOWN) -> str:
    """What the provenance says; anybody may have written it, in another form."""
    try:
        return read()
    except (AttributeError, LookupError, TypeError, ValueError):
        return otherwise


def _images(protocol: Mapping[str, Any]) -> str:
    sizes = {None: "unknown size", "various": "various sizes"}
    return "; ".join(
        f"{part['num_images']} images of {sizes.get(part['image_size'], part['image_size'])}, "
        f"{part['compression'] + ' files' if part['compression'] else 'files of unknown compression'}"
        for part in protocol.get("training_images", [])
    )


def _recipe(config: Mapping[str, Any]) -> str:
    """A configuration in a line: its phases, and every plain value."""
    phases = "; ".join(
        f"{phase['epochs']} epochs of {crops['crop_hw'][0]}x{crops['crop_hw'][1]} crops at scale "
        f"{crops['scale'][0]:g}-{crops['scale'][1]:g}, batches of {phase['batch_size']}, encoder "
        f"{phase['encoder_lr']:g}, decoder {phase['decoder_lr']:g}, {phase['schedule']}"
        for phase in config["phases"]
        for crops in (phase.get("crops", phase),)  # before 0.2 they stood in the phase
    )
    config = {**config, **config.get("loss", {})}
    hidden = ("recipe", "variant", "phases", "network", "seed", "loss")
    plain = (f"{name} {value}" for name, value in config.items() if name not in hidden and value is not None)
    return f"`{config['recipe']}`: {phases}; {', '.join(plain)}"


def _results(result: EvaluationResult) -> str:
    assert result.matrix is not None
    assert result.protocol is not None
    matrix, boundary = result.matrix, result.boundary
    means = {
        "mIoU": matrix.mean_iou,
        **({} if boundary is None else {f"boundary IoU ({100 * boundary.ratio:g} %)": boundary.mean_iou}),
        "mean accuracy": matrix.mean_accuracy,
        "pixel accuracy": matrix.pixel_accuracy,
        "frequency-weighted IoU": matrix.frequency_weighted_iou,
    }
    parts = {"all": (result.num_images, matrix)}
    if len(result.parts) > 1:
        parts |= {name: (part.num_images, part.matrix) for name, part in result.parts.items()}
    columns = [
        *((f"IoU %, {name} ({images})", [*m.per_class_iou, m.mean_iou]) for name, (images, m) in parts.items()),
        ("accuracy %", [*matrix.per_class_accuracy, matrix.mean_accuracy]),
        *([] if boundary is None else [("boundary IoU %", [*boundary.per_class_iou, boundary.mean_iou])]),
    ]
    rows = [
        [name, *(percent(values[i]) for _, values in columns)]
        for i, name in enumerate([*(_foreign(short(name)) for name in matrix.class_info.names), "**mean**"])
    ]
    lines = [
        f"Measured: {result.protocol.describe()}.",
        *([f"**{result.warning}.**"] if result.warning else []),
        *result.notes,
        table(list(means), [[f"{percent(value)} %" for value in means.values()]]),
        table(["class", *(title for title, _ in columns)], rows),
    ]
    return "\n\n".join(lines)


def _published(result: EvaluationResult) -> str:
    if not result.published:
        return "No published number of this network is stored for this split."
    rows = [
        [row.network, percent(row.mean_iou), row.verdict, row.origin.replace(FROM_MEMORY, f"**{FROM_MEMORY}**")]
        for row in result.published
    ]
    return "Only numbers of an equal protocol are compared; beside the others stands what differs.\n\n" + "\n".join(
        ["| network | mIoU % | beside ours | source |", "| --- | ---: | --- | --- |"]
        + [f"| {' | '.join(row)} |" for row in rows]
    )


def _curves(history: Sequence[Mapping[str, Any]], *, shown: bool) -> str:
    if not history:
        return "There is no history of the training beside the model."
    last = f"Last of {len(history)} epochs: training loss {history[-1]['loss']:.3f}."
    return f"{last}\n\n![learning curves](curves.png)" if shown else f"{last} `refineseg card` draws the curves."


def _failures(result: EvaluationResult, *, shown: bool) -> str:
    if not result.failures:
        return "None were asked for."
    lines = []
    for rank, failure in enumerate(result.failures, 1):
        lines.append(f"{rank}. {_foreign(failure.name)}: {_foreign(failure.describe())}")
        if shown:
            address = quote(f"pictures/{failure.file_name(rank)}")
            lines.append(f"\n   ![image, truth, prediction, errors]({address})\n")
    end = "" if shown else "\n\nThe pictures are made by `refineseg card`; frames of the data set are not passed on."
    return "\n".join(lines) + end
