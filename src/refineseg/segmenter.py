"""The model: raw ``uint8`` pixels in, logits at image size out; and its one-file form.

In: images (N, C, H, W) uint8 of any height and width. Out: logits (N, K, H, W). Normalisation, padding to what the
encoder needs, the network, the final enlargement and the cropping are :meth:`Segmenter.forward`, so that training,
evaluation and prediction cannot disagree. A model file (safetensors, never pickle) holds everything needed to use it.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from refineseg._version import __version__
from refineseg.class_info import ClassInfo
from refineseg.errors import ConfigError, ModelFileError
from refineseg.networks.fused import fuse
from refineseg.networks.variants import NetworkOptions, build_network
from refineseg.preprocessing import Preprocessing
from refineseg.printing import warn
from refineseg.resize import resize_twice
from refineseg.scoring import class_map_of, class_map_of_enlarged

FORMAT = 1
_KEY = "refineseg"

SHIPPED: dict[str, str] = {"camvid": "camvid.safetensors", "camvid_small": "camvid_small.safetensors"}
"""Models inside the package: name -> file under ``refineseg/weights``, with a model card ``<name>.md`` beside it."""


@dataclass(frozen=True)
class ModelSpec:
    """Everything about a model that is not a tensor.

    Args:
        variant: Network name, see ``refineseg.VARIANTS``.
        class_info: The classes of the logits.
        preprocessing: Normalisation the weights were trained with.
        options: What the weights ask of the network.
        provenance: Where the weights come from: version, recipe, data, metrics, seed.
        licence: Of the weights.

    Raises:
        ConfigError: Encoder options or a provenance that JSON cannot hold, so that no model file could.
    """

    variant: str
    class_info: ClassInfo
    preprocessing: Preprocessing
    options: NetworkOptions = field(default_factory=NetworkOptions)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    licence: str = ""

    def __post_init__(self) -> None:
        # through JSON, so that a model is the same before and after its file
        encoder_options = _plain("encoder_options", self.options.encoder_options)
        object.__setattr__(self, "options", replace(self.options, encoder_options=encoder_options))
        object.__setattr__(self, "provenance", _plain("provenance", self.provenance))

    def to_json(self) -> dict[str, Any]:
        """The header of a model file."""
        return {
            "format": FORMAT,
            "variant": self.variant,
            "class_info": self.class_info.to_json(),
            "preprocessing": self.preprocessing.to_json(),
            "network": asdict(self.options),
            "provenance": {"version": __version__, **self.provenance},
            "licence": self.licence,
        }

    @classmethod
    def from_json(cls, header: Mapping[str, Any]) -> ModelSpec:
        """From the header of a model file.

        Raises:
            ModelFileError: Another format, or a field is missing or wrong.
        """
        if header.get("format") != FORMAT:
            raise ModelFileError(
                f"expected model file format {FORMAT}, got {header.get('format')!r}; "
                "it was written by another version of refineseg, use that one"
            )
        try:
            network, variant, licence = header["network"], header["variant"], header["licence"]
            if not isinstance(variant, str) or not isinstance(licence, str):
                raise TypeError(f"variant {variant!r} and licence {licence!r} must be strings")
            return cls(
                variant=variant,
                class_info=ClassInfo.from_json(header["class_info"]),
                preprocessing=Preprocessing.from_json(header["preprocessing"]),
                options=NetworkOptions(**network),
                provenance=header["provenance"],
                licence=licence,
            )
        except (KeyError, TypeError, ConfigError) as error:
            raise ModelFileError(f"expected a complete header, but {error!r} is missing or wrong in it") from error


def _plain(name: str, value: Mapping[str, Any]) -> dict[str, Any]:
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(value)))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"expected JSON values in {name}, got {value!r} ({error})") from error
    return plain


class Segmenter(nn.Module):
    """A network with its classes and its preprocessing.

    Args:
        spec: What the model is; the network is built from it.
        pretrained: Start the encoder from ImageNet weights, the library's or those in a local file.

    Raises:
        ConfigError: The spec names no network, or its weights cannot be had.

    Example:
        >>> import refineseg, torch
        >>> segmenter = refineseg.build("refinenet_lw_mobilenetv2", num_classes=5)
        >>> segmenter(torch.zeros(1, 3, 33, 50, dtype=torch.uint8)).shape
        torch.Size([1, 5, 33, 50])
    """

    def __init__(self, spec: ModelSpec, *, pretrained: bool | Path = False) -> None:
        super().__init__()
        self.spec = spec
        self.network = build_network(
            spec.variant,
            spec.class_info.num_classes,
            in_channels=spec.preprocessing.in_channels,
            pretrained=pretrained,
            options=spec.options,
        )
        self._is_fused = False
        self._to_channels_last()
        self.eval()

    @property
    def class_info(self) -> ClassInfo:
        """The classes of the logits."""
        return self.spec.class_info

    def forward(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n k h w"]:
        """Logits at image size.

        Args:
            images: ``uint8`` pixels 0..255, any height and width from 1 up, channels as the model was built (RGB).

        Raises:
            ConfigError: Not ``uint8``, not four-dimensional, or other channels.
        """
        logits, inner_hw, padded_hw = self._scores(images, self.spec.preprocessing)
        return resize_twice(logits, padded_hw, inner_hw, (images.shape[2], images.shape[3]))

    def class_map(self, images: UInt8[Tensor, "n c h w"]) -> Integer[Tensor, "n h w"]:
        """The likeliest class of every pixel, equal to the argmax of the logits, which are made a few rows at a time.

        Takes and refuses what :meth:`forward` does.
        """
        logits, inner_hw, padded_hw = self._scores(images, self.spec.preprocessing)
        size_hw = (images.shape[2], images.shape[3])
        if inner_hw != size_hw:  # the image was enlarged, so the logits are resized twice
            return class_map_of(resize_twice(logits, padded_hw, inner_hw, size_hw))
        return class_map_of_enlarged(logits, padded_hw, size_hw)

    def output_logits(
        self, images: UInt8[Tensor, "n c h w"], *, enlarged_already: bool = False
    ) -> Float[Tensor, "n k h2 w2"]:
        """What the network gives, at its own resolution, a quarter of its input in the papers.

        The RefineNet authors' loss and evaluation start from it.

        Args:
            images: Pixels 0..255.
            enlarged_already: Leave out the enlargement of the images that the model's preprocessing may have.
        """
        preprocessing = self.spec.preprocessing
        if enlarged_already:
            preprocessing = replace(preprocessing, input_scale=1.0)
        logits, inner_hw, padded_hw = self._scores(images, preprocessing)
        rows, columns = (  # without what only padding was seen by
            math.ceil(logits.shape[2 + axis] * inner_hw[axis] / padded_hw[axis]) for axis in (0, 1)
        )
        return logits[:, :, :rows, :columns]

    def _scores(self, images: Tensor, preprocessing: Preprocessing) -> tuple[Tensor, tuple[int, int], tuple[int, int]]:
        """The network's output, and the size of its input without and with padding."""
        channels = self.spec.preprocessing.in_channels
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != channels or not images.numel():
            raise ConfigError(
                f"expected uint8 pixels 0..255 of shape (N, {channels}, H, W), got {images.dtype} of shape "
                f"{tuple(images.shape)}; images enter a Segmenter as they are, without normalisation"
            )
        dtype = next(self.network.parameters()).dtype
        x = preprocessing(images, dtype=dtype).contiguous(memory_format=torch.channels_last)
        height, width = x.shape[2:]
        encoder = self.network.encoder
        if self.spec.options.padded or not encoder.takes_any_size:  # the original networks take images as they are
            multiple = int(encoder.size_multiple)  # type: ignore[arg-type]
            pad_height, pad_width = -height % multiple, -width % multiple
            if pad_height or pad_width:  # repeat the border: any size from 1x1 up, and no edge that is not in the image
                x = F.pad(x, (0, pad_width, 0, pad_height), mode="replicate")
        return self.network(x), (height, width), (x.shape[2], x.shape[3])

    def fuse(self) -> Segmenter:
        """Rewrite the network for inference, with fewer operations and the same results up to rounding; returns itself.

        It cannot be saved or trained any more.
        """
        self.network = fuse(self.network)
        self._to_channels_last()
        self._is_fused = True
        return self

    @property
    def is_fused(self) -> bool:
        """Whether :meth:`fuse` was called."""
        return self._is_fused

    def _to_channels_last(self) -> None:
        # Twice as fast on CPUs and what tensor cores want; results are the same up to rounding.
        for parameter in self.parameters():
            if parameter.ndim == 4:  # some backbones have filters of five dimensions, which know no such order
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)

    def save(self, path: str | Path, *, half: bool = False) -> None:
        """Write the model file (safetensors with one JSON string in its header), beside and then renamed.

        Args:
            path: Where; an existing file is replaced.
            half: Store filters in half precision, half the size; norms and biases stay in single precision.

        Raises:
            ModelFileError: The file cannot be written; nothing is left behind, and an existing file stays as it was. Or
                the segmenter was rewritten for inference.
        """
        if self._is_fused:
            raise ModelFileError("expected a segmenter as it was loaded, got one after fuse(); save it before that")
        path = Path(path)
        tensors = {
            name: (t.to(torch.float16) if half and t.is_floating_point() and t.ndim > 1 else t).contiguous().cpu()
            for name, t in self.network.state_dict().items()
        }
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
            os.close(handle)
            try:
                save_file(tensors, temporary, metadata={_KEY: json.dumps(self.spec.to_json())})
                Path(temporary).chmod(0o644)
                Path(temporary).replace(path)
            finally:
                Path(temporary).unlink(missing_ok=True)
        except (OSError, SafetensorError) as error:
            raise ModelFileError(
                f"expected to write the model file {path}, got {error}; choose a folder with room that may be written"
            ) from error

    def with_provenance(self, provenance: Mapping[str, Any]) -> Segmenter:
        """Add facts about where the weights come from (JSON values); returns this segmenter."""
        self.spec = replace(self.spec, provenance={**self.spec.provenance, **provenance})
        return self


def build(
    variant: str,
    *,
    num_classes: int | None = None,
    class_info: ClassInfo | None = None,
    in_channels: int = 3,
    align_corners: bool = False,
    pretrained: bool | Path = False,
    encoder_options: Mapping[str, Any] | None = None,
) -> Segmenter:
    """A new, untrained segmenter.

    Args:
        variant: A name in ``refineseg.VARIANTS``, or ``refinenet:<timm name>`` / ``refinenet_lw:<timm name>``.
        num_classes: Classes without names; or give ``class_info``.
        class_info: Classes with names and colours.
        in_channels: Image channels, 3 for RGB.
        align_corners: Of the enlargements inside the network, and images are not padded; False unless original weights
            are to be loaded.
        pretrained: Start the encoder from ImageNet weights (network or local cache), or from those in a local file.
        encoder_options: Further options of ``timm.create_model``.

    Raises:
        ConfigError: A wrong name or option, or weights that cannot be had.
    """
    if class_info is None:
        if num_classes is None:
            raise ConfigError("expected num_classes or class_info, got neither")
        if num_classes < 1:
            raise ConfigError(f"expected num_classes of at least 1, got {num_classes}")
        class_info = ClassInfo.generic(num_classes)
    elif num_classes not in (None, class_info.num_classes):
        raise ConfigError(f"expected num_classes to fit class_info ({class_info.num_classes}), got {num_classes}")
    preprocessing = Preprocessing.imagenet(in_channels)
    options = NetworkOptions(align_corners, padded=not align_corners, encoder_options=encoder_options or {})
    spec = ModelSpec(variant, class_info, preprocessing, options)
    return Segmenter(spec, pretrained=pretrained)


def _resolve(model: str | Path) -> Path:
    """A shipped name or a path -> the file."""
    path = Path(model)
    if str(model) in SHIPPED and not path.suffix:
        return Path(str(resources.files("refineseg") / "weights" / SHIPPED[str(model)]))
    if not path.is_file():
        raise ModelFileError(
            f"expected a shipped model ({', '.join(SHIPPED)}) or a .safetensors file, got {str(model)!r}, "
            f"{'but there is no such file' if path.suffix else 'which is neither'}"
        )
    return path


def _read(path: Path) -> tuple[ModelSpec, dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"expected a safetensors file, got {path}, which cannot be read ({error})") from error
    if _KEY not in metadata:
        raise ModelFileError(
            f"expected a refineseg model file, got {path}, whose header has no {_KEY!r} entry; "
            "original PyTorch checkpoints are read by refineseg.load_original"
        )
    try:
        header = json.loads(metadata[_KEY])
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"expected JSON in the header of {path}, got {error}") from error
    if not isinstance(header, dict):
        raise ModelFileError(f"expected the fields of a model in the header of {path}, got {header!r:.80}")
    try:
        return ModelSpec.from_json(header), tensors
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from error


def _check_tensors(path: Path, own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], spec: ModelSpec) -> None:
    missing, unused = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    if missing or unused:
        raise ModelFileError(
            f"{path} does not fit {spec.variant}: missing tensors {missing[:5] or 'none'}, unused "
            f"{unused[:5] or 'none'} ({len(missing)} and {len(unused)} in all)"
        )
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise ModelFileError(
                f"{path}: expected {name} of shape {tuple(own[name].shape)} for {spec.variant} with "
                f"{spec.class_info.num_classes} classes, got {tuple(tensor.shape)}"
            )


def load(model: str | Path) -> Segmenter:
    """Load a model: a shipped name (``camvid``) or a ``.safetensors`` file written by refineseg.

    Returns:
        The segmenter in evaluation mode, single precision, on the CPU.

    Raises:
        ModelFileError: No such model, an unknown format, or any tensor missing, unused or of another shape.
    """
    path = _resolve(model)
    spec, tensors = _read(path)
    if spec.licence:
        warn(f"model {model}: licence of the weights: {spec.licence}")
    try:
        segmenter = Segmenter(spec)
    except ConfigError as error:
        raise ModelFileError(f"{path}: its network cannot be built here: {error}") from error
    own = segmenter.network.state_dict()
    _check_tensors(path, own, tensors, spec)
    segmenter.network.load_state_dict({name: t.to(own[name].dtype) for name, t in tensors.items()})
    return segmenter


def load_spec(model: str | Path) -> ModelSpec:
    """What a model file says of itself, without building the network."""
    return _read(_resolve(model))[0]
