"""What is measured, and what a result may take the place of: splits, held out images, inputs, damaged results."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import refineseg as package
from conftest import untrained, write_folder
from fakes.own import fake_coco, fake_yolo
from refineseg.class_info import ClassInfo
from refineseg.data.checks.label_check import check_files
from refineseg.data.datasets import open_dataset
from refineseg.data.samples.record import DataRecord
from refineseg.data.samples.run_record import RunRecord
from refineseg.data.samples.sample import Sample
from refineseg.errors import ConfigError, DatasetError, ImageError, LabelError, NoInputError
from refineseg.evaluate.card_blocks import fill
from refineseg.evaluate.failures import WorstImages, check_pictures
from refineseg.evaluate.metrics import ConfusionMatrix
from refineseg.predict import batches
from refineseg.predict.exact import tiled_scorer
from refineseg.predict.exact.tiled_scorer import Cutter
from refineseg.predict.options import PredictorOptions
from refineseg.predict.predictor import Predictor
from refineseg.prediction import Prediction

call = Cutter.__call__


def grey_model(path, class_info, in_channels=1):
    package.build("refineseg_nano", class_info=class_info, in_channels=in_channels).save(path)
    return str(path)


@pytest.fixture
def flat(tmp_path):
    """Four images without splits, and a model of a run that held out the third of them."""
    write_folder(tmp_path / "split", splits={"train": 4})
    for kind in ("images", "masks"):
        (tmp_path / "flat").mkdir(exist_ok=True)
        (tmp_path / "split" / kind / "train").rename(tmp_path / "flat" / kind)
    whole = check_files(open_dataset("folder", tmp_path / "flat", split="train"))
    parts = {"folder:train": [s for s in whole.samples if s[0] != "002"]}
    parts["validation on folder:held out of train"] = [s for s in whole.samples if s[0] == "002"]
    (tmp_path / "run").mkdir()
    records = {name: DataRecord(whole.class_info, whole.rules, tuple(samples)) for name, samples in parts.items()}
    RunRecord(records, {}).write(tmp_path / "run")
    model = tmp_path / "run" / "best.safetensors"
    untrained(model, whole.class_info)
    return tmp_path / "flat", model


@pytest.mark.parametrize("how", ["before", "while"])
def test_images_that_must_be_whole_and_need_too_much_memory_are_refused_by_name(flat, monkeypatch, how):
    root, model = flat
    if how == "before":
        monkeypatch.setattr(batches, "_ALWAYS_THERE", 0)
        monkeypatch.setattr(batches, "free_memory", lambda: 10)
    else:
        monkeypatch.setattr(Predictor, "__call__", lambda *_, **__: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(ImageError, match=r"000: .*(GB are needed to see|not enough memory for).* pixels.*--flip"):
        package.evaluate(f"folder:{root}", model=model, split="train", flip=True)


def test_a_model_of_one_channel_is_measured_on_the_band_that_predict_takes(flat, tmp_path):
    root, model = flat
    info = package.load(model).class_info
    grey = grey_model(tmp_path / "grey.safetensors", info)
    measured = package.evaluate(f"folder:{root}", model=grey, split="train", out=tmp_path / "out", pictures=1)
    expected = np.zeros((info.num_classes,) * 2, np.int64)
    predictor = package.Predictor(package.load(grey))
    for path in sorted((root / "images").iterdir()):
        image = np.asarray(Image.open(path))[..., :1]
        mask = np.asarray(Image.open(root / "masks" / f"{path.stem}.png"))
        known = mask < info.num_classes
        np.add.at(expected, (mask[known], predictor(image).mask[known]), 1)
    assert np.array_equal(measured.matrix.counts[:, : info.num_classes], expected)
    assert len(list((tmp_path / "out" / "pictures").iterdir())) == 1
    four = grey_model(tmp_path / "four.safetensors", info, 4)
    with pytest.raises(ConfigError, match="expected a model of 1 or 3 channels for RGB images .*, got one of 4"):
        package.evaluate(f"folder:{root}", model=four, split="train")


def test_images_that_do_not_fit_into_the_memory_are_measured_in_tiles(flat, monkeypatch):
    root, model = flat
    whole = package.evaluate(f"folder:{root}", model=model, split="train")
    cut = []
    monkeypatch.setattr(tiled_scorer, "fits_whole", lambda *given, **options: False)
    monkeypatch.setattr(Cutter, "__call__", lambda self, *image, **how: cut.append(1) or call(self, *image, **how))
    tiled = package.evaluate(f"folder:{root}", model=model, split="train")
    assert len(cut) == 4
    assert np.array_equal(tiled.matrix.counts, whole.matrix.counts)


def test_a_model_is_measured_on_the_images_that_its_run_held_out(flat):
    root, model = flat
    result = package.evaluate(f"folder:{root}", model=model, split="held_out", device="cpu")
    with Image.open(root / "masks" / "002.png") as mask:
        assert result.matrix.counts.sum() == np.asarray(mask).size
    assert (result.num_images, result.num_seen) == (1, 0)
    every = package.evaluate(f"folder:{root}", model=model, split="train", device="cpu")
    assert (every.num_images, every.num_seen) == (4, 3)
    with pytest.raises(DatasetError, match="got 'val'.*--split held_out measures the images that were held out"):
        package.evaluate(f"folder:{root}", model=model, device="cpu")
    (root / "images" / "002.png").unlink()
    (root / "masks" / "002.png").unlink()
    with pytest.raises(DatasetError, match="but 1 of them are not there"):
        package.evaluate(f"folder:{root}", model=model, split="held_out", device="cpu")


def test_an_exported_file_is_accepted_on_the_images_that_were_held_out(flat, tmp_path, monkeypatch):
    root, model = flat
    seen = []
    monkeypatch.setattr("refineseg.export.files.export_accepted", lambda *_, **asked: seen.append(asked))
    package.export(tmp_path / "m.pt2", model=model, accept=f"folder:{root}", split="held_out")
    dataset = seen[0]["dataset"]
    assert [dataset.name(index) for index in range(len(dataset))] == ["002"]
    assert seen[0]["data"] == f"folder:{root} held_out"
    with pytest.raises(DatasetError, match="got 'val'.*--split held_out measures the images that were held out"):
        package.export(tmp_path / "m.pt2", model=model, accept=f"folder:{root}")


def test_other_images_under_the_names_of_those_held_out_are_refused(flat):
    root, model = flat
    call = {"model": model, "split": "held_out", "device": "cpu"}
    image = root / "images" / "002.png"
    with Image.open(image) as file:
        Image.fromarray(255 - np.asarray(file)).save(image)
    with pytest.raises(DatasetError, match=r"but 1 of that name are other images, .*\(002\); give the data as the run"):
        package.evaluate(f"folder:{root}", **call)
    record = json.loads((model.parent / "data.json").read_text())
    for sample in record["data"]["validation on folder:held out of train"]["samples"]:
        sample[1] = ""  # as an earlier version wrote it for some forms
    (model.parent / "data.json").write_text(json.dumps(record))
    assert package.evaluate(f"folder:{root}", **call).num_images == 1


def test_images_that_were_held_out_of_joined_data_are_measured(flat):
    root, model = flat
    record = json.loads((model.parent / "data.json").read_text())
    record["data"]["folder:train + camvid:train"] = record["data"].pop("folder:train")
    (model.parent / "data.json").write_text(json.dumps(record))
    assert package.evaluate(f"folder:{root}", model=model, split="held_out", device="cpu").num_images == 1


@pytest.mark.parametrize("make", [fake_coco, fake_yolo], ids=["COCO", "YOLO"])
def test_images_of_annotations_that_were_trained_on_are_counted(make, tmp_path):
    root = make(tmp_path / "data")
    learned = check_files(open_dataset("folder", root, split="train"))
    assert all(image for _, image, _ in learned.samples)
    RunRecord({"folder:train": learned}, {}).write(tmp_path)
    untrained(tmp_path / "m.safetensors", learned.class_info)
    result = package.evaluate(f"folder:{root}", model=tmp_path / "m.safetensors", split="train", device="cpu")
    assert result.num_seen == result.num_images > 0
    earlier = DataRecord(learned.class_info, learned.rules, tuple((n, "", mask) for n, _, mask in learned.samples))
    assert earlier.differences(learned) == []  # a run that an earlier version began goes on


@pytest.mark.parametrize("content", ["{", '{"format": 99}', "[]"])
def test_a_damaged_record_beside_a_model_does_not_stop_its_measurement(flat, content):
    root, model = flat
    (model.parent / "data.json").write_text(content)
    assert package.evaluate(f"folder:{root}", model=model, split="train", device="cpu").num_seen == 0


def test_a_split_named_twice_is_refused(folder_root):
    with pytest.raises(ConfigError, match=r"expected every split once, got 'val\+val'"):
        open_dataset("folder", folder_root, split="val+val")


def test_numbers_take_the_place_of_earlier_numbers_only(flat):
    root, model = flat
    call = {"model": model, "split": "held_out", "device": "cpu"}
    before = model.read_bytes()
    (root / "annotations.json").write_text('{"images": []}')
    (model.parent / "run.json").write_text('{\n "version": "0"}')
    for target in (model, model.parent / "run.json", root / "annotations.json", root / "images" / "000.png"):
        kept = target.read_bytes()
        with pytest.raises(ConfigError, match="expected --json as a new file or an earlier result"):
            package.evaluate(f"folder:{root}", json_file=target, **call)
        assert target.read_bytes() == kept
    assert model.read_bytes() == before
    for _ in range(2):
        package.evaluate(f"folder:{root}", json_file=root / "numbers.json", **call)
    assert json.loads((root / "numbers.json").read_text())["split"] == "held_out"


def worst_of(names, most):
    """The worst images of samples that are wrong everywhere, drawn."""
    worst, classes = WorstImages(most), ClassInfo(("a", "b"))
    truth, image = np.zeros((4, 6), np.uint8), np.zeros((4, 6, 3), np.uint8)
    for index, name in enumerate(names):
        worst.add(index, Sample(image, truth, name), Prediction(image, truth + np.uint8(1), classes))
    return worst


def test_pictures_take_the_place_of_those_of_an_earlier_evaluation_only(flat, tmp_path):
    folder = tmp_path / "o" / "pictures"
    worst_of(["a", "b"], 2).write(folder)
    (folder / "mine.png").write_bytes((folder / "001_a.png").read_bytes())
    (folder / "notes.txt").write_text("mine")
    Image.new("RGB", (4, 6)).save(folder / "001_000.png")
    mine = {path: path.read_bytes() for path in map(folder.joinpath, ("mine.png", "notes.txt", "001_000.png"))}
    worst_of(["c"], 0).write(folder)
    assert len(list(folder.iterdir())) == 5
    worst_of(["c"], 1).write(folder)
    assert set(folder.iterdir()) == {*mine, folder / "001_c.png"}
    root, model = flat
    with pytest.raises(ConfigError, match=r"under the names of new pictures, got .*001_000\.png, .* would be lost"):
        package.evaluate(f"folder:{root}", model=model, split="train", device="cpu", pictures=1, out=tmp_path / "o")
    check_pictures(folder.parent, ["c"], 1)
    check_pictures(tmp_path / "none", ["000"], 1)
    assert {path: path.read_bytes() for path in mine} == mine


def test_drawings_take_the_place_of_those_of_an_earlier_evaluation_only(flat, refineseg):
    root, model = flat
    out, card = root.parent / "o", root.parent / "card"
    own = ("evaluate", "--data", f"folder:{root}", "--model", model, "--split", "train", "--out", out)
    history = root.parent / "metrics.jsonl"
    history.write_text('{"epoch": 1, "loss": 1.0, "decoder_lr": 0.1}\n')
    carded = ("card", "--data", f"folder:{root}", "--model", model, "--split", "train", "--out", card)
    for call, path in ((own, out / "confusion_matrix.png"), ((*carded, "--history", history), card / "curves.png")):
        path.parent.mkdir()
        Image.new("RGB", (4, 6)).save(path)
        kept = path.read_bytes()
        status, _, err = refineseg(*call)
        assert (status, f"got {path}, which bears no mark of" in " ".join(err.split())) == (2, True)
        assert {file: file.read_bytes() for file in path.parent.iterdir()} == {path: kept}
        path.unlink()
        for _ in range(2):
            assert refineseg(*call)[0] == 0


def test_pages_and_tables_take_the_place_of_earlier_ones_only(flat, refineseg):
    root, model = flat
    image = root / "images" / "000.png"
    kept = image.read_bytes()
    for call, option in (
        (("doctor", f"folder:{root}", "--html", image), "--html"),
        (("predict", image, "--out", root.parent / "o", "--model", model, "--areas", root.parent / "m.csv"), "--areas"),
    ):
        (root.parent / "m.csv").write_text("another table\n1\n")
        status, _, err = refineseg(*call)
        assert (status, f"expected {option} as a new file or an earlier result" in err) == (2, True)
    assert image.read_bytes() == kept
    page = ("doctor", f"folder:{root}", "--html", root.parent / "page.html")
    table = ("predict", image, "--out", root.parent / "o", "--model", model, "--areas", root.parent / "areas.csv")
    for call in (page, page, table, table):
        assert refineseg(*call)[0] == 0


def test_masks_of_void_alone_give_no_numbers_but_an_error(flat):
    root, model = flat
    for path in (root / "masks").iterdir():
        Image.fromarray(np.full((48, 64), 255, np.uint8)).save(path)
    (root / "classes.txt").write_text("class_0\nclass_1\nclass_2\n")
    with pytest.raises(LabelError, match="expected labelled pixels in train .* got 4 masks of void alone"):
        package.evaluate(f"folder:{root}", model=model, split="train", device="cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flip": "no"}, "expected bool as flip, got 'no' of type str"),
        ({"pictures": "2"}, "expected int as pictures, got '2' of type str"),
        ({"pictures": True}, "expected int as pictures, got True of type bool"),
        ({"split": ["val"]}, "expected str as split"),
        ({"enlargement": "1"}, r"expected float \| None as enlargement"),
        ({"out": 3}, r"expected str \| Path \| None as out"),
    ],
)
def test_values_of_another_type_are_refused_before_any_work(options, message):
    with pytest.raises(ConfigError, match=message):
        package.evaluate("folder:nowhere", **options)


def test_numbers_and_arrays_of_numpy_are_those_of_python(flat, tmp_path):
    root, model = flat
    plain, arrays = (
        package.evaluate(f"folder:{root}", model=model, split="train", device="cpu", scales=scales, pictures=pictures)
        for scales, pictures in (((0.5, 1.0), 0), (np.array([0.5, 1.0]), np.int64(0)))
    )
    assert arrays.options.scales == (0.5, 1.0)
    yes = package.evaluate(f"folder:{root}", model=model, split="train", device="cpu", flip=np.True_)
    assert yes.options.flip is True
    np.testing.assert_array_equal(plain.matrix.counts, arrays.matrix.counts)
    options = {"variant": "refineseg_nano", "pretrained": False, "device": "cpu", "epochs": np.int64(1)}
    settings = {"seed": np.int64(3), "phases.0.crop_hw": np.array([32, 32]), "phases.0.batch_size": 2, "val_share": 0}
    run = package.train(f"folder:{root}", tmp_path / "np", settings=settings, **options)
    assert json.loads((run.folder / "run.json").read_text())["config"]["seed"] == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda out: package.predict([], out), "expected at least one image, folder or video, got none"),
        (lambda out: package.predict("a.png", out / "b.png"), "which is named like a file; name a folder"),
        (lambda out: package.predict("a.png", out, memory=4), "--memory of 1MB at least, got '4'; write the unit"),
        (lambda out: package.train(None, out, recipe="folder:mine"), "got none; for instance --data folder:mine"),
        (
            lambda out: package.train("folder:mine", out, budget=20),
            r"expected str \| None as budget, got 20 of type int",
        ),
    ],
)
def test_everyday_mistakes_have_a_message_of_their_own(call, message, tmp_path):
    with pytest.raises((ConfigError, NoInputError), match=message):
        call(tmp_path)


def test_predictors_and_models_of_other_types_are_refused():
    """In a process of its own: here types are checked, too."""
    code = """
import refineseg as r
model = r.load("camvid_nano")
for call in (
    lambda: r.Predictor(model, flip="no"), lambda: r.Predictor(model, scales=1), lambda: r.Predictor(model, crf=True),
    lambda: r.Predictor(model, precision=1), lambda: r.load(None), lambda: r.Predictor(model, precision="bf16"),
):
    try:
        call()
    except r.errors.ConfigError as error:
        print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert [line.partition(", got")[0] for line in run.stdout.splitlines()] == [
        "expected bool as flip",
        "expected scales as numbers in a sequence, for instance (0.5, 1)",
        "expected CrfOptions as crf, or None",
        "expected a text as precision, one of float32, bfloat16",
        "expected the name of a shipped model or a path",
        "expected a precision of float32, bfloat16",
    ]


def test_predictions_that_are_no_whole_numbers_are_refused():
    matrix = ConfusionMatrix(ClassInfo(("a", "b")))
    with pytest.raises(LabelError, match="expected masks of whole numbers, got float64 and uint8"):
        matrix.update(np.full((1, 2), 0.9), np.zeros((1, 2), np.uint8))


def test_another_enlargement_is_another_protocol():
    usual, other = (PredictorOptions.parse(protocol="authors", enlargement=value) for value in (1.2, 0.5))
    assert usual.view.stated == "authors"
    assert other.view.stated == "authors with an enlargement of 0.5"


@pytest.mark.parametrize(
    "change",
    [
        {"per_class": None},
        {"per_class": {"sky": 0.5}},
        {"mean_iou": "0.5"},
        {"boundary": 0.5},
        {"data_mark": ["a"]},
        {"measurement_protocol": {"dataset": "folder", "split": "val", "phase_of_the_moon": 1}},
    ],
)
def test_a_damaged_result_is_refused_before_anything_is_predicted(change, refineseg, tmp_path):
    result = {"mean_iou": 0.5, "per_class": {"sky": {"iou": 0.5}}, "data_mark": "", "mean_accuracy": 0.5}
    result["measurement_protocol"] = {"dataset": "folder", "split": "val"}
    (tmp_path / "a.json").write_text(json.dumps({**result, **change}))
    status, _, err = refineseg("evaluate", "--data", f"folder:{tmp_path}", "--against", tmp_path / "a.json")
    assert status == 2
    assert "evaluate again with --json" in err or "measure again with this one" in err


def test_cards_of_windows_are_filled_and_a_block_without_its_end_is_refused():
    card = "by hand <!-- made: facts -->\r\nold\r\n<!-- end: facts --> kept"
    assert fill(card, {"facts": "new"}) == "by hand <!-- made: facts -->\r\nnew\r\n<!-- end: facts --> kept"
    broken = card + "\n<!-- made: results -->\n11.1 %\n<!-- end: result -->"
    with pytest.raises(ConfigError, match="a mark without its partner"):
        fill(broken, {"facts": "new", "results": "5 %"})
