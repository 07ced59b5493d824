"""``refineseg.evaluate``: a model measured on labelled images.

In: a model and data, the options of the command line. Out: an
:class:`~refineseg.evaluate.measuring.EvaluationResult`. Checks come first; PyTorch is loaded after them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from refineseg.api.words import Words, as_model, as_path, as_words
from refineseg.files.writing import write_json
from refineseg.terminal.arguments import check_number, check_outputs
from refineseg.terminal.value_types import check_types

if TYPE_CHECKING:
    from refineseg.data.samples.sample import Dataset
    from refineseg.evaluate.measuring import EvaluationResult
    from refineseg.segmenter import Segmenter
    from refineseg.terminal.printing import Terminal


def evaluate(
    data: str | Dataset,
    *,
    model: str | Path | Segmenter = "camvid",
    split: str = "val",
    json_file: str | Path | None = None,
    pictures: int = 0,
    legend: bool = True,
    out: str | Path | None = None,
    submission: str | Path | None = None,
    boundary: bool = False,
    device: str = "auto",
    precision: str = "float32",
    scales: Words = "1",
    flip: bool = False,
    protocol: str = "light_weight",
    enlargement: float | None = None,
    crf: bool = False,
    backend: str | None = None,
    console: Terminal | None = None,
) -> EvaluationResult:
    """Measure a model; ``refineseg evaluate --help`` describes each option, which has the same name here.

    ``data`` may also be any object of the interface :class:`refineseg.Dataset`, and ``model`` a segmenter. Without
    ``out`` nothing is drawn. ``console`` shows progress.

    Returns:
        The numbers with all of their conditions: ``.matrix.mean_iou``, ``.matrix.per_class_iou``, ``.to_json()``.

    Raises:
        ConfigError: Options that are wrong, or do not fit each other.
        DatasetError: Data that cannot be read, or of other classes than the model's.
        LabelError: No labelled pixel.
        ModelFileError: No such model.
    """
    given = check_types(evaluate, dict(locals()))
    flip, boundary, crf, legend = (given[name] for name in ("flip", "boundary", "crf", "legend"))
    pictures, enlargement = given["pictures"], given["enlargement"]
    from refineseg.predict.views.scoring_views import check_scoring

    model = str(as_model(model)) if isinstance(model, Path) else model
    scoring: Any = {"precision": precision, "scales": as_words(scales), "protocol": protocol, "backend": backend}
    scoring |= {"device": device, "flip": flip, "enlargement": enlargement}
    if isinstance(model, str):
        check_scoring(model, **scoring)
    check_number("--pictures", pictures, least=0)
    folder, to_send, numbers = as_path(out), as_path(submission), as_path(json_file)
    check_outputs({"--json": numbers}, {"--out": folder, "--submission": to_send})

    # from here on NumPy is there
    from refineseg.data.datasets import check_apart, parse_sources
    from refineseg.data.samples.given import GivenData
    from refineseg.evaluate.measured_split import open_split
    from refineseg.evaluate.submission import find_benchmark

    source = data if isinstance(data, str) else GivenData({split: data})
    if to_send is not None:
        find_benchmark(next(iter(parse_sources(source))))
    if folder is not None:
        check_apart("--out", folder, source)
    open_split(model, source, split)

    # from here on PyTorch is there
    from refineseg.evaluate.measuring import EvaluationFiles, evaluate_to_files
    from refineseg.predict.options import PredictorOptions
    from refineseg.predict.views.tiling import TilingOptions

    options = PredictorOptions.parse(crf=crf, tiling=TilingOptions(), **scoring)
    files = EvaluationFiles(folder, pictures, to_send, legend)
    result = evaluate_to_files(model, source, split, options=options, files=files, console=console, boundary=boundary)
    if numbers is not None:
        write_json(numbers, result.to_json())
    return result
