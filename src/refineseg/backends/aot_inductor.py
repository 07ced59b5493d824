"""AOTInductor: a segmenter compiled into a file for one kind of machine, and scoring with it.

In: a segmenter, or a file (``.aoti.pt2``). Out: a file, or a :class:`~refineseg.scoring.Scorer`. The file is a zip with
a shared library, which runs as native code where it is loaded: open only files you trust. It serves any batch, height
and width, and says what machine it is for; on another one it is refused before it is loaded.

Source: PyTorch's documentation of ``torch._inductor.aoti_compile_and_package``.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import tempfile
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Integer, UInt8
from torch import Tensor

from refineseg.backends.compiler import check_compiler, compiling, differences, machine_facts
from refineseg.backends.description import KEY, Description
from refineseg.backends.graph import export_program
from refineseg.backends.table import ENDING, Output
from refineseg.backends.torch_programs import on_device
from refineseg.class_info import ClassInfo
from refineseg.errors import ConfigError, ModelFileError
from refineseg.segmenter import Segmenter

NAME = "torch_inductor"
_AGAIN = "export it again here: refineseg export --format inductor"
_METADATA = "_metadata.json"


def is_package(path: Path) -> bool:
    """Whether a file's name is that of a package."""
    return path.name.endswith(ENDING)


def write_package(segmenter: Segmenter, description: Description, path: Path, *, device: torch.device) -> None:
    """Compile a segmenter into a file, beside and then renamed.

    Args:
        segmenter: On the CPU; it stays as it is.
        description: Outputs and size; the machine is added.
        path: Ending in :data:`ENDING`.
        device: What it is compiled for; it must be there.

    Raises:
        ConfigError: Another ending, no compiler here, or a network that cannot be compiled.
    """
    if not is_package(path):
        raise ConfigError(f"expected a file name ending in {ENDING} for {NAME}, got {path}")
    check_compiler(NAME, device)
    fused = segmenter if segmenter.is_fused else copy.deepcopy(segmenter).fuse()
    # Not the classes found at the logits' own size: the compiler makes enlargement and argmax one loop by itself.
    program = export_program(fused, outputs=description.outputs, size_hw=description.size_hw, rewritten=False)
    facts = machine_facts(device)
    text = Description(
        description.spec, description.outputs, description.precision, description.size_hw, compiled_for=facts
    ).to_text()
    settings: dict[str, Any] = {"aot_inductor.metadata": {KEY: text}, "freezing": device.type == "cpu"}
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".refineseg-") as folder:
        written = Path(folder) / path.name
        with compiling(NAME, segmenter.spec.variant), torch.no_grad():
            torch._inductor.aoti_compile_and_package(
                on_device(program, device), package_path=str(written), inductor_configs=settings
            )
        written.replace(path)


def read_package_description(path: Path) -> Description:
    """What a package says of itself; nothing of it is run.

    Raises:
        ModelFileError: It is damaged, or of others.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if "aotinductor/" in name and name.endswith(_METADATA)]
            if not names:
                raise ModelFileError(
                    f"expected a package of AOTInductor, got {path}, which holds none; a program of torch.export has a "
                    f"name without {ENDING.removesuffix('.pt2')}"
                )
            text = json.loads(archive.read(names[0])).get(KEY)
    except (OSError, zipfile.BadZipFile, zlib.error, RuntimeError, ValueError, AttributeError) as error:
        raise ModelFileError(f"expected a package of AOTInductor, got {path} ({error})") from error
    return Description.from_text(text, path)


class InductorScorer:
    """A package of AOTInductor.

    Args:
        path: A file of :func:`write_package`.
        device: Where to compute; of the kind it was compiled for.

    Raises:
        ConfigError: It was compiled for another kind of device.
        ModelFileError: It was compiled for another kind of machine, or is damaged.
    """

    def __init__(self, path: Path, *, device: torch.device) -> None:
        self.description = read_package_description(path)
        self._path, self._device = path, device
        needed = self.description.compiled_for or {}
        if needed.get("device", device.type) != device.type:
            raise ConfigError(
                f"expected the device {path} was compiled for ({needed['device']}), got {device}; use --device "
                f"{needed['device']}, or {_AGAIN} --device {device.type}"
            )
        unlike = differences(needed, machine_facts(device))
        if unlike:
            raise ModelFileError(
                f"expected a file that was compiled for this machine, got {path}, compiled for {unlike}; {_AGAIN}"
            )
        log = logging.getLogger("torch._inductor.package.package")
        level = log.level
        log.setLevel(logging.ERROR)  # it tries a second way before it fails
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                index = -1 if device.index is None else device.index
                self._call = torch._inductor.aoti_load_package(str(path), device_index=index)
        except Exception as error:  # zip readers and the loader of libraries each fail in their way
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise ModelFileError(
                f"expected a package of AOTInductor that loads here, got {path} ({reason[0][:200]}); {_AGAIN}"
            ) from error
        finally:
            log.setLevel(level)

    @property
    def class_info(self) -> ClassInfo:
        """The classes of the logits."""
        return self.description.spec.class_info

    @torch.inference_mode()
    def _run(self, output: Output, images: Tensor) -> Tensor:
        self.description.check(output, images, self._path)
        here = torch.cuda.device(self._device) if self._device.type == "cuda" else contextlib.nullcontext()
        with here:  # native code takes the stream of the device that is current
            results = self._call(images.to(self._device).contiguous())
        found: Tensor = results[self.description.outputs.index(output)]
        return found

    def logits(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n k h w"]:
        """Logits at image size.

        Raises:
            ConfigError: The file does not give them, or takes another size.
        """
        return self._run("logits", images)

    def class_map(self, images: UInt8[Tensor, "n c h w"]) -> Integer[Tensor, "n h w"]:
        """The likeliest class of every pixel.

        Raises:
            ConfigError: The file takes another size, or gives logits only.
        """
        return self._run("class_map", images)
