"""Model cards: what a file says of itself, what was measured, what was written by hand, and the worst failures."""

import json

import numpy as np
import pytest
from PIL import Image

import refineseg as package
from conftest import REPOSITORY, untrained, write_folder
from fakes.scenes import fake_camvid
from refineseg.class_info import ClassInfo
from refineseg.data.samples.sample import Sample
from refineseg.errors import ConfigError
from refineseg.evaluate.card import _facts
from refineseg.evaluate.card_blocks import BLOCKS, fill
from refineseg.evaluate.failures import WorstImages
from refineseg.evaluate.metrics import ConfusionMatrix
from refineseg.evaluate.reports import draw_confusion
from refineseg.prediction import Prediction

INFO = ClassInfo(("a", "b", "c"))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return fake_camvid(tmp_path_factory.mktemp("camvid"), seed=0)


def test_a_card_of_the_shipped_model_has_everything(refineseg, root, tmp_path):
    history = [{"epoch": e, "loss": 1.0 / e, "decoder_lr": 0.1} for e in (1, 2, 3)]
    (tmp_path / "h.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in history))
    status, out, _ = refineseg(
        *("card", "--data", f"camvid:{root}", "--out", tmp_path / "o", "--failures", 2, "--device", "cpu"),
        *("--history", tmp_path / "h.jsonl"),
    )
    assert status == 0
    assert str(tmp_path / "o" / "card.md") in out
    card = (tmp_path / "o" / "card.md").read_text()
    spec = package.load("camvid").spec
    for fact in (
        f"`{spec.variant}`, 11 classes, 3,160,779 parameters",
        "camvid:train+val, 468 images",
        spec.licence,
        "`camvid_refineseg_lite0`: 18 epochs of 440x600 crops",
        "Measured: data set camvid; split test; classes 11; images 3; image size 40x56; image files lossless",
        "| class | IoU %, all (3) | accuracy % | boundary IoU % |",
        "| DABNet | 66.7 | unlike protocols",
        "Last of 3 epochs: training loss 0.333.",
        "![learning curves](curves.png)",
    ):
        assert fact in card, fact
    pictures = sorted((tmp_path / "o" / "pictures").iterdir())
    assert len(pictures) == 2
    for picture in pictures:
        assert f"](pictures/{picture.name})" in card
    with Image.open(tmp_path / "o" / "curves.png") as curves:
        assert curves.size[0] > 300


@pytest.mark.slow
def test_what_was_written_by_hand_stays_and_the_blocks_are_new(refineseg, root, tmp_path):
    card = tmp_path / "mine.md"
    card.write_text(
        "# Mine\n\nA paragraph of my own.\n\n<!-- made: results -->\nold numbers\n<!-- end: results -->\n\n"
        "And another.\n"
        "<!-- made: failures -->\n<!-- end: failures -->\n<!-- made: curves -->\n<!-- end: curves -->\n"
    )
    call_ = ("card", "--data", f"camvid:{root}", "--out", tmp_path / "o", "--card", card, "--failures", 1)
    assert refineseg(*call_, "--device", "cpu")[0] == 0
    first = card.read_text()
    assert first.startswith("# Mine\n\nA paragraph of my own.\n\n<!-- made: results -->\nMeasured: data set camvid")
    assert "\n\nAnd another.\n" in first
    assert "old numbers" not in first
    assert "![" not in first  # the pictures lie elsewhere, and frames are not passed on
    assert "There is no history of the training beside the model." in first
    assert refineseg(*call_, "--device", "cpu")[0] == 0
    assert card.read_text() == first


def test_a_card_without_blocks_or_with_unknown_ones_is_refused():
    with pytest.raises(ConfigError, match="expected a card with blocks .* of facts, results.* got none; add them"):
        fill("only words", dict.fromkeys(BLOCKS, "x"))
    with pytest.raises(ConfigError, match="got wisdom"):
        fill("<!-- made: wisdom -->\n<!-- end: wisdom -->", dict.fromkeys(BLOCKS, "x"))


@pytest.mark.parametrize(
    "path", ["src/refineseg/evaluate/card_template.md", "packages/weights/src/refineseg_weights/camvid.md"]
)
def test_the_template_and_the_shipped_card_have_every_block(path):
    text = (REPOSITORY / path).read_text(encoding="utf-8")
    filled = fill(text, {block: f"new {block}" for block in BLOCKS})
    for block in BLOCKS:
        assert f"<!-- made: {block} -->\nnew {block}\n<!-- end: {block} -->" in filled


def test_the_worst_images_are_kept_with_their_commonest_confusion():
    worst = WorstImages(2)
    truth = np.array([[0, 0, 0, 1, 1, 255]], np.uint8)
    image = np.zeros((1, 6, 3), np.uint8)
    for index, mask in enumerate(([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 2, 2], [2, 2, 2, 1, 1, 2], [0, 0, 0, 1, 0, 0])):
        prediction = Prediction(image, np.array([mask], np.uint8), INFO)
        worst.add(index, Sample(image, truth, f"image{index}"), prediction)
    assert [failure.name for failure in worst.failures] == ["image2", "image1"]
    assert worst.failures[0].confusion == ("a", "c", 0.6)
    assert worst.failures[0].describe() == "60.0 % wrong, most of all a taken for c (60.0 %)"
    assert WorstImages(0).failures == ()


def test_wrong_calls_are_named(refineseg, root, tmp_path):
    status, _, err = refineseg(
        *("card", "--data", f"camvid:{root}", "--out", tmp_path / "o", "--failures", -1, "--device", "cpu")
    )
    assert status == 2
    assert "expected --pictures of at least 0, got -1" in err
    (tmp_path / "h.jsonl").write_text("{")
    status, _, err = refineseg(
        *("card", "--data", f"camvid:{root}", "--out", tmp_path / "o", "--history", tmp_path / "h.jsonl"),
        *("--device", "cpu"),
    )
    assert status == 2
    assert "expected the metrics.jsonl of a run, got" in err


def test_a_card_that_cannot_be_written_is_refused_before_anything_is_measured(refineseg, root, tmp_path):
    (tmp_path / "mine.md").write_text("all by hand")
    data = ("--data", f"camvid:{root}", "--out", tmp_path / "o")
    status, _, err = refineseg("card", *data, "--card", tmp_path / "mine.md")
    assert (status, "expected a card with blocks" in err) == (2, True)
    (tmp_path / "m.onnx").write_bytes(b"")
    status, _, err = refineseg("card", *data, "--model", tmp_path / "m.onnx")
    assert (status, "expected a shipped model or a .safetensors file" in err) == (2, True)
    assert not (tmp_path / "o").exists()


def test_training_images_of_unknown_size_are_said_to_be_so():
    parts = [{"num_images": n, "image_size": size, "compression": None} for n, size in ((7, None), (8, "various"))]
    spec = package.build("refineseg_nano", num_classes=3).with_provenance({"protocol": {"training_images": parts}}).spec
    assert "7 images of unknown size, files of unknown compression; 8 images of various sizes" in _facts(spec, 5)


def test_provenance_of_another_form_is_not_stated():
    foreign = {"protocol": "none", "config": {"phases": 3}, "training_seconds": "long", "seed": [1]}
    spec = package.build("refineseg_nano", num_classes=3).with_provenance(foreign).spec
    facts = _facts(spec, 5)
    assert "| Recipe | not stated |" in facts
    assert "| Training time | not stated |" in facts


@pytest.mark.slow
def test_the_picture_of_very_many_classes_stays_small(tmp_path):
    matrix = ConfusionMatrix(ClassInfo.generic(600))
    matrix.update(np.arange(600).reshape(20, 30), np.arange(600).reshape(20, 30))
    draw_confusion(tmp_path / "m.png", matrix)
    with Image.open(tmp_path / "m.png") as picture:
        assert max(picture.size) < 6000


def test_void_is_that_of_the_data_where_the_model_has_another(tmp_path):
    write_folder(tmp_path / "d", splits={"val": 2})
    for path in (tmp_path / "d" / "masks" / "val").iterdir():
        mask = np.array(Image.open(path))
        mask[:9] = 255
        Image.fromarray(mask).save(path)
    (tmp_path / "d" / "classes.txt").write_text("ground\nsky\nsquare\n")
    model = untrained(tmp_path / "m.safetensors", ClassInfo(("ground", "sky", "square"), ignore_index=254))
    found = package.evaluate(f"folder:{tmp_path / 'd'}", model=model, device="cpu", pictures=2, out=tmp_path / "o")
    height, width = np.array(Image.open(next((tmp_path / "d" / "masks" / "val").iterdir()))).shape
    assert found.matrix.counts.sum() == 2 * (height - 9) * width
    assert len(found.failures) == 2
