"""Files for evaluation servers, as the servers' own rules read them."""

import fnmatch
import json

import numpy as np
import pytest
from PIL import Image

from conftest import untrained, write_folder
from fakes.pascal import VOC_TEST, VOC_VAL, fake_voc
from refineseg.class_info import ClassInfo, voc_palette
from refineseg.data.datasets import DATASETS
from refineseg.data.samples.catalog import catalog_classes
from refineseg.data.samples.sample import Sample
from refineseg.errors import ConfigError, DatasetError, OutputError
from refineseg.evaluate.measuring import EvaluationFiles, EvaluationResult, evaluate_to_files
from refineseg.evaluate.submission import SUBMISSIONS, find_benchmark, write_cityscapes, write_voc
from refineseg.predict.options import PredictorOptions
from refineseg.terminal.printing import Terminal

VOC = catalog_classes("voc")
CITYSCAPES = catalog_classes("cityscapes")
COMP6 = "results/VOC2012/Segmentation/comp6_test_cls"


@pytest.fixture(scope="module")
def voc_root(tmp_path_factory):
    return fake_voc(tmp_path_factory.mktemp("voc"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Untrained, of the VOC classes and a void channel, as the authors' models."""
    classes = ClassInfo((*VOC.names, "void"), (*VOC.palette, (0, 0, 0)))
    return untrained(tmp_path_factory.mktemp("model") / "voc.safetensors", classes, seed=0)


@pytest.fixture
def evaluated(refineseg, model, tmp_path):
    """``refineseg evaluate`` on a fake VOC: exit status, stdout, stderr."""
    fixed = ("evaluate", "--model", model, "--out", tmp_path / "evaluation", "--device", "cpu")
    return lambda *arguments: refineseg(*fixed, *arguments)


def test_the_test_split_of_voc_becomes_comp6_files_and_no_numbers(evaluated, voc_root, tmp_path):
    status, out, err = evaluated(
        "--data", f"voc:{voc_root}", "--split", "test", "--submission", tmp_path / "s", "--json", tmp_path / "e.json"
    )
    assert status == 0, err
    assert "mIoU" not in out
    assert "submission: 3 files" in out
    written = sorted((tmp_path / "s").rglob("*.*"))
    assert written == sorted(tmp_path / "s" / COMP6 / f"{name}.png" for name in VOC_TEST)
    for path in written:
        with Image.open(path) as mask:
            assert mask.mode == "P"
            assert mask.size == (56, 40)
            assert np.asarray(mask).max() <= 20
            assert mask.getpalette()[: 3 * 21] == [value for colour in voc_palette(21) for value in colour]
    facts = json.loads((tmp_path / "e.json").read_text())
    assert facts["split"] == "test"
    assert "mean_iou" not in facts
    assert not (tmp_path / "evaluation").exists()


def test_a_labelled_split_gives_files_and_numbers(evaluated, voc_root, tmp_path):
    status, out, err = evaluated("--data", f"voc:{voc_root}", "--split", "val", "--submission", tmp_path / "s")
    assert status == 0, err
    assert "mIoU" in out
    assert {path.stem for path in (tmp_path / "s").rglob("*.png")} == set(VOC_VAL)


def test_a_split_without_labels_needs_a_submission(evaluated, voc_root):
    status, _, err = evaluated("--data", f"voc:{voc_root}", "--split", "test")
    assert status == 2
    assert "expected a labelled split, got test" in err
    assert "--submission FOLDER (voc, cityscapes)" in err


def test_labelled_and_unlabelled_images_are_not_mixed(evaluated, voc_root, tmp_path):
    status, _, err = evaluated("--data", f"voc:{voc_root}", "--split", "val+test", "--submission", tmp_path / "s")
    assert status == 2
    assert "expected images that all have masks or all have none, got both in val+test" in err
    assert not (tmp_path / "s").exists()


def test_an_unlabelled_image_between_labelled_ones_ends_the_evaluation(monkeypatch, model, voc_root, tmp_path):
    masks = [np.zeros((8, 8), np.uint8), None, np.zeros((8, 8), np.uint8)]

    class Gap:
        class_info, notes = VOC, ()

        def __len__(self):
            return 3

        def __getitem__(self, index):
            return Sample(np.zeros((8, 8, 3), np.uint8), masks[index], f"image {index}")

        def name(self, index):
            return f"image {index}"

        def read_mask(self, index):
            return masks[index]

    monkeypatch.setattr("refineseg.evaluate.measuring.open_split", lambda *_, **__: Gap())
    options = PredictorOptions.parse(device="cpu")
    with pytest.raises(DatasetError, match="got both in val of .* image 1"):
        evaluate_to_files(
            model,
            f"voc:{voc_root}",
            "val",
            options=options,
            files=EvaluationFiles(tmp_path),
            console=Terminal(quiet=True),
        )


def test_other_data_sets_have_no_benchmark(evaluated, tmp_path):
    root = write_folder(tmp_path / "data", splits={"val": 1, "train": 1})
    (root / "classes.txt").write_text("\n".join(VOC.names))
    status, _, err = evaluated("--data", f"folder:{root}", "--submission", tmp_path / "s")
    assert status == 2
    assert "expected --submission with a data set of voc, cityscapes, got 'folder'" in err
    with pytest.raises(ConfigError, match="`refineseg predict` writes masks of any images"):
        find_benchmark("camvid")


def test_every_benchmark_belongs_to_a_data_set():
    assert SUBMISSIONS.keys() <= DATASETS.keys()


def test_voc_void_becomes_background_which_the_server_takes(tmp_path):
    mask = np.array([[0, 20, 255]], np.uint8)
    write_voc(tmp_path, "2008_000001", mask, VOC)
    with Image.open(tmp_path / COMP6 / "2008_000001.png") as written:
        assert np.asarray(written).tolist() == [[0, 20, 0]]
    assert mask.tolist() == [[0, 20, 255]]


@pytest.mark.parametrize(
    "name", ["berlin_000000_000019", "berlin_000000_000019_leftImg8bit", "berlin/berlin_000000_000019"]
)
def test_cityscapes_masks_are_grey_label_ids_that_the_servers_pattern_finds(tmp_path, name):
    mask = np.zeros((1024, 2048), np.uint8)
    mask[0, :20] = [*range(19), 255]
    write_cityscapes(tmp_path, name, mask, CITYSCAPES)
    (path,) = tmp_path.rglob("*.png")
    assert fnmatch.fnmatch(path.name, "berlin_000000_000019*.png")
    with Image.open(path) as written:
        assert (written.mode, written.size) == ("L", (2048, 1024))
        ids = np.asarray(written)
    expected = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33, 0]
    assert ids[0, :20].tolist() == expected
    assert (ids[1:] == 7).all()


def test_cityscapes_refuses_other_sizes_and_names(tmp_path):
    with pytest.raises(DatasetError, match="expected a mask of 1024x2048 .*, got 512x1024; predict the original"):
        write_cityscapes(tmp_path, "berlin_000000_000019", np.zeros((512, 1024), np.uint8), CITYSCAPES)
    with pytest.raises(DatasetError, match="expected a Cityscapes name CITY_SEQUENCE_FRAME .*, got 'photo'"):
        write_cityscapes(tmp_path, "photo", np.zeros((1024, 2048), np.uint8), CITYSCAPES)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="expected to write .*pred_labelIds.png"):
        write_cityscapes(tmp_path / "file", "berlin_000000_000019", np.zeros((1024, 2048), np.uint8), CITYSCAPES)


def test_a_negative_number_of_pictures_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="expected --pictures of at least 0, got -1"):
        EvaluationFiles(tmp_path, pictures=-1)


def test_a_result_without_labels_still_says_how_it_was_made():
    result = EvaluationResult("m", "voc:x", "test", PredictorOptions.parse(protocol="authors"), (), 3, None)
    assert result.how.startswith(
        "predicted with: protocol authors, scales 1, short side 450..800 pixels, enlargement 1.2"
    )
    assert result.to_json()["scoring_protocol"]["enlargement"] == 1.2
    assert "confusion_matrix" not in result.to_json()
