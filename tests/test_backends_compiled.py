"""torch.compile, CUDA graphs and AOTInductor: the model's classes at any size, refusals before a minute is spent."""

import json
import logging
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import refineseg
from conftest import call
from refineseg.backends import compiler, sized
from refineseg.backends.aot_inductor import InductorScorer, is_package, read_package_description, write_package
from refineseg.backends.compiler import compiling, differences, machine_facts, why_not
from refineseg.backends.cuda_graphs import RECORDED_SHAPES, CudaGraphScorer
from refineseg.backends.description import Description
from refineseg.backends.opening import (
    check_backend,
    fastest,
    open_exported,
    open_model,
    own_device,
    read_description,
    scorer_of,
)
from refineseg.backends.sized import SizedScorer, with_border
from refineseg.backends.table import BACKENDS, OUTPUTS, is_exported, own_backend
from refineseg.backends.torch_compile import COMPILED_SHAPES, CompiledScorer
from refineseg.benchmark import bench_model
from refineseg.contenders import RuntimeChoice, compiled_contenders, measurable
from refineseg.data.fake_scenes import fake_camvid
from refineseg.errors import ConfigError, MissingExtraError, ModelFileError
from refineseg.export_options import ExportOptions
from refineseg.exporting import export_file
from refineseg.networks.families import LIGHT_WEIGHT_MOBILE
from refineseg.networks.refinenet import Cascade, RefineNet, Resizing
from refineseg.predict.predictor import Predictor, PredictorOptions
from refineseg.predict.torch_scorer import TorchScorer
from refineseg.scoring import Scorer
from refineseg.timing import example_images
from test_backends import tiny

CPU = torch.device("cpu")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
needs_compiler = pytest.mark.skipif(bool(why_not(CPU)), reason=f"cannot compile here: {why_not(CPU)}")


@pytest.fixture(scope="module", autouse=True)
def caches(tmp_path_factory):
    """What inductor keeps, in a folder of these tests."""
    before = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(tmp_path_factory.mktemp("inductor"))
    yield
    os.environ.pop("TORCHINDUCTOR_CACHE_DIR")
    if before is not None:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = before


@pytest.fixture(scope="module")
def segmenter():
    return tiny()


class Encoder(torch.nn.Module):
    """One level at a quarter of the size, four channels."""

    takes_any_size, size_multiple, channels, strides = False, 4, (4,), (4,)

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, stride=4, padding=1)

    def forward(self, x):
        return [self.conv(x)]


def least():
    """A segmenter of a handful of operations: compilers take seconds."""
    segmenter = tiny()
    options = replace(LIGHT_WEIGHT_MOBILE, width=8, num_links=1)
    torch.manual_seed(0)
    segmenter.network = RefineNet(Encoder(), Cascade((4,), 11, groups=((0,),), options=options, resizing=Resizing()))
    segmenter._is_fused = True  # there is nothing to rewrite
    return segmenter.eval()


@pytest.fixture(scope="module")
def package(segmenter, tmp_path_factory):
    """The tiny network, compiled for any size; half a minute."""
    path = tmp_path_factory.mktemp("package") / "net.aoti.pt2"
    write_package(segmenter, Description(segmenter.spec), path, device=CPU)
    return path


def agreement(scorer, segmenter, size, batch=1):
    images = example_images(batch, 3, size)
    with torch.no_grad():
        return float((scorer.class_map(images).cpu() == segmenter(images).argmax(1)).double().mean())


class Uncompiled(SizedScorer):
    """The same without a compiler: shows what surrounds it."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.shapes = []

    def _compute(self, output, images):
        self.shapes.append(tuple(images.shape))
        return self._functions[output](images)


@pytest.fixture
def no_tf32(monkeypatch):
    """Convolutions in single precision; PyTorch's default on CUDA rounds their inputs to 10 bits."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def without_compiler(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)


@pytest.mark.parametrize("size", [(1, 1), (32, 64), (33, 50), (70, 31)])
def test_images_are_bordered_and_results_cut_as_a_segmenter_does_it(segmenter, size):
    scorer = Uncompiled(segmenter, device=CPU)
    images = example_images(2, 3, size)
    bordered = with_border(images, 32)
    padding = ((0, 0), (0, 0), (0, -size[0] % 32), (0, -size[1] % 32))
    assert np.array_equal(bordered.numpy(), np.pad(images.numpy(), padding, mode="edge"))
    with torch.no_grad():
        logits = segmenter(images)
    torch.testing.assert_close(scorer.logits(images), logits, atol=1e-4, rtol=1e-4)
    assert torch.equal(scorer.class_map(images), scorer.logits(images).argmax(1))
    assert scorer.shapes[0] == tuple(bordered.shape)
    assert isinstance(scorer, Scorer)
    assert segmenter.is_fused is False


def test_a_program_sees_one_layout_and_one_kind_of_tensor_for_a_shape(segmenter):
    """Both are conditions of compiled code: another one would be compiled anew, and a CUDA graph cannot take it."""
    seen = set()

    class Seen(Uncompiled):
        def _compute(self, output, images):
            seen.add((images.stride(), images.is_inference()))
            return super()._compute(output, images)

    scorer = Seen(segmenter, device=CPU)
    planes = example_images(1, 3, (64, 96))
    expected = scorer.class_map(planes)
    pixels_together = planes.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        assert torch.equal(scorer.class_map(pixels_together), expected)
        assert torch.equal(scorer.class_map(planes.clone()), expected)
    scorer.class_map(example_images(1, 3, (50, 90)))  # bordered to the same shape
    assert seen == {((3 * 64 * 96, 64 * 96, 96, 1), False)}
    with pytest.raises(ConfigError, match=r"expected uint8 pixels of shape \(N, 3, H, W\)"):
        scorer.class_map(example_images(1, 4, (64, 96)))


def test_networks_that_take_any_size_get_images_as_they_are():
    plain = refineseg.build("refinenet_lw_mobilenetv2", num_classes=300, align_corners=True).eval()
    scorer = Uncompiled(plain, device=CPU)
    assert agreement(scorer, plain, (37, 50)) > 0.999
    assert scorer.shapes == [(1, 3, 37, 50)]


def test_bfloat16_is_the_autocast_of_eager_pytorch(segmenter):
    images = example_images(1, 3, (40, 50))
    half = TorchScorer(segmenter, device=CPU, precision="bfloat16").logits(images).float()
    found = Uncompiled(segmenter, device=CPU, precision="bfloat16").logits(images)
    assert found.dtype == torch.float32
    with torch.no_grad():
        exact = segmenter(images)
    assert float((found - half).abs().mean()) < 0.5 * float(exact.std())
    assert 0 < float((found - exact).abs().mean()) < 0.1 * float(exact.std())


def test_more_shapes_than_a_few_are_computed_uncompiled_and_that_is_said_once(segmenter, monkeypatch, caplog):
    """The compiler stands for one that counts what it is given."""
    compiled = []

    def fake_compile(function, **options):
        assert (options["fullgraph"], options["dynamic"]) == (True, False)

        def run(images):
            compiled.append(tuple(images.shape))
            return function(images)

        return run

    monkeypatch.setattr("torch.compile", fake_compile)
    scorer = CompiledScorer(segmenter, device=CPU)
    with caplog.at_level(logging.WARNING, logger="refineseg"):
        for width in range(1, 250, 31):
            assert agreement(scorer, segmenter, (20, width)) > 0.9999
    assert len(set(compiled)) == COMPILED_SHAPES
    assert [record.message for record in caplog.records] == [
        "torch_compile: more than 4 shapes of images; further ones are computed uncompiled (--backend torch needs no "
        "compilation)"
    ]
    before = len(compiled)
    scorer.class_map(example_images(1, 3, (32, 32)))
    assert len(compiled) == before + 1


@needs_compiler
@pytest.mark.parametrize("make", [least, pytest.param(tiny, marks=pytest.mark.slow)])
def test_torch_compile_gives_the_models_classes_at_odd_sizes(make):
    segmenter = make()
    scorer = scorer_of(segmenter, backend="torch_compile", device=CPU, precision="float32")
    for size in ((33, 50), (64, 35)):  # one shape for the compiler
        assert agreement(scorer, segmenter, size) >= 0.9999
    assert scorer.class_info == segmenter.class_info
    assert scorer.description.spec == segmenter.spec
    assert scorer.class_map(example_images(1, 3, (33, 50))).dtype == torch.uint8


def test_without_a_compiler_or_its_parts_the_refusal_comes_at_once(segmenter, monkeypatch, tmp_path):
    def refused(message):
        for make in (
            lambda: CompiledScorer(segmenter, device=CPU),
            lambda: write_package(segmenter, Description(segmenter.spec), tmp_path / "net.aoti.pt2", device=CPU),
        ):
            with pytest.raises(ConfigError, match=message):
                make()

    monkeypatch.setattr("torch.compile", lambda *_, **__: pytest.fail("compiled"))
    monkeypatch.setattr("refineseg.backends.aot_inductor.export_program", lambda *_, **__: pytest.fail("traced"))
    with monkeypatch.context() as patch:
        without_compiler(patch)
        refused(r"expected, for --backend torch_\w+ on cpu, a C\+\+ compiler, got none .* or use --backend torch$")
        patch.setenv("CXX", "no-such-compiler")
        refused("no no-such-compiler on PATH")
    with monkeypatch.context() as patch:
        patch.setattr("sysconfig.get_path", lambda _: str(tmp_path / "include"))
        patch.setenv("CXX", "true")
        refused("the headers of Python, got none .*python3-dev")
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda _: None)
        assert why_not(torch.device("cuda")).startswith("Triton, got none; install it")
    assert not list(tmp_path.iterdir())


@needs_compiler
def test_a_failed_compilation_is_one_sentence(segmenter, monkeypatch, capfd):
    scorer = CompiledScorer(segmenter, device=CPU)

    def fails(function, **_):
        raise RuntimeError(
            "C++ compile error\n\nCommand:\ng++ a.cpp\n\na.cpp:1:1: error: expected unqualified-id\nmore"
        )

    monkeypatch.setitem(scorer._compiled, "class_map", fails)
    with pytest.raises(
        ConfigError, match=r"that torch_compile can compile here, got refinenet_lw:resnet18 \(.*\)"
    ) as e:
        scorer.class_map(example_images(1, 3, (32, 32)))
    assert "\n" not in str(e.value)
    assert "a.cpp:1:1: error: expected unqualified-id" in str(e.value)
    assert capfd.readouterr() == ("", "")
    for error in (MemoryError(), torch.OutOfMemoryError("out of memory")):
        with pytest.raises(type(error)), compiling("torch_compile", "net"):
            raise error
    log = logging.getLogger("torch._inductor")
    assert log.level != logging.CRITICAL


def test_models_that_resize_as_matlab_does_are_refused(segmenter, tmp_path):
    other = tiny()
    other.spec = replace(other.spec, preprocessing=replace(other.spec.preprocessing, input_scale=1.2))
    with pytest.raises(ConfigError, match=r"expected a model without MATLAB's resizing for torch_compile.*torch$"):
        CompiledScorer(other, device=CPU)
    with pytest.raises(ConfigError, match="expected a fixed size for a model that resizes"):
        export_file(other, tmp_path / "net.aoti.pt2", ExportOptions("inductor"))


def test_backends_that_compile_are_used_only_where_they_are_named():
    for precision in ("float32", "bfloat16"):
        assert fastest(CPU, precision) in ("openvino", "onnxruntime", "torch")
        assert fastest(torch.device("cuda"), precision) == "torch"
    names = list(BACKENDS)
    assert names.index("torch") < min(names.index(name) for name in names if BACKENDS[name].compiles)
    assert not {"torch_compile", "torch_inductor", "torch_cuda_graphs"} & set(measurable(CPU))
    assert {"torch_compile", "torch_inductor", "torch_cuda_graphs"} <= set(measurable(torch.device("cuda")))
    assert check_backend("torch_compile", precision="bfloat16", device=CPU) == "torch_compile"
    with pytest.raises(ConfigError, match=r"expected a device of torch_cuda_graphs \(cuda\), got cpu"):
        check_backend("torch_cuda_graphs", precision="float32", device=CPU)
    with pytest.raises(ConfigError, match=r"expected a device of torch_cuda_graphs \(cuda\), got cpu"):
        CudaGraphScorer(tiny(), device=CPU)
    with pytest.raises(ConfigError, match=r"expected an exported file \(.aoti.pt2\) for torch_inductor, got camvid"):
        open_model("camvid", backend="torch_inductor", device=CPU)


def fake_package(path, text, folder="net/data/aotinductor/model"):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{folder}/x.wrapper_metadata.json", text)
    return path


def test_packages_of_other_machines_and_damaged_ones_are_refused(segmenter, tmp_path):
    def described(**changes):
        facts = {**machine_facts(CPU), **changes}
        text = Description(segmenter.spec, compiled_for=facts).to_text()
        return fake_package(tmp_path / "net.aoti.pt2", json.dumps({"refineseg": text}))

    assert (own_backend(Path("a.aoti.pt2")), own_backend(Path("a.pt2"))) == ("torch_inductor", "torch_export")
    assert is_exported("a.aoti.pt2")
    assert is_package(Path("a.aoti.pt2"))
    assert not is_package(Path("aoti.pt2"))
    path = described()
    assert own_device(path) == "cpu"
    assert own_device(tmp_path / "none.aoti.pt2") is None
    assert read_description(path).compiled_for == machine_facts(CPU)
    with pytest.raises(ModelFileError, match="expected a package of AOTInductor that loads here.*--format inductor"):
        InductorScorer(path, device=CPU)
    for changes, message in (
        ({"platform": "plan9"}, f"compiled for platform plan9, here {machine_facts(CPU)['platform']}; export it again"),
        ({"torch": "2.3"}, "compiled for torch 2.3, here"),
        ({"instructions": "avx1024 avx2048"}, "compiled for instructions avx1024 avx2048, here none of them"),
    ):
        with pytest.raises(ModelFileError, match=message):
            open_exported(described(**changes), backend="auto", device=CPU, precision="float32")
    cuda = described(device="cuda", compute_capability="9.0")
    with pytest.raises(ConfigError, match=r"compiled for \(cuda\), got cpu; use --device cuda, or export"):
        InductorScorer(cuda, device=CPU)
    assert read_description(cuda).compiled_for["device"] == "cuda"
    for content, message in (
        (b"no zip", r"expected a package of AOTInductor, got .*not a zip"),
        (fake_package(tmp_path / "z", "{}", "models").read_bytes(), "which holds none; a program of torch.export has"),
        (fake_package(tmp_path / "z", "[]").read_bytes(), "expected a package of AOTInductor, got"),
        (fake_package(tmp_path / "z", "{}").read_bytes(), "expected a file that refineseg exported"),
    ):
        path.write_bytes(content)
        with pytest.raises(ModelFileError, match=message):
            read_package_description(path)
    with pytest.raises(ConfigError, match=r"expected a file name ending in .aoti.pt2 for inductor, got .*net.pt2"):
        export_file(segmenter, tmp_path / "net.pt2", ExportOptions("inductor"))
    with pytest.raises(ConfigError, match=r"expected a file name ending in .pt2 for torch, got .*net.aoti.pt2"):
        export_file(segmenter, tmp_path / "net.aoti.pt2", ExportOptions("torch"))
    with pytest.raises(ConfigError, match="expected --device cuda with --format inductor, got onnx"):
        ExportOptions.parse("onnx", "class_map", None, device="cuda")


def test_code_runs_where_every_instruction_is_known():
    own = {"platform": "linux", "instructions": "avx2 fma avx512f"}
    assert differences({"platform": "linux", "instructions": "avx2 fma"}, own) == ""
    assert differences({"instructions": "amx_tile avx2"}, own) == "instructions amx_tile, here none of them"
    facts = machine_facts(CPU)
    assert differences(facts, facts) == ""
    assert facts["device"] == "cpu"
    assert facts["instructions"]


def test_a_bench_refuses_before_it_measures_and_says_what_it_leaves_out(monkeypatch, capsys, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr("refineseg.benchmark.bench_model", lambda *_, **__: pytest.fail("measured"))
        status, _, err = call(patch, capsys, "bench", "--stages", tmp_path / "none")
        assert status == 2
        assert "expected a folder of images" in err
        status, _, err = call(patch, capsys, "bench", "--stages", tmp_path)
        assert status == 2
        assert "expected an image or a folder of images for --stages" in " ".join(err.split())
    model = tmp_path / "net.safetensors"
    tiny().save(model)
    with monkeypatch.context() as patch:
        without_compiler(patch)
        with pytest.raises(ConfigError, match=r"expected, for --backend torch_compile on cpu, a C\+\+ compiler"):
            bench_model(str(model), size="32x32", device="cpu", backend="torch_compile")
    monkeypatch.setattr("refineseg.backends.quantisation.is_available", lambda: False)
    assert "int8" not in BACKENDS["openvino"].measured_precisions
    with pytest.raises(MissingExtraError, match="expected the package nncf to quantise to 8 bits"):
        bench_model(str(model), size="32x32", device="cpu", backend="openvino", precision="int8")


def test_what_cannot_be_compiled_is_left_out_where_it_was_not_named(segmenter, monkeypatch):
    without_compiler(monkeypatch)
    choice = RuntimeChoice(["torch_compile", "torch_inductor"], ["float32", "bfloat16"], (32, 32), 1, CPU)
    told = []
    assert (
        compiled_contenders("m", segmenter, choice, refused=lambda name, error: told.append((name, str(error)))) == []
    )
    assert [name for name, _ in told] == ["torch_compile", "torch_inductor"]
    with pytest.raises(ConfigError, match="expected, for --backend torch_compile"):
        compiled_contenders("m", segmenter, choice)


@needs_compiler
def test_a_package_of_a_handful_of_operations_gives_the_models_classes_at_odd_sizes(tmp_path):
    segmenter, path = least(), tmp_path / "net.aoti.pt2"
    export_file(segmenter, path, ExportOptions("inductor"))
    scorer = open_exported(path, backend="auto", device=CPU, precision="float32")
    for size, batch in (((33, 50), 1), ((64, 35), 3)):
        assert agreement(scorer, segmenter, size, batch) >= 0.9999
    with pytest.raises(ConfigError, match="gives class_map; export it with --outputs"):
        scorer.logits(example_images(1, 3, (33, 50)))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@needs_compiler
@pytest.mark.slow
def test_a_package_gives_the_models_logits_and_classes_at_any_size_and_batch(package, segmenter, tmp_path):
    moved = tmp_path / "renamed.aoti.pt2"
    moved.write_bytes(package.read_bytes())
    scorer = open_exported(moved, backend="auto", device=CPU, precision="float32")
    for size in ((1, 1), (32, 32), (33, 50), (64, 97), (131, 200)):
        for batch in (1, 3):
            images = example_images(batch, 3, size)
            with torch.no_grad():
                logits = segmenter(images)
            torch.testing.assert_close(scorer.logits(images), logits, atol=1e-4, rtol=1e-4)
            assert agreement(scorer, segmenter, size, batch) >= 0.9999
    assert scorer.description.compiled_for == machine_facts(CPU)
    opened = PredictorOptions.parse(device="auto").opened(str(moved))
    assert (opened.backend, opened.device, opened.spec.class_info) == ("torch_inductor", "cpu", segmenter.class_info)
    with pytest.raises(ConfigError, match="expected uint8 pixels of shape"):
        scorer._run("logits", torch.zeros(1, 4, 8, 8, dtype=torch.uint8))
    cut = tmp_path / "cut.aoti.pt2"
    cut.write_bytes(package.read_bytes()[:5000])
    with pytest.raises(ModelFileError, match="expected a package of AOTInductor, got"):
        InductorScorer(cut, device=CPU)
    wrong = tmp_path / "wrong.pt2"
    wrong.write_bytes(package.read_bytes())
    with pytest.raises(ModelFileError, match=r"expected a program of torch.export.* packages of AOTInductor end in"):
        open_exported(wrong, backend="auto", device=CPU, precision="float32")


@needs_compiler
@pytest.mark.slow
def test_the_command_line_exports_accepts_predicts_and_measures_compiled_code(tmp_path, segmenter, monkeypatch, capsys):
    scenes = fake_camvid(tmp_path / "camvid")
    model, path = tmp_path / "net.safetensors", tmp_path / "files" / "net.aoti.pt2"
    segmenter.save(model)
    status, out, err = call(
        monkeypatch, capsys, "export", "--model", model, "--out", path, "--format", "inductor", "--size", "40x56",
        "--accept", f"camvid:{scenes}",
    )  # fmt: skip
    assert (status, err) == (0, ""), (out, err)
    assert f"accepted: {path}" in out
    assert sorted(file.name for file in path.parent.iterdir()) == [path.name, f"{path.name}.acceptance.json"]
    for backend, name in (("torch_compile", model), ("torch", path)):
        out = tmp_path / backend
        status, _, err = call(
            monkeypatch, capsys, "evaluate", "--data", f"camvid:{scenes}", "--model", name, "--backend", backend,
            "--out", out, "--device", "cpu", "--json", out / "scores.json",
        )  # fmt: skip
        assert status == 0, err
        assert json.loads((out / "scores.json").read_text())["backend"] == (
            "torch_inductor" if name == path else backend
        )
        status, _, err = call(
            monkeypatch, capsys, "predict", scenes / "val", "--model", name, "--backend", backend, "--out", out,
            "--save", "mask", "--device", "cpu",
        )  # fmt: skip
        assert status == 0, err
    for backend, precisions in (("torch_compile", {"float32", "bfloat16"}), ("torch_inductor", {"float32"})):
        report = bench_model(str(model), size="40x56", device="cpu", repeats=2, backend=backend).to_json()
        rows = [row for row in report["rows"] if row["backend"] == backend]
        assert {row["precision"] for row in rows} == precisions
        assert all(row["fused"] and row["agreement"] > 0.9 and row["cold_start_s"] > 0.1 for row in rows)


@needs_compiler
@pytest.mark.slow
def test_torch_compile_in_bfloat16_with_batches_and_logits(segmenter):
    scorer = CompiledScorer(segmenter, device=CPU, precision="bfloat16")
    half = TorchScorer(segmenter, device=CPU, precision="bfloat16")
    for batch in (1, 2):
        images = example_images(batch, 3, (40, 90))
        found, expected = scorer.logits(images), half.logits(images).float()
        assert found.dtype == torch.float32
        assert float((found - expected).abs().mean()) < 0.1 * float(expected.std())
        assert float((scorer.class_map(images) == half.class_map(images)).double().mean()) > 0.9


@needs_compiler
@pytest.mark.slow
def test_a_broken_compiler_is_one_sentence(segmenter, monkeypatch, tmp_path):
    broken = tmp_path / "g++"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    script = (
        "import torch; from test_backends import tiny; from refineseg.timing import example_images\n"
        "from refineseg.backends.torch_compile import CompiledScorer\n"
        "from refineseg.errors import ConfigError\n"
        "try:\n CompiledScorer(tiny(), device=torch.device('cpu')).class_map(example_images(1, 3, (32, 32)))\n"
        "except ConfigError as error:\n print('refused:', error)\n"
    )
    environment = {**os.environ, "CXX": str(broken), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300, env=environment,
        cwd=Path(__file__).parent, check=False,
    )  # fmt: skip
    assert run.stdout.startswith("refused: expected a network that torch_compile can compile here"), run.stderr
    assert run.stdout.count("\n") == 1
    assert "Traceback" not in run.stderr


@needs_cuda
@pytest.mark.usefixtures("no_tf32")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_cuda_graphs_give_the_models_classes_and_keep_few_shapes(segmenter, precision):
    cuda = torch.device("cuda")
    scorer = CudaGraphScorer(segmenter, device=cuda, precision=precision)
    expected = TorchScorer(tiny(), device=cuda, precision=precision)
    for turn in range(2):
        for width in range(20, 20 + 32 * (RECORDED_SHAPES + 2), 32):
            images = example_images(1 + turn, 3, (33, width))
            first = scorer.class_map(images)
            scorer.class_map(255 - images)  # must not overwrite what was given before
            same = float((first == expected.class_map(images)).double().mean())
            assert same >= (0.9999 if precision == "float32" else 0.95)
    assert len(scorer._recordings) == RECORDED_SHAPES
    assert scorer.logits(images).shape == (2, 11, 33, images.shape[3])


@needs_cuda
@pytest.mark.usefixtures("no_tf32")
@pytest.mark.slow
def test_compiled_code_for_cuda_gives_the_models_classes(segmenter, tmp_path):
    cuda = torch.device("cuda")
    expected = TorchScorer(tiny(), device=cuda)
    scorers = [CompiledScorer(segmenter, device=cuda)]
    write_package(tiny(), Description(segmenter.spec, OUTPUTS), tmp_path / "net.aoti.pt2", device=cuda)
    scorers.append(InductorScorer(tmp_path / "net.aoti.pt2", device=cuda))
    assert own_device(tmp_path / "net.aoti.pt2") == "cuda"
    for scorer in scorers:
        for size in ((33, 50), (64, 97)):
            images = example_images(1, 3, size)
            first = scorer.class_map(images)
            scorer.class_map(255 - images)
            assert float((first == expected.class_map(images)).double().mean()) >= 0.9999
    predicted = Predictor(scorers[0])(example_images(1, 3, (33, 50))[0].permute(1, 2, 0).numpy())
    assert predicted.mask.shape == (33, 50)


def test_the_facts_of_a_machine_without_a_list_of_instructions(monkeypatch):
    monkeypatch.setattr(compiler.Path, "is_file", lambda _: False)
    assert machine_facts(CPU)["instructions"] == torch.backends.cpu.get_cpu_capability()
    assert sized.with_border(torch.zeros(1, 1, 4, 4, dtype=torch.uint8), 4).shape == (1, 1, 4, 4)
