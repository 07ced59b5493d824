"""torch.compile and CUDA graphs: the model's classes at any size, refusals before a minute is spent."""

import importlib.util
import json
import logging
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import refineseg
from conftest import REPOSITORY, call
from fakes.exports import least, tiny
from fakes.scenes import fake_camvid
from refineseg.bench.benchmark import bench_model
from refineseg.bench.contenders import RuntimeChoice, compiled_contenders, measurable
from refineseg.bench.timing import example_images
from refineseg.errors import ConfigError, MissingExtraError
from refineseg.predict.predictor import Predictor
from refineseg.runtimes.compiler import compiling, why_not
from refineseg.runtimes.eager import TorchScorer
from refineseg.runtimes.open import (
    check_backend,
    fastest,
    scorer_of,
)
from refineseg.runtimes.table import BACKENDS
from refineseg.runtimes.torch_compile import COMPILED_SHAPES, CompiledScorer, with_border
from refineseg.scoring import Scorer

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


def agreement(scorer, segmenter, size, batch=1):
    images = example_images(batch, 3, size)
    with torch.no_grad():
        return float((scorer.class_map(images).cpu() == segmenter(images).argmax(1)).double().mean())


class Uncompiled(CompiledScorer):
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
@pytest.mark.slow
@pytest.mark.parametrize("make", [least, tiny])
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
        with pytest.raises(ConfigError, match=message):
            CompiledScorer(segmenter, device=CPU)

    monkeypatch.setattr("torch.compile", lambda *_, **__: pytest.fail("compiled"))
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


def test_models_that_resize_as_matlab_does_are_refused():
    other = tiny()
    other.spec = replace(other.spec, preprocessing=replace(other.spec.preprocessing, input_scale=1.2))
    with pytest.raises(ConfigError, match=r"expected a model without MATLAB's resizing for torch_compile.*torch$"):
        CompiledScorer(other, device=CPU)


def test_backends_that_compile_are_used_only_where_they_are_named():
    for precision in ("float32", "bfloat16"):
        assert fastest(CPU, precision) in ("openvino", "onnxruntime", "torch")
        assert fastest(torch.device("cuda"), precision) == "torch"
    names = list(BACKENDS)
    assert names.index("torch") < min(names.index(name) for name in names if BACKENDS[name].compiles)
    assert "torch_compile" not in measurable(CPU)
    assert "torch_compile" in measurable(torch.device("cuda"))
    assert check_backend("torch_compile", precision="bfloat16", device=CPU) == "torch_compile"
    with pytest.raises(ConfigError, match=r"expected a device of tensorrt \(cuda\), got cpu"):
        check_backend("tensorrt", precision="float32", device=CPU)


def test_a_bench_refuses_before_it_measures_and_says_what_it_leaves_out(monkeypatch, capsys, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr("refineseg.bench.benchmark.bench_model", lambda *_, **__: pytest.fail("measured"))
        status, _, err = call(patch, capsys, "bench", "--stages", tmp_path / "none")
        assert status == 2
        assert "expected a folder of images" in err
        status, _, err = call(patch, capsys, "bench", "--stages", tmp_path)
        assert status == 2
        assert "expected a folder of images as --stages" in " ".join(err.split())
    model = tmp_path / "net.safetensors"
    tiny().save(model)
    with monkeypatch.context() as patch:
        without_compiler(patch)
        with pytest.raises(ConfigError, match=r"expected, for --backend torch_compile on cpu, a C\+\+ compiler"):
            bench_model(str(model), size="32x32", device="cpu", backend="torch_compile")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "nncf" else find(name, *rest))
    assert "int8" not in BACKENDS["openvino"].measured_precisions
    with pytest.raises(MissingExtraError, match="expected the package nncf to quantise to 8 bits"):
        bench_model(str(model), size="32x32", device="cpu", backend="openvino", precision="int8")


def test_what_cannot_be_compiled_is_left_out_where_it_was_not_named(segmenter, monkeypatch):
    without_compiler(monkeypatch)
    choice = RuntimeChoice(["torch_compile"], ["float32", "bfloat16"], (32, 32), 1, CPU)
    told = []
    assert (
        compiled_contenders("m", segmenter, choice, refused=lambda name, error: told.append((name, str(error)))) == []
    )
    assert [name for name, _ in told] == ["torch_compile"]
    with pytest.raises(ConfigError, match="expected, for --backend torch_compile"):
        compiled_contenders("m", segmenter, choice)


@needs_compiler
@pytest.mark.slow
def test_the_command_line_evaluates_predicts_and_measures_compiled_code(tmp_path, segmenter, monkeypatch, capsys):
    scenes = fake_camvid(tmp_path / "camvid")
    model, out, backend = tmp_path / "net.safetensors", tmp_path / "out", "torch_compile"
    segmenter.save(model)
    status, _, err = call(
        monkeypatch, capsys, "evaluate", "--data", f"camvid:{scenes}", "--model", model, "--backend", backend,
        "--out", out, "--device", "cpu", "--json", out / "scores.json",
    )  # fmt: skip
    assert status == 0, err
    assert json.loads((out / "scores.json").read_text())["backend"] == backend
    status, _, err = call(
        monkeypatch, capsys, "predict", scenes / "val", "--model", model, "--backend", backend, "--out", out,
        "--save", "mask", "--device", "cpu",
    )  # fmt: skip
    assert status == 0, err
    report = bench_model(str(model), size="40x56", device="cpu", repeats=2, backend=backend).to_json()
    rows = [row for row in report["rows"] if row["backend"] == backend]
    assert {row["precision"] for row in rows} == {"float32", "bfloat16"}
    assert all(row["fused"] and row["agreement"] > 0.9 and row["cold_start_s"] > 0 for row in rows)


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
        "import sys; sys.path[:0] = ['.', 'runtimes']\n"
        "import torch; from test_backends import tiny; from refineseg.bench.timing import example_images\n"
        "from refineseg.runtimes.torch_compile import CompiledScorer\n"
        "from refineseg.errors import ConfigError\n"
        "try:\n CompiledScorer(tiny(), device=torch.device('cpu')).class_map(example_images(1, 3, (32, 32)))\n"
        "except ConfigError as error:\n print('refused:', error)\n"
    )
    environment = {**os.environ, "CXX": str(broken), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300, env=environment,
        cwd=REPOSITORY / "tests", check=False,
    )  # fmt: skip
    assert run.stdout.startswith("refused: expected a network that torch_compile can compile here"), run.stderr
    assert run.stdout.count("\n") == 1
    assert "Traceback" not in run.stderr


@needs_cuda
@pytest.mark.usefixtures("no_tf32")
@pytest.mark.slow
def test_compiled_code_for_cuda_gives_the_models_classes(segmenter):
    cuda = torch.device("cuda")
    expected = TorchScorer(tiny(), device=cuda)
    scorer = CompiledScorer(segmenter, device=cuda)
    for size in ((33, 50), (64, 97)):
        images = example_images(1, 3, size)
        first = scorer.class_map(images)
        scorer.class_map(255 - images)
        assert float((first == expected.class_map(images)).double().mean()) >= 0.9999
    predicted = Predictor(scorer)(example_images(1, 3, (33, 50))[0].permute(1, 2, 0).numpy())
    assert predicted.mask.shape == (33, 50)


def test_a_shape_that_is_a_multiple_already_gets_no_border():
    assert with_border(torch.zeros(1, 1, 4, 4, dtype=torch.uint8), 4).shape == (1, 1, 4, 4)
