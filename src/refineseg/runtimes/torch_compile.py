"""``torch.compile``: a segmenter as code of this machine, made when the first image of a shape comes.

In: a segmenter. Out: a :class:`~refineseg.scoring.Scorer`. The whole function is compiled, from pixels to classes, so
that normalisation, the last enlargement and argmax become one loop; on CUDA with CUDA graphs inside.

One program serves one shape. Programs for all sizes were compiled anew for nearly every shape on a CPU: convolutions
choose their kernel by the number of values, and the choice becomes a condition of the program.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from refineseg.runtimes.compiler import check_compiler, check_sizes, compiling
from refineseg.runtimes.sized import SizedScorer
from refineseg.runtimes.table import Output
from refineseg.segmenter import Segmenter
from refineseg.terminal.printing import warn

COMPILED_SHAPES = 4
"""Shapes that are compiled, of each output; images of further ones are computed by the same network uncompiled."""

_NAME = "torch_compile"
_PROGRAMS = 256  # of one function in one process, all scorers together: PyTorch stops at 8 of its own accord


class CompiledScorer(SizedScorer):
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
        super().__init__(segmenter, device=device, precision=precision)
        on_cuda = device.type == "cuda"
        # On CPUs constant weights are laid out once for the convolutions; on CUDA kernels are chosen by trial.
        how: dict[str, Any] = {"mode": "max-autotune"} if on_cuda else {"options": {"freezing": True}}
        self._compiled: dict[Output, Any] = {
            name: torch.compile(function, fullgraph=True, dynamic=False, **how)
            for name, function in self._functions.items()
        }
        self._shapes: dict[Output, set[tuple[int, ...]]] = {name: set() for name in self._functions}
        self._told = False

    def _compute(self, output: Output, images: Tensor) -> Tensor:
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
