"""The model: raw ``uint8`` pixels in, logits at image size out; and its one-file form.

In: images (N, C, H, W) uint8 of any height and width. Out: logits (N, K, H, W). Normalisation, padding to what the
encoder needs, the network, the final enlargement and the cropping are :meth:`Segmenter.forward`, so that training,
evaluation and prediction cannot disagree. A model file (safetensors, never pickle) holds everything needed to use it.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer, UInt8
from torch import Tensor, nn

from refineseg.class_info import ClassInfo
from refineseg.errors import ConfigError, ModelFileError
from refineseg.networks.building import at_most, build_network, preprocessing_of
from refineseg.networks.fused import fuse
from refineseg.networks.hub import HUB_FILE, Hub, write_page
from refineseg.networks.model_names import KEY, model_file, model_target
from refineseg.networks.model_spec import ModelSpec as ModelSpec
from refineseg.networks.model_spec import read_json
from refineseg.networks.variants import NetworkOptions
from refineseg.networks.weight_files import read_header, read_tensors, write_tensors
from refineseg.preprocessing import Preprocessing
from refineseg.resize import resize_twice
from refineseg.scoring import class_map_of, class_map_of_enlarged
from refineseg.terminal.printing import warn


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

    def __init__(self, spec: ModelSpec, *, pretrained: bool | str | Path = False) -> None:
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

    def forward(self, images: UInt8[Tensor, "n c h w"], *, resized_already: bool = False) -> Float[Tensor, "n k h w"]:
        """Logits at image size.

        Args:
            images: ``uint8`` pixels 0..255, any height and width from 1 up, channels as the model was built (RGB).
            resized_already: Leave out the resizing of the images that the model's preprocessing may have.

        Raises:
            ConfigError: Not ``uint8``, not four-dimensional, or other channels.
        """
        logits, inner_hw, padded_hw = self._scores(images, self._preprocessing(resized_already=resized_already))
        return resize_twice(logits, padded_hw, inner_hw, (images.shape[2], images.shape[3]))

    def class_map(self, images: UInt8[Tensor, "n c h w"]) -> Integer[Tensor, "n h w"]:
        """The likeliest class of every pixel, equal to the argmax of the logits, which are made a few rows at a time.

        Takes and refuses what :meth:`forward` does.
        """
        logits, inner_hw, padded_hw = self._scores(images, self.spec.preprocessing)
        return enlarged_classes(logits, padded_hw, inner_hw, (images.shape[2], images.shape[3]))

    def output_logits(
        self, images: UInt8[Tensor, "n c h w"], *, resized_already: bool = False
    ) -> Float[Tensor, "n k h2 w2"]:
        """What the network gives, at its own resolution, a quarter of its input in the papers.

        The RefineNet authors' loss and evaluation start from it.

        Args:
            images: Pixels 0..255.
            resized_already: Leave out the resizing of the images that the model's preprocessing may have.
        """
        logits, inner_hw, padded_hw = self._scores(images, self._preprocessing(resized_already=resized_already))
        rows, columns = (  # without what only padding was seen by
            math.ceil(logits.shape[2 + axis] * inner_hw[axis] / padded_hw[axis]) for axis in (0, 1)
        )
        return logits[:, :, :rows, :columns]

    def _preprocessing(self, *, resized_already: bool) -> Preprocessing:
        preprocessing = self.spec.preprocessing
        return replace(preprocessing, input_scale=1.0) if resized_already else preprocessing

    def _scores(self, images: Tensor, preprocessing: Preprocessing) -> tuple[Tensor, tuple[int, int], tuple[int, int]]:
        """The network's output, and the size of its input without and with padding."""
        x, inner_hw = self.network_input(images, preprocessing)
        return self.network(x), inner_hw, (x.shape[2], x.shape[3])

    def network_input(
        self, images: UInt8[Tensor, "n c h w"], preprocessing: Preprocessing | None = None
    ) -> tuple[Float[Tensor, "n c h2 w2"], tuple[int, int]]:
        """What the network gets of images, and its size without padding.

        Takes and refuses what :meth:`forward` does.

        Args:
            images: Pixels 0..255.
            preprocessing: Another one than the model's.
        """
        preprocessing = preprocessing or self.spec.preprocessing
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
        return x, (height, width)

    def fuse(self) -> Segmenter:
        """Rewrite the network for inference, with fewer operations and the same results up to rounding; returns itself.

        It cannot be saved or trained any more.
        """
        if not self._is_fused:
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

    def digest(self) -> str:
        """SHA-256 of all that a model is, as hexadecimal digits: its description and every tensor."""
        digest = hashlib.sha256(json.dumps(self.spec.to_json(), sort_keys=True).encode())
        for name, tensor in sorted(self.network.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def save(self, path: str | Path, *, half: bool = False) -> None:
        """Write the model file (safetensors with one JSON string in its header), beside and then renamed.

        Args:
            path: Path of the file, which ends in ``.safetensors`` or has no ending; an existing one is replaced.
            half: Store filters in half precision, half the size; norms and biases stay in single precision.

        Raises:
            OutputError: The file cannot be written; nothing is left behind, and an existing file stays as it was.
            ModelFileError: The segmenter was rewritten for inference, or has weights that are not finite as stored.
            ConfigError: Another ending.
        """
        if self._is_fused:
            raise ModelFileError("expected a segmenter as it was loaded, got one after fuse(); save it before that")
        tensors = {
            name: (t.to(torch.float16) if half and t.is_floating_point() and t.ndim > 1 else t).contiguous().cpu()
            for name, t in self.network.state_dict().items()
        }
        write_tensors(model_target(path), tensors, {KEY: json.dumps(self.spec.to_json())})

    def save_pretrained(self, folder: str | Path, *, name: str = "") -> None:
        """Write the model file as ``model.safetensors`` and its page into a folder, as a repository of a hub has them.

        Args:
            folder: Folder, which is made.
            name: Name on the page; by default the folder's.

        Raises:
            OutputError: A file cannot be written.
        """
        place = Path(folder)
        self.save(place / HUB_FILE)
        write_page(place, self.spec, name or place.resolve().name)

    def push_to_hub(
        self,
        place: str,
        *,
        private: bool | None = None,
        message: str = "Add a model of refineseg",
        hub: Hub | None = None,
    ) -> str:
        """Store the model on the Hugging Face hub; returns the address of the commit.

        Args:
            place: ``OWNER/NAME``; the repository is made where there is none.
            private: Whether a new repository is private; None: what the owner has set.
            message: First line of the commit.
            hub: Token, branch, another hub; None: the usual ones.

        Raises:
            ModelFileError: The hub refuses it, or cannot be reached.
            MissingExtraError: huggingface_hub is not installed.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, name=place)
            return (hub or Hub()).push(Path(folder), place, private=private, message=message)

    @staticmethod
    def from_pretrained(place: str | Path, *, hub: Hub | None = None) -> Segmenter:
        """See :func:`from_pretrained`, which is this."""
        return from_pretrained(place, hub=hub)

    def with_provenance(self, provenance: Mapping[str, Any]) -> Segmenter:
        """Add facts about where the weights come from (JSON values); returns this segmenter."""
        self.spec = replace(self.spec, provenance={**self.spec.provenance, **provenance})
        return self


def enlarged_classes(
    logits: Float[Tensor, "n k h w"], padded_hw: tuple[int, int], inner_hw: tuple[int, int], size_hw: tuple[int, int]
) -> Integer[Tensor, "n h2 w2"]:
    """The class map of images from what their network gave.

    Args:
        logits: Logits at the network's resolution.
        padded_hw: Size of the network's input.
        inner_hw: The same without padding.
        size_hw: Size of the images.
    """
    if inner_hw != size_hw:  # the image was enlarged, so the logits are resized twice
        return class_map_of(resize_twice(logits, padded_hw, inner_hw, size_hw))
    return class_map_of_enlarged(logits, padded_hw, size_hw)


def build(
    variant: str,
    *,
    num_classes: int | None = None,
    class_info: ClassInfo | None = None,
    in_channels: int = 3,
    align_corners: bool = False,
    pretrained: bool | str | Path = False,
    encoder_options: Mapping[str, Any] | None = None,
) -> Segmenter:
    """A new, untrained segmenter.

    Args:
        variant: A name in ``refineseg.VARIANTS``, or ``refinenet:<timm name>`` / ``refinenet_lw:<timm name>``.
        num_classes: Classes without names; or give ``class_info``.
        class_info: Classes with names and colours.
        in_channels: Image channels, 3 for RGB.
        align_corners: Whether enlargements align corners inside the network, and images are not padded; False unless
            original weights are to be loaded.
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
    preprocessing = preprocessing_of(variant, in_channels)
    options = NetworkOptions(align_corners, padded=not align_corners, encoder_options=encoder_options or {})
    spec = ModelSpec(variant, class_info, preprocessing, options)
    return Segmenter(spec, pretrained=pretrained)


def _read(path: Path) -> tuple[ModelSpec, Mapping[str, tuple[int, ...]]]:
    """What the header says of the model, and the shapes of its tensors."""
    header = read_header(path)
    if KEY not in header.metadata:
        raise ModelFileError(
            f"expected a refineseg model file, got {path}, whose header has no {KEY!r} entry; "
            "original PyTorch checkpoints are read by refineseg.load_original"
        )
    fields = read_json(header.metadata[KEY], path)
    try:
        return ModelSpec.from_json(fields), header.shapes
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from error


def _check_shapes(
    path: Path, own: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], spec: ModelSpec
) -> None:
    missing, unused = sorted(own.keys() - shapes.keys()), sorted(shapes.keys() - own.keys())
    if missing or unused:
        raise ModelFileError(
            f"{path} does not fit {spec.variant}: missing tensors {missing[:5] or 'none'}, unused "
            f"{unused[:5] or 'none'} ({len(missing)} and {len(unused)} in all)"
        )
    for name, shape in shapes.items():
        if tuple(own[name].shape) != shape:
            raise ModelFileError(
                f"{path}: expected {name} of shape {tuple(own[name].shape)} for {spec.variant} with "
                f"{spec.class_info.num_classes} classes, got {shape}"
            )


def _needs_computing(segmenter: Segmenter) -> bool:
    """Whether a network holds tensors that its file does not, so that it cannot stay as it is on the meta device."""
    persistent = segmenter.state_dict().keys()
    attributes = (value for module in segmenter.modules() for value in vars(module).values())
    return any(name not in persistent for name, _ in segmenter.named_buffers()) or any(
        isinstance(value, Tensor) for value in attributes
    )


def load(model: str | Path) -> Segmenter:
    """Load a model: a shipped name (``camvid``) or a ``.safetensors`` file written by refineseg.

    The network is compared with the file's header on the meta device first, so that a small file cannot ask for a
    large network.

    Returns:
        The segmenter in evaluation mode, single precision, on the CPU.

    Raises:
        ModelFileError: No such model, an unknown format, any tensor missing, unused or of another shape, or weights
            that are no finite floating-point numbers.
    """
    if not isinstance(model, str | Path):
        raise ConfigError(f"expected the name of a shipped model or a path, got {type(model).__name__}")
    path = model_file(model)
    spec, shapes = _read(path)
    try:
        with torch.device("meta"), at_most(len(shapes)):
            segmenter = Segmenter(spec)
    except (ConfigError, ArithmeticError, RuntimeError, TypeError, ValueError) as error:
        raise ModelFileError(f"{path}: its network cannot be built here: {str(error) or repr(error):.300}") from error
    _check_shapes(path, segmenter.network.state_dict(), shapes, spec)
    tensors = read_tensors(path)
    if spec.licence:
        warn(f"model {model}: licence of the weights: {spec.licence}")
    if _needs_computing(segmenter):
        segmenter = Segmenter(segmenter.spec)
    own = segmenter.network.state_dict()
    # assigned, because memory for a network on the meta device would be made by code that imports a compiler first
    segmenter.network.load_state_dict(
        {name: tensor.to(own[name].dtype, copy=True) for name, tensor in tensors.items()}, assign=True
    )
    segmenter._to_channels_last()
    return segmenter


def load_spec(model: str | Path) -> ModelSpec:
    """What a model file says of itself, without building the network."""
    return _read(model_file(model))[0]


def from_pretrained(place: str | Path, *, hub: Hub | None = None) -> Segmenter:
    """Load a model from the Hugging Face hub, or from a folder that :meth:`Segmenter.save_pretrained` wrote.

    Args:
        place: ``OWNER/NAME``, or a folder.
        hub: Token, revision, cache, another hub; None: the usual ones.

    Raises:
        ModelFileError: There is no such model, or what :func:`load` refuses.
        MissingExtraError: huggingface_hub is not installed.
    """
    return load((hub or Hub()).find(place))
