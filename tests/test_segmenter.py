"""The model: any image size, self-sufficient files, and a clear word about everything that does not fit."""

import json
import math
import re
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from skimage.transform import resize
from torch import nn

import refineseg
from refineseg.class_info import ClassInfo
from refineseg.errors import ConfigError, ModelFileError, OutputError
from refineseg.networks.building import at_most
from refineseg.networks.model_names import model_file
from refineseg.networks.model_spec import ModelSpec
from refineseg.preprocessing import Preprocessing
from refineseg.segmenter import Segmenter, load_spec

VARIANT = "refinenet_lw_mobilenetv2"
CLASSES = ClassInfo(("sky", "Fahrbahn, naß", "道"), ((1, 2, 3), (250, 0, 7), (0, 0, 0)), ignore_index=254)


def with_statistics(segmenter, seed=0):
    """As if trained: running statistics, counters and biases unlike those of a new network."""
    generator = torch.Generator().manual_seed(seed)
    for module in segmenter.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1, generator=generator)
            nn.init.uniform_(module.running_var, 0.5, 2, generator=generator)
            nn.init.constant_(module.num_batches_tracked, 17)
    nn.init.normal_(segmenter.network.decoder.classifier.bias, generator=generator)
    return segmenter


def pixels(height, width, *, batch=1, channels=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, channels, height, width), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module")
def segmenter():
    torch.manual_seed(0)
    spec = ModelSpec(
        VARIANT,
        CLASSES,
        Preprocessing((100.0, 110.5, 120.25), (50.0, 60.0, 70.0)),
        provenance={"recipe": "none", "metrics": {"mean_iou": 0.25}, "seed": 3},
        licence="CC-BY-4.0",
    )
    return with_statistics(Segmenter(spec))


@pytest.fixture(scope="module")
def path(segmenter, tmp_path_factory):
    """Its model file."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    segmenter.save(path)
    return path


@pytest.fixture(scope="module")
def parts(path):
    """Header and tensors of that file."""
    with safe_open(path, framework="pt") as file:
        return file.metadata()["refineseg"], {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@pytest.fixture
def _unchecked_shapes(monkeypatch):
    """As outside the tests, where no annotation is checked and the method's own check must speak."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


class TestForward:
    @pytest.mark.parametrize("size_hw", [(1, 1), (1, 7), (33, 50), (64, 96), (97, 161), (31, 32), (65, 3)])
    @torch.inference_mode()
    def test_images_of_any_size_give_logits_of_that_size(self, segmenter, size_hw):
        logits = segmenter(pixels(*size_hw, batch=2))
        assert logits.shape == (2, 3, *size_hw)
        assert logits.dtype == torch.float32
        assert logits.isfinite().all()

    @torch.inference_mode()
    def test_every_image_of_a_batch_is_for_itself(self, segmenter):
        images = pixels(33, 50, batch=3)
        one_by_one = torch.cat([segmenter(images[i : i + 1]) for i in range(3)])
        torch.testing.assert_close(segmenter(images), one_by_one, rtol=0, atol=1e-4)

    @pytest.mark.parametrize("size_hw", [(32, 64), (96, 160)])
    @torch.inference_mode()
    def test_where_no_padding_is_needed_it_is_normalisation_network_and_enlargement(self, segmenter, size_hw):
        images = pixels(*size_hw)
        mean, std = ([100, 110.5, 120.25], [50, 60, 70])
        normalised = (images[0].permute(1, 2, 0).numpy().astype(np.float64) - mean) / std
        coarse = segmenter.network(torch.from_numpy(normalised).permute(2, 0, 1)[None].float())
        assert coarse.shape[2:] == (size_hw[0] // 4, size_hw[1] // 4)
        enlarged = resize(coarse[0].double().numpy(), (3, *size_hw), order=1, mode="edge", anti_aliasing=False)
        np.testing.assert_allclose(segmenter(images)[0].numpy(), enlarged, rtol=0, atol=1e-4)

    @torch.inference_mode()
    def test_padding_repeats_the_border_and_is_cut_off(self, segmenter):
        image = pixels(33, 50)
        padded = np.pad(image.numpy(), ((0, 0), (0, 0), (0, 31), (0, 14)), mode="edge")
        by_hand = segmenter(torch.from_numpy(padded))[:, :, :33, :50]
        torch.testing.assert_close(segmenter(image), by_hand, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("size_hw", [(64, 96), (33, 50), (1, 1)])
    @torch.inference_mode()
    def test_with_aligned_corners_the_image_goes_in_as_it_is(self, size_hw):
        segmenter = refineseg.build(VARIANT, num_classes=2, align_corners=True)
        seen = []
        segmenter.network.register_forward_hook(lambda _module, inputs, output: seen.append((inputs[0], output)))
        logits = segmenter(pixels(*size_hw))
        assert seen[0][0].shape[2:] == size_hw
        by_hand = F.interpolate(seen[0][1], size=size_hw, mode="bilinear", align_corners=False)
        assert torch.equal(logits, by_hand)

    @pytest.mark.parametrize("in_channels", [1, 4])
    @torch.inference_mode()
    def test_images_may_have_other_channels(self, in_channels):
        segmenter = refineseg.build(VARIANT, num_classes=2, in_channels=in_channels)
        assert segmenter(pixels(20, 30, channels=in_channels)).shape == (1, 2, 20, 30)

    @torch.inference_mode()
    def test_a_model_in_double_precision_gives_logits_in_double_precision(self, segmenter, tmp_path):
        segmenter.save(tmp_path / "model.safetensors")
        double = refineseg.load(tmp_path / "model.safetensors").double()
        logits = double(pixels(33, 50))
        assert logits.dtype == torch.float64
        torch.testing.assert_close(logits.float(), segmenter(pixels(33, 50)), rtol=0, atol=1e-4)

    @pytest.mark.usefixtures("_unchecked_shapes")
    @pytest.mark.parametrize(
        ("images", "got"),
        [
            (torch.zeros(1, 3, 8, 8), "torch.float32 of shape (1, 3, 8, 8)"),
            (torch.zeros(1, 3, 8, 8, dtype=torch.int64), "torch.int64 of shape (1, 3, 8, 8)"),
            (torch.zeros(3, 8, 8, dtype=torch.uint8), "torch.uint8 of shape (3, 8, 8)"),
            (torch.zeros(1, 8, 8, 3, dtype=torch.uint8), "torch.uint8 of shape (1, 8, 8, 3)"),
            (torch.zeros(1, 4, 8, 8, dtype=torch.uint8), "torch.uint8 of shape (1, 4, 8, 8)"),
            (torch.zeros(0, 3, 8, 8, dtype=torch.uint8), "torch.uint8 of shape (0, 3, 8, 8)"),
            (torch.zeros(1, 3, 0, 8, dtype=torch.uint8), "torch.uint8 of shape (1, 3, 0, 8)"),
        ],
    )
    def test_anything_but_raw_pixels_is_refused(self, segmenter, images, got):
        expected = "expected uint8 pixels 0..255 of shape (N, 3, H, W), got "
        with pytest.raises(ConfigError, match=re.escape(expected + got)):
            segmenter(images)

    def test_a_new_model_is_in_evaluation_mode(self, segmenter):
        assert not any(module.training for module in segmenter.modules())


class TestBuild:
    def test_classes_must_be_given(self):
        with pytest.raises(ConfigError, match="expected num_classes or class_info, got neither"):
            refineseg.build(VARIANT)

    def test_classes_must_agree(self):
        with pytest.raises(ConfigError, match=r"expected num_classes to fit class_info \(3\), got 4"):
            refineseg.build(VARIANT, class_info=CLASSES, num_classes=4)

    def test_there_must_be_a_class(self):
        with pytest.raises(ConfigError, match="expected num_classes of at least 1, got 0"):
            refineseg.build(VARIANT, num_classes=0)

    def test_an_option_no_file_could_hold_is_refused_before_any_training(self):
        with pytest.raises(ConfigError, match=r"expected JSON values in encoder_options, got \{'act_layer'"):
            refineseg.build("refinenet_lw:resnet18", num_classes=2, encoder_options={"act_layer": nn.GELU})

    def test_a_provenance_no_file_could_hold_is_refused(self, segmenter):
        with pytest.raises(ConfigError, match="expected JSON values in provenance"):
            segmenter.with_provenance({"data": {1, 2}})

    def test_provenance_is_added_to_what_is_there(self):
        segmenter = (
            refineseg.build(VARIANT, num_classes=2)
            .with_provenance({"seed": 1, "recipe": "a"})
            .with_provenance({"seed": 2})
        )
        assert segmenter.spec.provenance == {"seed": 2, "recipe": "a"}


class TestFile:
    @torch.inference_mode()
    def test_a_loaded_model_is_bit_for_bit_the_saved_one(self, segmenter, path):
        loaded = refineseg.load(path)
        own, other = segmenter.network.state_dict(), loaded.network.state_dict()
        assert own.keys() == other.keys()
        assert all(torch.equal(own[name], other[name]) and own[name].dtype == other[name].dtype for name in own)
        assert torch.equal(segmenter(pixels(33, 50)), loaded(pixels(33, 50)))
        assert not any(module.training for module in loaded.modules())

    def test_the_weights_of_a_loaded_model_lie_in_memory_as_those_of_a_new_one(self, segmenter, path):
        """Another order is slower, and rounds differently."""
        filters = [parameter for parameter in refineseg.load(path).parameters() if parameter.ndim == 4]
        assert filters
        assert all(parameter.is_contiguous(memory_format=torch.channels_last) for parameter in filters)

    def test_a_loaded_model_says_the_same_of_itself(self, segmenter, path):
        spec = load_spec(path)
        assert spec == replace(segmenter.spec, provenance={**segmenter.spec.provenance, **spec.provenance})
        assert spec.class_info == CLASSES
        assert spec.preprocessing.mean == (100.0, 110.5, 120.25)
        assert spec.licence == "CC-BY-4.0"
        assert spec.provenance["version"] == refineseg.__version__

    def test_the_header_is_one_json_string_with_the_documented_fields(self, path):
        """Read by hand: eight bytes of length, then JSON, as the format's specification says."""
        content = path.read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        metadata = json.loads(content[8 : 8 + length])["__metadata__"]
        assert list(metadata) == ["refineseg"]
        header = json.loads(metadata["refineseg"])
        assert header.pop("provenance") == {
            "version": refineseg.__version__,
            "recipe": "none",
            "metrics": {"mean_iou": 0.25},
            "seed": 3,
        }
        assert header == {
            "format": 1,
            "variant": VARIANT,
            "class_info": {
                "names": ["sky", "Fahrbahn, naß", "道"],
                "palette": [[1, 2, 3], [250, 0, 7], [0, 0, 0]],
                "ignore_index": 254,
            },
            "preprocessing": {"mean": [100.0, 110.5, 120.25], "std": [50.0, 60.0, 70.0], "input_scale": 1.0},
            "network": {
                "align_corners": False,
                "resize": "bilinear",
                "padded": True,
                "width": 1.0,
                "num_links": None,
                "pooling_order": None,
                "caffe_strides": False,
                "encoder_options": {},
            },
            "licence": "CC-BY-4.0",
        }

    def test_a_second_copy_is_the_same_file(self, path, tmp_path):
        refineseg.load(path).save(tmp_path / "copy.safetensors")
        assert (tmp_path / "copy.safetensors").read_bytes() == path.read_bytes()

    @torch.inference_mode()
    def test_half_precision_halves_the_file_and_keeps_norms_and_biases_exact(self, segmenter, path, tmp_path):
        segmenter.save(tmp_path / "half.safetensors", half=True)
        assert (tmp_path / "half.safetensors").stat().st_size < 0.55 * path.stat().st_size
        loaded = refineseg.load(tmp_path / "half.safetensors")
        own, other = segmenter.network.state_dict(), loaded.network.state_dict()
        for name, tensor in own.items():
            assert other[name].dtype == tensor.dtype
            expected = (
                torch.from_numpy(tensor.numpy().astype(np.float16).astype(np.float32)) if tensor.ndim > 1 else tensor
            )
            assert torch.equal(other[name], expected), name
        assert (loaded(pixels(33, 50)) - segmenter(pixels(33, 50))).abs().max() < 0.05

    def test_encoder_options_and_aligned_corners_are_in_the_file(self, tmp_path):
        options = {"stem_type": "deep", "stem_width": 32, "block_args": {"attn_layer": "se"}}
        segmenter = refineseg.build(
            "refinenet_lw:resnet18", num_classes=2, in_channels=4, align_corners=True, encoder_options=options
        )
        segmenter.save(tmp_path / "deep" / "folder" / "model.safetensors")
        loaded = refineseg.load(tmp_path / "deep" / "folder" / "model.safetensors")
        assert loaded.spec.options.encoder_options == options
        assert loaded.spec.options.align_corners
        assert loaded.spec.preprocessing.in_channels == 4

    def test_a_licence_is_told_when_its_model_is_loaded(self, path, caplog):
        refineseg.load(path)
        assert "CC-BY-4.0" in caplog.text

    def test_a_segmenter_that_is_fused_stays_so(self, path):
        fused = refineseg.load(path).fuse()
        network = fused.network
        assert fused.fuse().network is network


class TestSavingFails:
    @pytest.mark.parametrize(("value", "half"), [(1e5, True), (math.nan, False)])
    def test_weights_that_could_not_be_loaded_are_not_written(self, path, tmp_path, value, half):
        changed = refineseg.load(path)
        with torch.no_grad():
            changed.network.decoder.classifier.weight[0, 0, 0, 0] = value
        (tmp_path / "a.safetensors").write_bytes(b"the old file")
        with pytest.raises(
            ModelFileError, match=r"finite weights in .*a\.safetensors, got .*decoder\.classifier\.weight"
        ):
            changed.save(tmp_path / "a.safetensors", half=half)
        assert (tmp_path / "a.safetensors").read_bytes() == b"the old file"

    @pytest.mark.parametrize("name", ["a.pt", "a.pth", "a.onnx"])
    def test_an_ending_of_another_format_is_refused(self, segmenter, tmp_path, name):
        with pytest.raises(ConfigError, match=r"expected a model file that ends in \.safetensors, got .*/a\.\w+"):
            segmenter.save(tmp_path / name)
        assert not [*tmp_path.iterdir()]

    @pytest.mark.parametrize("error", [OSError("No space left on device"), KeyboardInterrupt()])
    def test_nothing_is_left_behind_and_the_old_file_stays(self, segmenter, tmp_path, monkeypatch, error):
        def half_a_file(tensors, path, metadata):
            Path(path).write_bytes(b"half")
            Path(path).with_name(".tmp012345").write_bytes(b"half")  # as safetensors does, where it is killed
            raise error

        path = tmp_path / "model.safetensors"
        path.write_bytes(b"the old file")
        monkeypatch.setattr("refineseg.networks.weight_files.save_file", half_a_file)
        with pytest.raises(OutputError if isinstance(error, OSError) else KeyboardInterrupt):
            segmenter.save(path)
        assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
        assert path.read_bytes() == b"the old file"

    def test_the_message_names_the_file_and_the_reason(self, segmenter, tmp_path):
        (tmp_path / "a_file").write_text("")
        with pytest.raises(
            OutputError, match=r"expected to write .*a_file/m\.safetensors, but .*a_file exists and is a"
        ):
            segmenter.save(tmp_path / "a_file" / "m.safetensors")

    def test_a_folder_in_the_way_is_named(self, segmenter, tmp_path):
        (tmp_path / "taken.safetensors").mkdir()
        with pytest.raises(OutputError, match=r"expected to write .*taken\.safetensors"):
            segmenter.save(tmp_path / "taken.safetensors")
        assert [p.name for p in tmp_path.iterdir()] == ["taken.safetensors"]


class TestRefusedFiles:
    @pytest.fixture
    def write(self, parts, tmp_path):
        """A model file with parts of it changed."""

        def write(*, header=None, tensors=None, raw=None):
            fields, own = json.loads(parts[0]), dict(parts[1])
            header = raw if raw is not None else json.dumps({**fields, **(header or {})})
            for name, tensor in (tensors or {}).items():
                own.pop(name, None)
                if tensor is not None:
                    own[name] = tensor
            save_file(own, tmp_path / "broken.safetensors", metadata={"refineseg": header})
            return tmp_path / "broken.safetensors"

        return write

    def test_the_unchanged_parts_make_a_model(self, write):
        assert refineseg.load(write()).class_info == CLASSES

    @pytest.mark.parametrize("version", [2, 0, "1", None])
    def test_another_format(self, write, version):
        message = (
            rf"broken\.safetensors: expected model file format 1, got {version!r}; .* another version of refineseg"
        )
        with pytest.raises(ModelFileError, match=message):
            refineseg.load(write(header={"format": version}))

    def test_a_missing_tensor(self, write):
        with pytest.raises(
            ModelFileError, match=r"broken\.safetensors does not fit .*missing tensors \['decoder\.classifier"
        ):
            refineseg.load(write(tensors={"decoder.classifier.bias": None}))

    def test_an_unused_tensor(self, write):
        with pytest.raises(ModelFileError, match=r"missing tensors none, unused \['stowaway'\] \(0 and 1 in all\)"):
            refineseg.load(write(tensors={"stowaway": torch.zeros(1)}))

    def test_another_number_of_classes(self, write):
        classes = ClassInfo.generic(4).to_json()
        message = (
            r"expected decoder\.classifier\.\w+ of shape \(4,.* for refinenet_lw_mobilenetv2 with 4 classes, got \(3,"
        )
        with pytest.raises(ModelFileError, match=message):
            refineseg.load(write(header={"class_info": classes}))

    def test_another_variant(self, write):
        with pytest.raises(ModelFileError, match=r"does not fit refinenet_lw:resnet18: missing tensors \["):
            refineseg.load(write(header={"variant": "refinenet_lw:resnet18"}))

    def test_an_unknown_variant(self, write):
        message = r"broken\.safetensors: its network cannot be built here: expected a variant, got 'no_such'"
        with pytest.raises(ModelFileError, match=message):
            refineseg.load(write(header={"variant": "no_such"}))

    @pytest.mark.parametrize("field", ["variant", "class_info", "preprocessing", "network", "provenance", "licence"])
    @pytest.mark.parametrize("value", [None, 5, [], "text", {"names": 1}])
    def test_a_field_of_the_wrong_kind(self, write, field, value):
        if (field, value) in (
            ("variant", "text"),
            ("licence", "text"),
            ("provenance", {"names": 1}),
            ("provenance", []),
        ):
            return
        with pytest.raises(ModelFileError, match=r"broken\.safetensors: expected a complete header, but"):
            refineseg.load(write(header={field: value}))

    @pytest.mark.parametrize("field", ["variant", "class_info", "preprocessing", "network", "provenance", "licence"])
    def test_a_missing_field(self, write, parts, field):
        fields = json.loads(parts[0])
        del fields[field]
        with pytest.raises(ModelFileError, match=rf"expected a complete header, but KeyError\('{field}'\) is missing"):
            refineseg.load(write(raw=json.dumps(fields)))

    @pytest.mark.parametrize(("key", "value"), [("mean", 1e39), ("mean", -1e7), ("std", 1e-300), ("std", 1e39)])
    def test_pixel_statistics_that_single_precision_cannot_use(self, write, parts, key, value):
        preprocessing = {**json.loads(parts[0])["preprocessing"], key: [value] * 3}
        with pytest.raises(ModelFileError, match="means up to 1e[+]06 and standard deviations of 1e-06 to 1e[+]06"):
            refineseg.load(write(header={"preprocessing": preprocessing}))

    @pytest.mark.parametrize("raw", ["", "{", "not json", "[" * 100_000])
    def test_damaged_json(self, write, raw):
        with pytest.raises(ModelFileError, match=r"expected JSON in the header of .*broken\.safetensors"):
            refineseg.load(write(raw=raw))

    @pytest.mark.parametrize("raw", ["[]", "5", "null", '"text"'])
    def test_json_that_is_no_object(self, write, raw):
        with pytest.raises(
            ModelFileError, match=r"expected the fields of a model in the header of .*broken\.safetensors"
        ):
            refineseg.load(write(raw=raw))

    def test_a_safetensors_file_of_something_else(self, tmp_path):
        save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
        with pytest.raises(
            ModelFileError, match=r"other\.safetensors, whose header has no 'refineseg' entry; .*load_original"
        ):
            refineseg.load(tmp_path / "other.safetensors")

    @pytest.mark.parametrize("content", [b"", b"\x80\x02}q\x00.", b"PK\x03\x04", bytes(200), b"\xff" * 64])
    def test_a_file_that_is_no_safetensors(self, tmp_path, content):
        (tmp_path / "odd.safetensors").write_bytes(content)
        with pytest.raises(
            ModelFileError, match=r"expected a safetensors file, got .*odd\.safetensors, which cannot be read"
        ):
            refineseg.load(tmp_path / "odd.safetensors")

    @pytest.mark.parametrize("share", [0.001, 0.01, 0.5, 0.999])
    def test_a_truncated_file(self, write, share):
        path = write()
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(ModelFileError, match="cannot be read"):
            refineseg.load(path)

    @pytest.mark.parametrize("name", ["nowhere.safetensors", "no_such_model", ""])
    def test_a_missing_file_or_unknown_name(self, name):
        with pytest.raises(
            ModelFileError,
            match=rf"expected a shipped model \(camvid, .*nyud_lite2\) or a \.safetensors file, got '{name}'",
        ):
            refineseg.load(name)


def test_a_file_beside_a_shipped_name_is_read_by_every_path_to_it(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("camvid").write_bytes(path.read_bytes())
    assert refineseg.load("./camvid").class_info == refineseg.load(Path("./camvid")).class_info == CLASSES
    assert model_file(Path("camvid")) == Path("camvid")
    shipped = model_file("camvid")
    assert shipped.name == "camvid.safetensors"
    Path("camvid").unlink()
    assert model_file(Path("camvid")) == shipped


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_importing_the_package_loads_no_heavy_library():
    heavy = "{'torch', 'torchvision', 'timm', 'numpy', 'PIL', 'matplotlib', 'lightning', 'typer'}"
    assert run_python(f"import sys, refineseg; print(*{heavy} & sys.modules.keys())") == []


class TestPublicNames:
    @pytest.mark.parametrize("name", refineseg.__all__)
    def test_every_public_name_exists_and_is_documented(self, name):
        value = getattr(refineseg, name)
        assert name in dir(refineseg)
        assert isinstance(value, str | dict) or value.__doc__

    @pytest.mark.parametrize("name", ["DATASETS", "RECIPES", "VARIANTS", "ConfusionMatrix", "Predictor", "Segmenter"])
    def test_the_objects_relied_on_from_outside_are_public(self, name):
        assert name in refineseg.__all__

    @pytest.mark.parametrize("name", ["load", "build", "load_original", "open_dataset"])
    def test_the_functions_relied_on_from_outside_are_public(self, name):
        assert name in refineseg.__all__

    def test_an_unknown_name_is_an_attribute_error(self):
        with pytest.raises(AttributeError, match="module 'refineseg' has no attribute 'laod'"):
            refineseg.laod  # noqa: B018


def test_statistics_of_numpy_are_numbers_of_python(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as outside the tests
    mean, std = np.array([1, 2, 3], np.float32), np.array([4, 5, 6], np.float32)
    for values in ((mean, std), (tuple(mean), tuple(std)), (mean.tolist(), std.tolist())):
        found = Preprocessing(*values)
        assert found == Preprocessing((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
        assert Preprocessing.from_json(json.loads(json.dumps(found.to_json()))) == found
    with pytest.raises(ConfigError, match="expected numbers"):
        Preprocessing(5, 5)


def test_tensors_by_number_are_refused(tmp_path):
    torch.save({0: torch.zeros(3), 1: torch.ones(3)}, tmp_path / "a.pth")
    with pytest.raises(ModelFileError, match="expected tensors by name"):
        refineseg.build("refineseg_lite0", num_classes=2, pretrained=tmp_path / "a.pth")


def test_networks_of_other_threads_are_not_counted():
    with at_most(1), ThreadPoolExecutor(1) as pool:
        made = pool.submit(lambda: [nn.Linear(1, 1) for _ in range(3000)]).result()
        nn.Linear(1, 1)
    assert len(made) == 3000
