"""What an exported file says of itself: the model file's JSON, and what was exported.

In: a model's spec. Out: one JSON string under the key ``refineseg``, the same in ONNX, OpenVINO and torch files.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refineseg.errors import ConfigError, ImageSizeError, ModelFileError
from refineseg.networks.model_spec import ModelSpec, read_json
from refineseg.runtimes.table import OUTPUTS, Output

KEY = "refineseg"
"""Where the description stands in a file's metadata."""
INPUT = "images"
"""Name of the pixels that a file takes."""


@dataclass(frozen=True)
class Description:
    """An exported file's model, outputs, precision and size.

    Args:
        spec: Variant, classes, preprocessing, provenance, licence.
        outputs: What the file gives, in its order.
        precision: ``float32``, or ``int8`` for quantised convolutions.
        size_hw: The one height and width it takes; None: any.
    """

    spec: ModelSpec
    outputs: tuple[Output, ...] = OUTPUTS
    precision: str = "float32"
    size_hw: tuple[int, int] | None = None

    def to_text(self) -> str:
        """As JSON."""
        export: dict[str, Any] = {
            "outputs": list(self.outputs),
            "precision": self.precision,
            "size_hw": self.size_hw,
        }
        return json.dumps({**self.spec.to_json(), "export": export})

    @classmethod
    def from_text(cls, text: str | None, path: Path) -> Description:
        """From the metadata of a file.

        Raises:
            ModelFileError: The file has none, or it is damaged.
        """
        if not text:
            raise ModelFileError(
                f"expected a file that refineseg exported, got {path}, whose metadata has no entry {KEY!r}; export the "
                "model again with `refineseg export`"
            )
        try:
            header = read_json(text, path)
            export = header["export"]
            size_hw = None if export["size_hw"] is None else _size_of(export["size_hw"])
            outputs = tuple(known for name in export["outputs"] for known in OUTPUTS if known == name)
            return cls(ModelSpec.from_json(header), outputs, str(export["precision"]), size_hw)
        except (ValueError, ArithmeticError, LookupError, TypeError, AttributeError, ModelFileError) as error:
            raise ModelFileError(
                f"expected the description of a model in {path}, which is damaged ({error!r:.300})"
            ) from error

    def check_file(self, given: Collection[str], path: Path) -> None:
        """Refuse a file that does not give what it says.

        Raises:
            ModelFileError: An output is missing, or it says of none.
        """
        if not self.outputs or not set(self.outputs) <= set(given):
            raise ModelFileError(
                f"expected a file that gives {' and '.join(self.outputs) or 'a class map'}, got {path}, which gives "
                f"{', '.join(sorted(given)) or 'nothing'}; export the model again with `refineseg export`"
            )

    def check_result(self, found: Any, output: Output, shape: tuple[int, ...], path: Path | str) -> None:  # noqa: ANN401
        """Refuse what a file computed, if it is not what it should be: its program may be that of another network.

        Args:
            found: Array or tensor that the file gave.
            output: Output that it is.
            shape: Shape of the pixels, (N, C, H, W).
            path: Names the file in the message.

        Raises:
            ModelFileError: It has another shape, or classes that there are not.
        """
        count, (number, _, *size_hw) = self.spec.class_info.num_classes, shape
        wanted = (number, *size_hw) if output == "class_map" else (number, count, *size_hw)
        fits = tuple(found.shape) == wanted
        if not fits or (output == "class_map" and not all(0 <= int(end) < count for end in (found.min(), found.max()))):
            raise ModelFileError(
                f"expected {output} of {wanted} for {count} classes from {path}, got "
                f"{'other classes' if fits else tuple(found.shape)}; the file is damaged: export the model again"
            )

    def check(self, wanted: Output, dtype: str, shape: tuple[int, ...], path: Path | str) -> None:
        """Refuse what a file cannot do: its runtime would fail in its own words, or read other memory.

        Args:
            wanted: The output that is asked for.
            dtype: Type of the pixels; ``uint8`` is right.
            shape: Shape of the pixels; (N, C, H, W) is right.
            path: Names the file in the message.

        Raises:
            ConfigError: It does not give this output, takes other channels, or one image at a time.
            ImageSizeError: It takes another size.
        """
        self._check_output(wanted, path)
        channels = self.spec.preprocessing.in_channels
        if dtype != "uint8" or len(shape) != 4 or shape[1] != channels or 0 in shape:
            raise ConfigError(
                f"expected uint8 pixels of shape (N, {channels}, H, W) for {path}, got {dtype} of {tuple(shape)}"
            )
        size_hw = (shape[2], shape[3])
        if self.size_hw is not None and self.size_hw != size_hw:
            own, got = (f"{height}x{width}" for height, width in (self.size_hw, size_hw))
            raise ImageSizeError(
                f"expected images of {own} pixels for {path}, which was exported for that size, got {got}; resize the "
                f"images, or {self._for_every_size()}"
            )
        self._check_batch(shape[0], path)

    def check_use(self, path: Path | str, *, scored: bool, resized: bool, batch_size: int) -> None:
        """Refuse what a file does with no image, before one is read; :meth:`check` refuses the rest.

        Args:
            path: Names the file in the message.
            scored: Whether more than classes is wanted: probabilities, or a mean of several views.
            resized: Whether images are brought to other scales in front of it.
            batch_size: Images at a time.

        Raises:
            ConfigError: It gives no logits, or takes one size, or one image at a time.
        """
        if scored:
            self._check_output("logits", path)
        if self.size_hw is not None and resized:
            raise ConfigError(
                f"expected images at their own size for {path}, which was exported for one size, got other --scales; "
                f"leave out --scales, or {self._for_every_size()}"
            )
        self._check_batch(batch_size, path)

    def _check_output(self, wanted: Output, path: Path | str) -> None:
        if wanted not in self.outputs:
            raise ConfigError(
                f"expected a file that gives {wanted}, got {path}, which gives {' and '.join(self.outputs)}; export it "
                f"with --outputs {','.join(OUTPUTS)}"
            )

    def _check_batch(self, count: int, path: Path | str) -> None:
        if self.size_hw is not None and count != 1:
            raise ConfigError(
                f"expected one image at a time for {path}, which was exported for one size, got {count}; leave out "
                f"--batch-size, or {self._for_every_size()}"
            )

    def _for_every_size(self) -> str:
        if self.spec.resizes:  # and then an export without --size is refused
            return "use the model file (.safetensors), which takes every size"
        return "export without --size"


def _size_of(stored: Any) -> tuple[int, int]:  # noqa: ANN401 - JSON
    """Two whole numbers of at least 1, or an error of Python's."""
    height, width = stored
    if type(height) is not int or type(width) is not int or min(height, width) < 1:
        raise ValueError(f"a size of {stored!r:.80}")
    return height, width
