"""``torch.compile``: a segmenter as code of this machine, made when the first image of a shape comes.

In: a segmenter. Out: a :class:`~refineseg.scoring.Scorer`. The whole function is compiled, from pixels to classes, so
that normalisation, the last enlargement and argmax become one loop; on CUDA with CUDA graphs inside.

Images are brought to whole multiples of what the encoder takes by repeating their border, so that pictures of many
sizes share few shapes, and the result is cut.

One program serves one shape. Programs for all sizes were compiled anew for nearly every shape on a CPU: convolutions
choose their kernel by the number of values, and the choice becomes a condition of the program.
"""

from __future__ import annotations

import copy
import threading
from typing import Any, Literal

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from refineseg.runtimes.compiler import check_compiler, check_sizes, compiling
from refineseg.runtimes.description import Description
from refineseg.runtimes.program_scorer import DescribedScorer
from refineseg.runtimes.table import OUTPUTS, Output
from refineseg.scoring import class_dtype, class_map_of
from refineseg.segmenter import Segmenter
from refineseg.terminal.printing import warn

COMPILED_SHAPES = 4
"""Shapes that are compiled, of each output; images of further ones are computed by the same network uncompiled."""

_NAME = "torch_compile"
_PROGRAMS = 256  # of one function in one process, all scorers together: PyTorch stops at 8 of its own accord


class WholeFunction(nn.Module):
    """From pixels to one output, in one precision: what is compiled or recorded.

    Args:
        segmenter: Rewritten for inference, on its device.
        output: ``class_map`` (uint8, int32 above 256 classes) or ``logits`` (float32).
        precision: ``float32``, or ``bfloat16`` autocast.
    """

    def __init__(
        self, segmenter: Segmenter, *, output: Output, precision: Literal["float32", "bfloat16"] = "float32"
    ) -> None:
        super().__init__()
        self.segmenter, self.output = segmenter, output
        self.autocast = precision == "bfloat16"
        self.device_type = next(segmenter.parameters()).device.type
        self.class_dtype = class_dtype(segmenter.class_info.num_classes - 1)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) uint8 -> (N, H, W) or (N, K, H, W)."""
        # Without autocast's cache: a CUDA graph would keep weights that were converted while it was recorded.
        with torch.autocast(self.device_type, dtype=torch.bfloat16, enabled=self.autocast, cache_enabled=False):
            if self.output == "logits":
                return self.segmenter(images).float()  # type: ignore[no-any-return]
            if torch.compiler.is_compiling():  # which makes enlargement and argmax one loop; strips would be many
                return class_map_of(self.segmenter(images)).to(self.class_dtype)
            return self.segmenter.class_map(images)


def with_border(images: UInt8[Tensor, "n c h w"], multiple: int) -> UInt8[Tensor, "n c h2 w2"]:
    """Images whose sides are whole multiples: the last row and column repeated, as a segmenter does it.

    Args:
        images: Images of any size from 1x1 up.
        multiple: Number that both sides are multiples of.

    Example:
        >>> with_border(torch.tensor([[[[1, 2, 3]]]], dtype=torch.uint8), 4)[0, 0, 3].tolist()
        [1, 2, 3, 3]
    """
    height, width = images.shape[2:]
    if height % multiple == 0 and width % multiple == 0:
        return images
    rows, columns = (
        torch.arange(side + -side % multiple, device=images.device).clamp(max=side - 1) for side in (height, width)
    )
    return images.index_select(2, rows).index_select(3, columns)


class CompiledScorer(DescribedScorer):
    """A segmenter through ``torch.compile``.

    The first call with a shape compiles it, half a minute to some minutes; batch and sides (rounded up to what the
    encoder takes) are the shape. PyTorch keeps its results in ``TORCHINDUCTOR_CACHE_DIR`` for the next process.

    Args:
        segmenter: It is copied, and rewritten with fewer operations.
        device: ``cpu`` or ``cuda``.
        precision: ``float32``, or ``bfloat16`` autocast.

    Raises:
        ConfigError: No compiler here, or a model that resizes as MATLAB does.
    """

    def __init__(
        self, segmenter: Segmenter, *, device: torch.device, precision: Literal["float32", "bfloat16"] = "float32"
    ) -> None:
        check_compiler(_NAME, device)
        check_sizes(_NAME, segmenter)
        self.description = Description(segmenter.spec)
        fused = copy.deepcopy(segmenter).eval()
        fused = (fused if fused.is_fused else fused.fuse()).to(device).requires_grad_(False)
        self._device, self._spec, self._lock = device, segmenter.spec, threading.Lock()
        self._functions = {name: WholeFunction(fused, output=name, precision=precision).eval() for name in OUTPUTS}
        encoder = fused.network.encoder
        padded = segmenter.spec.options.padded or not encoder.takes_any_size
        self._multiple = int(encoder.size_multiple) if padded else 1  # type: ignore[arg-type]
        on_cuda = device.type == "cuda"
        # On CPUs constant weights are laid out once for the convolutions; on CUDA kernels are chosen by trial.
        how: dict[str, Any] = {"mode": "max-autotune"} if on_cuda else {"options": {"freezing": True}}
        self._compiled: dict[Output, Any] = {
            name: torch.compile(function, fullgraph=True, dynamic=False, **how)
            for name, function in self._functions.items()
        }
        self._shapes: dict[Output, set[tuple[int, ...]]] = {name: set() for name in self._functions}
        self._told = False

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._device

    def _run(self, output: Output, images: Tensor) -> Tensor:
        """One at a time: a program has one input and one result, which the next call overwrites."""
        self.description.check(
            output, str(images.dtype).removeprefix("torch."), tuple(images.shape), self._spec.variant
        )
        height, width = images.shape[2:]
        with self._lock, torch.inference_mode(False), torch.no_grad():
            # a copy, for programs are also for one layout in memory and one kind of tensor
            pixels = with_border(images.to(self._device), self._multiple).clone(memory_format=torch.contiguous_format)
            return self._compute(output, pixels)[..., :height, :width].clone()

    def _compute(self, output: Output, images: Tensor) -> Tensor:
        """Whole multiples, on the device -> a tensor that the next call may overwrite."""
        shape, known = tuple(images.shape), self._shapes[output]
        if shape not in known and len(known) >= COMPILED_SHAPES:
            if not self._told:
                warn(
                    f"torch_compile: more than {COMPILED_SHAPES} shapes of images; further ones are computed "
                    "uncompiled (--backend torch needs no compilation)"
                )
            self._told = True
            uncompiled: Tensor = self._functions[output](images)
            return uncompiled
        if self._device.type == "cuda":
            # what the last call gave was copied and may be overwritten
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        limits = torch._dynamo.config.patch(recompile_limit=_PROGRAMS, accumulated_recompile_limit=4 * _PROGRAMS)
        with compiling(_NAME, self._spec.variant), limits:
            found: Tensor = self._compiled[output](images)
        known.add(shape)
        return found
