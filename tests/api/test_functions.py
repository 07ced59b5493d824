"""The verbs as functions: the options of the command line, values in return, and names that always work."""

import dataclasses
import inspect
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

import refineseg
from conftest import write_folder
from refineseg.api.quiet import QuietFollower
from refineseg.class_info import ClassInfo
from refineseg.cli import app
from refineseg.data.samples.sample import Sample
from refineseg.errors import CheckpointError, ConfigError, DatasetError, NoInputError
from refineseg.segmenter import load_spec
from refineseg.training.callbacks import EarlyStopping

FUNCTIONS = {name: getattr(refineseg, name) for name in ("train", "evaluate", "predict", "export")}
OURS = {  # what a program gives and the command line does not
    "train": {"val", "on_epoch", "stop_when", "progress"},
    "evaluate": {"console"},
    "predict": {"asked", "follower"},
    "export": {"console"},
}
OF_THE_TERMINAL = {"against", "quiet", "verbose"}  # say what is shown; a function shows nothing
QUICK = {"epochs": 2, "variant": "refineseg_nano", "pretrained": False, "device": "cpu"}
SMALL = {"phases.0.crop_hw": [32, 32], "phases.0.batch_size": 3}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_has_the_options_of_its_verb_with_their_defaults(name):
    verb = typer.main.get_command(app).commands[name]
    options = {parameter.name: parameter.default for parameter in verb.params if parameter.name != "help"}
    found = inspect.signature(FUNCTIONS[name]).parameters
    assert set(options) - OF_THE_TERMINAL == set(found) - OURS[name]
    different = {option for option in set(options) & set(found) if options[option] != found[option].default}
    required = {option for option in set(options) & set(found) if found[option].default is inspect.Parameter.empty}
    assert different - required == ({"out"} if name == "evaluate" else set())


IMPORTS = (
    "import refineseg.predict.folder.plan, refineseg.evaluate.metrics, refineseg.export.options",
    "from refineseg import predict, evaluate, export",
    "refineseg.predict, refineseg.evaluate, refineseg.export",
)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0)], ids=str)
def test_names_are_functions_and_packages_in_every_order_of_imports(order, tmp_path):
    code = "import refineseg, inspect, sys\nassert 'torch' not in sys.modules\n" + "\n".join(IMPORTS[i] for i in order)
    code += f"""
from refineseg import errors
for function, wrong in ((predict, ("absent.jpg", {str(tmp_path)!r})), (evaluate, ("no:where",)), (export, ("a.b",))):
    assert function is getattr(refineseg, function.__name__.rpartition(".")[2])
    assert "model" in inspect.signature(function).parameters
    try:
        function(*wrong)
    except errors.RefinesegError:
        pass
    else:
        raise AssertionError(function)
import refineseg.predict.folder.plan as plan
assert refineseg.predict.folder.plan is plan
assert 'torch' not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A short run on objects, with all that its callbacks heard."""
    root = write_folder(tmp_path_factory.mktemp("data"), splits={"train": 6, "val": 2})
    (root / "classes.txt").write_text("ground\nsky\nsquare\n")
    data, val = (refineseg.open_dataset("folder", root, split=split) for split in ("train", "val"))
    heard = []
    out = tmp_path_factory.mktemp("runs") / "first"
    run = refineseg.train(Plain(data), out, val=Plain(val), settings=SMALL, on_epoch=heard.append, **QUICK)
    return root, run, heard


class Plain:
    """A data set of somebody's own: nothing but the interface."""

    def __init__(self, samples):
        self._samples = samples

    class_info = ClassInfo(("ground", "sky", "square"))
    notes = ("drawn by a test",)

    def __len__(self):
        return len(self._samples)

    def __getitem__(self, index):
        return self._samples[index]

    def name(self, index):
        return self._samples.name(index)

    def read_mask(self, index):
        return self._samples.read_mask(index)


def test_training_on_objects_is_training_on_their_files(trained, tmp_path):
    root, run, heard = trained
    assert isinstance(Plain([]), refineseg.Dataset)
    assert run.notes[:1] == ("6 training images (given:train); looking at every image and mask",)
    assert "note: drawn by a test" in run.notes
    assert [entry["epoch"] for entry in heard] == [1, 2]
    assert [dict(entry) for entry in run.history] == heard
    assert run.matrix.mean_iou == pytest.approx(heard[-1]["mean_iou"])
    assert run.mean_iou == max(entry["mean_iou"] for entry in heard)
    assert run.best == run.folder / "best.safetensors"
    assert run.segmenter.spec.provenance["data"] == "given:train, 6 images"
    files = refineseg.train(
        f"folder:{root}", tmp_path / "files", settings=[f"{k}={v}" for k, v in SMALL.items()], **QUICK
    )
    for name, tensor in files.segmenter.state_dict().items():
        assert tensor.equal(run.segmenter.state_dict()[name]), name


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"confusion_matrix": [[1]]}', "[" * 10**5, "\x80"])
def test_damaged_counts_of_a_run_are_an_error(trained, tmp_path, text):
    _, run, _ = trained
    (tmp_path / "metrics.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"expected the counts of this run in .*metrics\.json, which is damaged"):
        assert dataclasses.replace(run, folder=tmp_path).matrix


def test_a_run_on_objects_goes_on_with_them_alone(trained, tmp_path):
    root, _, _ = trained
    data = Plain(refineseg.open_dataset("folder", root, split="train"))
    out = tmp_path / "run"
    first = refineseg.train(data, out, settings=SMALL, stop_when=lambda history: history[-1]["epoch"] == 1, **QUICK)
    assert len(first.history) == 1
    assert "asked to stop: stopped after epoch 1 of 2" in first.notes[-1]
    assert first.best.name == "last.safetensors"
    assert first.matrix is first.mean_iou is None
    with pytest.raises(ConfigError, match=r"expected the data sets of this run, which a program gave.*resume=True"):
        refineseg.train(None, out, resume=True)
    again = refineseg.train(data, out, resume=True, device="cpu")
    assert [entry["epoch"] for entry in again.history] == [1, 2]
    complete = refineseg.train(data, out, resume=True, device="cpu")  # nothing is left to do
    assert complete.segmenter.spec.provenance == load_spec(again.best).provenance
    assert complete.segmenter.spec.provenance["epochs"] == 2
    fewer = Plain(refineseg.open_dataset("folder", root, split="val"))
    with pytest.raises(CheckpointError, match="samples are gone"):
        refineseg.train(fewer, out, resume=True, device="cpu")


def test_a_folder_with_the_model_of_another_run_is_refused_and_a_run_that_measured_nothing_has_its_last(
    trained, tmp_path
):
    root, other, _ = trained
    shutil.copy(other.best, tmp_path / "best.safetensors")
    data = Plain(refineseg.open_dataset("folder", root, split="train"))
    with pytest.raises(CheckpointError, match=r"without files of a run, got .* with best.safetensors, which would be"):
        refineseg.train(data, tmp_path, settings=SMALL, **{**QUICK, "epochs": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["best.safetensors"]
    run = refineseg.train(data, tmp_path / "run", settings=SMALL, **{**QUICK, "epochs": 1})
    assert run.mean_iou is None
    assert run.best == tmp_path / "run" / "last.safetensors"


def test_what_is_no_data_set_is_refused_before_anything_is_written(trained, tmp_path):
    root, _, _ = trained
    with pytest.raises(
        ConfigError, match=r"a data set for train, got list, which has no class_info, notes, name, read"
    ):
        refineseg.train([1, 2], tmp_path / "run")
    with pytest.raises(DatasetError, match="expected samples in the data set for val, got none"):
        refineseg.train(Plain(refineseg.open_dataset("folder", root, split="val")), tmp_path / "run", val=Plain([]))
    with pytest.raises(ConfigError, match="expected val beside a data set, got NAME:ROOT"):
        refineseg.train(f"folder:{root}", tmp_path / "run", val=Plain([]))
    with pytest.raises(ConfigError, match="expected --data NAME:ROOT, got none"):
        refineseg.train(None, tmp_path / "run")
    unmeasured = {"settings": {"val_split": None, **SMALL}, "stop_when": EarlyStopping(), **QUICK}
    with pytest.raises(ConfigError, match="expected validation images to stop by mean_iou, got none"):
        refineseg.train(f"folder:{root}", tmp_path / "run", **unmeasured)
    assert not (tmp_path / "run").exists()


def test_early_stopping_looks_at_all_epochs_and_needs_its_metric():
    losses = [{"epoch": i + 1, "loss": loss} for i, loss in enumerate((3.0, 1.0, 0.95, 0.94))]
    stops = [EarlyStopping(patience=2, metric="loss", min_delta=0.1)(losses[: i + 1]) for i in range(4)]
    assert stops == [False, False, False, True]
    assert not EarlyStopping(patience=2, metric="loss")(losses)
    measured = [{"epoch": i + 1, "loss": 1.0, **({"mean_iou": 0.5} if (i + 1) % 5 == 0 else {})} for i in range(10)]
    assert [EarlyStopping(patience=3)(measured[: i + 1]) for i in range(10)] == [False] * 9 + [True]
    with pytest.raises(ConfigError, match="patience of at least 1"):
        EarlyStopping(patience=0)


def test_evaluation_of_objects_gives_the_numbers_of_their_files(trained, tmp_path, capsys):
    root, run, _ = trained
    by_name = refineseg.evaluate(f"folder:{root}", model=run.best, device="cpu", json_file=tmp_path / "e.json")
    val = Plain(refineseg.open_dataset("folder", root, split="val"))
    by_object = refineseg.evaluate(val, model=refineseg.load(run.best), device="cpu", scales=(1,))
    assert by_object.matrix.counts.tolist() == by_name.matrix.counts.tolist()
    assert by_object.data == "given"
    assert by_object.model == "a segmenter (refineseg_nano)"
    assert json.loads((tmp_path / "e.json").read_text())["mean_iou"] == by_name.matrix.mean_iou
    assert [path.name for path in tmp_path.iterdir()] == ["e.json"]
    with pytest.raises(ConfigError, match=r"expected a folder \(out\) for 2 pictures"):
        refineseg.evaluate(val, model=run.best, pictures=2, device="cpu")
    assert capsys.readouterr() == ("", "")


def test_prediction_of_files_takes_values_and_gives_them_back(model, tmp_path, capsys, caplog):
    for name in ("a", "b"):
        Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "c.png").write_bytes(b"")
    counted = []

    class Follower(QuietFollower):
        def counted(self, what, done, total):
            counted.append((done, total))

    result = refineseg.predict(
        tmp_path, tmp_path / "out", model=model, device="cpu", save=("mask", "probabilities"), classes=("sky",),
        scales=(0.5, 1), follower=Follower(),
    )  # fmt: skip
    assert (result.done, len(result.failures)) == (2, 1)
    assert result.total.pixels == 2 * 40 * 50
    assert repr(result).startswith("<FilesResult 2 done, 1 failed: ")
    assert counted[-1] == (3, 3)
    assert [r.message for r in caplog.records if "c.png" in r.message]
    assert capsys.readouterr() == ("", "")
    with np.load(tmp_path / "out" / "a_probabilities.npz") as written:
        assert written["probabilities"].shape == (1, 40, 50)
    again = refineseg.predict([str(tmp_path / "a.png")], tmp_path / "tiles", model=model, device="cpu", tile=32)
    assert (again.done, again.failures) == (1, [])
    with pytest.raises(NoInputError, match=r"absent\.png"):
        refineseg.predict(tmp_path / "absent.png", tmp_path / "out")
    with pytest.raises(ConfigError, match="expected --tile only as auto or off with --scales"):
        refineseg.predict(tmp_path, tmp_path / "out", tile=512, scales=(0.5, 1))


class Made(Plain):
    """Samples changed by a function."""

    def __init__(self, samples, change):
        super().__init__(samples)
        self._change = change

    def __getitem__(self, index):
        sample = self._samples[index]
        return Sample(*self._change(sample.image, sample.mask), sample.name)

    def read_mask(self, index):
        return self[index].mask


WRONG = {
    "floats": lambda image, mask: ((image / 255).astype(np.float32), mask),
    "wide": lambda image, mask: (image.astype(np.uint16), mask),
    "grey": lambda image, mask: (image[..., 0], mask),
    "lists": lambda image, mask: (image.tolist(), mask),
    "small mask": lambda image, mask: (image, mask[::2, ::2]),
    "coloured mask": lambda image, mask: (image, mask[..., None]),
    "mask of floats": lambda image, mask: (image, mask.astype(np.float32)),
}


@pytest.mark.parametrize("kind", WRONG)
def test_samples_of_another_form_are_refused_before_anything_is_written(trained, tmp_path, kind):
    data = Made(refineseg.open_dataset("folder", trained[0], split="train"), WRONG[kind])
    with pytest.raises(DatasetError, match=r"000: expected (an image|a mask)"):
        refineseg.train(data, tmp_path / "run", settings=SMALL, **QUICK)
    with pytest.raises(DatasetError, match=r"000: expected (an image|a mask)"):
        refineseg.evaluate(data, model=trained[1].best, device="cpu")
    assert list(tmp_path.iterdir()) == []


def test_mirrored_arrays_and_masks_of_truths_are_samples(trained, tmp_path):
    data = refineseg.open_dataset("folder", trained[0], split="train")
    mirrored = Made(data, lambda image, mask: (image[:, ::-1], mask[:, ::-1] == 2))
    mirrored.class_info = ClassInfo(("other", "square"))
    run = refineseg.train(mirrored, tmp_path / "run", settings=SMALL, **QUICK)
    assert run.best.is_file()


def test_wrong_arguments_are_refused_in_the_words_of_the_function(trained, tmp_path):
    root, run, _ = trained
    image = np.zeros((8, 8, 3), np.uint8)
    for wrong in (image, [image], Image.fromarray(image)):
        with pytest.raises(ConfigError, match=r"expected paths or addresses as inputs, got .*refineseg\.Predictor"):
            refineseg.predict(wrong, tmp_path / "out")
    Image.fromarray(image).save(tmp_path / "a.png")
    found = refineseg.predict(tmp_path.glob("*.png"), tmp_path / "generated", model=run.best, device="cpu")
    assert found.done == 1
    shutil.rmtree(tmp_path / "generated")
    (tmp_path / "a.png").unlink()
    for option in ({"drift": 0.1}, {"split": "test"}, {"images": 3}):
        with pytest.raises(ConfigError, match=f"expected --{next(iter(option))} only with --"):
            refineseg.export(tmp_path / "m.onnx", model=run.segmenter, **option)
    for option in ({"released": True}, {"skip_missing": True}, {"pretrained": False}):
        with pytest.raises(ConfigError, match="expected --resume with --out"):
            refineseg.train(None, run.folder, resume=True, **option)
    with pytest.raises(ConfigError, match="nothing_known"):
        refineseg.train(f"folder:{root}", tmp_path / "run", log="nothing_known")
    for setting, words in {
        "seed=-1": "seed in 0",
        "weight_decay=-1": "weight_decay of",
        "momentum=2": "momentum",
    }.items():
        with pytest.raises(ConfigError, match=words):
            refineseg.train(f"folder:{root}", tmp_path / "run", settings=setting)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_exported_file_is_returned_with_its_comparison(trained, tmp_path):
    pytest.importorskip("onnxruntime")
    root, run, _ = trained
    written = refineseg.export(tmp_path / "m.onnx", model=run.segmenter, size=(48, 64))
    assert (written.path, written.is_accepted) == (tmp_path / "m.onnx", False)
    assert written.path.is_file()
    checked = refineseg.export(written.path, model=run.segmenter, check=True, accept=f"folder:{root}")
    assert checked.is_accepted
    assert checked.acceptance.num_images == 2
    image = np.zeros((48, 64, 3), np.uint8)
    masks = [refineseg.Predictor(one, device="cpu")(image).mask for one in (written.path, run.segmenter)]
    np.testing.assert_array_equal(*masks)


def test_a_path_to_a_file_of_a_shipped_name_is_that_file(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(model, "camvid")
    write_folder(tmp_path / "data", splits={"val": 1})
    (tmp_path / "data" / "classes.txt").write_text("ground\nsky\nsquare\n")
    assert refineseg.Predictor(Path("camvid"), device="cpu").class_info.num_classes == 3
    result = refineseg.evaluate("folder:data", model=Path("./camvid"), device="cpu")
    assert len(result.matrix.per_class_iou) == 3
    refineseg.predict("data/images/val", "out", model=Path("camvid"), device="cpu", save="mask", json_file="n.json")
    assert json.loads(Path("n.json").read_text())["model"] == "./camvid"
