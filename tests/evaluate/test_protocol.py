"""The conditions of a number: in model files, in results, and what is said when two numbers stand side by side."""

import json
from dataclasses import replace

import pytest

from conftest import REPOSITORY, write_folder
from fakes.runs import Silent
from fakes.scenes import fake_camvid
from refineseg.data.crops.options import CropOptions
from refineseg.data.datasets import open_dataset
from refineseg.data.samples.sample_facts import facts_of_files, stored_losslessly
from refineseg.data.storage.file_lists import packaged_table
from refineseg.errors import ConfigError
from refineseg.evaluate.comparison import against_table, compare_published, read_result
from refineseg.evaluate.protocol import Learned, MeasurementProtocol
from refineseg.evaluate.published import COMPARATORS
from refineseg.segmenter import build, load, load_spec
from refineseg.training.config import Phase, TrainingConfig
from refineseg.training.provenance import run_protocol
from refineseg.training.recipes.table import RECIPES
from refineseg.training.run import RunRequest, resume_run, start_run

DABNET = COMPARATORS["camvid"][0]


def tiny(**changes):
    phase = Phase(epochs=1, crops=CropOptions((32, 32), (1.0, 1.0)), batch_size=3, encoder_lr=1e-3, decoder_lr=1e-3)
    config = TrainingConfig("test", "refineseg_nano", (phase,), pretrained="no", precision="fp32")
    return replace(config, **changes)


def test_equal_protocols_have_no_differences_and_only_they_are_subtracted():
    rows = {row.network: row for row in compare_published(DABNET.protocol, 0.700, "refinenet_lw_mobilenetv2")}
    assert rows["DABNet"].differences.equal
    assert rows["DABNet"].verdict == "equal protocol: ours is 3.3 points above"
    for name in ("FC-DenseNet103", "AGLNet", "LETNet"):
        assert rows[name].advantage is None
        assert "points" not in rows[name].verdict
        assert "from memory, unverified" in rows[name].origin
    assert "trained on: camvid:train, camvid:val here, camvid:train there" in rows["FC-DenseNet103"].verdict
    assert "not stated: classes, images" in rows["AGLNet"].verdict


@pytest.mark.parametrize(
    ("field", "value", "phrase"),
    [
        ("num_images", 232, "images: 232 here, 233 there"),
        ("image_size", "720x960", "image size: 720x960 here, 360x480 there"),
        ("compression", "lossy", "image files: lossy here, lossless there"),
        ("trained_on", ("camvid:train",), "trained on: camvid:train here, camvid:train, camvid:val there"),
        ("other_data", "ImageNet weights of timm", "other data: ImageNet weights of timm here, none there"),
        ("scales", (0.75, 1.0), "scales: 0.75, 1 here, 1 there"),
        ("flip", True, "flip: yes here, no there"),
        ("crf", True, "CRF: yes here, no there"),
        (
            "mean",
            "over the classes in the truth",
            "mean IoU: over the classes in the truth here, over all classes there",
        ),
        ("void", "counted", "void: counted here, left out there"),
        ("num_classes", 12, "classes: 12 here, 11 there"),
        ("mapping", "a to b", "classes mapped: a to b here, no there"),
    ],
)
def test_every_single_condition_is_named_where_it_differs(field, value, phrase):
    differences = replace(DABNET.protocol, **{field: value}).differences(DABNET.protocol)
    assert differences.unlike == (phrase,)
    assert not differences.equal
    (row, *_) = compare_published(replace(DABNET.protocol, **{field: value}), 0.7, "refinenet_lw_mobilenetv2")
    assert phrase in row.verdict
    assert row.advantage is None


def test_what_is_not_stated_is_no_equality():
    unknown = replace(DABNET.protocol, flip=None)
    assert unknown.differences(DABNET.protocol).unstated == ("flip",)
    assert unknown.differences(unknown).unstated == ("flip",)
    # others have no word for our scoring protocols, but two of ours are told apart
    ours = replace(DABNET.protocol, scoring="light_weight", precision="float32")
    assert ours.differences(DABNET.protocol).equal
    assert ours.differences(replace(ours, precision="bfloat16")).unlike == ("precision: float32 here, bfloat16 there",)


def test_a_protocol_survives_json_and_refuses_what_it_does_not_know():
    again = MeasurementProtocol.from_json(json.loads(json.dumps(DABNET.protocol.to_json())))
    assert again == DABNET.protocol
    with pytest.raises(ConfigError, match="expected a protocol with data set and split, got size; .* measure again"):
        MeasurementProtocol.from_json({"size": 3})


def test_what_weights_learned_from_adds_up_and_what_is_unknown_stays_unknown():
    first = Learned.from_run(["camvid:train+val"], "scratch")
    second = Learned.from_run(["voc:train"], "ImageNet weights of timm")
    both = first + second
    assert both == Learned(("camvid:train", "camvid:val", "voc:train"), "ImageNet weights of timm")
    assert (first + first).other_data == "none"
    assert (first + Learned(None, None)) == Learned(None, None)
    assert Learned.from_provenance({}) == Learned(None, None)
    old = {"data": "coco_voc:train, 9 images; voc:train, sbd:all, 5 images", "started_from": "scratch"}
    assert Learned.from_provenance(old) == Learned(("coco_voc:train", "sbd:all", "voc:train"), "none")
    own = {"data": "camvid:train, 3 images", "started_from": "scratch", "pretraining": {"task": "hidden squares"}}
    assert Learned.from_provenance(own).other_data == "pretrained without labels on camvid:train"
    for foreign in ("camvid:train", 3, [1], {"a": 1}):
        assert Learned.from_provenance({"protocol": {"trained_on": foreign, "other_data": 4}}) == Learned(None, None)
    shipped = Learned.from_provenance(load_spec("camvid").provenance)
    assert shipped.trained_on == ("camvid:train", "camvid:val")


@pytest.mark.slow
def test_a_model_file_knows_what_it_learned_from_also_after_a_resume_and_fine_tuning(tmp_path):
    root = write_folder(tmp_path / "data", splits={"train": 3, "val": 2})
    request = RunRequest(tiny(), f"folder:{root}", device="cpu")
    start_run(request, tmp_path / "a", progress=Silent())
    protocol = load_spec(tmp_path / "a" / "last.safetensors").provenance["protocol"]
    assert protocol["trained_on"] == ["folder:train"]
    assert protocol["other_data"] == "none"
    assert (protocol["split"], protocol["num_images"], protocol["image_size"]) == ("val", 2, "48x64")
    assert protocol["compression"] == "lossless"
    assert protocol["training_images"] == [{"num_images": 3, "image_size": "48x64", "compression": "lossless"}]
    # the run's own numbers have it, too, in the form that can be compared
    written = read_result(tmp_path / "a" / "metrics.json")
    assert MeasurementProtocol.from_json(written["measurement_protocol"]).num_images == 2
    # fine-tuned on other data: both are remembered
    fake_camvid(tmp_path / "camvid")
    config = tiny(val_split=None)
    tuned = RunRequest(config, f"camvid:{tmp_path / 'camvid'}", init=str(tmp_path / "a/last.safetensors"), device="cpu")
    start_run(tuned, tmp_path / "b", progress=Silent())
    expected = Learned(("camvid:train", "folder:train"), "none")
    assert Learned.from_provenance(load_spec(tmp_path / "b" / "last.safetensors").provenance) == expected
    protocol = run_protocol(
        tiny(), ("camvid",), (open_dataset("camvid", tmp_path / "camvid", split="train"),), None,
        started_from="scratch", teacher=Learned(("voc:train",), "ImageNet weights of timm"),
    )  # fmt: skip
    assert (protocol["trained_on"], protocol["split"]) == (["camvid:train", "voc:train"], "")
    assert protocol["other_data"] == "ImageNet weights of timm"
    (tmp_path / "b" / "last.safetensors").unlink()
    (tmp_path / "b" / "checkpoint.pt").unlink()
    resume_run(tmp_path / "b", data=None, device="cpu", num_workers=None, progress=Silent())
    assert Learned.from_provenance(load_spec(tmp_path / "b" / "last.safetensors").provenance) == expected


def test_evaluate_prints_published_rows_with_what_differs_and_warns_of_images_trained_on(refineseg, tmp_path):
    fake_camvid(tmp_path / "camvid")
    options = ("--data", f"camvid:{tmp_path / 'camvid'}", "--device", "cpu", "--out", tmp_path / "o")
    status, out, _ = refineseg("evaluate", "--split", "test", "--json", tmp_path / "a.json", "--boundary", *options)
    assert status == 0
    flat = " ".join(out.split())
    assert "DABNet" in out
    assert "unlike protocols: images: 3 here, 233 there; image size: 40x56 here, 360x480 there" in flat
    assert "points above" not in flat
    assert "points below" not in flat
    assert "mean boundary IoU (2 %)" in out
    result = json.loads((tmp_path / "a.json").read_text())
    assert result["measurement_protocol"]["num_images"] == 3
    assert result["measurement_protocol"]["compression"] == "lossless"
    assert result["measurement_protocol"]["trained_on"] == ["camvid:train", "camvid:val"]
    assert {row["network"] for row in result["published"]} == {"DABNet", "FC-DenseNet103", "AGLNet", "LETNet"}
    assert not any(row["equal_protocol"] for row in result["published"])
    assert result["boundary"]["ratio"] == 0.02
    assert list(result["parts"]) == ["0001TP"]
    assert result["trained_on_images"] == 0
    # the training split: said, because the model has seen these
    status, out, _ = refineseg("evaluate", "--split", "train", *options, "--against", tmp_path / "a.json")
    assert status == 0
    assert "WARNING: the model was trained on 3 of these 3 images" in out
    flat = " ".join(out.split())
    assert "unlike protocols: split: train here, test there" in flat
    assert "difference" in flat
    assert "(unlike protocols)" in flat


def test_two_results_of_one_protocol_are_subtracted_without_a_mark(refineseg, tmp_path):
    fake_camvid(tmp_path / "camvid")
    path = tmp_path / "a.json"
    call_ = ("evaluate", "--split", "test", "--data", f"camvid:{tmp_path / 'camvid'}", "--device", "cpu")
    refineseg(*call_, "--out", tmp_path / "o", "--json", path)
    status, out, _ = refineseg(*call_, "--out", tmp_path / "o", "--against", path)
    assert status == 0
    assert "equal protocol" in " ".join(out.split())
    result = read_result(path)
    result["measurement_protocol"]["other_data"] = "none"
    better = json.loads(json.dumps(result))
    better["mean_iou"] += 0.01
    table, differences = against_table(better, result, name="b")
    assert differences.equal
    assert [column.header for column in table.columns][-1] == "difference"
    assert next(iter(table.columns[-1].cells)) == "+1.00"


def test_a_file_that_is_no_result_is_refused(refineseg, tmp_path):
    (tmp_path / "x.json").write_text('{"mean_iou": 0.5}')
    with pytest.raises(ConfigError, match="expected a result with its protocol in .*x.json, got none"):
        read_result(tmp_path / "x.json")
    status, _, err = refineseg("evaluate", "--data", f"folder:{tmp_path}", "--against", tmp_path / "no.json")
    assert status == 2
    assert "expected a result of `refineseg evaluate --json`" in err


def test_facts_of_files_are_read_from_their_headers(tmp_path, camvid_root):
    test, train = (open_dataset("camvid", camvid_root, split=split) for split in ("test", "train"))
    assert (facts_of_files(test).image_size, facts_of_files(test).compression) == ("360x480", "lossless")
    assert facts_of_files(train).compression == "lossy"
    assert stored_losslessly(tmp_path / "a.jpg") is False
    assert stored_losslessly(tmp_path / "a.png") is True
    assert stored_losslessly(tmp_path / "absent.webp") is None
    assert stored_losslessly(tmp_path / "a.gif") is None


def test_a_model_without_history_is_measured_all_the_same(refineseg, tmp_path):
    fake_camvid(tmp_path / "camvid")
    build("refinenet_lw_mobilenetv2", class_info=load("camvid").class_info).save(tmp_path / "m.safetensors")
    status, out, _ = refineseg(
        *("evaluate", "--model", tmp_path / "m.safetensors", "--data", f"camvid:{tmp_path / 'camvid'}"),
        *("--split", "val", "--out", tmp_path / "o", "--device", "cpu"),
    )
    assert status == 0
    assert "trained on not stated" in out


def test_the_page_about_camvid_says_what_the_code_says():
    page = (REPOSITORY / "docs" / "camvid.md").read_text(encoding="utf-8")
    for row in COMPARATORS["camvid"]:
        assert f"{row.network} {100 * row.mean_iou:.1f}" in page.replace("\n", " ")
    for name in RECIPES:
        if name.startswith("camvid"):
            assert f"{name}`" in page or f"{name} " in page
    table = packaged_table("class_tables", "cityscapes_to_camvid")
    assert f"{len(table['labels'])} of the {len(table['labels']) + len(table['void'])} ids" in page
