"""The tool that sets small networks beside those of other libraries: their functions, one recipe, the table."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

from conftest import REPOSITORY
from fakes.scenes import fake_camvid
from refineseg.class_info import ClassInfo
from refineseg.errors import ConfigError, ModelFileError
from refineseg.segmenter import build, load

FOLDER = REPOSITORY / "benchmarks"


@pytest.fixture(scope="module")
def tool():
    sys.path.insert(0, str(FOLDER))
    try:
        yield importlib.import_module("camvid_peers")
    finally:
        sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def networks(tool):
    return importlib.import_module("peer_networks")


@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large"])
def test_a_peer_in_a_segmenter_has_the_function_of_its_library(networks, tmp_path, name):
    segmenter = networks.build_model(name, ClassInfo.generic(5), seed=3)
    torch.manual_seed(3)
    library = getattr(importlib.import_module("torchvision.models.segmentation"), name)
    network = library(weights=None, weights_backbone=None, num_classes=5).eval()
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.inference_mode():
        expected = network((images / 255 - mean) / std)["out"]
        assert torch.allclose(segmenter(images), expected, atol=1e-4)
        assert segmenter(images[:, :, :33, :50]).shape == (2, 5, 33, 50)
    parts = (segmenter.network.encoder, segmenter.network.decoder)
    assert sum(p.numel() for part in parts for p in part.parameters()) == sum(p.numel() for p in network.parameters())
    segmenter.save(tmp_path / "peer.safetensors")
    with pytest.raises(ModelFileError, match="does not fit refineseg_nano: missing tensors"):
        load(tmp_path / "peer.safetensors")


def test_peers_on_lite0_start_from_the_weights_that_ours_starts_from(networks):
    theirs = importlib.import_module("timm").create_model("tf_efficientnet_lite0", features_only=True).eval()
    networks.load_lite_weights(theirs)
    ours = build("refineseg_lite0", num_classes=2, pretrained=True).network.encoder.eval()
    image = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        maps = {tuple(level.shape): level for level in theirs(image)}
        for level in ours(image):
            assert torch.allclose(level, maps[tuple(level.shape)], atol=1e-3)


def test_convolutions_are_counted_as_by_hand(tool):
    counted = tool.count("refineseg_nano", ClassInfo.generic(21), (512, 512))
    assert counted["parameters"] == sum(
        p.numel() for p in tool.build_model("refineseg_nano", ClassInfo.generic(21)).parameters()
    )
    fewer = tool.count("refineseg_nano", ClassInfo.generic(20), (512, 512))
    assert counted["multiply_adds"] - fewer["multiply_adds"] == 32 * 9 * 128 * 128  # one filter of the classifier


@pytest.fixture
def drives(tmp_path):
    """A tiny CamVid in which one training frame is of the drive that is held out, and no test split."""
    root = fake_camvid(tmp_path / "camvid", seed=0)
    text = (root / "train.txt").read_text().splitlines()
    name, held = Path(text[0].split()[0]).stem, "0006R0_f00930"
    for folder in ("train", "trainannot"):
        (root / folder / f"{name}.png").rename(root / folder / f"{held}.png")
    (root / "train.txt").write_text("\n".join(line.replace(name, held) for line in text) + "\n")
    (root / "test.txt").unlink()  # whoever opened it would fail
    return root


@pytest.mark.slow
def test_networks_are_trained_alike_timed_in_turns_and_go_on_where_they_stopped(
    tool, drives, tmp_path, capsys, monkeypatch
):
    pytest.importorskip("openvino")
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(tool, "is_installed", lambda name: not name.startswith("FPN"))
    out = tmp_path / "o"
    call = ["--data", f"camvid:{drives}", "--out", str(out), "--epochs", "1", "--device", "cpu", "--size", "64x64"]
    call += ["--networks", "refineseg_nano,lraspp_mobilenet_v3_large,FPN-mobilenet_v2", "--repeats", "1"]
    call += ["--scale", "1", "--set", "phases.0.crop_hw=[32,32]", "--set", "precision=fp32"]
    tool.main([*call, "--steps", "train", "--minutes", "0"])
    assert (
        "Not trained yet, call again: refineseg_nano seed 0, lraspp_mobilenet_v3_large seed 0."
        in capsys.readouterr().out
    )
    tool.main(call)
    shown = capsys.readouterr().out
    assert "Left out, segmentation-models-pytorch is not installed: FPN-mobilenet_v2." in shown
    assert "no network is at its best" in shown
    ours, peer = json.loads((out / "table.json").read_text())["rows"]
    assert (ours["ours"], peer["ours"]) == (True, False)
    assert set(ours["median_ms"]) - set(peer["median_ms"]) == {"OpenVINO, rewritten", "ONNX Runtime, rewritten"}
    results = [json.loads((out / row["network"] / "seed0" / "result.json").read_text()) for row in (ours, peer)]
    for result, row in zip(results, (ours, peer), strict=True):
        assert result["trained_on"] == ["camvid:fit"]
        assert row["mean_iou"] == {"0": result["mean_iou"]}
        assert f"| {100 * result['mean_iou']:.1f} | 0 |" in shown
    configs = [{**result["config"], "variant": ""} for result in results]
    assert configs[0] == configs[1]
    assert (out / "picture.png").read_bytes().startswith(b"\x89PNG")
    stamps = {path: path.stat().st_mtime_ns for path in out.glob("*/seed0/result.json")}
    tool.main([*call, "--steps", "train"])
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert not list(out.glob("*/seed0/*.safetensors"))
    with pytest.raises(ConfigError, match="expected the recipe of the runs in .* got another"):
        tool.main([*call, "--epochs", "2"])


def test_names_that_are_none_are_refused(tool, tmp_path):
    call = ["--data", "camvid:x", "--out", str(tmp_path)]
    with pytest.raises(ConfigError, match="expected networks of refineseg_nano, .* got unet"):
        tool.main([*call, "--networks", "unet"])
    with pytest.raises(ConfigError, match="expected --steps of train, export, time, got fly"):
        tool.main([*call, "--steps", "fly"])
