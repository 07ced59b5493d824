"""``bench --folder``; masks as runs and one program for many sizes, which make folders cheap. No speed is asserted."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from refineseg.bench.end_to_end import bench_folder, folder_images
from refineseg.bench.timing import example_images
from refineseg.class_info import ClassInfo, LabelTable
from refineseg.errors import ConfigError
from refineseg.images.encoding import write_mask
from refineseg.images.files import read_mask
from refineseg.predict import stream as streams
from refineseg.prediction import Prediction
from refineseg.runtimes import open as opening
from refineseg.runtimes.open import scorer_of
from refineseg.segmenter import build

VARIANT = "refineseg_nano"


@pytest.fixture
def folder(tmp_path):
    for index, (height, width) in enumerate([(40, 50), (33, 64), (40, 50)]):
        pixels = example_images(1, 3, (height, width))[0].permute(1, 2, 0).numpy()
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{index}.jpg")
    return tmp_path / "in"


@pytest.mark.slow
def test_a_runtime_is_measured_under_its_own_name(folder):
    """``auto`` is the runtime that predict would take."""
    report = bench_folder(VARIANT, folder, device="cpu", backend="auto", precision="float32", rounds=1)
    assert [row["backend"] for row in report.rows] == [opening.fastest(torch.device("cpu"), "float32")]


def test_a_runtime_that_reads_files_only_has_none_here(folder):
    with pytest.raises(ConfigError, match=rf"expected an exported file .* for torch_export, got {VARIANT}; export it"):
        bench_folder(VARIANT, folder, device="cpu", backend="torch_export", rounds=1)


def test_the_whole_of_predict_is_measured_beside_its_network(folder, monkeypatch):
    read = []
    true_read = streams.read_picture
    monkeypatch.setattr(
        streams, "read_picture", lambda path, **options: read.append(path) or true_read(path, **options)
    )
    report = bench_folder(VARIANT, folder, device="cpu", backend="torch", rounds=2)
    assert len(read) == 3 * 2 * (1 + 2), "two precisions, a round to warm up and two that count"
    assert [(row["backend"], row["precision"]) for row in report.rows] == [("torch", "float32"), ("torch", "bfloat16")]
    for row in json.loads(json.dumps(report.to_json()))["rows"]:
        assert (row["images"], row["sizes"], row["rounds"]) == (3, {"40x50": 2, "33x64": 1}, 2)
        assert row["predict_per_s"] > 0
        assert 0 < row["ratio"] < 3
        assert 0 < row["bound"] < 1
        assert min(row[name] for name in row if name.endswith(("_cpu_ms", "_per_s", "_bytes"))) > 0
    assert report.machine["threads"] > 0


def test_the_folder_is_measured_from_the_command_line(folder, refineseg, tmp_path):
    out = tmp_path / "speed.json"
    options = ("--device", "cpu", "--backend", "torch", "--precision", "float32", "--repeats", 1, "--json", out)
    status, text, _ = refineseg("bench", "--model", VARIANT, "--folder", folder, *options)
    assert status == 0
    assert "predict --save mask of 3 images (2 of 40x50, 1 of 33x64), 1 rounds" in " ".join(text.split())
    assert json.loads(out.read_text())["rows"][0]["images"] == 3


def test_a_wrong_folder_is_refused_before_anything_is_built(refineseg, tmp_path, monkeypatch, folder):
    def refuse(*_arguments, **_options):
        raise AssertionError("a network was built")

    monkeypatch.setattr("refineseg.segmenter.build_network", refuse)
    (tmp_path / "empty").mkdir()
    for wrong in (tmp_path / "absent", tmp_path / "empty"):
        status, _, err = refineseg("bench", "--model", VARIANT, "--folder", wrong)
        assert status == 2
        assert "expected a folder of images" in err
        assert str(wrong) in " ".join(err.split())
        status, _, err = refineseg("bench", "--model", VARIANT, "--stages", wrong)
        assert status == 2
        assert str(wrong) in err
    status, _, err = refineseg("bench", "--papers", "--stages", folder)
    assert status == 2
    assert "expected --stages without --papers" in " ".join(err.split())
    status, _, err = refineseg("bench", "--folder", folder, "--size", "32x32")
    assert status == 2
    assert "expected --folder with none of --papers, --counts" in " ".join(err.split())


def test_wrong_options_of_the_folder_are_told(folder):
    with pytest.raises(ConfigError, match="expected at least one round, got 0"):
        bench_folder(VARIANT, folder, rounds=0)
    with pytest.raises(ConfigError, match="expected a precision of .*torch.* for --folder, got int4"):
        bench_folder(VARIANT, folder, device="cpu", precision="int4")
    assert [path.name for path in folder_images(folder)] == ["0.jpg", "1.jpg", "2.jpg"]


def test_an_image_that_cannot_be_predicted_ends_the_measurement(folder, monkeypatch):
    true_read = streams.read_picture

    def broken(path, **options):
        if path.name == "1.jpg":
            raise ConfigError(f"{path.name} is broken")
        return true_read(path, **options)

    monkeypatch.setattr(streams, "read_picture", broken)
    with pytest.raises(ConfigError, match="expected images that can be predicted for --folder, but .*1.jpg is broken"):
        bench_folder(VARIANT, folder, device="cpu", backend="torch", precision="float32", rounds=1)


# ---------------------------------------------------------------------------------------------------------- mask files


def test_masks_as_runs_hold_the_same_pixels_and_are_hardly_larger(tmp_path):
    """Blobs as a network draws them; noise, the worst case, too."""
    info = ClassInfo(tuple(f"class {i}" for i in range(11)))
    blobs = example_images(1, 3, (300, 400))[0, 0].numpy() // 24
    noise = np.random.default_rng(0).integers(0, 11, (100, 90), dtype=np.uint8)
    for mask in (blobs, noise):
        write_mask(tmp_path / "mask.png", mask, info)
        found = read_mask(tmp_path / "mask.png", table=LabelTable.identity(info), ignore_index=255)
        np.testing.assert_array_equal(found, mask)
        default = io.BytesIO()
        image = Image.fromarray(mask)
        image.putpalette([0] * 768)
        image.save(default, format="PNG")
        assert (tmp_path / "mask.png").stat().st_size < 1.3 * len(default.getvalue())


def test_areas_are_counted_alike_in_masks_of_one_and_two_bytes():
    info = ClassInfo(("a", "b", "c"))
    mask = np.random.default_rng(0).integers(0, 3, (20, 31), dtype=np.uint8)
    mask[:3, :5] = 255
    image = np.zeros((20, 31, 3), np.uint8)
    expected = [int((mask == index).sum()) for index in range(3)]
    for kind in (np.uint8, np.uint16):
        areas = Prediction(image, mask.astype(kind), info).areas
        assert areas.dtype == np.int64
        assert areas.tolist() == expected
    assert Prediction(image[:, ::2], mask[:, ::2], info).areas.sum() == (mask[:, ::2] < 3).sum()


# ------------------------------------------------------------------------------------------------- sizes without an end


@pytest.mark.slow
@pytest.mark.skipif(not opening.BACKENDS["openvino"].is_installed, reason="openvino is not installed")
def test_endlessly_many_sizes_share_one_program_with_equal_results(monkeypatch):
    import torch

    torch.manual_seed(0)
    device = torch.device("cpu")
    scorer = scorer_of(build(VARIANT, num_classes=3), backend="openvino", device=device, precision="float32")
    images = [example_images(1, 3, (40 + 3 * i, 64 - 2 * i)) for i in range(7)]
    made = []
    true_compile = scorer._program._core.compile_model

    class Core:
        def compile_model(self, model, *rest):
            made.append(model.is_dynamic())
            return true_compile(model, *rest)

    monkeypatch.setattr(scorer._program, "_core", Core())
    first = [scorer.class_map(image) for image in images]
    assert made == [False] * 4 + [True], "four sizes of their own, and one program for all others"
    assert first[0].dtype == torch.uint8
    again = [scorer.class_map(image) for image in images]
    assert len(made) == 5, "nothing is compiled twice"
    scorer._program._compiled.clear()
    reverse = [scorer.class_map(image) for image in reversed(images)][::-1]
    assert len(made) == 10
    for one, two, three in zip(first, again, reverse, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three), "the program for any size computes the same bits"
