"""CUDA graphs: everything a GPU does for one image, recorded once for each shape and then started as one.

In: a segmenter. Out: a :class:`~refineseg.scoring.Scorer`. For small images a GPU computes faster than Python can tell
it what to do next; a graph is told once. Nothing is compiled.

Source: PyTorch's documentation of ``torch.cuda.CUDAGraph`` (warming up on a stream of its own, fixed addresses).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from refineseg.errors import ConfigError
from refineseg.runtimes.compiler import check_sizes
from refineseg.runtimes.sized import SizedScorer
from refineseg.runtimes.table import Output
from refineseg.segmenter import Segmenter

RECORDED_SHAPES = 8
"""Graphs that are kept; the one that was not used for longest makes room. Each holds its own working memory."""

_WARM_UP = 3


@dataclass(frozen=True)
class Recording:
    """A graph and the memory it reads and writes.

    Args:
        replay: Start it.
        images: Where it reads.
        result: Where it writes.
    """

    replay: Callable[[], None]
    images: Tensor
    result: Tensor


def record(function: Callable[[Tensor], Tensor], images: Tensor, *, stream: torch.cuda.Stream) -> Recording:
    """Record a function of one shape.

    Args:
        function: Without anything that the host must know in between.
        images: An example, on the GPU; it is copied.
        stream: Stream of the same GPU, for warming up and recording: libraries keep working memory for each stream.
    """
    own = images.clone()
    stream.wait_stream(torch.cuda.current_stream(own.device))
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP):  # libraries allocate and choose at first
            function(own)
    graph = torch.cuda.CUDAGraph()
    # other threads may use the GPU meanwhile: they decode and upload images
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        result = function(own)
    torch.cuda.current_stream(own.device).wait_stream(stream)
    return Recording(graph.replay, own, result)


class CudaGraphScorer(SizedScorer):
    """A segmenter in CUDA graphs.

    Args:
        segmenter: It is copied, and rewritten with fewer operations.
        device: ``cuda``, ``cuda:1``, ...
        precision: ``float32``, or ``bfloat16`` autocast.

    Raises:
        ConfigError: Another device, or a model that resizes as MATLAB does.
    """

    def __init__(
        self, segmenter: Segmenter, *, device: torch.device, precision: Literal["float32", "bfloat16"] = "float32"
    ) -> None:
        if device.type != "cuda":
            raise ConfigError(f"expected a device of torch_cuda_graphs (cuda), got {device}; use --backend torch")
        check_sizes("torch_cuda_graphs", segmenter)
        super().__init__(segmenter, device=device, precision=precision)
        self._recordings: OrderedDict[tuple[Any, ...], Recording] = OrderedDict()
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def _compute(self, output: Output, images: Tensor) -> Tensor:
        with torch.cuda.device(self._device):
            recording = self._recording(output, images)
            recording.images.copy_(images)
            recording.replay()
            return recording.result  # copied by the caller, which holds the lock

    def _recording(self, output: Output, images: Tensor) -> Recording:
        """The graph of a shape, recorded where there is none."""
        key = (output, *images.shape)
        if key not in self._recordings:
            while len(self._recordings) >= RECORDED_SHAPES:
                torch.cuda.synchronize(self._device)  # the oldest may still be running
                self._recordings.popitem(last=False)
            try:
                self._recordings[key] = record(self._functions[output], images, stream=self._stream)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:  # the host would have to know a value in between
                raise ConfigError(
                    f"expected a network that a CUDA graph can record, got {self._spec.variant} "
                    f"({str(error).splitlines()[0][:160]}); use --backend torch"
                ) from error
        self._recordings.move_to_end(key)
        return self._recordings[key]
