"""The function that is exported: uint8 pixels in, class map or logits out, as one traced program.

In: a :class:`~refineseg.segmenter.Segmenter`. Out: a ``torch.export`` program for any batch, height and width (or for
one size), from which every file format is written. Normalisation, padding, enlargement, cropping and argmax are inside,
so a runtime needs nothing of this package.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jaxtyping
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refineseg.devices import is_out_of_memory
from refineseg.errors import ConfigError, told
from refineseg.networks.fused import enlarged_class_map, separate_pooling
from refineseg.networks.lite import assume_even_sizes
from refineseg.networks.variants import find_variant, output_stride
from refineseg.runtimes.table import OUTPUTS, Output
from refineseg.scoring import class_dtype, class_map_of
from refineseg.segmenter import Segmenter

_EXAMPLE_HW = (97, 161)


class InferenceGraph(nn.Module):
    """A segmenter's function without a branch on sizes, where it can be, so that one trace serves every size.

    Args:
        segmenter: It is copied, and rewritten with fewer operations.
        outputs: What to give, in this order.
        rewritten: False: the network as it is, its logits enlarged and then the argmax, as a plain export does it.
        two_passes: Pool rows and then columns.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        *,
        outputs: tuple[Output, ...],
        rewritten: bool = True,
        two_passes: bool = False,
    ) -> None:
        super().__init__()
        self.segmenter = copy.deepcopy(segmenter).eval()
        encoder, options = segmenter.network.encoder, segmenter.spec.options
        self.padded = options.padded or not encoder.takes_any_size
        if self.padded:  # and then a trace need not ask whether sizes are odd, which takes minutes
            # before fuse(), which writes that question down for good
            assume_even_sizes(self.segmenter)
        if rewritten and not self.segmenter.is_fused:
            self.segmenter.fuse()
        if two_passes:
            separate_pooling(self.segmenter.network.decoder)
        self.outputs, self.any_size = outputs, takes_any_size(segmenter)
        two_scale = find_variant(segmenter.spec.variant).two_scale  # whose logits are at 1.2 / 4 of the image
        self.enlarges_logits = two_scale or not rewritten
        self.multiple = int(encoder.size_multiple)  # type: ignore[arg-type]
        self.stride = output_stride(segmenter.spec.variant)
        self.class_dtype = class_dtype(segmenter.class_info.num_classes - 1)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(N, C, H, W) uint8 -> the outputs."""
        if not self.any_size:
            logits = self.segmenter(images)
            results = {"logits": logits, "class_map": class_map_of(logits)}
        else:
            results = self._at_any_size(images)
        results["class_map"] = results["class_map"].to(self.class_dtype)
        results["logits"] = results["logits"].float()
        return tuple(results[name] for name in self.outputs)

    def _at_any_size(self, images: Tensor) -> dict[str, Tensor]:
        height, width = images.shape[2:]
        x = self.segmenter.spec.preprocessing(images, dtype=torch.float32)
        if not self.padded:
            logits = F.interpolate(self.segmenter.network(x), size=(height, width), mode="bilinear")
            return {"logits": logits, "class_map": class_map_of(logits)}
        x = F.pad(x, (0, -width % self.multiple, 0, -height % self.multiple), mode="replicate")
        scores = self.segmenter.network(x)  # (N, K, H' / stride, W' / stride)
        if not self.enlarges_logits:
            # All of them: what changes is how torch.export writes their number, which it divides by itself again and
            # again. The numbers that are divided are positive, for ONNX rounds towards zero.
            more, each = self.multiple - 1, self.multiple // self.stride
            blocks = ((side + more) // self.multiple * each for side in (height, width))
            rows, columns = (torch.arange(length, device=images.device) for length in blocks)
            scores = scores.index_select(2, rows).index_select(3, columns)
        logits = F.interpolate(scores, size=x.shape[2:], mode="bilinear")
        classes = class_map_of(logits) if self.enlarges_logits else enlarged_class_map(scores, self.stride)
        # not slices: torch.export would ask whether they are the whole tensor, and hold the answer for all sizes
        rows, columns = (torch.arange(side, device=images.device) for side in (height, width))
        return {
            "logits": logits.index_select(2, rows).index_select(3, columns),
            "class_map": classes.index_select(1, rows).index_select(2, columns),
        }


@contextmanager
def traceable() -> Iterator[None]:
    """Shape annotations are not checked meanwhile: the checks cannot be traced."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


def takes_any_size(segmenter: Segmenter) -> bool:
    """Whether one program can serve every size: images that are resized in front of the network need fixed sizes."""
    return not segmenter.spec.resizes


def export_program(
    segmenter: Segmenter,
    *,
    outputs: tuple[Output, ...] = OUTPUTS,
    size_hw: tuple[int, int] | None = None,
    rewritten: bool = True,
    two_passes: bool = False,
) -> Any:  # noqa: ANN401 - torch.export.ExportedProgram
    """Trace a segmenter.

    Args:
        segmenter: On the CPU, in single precision; it stays as it is.
        outputs: What the program gives.
        size_hw: Height and width it is for (the batch then is 1); None: any.
        rewritten: With fewer operations; False: the network as it is, for comparison.
        two_passes: Pool rows and then columns: faster in OpenVINO, slower in PyTorch.

    Raises:
        ConfigError: The network cannot be traced, or only for a fixed size, is in another precision, or the size does
            not fit into memory.
    """
    if size_hw is None and not takes_any_size(segmenter):
        raise ConfigError(
            "expected a fixed size for a model that resizes images in front of the network, or features as the "
            "RefineNet authors' code does; add --size HEIGHTxWIDTH"
        )
    others = {value.dtype for value in segmenter.state_dict().values() if value.is_floating_point()} - {torch.float32}
    if others:
        raise ConfigError(
            f"expected a segmenter in single precision, torch.float32, got {', '.join(sorted(map(str, others)))}; call "
            "segmenter.float() before"
        )
    channels = segmenter.spec.preprocessing.in_channels
    graph = InferenceGraph(segmenter, outputs=outputs, rewritten=rewritten, two_passes=two_passes).eval().cpu()
    any_length = torch.export.Dim.DYNAMIC
    shape = (1 if size_hw else 2, channels, *(size_hw or _EXAMPLE_HW))  # a batch of one would be taken for a constant
    sizes = None if size_hw else ({0: any_length, 2: any_length, 3: any_length},)
    try:
        with traceable(), torch.no_grad():
            return torch.export.export(graph, (torch.zeros(shape, dtype=torch.uint8),), dynamic_shapes=sizes)
    except Exception as error:  # torch.export fails with any kind of exception
        if is_out_of_memory(error):
            height, width = shape[2:]
            raise ConfigError(
                f"expected a size that fits into memory, got {height}x{width} pixels; choose less ({told(error)})"
            ) from error
        hint = "add --size HEIGHTxWIDTH" if size_hw is None else "use another encoder"
        reason = f"{type(error).__name__}: {error}".strip().splitlines()[0][:160]
        raise ConfigError(
            f"expected a network that torch.export can trace, got {segmenter.spec.variant} ({reason}); {hint}"
        ) from error
