"""The command line: one function per verb, wiring only; heavy imports are inside.

Results go to stdout, progress and warnings to stderr. Exit status 0: done; 1: some inputs failed, each named; 2: the
call is wrong, with one message.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from refineseg._version import __version__
from refineseg.errors import ConfigError, RefinesegError

app = typer.Typer(
    name="refineseg",
    help="RefineNet and Light-Weight RefineNet: train, evaluate and predict semantic segmentation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Model = Annotated[str, typer.Option(help="A shipped model (camvid) or a .safetensors file.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
Precision = Annotated[str, typer.Option(help="float32, or bfloat16 (faster where the hardware has it).")]
Scales = Annotated[str, typer.Option(help="Score at these scales and average, for instance 0.5,1,1.5.")]
Flip = Annotated[bool, typer.Option("--flip", help="Score mirrored, too, and average.")]
Protocol = Annotated[str, typer.Option(help="light_weight, light_weight_v1, authors, authors_cityscapes.")]
Enlargement = Annotated[float | None, typer.Option(help="In front of the network, with the authors' protocols: 1.2.")]
Crf = Annotated[bool, typer.Option("--crf", help="Refine by a dense CRF.")]


def _stderr() -> Console:
    return Console(stderr=True)


def _table_console() -> Console:
    """stdout; wide enough for a table where it is no terminal."""
    return Console() if sys.stdout.isatty() else Console(width=100)


def _write_json(path: Path, value: Any) -> None:  # noqa: ANN401 - JSON
    from refineseg.images import written_beside

    with written_beside(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1), encoding="utf-8")


def _version(asked: bool | None) -> None:
    if asked:
        print(f"refineseg {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool | None, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = None,
) -> None:
    """RefineNet and Light-Weight RefineNet: train, evaluate and predict semantic segmentation."""


@app.command()
def predict(
    inputs: Annotated[list[Path], typer.Argument(help="Images and folders of images.", metavar="INPUT...")],
    out: Annotated[Path, typer.Option(help="Folder for the results; folder structure is kept.")],
    model: Model = "camvid",
    save: Annotated[
        str, typer.Option(help="What to write: mask, overlay, probabilities, with commas.")
    ] = "mask,overlay",
    device: Device = "auto",
    precision: Precision = "float32",
    scales: Scales = "1",
    flip: Flip = False,
    protocol: Protocol = "light_weight",
    enlargement: Enlargement = None,
    crf: Crf = False,
) -> None:
    """Segment images: OUT/<name>.png (palette PNG, value = class id) and OUT/<name>_overlay.jpg with a legend."""
    from refineseg.predict.files import predict_files
    from refineseg.predict.predictor import PredictorOptions

    options = PredictorOptions.parse(
        device=device,
        precision=precision,
        scales=scales,
        flip=flip,
        protocol=protocol,
        enlargement=enlargement,
        crf=crf,
    )
    failed = predict_files(inputs, out, model=model, save=save, options=options, console=_stderr())
    if failed:
        raise typer.Exit(1)


@app.command()
def train(
    recipe: Annotated[
        str | None, typer.Argument(help="A recipe, see `refineseg models`; by default the data set's.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="NAME:ROOT, for instance folder:my_pictures; join several by +.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run.")] = None,
    config: Annotated[Path | None, typer.Option(help="run.json of another run, instead of a recipe.")] = None,
    variant: Annotated[str | None, typer.Option(help="Network, see `refineseg models`.")] = None,
    init: Annotated[str | None, typer.Option(help="Fine-tune this model (shipped name or file).")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate of the decoder.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Crops per step.")] = None,
    pretrained: Annotated[
        bool | None, typer.Option("--pretrained/--no-pretrained", help="ImageNet weights: must / must not be used.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE of the config.", metavar="KEY=VALUE")
    ] = None,
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Leave out phases whose data sets are not given.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    device: Device = "auto",
    workers: Annotated[int | None, typer.Option(help="Reading processes.")] = None,
) -> None:
    """Train on a data set; into OUT go best and last model, metrics.jsonl, curves.png and a checkpoint per epoch."""
    from refineseg.predict.predictor import find_device
    from refineseg.training.progress import TerminalProgress
    from refineseg.training.run import RunRequest, resume_run, start_run

    progress = TerminalProgress(_stderr())
    find_device(device)
    if out is None:
        raise ConfigError("expected --out FOLDER for the run, got none")
    if resume:
        extra = [recipe, config, variant, init, epochs, lr, batch_size, pretrained, settings]
        if any(option is not None and option != [] for option in extra):
            raise ConfigError(
                "expected --resume with --out, --data, --device and --workers only: a run keeps its settings"
            )
        resume_run(out, data=data, device=device, num_workers=workers, progress=progress)
    else:
        if data is None:
            raise ConfigError("expected --data NAME:ROOT, got none; for instance --data folder:my_pictures")
        plain = (epochs, lr, batch_size)
        chosen = _training_config(recipe, config, data, variant, pretrained, init, plain, settings or [])
        start_run(RunRequest(chosen, data, init, device, workers, skip_missing), out, progress=progress)
    _show_result(out)


def _training_config(
    recipe: str | None,
    path: Path | None,
    data: str,
    variant: str | None,
    pretrained: bool | None,
    init: str | None,
    plain: tuple[int | None, float | None, int | None],
    settings: list[str],
) -> Any:  # noqa: ANN401 - TrainingConfig, which would be a heavy import
    from dataclasses import replace

    from refineseg.data.datasets import parse_sources
    from refineseg.networks.variants import find_variant
    from refineseg.training.config import from_json, override
    from refineseg.training.recipes import DEFAULT_RECIPE, find_recipe
    from refineseg.training.run import recipe_options

    if recipe is not None and path is not None:
        raise ConfigError(f"expected a recipe or --config, got both ({recipe} and {path})")
    if init is not None and (variant is not None or pretrained):
        raise ConfigError(
            "expected --init alone: the model brings its variant and weights; leave --variant/--pretrained out"
        )
    name = next(iter(parse_sources(data)))
    if path is not None:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ConfigError(f"expected a run.json as --config, got {path}: {error}") from error
        config = from_json(content.get("config", content) if isinstance(content, dict) else {})
    else:
        config = find_recipe(recipe or DEFAULT_RECIPE[name])
    if variant is not None:
        find_variant(variant)
        config = replace(config, variant=variant)
    if pretrained is not None:
        config = replace(config, pretrained="yes" if pretrained else "no")
    epochs, lr, batch_size = plain
    return override(recipe_options(config, epochs=epochs, lr=lr, batch_size=batch_size), settings)


def _show_result(out: Path) -> None:
    """The per-class table on stdout, and where the model is."""
    from refineseg.metrics import ConfusionMatrix
    from refineseg.reports import metrics_table
    from refineseg.segmenter import load_spec

    best, metrics = out / "best.safetensors", out / "metrics.json"
    spec = load_spec(out / "last.safetensors")
    if metrics.is_file():
        matrix = ConfusionMatrix.from_json(json.loads(metrics.read_text(encoding="utf-8")), spec.class_info)
        _table_console().print(metrics_table(matrix, title=f"last model on {spec.provenance['metrics']['split']}"))
    result = best if best.is_file() else out / "last.safetensors"
    print(f"model: {result}\ncurves: {out / 'curves.png'}")
    _stderr().print(f"next: refineseg predict --model {result} --out masks PICTURES", highlight=False, soft_wrap=True)


@app.command()
def evaluate(
    data: Annotated[str, typer.Option(help="NAME:ROOT, for instance camvid:CamVid.")],
    model: Model = "camvid",
    split: Annotated[str, typer.Option(help="Which split; train+val joins.")] = "val",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all numbers there.")] = None,
    pictures: Annotated[int, typer.Option(help="Draw the N worst images: image, truth, prediction, errors.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for pictures and confusion matrix.")] = Path("evaluation"),
    submission: Annotated[
        Path | None, typer.Option(help="Write a benchmark's files of the predictions there; needs no labels.")
    ] = None,
    device: Device = "auto",
    precision: Precision = "float32",
    scales: Scales = "1",
    flip: Flip = False,
    protocol: Protocol = "light_weight",
    enlargement: Enlargement = None,
    crf: Crf = False,
) -> None:
    """Measure a model: pixel and mean accuracy, mIoU, frequency-weighted IoU, per class."""
    from refineseg.evaluation import EvaluationFiles, evaluate_to_files
    from refineseg.predict.predictor import PredictorOptions
    from refineseg.reports import metrics_table

    options = PredictorOptions.parse(
        device=device,
        precision=precision,
        scales=scales,
        flip=flip,
        protocol=protocol,
        enlargement=enlargement,
        crf=crf,
    )
    files = EvaluationFiles(out, pictures, submission)
    result = evaluate_to_files(model, data, split, options=options, files=files, console=_stderr())
    for note in result.notes:
        print(note)
    print(result.how)
    if result.matrix is not None:
        title = f"{model} on {data} {split}, {result.num_images} images"
        _table_console().print(metrics_table(result.matrix, title=title))
        print(f"confusion matrix: {out / 'confusion_matrix.png'}")
    if submission is not None:
        print(f"submission: {result.num_images} files below {submission}")
    if json_file is not None:
        _write_json(json_file, result.to_json())


@app.command()
def bench(
    model: Annotated[
        str, typer.Option(help="A shipped model, a .safetensors file, or a variant (untrained, 21 classes).")
    ] = "camvid",
    size: Annotated[
        str | None, typer.Option(help="HEIGHTxWIDTH; 512x512, with --papers on a CPU 256x256.", metavar="HxW")
    ] = None,
    device: Device = "auto",
    precision: Annotated[str | None, typer.Option(help="float32 or bfloat16; by default both.")] = None,
    batch: Annotated[int, typer.Option(help="Images at a time.")] = 1,
    backend: Annotated[str | None, typer.Option(help="torch; by default all that are installed.")] = None,
    repeats: Annotated[int | None, typer.Option(help="Rounds; by default what half a minute holds, 5 to 50.")] = None,
    papers: Annotated[
        bool, typer.Option("--papers", help="RefineNet and Light-Weight RefineNet, and the steps between them.")
    ] = False,
    counts: Annotated[
        bool, typer.Option("--counts", help="Parameters and multiply-adds of every variant; times nothing.")
    ] = False,
    write: Annotated[
        bool, typer.Option("--write", help="With --counts: count anew, into counts.json and docs/counts.md.")
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all numbers there.")] = None,
) -> None:
    """Measure milliseconds from uint8 pixels to the class map, in turns with the plain network; or count."""
    if (papers and counts) or (write and not counts):
        raise ConfigError("expected --papers, --counts, --counts --write or none of them, got another combination")
    console = _stderr()
    if counts:
        from refineseg.counting import count_all, counts_json, counts_table, known_counts, write_counts

        numbers = count_all(seen=lambda name: console.print(f"counting {name}")) if write else known_counts()
        _table_console().print(counts_table(numbers))
        for path in write_counts(numbers) if write else ():
            print(f"written: {path}")
        value: Any = counts_json(numbers)
    else:
        from refineseg.benchmark import bench_model, bench_papers

        if papers:
            report = bench_papers(size=size, device=device, repeats=repeats, console=console)
        else:
            report = bench_model(
                model,
                size=size or "512x512",
                device=device,
                precision=precision,
                batch=batch,
                backend=backend,
                repeats=repeats,
                console=console,
            )
        _table_console().print(report.table)
        print(report.conditions)
        value = report.to_json()
    if json_file is not None:
        _write_json(json_file, value)


@app.command()
def models(
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all numbers there.")] = None,
) -> None:
    """List the shipped models, the network variants with their published scores, and the recipes."""
    from functools import partial

    from rich.table import Table

    from refineseg.counting import scores_table, shipped_models, variants_json, variants_table
    from refineseg.training.recipes import RECIPES

    console = _table_console()
    shipped = shipped_models()
    table = Table("shipped model", "variant", "classes", "scores", "licence of the weights")
    for name, facts in shipped.items():
        scores = [f"{100 * s['mean_iou']:.1f} % on {s['dataset']} {s['split']}, {s['protocol']}" for s in facts["ours"]]
        table.add_row(name, facts["variant"], str(facts["num_classes"]), "\n".join(scores), facts["licence"])
    recipes = Table("recipe", "what it is")
    makers = {name: maker.func if isinstance(maker, partial) else maker for name, maker in RECIPES.items()}
    summaries = {name: (maker.__doc__ or "").splitlines()[0] for name, maker in makers.items()}
    for name, summary in summaries.items():
        recipes.add_row(name, summary)
    for part in (table, variants_table(), scores_table(), recipes):
        console.print(part)
    if json_file is not None:
        _write_json(json_file, {"models": shipped, "variants": variants_json(), "recipes": summaries})


@app.command()
def datasets() -> None:
    """List the data sets and how each lies on disk."""
    from rich.table import Table

    from refineseg.data.datasets import DATASETS

    table = Table("name", "what is read")
    for name, entry in DATASETS.items():
        table.add_row(name, entry.summary)
    _table_console().print(table)


def main() -> None:
    """Run the command line; deliberate errors become one message and exit status 2."""
    try:
        app()
    except RefinesegError as error:
        print(f"refineseg: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("refineseg: interrupted", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
