"""``refineseg bench``: wiring only, heavy imports inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from refineseg.cli.app import Device, ModelOrVariant, messages, tables, verb, write_json
from refineseg.cli.completion import data_sets, recipes
from refineseg.errors import ConfigError
from refineseg.terminal.arguments import (
    check_device_name,
    check_number,
    check_outputs,
    check_word,
    near_files,
    parse_size,
)
from refineseg.terminal.printing import Terminal, print_lines

_MOST_BATCHED, _MOST_ROUNDS = 4096, 1_000_000  # slips of the finger lie above


Size = Annotated[
    str | None,
    typer.Option(help="Size of images; by default 512x512, for --papers on a CPU 256x256.", metavar="HxW"),
]
Backend = Annotated[
    str | None,
    typer.Option(
        help="Runtime: torch, openvino, onnxruntime, tensorrt, torch_export, torch_compile; by default all that are "
        "installed, on a CPU without torch_compile; with --folder also auto."
    ),
]
Repeats = Annotated[int | None, typer.Option(help="Number of rounds; by default 5 to 50, as half a minute allows.")]
Stages = Annotated[
    Path | None, typer.Option(help="Image or folder; measures decoding, network, argmax and encoding alone.")
]
Folder = Annotated[
    Path | None, typer.Option(help="Folder of images; compares images/s of predict (masks only) and network.")
]
Training = Annotated[
    str | None,
    typer.Option(
        help="Recipe; measures images/s of loader, network, and both.", metavar="RECIPE", autocompletion=recipes
    ),
]
Data = Annotated[
    str | None,
    typer.Option(help="Data set as NAME:ROOT, with --training.", metavar="NAME:ROOT", autocompletion=data_sets),
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Setting of the recipe, with --training.", metavar="KEY=VALUE")
]


@verb(
    "refineseg bench --model camvid --size 480x640",
    "refineseg bench --folder pictures --backend openvino",
    "refineseg bench --training camvid_refineseg_lite0 --data camvid:CamVid",
    "refineseg bench --counts",
)
def bench(
    model: ModelOrVariant = "camvid",
    size: Size = None,
    device: Device = "auto",
    precision: Annotated[str | None, typer.Option(help="Precision: float32, bfloat16 or int8; by default all.")] = None,
    batch_size: Annotated[int, typer.Option(help="Number of images in a batch.")] = 1,
    backend: Backend = None,
    repeats: Repeats = None,
    stages: Stages = None,
    folder: Folder = None,
    papers: Annotated[bool, typer.Option("--papers", help="Measure both papers, and the steps between them.")] = False,
    counts: Annotated[
        bool, typer.Option("--counts", help="Show parameters and multiply-adds; measure no times.")
    ] = False,
    write: Annotated[
        bool, typer.Option("--write", help="Count again, and write counts.json and docs/counts.md.")
    ] = False,
    training: Training = None,
    data: Data = None,
    workers: Annotated[int | None, typer.Option(help="Number of reading processes, with --training.")] = None,
    settings: Settings = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="File for all numbers, as JSON.")] = None,
) -> None:
    """Measure the speed of a model on this machine.

    Times are milliseconds from uint8 pixels to the class map, in turns with the plain network. Other options measure
    folders and training, or count operations.
    """
    _check_bench(papers, counts, write, training, data, repeats)
    _check_bench_words(
        None if papers or counts or training else model, size, device, precision, batch_size, backend, workers, folder
    )
    _check_bench_files(stages, folder, training, data, settings or [], json_file)
    if folder is not None and (
        papers or counts or training or stages is not None or size is not None or batch_size != 1
    ):
        raise ConfigError(
            "expected --folder with none of --papers, --counts, --training, --stages, --size, --batch-size"
        )
    if stages is not None and papers:
        raise ConfigError("expected --stages without --papers, which has no model of its own, got both")
    console = messages()
    if folder is not None:  # what `predict` does, too
        from refineseg.devices import keep_freed_memory

        keep_freed_memory()
    if folder is not None:
        from refineseg.bench.end_to_end import bench_folder

        chosen: Any = {"backend": backend, "precision": precision, "rounds": repeats}
        report = bench_folder(model, folder, device=device, console=console, **chosen)
        value: Any = _shown(report)
    elif training is not None and data is not None:
        options: Any = {"num_workers": workers, "rounds": repeats}
        value = _bench_training(training, data, settings or [], device, console, options)
    elif counts:
        value = _bench_counts(write=write)
    else:
        options = {"device": device, "repeats": repeats, "console": console}
        if not papers:
            options |= {"model": model, "precision": precision, "batch": batch_size, "backend": backend}
        value = _bench_times(size, stages, options, papers=papers)
    if json_file is not None:
        write_json(json_file, value)


def _check_bench(
    papers: bool, counts: bool, write: bool, training: str | None, data: str | None, repeats: int | None
) -> None:
    """Refuse options that do not go together before anything is loaded."""
    if write and not counts:
        raise ConfigError("expected --write with --counts, whose numbers it stores, got it alone; add --counts")
    check_number("--repeats", repeats, least=1, most=_MOST_ROUNDS)
    if (papers and counts) or (training and (papers or counts)):
        raise ConfigError(
            "expected --papers, --counts, --counts --write, --training or none of them, got another combination"
        )
    if (training is None) != (data is None):
        raise ConfigError("expected --training RECIPE and --data NAME:ROOT together, got one of them")


def _check_bench_words(
    model: str | None,
    size: str | None,
    device: str,
    precision: str | None,
    batch_size: int,
    backend: str | None,
    workers: int | None,
    folder: Path | None,
) -> None:
    """Refuse words and numbers that mean nothing, before PyTorch is imported; None: no model of its own."""
    from refineseg.networks.model_names import check_model_or_variant
    from refineseg.runtimes.table import BACKENDS, PRECISIONS, is_exported

    if model is not None and is_exported(model) and folder is None:
        raise ConfigError(
            f"expected --folder with an exported file, which is measured on images, got {model} without it; add "
            "--folder FOLDER, or name the model file"
        )
    if model is not None:
        check_model_or_variant(model)
    if size is not None:
        parse_size(size)
    if precision is not None:
        check_word("precision", precision, (*PRECISIONS, "int8"))
    if backend is not None:
        check_word("backend", backend, (*BACKENDS, "auto") if folder else tuple(BACKENDS))
    check_device_name(device)
    check_number("--batch-size", batch_size, least=1, most=_MOST_BATCHED)
    check_number("--workers", workers, least=0)


def _check_bench_files(
    stages: Path | None,
    folder: Path | None,
    training: str | None,
    data: str | None,
    settings: list[str],
    json_file: Path | None,
) -> None:
    """Refuse files, data and recipes that are not there, before PyTorch is imported."""
    from refineseg.data.datasets import open_sources
    from refineseg.images.files import IMAGE_SUFFIXES, find_images
    from refineseg.training.config import override
    from refineseg.training.recipes.table import find_recipe

    check_outputs({"--json": json_file})
    for option, path in (("--stages", stages), ("--folder", folder)):
        if path is not None and not path.exists():
            raise ConfigError(f"expected a folder of images as {option}, but there is no {path}{near_files(path)}")
        is_image = path is not None and option == "--stages" and path.suffix.lower() in IMAGE_SUFFIXES
        if path is not None and not (find_images(path) if path.is_dir() else is_image):
            raise ConfigError(f"expected a folder of images as {option}, got {path}, where there is none")
    if training is not None and data is not None:
        config = override(find_recipe(training), settings)
        if not any(phase.data for phase in config.phases):
            open_sources(data, split=config.train_split)


def _shown(report: Any) -> Any:  # noqa: ANN401 - a Report, which would be a heavy import; JSON
    """A report as a table on stdout and as plain values."""
    tables().print(report.table)
    print_lines(report.conditions)
    return report.to_json()


def _bench_times(
    size: str | None,
    stages: Path | None,
    options: Any,  # noqa: ANN401 - of bench_papers or bench_model
    *,
    papers: bool,
) -> Any:  # noqa: ANN401 - JSON
    """Times in turns, and those of stages, as tables on stdout and as plain values."""
    from refineseg.bench.benchmark import bench_model, bench_papers
    from refineseg.bench.stages import stage_images

    if stages is not None:
        stage_images(stages)  # before minutes are spent
    report = bench_papers(size=size, **options) if papers else bench_model(size=size or "512x512", **options)
    value = _shown(report)
    if stages is not None:
        value["stages"] = _bench_stages(options["model"], stages, options["device"], options["repeats"])
    return value


def _bench_counts(*, write: bool) -> Any:  # noqa: ANN401 - JSON
    """Parameters and multiply-adds, stored ones or counted anew, as a table on stdout and as plain values."""
    from refineseg.bench.counting import count_all, counts_json, counts_table, known_counts, write_counts

    console = messages()
    numbers = count_all(seen=lambda name: console.say(f"counting {name}")) if write else known_counts()
    tables().print(counts_table(numbers))
    for path in write_counts(numbers) if write else ():
        print_lines(f"written: {path}")
    return counts_json(numbers)


def _bench_training(
    recipe: str,
    data: str,
    settings: list[str],
    device: str,
    console: Terminal,
    options: Any,  # noqa: ANN401 - of bench_training
) -> Any:  # noqa: ANN401 - JSON
    """Images/s of training, as a table on stdout and as plain values."""
    from refineseg.training.config import override
    from refineseg.training.recipes.table import find_recipe
    from refineseg.training.speed import bench_training

    config = override(find_recipe(recipe), settings)
    return _shown(bench_training(config, data, device=device, console=console, **options))


def _bench_stages(model: str, images: Path, device: str, repeats: int | None) -> Any:  # noqa: ANN401 - JSON
    """The stages of real images, as a table on stdout and as plain values."""
    from refineseg.bench.benchmark import model_or_variant
    from refineseg.bench.stages import measure_stages, stages_table
    from refineseg.devices import find_device

    found = measure_stages(model_or_variant(model), images, device=find_device(device), repeats=repeats or 5)
    tables().print(stages_table(found, images))
    return found
