"""The command line as a user meets it: right calls, wrong calls, exit status and messages."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from skimage import data as photographs

from conftest import write_folder
from refineseg.class_info import ClassInfo
from refineseg.cli.interruption import this_call_with
from refineseg.images import render
from refineseg.networks.model_spec import ModelSpec
from refineseg.preprocessing import Preprocessing
from refineseg.segmenter import Segmenter, build

CLASSES = ClassInfo(("ground", "sky", "square"), ((60, 70, 50), (150, 190, 240), (220, 40, 40)))


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def test_help_and_import_load_no_torch():
    code = (
        "import sys, refineseg; sys.argv = ['refineseg', '--help']\n"
        "from refineseg import cli\n"
        "try: cli.main()\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'timm', 'numpy'} & set(sys.modules), 'heavy imports'\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout
    for verb in ("predict", "train", "evaluate", "models", "datasets"):
        assert verb in shown


def test_predict_writes_masks_and_overlays_of_the_image_size_and_keeps_folders(refineseg, model, tmp_path):
    photo = photographs.astronaut()[:60, :90]
    save(tmp_path / "in" / "a.jpg", photo)
    save(tmp_path / "in" / "deep" / "b.png", photo[:33, :50])
    status, out, _ = refineseg("predict", tmp_path / "in", "--out", tmp_path / "out", "--model", model)
    assert status == 0
    for name, size in (("a", (90, 60)), ("deep/b", (50, 33))):
        with Image.open(tmp_path / "out" / f"{name}.png") as mask:
            assert mask.mode == "P"
            assert mask.size == size
            assert np.asarray(mask).max() <= 2
            assert mask.getpalette()[:9] == [60, 70, 50, 150, 190, 240, 220, 40, 40]
        with Image.open(tmp_path / "out" / f"{name}_overlay.jpg") as overlay:
            assert overlay.size[0] == size[0]
            assert overlay.size[1] > size[1]
    lines = out.splitlines()
    assert len(lines) == 2
    assert "a.jpg: " in lines[0]
    shares = [float(part.split()[-2]) for part in lines[0].split(": ")[1].split(", ")]
    assert sum(shares) == pytest.approx(100, abs=0.2)


def test_predict_survives_every_kind_of_picture(refineseg, model, tmp_path):
    grey = photographs.camera()[:40, :50]
    save(tmp_path / "in" / "dot.png", np.full((1, 1, 3), 7, np.uint8))
    save(tmp_path / "in" / "grey.png", grey)
    save(tmp_path / "in" / "sixteen.png", grey.astype(np.uint16) * 257)
    Image.fromarray(photographs.astronaut()[:30, :40]).convert("CMYK").save(tmp_path / "in" / "cmyk.jpg")
    save(tmp_path / "in" / "alpha.png", np.dstack([photographs.astronaut()[:20, :30], np.full((20, 30), 9, np.uint8)]))
    save(tmp_path / "in" / "line.png", np.zeros((1, 300, 3), np.uint8))
    status, out, err = refineseg("predict", tmp_path / "in", "--out", tmp_path / "out", "--model", model)
    assert status == 0, err
    assert len(out.splitlines()) == 6
    with Image.open(tmp_path / "out" / "grey.png") as a, Image.open(tmp_path / "out" / "sixteen.png") as b:
        assert np.array_equal(np.asarray(a), np.asarray(b)), "8 and 16 bits of one picture are one picture"


def test_unreadable_files_are_named_and_skipped_and_the_rest_is_done(refineseg, model, tmp_path):
    save(tmp_path / "good.png", photographs.astronaut()[:32, :32])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.png").write_text("no image")
    status, out, err = refineseg(
        "predict", tmp_path / "empty.jpg", tmp_path / "text.png", tmp_path / "good.png", tmp_path / "absent.png",
        "--out", tmp_path / "out", "--model", model,
    )  # fmt: skip
    assert status == 1
    assert "good.png" in out
    for name in ("empty.jpg", "text.png", "absent.png"):
        assert name in err
    written = {p.name for p in (tmp_path / "out").iterdir()}
    assert written - {".refineseg.json", ".refineseg.inputs.jsonl"} == {"good.png", "good_overlay.jpg"}


def test_results_that_would_overwrite_each_other_are_refused_before_work(refineseg, model, tmp_path):
    a, b = (
        save(tmp_path / "a" / "x.png", np.zeros((8, 8, 3), np.uint8)),
        save(tmp_path / "b" / "x.jpg", np.zeros((8, 8, 3), np.uint8)),
    )
    status, _, err = refineseg("predict", a, b, "--out", tmp_path / "out", "--model", model)
    assert status == 2
    assert "would both become" in err
    assert not (tmp_path / "out").exists()
    status, _, err = refineseg("predict", a, "--out", a.parent, "--model", model)
    assert status == 2
    assert "results would overwrite" in err
    with Image.open(a) as untouched:
        assert untouched.mode == "RGB"


def test_the_help_of_predict_groups_its_options(refineseg):
    status, out, _ = refineseg("predict", "--help")
    assert status == 0
    headings = [line.rstrip(":") for line in out.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert headings == [
        "Arguments",
        "Options",
        "What is written",
        "Large images",
        "Many files",
        "Beyond one machine",
        "Pixels of images and rasters",
        "Rasters",
        "Videos",
        "Examples",
    ]
    for option in ("--tile", "--save", "--resume", "--bands", "--smooth", "--device"):
        assert option in out


def test_all_numbers_of_a_call_are_written_as_json(refineseg, model, tmp_path):
    for name in ("a", "b"):
        save(tmp_path / "in" / f"{name}.png", photographs.astronaut()[:32, :40])
    (tmp_path / "in" / "c.png").write_bytes(b"")
    status, _, _ = refineseg(
        "predict", tmp_path / "in", "--out", tmp_path / "out", "--model", model, "--json", tmp_path / "numbers.json",
        "--save", "mask,confidence,polygons", "--confidence-format", "png16", "--unknown-below", "0.1",
    )  # fmt: skip
    assert status == 1
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers["done"] == 2
    assert len(numbers["failures"]) == 1
    assert numbers["total"]["pixels"] == 2 * 32 * 40
    assert sum(numbers["total"]["areas"]) + numbers["total"]["unknown"] == 2 * 32 * 40
    for name in ("a.png", "a_confidence.png", "a.geojson"):
        assert (tmp_path / "out" / name).is_file()


def test_probabilities_sum_to_one_and_agree_with_the_mask(refineseg, model, tmp_path):
    save(tmp_path / "a.png", photographs.astronaut()[:40, :40])
    status, _, _ = refineseg(
        "predict", tmp_path / "a.png", "--out", tmp_path / "out", "--model", model, "--save", "mask,probabilities"
    )
    assert status == 0
    with np.load(tmp_path / "out" / "a_probabilities.npz") as stored:
        probabilities, names = stored["probabilities"].astype(np.float64), list(stored["classes"])
    assert names == list(CLASSES.names)
    assert probabilities.shape == (3, 40, 40)
    assert np.abs(probabilities.sum(axis=0) - 1).max() < 2e-3
    with Image.open(tmp_path / "out" / "a.png") as mask:
        chosen = np.take_along_axis(probabilities, np.asarray(mask)[None].astype(int), axis=0)[0]
    assert (chosen >= probabilities.max(axis=0) - 1e-3).all()
    assert not (tmp_path / "out" / "a_overlay.jpg").exists()


def test_unknown_verbs_and_options_have_status_two(refineseg):
    for arguments in (["segment"], ["predict", "--colour"], ["predict"]):
        assert refineseg(*arguments)[0] == 2


def test_train_evaluate_and_predict_work_together_on_a_folder(refineseg, tmp_path):
    root = write_folder(tmp_path / "data", splits={"train": 6, "val": 2}, size=(40, 50))
    (root / "classes.txt").write_text("ground\nsky\nsquare\n")
    status, out, err = refineseg(
        "train", "--data", f"folder:{root}", "--out", tmp_path / "run", "--epochs", 2, "--batch-size", 3,
        "--no-pretrained",
        "--set", "phases.0.crop_hw=[32,32]", "--device", "cpu",
    )  # fmt: skip
    assert status == 0, err
    assert "square" in out
    model = tmp_path / "run" / "best.safetensors"
    assert f"model: {model}" in out
    status, out, err = refineseg(
        "evaluate", "--model", model, "--data", f"folder:{root}", "--json", tmp_path / "e.json",
        "--out", tmp_path / "ev",
        "--pictures", 1,
    )  # fmt: skip
    assert status == 0, err
    written = json.loads((tmp_path / "e.json").read_text())
    matrix = np.array(written["confusion_matrix"])
    assert matrix.sum() == 2 * 40 * 50
    with Image.open(tmp_path / "ev" / "confusion_matrix.png") as picture:
        assert picture.size[0] > 200
    assert len(list((tmp_path / "ev" / "pictures").iterdir())) == 1
    status, _, err = refineseg("predict", root / "images" / "val", "--out", tmp_path / "masks", "--model", model)
    assert status == 0, err
    counted = np.zeros((3, 3), int)  # an independent count from the written masks
    for path in sorted((root / "masks" / "val").iterdir()):
        with Image.open(path) as t, Image.open(tmp_path / "masks" / path.name) as p:
            np.add.at(counted, (np.asarray(t).ravel(), np.asarray(p).ravel()), 1)
    assert np.array_equal(counted, matrix[:, :3])
    iou = np.diag(counted) / (counted.sum(0) + counted.sum(1) - np.diag(counted))
    assert written["mean_iou"] == pytest.approx(iou.mean())


def test_data_of_other_classes_are_refused_with_both_lists(refineseg, model, tmp_path):
    root = write_folder(tmp_path / "data", splits={"val": 1, "train": 1})
    (root / "classes.txt").write_text("one\ntwo\nthree\n")
    status, _, err = refineseg("evaluate", "--model", model, "--data", f"folder:{root}")
    assert status == 2
    assert "ground, sky, square" in err
    assert "one, two, three" in err


def test_lists_name_every_variant_recipe_and_data_set(refineseg):
    import refineseg as package

    _, shown, _ = refineseg("models", "--verbose")
    for name in (*package.VARIANTS, *package.RECIPES):
        assert name in shown
    assert "27,357,525" in shown
    _, shown, _ = refineseg("datasets")
    for name in package.DATASETS:
        assert name in shown


def test_overlays_blend_and_leave_void_alone():
    image = np.full((4, 6, 3), 100, np.uint8)
    mask = np.zeros((4, 6), np.uint8)
    mask[:, 3:] = 255
    painted = render.overlay(image, mask, CLASSES, opacity=0.5, legend=False)
    assert (painted[:, :3] == [80, 85, 75]).all()
    assert (painted[:, 3:] == 100).all()


def test_legends_wrap_instead_of_running_out_of_the_picture():
    info = ClassInfo(tuple(f"a rather long class name {i}" for i in range(9)))
    narrow, wide = (render.legend(info, range(9), width=w) for w in (120, 2000))
    assert narrow.shape[1] == 120
    assert narrow.shape[0] > 3 * wide.shape[0]


def test_error_maps_are_red_where_wrong_and_black_where_void():
    truth, mask = np.array([[0, 1, 255]]), np.array([[0, 0, 0]])
    assert render.error_map(mask, truth, CLASSES).tolist() == [[[235, 235, 235], [230, 30, 30], [0, 0, 0]]]


def test_a_model_with_a_licence_says_so_when_loaded(tmp_path, caplog):
    import refineseg as package

    segmenter = build("refinenet_lw_mobilenetv2", num_classes=2)
    path = tmp_path / "m.safetensors"
    segmenter.save(path)
    package.load(path)
    assert not caplog.records
    Segmenter(ModelSpec("refinenet_lw_mobilenetv2", CLASSES, Preprocessing.imagenet(), licence="for tests only")).save(
        path
    )
    package.load(path)
    assert [r.message for r in caplog.records if "for tests only" in r.message]


def test_the_command_that_goes_on_has_its_option_before_the_names(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["refineseg", "predict", "--no-resume", "--out", "m", "--", "-a.jpg"])
    assert this_call_with("--resume", instead_of="--no-resume") == "refineseg predict --out m --resume -- -a.jpg"
